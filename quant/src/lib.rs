//! The block formats of ggml: their sizes, decoders of all of them, and some encoders, in safe, readable Rust.
//!
//! These are oracles, not kernels: a run decodes with ggml's own `to_float`, and a test holds that against this crate.

#![forbid(unsafe_code)]

mod books;
mod few;
mod iq;
mod iq4;
mod k;
mod legacy;
mod types;

pub use types::Type;

use half::{bf16, f16};
use std::fmt;

/// Why a row cannot be coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The row is no whole number of blocks, or the bytes do not fit the values.
    Size {
        /// The type.
        ty: Type,
        /// Bytes given.
        bytes: usize,
        /// Values given.
        values: usize,
    },
    /// This crate has no decoder (or encoder) of the type.
    Unsupported(Type),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Size { ty, bytes, values } => {
                write!(f, "{bytes} bytes do not hold {values} values of {}", ty.name())
            }
            Error::Unsupported(ty) => write!(f, "no codec for {}", ty.name()),
        }
    }
}

impl std::error::Error for Error {}

fn check(ty: Type, bytes: usize, values: usize) -> Result<(), Error> {
    match ty.row_bytes(values as u64) {
        Some(needed) if needed == bytes as u64 => Ok(()),
        _ => Err(Error::Size { ty, bytes, values }),
    }
}

/// Decodes whole blocks to F32, in ggml's order of operations.
///
/// # Errors
/// If sizes do not fit, or the type holds integers or F64.
pub fn dequantize_row(ty: Type, src: &[u8], dst: &mut [f32]) -> Result<(), Error> {
    check(ty, src.len(), dst.len())?;
    let blocks = src.chunks_exact(ty.block_bytes()).zip(dst.chunks_exact_mut(ty.block_len()));
    let each = |decode: fn(&[u8], &mut [f32])| blocks.for_each(|(b, out)| decode(b, out));
    match ty {
        Type::F32 => each(|b, o| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Type::F16 => each(|b, o| o[0] = f16::from_le_bytes([b[0], b[1]]).to_f32()),
        Type::BF16 => each(|b, o| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        Type::Q4_0 => each(legacy::decode_q4_0),
        Type::Q4_1 => each(legacy::decode_q4_1),
        Type::Q5_0 => each(legacy::decode_q5_0),
        Type::Q5_1 => each(legacy::decode_q5_1),
        Type::Q8_0 => each(legacy::decode_q8_0),
        Type::Q8_1 => each(legacy::decode_q8_1),
        Type::Q2_K => each(k::decode_q2),
        Type::Q3_K => each(k::decode_q3),
        Type::Q4_K => each(k::decode_q4),
        Type::Q5_K => each(k::decode_q5),
        Type::Q6_K => each(k::decode_q6),
        Type::Q8_K => each(k::decode_q8),
        Type::IQ1_S => each(iq::decode_iq1_s),
        Type::IQ1_M => each(iq::decode_iq1_m),
        Type::IQ2_XXS => each(iq::decode_iq2_xxs),
        Type::IQ2_XS => each(iq::decode_iq2_xs),
        Type::IQ2_S => each(iq::decode_iq2_s),
        Type::IQ3_XXS => each(iq::decode_iq3_xxs),
        Type::IQ3_S => each(iq::decode_iq3_s),
        Type::IQ4_NL => each(iq4::decode_nl),
        Type::IQ4_XS => each(iq4::decode_xs),
        Type::MXFP4 => each(iq4::decode_mxfp4),
        Type::NVFP4 => each(iq4::decode_nvfp4),
        Type::TQ1_0 => each(few::decode_tq1_0),
        Type::TQ2_0 => each(few::decode_tq2_0),
        Type::Q1_0 => each(few::decode_q1_0),
        Type::Q2_0 => each(few::decode_q2_0),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::F64 => return Err(Error::Unsupported(ty)),
    }
    Ok(())
}

/// Encodes F32 values as whole blocks: simple, readable round-to-nearest encoders, for test models.
///
/// # Errors
/// If the values are no whole number of blocks, or the type has no encoder here.
pub fn quantize_row(ty: Type, src: &[f32]) -> Result<Vec<u8>, Error> {
    if !src.len().is_multiple_of(ty.block_len()) {
        return Err(Error::Size { ty, bytes: 0, values: src.len() });
    }
    let mut out = Vec::with_capacity(src.len() / ty.block_len() * ty.block_bytes());
    for block in src.chunks_exact(ty.block_len()) {
        match ty {
            Type::F32 => out.extend(block[0].to_le_bytes()),
            Type::F16 => out.extend(f16::from_f32(block[0]).to_le_bytes()),
            Type::BF16 => out.extend(bf16::from_f32(block[0]).to_le_bytes()),
            Type::Q4_0 => legacy::encode_q4_0(block, &mut out),
            Type::Q4_1 => legacy::encode_q4_1(block, &mut out),
            Type::Q8_0 => legacy::encode_q8_0(block, &mut out),
            _ => return Err(Error::Unsupported(ty)),
        }
    }
    Ok(out)
}

/// The F16 scale at the start of `bytes`.
fn scale(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(ty: Type, block: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; ty.block_len()];
        dequantize_row(ty, block, &mut out).unwrap();
        out
    }

    fn block(ty: Type, parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; ty.block_bytes()];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    const HALF: [u8; 2] = [0x00, 0x38];
    const ONE: [u8; 2] = [0x00, 0x3c];

    #[test]
    fn legacy_blocks_by_hand() {
        // q4_0: low nibble of byte 0 is value 0, high nibble value 16; both minus 8, times d.
        let q4 = decoded(Type::Q4_0, &block(Type::Q4_0, &[(0, &HALF), (2, &[0xf1])]));
        assert_eq!((q4[0], q4[16], q4[1]), (-3.5, 3.5, -4.0));
        let q41 = decoded(Type::Q4_1, &block(Type::Q4_1, &[(0, &HALF), (2, &ONE), (4, &[0xf1])]));
        assert_eq!((q41[0], q41[16], q41[1]), (1.5, 8.5, 1.0));
        // q5_0: the fifth bits of values 0 and 16 are bits 0 and 16 of the mask.
        let q5 = decoded(Type::Q5_0, &block(Type::Q5_0, &[(0, &HALF), (2, &[1, 0, 1, 0]), (6, &[0xf1])]));
        assert_eq!((q5[0], q5[16], q5[1]), (0.5, 7.5, -8.0));
        let q51 = decoded(Type::Q5_1, &block(Type::Q5_1, &[(0, &HALF), (2, &ONE), (4, &[1, 0, 0, 0]), (8, &[0x21])]));
        assert_eq!((q51[0], q51[16]), (9.5, 2.0));
        let q8 = decoded(Type::Q8_0, &block(Type::Q8_0, &[(0, &HALF), (2, &[0xff, 3])]));
        assert_eq!((q8[0], q8[1]), (-0.5, 1.5));
    }

    #[test]
    fn k_blocks_by_hand() {
        // q4_K: scales 6 bits; first scale 3, first min 2; d = 0.5, dmin = 1.
        let mut b = block(Type::Q4_K, &[(0, &HALF), (2, &ONE), (4, &[3]), (8, &[2])]);
        b[16] = 0x05;
        assert_eq!(&decoded(Type::Q4_K, &b)[..2], [0.5 * 3.0 * 5.0 - 2.0, -2.0]);
        // q6_K: value 0 from the low nibble of ql[0] and the low bits of qh[0], minus 32.
        let b = block(Type::Q6_K, &[(0, &[0x03]), (128, &[0x02]), (192, &[2]), (208, &HALF)]);
        assert_eq!(decoded(Type::Q6_K, &b)[0], 0.5 * 2.0 * (3.0 + 32.0 - 32.0));
    }

    #[test]
    fn encoders_come_back_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        for (ty, step) in
            [(Type::Q4_0, 0.4), (Type::Q4_1, 0.41), (Type::Q8_0, 0.025), (Type::F16, 0.003), (Type::BF16, 0.02)]
        {
            let bytes = quantize_row(ty, &values).unwrap();
            let mut back = vec![0.0; 64];
            dequantize_row(ty, &bytes, &mut back).unwrap();
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= step, "{}: {a} {b}", ty.name());
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(dequantize_row(Type::Q8_0, &[0; 33], &mut [0.0; 32]).is_err());
        assert!(dequantize_row(Type::Q8_0, &[0; 34], &mut [0.0; 31]).is_err());
        assert_eq!(quantize_row(Type::Q6_K, &[0.0; 256]), Err(Error::Unsupported(Type::Q6_K)));
        assert_eq!(Type::Q8_0.row_bytes(33), None);
        assert_eq!(Type::F32.row_bytes(u64::MAX), None);
    }
}
