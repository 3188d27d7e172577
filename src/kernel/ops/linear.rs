//! Products with frozen weights as graph ops.

use super::{with_scratch, Matrix};
use crate::error::{Error, Kind, Result};
use crate::ir::WeightInfo;
use crate::kernel::{self, Rows, RowsMut, Share, Weight};
use crate::runtime::{Call, Kernel, Operand, WeightData};

fn weight(info: &WeightInfo, data: &WeightData) -> Result<Weight> {
    frozen_weight(info, data, [info.ne[0] as usize, info.ne[1] as usize])
}

/// A frozen weight whose rows, over all its outer axes, are those of `shape`.
pub(super) fn frozen_weight(info: &WeightInfo, data: &WeightData, shape: [usize; 2]) -> Result<Weight> {
    if data.data.is_null() {
        let message = format!("{}: the weight lies on a device, where kernels of the CPU cannot read it", info.name);
        return Err(Error::new(Kind::Unsupported, message));
    }
    // SAFETY: the runtime keeps the weight's rows, of this type and stride, unchanged as long as the model lives, and an
    // engine, which owns every graph, holds the model.
    unsafe { Weight::new(info.ty, shape, data.row_bytes, data.data, data.to_float) }
}

/// x \[K, M\] → W·x \[N, M\].
pub fn linear(info: &WeightInfo, data: &WeightData) -> Result<Kernel> {
    weight(info, data).map(frozen_product)
}

/// dy \[N, M\] → Wᵀ·dy \[K, M\].
pub fn linear_back(info: &WeightInfo, data: &WeightData) -> Result<Kernel> {
    weight(info, data).map(frozen_product_back)
}

/// [`linear`] with a weight that lies anywhere.
pub fn frozen_product(weight: Weight) -> Kernel {
    Box::new(move |call: &Call| {
        let (x, y) = operands(call)?;
        with_scratch(kernel::scratch_floats(&weight), |scratch| {
            // SAFETY: operands of a running graph; the kernel checks shapes and writes its share of the result only.
            unsafe { kernel::forward(&weight, x.0, y.0, x.1, scratch, share(call)) }
        })
    })
}

/// [`linear_back`] with a weight that lies anywhere.
pub fn frozen_product_back(weight: Weight) -> Kernel {
    Box::new(move |call: &Call| {
        let (dy, dx) = operands(call)?;
        with_scratch(kernel::scratch_floats(&weight), |scratch| {
            // SAFETY: as above.
            unsafe { kernel::transposed(&weight, dy.0, dx.0, dy.1, scratch, share(call)) }
        })
    })
}

/// A \[K, N\] in F32, x \[K, M\] → A·x \[N, M\]: the same product with a matrix of the graph, such as a LoRA factor.
pub fn product() -> Kernel {
    Box::new(|call: &Call| {
        let (weight, (x, y)) = (factor(call.src(0))?, operands_at(call, 1)?);
        // SAFETY: as above; F32 needs no scratch.
        unsafe { kernel::forward(&weight, x.0, y.0, x.1, &mut [], share(call)) }
    })
}

/// A \[K, N\] in F32, dy \[N, M\] → Aᵀ·dy \[K, M\].
pub fn product_back() -> Kernel {
    Box::new(|call: &Call| {
        let (weight, (dy, dx)) = (factor(call.src(0))?, operands_at(call, 1)?);
        // SAFETY: as above.
        unsafe { kernel::transposed(&weight, dy.0, dx.0, dy.1, &mut [], share(call)) }
    })
}

pub(super) fn factor(operand: Operand) -> Result<Weight> {
    let a = Matrix::of(operand)?;
    // SAFETY: a live operand of the running graph, dropped before the call ends.
    unsafe { Weight::new(quant::Type::F32, [a.len, a.n], a.stride * 4, a.data.cast_const().cast(), None) }
}

/// x \[K, M\] in F32 → rows of K BF16 values, two in a float: \[⌈K/2⌉, M\].
pub fn rounded() -> Kernel {
    Box::new(|call: &Call| {
        let (x, out) = (Matrix::of(call.src(0))?, Matrix::of(call.dst())?);
        if x.n != out.n || x.len.div_ceil(2) != out.len {
            return Err(Error::new(
                Kind::Internal,
                format!("{} x {} values do not round to {} x {}", x.len, x.n, out.len, out.n),
            ));
        }
        for i in call.ith * x.n / call.nth..(call.ith + 1) * x.n / call.nth {
            // SAFETY: row i of live operands, which this thread owns.
            unsafe {
                let row = std::slice::from_raw_parts(x.data.add(i * x.stride), x.len);
                let to = out.data.add(i * out.stride).cast::<u16>();
                kernel::round_row(row, std::slice::from_raw_parts_mut(to, 2 * out.len));
            }
        }
        Ok(())
    })
}

/// The matrix of a term.
#[derive(Clone, Copy, Debug)]
pub enum TermMatrix {
    /// A frozen weight.
    Frozen(Weight),
    /// The op's source of this number, in F32.
    Source(usize),
}

/// One term of [`sum_of_products`].
#[derive(Clone, Copy, Debug)]
pub struct TermSpec {
    /// The matrix.
    pub matrix: TermMatrix,
    /// Which way round.
    pub side: kernel::Side,
    /// The op's source that holds the rounded activations.
    pub rows: usize,
}

/// The frozen matrix of a term.
pub fn frozen(info: &WeightInfo, data: &WeightData) -> Result<TermMatrix> {
    weight(info, data).map(TermMatrix::Frozen)
}

/// Rounded activations, factors → Σ of products with frozen weights and factors, in BF16 with F32 sums.
pub fn sum_of_products(specs: Vec<TermSpec>) -> Kernel {
    Box::new(move |call: &Call| {
        let mut terms = Vec::with_capacity(specs.len());
        let y = Matrix::of(call.dst())?;
        for spec in &specs {
            let rows = Matrix::of(call.src(spec.rows))?;
            let matrix = match spec.matrix {
                TermMatrix::Frozen(weight) => weight,
                TermMatrix::Source(i) => factor(call.src(i))?,
            };
            if rows.n != y.n {
                return Err(Error::new(Kind::Internal, format!("a term of {} rows in a sum of {}", rows.n, y.n)));
            }
            terms.push(kernel::Term {
                weight: matrix,
                side: spec.side,
                rows: rows.data.cast(),
                row_next: 2 * rows.stride,
            });
        }
        let out = RowsMut { data: y.data, stride: y.stride, accumulate: false };
        with_scratch(kernel::sum_scratch_floats(&terms), |scratch| {
            // SAFETY: operands of a running graph; the kernel checks widths and writes its share of the result only.
            unsafe { kernel::sum_of_products(&terms, out, y.n, scratch, share(call)) }
        })
    })
}

type In = (Rows, usize);
type Out = (RowsMut, usize);

fn operands(call: &Call) -> Result<(In, Out)> {
    operands_at(call, 0)
}

fn operands_at(call: &Call, i: usize) -> Result<(In, Out)> {
    let (x, y) = (Matrix::of(call.src(i))?, Matrix::of(call.dst())?);
    if x.n != y.n {
        return Err(Error::new(Kind::Internal, format!("a product got {} rows for {}", x.n, y.n)));
    }
    let rows = Rows { data: x.data, stride: x.stride };
    Ok(((rows, x.n), (RowsMut { data: y.data, stride: y.stride, accumulate: false }, y.n)))
}

pub(super) fn share(call: &Call) -> Share {
    Share { ith: call.ith, nth: call.nth }
}
