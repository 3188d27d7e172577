//! Slow twins for the tests: element-wise decoders written from the block formats, and products in f64.

use std::ffi::c_void;

use half_bits::{bf16, f16};
use quant::Type;

use super::weight::{ToFloat, Weight};

/// Floats between the end of one token's row and the start of the next, filled with a value that must survive.
pub(super) const GAP: usize = 3;
const UNTOUCHED: f32 = -12345.0;

/// Element `i` of the block `b` of type `ty`.
pub(super) fn element(ty: Type, b: &[u8], i: usize) -> f32 {
    let half = |at: usize| f16(u16::from_le_bytes([b[at], b[at + 1]]));
    let nibble = |at: usize, i: usize| i32::from(b[at + i % 16] >> (4 * (i / 16)) & 15);
    let fifth = |at: usize, i: usize| i32::from(b[at + i / 8] >> (i % 8) & 1) << 4;
    match ty {
        Type::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        Type::F16 => half(0),
        Type::BF16 => bf16(u16::from_le_bytes([b[0], b[1]])),
        Type::Q4_0 => (nibble(2, i) - 8) as f32 * half(0),
        Type::Q4_1 => nibble(4, i) as f32 * half(0) + half(2),
        Type::Q5_0 => ((nibble(6, i) | fifth(2, i)) - 16) as f32 * half(0),
        Type::Q5_1 => (nibble(8, i) | fifth(4, i)) as f32 * half(0) + half(2),
        Type::Q8_0 => f32::from(b[2 + i] as i8) * half(0),
        Type::Q4_K | Type::Q5_K => {
            let (s, group) = (&b[4..16], i / 32);
            let (scale, min) = if group < 4 {
                (s[group] & 63, s[group + 4] & 63)
            } else {
                let high = |at: usize| (s[at] >> 6) << 4;
                (s[group + 4] & 15 | high(group - 4), s[group + 4] >> 4 | high(group))
            };
            let quants = if ty == Type::Q4_K { 16 } else { 48 };
            let mut q = b[quants + i / 64 * 32 + i % 32] >> (4 * (group % 2)) & 15;
            if ty == Type::Q5_K {
                q |= (b[16 + i % 32] >> group & 1) << 4;
            }
            half(0) * f32::from(scale) * f32::from(q) - half(2) * f32::from(min)
        }
        Type::Q6_K => {
            // Halves of 128; within one, four groups of 32 share 64 bytes of nibbles and 32 bytes of bit pairs.
            let (part, group, l) = (i / 128, i % 128 / 32, i % 32);
            let low = b[part * 64 + group % 2 * 32 + l] >> (4 * (group / 2)) & 15;
            let high = b[128 + part * 32 + l] >> (2 * group) & 3;
            half(208) * f32::from(b[192 + i / 16] as i8) * f32::from((low | high << 4) as i8 - 32)
        }
        other => panic!("no reference decoder for {other:?}"),
    }
}

mod half_bits {
    pub(super) fn f16(bits: u16) -> f32 {
        let (sign, exponent, mantissa) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
        let magnitude = match exponent {
            0 => mantissa * 2f32.powi(-24),
            31 if mantissa == 0.0 => f32::INFINITY,
            31 => f32::NAN,
            _ => (1024.0 + mantissa) * 2f32.powi(exponent - 25),
        };
        if sign == 1 {
            -magnitude
        } else {
            magnitude
        }
    }

    pub(super) fn bf16(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }
}

macro_rules! decoder {
    ($name:ident, $ty:expr) => {
        unsafe extern "C" fn $name(src: *const c_void, dst: *mut f32, n: i64) {
            let (len, bytes) = ($ty.block_len(), $ty.block_bytes());
            for i in 0..n as usize {
                // SAFETY: n elements are whole blocks of the tests' own buffers.
                unsafe {
                    let block = std::slice::from_raw_parts(src.cast::<u8>().add(i / len * bytes), bytes);
                    *dst.add(i) = element($ty, block, i % len);
                }
            }
        }
    };
}
decoder!(decode_f16, Type::F16);
decoder!(decode_bf16, Type::BF16);
decoder!(decode_q4_0, Type::Q4_0);
decoder!(decode_q4_1, Type::Q4_1);
decoder!(decode_q5_0, Type::Q5_0);
decoder!(decode_q5_1, Type::Q5_1);
decoder!(decode_q8_0, Type::Q8_0);
decoder!(decode_q4_k, Type::Q4_K);
decoder!(decode_q5_k, Type::Q5_K);
decoder!(decode_q6_k, Type::Q6_K);

pub(super) fn to_float(ty: Type) -> Option<ToFloat> {
    Some(match ty {
        Type::F32 => return None,
        Type::F16 => decode_f16,
        Type::BF16 => decode_bf16,
        Type::Q4_0 => decode_q4_0,
        Type::Q4_1 => decode_q4_1,
        Type::Q5_0 => decode_q5_0,
        Type::Q5_1 => decode_q5_1,
        Type::Q8_0 => decode_q8_0,
        Type::Q4_K => decode_q4_k,
        Type::Q5_K => decode_q5_k,
        Type::Q6_K => decode_q6_k,
        other => panic!("no reference decoder for {other:?}"),
    })
}

/// A small deterministic generator (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub(super) fn signed(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// One product: a weight, activations for both directions, and a previous output.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) ty: Type,
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) t: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) x: Vec<f32>,
    pub(super) dy: Vec<f32>,
}

impl Case {
    pub(super) fn random(ty: Type, n_in: usize, n_out: usize, t: usize) -> Self {
        let mut random = Random(ty as u64 + (n_in * 31 + n_out * 7 + t) as u64);
        let bytes = random_bytes(ty, n_in * n_out, &mut random);
        let mut rows = |width: usize| (0..t * (width + GAP)).map(|_| random.signed()).collect();
        Self { ty, n_in, n_out, t, bytes, x: rows(n_in), dy: rows(n_out) }
    }

    pub(super) fn weight(&self) -> Weight {
        let row_bytes = self.n_in / self.ty.block_len() * self.ty.block_bytes();
        let shape = [self.n_in, self.n_out];
        // SAFETY: `bytes` holds n_out such rows and outlives the tests' use of the weight.
        unsafe { Weight::new(self.ty, shape, row_bytes, self.bytes.as_ptr(), to_float(self.ty)) }.unwrap()
    }

    /// The input and the output's first content, both with gaps.
    pub(super) fn operands(&self, back: bool) -> (&[f32], Vec<f32>) {
        let (source, width) = if back { (&self.dy, self.n_in) } else { (&self.x, self.n_out) };
        (source, self.previous(width))
    }

    fn previous(&self, width: usize) -> Vec<f32> {
        let at = |i: usize| if i % (width + GAP) < width { (i % 7) as f32 - 3.0 } else { UNTOUCHED };
        (0..self.t * (width + GAP)).map(at).collect()
    }

    pub(super) fn decoded(&self) -> Vec<f32> {
        let (len, bytes) = (self.ty.block_len(), self.ty.block_bytes());
        (0..self.n_in * self.n_out).map(|i| element(self.ty, &self.bytes[i / len * bytes..], i % len)).collect()
    }

    /// The product in f64, gaps included.
    pub(super) fn product(&self, back: bool, accumulate: bool) -> Vec<f64> {
        let w = self.decoded();
        let (source, width, inner) =
            if back { (&self.dy, self.n_in, self.n_out) } else { (&self.x, self.n_out, self.n_in) };
        let mut out: Vec<f64> = self.previous(width).into_iter().map(f64::from).collect();
        for t in 0..self.t {
            let x = &source[t * (inner + GAP)..][..inner];
            for c in 0..width {
                let row = |k: usize| if back { w[k * self.n_in + c] } else { w[c * self.n_in + k] };
                let sum: f64 = x.iter().enumerate().map(|(k, &v)| f64::from(v) * f64::from(row(k))).sum();
                let to = &mut out[t * (width + GAP) + c];
                *to = if accumulate { *to + sum } else { sum };
            }
        }
        out
    }
}

pub(super) fn random_bytes(ty: Type, elements: usize, random: &mut Random) -> Vec<u8> {
    match ty {
        Type::F32 => (0..elements).flat_map(|_| random.signed().to_le_bytes()).collect(),
        Type::BF16 => (0..elements).flat_map(|_| ((random.signed().to_bits() >> 16) as u16).to_le_bytes()).collect(),
        // Exponents 0 to 14 of f16: below one, subnormals among them.
        Type::F16 => (0..elements).flat_map(|_| (random.bits() as u16 & 0xbbff).to_le_bytes()).collect(),
        _ => {
            let (len, bytes) = (ty.block_len(), ty.block_bytes());
            let mut data: Vec<u8> = (0..elements / len * bytes).map(|_| random.bits() as u8).collect();
            let scales: &[usize] = match ty {
                Type::Q4_0 | Type::Q5_0 | Type::Q8_0 => &[0],
                Type::Q6_K => &[208],
                _ => &[0, 2],
            };
            for block in data.chunks_exact_mut(bytes) {
                for &at in scales {
                    // An f16 of either sign between 2^-8 and 2^-6.
                    let half = random.bits() as u16 & 0x83ff | (7 + (random.bits() as u16 & 1)) << 10;
                    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
            data
        }
    }
}

/// Root mean square of the difference over that of `want`; infinite where a gap was written to.
pub(super) fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let gap = |w: f64| w == f64::from(UNTOUCHED);
    if got.iter().zip(want).any(|(&g, &w)| gap(w) && g != UNTOUCHED) {
        return f64::INFINITY;
    }
    let pairs = || got.iter().zip(want).filter(|(_, &w)| !gap(w)).map(|(&g, &w)| (f64::from(g), w));
    let difference: f64 = pairs().map(|(g, w)| (g - w) * (g - w)).sum();
    (difference / pairs().map(|(_, w)| w * w).sum::<f64>()).sqrt()
}
