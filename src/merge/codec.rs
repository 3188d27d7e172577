//! Decoding and encoding rows: by our kernels where they write ggml's bits, and by ggml.

use crate::error::Result;
use crate::kernel::{encoder, exact_decoder};
use crate::runtime::Runtime;
use quant::Type;

/// Decodes whole rows.
pub(super) fn decode(runtime: &Runtime, ty: Type, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    match exact_decoder(ty) {
        Some(decode) if ty.row_bytes(values.len() as u64) == Some(bytes.len() as u64) => {
            decode(bytes, values);
            Ok(())
        }
        _ => runtime.dequantize(ty, bytes, values),
    }
}

/// Encodes whole rows of `n_per_row` finite values.
pub(super) fn encode(
    runtime: &Runtime,
    ty: Type,
    values: &[f32],
    n_per_row: usize,
    imatrix: Option<&[f32]>,
) -> Result<Vec<u8>> {
    let row_bytes = ty.row_bytes(n_per_row as u64).filter(|_| n_per_row > 0 && values.len().is_multiple_of(n_per_row));
    if let (Some(encode), Some(row_bytes), None) = (encoder(ty), row_bytes, imatrix) {
        let mut bytes = vec![0; row_bytes as usize * (values.len() / n_per_row)];
        if encode(values, &mut bytes) {
            return Ok(bytes);
        }
    }
    // ggml's quantiser also finds the words for what is no number.
    runtime.quantize_with(ty, values, n_per_row, imatrix)
}
