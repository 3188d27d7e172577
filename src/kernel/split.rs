//! Who computes what: a thread's share of one product.

use std::ops::Range;

use crate::error::{Error, Kind, Result};

/// The calling thread's number and how many there are, as ggml passes them to a custom operator.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// This thread, from 0.
    pub ith: usize,
    /// All threads; each of them makes the same call.
    pub nth: usize,
}

impl Share {
    /// The whole work on one thread.
    pub const ALL: Share = Share { ith: 0, nth: 1 };

    pub(super) fn check(self) -> Result<()> {
        if self.ith < self.nth {
            return Ok(());
        }
        Err(Error::new(Kind::Internal, format!("share {} of {}", self.ith, self.nth)))
    }

    /// This thread's part of `0..len` in whole units; the last unit may be short.
    pub(super) fn of(self, len: usize, unit: usize) -> Range<usize> {
        let units = len.div_ceil(unit);
        let bound = |i: usize| (units * i / self.nth * unit).min(len);
        bound(self.ith)..bound(self.ith + 1)
    }
}

/// A rectangle of the output: columns (ne0) by tokens (ne1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) columns: Range<usize>,
    pub(super) tokens: Range<usize>,
}

/// Decoding one weight costs about as much as multiplying it with this many tokens (measured: ggml's scalar decoders
/// against AVX-512 F32 products).
const DECODE_TOKENS: usize = 50;

/// Tokens are split at multiples of this, as the batch's sequences are.
const TOKEN_UNIT: usize = 16;

impl Part {
    /// Splits columns between the threads, so that each weight is decoded by one of them; splits tokens instead where
    /// there are too few column units to go round and the repeated decoding costs less than the idle threads.
    pub(super) fn of(columns: usize, unit: usize, tokens: usize, share: Share) -> Self {
        let slowest_columns = (columns.div_ceil(unit).div_ceil(share.nth) * unit).min(columns);
        let slowest_tokens = (tokens.div_ceil(TOKEN_UNIT).div_ceil(share.nth) * TOKEN_UNIT).min(tokens);
        let by_columns = slowest_columns.saturating_mul(DECODE_TOKENS + tokens);
        let by_tokens = columns.saturating_mul(DECODE_TOKENS + slowest_tokens);
        if by_columns <= by_tokens {
            Self { columns: share.of(columns, unit), tokens: 0..tokens }
        } else {
            Self { columns: 0..columns, tokens: share.of(tokens, TOKEN_UNIT) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tile_the_output() {
        for (columns, unit) in [(1, 16), (33, 16), (192, 16), (576, 32), (768, 256), (256, 256)] {
            for tokens in [1, 5, 64, 200] {
                for nth in 1..6 {
                    let mut seen = vec![0u8; columns * tokens];
                    for ith in 0..nth {
                        let part = Part::of(columns, unit, tokens, Share { ith, nth });
                        assert_eq!(part.columns.start % unit, 0);
                        for t in part.tokens {
                            part.columns.clone().for_each(|c| seen[t * columns + c] += 1);
                        }
                    }
                    assert!(seen.iter().all(|&n| n == 1), "{columns} {unit} {tokens} {nth}");
                }
            }
        }
    }

    #[test]
    fn splits_tokens_only_where_columns_do_not_go_round() {
        let second = |columns, unit, tokens| Part::of(columns, unit, tokens, Share { ith: 1, nth: 2 });
        assert_eq!(second(576, 32, 512), Part { columns: 288..576, tokens: 0..512 });
        assert_eq!(second(256, 256, 512), Part { columns: 0..256, tokens: 256..512 });
        assert_eq!(second(576, 32, 1), Part { columns: 288..576, tokens: 0..1 });
    }
}
