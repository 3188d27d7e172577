//! Formats of one or two bits, and ternary ones: Q1_0, Q2_0, TQ1_0, TQ2_0.

use super::scale;

/// d, 128 bits: −d or d.
pub(super) fn decode_q1_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (i, o) in out.iter_mut().enumerate() {
        *o = if b[2 + i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
    }
}

/// d, 16 bytes of four two-bit values each, which stand for −1 to 2.
pub(super) fn decode_q2_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (i, o) in out.iter_mut().enumerate() {
        *o = f32::from((b[2 + i / 4] >> (i % 4 * 2) & 3) as i8 - 1) * d;
    }
}

/// Digit `n` of a byte that holds a fraction of 256 in base three.
fn trit(byte: u8, n: u32) -> i8 {
    let shifted = byte.wrapping_mul(3u8.pow(n));
    ((u16::from(shifted) * 3) >> 8) as i8 - 1
}

/// 48 bytes of five trits, four bytes of four trits, d. Trit `n` of a run of bytes comes before trit `n + 1` of the run; the
/// runs are 32, 16 and 4 bytes long.
pub(super) fn decode_tq1_0(b: &[u8], out: &mut [f32]) {
    let d = scale(&b[52..]);
    let runs = [(&b[0..32], 5), (&b[32..48], 5), (&b[48..52], 4)];
    let trits = runs.iter().flat_map(|(run, n)| (0..*n).flat_map(|n| run.iter().map(move |&byte| trit(byte, n))));
    out.iter_mut().zip(trits).for_each(|(o, t)| *o = f32::from(t) * d);
}

/// 64 bytes of four two-bit values, d. Value `l` of a run of 32 bytes comes before value `l + 1` of the run.
pub(super) fn decode_tq2_0(b: &[u8], out: &mut [f32]) {
    let d = scale(&b[64..]);
    for (i, o) in out.iter_mut().enumerate() {
        let byte = b[i / 128 * 32 + i % 32];
        *o = f32::from((byte >> (i % 128 / 32 * 2) & 3) as i8 - 1) * d;
    }
}
