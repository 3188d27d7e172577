//! Sums of products with matrices in BF16: Σ_i M_i·x_i, each M_i a frozen weight or a factor, turned either way.
//!
//! A sum of products is one product over a longer depth, so a weight with its LoRA factors, or the gradients that several
//! weights hand down to one input, cost one pass over the result. Each thread owns columns of the result, lays a panel of
//! every matrix out in strips (so that each weight is decoded once for all tokens), and multiplies.

use super::bf16::{interleave, product, round_row, transpose, Results, Stretch, Strips, LANES, ROWS, STRIP};
use super::split::{Part, Share};
use super::weight::{RowsMut, Weight};
use crate::error::{Error, Kind, Result};

/// Values of a panel over all terms: three quarters of a MiB, so that it stays in the second-level cache.
const PANEL: usize = 384 * 1024;
/// Depth of a panel at most; a longer one is cut and its parts are added up in the result.
const DEPTH_MAX: usize = 4096;

/// How a matrix stands in a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// W·x: results are W's rows, the depth is its row length.
    Forward,
    /// Wᵀ·dy: results are W's columns, the depth is its number of rows.
    Transposed,
}

/// One term of a sum: a matrix and rows of rounded activations, `n_pairs` pairs each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    /// The matrix.
    pub(crate) weight: Weight,
    /// Which way round.
    pub(crate) side: Side,
    /// Activations in BF16, one row per token.
    pub(crate) rows: *const u16,
    /// Values between rows.
    pub(crate) row_next: usize,
}

impl Term {
    fn depth(&self) -> usize {
        match self.side {
            Side::Forward => self.weight.n_in(),
            Side::Transposed => self.weight.n_out(),
        }
    }

    fn columns(&self) -> usize {
        match self.side {
            Side::Forward => self.weight.n_out(),
            Side::Transposed => self.weight.n_in(),
        }
    }

    /// Columns that can be decoded alone.
    fn unit(&self) -> usize {
        match self.side {
            Side::Forward => LANES,
            Side::Transposed => self.weight.block_len().max(LANES),
        }
    }
}

/// Floats of scratch that one thread needs for a sum of these terms.
pub(crate) fn scratch_floats(terms: &[Term]) -> usize {
    let (panel, columns) = plan(terms);
    let widest =
        terms.iter().map(|t| if t.side == Side::Forward { LANES * t.depth().min(DEPTH_MAX) } else { 2 * columns });
    // Strips and rounded rows are half as wide as floats; decoded rows are floats.
    panel.div_ceil(2) + widest.max().unwrap_or(0) * 2 + 64
}

/// Values of a panel, and its columns.
fn plan(terms: &[Term]) -> (usize, usize) {
    let depth: usize = terms.iter().map(|t| t.depth().next_multiple_of(2).min(DEPTH_MAX)).sum();
    let unit = terms.iter().map(Term::unit).fold(STRIP, lcm);
    let all = terms.first().map_or(0, Term::columns).next_multiple_of(LANES);
    let columns = (PANEL / depth.max(1) / unit * unit).max(unit).min(all);
    (depth * columns.next_multiple_of(LANES), columns)
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// This thread's share of `y = Σ terms`: y holds `t` rows of the terms' common width.
///
/// Sums are in F32 over depths in ascending order, term after term. Equal arguments and `nth` give equal bits.
///
/// # Errors
/// [`Kind::Internal`] where widths, strides, share or scratch do not fit; nothing is written then.
///
/// # Safety
/// Every term holds `t` rows of its depth, rounded up to even; `y` holds
/// `t` rows, overlaps nothing, and nobody else touches the share's part of it meanwhile.
pub(crate) unsafe fn sum_of_products(
    terms: &[Term],
    y: RowsMut,
    t: usize,
    scratch: &mut [f32],
    share: Share,
) -> Result<()> {
    let width = terms.first().map_or(0, Term::columns);
    let fits = |x: &Term| x.columns() == width && x.row_next >= x.depth().next_multiple_of(2);
    if terms.is_empty() || !terms.iter().all(fits) || scratch.len() < scratch_floats(terms) {
        return Err(Error::new(Kind::Internal, format!("a sum of {} products whose parts do not fit", terms.len())));
    }
    y.check(width, t)?;
    share.check()?;
    let unit = terms.iter().map(Term::unit).fold(LANES, lcm);
    let Part { columns, tokens } = Part::of(width, unit, t, share);
    let (_, step) = plan(terms);
    for from in columns.clone().step_by(step) {
        let n = step.min(columns.end - from);
        for (pass, group) in passes(terms).iter().enumerate() {
            let out = RowsMut { data: y.data.wrapping_add(from), accumulate: y.accumulate || pass > 0, ..y };
            // SAFETY: by the caller; from + n <= width, the depths lie in the terms.
            unsafe { panel(group, from, n, &tokens, out, scratch) };
        }
    }
    Ok(())
}

/// A term over some of its depths.
#[derive(Clone, Copy)]
struct Piece<'a> {
    term: &'a Term,
    from: usize,
    depth: usize,
}

/// Groups of pieces, each group one pass over the results: all terms together, unless one is deeper than a panel may be.
fn passes(terms: &[Term]) -> Vec<Vec<Piece<'_>>> {
    let mut passes: Vec<Vec<Piece>> = vec![Vec::new()];
    for term in terms {
        for (i, from) in (0..term.depth()).step_by(DEPTH_MAX).enumerate() {
            if passes.len() <= i {
                passes.push(Vec::new());
            }
            passes[i].push(Piece { term, from, depth: DEPTH_MAX.min(term.depth() - from) });
        }
    }
    passes
}

/// # Safety
/// As [`sum_of_products`], for columns `from..from + n`.
unsafe fn panel(
    pieces: &[Piece],
    from: usize,
    n: usize,
    tokens: &std::ops::Range<usize>,
    out: RowsMut,
    scratch: &mut [f32],
) {
    let packed: usize = pieces.iter().map(|p| Strips::len(p.depth.div_ceil(2), n)).sum();
    let (strips, rest) = scratch.split_at_mut(packed.div_ceil(2));
    let mut at = strips.as_mut_ptr().cast::<u16>();
    let mut laid = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let strips = Strips { data: at, pairs: piece.depth.div_ceil(2), columns: n };
        // SAFETY: by the caller; `packed` counted this piece's strips.
        unsafe {
            match piece.term.side {
                Side::Forward => lay_rows(piece, from, n, &strips, rest),
                Side::Transposed => lay_columns(piece, from, n, &strips, rest),
            }
        }
        at = at.wrapping_add(Strips::len(strips.pairs, n));
        laid.push(strips);
    }
    let mut stretches = Vec::with_capacity(pieces.len());
    for first in tokens.clone().step_by(ROWS) {
        let rows = ROWS.min(tokens.end - first);
        for column in (0..n).step_by(STRIP) {
            stretches.clear();
            stretches.extend(pieces.iter().zip(&laid).map(|(p, s)| Stretch {
                rows: p.term.rows.wrapping_add(first * p.term.row_next + p.from),
                row_next: p.term.row_next,
                strip: s.strip(column),
                pairs: s.pairs,
            }));
            let data = out.data.wrapping_add(first * out.stride + column);
            let results = Results { data, stride: out.stride, columns: STRIP.min(n - column), add: out.accumulate };
            // SAFETY: by the caller.
            unsafe { product(&stretches, rows, results) };
        }
    }
}

/// Rows `from..from + n` of a weight become columns.
///
/// # Safety
/// As [`panel`]; `rest` has room for sixteen decoded and sixteen rounded rows.
unsafe fn lay_rows(piece: &Piece, from: usize, n: usize, strips: &Strips, rest: &mut [f32]) {
    let (w, depth) = (&piece.term.weight, piece.depth);
    let even = depth.next_multiple_of(2);
    let (floats, rounded) = rest.split_at_mut(depth);
    // SAFETY: `scratch_floats` counted sixteen rows of floats, which hold thirty-two rounded rows.
    let rounded = unsafe { std::slice::from_raw_parts_mut(rounded.as_mut_ptr().cast::<u16>(), LANES * even) };
    for column in (0..n).step_by(LANES) {
        let n_rows = LANES.min(n - column);
        for (j, row) in rounded.chunks_exact_mut(even).take(n_rows).enumerate() {
            // SAFETY: a row and depths of the weight.
            unsafe { w.decode(from + column + j, piece.from, depth, floats.as_mut_ptr()) };
            round_row(floats, row);
        }
        // SAFETY: by the caller.
        unsafe { transpose(rounded, n_rows, column, strips) };
    }
}

/// Columns `from..from + n` of a weight stay columns; its rows are the depths.
///
/// # Safety
/// As [`panel`]; `rest` has room for two decoded rows of `n`.
unsafe fn lay_columns(piece: &Piece, from: usize, n: usize, strips: &Strips, rest: &mut [f32]) {
    let w = &piece.term.weight;
    // The last block may reach beyond the columns only where it reaches beyond the row, which it cannot.
    let (first, rest) = rest.split_at_mut(n);
    let second = &mut rest[..n];
    for pair in 0..piece.depth.div_ceil(2) {
        let row = piece.from + 2 * pair;
        // SAFETY: rows and columns of the weight.
        unsafe {
            w.decode(row, from, n, first.as_mut_ptr());
            match row + 1 < w.n_out() {
                true => w.decode(row + 1, from, n, second.as_mut_ptr()),
                false => second.fill(0.0),
            }
            interleave(first, second, pair, strips);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{relative_error, Case, GAP};
    use super::*;
    use half::bf16;
    use quant::Type;

    /// Activations of a case, rounded, in rows of even length.
    fn rounded(source: &[f32], width: usize, t: usize) -> Vec<u16> {
        let even = width.next_multiple_of(2);
        let mut out = vec![0u16; even * t];
        for (row, x) in out.chunks_exact_mut(even).zip(source.chunks(width + GAP)) {
            round_row(&x[..width], row);
        }
        out
    }

    /// The same sum in F64 from factors rounded to BF16.
    fn twin(terms: &[(&Case, Side, &[u16])], width: usize, t: usize, previous: &[f32], accumulate: bool) -> Vec<f64> {
        let mut out: Vec<f64> = previous.iter().map(|&p| f64::from(p)).collect();
        let narrow = |x: f32| f64::from(bf16::from_f32(x).to_f32());
        let weights: Vec<_> = terms.iter().map(|(case, ..)| case.decoded()).collect();
        for (i, row) in (0..t).flat_map(|i| (0..width).map(move |c| (i, c))) {
            let mut sum = 0.0;
            for ((case, side, x), w) in terms.iter().zip(&weights) {
                let (depth, at): (usize, Box<dyn Fn(usize) -> f32>) = match side {
                    Side::Forward => (case.n_in, Box::new(move |k| w[row * case.n_in + k])),
                    Side::Transposed => (case.n_out, Box::new(move |k| w[k * case.n_in + row])),
                };
                let x = &x[i * depth.next_multiple_of(2)..];
                sum += (0..depth).map(|k| narrow(at(k)) * f64::from(bf16::from_bits(x[k]).to_f32())).sum::<f64>();
            }
            let to = &mut out[i * (width + GAP) + row];
            *to = if accumulate { *to + sum } else { sum };
        }
        out
    }

    fn check(terms: &[(&Case, Side)], accumulate: bool) {
        let (first, side) = terms[0];
        let (t, width) = (first.t, if side == Side::Forward { first.n_out } else { first.n_in });
        let rows: Vec<Vec<u16>> = terms
            .iter()
            .map(|(case, side)| match side {
                Side::Forward => rounded(&case.x, case.n_in, t),
                Side::Transposed => rounded(&case.dy, case.n_out, t),
            })
            .collect();
        let parts: Vec<Term> = terms
            .iter()
            .zip(&rows)
            .map(|(&(case, side), rows)| {
                let depth = if side == Side::Forward { case.n_in } else { case.n_out };
                Term { weight: case.weight(), side, rows: rows.as_ptr(), row_next: depth.next_multiple_of(2) }
            })
            .collect();
        let (_, previous) = first.operands(side == Side::Transposed);
        let with_rows: Vec<_> = terms.iter().zip(&rows).map(|(&(c, s), r)| (c, s, r.as_slice())).collect();
        let want = twin(&with_rows, width, t, &previous, accumulate);
        for nth in [1, 2, 3] {
            let mut out = previous.clone();
            for ith in 0..nth {
                let mut scratch = vec![f32::NAN; scratch_floats(&parts)];
                let y = RowsMut { data: out.as_mut_ptr(), stride: width + GAP, accumulate };
                // SAFETY: the case allocates rows of these strides.
                unsafe { sum_of_products(&parts, y, t, &mut scratch, Share { ith, nth }) }.unwrap();
            }
            let error = relative_error(&out, &want);
            let what = format!("{:?} {}x{} t={t} {side:?} of {}", first.ty, first.n_in, first.n_out, terms.len());
            assert!(error < 1e-5, "{what}, {nth} threads: {error:e}");
        }
    }

    #[test]
    fn every_type_and_shape_equals_the_twin() {
        for ty in [Type::F32, Type::F16, Type::Q4_1, Type::Q8_0, Type::Q4_K, Type::Q6_K] {
            for (n_in, n_out, t) in [(96, 33, 5), (576, 64, 24), (768, 1, 1), (256, 131, 9), (16, 50, 8), (7, 5, 3)] {
                if n_in % ty.block_len() == 0 {
                    let case = Case::random(ty, n_in, n_out, t);
                    check(&[(&case, Side::Forward)], false);
                    check(&[(&case, Side::Transposed)], true);
                }
            }
        }
    }

    #[test]
    fn several_terms_are_one_sum() {
        let weight = Case::random(Type::Q4_1, 96, 80, 16);
        let (down, up) = (Case::random(Type::F32, 96, 16, 16), Case::random(Type::F32, 16, 80, 16));
        check(&[(&weight, Side::Forward), (&up, Side::Forward)], false);
        check(&[(&weight, Side::Transposed), (&down, Side::Transposed)], false);
    }

    #[test]
    fn depths_beyond_a_panel_are_added_up() {
        let tall = Case::random(Type::Q8_0, 64, 2 * DEPTH_MAX + 77, 8);
        check(&[(&tall, Side::Transposed)], false);
        let wide = Case::random(Type::F16, DEPTH_MAX + 32, 20, 8);
        check(&[(&wide, Side::Forward)], false);
    }
}
