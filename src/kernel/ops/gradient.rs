//! The element- and row-wise gradient ops of `ir::GradOp` as graph ops.

use super::experts::{expert_sums, rows_back};
use super::Matrix;
use crate::error::{Error, Kind, Result};
use crate::ir::{Glu, GradOp, Placement, Sym, Value};
use crate::kernel::rows;
use crate::runtime::{Call, Kernel, Operand};
use gemm::{gemm, Parallelism};

/// The kernel of a gradient op; `None` for those that are lowered in another way.
pub fn gradient(op: &GradOp, value: &Value, n_tokens: usize) -> Option<Kernel> {
    let p = |i: usize| value.param_f32(i);
    let (first, second) = (p(0), p(1));
    Some(match op {
        GradOp::RmsNormBack => two_rows(move |x, dy, out| rows::rms_norm_back(x, dy, first, out)),
        GradOp::NormBack => two_rows(move |x, dy, out| rows::norm_back(x, dy, first, out)),
        GradOp::L2NormBack => two_rows(move |x, dy, out| rows::l2_norm_back(x, dy, first, out)),
        GradOp::SoftMaxBack => two_rows(move |y, dy, out| rows::soft_max_back(y, dy, first, out)),
        GradOp::ClampBack => two_rows(move |x, dy, out| rows::clamp_gradient(x, dy, [first, second], out)),
        GradOp::UnaryBack(kind) => {
            let (kind, params) = (*kind, [p(1), p(2), p(3), p(4)]);
            two_rows(move |x, dy, out| rows::unary_back(kind, x, dy, params, out))
        }
        GradOp::GluBackGate(kind) => {
            let (kind, params) = (*kind, [p(2), p(3)]);
            three_rows(move |a, b, dy, out| rows::glu_back_gate(kind, a, b, dy, params, out))
        }
        GradOp::GluBackMul(kind) => {
            let (kind, params) = (*kind, [p(2), p(3)]);
            three_rows(move |a, b, dy, out| rows::glu_back_mul(kind, a, b, dy, params, out))
        }
        GradOp::GluBackFused(kind) => glu_fused(*kind, value.params[1] != 0, [p(2), p(3)]),
        GradOp::OuterSum => Box::new(outer_sum),
        GradOp::SumTo => Box::new(sum_to),
        GradOp::ExpertsSum => Box::new(expert_sums),
        GradOp::RowsBack => Box::new(rows_back),
        GradOp::Scatter(placements) => scatter(placements.clone(), n_tokens),
        GradOp::LinearBack | GradOp::ExpertsBack | GradOp::AttentionBack | GradOp::RopeBack => return None,
    })
}

/// This thread's rows of `n`.
pub(super) fn part(call: &Call, n: usize) -> std::ops::Range<usize> {
    call.ith * n / call.nth..(call.ith + 1) * n / call.nth
}

/// # Safety
/// `m` describes a live operand and `i < m.n`.
pub(super) unsafe fn row<'a>(m: Matrix, i: usize) -> &'a [f32] {
    // SAFETY: by the caller.
    unsafe { std::slice::from_raw_parts(m.data.add(i * m.stride), m.len) }
}

/// # Safety
/// As [`row`], and no one else touches row `i`.
pub(super) unsafe fn row_mut<'a>(m: Matrix, i: usize) -> &'a mut [f32] {
    // SAFETY: by the caller.
    unsafe { std::slice::from_raw_parts_mut(m.data.add(i * m.stride), m.len) }
}

pub(super) fn same(a: Matrix, b: Matrix) -> Result<()> {
    if (a.len, a.n) == (b.len, b.n) {
        return Ok(());
    }
    Err(Error::new(Kind::Internal, format!("an op of ours got rows {} x {} beside {} x {}", a.len, a.n, b.len, b.n)))
}

fn two_rows(body: impl Fn(&[f32], &[f32], &mut [f32]) + Send + Sync + 'static) -> Kernel {
    Box::new(move |call: &Call| {
        let (x, dy, out) = (Matrix::of(call.src(0))?, Matrix::of(call.src(1))?, Matrix::of(call.dst())?);
        same(x, out)?;
        same(dy, out)?;
        for i in part(call, out.n) {
            // SAFETY: rows of live operands; this thread owns row i of the result.
            unsafe { body(row(x, i), row(dy, i), row_mut(out, i)) }
        }
        Ok(())
    })
}

fn three_rows(body: impl Fn(&[f32], &[f32], &[f32], &mut [f32]) + Send + Sync + 'static) -> Kernel {
    Box::new(move |call: &Call| {
        let (a, b) = (Matrix::of(call.src(0))?, Matrix::of(call.src(1))?);
        let (dy, out) = (Matrix::of(call.src(2))?, Matrix::of(call.dst())?);
        for m in [a, b, dy] {
            same(m, out)?;
        }
        for i in part(call, out.n) {
            // SAFETY: as above.
            unsafe { body(row(a, i), row(b, i), row(dy, i), row_mut(out, i)) }
        }
        Ok(())
    })
}

/// x [2n, M], dy [n, M] → gradients of both halves in the input's order; swapped = the second half is the gate.
fn glu_fused(kind: Glu, swapped: bool, params: [f32; 2]) -> Kernel {
    Box::new(move |call: &Call| {
        let (x, dy, out) = (Matrix::of(call.src(0))?, Matrix::of(call.src(1))?, Matrix::of(call.dst())?);
        same(x, out)?;
        if dy.len * 2 != x.len || dy.n != x.n {
            return Err(Error::new(Kind::Internal, "a fused gated unit got halves that do not fit"));
        }
        for i in part(call, out.n) {
            // SAFETY: as above.
            let (x, dy, out) = unsafe { (row(x, i), row(dy, i), row_mut(out, i)) };
            let ((first, second), (d_first, d_second)) = (x.split_at(dy.len()), out.split_at_mut(dy.len()));
            let (a, b, da, db) = match swapped {
                false => (first, second, d_first, d_second),
                true => (second, first, d_second, d_first),
            };
            rows::glu_back_gate(kind, a, b, dy, params, da);
            rows::glu_back_mul(kind, a, b, dy, params, db);
        }
        Ok(())
    })
}

/// a [K, M], b [R, M] → Σ_m a[k, m]·b[r, m] as [K, R]; K is shared out.
fn outer_sum(call: &Call) -> Result<()> {
    let (a, b, out) = (Matrix::of(call.src(0))?, Matrix::of(call.src(1))?, Matrix::of(call.dst())?);
    if a.n != b.n || out.len != a.len || out.n != b.len {
        return Err(Error::new(Kind::Internal, "an outer sum got operands that do not fit"));
    }
    let columns = part(call, a.len.div_ceil(16));
    let (from, to) = (columns.start * 16, (columns.end * 16).min(a.len));
    if from >= to {
        return Ok(());
    }
    let s = |n: usize| n as isize;
    // SAFETY: shapes checked; this thread owns elements from..to of every row of the result.
    unsafe {
        gemm(
            to - from,
            b.len,
            a.n,
            out.data.add(from),
            s(out.stride),
            1,
            false,
            a.data.add(from).cast_const(),
            s(a.stride),
            1,
            b.data.cast_const(),
            1,
            s(b.stride),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
    Ok(())
}

/// Sums z over everything a tiled operand of the result's shape maps to; the result is small, its elements are shared out.
fn sum_to(call: &Call) -> Result<()> {
    let (z, out) = (call.src(0), call.dst());
    let Operand { ne, nb, data } = z;
    let n: usize = out.ne.iter().product();
    for i in part(call, n) {
        let [w0, w1, w2, _] = out.ne;
        let at = [i % w0, i / w0 % w1, i / (w0 * w1) % w2, i / (w0 * w1 * w2)];
        let mut sum = 0.0f64;
        for i3 in (at[3]..ne[3]).step_by(out.ne[3]) {
            for i2 in (at[2]..ne[2]).step_by(w2) {
                for i1 in (at[1]..ne[1]).step_by(w1) {
                    for i0 in (at[0]..ne[0]).step_by(w0) {
                        let offset = i0 * nb[0] + i1 * nb[1] + i2 * nb[2] + i3 * nb[3];
                        // SAFETY: indices within z's shape.
                        sum += f64::from(unsafe { *data.add(offset).cast::<f32>() });
                    }
                }
            }
        }
        // SAFETY: element i of the contiguous result, owned by this thread.
        unsafe { *out.data.cast::<f32>().add(i) = sum as f32 };
    }
    Ok(())
}

/// dy… → zeros of the result's shape with each dy added at its place; rows of the result are shared out by owner.
fn scatter(placements: Vec<Placement>, n_tokens: usize) -> Kernel {
    let at = move |s: Sym| s.at(n_tokens as i64) as usize;
    Box::new(move |call: &Call| {
        let out = Matrix::of(call.dst())?;
        let (rows, n) = (part(call, out.n), out.len * out.n);
        let (from, to) = (rows.start * out.len, rows.end * out.len);
        // SAFETY: this thread's rows of the contiguous result.
        let own = unsafe { std::slice::from_raw_parts_mut(out.data.add(from), to - from) };
        own.fill(0.0);
        for (k, place) in placements.iter().enumerate() {
            let dy = call.src(k);
            let (offset, stride) = (at(place.offset), place.stride.map(at));
            for i3 in 0..dy.ne[3] {
                for i2 in 0..dy.ne[2] {
                    for i1 in 0..dy.ne[1] {
                        let first = offset + i1 * stride[1] + i2 * stride[2] + i3 * stride[3];
                        let last = first + (dy.ne[0] - 1) * stride[0];
                        if last < from || first >= to {
                            continue;
                        }
                        if last >= n {
                            return Err(Error::new(Kind::Internal, "a view's gradient lies outside its parent"));
                        }
                        let source = dy.data.wrapping_add(i1 * dy.nb[1] + i2 * dy.nb[2] + i3 * dy.nb[3]).cast::<f32>();
                        for i0 in 0..dy.ne[0] {
                            let to_element = first + i0 * stride[0];
                            if (from..to).contains(&to_element) {
                                // SAFETY: within dy's row; the target is in this thread's rows.
                                own[to_element - from] += unsafe { *source.add(i0) };
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    })
}
