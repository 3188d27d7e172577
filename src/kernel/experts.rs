//! Products with the matrix of a stack that each row has chosen. Rows are gathered by expert, so that a matrix is decoded once
//! for all the rows that chose it; each thread computes columns of its own of every result.

use gemm::{gemm, Parallelism};

use super::bf16::{round_row, LANES};
use super::product_bf16::{scratch_floats as sum_scratch, sum_of_products, Side, Term};
use super::product_f32::{forward, scratch_floats, transposed};
use super::split::Share;
use super::weight::{Rows, RowsMut, Weight};
use crate::error::{Error, Kind, Result};
use std::ops::Range;

/// Rows that are gathered at a time: enough for the decoding not to count, few enough to stay in a cache.
const GATHERED: usize = 512;

/// Which rows of a result chose which expert.
#[derive(Debug)]
pub(crate) struct Choices {
    /// Where each expert's rows begin in `rows`, and their end.
    starts: Vec<usize>,
    rows: Vec<usize>,
}

impl Choices {
    /// Sorts `n_rows` rows by the expert that each has `chosen`; among one expert's rows their order stays.
    ///
    /// # Errors
    /// [`Kind::Internal`] for an expert outside of the stack.
    pub(crate) fn sort(n_experts: usize, n_rows: usize, chosen: impl Fn(usize) -> i32) -> Result<Self> {
        let mut experts = Vec::with_capacity(n_rows);
        let mut starts = vec![0; n_experts + 1];
        for row in 0..n_rows {
            let expert = usize::try_from(chosen(row)).ok().filter(|&e| e < n_experts);
            let Some(expert) = expert else {
                let message = format!("row {row} chose expert {} of {n_experts}", chosen(row));
                return Err(Error::new(Kind::Internal, message));
            };
            starts[expert + 1] += 1;
            experts.push(expert);
        }
        for expert in 0..n_experts {
            starts[expert + 1] += starts[expert];
        }
        let (mut next, mut rows) = (starts.clone(), vec![0; n_rows]);
        for (row, expert) in experts.into_iter().enumerate() {
            rows[next[expert]] = row;
            next[expert] += 1;
        }
        Ok(Self { starts, rows })
    }

    fn of(&self, expert: usize) -> &[usize] {
        &self.rows[self.starts[expert]..self.starts[expert + 1]]
    }
}

/// Matrices of one shape \[n_in, n_out\], one expert's rows behind another's.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    all: Weight,
    n_experts: usize,
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// In F32.
    Float,
    /// Operands in BF16, sums in F32.
    Brain,
}

impl Stack {
    /// `all` holds every expert's rows.
    ///
    /// # Errors
    /// [`Kind::Internal`] if the rows do not go round.
    pub fn new(all: Weight, n_experts: usize) -> Result<Self> {
        if n_experts == 0 || !all.n_out().is_multiple_of(n_experts) {
            let message = format!("{} rows for {n_experts} experts", all.n_out());
            return Err(Error::new(Kind::Internal, message));
        }
        Ok(Self { all, n_experts })
    }

    /// Experts.
    pub fn n_experts(&self) -> usize {
        self.n_experts
    }

    fn n_out(&self) -> usize {
        self.all.n_out() / self.n_experts
    }

    /// Depth and width of a product.
    fn sizes(&self, side: Side) -> (usize, usize) {
        match side {
            Side::Forward => (self.all.n_in(), self.n_out()),
            Side::Transposed => (self.n_out(), self.all.n_in()),
        }
    }

    /// The part of an expert's matrix that makes some columns of a product.
    fn part(&self, expert: usize, side: Side, columns: &Range<usize>) -> Weight {
        let first = expert * self.n_out();
        match side {
            Side::Forward => self.all.rows(first + columns.start..first + columns.end),
            Side::Transposed => self.all.rows(first..first + self.n_out()).columns(columns.clone()),
        }
    }

    fn columns(&self, side: Side, share: Share) -> Range<usize> {
        let unit = if side == Side::Transposed { self.all.block_len().max(LANES) } else { LANES };
        share.of(self.sizes(side).1, unit)
    }
}

/// A product's operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routed<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) side: Side,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) choices: &'a Choices,
    /// Rows of the result that read one row of x: row i reads row i / `slots`.
    pub(crate) slots: usize,
}

impl Routed<'_> {
    fn term(&self, weight: Weight, rows: *const u16, depth: usize) -> Term {
        Term { weight, side: self.side, rows, row_next: depth.next_multiple_of(2) }
    }

    /// Floats of scratch that one thread needs for its share.
    pub(crate) fn scratch_floats(&self, share: Share) -> usize {
        let (depth, _) = self.stack.sizes(self.side);
        let columns = self.stack.columns(self.side, share);
        if columns.is_empty() {
            return 0;
        }
        let part = self.stack.part(0, self.side, &columns);
        let panel = match self.arithmetic {
            Arithmetic::Float => scratch_floats(&part),
            Arithmetic::Brain => sum_scratch(&[self.term(part, std::ptr::null(), depth)]),
        };
        GATHERED * (depth.next_multiple_of(LANES) + columns.len().next_multiple_of(LANES)) + panel
    }

    /// This thread's share of `y[i] = W_c(i)·x[i / slots]`, or with Wᵀ.
    ///
    /// Among two rows or more of an expert a row's bits depend neither on the others nor on the number of threads; a single row
    /// is computed twice.
    ///
    /// # Errors
    /// [`Kind::Internal`] where strides, share or scratch do not fit; nothing is written then.
    ///
    /// # Safety
    /// `y` holds as many rows as there are choices and `x` those that they read, both of their width; they do not overlap, and
    /// nobody else touches the share's part of `y` meanwhile.
    pub(crate) unsafe fn compute(&self, x: Rows, y: RowsMut, scratch: &mut [f32], share: Share) -> Result<()> {
        let (depth, width) = self.stack.sizes(self.side);
        let n_rows = self.choices.rows.len();
        x.check(depth, n_rows.div_ceil(self.slots.max(1)))?;
        y.check(width, n_rows)?;
        share.check()?;
        if self.slots == 0 || scratch.len() < self.scratch_floats(share) {
            return Err(Error::new(Kind::Internal, "a product with chosen matrices got too little scratch"));
        }
        let columns = self.stack.columns(self.side, share);
        if columns.is_empty() {
            return Ok(());
        }
        let (gathered, rest) = scratch.split_at_mut(GATHERED * depth.next_multiple_of(LANES));
        let (results, panel) = rest.split_at_mut(GATHERED * columns.len().next_multiple_of(LANES));
        for expert in 0..self.stack.n_experts {
            for rows in self.choices.of(expert).chunks(GATHERED) {
                let part = self.stack.part(expert, self.side, &columns);
                // SAFETY: the rows are the caller's; `gathered` and `results` hold GATHERED rows.
                unsafe {
                    self.gather(x, rows, depth, gathered);
                    let n = rows.len().max(2);
                    let out = RowsMut { data: results.as_mut_ptr(), stride: columns.len(), accumulate: false };
                    self.multiply(part, gathered.as_ptr(), depth, out, n, panel)?;
                    for (i, &row) in rows.iter().enumerate() {
                        let from = results.as_ptr().add(i * columns.len());
                        let to = y.data.add(row * y.stride + columns.start);
                        std::ptr::copy_nonoverlapping(from, to, columns.len());
                    }
                }
            }
        }
        Ok(())
    }

    /// Rows of x that some rows of the result read, one after another, rounded where the arithmetic rounds; a single one twice.
    ///
    /// # Safety
    /// As [`Self::compute`].
    unsafe fn gather(&self, x: Rows, rows: &[usize], depth: usize, to: &mut [f32]) {
        for i in 0..rows.len().max(2) {
            let row = rows[i.min(rows.len() - 1)] / self.slots;
            // SAFETY: the row is one of x's.
            let from = unsafe { std::slice::from_raw_parts(x.data.add(row * x.stride), depth) };
            match self.arithmetic {
                Arithmetic::Float => to[i * depth..(i + 1) * depth].copy_from_slice(from),
                Arithmetic::Brain => {
                    let next = depth.next_multiple_of(2);
                    // SAFETY: two values in a float; `to` holds GATHERED rows of floats.
                    let halves =
                        unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<u16>().add(i * next), next) };
                    round_row(from, halves);
                }
            }
        }
    }

    /// # Safety
    /// `rows` holds `n` gathered rows, `out` has room for `n` results.
    unsafe fn multiply(
        &self,
        part: Weight,
        rows: *const f32,
        depth: usize,
        out: RowsMut,
        n: usize,
        panel: &mut [f32],
    ) -> Result<()> {
        // SAFETY: by the caller.
        unsafe {
            match (self.arithmetic, self.side) {
                (Arithmetic::Float, Side::Forward) => {
                    forward(&part, Rows { data: rows, stride: depth }, out, n, panel, Share::ALL)
                }
                (Arithmetic::Float, Side::Transposed) => {
                    transposed(&part, Rows { data: rows, stride: depth }, out, n, panel, Share::ALL)
                }
                (Arithmetic::Brain, _) => {
                    sum_of_products(&[self.term(part, rows.cast(), depth)], out, n, panel, Share::ALL)
                }
            }
        }
    }
}

/// Operands of [`sums`]: rows of a and b, of their widths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    pub(crate) a: Rows,
    pub(crate) n_a: usize,
    pub(crate) b: Rows,
    pub(crate) n_b: usize,
    /// Row i of b goes with row i / `slots` of a.
    pub(crate) slots: usize,
}

/// This thread's share of `out[e] = Σ_i a[i / slots]·b[i]ᵀ` over the rows i that chose e: \[n_a, n_b\] for each expert, one behind
/// another; zeros where nobody chose it.
///
/// # Safety
/// `a` and `b` hold the rows of the choices, `out` n_a · n_b floats for each of `n_experts`; nobody else touches the share's
/// columns of `out` meanwhile.
pub(crate) unsafe fn sums(outer: &Outer, choices: &Choices, n_experts: usize, out: *mut f32, share: Share) {
    let Outer { a, n_a, b, n_b, slots } = *outer;
    let columns = share.of(n_a, LANES);
    let width = columns.len();
    if width == 0 {
        return;
    }
    let (mut left, mut right) = (vec![0.0f32; GATHERED * width], vec![0.0f32; GATHERED * n_b]);
    for expert in 0..n_experts {
        // SAFETY: this expert's part of the result, and of it this thread's columns.
        let own = unsafe { out.add(expert * n_a * n_b + columns.start) };
        let chosen = choices.of(expert);
        if chosen.is_empty() {
            for r in 0..n_b {
                // SAFETY: as above.
                unsafe { std::slice::from_raw_parts_mut(own.add(r * n_a), width).fill(0.0) };
            }
        }
        for (pass, rows) in chosen.chunks(GATHERED).enumerate() {
            for (i, &row) in rows.iter().enumerate() {
                // SAFETY: rows of a and b by the caller.
                unsafe {
                    let from = a.data.add(row / slots * a.stride + columns.start);
                    left[i * width..(i + 1) * width].copy_from_slice(std::slice::from_raw_parts(from, width));
                    let from = b.data.add(row * b.stride);
                    right[i * n_b..(i + 1) * n_b].copy_from_slice(std::slice::from_raw_parts(from, n_b));
                }
            }
            let s = |n: usize| n as isize;
            // SAFETY: shapes as gathered; the result's columns are this thread's.
            unsafe {
                gemm(
                    width,
                    n_b,
                    rows.len(),
                    own,
                    s(n_a),
                    1,
                    pass > 0,
                    left.as_ptr(),
                    s(width),
                    1,
                    right.as_ptr(),
                    1,
                    s(n_b),
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quant::Type;

    const EXPERTS: usize = 3;
    /// Rows of the result; expert 1 is chosen by one row, expert 2 by none.
    const CHOSEN: [i32; 7] = [0, 0, 1, 0, 0, 0, 0];

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i + seed) * 7919 % 1000) as f32 / 500.0 - 1.0).collect()
    }

    /// The product of every row with its expert's decoded matrix, in F64.
    fn plain(w: &[f32], [n_in, n_out]: [usize; 2], x: &[f32], side: Side, slots: usize) -> Vec<f64> {
        let (depth, width) = if side == Side::Forward { (n_in, n_out) } else { (n_out, n_in) };
        let mut y = vec![0.0f64; CHOSEN.len() * width];
        for (i, &e) in CHOSEN.iter().enumerate() {
            let row = &x[i / slots * depth..][..depth];
            for o in 0..n_out {
                for k in 0..n_in {
                    let w = f64::from(w[(e as usize * n_out + o) * n_in + k]);
                    match side {
                        Side::Forward => y[i * width + o] += w * f64::from(row[k]),
                        Side::Transposed => y[i * width + k] += w * f64::from(row[o]),
                    }
                }
            }
        }
        y
    }

    /// On every number of threads, whole and as shares: the same bits, near the plain product.
    #[test]
    fn every_row_meets_the_matrix_it_chose() {
        let [n_in, n_out] = [96, 40];
        let floats = numbers(n_in * n_out * EXPERTS, 3);
        let bytes = quant::quantize_row(Type::Q8_0, &floats).unwrap();
        let mut decoded = vec![0.0; floats.len()];
        quant::dequantize_row(Type::Q8_0, &bytes, &mut decoded).unwrap();
        unsafe extern "C" fn decode(src: *const std::ffi::c_void, dst: *mut f32, n: i64) {
            let n = n as usize;
            // SAFETY: ggml's contract: n elements of whole blocks.
            unsafe {
                let bytes = std::slice::from_raw_parts(src.cast::<u8>(), n / 32 * 34);
                quant::dequantize_row(Type::Q8_0, bytes, std::slice::from_raw_parts_mut(dst, n)).unwrap();
            }
        }
        let row_bytes = bytes.len() / (n_out * EXPERTS);
        // SAFETY: the bytes outlive the weight.
        let all = unsafe { Weight::new(Type::Q8_0, [n_in, n_out * EXPERTS], row_bytes, bytes.as_ptr(), Some(decode)) };
        let stack = Stack::new(all.unwrap(), EXPERTS).unwrap();
        let choices = Choices::sort(EXPERTS, CHOSEN.len(), |i| CHOSEN[i]).unwrap();
        for (arithmetic, bound) in [(Arithmetic::Float, 1e-6), (Arithmetic::Brain, 1e-2)] {
            for (side, slots) in [(Side::Forward, 1), (Side::Forward, 7), (Side::Transposed, 1)] {
                let (depth, width) = stack.sizes(side);
                let x = numbers(CHOSEN.len() / slots * depth, 11);
                let wanted = plain(&decoded, [n_in, n_out], &x, side, slots);
                let routed = Routed { stack: &stack, side, arithmetic, choices: &choices, slots };
                let run = |nth: usize| {
                    let mut y = vec![f32::NAN; CHOSEN.len() * width];
                    for ith in 0..nth {
                        let share = Share { ith, nth };
                        let mut scratch = vec![0.0; routed.scratch_floats(share) + 16];
                        let from = scratch.as_ptr().align_offset(64);
                        let rows = Rows { data: x.as_ptr(), stride: depth };
                        let out = RowsMut { data: y.as_mut_ptr(), stride: width, accumulate: false };
                        // SAFETY: x and y hold the rows.
                        unsafe { routed.compute(rows, out, &mut scratch[from..], share) }.unwrap();
                    }
                    y
                };
                let y = run(1);
                let norm = wanted.iter().map(|w| w * w).sum::<f64>().sqrt();
                let error = y.iter().zip(&wanted).map(|(y, w)| (f64::from(*y) - w).powi(2)).sum::<f64>().sqrt() / norm;
                assert!(error < bound, "{arithmetic:?} {side:?} {slots}: {error:e}");
                assert!(run(2) == y && run(3) == y, "{arithmetic:?} {side:?}: other bits on other threads");
            }
        }
        assert!(Choices::sort(EXPERTS, 1, |_| 3).is_err() && Choices::sort(EXPERTS, 1, |_| -1).is_err());
    }
}
