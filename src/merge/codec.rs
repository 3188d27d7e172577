//! Decoding and encoding rows: ggml's own codecs, and conversions of 16-bit numbers that use the CPU's instructions.

use crate::error::{Error, Kind, Result};
use crate::runtime::Runtime;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use quant::Type;

/// Values that are converted at a time.
const PIECE: usize = 1024;

/// Decodes whole rows.
pub(super) fn decode(runtime: &Runtime, ty: Type, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    if !matches!(ty, Type::F16 | Type::BF16) || bytes.len() != 2 * values.len() {
        return runtime.dequantize(ty, bytes, values);
    }
    let mut piece = [0u16; PIECE];
    for (bytes, values) in bytes.chunks(2 * PIECE).zip(values.chunks_mut(PIECE)) {
        let piece = &mut piece[..values.len()];
        piece.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(p, b)| *p = u16::from_le_bytes([b[0], b[1]]));
        if ty == Type::F16 {
            as_f16(piece).convert_to_f32_slice(values);
        } else {
            values.iter_mut().zip(&*piece).for_each(|(v, p)| *v = f32::from_bits(u32::from(*p) << 16));
        }
    }
    Ok(())
}

/// Encodes whole rows of `n_per_row` finite values.
pub(super) fn encode(
    runtime: &Runtime,
    ty: Type,
    values: &[f32],
    n_per_row: usize,
    imatrix: Option<&[f32]>,
) -> Result<Vec<u8>> {
    if !matches!(ty, Type::F16 | Type::BF16) {
        return runtime.quantize_with(ty, values, n_per_row, imatrix);
    }
    if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::new(Kind::Numeric, format!("value {bad} is {}", values[bad])));
    }
    let mut bytes = vec![0u8; 2 * values.len()];
    let mut piece = [f16::ZERO; PIECE];
    for (bytes, values) in bytes.chunks_mut(2 * PIECE).zip(values.chunks(PIECE)) {
        let pairs = bytes.chunks_exact_mut(2);
        if ty == Type::F16 {
            let piece = &mut piece[..values.len()];
            piece.convert_from_f32_slice(values);
            pairs.zip(&*piece).for_each(|(b, p)| b.copy_from_slice(&p.to_le_bytes()));
        } else {
            pairs.zip(values).for_each(|(b, &v)| b.copy_from_slice(&bf16::from_f32(v).to_le_bytes()));
        }
    }
    Ok(bytes)
}

/// The same bits as 16-bit floating-point numbers.
fn as_f16(bits: &[u16]) -> &[f16] {
    use half::slice::HalfBitsSliceExt;
    bits.reinterpret_cast()
}
