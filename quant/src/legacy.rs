//! The formats of 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1.
//!
//! Nibble `j` of a block (`j < 16`) is the low half of byte `j` and stands for value `j`; the high half for value `j + 16`.

use super::scale;
use half::f16;

/// d, then 16 bytes of nibbles; value = (nibble − 8)·d.
pub(super) fn decode_q4_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (j, &byte) in b[2..18].iter().enumerate() {
        out[j] = (i32::from(byte & 0xf) - 8) as f32 * d;
        out[j + 16] = (i32::from(byte >> 4) - 8) as f32 * d;
    }
}

/// d, m, then nibbles; value = nibble·d + m.
pub(super) fn decode_q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(b), scale(&b[2..]));
    for (j, &byte) in b[4..20].iter().enumerate() {
        out[j] = f32::from(byte & 0xf) * d + m;
        out[j + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// Fifth bits of values `j` and `j + 16`, each in place.
fn fifth(mask: &[u8], j: usize) -> (u8, u8) {
    let bits = u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]]);
    (((bits >> j) as u8 & 1) << 4, ((bits >> (j + 16)) as u8 & 1) << 4)
}

/// d, 32 fifth bits, nibbles; value = (q − 16)·d.
pub(super) fn decode_q5_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (j, &byte) in b[6..22].iter().enumerate() {
        let (low, high) = fifth(&b[2..6], j);
        out[j] = (i32::from(byte & 0xf | low) - 16) as f32 * d;
        out[j + 16] = (i32::from(byte >> 4 | high) - 16) as f32 * d;
    }
}

/// d, m, 32 fifth bits, nibbles; value = q·d + m.
pub(super) fn decode_q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(b), scale(&b[2..]));
    for (j, &byte) in b[8..24].iter().enumerate() {
        let (low, high) = fifth(&b[4..8], j);
        out[j] = f32::from(byte & 0xf | low) * d + m;
        out[j + 16] = f32::from(byte >> 4 | high) * d + m;
    }
}

/// d, then 32 signed bytes; value = q·d.
pub(super) fn decode_q8_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (o, &q) in out.iter_mut().zip(&b[2..34]) {
        *o = f32::from(q as i8) * d;
    }
}

/// d, the sum of the values (for products of blocks), then 32 signed bytes; value = q·d.
pub(super) fn decode_q8_1(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (o, &q) in out.iter_mut().zip(&b[4..36]) {
        *o = f32::from(q as i8) * d;
    }
}

fn nibbles(q: impl Fn(usize) -> u8, out: &mut Vec<u8>) {
    out.extend((0..16).map(|j| q(j) | q(j + 16) << 4));
}

/// The value of largest magnitude becomes −8.
pub(super) fn encode_q4_0(x: &[f32], out: &mut Vec<u8>) {
    let top = x.iter().copied().fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
    let d = top / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    nibbles(|j| (x[j] * inverse + 8.5).clamp(0.0, 15.0) as u8, out);
}

/// The range becomes 0 to 15.
pub(super) fn encode_q4_1(x: &[f32], out: &mut Vec<u8>) {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let d = (high - low) / 15.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(f16::from_f32(low).to_le_bytes());
    nibbles(|j| ((x[j] - low) * inverse + 0.5).clamp(0.0, 15.0) as u8, out);
}

/// The largest magnitude becomes 127.
pub(super) fn encode_q8_0(x: &[f32], out: &mut Vec<u8>) {
    let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = top / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out.extend(f16::from_f32(d).to_le_bytes());
    out.extend(x.iter().map(|v| (v * inverse).round() as i8 as u8));
}
