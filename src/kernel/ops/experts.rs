//! Products with chosen matrices, their gradients, and the way back from chosen rows, as graph ops.

use super::gradient::{part, row, row_mut};
use super::linear::{factor, frozen_weight, share};
use super::{with_scratch, Matrix};
use crate::error::{Error, Kind, Result};
use crate::ir::WeightInfo;
use crate::kernel::{Arithmetic, Choices, Outer, Routed, Rows, RowsMut, Side, Stack};
use crate::runtime::{Call, Kernel, Operand, WeightData};

/// The matrices of a product.
#[derive(Clone, Copy, Debug)]
pub enum StackSource {
    /// A frozen weight.
    Frozen(Stack),
    /// The op's first source, in F32.
    Source,
}

/// The stack that a frozen weight \[K, N, E\] is.
pub fn frozen_stack(info: &WeightInfo, data: &WeightData) -> Result<StackSource> {
    let [n_in, n_out, n_experts, _] = info.ne.map(|n| n.max(0) as usize);
    let all = frozen_weight(info, data, [n_in, n_out * n_experts])?;
    Stack::new(all, n_experts).map(StackSource::Frozen)
}

/// x \[K, 1 or k, T\], choices \[k, T\] → \[N, k, T\]; or from dy \[N, k, T\] back to \[K, k, T\].
pub fn routed(source: StackSource, side: Side, arithmetic: Arithmetic) -> Kernel {
    Box::new(move |call: &Call| {
        let (stack, first) = match source {
            StackSource::Frozen(stack) => (stack, 0),
            StackSource::Source => {
                let operand = call.src(0);
                (Stack::new(factor(operand)?, operand.ne[2])?, 1)
            }
        };
        let (x, chosen, y) = (Matrix::of(call.src(first))?, call.src(first + 1), Matrix::of(call.dst())?);
        let choices = choices(chosen, stack.n_experts())?;
        let slots = slots(x.n, y.n, chosen)?;
        let routed = Routed { stack: &stack, side, arithmetic, choices: &choices, slots };
        let (from, to) =
            (Rows { data: x.data, stride: x.stride }, RowsMut { data: y.data, stride: y.stride, accumulate: false });
        with_scratch(routed.scratch_floats(share(call)), |scratch| {
            // SAFETY: operands of a running graph, whose numbers of rows were compared; this thread writes its share only.
            unsafe { routed.compute(from, to, scratch, share(call)) }
        })
    })
}

/// a \[K, 1 or k, T\], b \[R, k, T\], choices \[k, T\] → \[K, R, E\].
pub(super) fn expert_sums(call: &Call) -> Result<()> {
    let (a, b, chosen, out) = (Matrix::of(call.src(0))?, Matrix::of(call.src(1))?, call.src(2), call.dst());
    let (n_experts, whole) = (out.ne[2], Matrix::of(out)?);
    if whole.len != a.len || out.ne[1] != b.len || whole.stride != whole.len {
        return Err(Error::new(Kind::Internal, "sums by expert got operands that do not fit"));
    }
    let outer = Outer {
        a: Rows { data: a.data, stride: a.stride },
        n_a: a.len,
        b: Rows { data: b.data, stride: b.stride },
        n_b: b.len,
        slots: slots(a.n, b.n, chosen)?,
    };
    // SAFETY: operands of a running graph, whose numbers of rows were compared; this thread writes its columns only.
    unsafe { crate::kernel::expert_sums(&outer, &choices(chosen, n_experts)?, n_experts, whole.data, share(call)) };
    Ok(())
}

/// dy \[n, k, T\], choices \[k, T\] → zeros \[n, R, T\] with every row added where it was chosen; tokens are shared out.
pub(super) fn rows_back(call: &Call) -> Result<()> {
    let (dy, chosen, out) = (Matrix::of(call.src(0))?, call.src(1), call.dst());
    let (n_rows, n_planes) = (out.ne[1], out.ne[2] * out.ne[3]);
    let (whole, k) = (Matrix::of(out)?, chosen.ne[0]);
    if dy.len != whole.len || dy.n != k * n_planes || chosen.ne[1] * chosen.ne[2] != n_planes {
        return Err(Error::new(Kind::Internal, "chosen rows got gradients that do not fit"));
    }
    for plane in part(call, n_planes) {
        for i in 0..n_rows {
            // SAFETY: rows of this plane belong to this thread.
            unsafe { row_mut(whole, plane * n_rows + i) }.fill(0.0);
        }
        for slot in 0..k {
            let choice = choice(chosen, plane * k + slot);
            let Some(to) = usize::try_from(choice).ok().filter(|&c| c < n_rows) else {
                return Err(Error::new(Kind::Internal, format!("row {choice} of {n_rows} was chosen")));
            };
            // SAFETY: as above; dy has k rows for every plane.
            unsafe {
                let to = row_mut(whole, plane * n_rows + to);
                to.iter_mut().zip(row(dy, plane * k + slot)).for_each(|(to, d)| *to += d);
            }
        }
    }
    Ok(())
}

/// Choice `i` of \[k, T\], which may be a view of a longer order.
fn choice(chosen: Operand, i: usize) -> i32 {
    let [k, t, ..] = chosen.ne;
    let at = i % k * chosen.nb[0] + i / k % t * chosen.nb[1] + i / (k * t) * chosen.nb[2];
    // SAFETY: an index within a live operand of integers, as every choice is.
    unsafe { chosen.data.add(at).cast::<i32>().read_unaligned() }
}

fn choices(chosen: Operand, n_experts: usize) -> Result<Choices> {
    Choices::sort(n_experts, chosen.ne[0] * chosen.ne[1] * chosen.ne[2], |i| choice(chosen, i))
}

/// How many rows of the result read one row of x: 1 or all of a token's.
fn slots(n_x: usize, n_y: usize, chosen: Operand) -> Result<usize> {
    let (k, n) = (chosen.ne[0], chosen.ne[0] * chosen.ne[1] * chosen.ne[2]);
    if n_y == n && n_x == n {
        return Ok(1);
    }
    if n_y == n && n_x * k == n {
        return Ok(k);
    }
    Err(Error::new(Kind::Internal, format!("{n_x} rows for {n_y} results by {n} choices of {k}")))
}
