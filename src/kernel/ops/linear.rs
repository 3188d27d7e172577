//! Products with frozen weights as graph ops.

use super::{with_scratch, Matrix};
use crate::error::Result;
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

type In = (Rows, usize);
type Out = (RowsMut, usize);

fn operands(call: &Call) -> Result<(In, Out)> {
    let (x, y) = (Matrix::of(call.src(0))?, Matrix::of(call.dst())?);
    let rows = Rows { data: x.data, stride: x.stride };
    Ok(((rows, x.n), (RowsMut { data: y.data, stride: y.stride, accumulate: false }, y.n)))
}

fn share(call: &Call) -> Share {
    Share { ith: call.ith, nth: call.nth }
}
