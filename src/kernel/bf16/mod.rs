//! BF16 arithmetic: rounding rows, laying weights out in strips, and the product of the two.
//!
//! Every result is a sum in F32 of products of two BF16 numbers. AVX-512's instruction (`vdpbf16ps`) takes two depths at a
//! time, so rows hold an even number of values and a strip holds, for each pair of depths, both values of each of its
//! columns. CPUs without it run the portable twin, which is right and slow.

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Columns in a vector of results.
pub(super) const LANES: usize = 16;
/// Vectors of columns in a full strip: with [`ROWS`] rows they fill the registers.
const VECTORS: usize = 3;
/// Columns of a full strip.
pub(super) const STRIP: usize = LANES * VECTORS;
/// Rows (tokens) that a full step of the product takes.
pub(super) const ROWS: usize = 8;

/// True if the CPU multiplies BF16 numbers faster than F32 ones.
pub fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::available();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Rounds to the nearest BF16, ties to even.
fn rounded(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

/// Rounds a row; `out` holds an even number of values, a missing last one becomes 0.
pub(crate) fn round_row(x: &[f32], out: &mut [u16]) {
    debug_assert_eq!(out.len(), x.len().next_multiple_of(2));
    if let Some(last) = out.last_mut() {
        *last = 0;
    }
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        // SAFETY: the CPU has the instructions.
        return unsafe { avx512::round_row(x, out) };
    }
    for (o, &x) in out.iter_mut().zip(x) {
        *o = rounded(x);
    }
}

/// Writes two rows of a weight as one pair of depths: value `i` of both goes to column `i`.
///
/// # Safety
/// The strips have room for the rows' columns.
pub(super) unsafe fn interleave(first: &[f32], second: &[f32], pair: usize, strips: &Strips) {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        // SAFETY: the CPU has the instructions; the rest by the caller.
        return unsafe { avx512::interleave(first, second, pair, strips) };
    }
    for i in 0..first.len().next_multiple_of(LANES) {
        let value = |row: &[f32]| rounded(row.get(i).copied().unwrap_or(0.0));
        let place = strips.place(pair, i / LANES * LANES).wrapping_add(i % LANES * 2);
        // SAFETY: by the caller.
        unsafe {
            place.write(value(first));
            place.add(1).write(value(second));
        }
    }
}

/// Strips of a panel: `pairs` pairs of depths for `columns` columns. All strips but the last are [`STRIP`] columns wide, the
/// last one is as many vectors wide as it needs.
#[derive(Clone, Copy)]
pub(super) struct Strips {
    pub(super) data: *mut u16,
    pub(super) pairs: usize,
    pub(super) columns: usize,
}

impl Strips {
    /// Values that the strips of a panel take.
    pub(super) fn len(pairs: usize, columns: usize) -> usize {
        pairs * 2 * columns.next_multiple_of(LANES)
    }

    /// Vectors of columns of the strip that starts at `column`.
    pub(super) fn vectors(&self, column: usize) -> usize {
        (self.columns - column).min(STRIP).div_ceil(LANES)
    }

    /// The start of the strip at `column`, a multiple of [`STRIP`].
    pub(super) fn strip(&self, column: usize) -> *mut u16 {
        self.data.wrapping_add(column * self.pairs * 2)
    }

    /// Where the vector of columns from `column` on lies in a pair.
    pub(super) fn place(&self, pair: usize, column: usize) -> *mut u16 {
        let start = column / STRIP * STRIP;
        let width = self.vectors(start) * LANES * 2;
        self.strip(start).wrapping_add(pair * width + (column - start) * 2)
    }
}

/// Writes rows of a weight, already rounded, as the columns of one vector: row `j` becomes column `column + j`.
///
/// # Safety
/// `rows` holds up to sixteen rows of `2 * strips.pairs` values; the strips have room.
pub(super) unsafe fn transpose(rows: &[u16], n_rows: usize, column: usize, strips: &Strips) {
    let pairs = strips.pairs;
    let first = strips.place(0, column).cast::<u32>();
    let step = strips.vectors(column / STRIP * STRIP) * LANES;
    for j in 0..LANES {
        for p in 0..pairs {
            let both = match j < n_rows {
                // SAFETY: row j has 2·pairs values.
                true => unsafe { rows.as_ptr().add(j * 2 * pairs).cast::<u32>().add(p).read_unaligned() },
                false => 0,
            };
            // SAFETY: by the caller.
            unsafe { first.add(p * step + j).write_unaligned(both) };
        }
    }
}

/// One stretch of a sum: rows of activations and a strip of weights over the same depths.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    /// First row.
    pub(super) rows: *const u16,
    /// Values between rows.
    pub(super) row_next: usize,
    /// The strip.
    pub(super) strip: *const u16,
    /// Pairs of depths.
    pub(super) pairs: usize,
}

/// Where results go: F32 rows, `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Results {
    pub(super) data: *mut f32,
    pub(super) stride: usize,
    /// Valid columns; a last vector may be narrower than its registers.
    pub(super) columns: usize,
    /// Add to what is there.
    pub(super) add: bool,
}

/// `rows` rows of results, at most [`ROWS`], one strip wide: the sum over all stretches.
///
/// # Safety
/// The stretches hold `rows` rows and a strip of as many vectors as `out.columns` need; `out` may be written that far.
pub(super) unsafe fn product(stretches: &[Stretch], rows: usize, out: Results) {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        let vectors = out.columns.div_ceil(LANES);
        // SAFETY: the CPU has the instructions; the rest by the caller.
        unsafe {
            match (rows == ROWS, vectors) {
                (true, 3) => return avx512::tile::<ROWS, 3>(stretches, 0, out),
                (true, 2) => return avx512::tile::<ROWS, 2>(stretches, 0, out),
                (true, _) => return avx512::tile::<ROWS, 1>(stretches, 0, out),
                (false, 3) => (0..rows).for_each(|r| avx512::tile::<1, 3>(stretches, r, out)),
                (false, 2) => (0..rows).for_each(|r| avx512::tile::<1, 2>(stretches, r, out)),
                (false, _) => (0..rows).for_each(|r| avx512::tile::<1, 1>(stretches, r, out)),
            }
        }
        return;
    }
    // SAFETY: by the caller.
    unsafe { portable(stretches, rows, out) };
}

/// # Safety
/// As [`product`].
unsafe fn portable(stretches: &[Stretch], rows: usize, out: Results) {
    let wide = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let width = out.columns.next_multiple_of(LANES) * 2;
    for (r, c) in (0..rows).flat_map(|r| (0..out.columns).map(move |c| (r, c))) {
        let mut sum = 0.0f32;
        for s in stretches {
            for k in 0..2 * s.pairs {
                // SAFETY: by the caller.
                unsafe {
                    sum += wide(*s.rows.add(r * s.row_next + k)) * wide(*s.strip.add(k / 2 * width + c * 2 + k % 2));
                }
            }
        }
        // SAFETY: by the caller.
        unsafe {
            let to = out.data.add(r * out.stride + c);
            *to = if out.add { *to + sum } else { sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::Random;
    use super::*;

    #[test]
    fn the_instructions_equal_the_portable_twin() {
        let (pairs, row_next, mut random) = (37, 80, Random(5));
        for (rows, columns) in [(8, 48), (8, 31), (8, 9), (3, 48), (1, 17), (2, 16)] {
            let mut strips = vec![0u16; Strips::len(pairs, columns)];
            let laid = Strips { data: strips.as_mut_ptr(), pairs, columns };
            for pair in 0..pairs {
                let row: Vec<f32> = (0..2 * columns).map(|_| random.signed()).collect();
                // SAFETY: the strips have the columns of the rows.
                unsafe { interleave(&row[..columns], &row[columns..], pair, &laid) };
            }
            let mut x = vec![0u16; rows * row_next];
            for row in x.chunks_exact_mut(row_next) {
                let values: Vec<f32> = (0..row_next).map(|_| random.signed()).collect();
                round_row(&values, row);
            }
            let stretch = Stretch { rows: x.as_ptr(), row_next, strip: laid.strip(0), pairs };
            let (mut fast, mut slow) = (vec![1.5f32; rows * 50], vec![1.5f32; rows * 50]);
            for add in [false, true] {
                let out = |data: &mut Vec<f32>| Results { data: data.as_mut_ptr(), stride: 50, columns, add };
                // SAFETY: rows, strip and results of these sizes.
                unsafe {
                    product(&[stretch, stretch], rows, out(&mut fast));
                    portable(&[stretch, stretch], rows, out(&mut slow));
                }
            }
            assert!(fast.iter().zip(&slow).all(|(f, s)| (f - s).abs() < 1e-4), "{rows} x {columns}");
            assert!(fast[columns..50].iter().all(|&f| f == 1.5), "a gap was written to");
        }
    }
}
