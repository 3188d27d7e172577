//! Products with frozen weights as graph ops.

use super::{with_scratch, Matrix};
use crate::error::{Error, Kind, Result};
use crate::ir::WeightInfo;
use crate::kernel::{self, Rows, RowsMut, Share, Weight};
use crate::runtime::{Call, Kernel, WeightData};

fn weight(info: &WeightInfo, data: &WeightData) -> Result<Weight> {
    let shape = [info.ne[0] as usize, info.ne[1] as usize];
    // SAFETY: the runtime keeps the weight's rows, of this type and stride, unchanged as long as the model lives, and an
    // engine, which owns every graph, holds the model.
    unsafe { Weight::new(info.ty, shape, data.row_bytes, data.data, data.to_float) }
}

/// x \[K, M\] → W·x \[N, M\].
pub fn linear(info: &WeightInfo, data: &WeightData) -> Result<Kernel> {
    let weight = weight(info, data)?;
    Ok(Box::new(move |call: &Call| {
        let (x, y) = operands(call)?;
        with_scratch(kernel::scratch_floats(&weight), |scratch| {
            // SAFETY: operands of a running graph; the kernel checks shapes and writes its share of the result only.
            unsafe { kernel::forward(&weight, x.0, y.0, x.1, scratch, share(call)) }
        })
    }))
}

/// dy \[N, M\] → Wᵀ·dy \[K, M\].
pub fn linear_back(info: &WeightInfo, data: &WeightData) -> Result<Kernel> {
    let weight = weight(info, data)?;
    Ok(Box::new(move |call: &Call| {
        let (dy, dx) = operands(call)?;
        with_scratch(kernel::scratch_floats(&weight), |scratch| {
            // SAFETY: as above.
            unsafe { kernel::transposed(&weight, dy.0, dx.0, dy.1, scratch, share(call)) }
        })
    }))
}

/// A \[K, N\] in F32, x \[K, M\] → A·x \[N, M\]: the same product with a matrix of the graph, such as a LoRA factor.
pub fn product() -> Kernel {
    Box::new(|call: &Call| {
        let (weight, (x, y)) = (factor(call)?, operands_at(call, 1)?);
        // SAFETY: as above; F32 needs no scratch.
        unsafe { kernel::forward(&weight, x.0, y.0, x.1, &mut [], share(call)) }
    })
}

/// A \[K, N\] in F32, dy \[N, M\] → Aᵀ·dy \[K, M\].
pub fn product_back() -> Kernel {
    Box::new(|call: &Call| {
        let (weight, (dy, dx)) = (factor(call)?, operands_at(call, 1)?);
        // SAFETY: as above.
        unsafe { kernel::transposed(&weight, dy.0, dx.0, dy.1, &mut [], share(call)) }
    })
}

fn factor(call: &Call) -> Result<Weight> {
    let a = Matrix::of(call.src(0))?;
    // SAFETY: a live operand of the running graph, dropped before the call ends.
    unsafe { Weight::new(quant::Type::F32, [a.len, a.n], a.stride * 4, a.data.cast_const().cast(), None) }
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

fn share(call: &Call) -> Share {
    Share { ith: call.ith, nth: call.nth }
}
