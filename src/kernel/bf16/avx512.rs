//! The AVX-512 instructions for BF16.

use super::{Results, Stretch, Strips, LANES};
use std::arch::x86_64::*;

/// True if the CPU has them.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

fn mask(n: usize) -> u16 {
    if n >= LANES {
        u16::MAX
    } else {
        (1 << n) - 1
    }
}

/// As [`super::round_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn round_row(x: &[f32], out: &mut [u16]) {
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mask = mask(x.len());
        // SAFETY: the masked lanes lie within both slices.
        unsafe {
            let values = _mm512_maskz_loadu_ps(mask, x.as_ptr());
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
            _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), mask, rounded);
        }
    }
}

/// As [`super::interleave`].
///
/// # Safety
/// The strips have room.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn interleave(first: &[f32], second: &[f32], pair: usize, strips: &Strips) {
    for (i, (first, second)) in first.chunks(LANES).zip(second.chunks(LANES)).enumerate() {
        let mask = mask(first.len());
        // SAFETY: masked loads stay within the rows; `place` lies within the strips by the caller.
        unsafe {
            let low = widened(_mm512_maskz_loadu_ps(mask, first.as_ptr()));
            let high = widened(_mm512_maskz_loadu_ps(mask, second.as_ptr()));
            let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            _mm512_storeu_si512(strips.place(pair, i * LANES).cast(), both);
        }
    }
}

/// Sixteen values rounded to BF16, each in the low half of 32 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn widened(x: __m512) -> __m512i {
    // SAFETY: both are 256 bits.
    _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) })
}

/// `R` rows of results in `V` vectors of columns, from row `first` on.
///
/// # Safety
/// As [`super::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn tile<const R: usize, const V: usize>(stretches: &[Stretch], first: usize, out: Results) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for s in stretches {
        let (mut strip, mut rows) = (s.strip, s.rows.wrapping_add(first * s.row_next));
        for _ in 0..s.pairs {
            // SAFETY: by the caller: this pair lies in the strip and in every row.
            unsafe {
                let mut weights = [_mm512_setzero_si512(); V];
                for (v, w) in weights.iter_mut().enumerate() {
                    *w = _mm512_loadu_si512(strip.add(v * 2 * LANES).cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let pair = _mm512_set1_epi32(rows.add(r * s.row_next).cast::<i32>().read_unaligned());
                    for (sum, w) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(
                            *sum,
                            std::mem::transmute::<__m512i, __m512bh>(pair),
                            std::mem::transmute::<__m512i, __m512bh>(w),
                        );
                    }
                }
                strip = strip.add(V * 2 * LANES);
                rows = rows.add(2);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sum) in sums.iter().enumerate() {
            let mask = mask(out.columns - v * LANES);
            // SAFETY: masked to the valid columns of row r.
            unsafe {
                let at = out.data.add((first + r) * out.stride + v * LANES);
                let sum = if out.add { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, at)) } else { sum };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}
