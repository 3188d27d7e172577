//! Products with a frozen weight in F32: panels of it are decoded once and multiplied with all tokens.

use gemm::{gemm, Parallelism};

use super::split::{Part, Share};
use super::weight::{Rows, RowsMut, Weight};
use crate::error::{Error, Kind, Result};

/// Floats of a decoded panel: half a MiB, so that panel and packed operands share the second-level cache.
const PANEL: usize = 128 * 1024;

/// Rows of a panel and columns of a share come in multiples of this: 64 bytes of output, the width of a vector.
const UNIT: usize = 16;

/// Floats of scratch that one thread needs for [`forward`] and [`transposed`] with `w`, whatever the number of tokens.
pub fn scratch_floats(w: &Weight) -> usize {
    if w.floats().is_some() {
        return 0;
    }
    panel_rows(w.n_in(), w.n_out()) * w.n_in()
}

fn panel_rows(width: usize, rows: usize) -> usize {
    ((PANEL / width.max(1)) / UNIT * UNIT).max(UNIT).min(rows)
}

/// This thread's share of `y = W·x` (or `y += W·x`): x is [n_in, t], y is [n_out, t] in ggml order.
///
/// Sums are in F32. Among two tokens or more, a token's bits depend neither on the others nor on `nth`.
///
/// # Errors
/// [`Kind::Internal`] where strides, share or scratch do not fit the shapes; nothing is written then.
///
/// # Safety
/// `x` and `y` hold `t` rows of their width, do not overlap, and nobody else touches the share's part of `y` meanwhile.
pub unsafe fn forward(w: &Weight, x: Rows, y: RowsMut, t: usize, scratch: &mut [f32], share: Share) -> Result<()> {
    check(w, scratch, share)?;
    x.check(w.n_in(), t)?;
    y.check(w.n_out(), t)?;
    let Part { columns, tokens } = Part::of(w.n_out(), UNIT, t, share);
    let n = tokens.len();
    let step = panel_rows(w.n_in(), w.n_out());
    for row in columns.clone().step_by(step) {
        let rows = step.min(columns.end - row);
        // SAFETY: row + rows <= n_out; `check` made sure of the scratch, `Part` of the token range, the caller of x, y.
        unsafe {
            let (panel, stride) = load(w, row, rows, 0, w.n_in(), scratch);
            let from = x.data.add(tokens.start * x.stride);
            let to = y.data.add(tokens.start * y.stride + row);
            let lhs = Operand { data: panel, cs: 1, rs: stride };
            let rhs = Operand { data: from, cs: x.stride, rs: 1 };
            multiply([rows, n, w.n_in()], to, y.stride, y.accumulate, lhs, rhs);
        }
    }
    Ok(())
}

/// This thread's share of `dx = Wᵀ·dy` (or `dx += Wᵀ·dy`): dy is [n_out, t], dx is [n_in, t] in ggml order.
///
/// Sums are in F32, over panels of rows of W in ascending order. Equal arguments and `nth` give equal bits.
///
/// # Errors
/// As [`forward`].
///
/// # Safety
/// As [`forward`], with `dy` in the place of `x` and `dx` in that of `y`.
pub unsafe fn transposed(w: &Weight, dy: Rows, dx: RowsMut, t: usize, scratch: &mut [f32], share: Share) -> Result<()> {
    check(w, scratch, share)?;
    dy.check(w.n_out(), t)?;
    dx.check(w.n_in(), t)?;
    let Part { columns, tokens } = Part::of(w.n_in(), w.block_len().max(UNIT), t, share);
    if columns.is_empty() || tokens.is_empty() {
        return Ok(());
    }
    let step = match w.floats() {
        Some(_) => w.n_out(),
        // No more than what `scratch_floats` promised; at least one row, since a share is no wider than W.
        None => panel_rows(columns.len(), w.n_out()).min(scratch_floats(w) / columns.len()),
    };
    for row in (0..w.n_out()).step_by(step) {
        let rows = step.min(w.n_out() - row);
        // SAFETY: as in `forward`; the column range starts and ends at blocks.
        unsafe {
            let (panel, stride) = load(w, row, rows, columns.start, columns.len(), scratch);
            let from = dy.data.add(tokens.start * dy.stride + row);
            let to = dx.data.add(tokens.start * dx.stride + columns.start);
            let lhs = Operand { data: panel, cs: stride, rs: 1 };
            let rhs = Operand { data: from, cs: dy.stride, rs: 1 };
            multiply([columns.len(), tokens.len(), rows], to, dx.stride, dx.accumulate || row > 0, lhs, rhs);
        }
    }
    Ok(())
}

fn check(w: &Weight, scratch: &[f32], share: Share) -> Result<()> {
    let need = scratch_floats(w);
    if scratch.len() < need {
        return Err(Error::new(Kind::Internal, format!("scratch of {} floats, {need} needed", scratch.len())));
    }
    share.check()
}

/// A panel of W as floats with its row stride: decoded into `scratch`, or in place where W is F32 already.
///
/// # Safety
/// The range lies in W, its columns at blocks; `scratch` holds `rows * n` floats unless `w.floats()` is some.
unsafe fn load(
    w: &Weight,
    row: usize,
    rows: usize,
    column: usize,
    n: usize,
    scratch: &mut [f32],
) -> (*const f32, usize) {
    if let Some((data, stride)) = w.floats() {
        // SAFETY: the range lies in W.
        return (unsafe { data.add(row * stride + column) }, stride);
    }
    debug_assert!(rows * n <= scratch.len());
    let panel = scratch.as_mut_ptr();
    for i in 0..rows {
        // SAFETY: row + i < n_out and i * n + n <= scratch.len() by the caller.
        unsafe { w.decode(row + i, column, n, panel.add(i * n)) };
    }
    (panel, n)
}

/// A factor: distance in floats between columns and between rows.
#[derive(Clone, Copy)]
struct Operand {
    data: *const f32,
    cs: usize,
    rs: usize,
}

/// Terms that gemm sums without a break, for every shape and cache; beyond, it breaks a sum where the shape of the whole
/// product makes it convenient.
const STRETCH: usize = 512;

/// Products with at most so many results, and vectors, go through gemm's dot products, in another order of summation.
const DOTS: usize = 256;

/// `dst (+)= lhs · rhs` with lhs [m, k] and rhs [k, n] in matrix notation; dst's rows are contiguous.
///
/// With n > 1 every result is a sum in an order that depends on k alone: a token's bits do not depend on how many others
/// are multiplied with it. (A batch has at least 16 tokens per thread; gemm treats a single one in a way of its own.)
///
/// # Safety
/// The three ranges are valid for their strides and dst overlaps neither factor.
unsafe fn multiply([m, n, k]: [usize; 3], dst: *mut f32, dst_cs: usize, add: bool, lhs: Operand, rhs: Operand) {
    if m == 0 || n == 0 {
        return;
    }
    let stretch = k.div_ceil(k.div_ceil(STRETCH).max(1)).max(1);
    for from in (0..k).step_by(stretch) {
        let terms = stretch.min(k - from);
        // SAFETY: `from + terms <= k`; otherwise forwarded.
        unsafe {
            let lhs = Operand { data: lhs.data.add(from * lhs.cs), ..lhs };
            let rhs = Operand { data: rhs.data.add(from * rhs.rs), ..rhs };
            if lhs.cs == 1 && (m == 1 || m * n <= DOTS) {
                few_rows([m, n, terms], dst, dst_cs, add || from > 0, lhs, rhs);
            } else {
                stretch_of([m, n, terms], dst, dst_cs, add || from > 0, lhs, rhs);
            }
        }
    }
}

/// As [`multiply`] with `k <= STRETCH`, where the rows of lhs would tempt gemm to dot products: copies of them lie column
/// by column, as gemm would pack them.
///
/// # Safety
/// As [`multiply`].
unsafe fn few_rows([m, n, k]: [usize; 3], dst: *mut f32, dst_cs: usize, add: bool, lhs: Operand, rhs: Operand) {
    let mut copy = [0.0f32; UNIT * STRETCH];
    for row in (0..m).step_by(UNIT) {
        let rows = UNIT.min(m - row);
        for (c, column) in copy.chunks_exact_mut(UNIT).take(k).enumerate() {
            for (r, to) in column.iter_mut().take(rows).enumerate() {
                // SAFETY: row + r < m and c < k.
                *to = unsafe { *lhs.data.add((row + r) * lhs.rs + c * lhs.cs) };
            }
        }
        let lhs = Operand { data: copy.as_ptr(), cs: UNIT, rs: 1 };
        // SAFETY: forwarded for these rows.
        unsafe { stretch_of([rows, n, k], dst.add(row), dst_cs, add, lhs, rhs) };
    }
}

/// One call of gemm.
///
/// # Safety
/// As [`multiply`].
unsafe fn stretch_of([m, n, k]: [usize; 3], dst: *mut f32, dst_cs: usize, add: bool, lhs: Operand, rhs: Operand) {
    // SAFETY: forwarded; `Rows::check` and `Weight::new` keep all strides far below isize::MAX. gemm's order is column
    // stride, row stride.
    unsafe {
        gemm(
            m,
            n,
            k,
            dst,
            dst_cs as isize,
            1,
            add,
            lhs.data,
            lhs.cs as isize,
            lhs.rs as isize,
            rhs.data,
            rhs.cs as isize,
            rhs.rs as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case};
    use super::*;
    use quant::Type;

    fn run(case: &Case, back: bool, accumulate: bool, nth: usize) -> Vec<f32> {
        let w = case.weight();
        let (source, mut out) = case.operands(back);
        let (width_in, width_out) = if back { (w.n_out(), w.n_in()) } else { (w.n_in(), w.n_out()) };
        let x = Rows { data: source.as_ptr(), stride: width_in + reference::GAP };
        for ith in 0..nth {
            let mut scratch = vec![f32::NAN; scratch_floats(&w)];
            let y = RowsMut { data: out.as_mut_ptr(), stride: width_out + reference::GAP, accumulate };
            let product = if back { transposed } else { forward };
            // SAFETY: `Case` allocates rows of these strides.
            unsafe { product(&w, x, y, case.t, &mut scratch, Share { ith, nth }) }.unwrap();
        }
        out
    }

    #[test]
    fn equals_the_slow_twin_in_both_directions() {
        for ty in [Type::F32, Type::F16, Type::Q4_1, Type::Q8_0, Type::Q4_K, Type::Q6_K] {
            for (n_in, n_out, t) in
                [(576, 33, 5), (96, 192, 200), (576, 192, 64), (768, 1, 1), (96, 33, 1), (1536, 192, 5)]
            {
                if n_in % ty.block_len() != 0 {
                    continue;
                }
                let case = Case::random(ty, n_in, n_out, t);
                for back in [false, true] {
                    for accumulate in [false, true] {
                        let want = case.product(back, accumulate);
                        for nth in [1, 2, 3] {
                            let got = run(&case, back, accumulate, nth);
                            let error = reference::relative_error(&got, &want);
                            // A result that stands alone cannot be small beside others: 6e-8 · √768.
                            let bound = if n_out * t == 1 { 2e-6 } else { 1e-6 };
                            assert!(error < bound, "{ty:?} {n_in}x{n_out} t={t} back={back} nth={nth}: {error:e}");
                            let again = run(&case, back, accumulate, nth);
                            assert!(got.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{ty:?} varies");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_token_keeps_its_bits_whatever_its_neighbours() {
        // Factors of small rank, panels that end in a few rows, sums longer than a stretch.
        let shapes =
            [(64, 1), (64, 3), (64, 4), (768, 4), (576, 16), (1536, 16), (16, 576), (4, 96), (1536, 576), (2048, 160)];
        for ((n_in, n_out), ty) in shapes.into_iter().flat_map(|shape| [Type::F32, Type::Q8_0].map(|ty| (shape, ty))) {
            if n_in % ty.block_len() != 0 {
                continue;
            }
            let case = Case::random(ty, n_in, n_out, 320);
            let all = run(&case, false, false, 1);
            for nth in [1, 3, 4] {
                for t in [2, 5, 16, 64, 128] {
                    let few = run(&Case { t, ..case.clone() }, false, false, nth);
                    let shared = t * (n_out + reference::GAP);
                    let same = all[..shared].iter().zip(&few).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{ty:?} {n_in}x{n_out} nth={nth}: other bits among {t} tokens than among {}", case.t);
                }
            }
        }
    }

    #[test]
    fn several_panels_add_up() {
        let case = Case::random(Type::Q8_0, 2048, 160, 17);
        assert!(panel_rows(2048, 160) < 160);
        for back in [false, true] {
            let error = reference::relative_error(&run(&case, back, true, 2), &case.product(back, true));
            assert!(error < 1e-6, "back={back}: {error:e}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let case = Case::random(Type::Q8_0, 64, 32, 4);
        let w = case.weight();
        let (source, mut out) = case.operands(false);
        let x = Rows { data: source.as_ptr(), stride: 64 };
        let y = RowsMut { data: out.as_mut_ptr(), stride: 32, accumulate: false };
        let mut scratch = vec![0.0; scratch_floats(&w)];
        let mut call = |x, y, share, n: usize| {
            // SAFETY: the buffers hold four rows of 64 and 32 floats; every call below must fail before using them.
            unsafe { forward(&w, x, y, 4, &mut scratch[..n], share) }.map_err(|e| e.kind())
        };
        let n = scratch_floats(&w);
        assert_eq!(call(Rows { stride: 63, ..x }, y, Share::ALL, n), Err(Kind::Internal));
        assert_eq!(call(x, RowsMut { stride: 31, ..y }, Share::ALL, n), Err(Kind::Internal));
        assert_eq!(call(x, y, Share { ith: 2, nth: 2 }, n), Err(Kind::Internal));
        assert_eq!(call(x, y, Share::ALL, n - 1), Err(Kind::Internal));
        assert_eq!(call(x, y, Share::ALL, n), Ok(()));
    }
}
