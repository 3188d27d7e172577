//! A set of numbers below a length, one bit each.

use std::ops::Range;

const WORD: usize = 64;

/// Which of `len` things are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    len: usize,
    /// Bits from `len` on are 0.
    words: Vec<u64>,
}

impl Bits {
    /// None of `len`.
    pub fn none(len: usize) -> Self {
        Self { len, words: vec![0; len.div_ceil(WORD)] }
    }

    /// All of `len`.
    pub fn all(len: usize) -> Self {
        Self::none(len).complement()
    }

    /// Of how many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a set of nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `i` is chosen; nothing from `len` on is.
    pub fn get(&self, i: usize) -> bool {
        self.words.get(i / WORD).is_some_and(|word| (word >> (i % WORD)) & 1 == 1)
    }

    /// Chooses `i`.
    ///
    /// # Panics
    /// If `i` is not below `len`.
    pub fn set(&mut self, i: usize) {
        assert!(i < self.len, "bit {i} of {}", self.len);
        self.words[i / WORD] |= 1 << (i % WORD);
    }

    /// How many are chosen.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// What is chosen in both, in either, or here alone, by `f` on words; sets of one length.
    pub(super) fn with(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(&a, &b)| f(a, b)).collect();
        Self { len: self.len, words }
    }

    /// All others.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut words: Vec<u64> = self.words.iter().map(|word| !word).collect();
        let used = self.len % WORD;
        if let Some(last) = words.last_mut().filter(|_| used > 0) {
            *last &= (1 << used) - 1;
        }
        Self { len: self.len, words }
    }

    /// Each bit `width` times over.
    #[must_use]
    pub fn widened(&self, width: usize) -> Self {
        let mut wide = Self::none(self.len * width);
        for run in self.runs() {
            (run.start * width..run.end * width).for_each(|i| wide.set(i));
        }
        wide
    }

    /// The chosen ones as ranges, in order, none touching the next.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, false)?;
            at = self.next(start, true).unwrap_or(self.len);
            Some(start..at)
        })
    }

    /// The first from `at` on that is chosen, or that is not.
    fn next(&self, at: usize, skip_chosen: bool) -> Option<usize> {
        let flip = if skip_chosen { u64::MAX } else { 0 };
        let mut mask = u64::MAX << (at % WORD);
        for (k, word) in self.words.iter().enumerate().skip(at / WORD) {
            let left = (word ^ flip) & mask;
            if left != 0 {
                return Some(k * WORD + left.trailing_zeros() as usize).filter(|&i| i < self.len);
            }
            mask = u64::MAX;
        }
        None
    }

    /// Eight to a byte, the lowest bit first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8));
        bytes
    }

    /// The way back; `None` for another number of bytes, or bits from `len` on.
    pub fn from_bytes(len: usize, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) {
            return None;
        }
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0u64, |word, &byte| (word << 8) | u64::from(byte));
        let found = Self { len, words: bytes.chunks(8).map(word).collect() };
        (found.complement().complement() == found).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(len: usize, chosen: &[usize]) -> Bits {
        let mut bits = Bits::none(len);
        chosen.iter().for_each(|&i| bits.set(i));
        bits
    }

    #[test]
    fn runs_are_what_a_look_at_every_bit_finds() {
        for (len, step) in [(1, 1), (63, 2), (64, 3), (65, 5), (200, 7), (256, 1)] {
            let bits = of(len, &(0..len).filter(|i| i * i % step == 0 || i / 40 == 1).collect::<Vec<_>>());
            let from_runs: Vec<usize> = bits.runs().flatten().collect();
            assert_eq!(from_runs, (0..len).filter(|&i| bits.get(i)).collect::<Vec<_>>());
            let runs: Vec<_> = bits.runs().collect();
            assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{runs:?}");
            assert_eq!(bits.count(), from_runs.len());
        }
        assert!(Bits::all(130).runs().eq(std::iter::once(0..130)));
        assert_eq!(Bits::none(130).runs().count(), 0);
    }

    #[test]
    fn bytes_lead_back_and_stray_bits_do_not() {
        let bits = of(77, &[0, 7, 8, 63, 64, 76]);
        assert_eq!(Bits::from_bytes(77, &bits.to_bytes()), Some(bits.clone()));
        let mut stray = bits.to_bytes();
        stray[9] |= 0x20;
        assert_eq!(Bits::from_bytes(77, &stray), None);
        assert_eq!(Bits::from_bytes(76, &bits.to_bytes()), None);
        assert_eq!(Bits::from_bytes(77, &stray[1..]), None);
    }

    #[test]
    fn a_row_is_as_wide_as_its_weights() {
        assert_eq!(of(5, &[1, 2, 4]).widened(3), of(15, &[3, 4, 5, 6, 7, 8, 12, 13, 14]));
        assert_eq!(of(70, &[69]).complement().count(), 69);
    }
}
