//! The K formats: super-blocks of 256 values with quantised scales.

use super::scale;

/// Scale and minimum `j` of the eight pairs that Q4_K and Q5_K pack into twelve bytes of six bits each.
fn scale_min(j: usize, s: &[u8]) -> (f32, f32) {
    let (sc, m) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 0xf | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4)
    };
    (f32::from(sc), f32::from(m))
}

/// 16 bytes of scale and minimum nibbles, 64 bytes of two bits, d, dmin; value = d·sc·q − dmin·m per 16 values.
pub(super) fn decode_q2(b: &[u8], out: &mut [f32]) {
    let (scales, qs, d, dmin) = (&b[0..16], &b[16..80], scale(&b[80..]), scale(&b[82..]));
    for (i, o) in out.iter_mut().enumerate() {
        let (half, shift, byte) = (i / 128, i % 128 / 32 * 2, i % 32);
        let sc = scales[i / 16];
        let q = qs[half * 32 + byte] >> shift & 3;
        *o = d * f32::from(sc & 0xf) * f32::from(q) - dmin * f32::from(sc >> 4);
    }
}

/// 32 bytes of third bits (set means no −4), 64 bytes of two bits, 12 bytes of sixteen 6-bit scales (−32), d.
pub(super) fn decode_q3(b: &[u8], out: &mut [f32]) {
    let (mask, qs, packed, d) = (&b[0..32], &b[32..96], &b[96..108], scale(&b[108..]));
    let six = |j: usize| {
        let low = if j < 8 { packed[j] & 0xf } else { packed[j - 8] >> 4 };
        let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        i32::from(low | high << 4) - 32
    };
    for (i, o) in out.iter_mut().enumerate() {
        let (half, group, byte) = (i / 128, i % 128 / 32, i % 32);
        let q = i32::from(qs[half * 32 + byte] >> (group * 2) & 3);
        let set = mask[byte] >> (half * 4 + group) & 1 == 1;
        *o = d * six(i / 16) as f32 * (q - if set { 0 } else { 4 }) as f32;
    }
}

/// d, dmin, 12 bytes of scales, 128 bytes of nibbles: 32 low ones, then the 32 high ones of the same bytes.
pub(super) fn decode_q4(b: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, qs) = (scale(b), scale(&b[2..]), &b[4..16], &b[16..144]);
    for (j, group) in out.chunks_exact_mut(32).enumerate() {
        let (sc, m) = scale_min(j, scales);
        let (step, floor) = (d * sc, dmin * m);
        for (l, o) in group.iter_mut().enumerate() {
            let byte = qs[j / 2 * 32 + l];
            let q = if j % 2 == 0 { byte & 0xf } else { byte >> 4 };
            *o = step * f32::from(q) - floor;
        }
    }
}

/// As Q4_K with 32 bytes of fifth bits: bit `j` of byte `l` belongs to value `32·j + l`.
pub(super) fn decode_q5(b: &[u8], out: &mut [f32]) {
    let (d, dmin, scales) = (scale(b), scale(&b[2..]), &b[4..16]);
    let (fifth, qs) = (&b[16..48], &b[48..176]);
    for (j, group) in out.chunks_exact_mut(32).enumerate() {
        let (sc, m) = scale_min(j, scales);
        let (step, floor) = (d * sc, dmin * m);
        for (l, o) in group.iter_mut().enumerate() {
            let byte = qs[j / 2 * 32 + l];
            let q = if j % 2 == 0 { byte & 0xf } else { byte >> 4 };
            *o = step * f32::from(q + (fifth[l] >> j & 1) * 16) - floor;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, d; value = d·sc·(q − 32).
pub(super) fn decode_q6(b: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&b[0..128], &b[128..192], &b[192..208], scale(&b[208..]));
    for (i, o) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[half * 64 + quarter % 2 * 32 + l];
        let nibble = if quarter < 2 { byte & 0xf } else { byte >> 4 };
        let pair = high[half * 32 + l] >> (quarter * 2) & 3;
        let q = i32::from(nibble | pair << 4) - 32;
        let sc = f32::from(scales[half * 8 + quarter * 2 + l / 16] as i8);
        *o = d * sc * q as f32;
    }
}

/// d in F32, 256 signed bytes, sums of 16 of them (for products of blocks); value = d·q.
pub(super) fn decode_q8(b: &[u8], out: &mut [f32]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (o, &q) in out.iter_mut().zip(&b[4..260]) {
        *o = d * f32::from(q as i8);
    }
}
