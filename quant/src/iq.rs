//! The code-book formats IQ1, IQ2, IQ3: super-blocks of 256 values, of which eight (IQ3: four) at a time are one entry of a
//! code book, with signs of their own or a common shift.

use super::{books, scale};

/// Digit `i` of `bits` bits of an entry.
fn digit(entry: u16, i: usize, bits: usize) -> usize {
    usize::from(entry >> (bits * i)) & ((1 << bits) - 1)
}

const TWO_BITS: [u8; 4] = [8, 25, 43, 0];
const THREE_BITS: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

fn u16_at(b: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([b[2 * i], b[2 * i + 1]])
}

fn u32_at(b: &[u8], i: usize) -> u32 {
    u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]])
}

/// Seven signs and an eighth that makes their number even.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

fn signed(value: f32, signs: u8, i: usize) -> f32 {
    if signs >> i & 1 == 1 {
        -value
    } else {
        value
    }
}

/// Eight values of a two-bit book.
fn eight(step: f32, entry: u16, signs: u8, out: &mut [f32]) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = signed(step * f32::from(TWO_BITS[digit(entry, i, 2)]), signs, i);
    }
}

/// Eight values of two entries of a three-bit book.
fn twice_four(step: f32, entries: [u16; 2], signs: u8, value: fn(usize) -> u8, out: &mut [f32]) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = signed(step * f32::from(value(digit(entries[i / 4], i % 4, 3))), signs, i);
    }
}

/// d, then per 32 values: four bytes of entries, four times seven signs, four bits of scale.
pub(super) fn decode_iq2_xxs(b: &[u8], out: &mut [f32]) {
    let d = scale(b);
    for (j, group) in out.chunks_exact_mut(32).enumerate() {
        let (entries, word) = (&b[2 + 8 * j..6 + 8 * j], u32_at(&b[6 + 8 * j..], 0));
        let step = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (l, out) in group.chunks_exact_mut(8).enumerate() {
            eight(step, books::IQ2_XXS[usize::from(entries[l])], even_signs(word >> (7 * l)), out);
        }
    }
}

/// d, 32 words of nine bits of entry and seven signs, eight bytes of two scales per 32 values.
pub(super) fn decode_iq2_xs(b: &[u8], out: &mut [f32]) {
    let (d, scales) = (scale(b), &b[66..74]);
    for (k, out) in out.chunks_exact_mut(8).enumerate() {
        let (word, sc) = (u16_at(&b[2..], k), scales[k / 4] >> (k % 4 / 2 * 4) & 0xf);
        let step = d * (0.5 + f32::from(sc)) * 0.25;
        eight(step, books::IQ2_XS[usize::from(word & 511)], even_signs(u32::from(word >> 9)), out);
    }
}

/// d, 32 bytes of entries, 32 bytes of signs, eight bytes of the entries' high bits, eight of two scales each.
pub(super) fn decode_iq2_s(b: &[u8], out: &mut [f32]) {
    let (d, low, signs, high, scales) = (scale(b), &b[2..34], &b[34..66], &b[66..74], &b[74..82]);
    for (k, out) in out.chunks_exact_mut(8).enumerate() {
        let sc = scales[k / 4] >> (k % 4 / 2 * 4) & 0xf;
        let step = d * (0.5 + f32::from(sc)) * 0.25;
        let entry = usize::from(low[k]) | usize::from(high[k / 4] >> (k % 4 * 2) & 3) << 8;
        eight(step, books::IQ2_S[entry], signs[k], out);
    }
}

/// d, 64 bytes of entries, then per 32 values four times seven signs and four bits of scale.
pub(super) fn decode_iq3_xxs(b: &[u8], out: &mut [f32]) {
    let (d, entries) = (scale(b), &b[2..66]);
    for (k, out) in out.chunks_exact_mut(8).enumerate() {
        let word = u32_at(&b[66..], k / 4);
        let step = d * (0.5 + (word >> 28) as f32) * 0.5;
        let pair = [entries[2 * k], entries[2 * k + 1]].map(|e| books::IQ3_XXS[usize::from(e)]);
        twice_four(step, pair, even_signs(word >> (7 * (k % 4))), |digit| THREE_BITS[digit], out);
    }
}

/// d, 64 bytes of entries, eight bytes of their ninth bits, 32 bytes of signs, four bytes of two scales per 64 values.
pub(super) fn decode_iq3_s(b: &[u8], out: &mut [f32]) {
    let (d, low, ninth, signs, scales) = (scale(b), &b[2..66], &b[66..74], &b[74..106], &b[106..110]);
    for (k, out) in out.chunks_exact_mut(8).enumerate() {
        let sc = scales[k / 8] >> (k % 8 / 4 * 4) & 0xf;
        let step = d * f32::from(1 + 2 * sc);
        let entry = |i: usize| usize::from(low[2 * k + i]) | usize::from(ninth[k / 4] >> (k % 4 * 2 + i) & 1) << 8;
        let pair = [books::IQ3_S[entry(0)], books::IQ3_S[entry(1)]];
        twice_four(step, pair, signs[k], |digit| 2 * digit as u8 + 1, out);
    }
}

/// Eight values of −1, 0 or 1, shifted by an eighth to one side.
fn ternary(step: f32, entry: usize, below: bool, out: &mut [f32]) {
    let shift = if below { -0.125 } else { 0.125 };
    for (i, o) in out.iter_mut().enumerate() {
        *o = step * (digit(books::IQ1[entry], i, 2) as f32 - 1.0 + shift);
    }
}

/// d, 32 bytes of entries, then per 32 values a word: four times three high bits, three bits of scale, the side.
pub(super) fn decode_iq1_s(b: &[u8], out: &mut [f32]) {
    let (d, low) = (scale(b), &b[2..34]);
    for (k, out) in out.chunks_exact_mut(8).enumerate() {
        let word = u16_at(&b[34..], k / 4);
        let step = d * f32::from(2 * (word >> 12 & 7) + 1);
        let entry = usize::from(low[k]) | usize::from(word >> (3 * (k % 4)) & 7) << 8;
        ternary(step, entry, word & 0x8000 != 0, out);
    }
}

/// 32 bytes of entries, 16 bytes of two times three high bits and a side, four words of four scales of three bits each, whose
/// highest four bits make up d.
pub(super) fn decode_iq1_m(b: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&b[0..32], &b[32..48], &b[48..56]);
    let nibbles = (0..4).fold(0u16, |d, i| d | (u16_at(scales, i) >> 12) << (4 * i));
    let d = half::f16::from_bits(nibbles).to_f32();
    for (k, out) in out.chunks_exact_mut(8).enumerate() {
        let nibble = high[k / 2] >> (k % 2 * 4) & 0xf;
        let sc = u16_at(scales, k / 8) >> (k % 8 / 2 * 3) & 7;
        let entry = usize::from(low[k]) | usize::from(nibble & 7) << 8;
        ternary(d * f32::from(2 * sc + 1), entry, nibble & 8 != 0, out);
    }
}
