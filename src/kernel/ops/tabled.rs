//! GELU and its gated forms computed, where ggml's CPU looks them up in a table of 16-bit floats.

use super::gradient::{part, row, row_mut, same};
use super::Matrix;
use crate::error::{Error, Kind, Result};
use crate::ir::{Glu, Op, Unary, Value};
use crate::kernel::rows::{gelu, gelu_quick};
use crate::runtime::{Call, Kernel};

/// A row of x to a row of y.
type Function = fn(&[f32], &mut [f32]);

/// The kernel of a forward op that ggml would look up; `None` for all others.
pub fn tabled(op: &Op, value: &Value) -> Option<Kernel> {
    Some(match op {
        Op::Unary(Unary::Gelu) => plain(gelu),
        Op::Unary(Unary::GeluQuick) => plain(gelu_quick),
        Op::Glu(Glu::Geglu) => gated(gelu, value),
        Op::Glu(Glu::GegluQuick) => gated(gelu_quick, value),
        _ => return None,
    })
}

fn plain(function: Function) -> Kernel {
    Box::new(move |call: &Call| {
        let (x, out) = (Matrix::of(call.src(0))?, Matrix::of(call.dst())?);
        same(x, out)?;
        for i in part(call, out.n) {
            // SAFETY: rows of live operands; this thread owns row i of the result.
            unsafe { function(row(x, i), row_mut(out, i)) }
        }
        Ok(())
    })
}

/// The function of the gate times the multiplier.
fn gated(function: Function, value: &Value) -> Kernel {
    let (is_split, swapped) = (value.sources().get(1).copied().flatten().is_some(), value.params[1] != 0);
    Box::new(move |call: &Call| {
        let out = Matrix::of(call.dst())?;
        let (gate, multiplier) = match is_split {
            true => (Matrix::of(call.src(0))?, Matrix::of(call.src(1))?),
            false => halves(Matrix::of(call.src(0))?, swapped)?,
        };
        same(gate, out)?;
        same(multiplier, out)?;
        for i in part(call, out.n) {
            // SAFETY: as above.
            let (gate, multiplier, y) = unsafe { (row(gate, i), row(multiplier, i), row_mut(out, i)) };
            function(gate, y);
            y.iter_mut().zip(multiplier).for_each(|(y, m)| *y *= m);
        }
        Ok(())
    })
}

/// Gate and multiplier of a fused source [2n, M]; swapped = the second half is the gate.
fn halves(x: Matrix, swapped: bool) -> Result<(Matrix, Matrix)> {
    if !x.len.is_multiple_of(2) {
        return Err(Error::new(Kind::Internal, "a fused gated unit got rows of odd length"));
    }
    let len = x.len / 2;
    let (first, second) = (Matrix { len, ..x }, Matrix { len, data: x.data.wrapping_add(len), ..x });
    Ok(if swapped { (second, first) } else { (first, second) })
}
