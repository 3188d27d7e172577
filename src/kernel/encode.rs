//! Encoders of the types that most files are stored in, in vector arithmetic chosen at run time: bit for bit what ggml writes,
//! whose own loops over these types go value by value.

use super::decode::{decoder, Decode};
use super::simd::simd;
use quant::Type;

/// Encodes whole blocks; `src` and `dst` fit each other. False where that is left to ggml: some value is no finite number, or a
/// block is so small that the inverse of its step is none.
pub(crate) type Encode = fn(src: &[f32], dst: &mut [u8]) -> bool;

/// Our encoder of a type, if there is one.
pub(crate) fn encoder(ty: Type) -> Option<Encode> {
    Some(match ty {
        Type::F32 => f32_bytes,
        Type::F16 => f16,
        Type::BF16 => bf16,
        Type::Q8_0 => q8_0,
        _ => return None,
    })
}

/// Our decoder of a type, if it gives ggml's bits: one product per value leaves nothing to round differently.
pub(crate) fn exact_decoder(ty: Type) -> Option<Decode> {
    matches!(ty, Type::F16 | Type::BF16 | Type::Q4_0 | Type::Q5_0 | Type::Q8_0 | Type::Q6_K).then(|| decoder(ty))?
}

/// Magnitudes from here on are infinite or no numbers.
const INFINITE: u32 = 0x7f80_0000;

/// The largest magnitude, as bits: their order is that of the magnitudes, and what is no finite number comes last.
#[inline(always)]
fn largest(values: &[f32]) -> u32 {
    values.iter().fold(0, |top, x| top.max(x.to_bits() & 0x7fff_ffff))
}

/// A finite F32 as F16, to the nearest, ties to even; infinite from 65520 on.
#[inline(always)]
fn half(x: f32) -> u16 {
    // A magnitude above the smallest normal half: another offset of the exponent, and thirteen bits are rounded away.
    const OFFSET: u32 = (127 - 15) << 23;
    const SMALLEST: u32 = (127 - 14) << 23;
    const BEYOND: u32 = (127 + 16) << 23;
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let normal = magnitude.wrapping_sub(OFFSET).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
    // Below it, the last place of x + 1/2 is that of a subnormal half, so that the sum rounds as is wanted.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let rounded = if magnitude < SMALLEST { subnormal } else { normal };
    let rounded = if magnitude >= BEYOND { 0x7c00 } else { rounded };
    (bits >> 16 & 0x8000 | rounded) as u16
}

simd! {
    fn f32_bytes(src: &[f32], dst: &mut [u8]) -> bool {
        dst.chunks_exact_mut(4).zip(src).for_each(|(o, x)| o.copy_from_slice(&x.to_le_bytes()));
        largest(src) < INFINITE
    }
}

simd! {
    fn f16(src: &[f32], dst: &mut [u8]) -> bool {
        dst.chunks_exact_mut(2).zip(src).for_each(|(o, &x)| o.copy_from_slice(&half(x).to_le_bytes()));
        largest(src) < INFINITE
    }
}

simd! {
    fn bf16(src: &[f32], dst: &mut [u8]) -> bool {
        for (o, x) in dst.chunks_exact_mut(2).zip(src) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            o.copy_from_slice(&(rounded as u16).to_le_bytes());
        }
        largest(src) < INFINITE
    }
}

simd! {
    fn q8_0(src: &[f32], dst: &mut [u8]) -> bool {
        // Adding 1.5 · 2^23 to a small integer leaves it in the lowest bits.
        const SHIFT: f32 = 12_582_912.0;
        let mut ours = true;
        for (x, out) in src.chunks_exact(32).zip(dst.chunks_exact_mut(34)) {
            let top = largest(x);
            let step = f32::from_bits(top) / 127.0;
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            ours &= top < INFINITE && inverse.is_finite();
            let (scale, codes) = out.split_at_mut(2);
            scale.copy_from_slice(&half(step).to_le_bytes());
            for (o, &x) in codes.iter_mut().zip(x) {
                // Ties away from zero, as C's roundf.
                *o = ((x * inverse).round() + SHIFT).to_bits() as u8;
            }
        }
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{random_bytes, Random};
    use super::*;

    fn encoded(ty: Type, values: &[f32]) -> (bool, Vec<u8>) {
        let mut bytes = vec![0; ty.row_bytes(values.len() as u64).unwrap() as usize];
        (encoder(ty).unwrap()(values, &mut bytes), bytes)
    }

    /// Every exponent, many mantissas, both signs: ties, subnormals, what overflows.
    fn numbers() -> Vec<f32> {
        let mantissas =
            [0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0x7f_efff, 0x7f_ffff];
        let mut out = Vec::new();
        for exponent in 0..255u32 {
            for low in mantissas {
                let magnitude = f32::from_bits(exponent << 23 | low);
                out.extend([magnitude, -magnitude]);
            }
        }
        out.resize(out.len().next_multiple_of(32), 0.25);
        out
    }

    #[test]
    fn halves_are_those_of_the_oracle() {
        let values = numbers();
        for ty in [Type::F32, Type::F16, Type::BF16] {
            let (ours, bytes) = encoded(ty, &values);
            assert!(ours && bytes == quant::quantize_row(ty, &values).unwrap(), "{}", ty.name());
        }
        // All halves come back as they were.
        let all: Vec<f32> =
            (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).filter(|x| x.is_finite()).collect();
        let back: Vec<f32> = all.iter().map(|&x| half::f16::from_bits(half(x)).to_f32()).collect();
        assert!(all.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn blocks_are_those_of_the_oracle() {
        let mut random = Random(7);
        for scale in [1.0f32, 1e-3, 1e-8, 3e-36, 1e4, 3e38] {
            let mut values: Vec<f32> = (0..1 << 12).map(|_| random.signed() * scale).collect();
            // A block of zeros, and one whose values lie halfway between two codes.
            values[..32].fill(0.0);
            (32..64).for_each(|i| values[i] = if i == 32 { 127.0 } else { i as f32 - 48.5 });
            let (ours, bytes) = encoded(Type::Q8_0, &values);
            assert!(ours && bytes == quant::quantize_row(Type::Q8_0, &values).unwrap(), "{scale}");
        }
    }

    #[test]
    fn what_is_no_number_is_left_to_ggml() {
        for ty in [Type::F32, Type::F16, Type::BF16, Type::Q8_0] {
            for (bad, ours) in [(f32::NAN, false), (f32::INFINITY, false), (-f32::INFINITY, false), (1.0, true)] {
                let mut values = vec![0.5; 64];
                values[41] = bad;
                assert_eq!(encoded(ty, &values).0, ours, "{} {bad}", ty.name());
            }
        }
        assert!(!encoded(Type::Q8_0, &[1e-40; 32]).0);
    }

    #[test]
    fn some_decoders_are_exact() {
        let mut n_types = 0;
        for (ty, decode) in Type::ALL.iter().filter_map(|&ty| Some((ty, exact_decoder(ty)?))) {
            let n = 64 * 256;
            let bytes = random_bytes(ty, n, &mut Random(ty as u64 + 1));
            let (mut found, mut wanted) = (vec![0.0; n], vec![0.0; n]);
            decode(&bytes, &mut found);
            quant::dequantize_row(ty, &bytes, &mut wanted).unwrap();
            assert!(found.iter().zip(&wanted).all(|(f, w)| f.to_bits() == w.to_bits()), "{}", ty.name());
            n_types += 1;
        }
        assert_eq!(n_types, 6);
    }
}
