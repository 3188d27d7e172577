//! Decoders of the common weight types in vector arithmetic chosen at run time; ggml's own serve the others, and as twins.

use super::simd::simd;
use quant::Type;

/// Decodes whole blocks; `src` and `dst` fit each other.
pub(crate) type Decode = fn(src: &[u8], dst: &mut [f32]);

/// Our decoder of a type, if there is one.
pub(super) fn decoder(ty: Type) -> Option<Decode> {
    Some(match ty {
        Type::F16 => f16,
        Type::BF16 => bf16,
        Type::Q4_0 => q4_0,
        Type::Q4_1 => q4_1,
        Type::Q5_0 => q5_0,
        Type::Q5_1 => q5_1,
        Type::Q8_0 => q8_0,
        Type::Q4_K => q4_k,
        Type::Q5_K => q5_k,
        Type::Q6_K => q6_k,
        _ => return None,
    })
}

/// An F16 as F32, without a library call inside the loops.
#[inline(always)]
fn half(low: u8, high: u8) -> f32 {
    let bits = u32::from(low) | u32::from(high) << 8;
    let (sign, rest) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    let magnitude = if bits & 0x7c00 == 0x7c00 {
        rest | 0x7f80_0000
    } else {
        // Moving the exponent by a product also makes subnormals right.
        (f32::from_bits(rest) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(sign | magnitude)
}

simd! {
    fn f16(src: &[u8], dst: &mut [f32]) {
        for (o, b) in dst.iter_mut().zip(src.chunks_exact(2)) {
            *o = half(b[0], b[1]);
        }
    }
}

simd! {
    fn bf16(src: &[u8], dst: &mut [f32]) {
        for (o, b) in dst.iter_mut().zip(src.chunks_exact(2)) {
            *o = f32::from_bits(u32::from(b[0]) << 16 | u32::from(b[1]) << 24);
        }
    }
}

simd! {
    fn q4_0(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(18).zip(dst.chunks_exact_mut(32)) {
            let (d, (low, high)) = (half(b[0], b[1]), out.split_at_mut(16));
            for ((l, h), &q) in low.iter_mut().zip(high).zip(&b[2..18]) {
                *l = (i32::from(q & 15) - 8) as f32 * d;
                *h = (i32::from(q >> 4) - 8) as f32 * d;
            }
        }
    }
}

simd! {
    fn q4_1(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(20).zip(dst.chunks_exact_mut(32)) {
            let (d, m, (low, high)) = (half(b[0], b[1]), half(b[2], b[3]), out.split_at_mut(16));
            for ((l, h), &q) in low.iter_mut().zip(high).zip(&b[4..20]) {
                *l = f32::from(q & 15) * d + m;
                *h = f32::from(q >> 4) * d + m;
            }
        }
    }
}

/// The fifth bits of a block as numbers 0 or 16.
#[inline(always)]
fn fifths(mask: &[u8]) -> [u8; 32] {
    let bits = u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]]);
    let mut out = [0; 32];
    for (i, o) in out.iter_mut().enumerate() {
        *o = ((bits >> i & 1) << 4) as u8;
    }
    out
}

simd! {
    fn q5_0(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(22).zip(dst.chunks_exact_mut(32)) {
            let (d, fifth, (low, high)) = (half(b[0], b[1]), fifths(&b[2..6]), out.split_at_mut(16));
            for (i, ((l, h), &q)) in low.iter_mut().zip(high).zip(&b[6..22]).enumerate() {
                *l = (i32::from(q & 15 | fifth[i]) - 16) as f32 * d;
                *h = (i32::from(q >> 4 | fifth[i + 16]) - 16) as f32 * d;
            }
        }
    }
}

simd! {
    fn q5_1(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(24).zip(dst.chunks_exact_mut(32)) {
            let (d, m, fifth) = (half(b[0], b[1]), half(b[2], b[3]), fifths(&b[4..8]));
            let (low, high) = out.split_at_mut(16);
            for (i, ((l, h), &q)) in low.iter_mut().zip(high).zip(&b[8..24]).enumerate() {
                *l = f32::from(q & 15 | fifth[i]) * d + m;
                *h = f32::from(q >> 4 | fifth[i + 16]) * d + m;
            }
        }
    }
}

simd! {
    fn q8_0(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(34).zip(dst.chunks_exact_mut(32)) {
            let d = half(b[0], b[1]);
            for (o, &q) in out.iter_mut().zip(&b[2..34]) {
                *o = f32::from(q as i8) * d;
            }
        }
    }
}

/// Scale and minimum of group `j` of eight, from twelve bytes of six bits each.
#[inline(always)]
fn scale_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

simd! {
    fn q4_k(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(144).zip(dst.chunks_exact_mut(256)) {
            let (d, d_min) = (half(b[0], b[1]), half(b[2], b[3]));
            for (j, group) in out.chunks_exact_mut(32).enumerate() {
                let (scale, min) = scale_min(&b[4..16], j);
                let (step, floor, shift) = (d * scale, d_min * min, 4 * (j % 2) as u32);
                for (o, &q) in group.iter_mut().zip(&b[16 + j / 2 * 32..][..32]) {
                    *o = step * f32::from(q >> shift & 15) - floor;
                }
            }
        }
    }
}

simd! {
    fn q5_k(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(176).zip(dst.chunks_exact_mut(256)) {
            let (d, d_min) = (half(b[0], b[1]), half(b[2], b[3]));
            for (j, group) in out.chunks_exact_mut(32).enumerate() {
                let (scale, min) = scale_min(&b[4..16], j);
                let (step, floor, shift) = (d * scale, d_min * min, 4 * (j % 2) as u32);
                let quants = b[48 + j / 2 * 32..][..32].iter().zip(&b[16..48]);
                for (o, (&q, &fifth)) in group.iter_mut().zip(quants) {
                    *o = step * f32::from(q >> shift & 15 | (fifth >> j & 1) << 4) - floor;
                }
            }
        }
    }
}

simd! {
    fn q6_k(src: &[u8], dst: &mut [f32]) {
        for (b, out) in src.chunks_exact(210).zip(dst.chunks_exact_mut(256)) {
            let d = half(b[208], b[209]);
            for (k, run) in out.chunks_exact_mut(16).enumerate() {
                // Halves of 128 values, in each four quarters of 32, in each two runs of 16 with a scale of their own.
                let (part, quarter, at) = (k / 8, k % 8 / 2, k % 2 * 16);
                let step = d * f32::from(b[192 + k] as i8);
                let low = &b[part * 64 + quarter % 2 * 32 + at..][..16];
                let high = &b[128 + part * 32 + at..][..16];
                let (nibble, pair) = (4 * (quarter / 2) as u32, 2 * quarter as u32);
                for ((o, &l), &h) in run.iter_mut().zip(low).zip(high) {
                    *o = step * (i32::from(l >> nibble & 15 | (h >> pair & 3) << 4) - 32) as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{random_bytes, Random};
    use super::*;

    #[test]
    fn every_decoder_equals_the_oracle() {
        let types = [
            Type::F16,
            Type::BF16,
            Type::Q4_0,
            Type::Q4_1,
            Type::Q5_0,
            Type::Q5_1,
            Type::Q8_0,
            Type::Q4_K,
            Type::Q5_K,
            Type::Q6_K,
        ];
        for ty in types {
            let n = 4 * 256;
            let bytes = random_bytes(ty, n, &mut Random(ty as u64));
            let (mut found, mut wanted) = (vec![0.0; n], vec![0.0; n]);
            decoder(ty).unwrap()(&bytes, &mut found);
            quant::dequantize_row(ty, &bytes, &mut wanted).unwrap();
            let largest = wanted.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            // A product and a sum may be rounded once or twice.
            let close = |(f, w): (&f32, &f32)| (f - w).abs() <= 2.0 * f32::EPSILON * largest;
            assert!(found.iter().zip(&wanted).all(close), "{}", ty.name());
        }
    }

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let [low, high] = bits.to_le_bytes();
            let (found, wanted) = (half(low, high), half::f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan(), "{bits:#x}");
        }
    }
}
