//! Four-bit formats with a table of values: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

use super::scale;

/// The non-linear values that the four bits of IQ4 stand for.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of E2M1.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Low nibbles first, then the high ones of the same bytes.
fn halves(qs: &[u8], d: f32, table: &[i8; 16], out: &mut [f32]) {
    for (j, &byte) in qs.iter().enumerate() {
        out[j] = d * f32::from(table[usize::from(byte & 0xf)]);
        out[j + qs.len()] = d * f32::from(table[usize::from(byte >> 4)]);
    }
}

/// d, 16 bytes of nibbles.
pub(super) fn decode_nl(b: &[u8], out: &mut [f32]) {
    halves(&b[2..18], scale(b), &VALUES, out);
}

/// d, 16 bits of high scale pairs, 4 bytes of low scale nibbles, 128 bytes of nibbles; eight groups of 32.
pub(super) fn decode_xs(b: &[u8], out: &mut [f32]) {
    let (d, high) = (scale(b), u16::from_le_bytes([b[2], b[3]]));
    for (j, group) in out.chunks_exact_mut(32).enumerate() {
        let low = b[4 + j / 2] >> (j % 2 * 4) & 0xf;
        let six = i32::from(low) | i32::from(high >> (2 * j) & 3) << 4;
        halves(&b[8 + j * 16..24 + j * 16], d * (six - 32) as f32, &VALUES, group);
    }
}

/// One E8M0 exponent, 16 bytes of E2M1 nibbles; the table holds twice the values, so the scale is halved.
pub(super) fn decode_mxfp4(b: &[u8], out: &mut [f32]) {
    let d = match b[0] {
        // Below the smallest normal number: 2^-128 and 2^-127 are subnormal.
        e @ 0..=1 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits((u32::from(e) - 1) << 23),
    };
    halves(&b[1..17], d, &E2M1, out);
}

/// Half the value of an unsigned E4M3 number; 0x7f counts as 0, the eighth bit not at all.
fn half_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    match (byte, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-10),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 8),
    }
}

/// Four E4M3 scales, 32 bytes of E2M1 nibbles; four groups of 16, halved as MXFP4.
pub(super) fn decode_nvfp4(b: &[u8], out: &mut [f32]) {
    for (j, group) in out.chunks_exact_mut(16).enumerate() {
        halves(&b[4 + 8 * j..12 + 8 * j], half_e4m3(b[j]), &E2M1, group);
    }
}
