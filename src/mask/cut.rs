//! Where a ranking is cut: the k-th of all scores by counting them, first by their high bits, then by their low bits. Exact,
//! without sorting, in memory that does not depend on how many there are.

use super::select::Order;
use super::Scores;
use crate::error::{Error, Kind, Result};

const BINS: usize = 1 << 16;

/// The first k of a ranking: all before a key, and some of those that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// What has a larger key is in.
    key: u32,
    /// So many of those with this very key are in, the first ones.
    ties: u64,
}

/// Goes through a ranking in its order and tells what is before the cut.
#[derive(Clone, Debug)]
pub(super) struct Cutter {
    cut: Cut,
    seen: u64,
}

impl Cut {
    /// Nothing is in.
    const NOTHING: Self = Self { key: u32::MAX, ties: 0 };

    /// Cuts behind the first `k`.
    pub(super) fn behind(scores: &dyn Scores, order: Order, k: u64) -> Result<Self> {
        if k == 0 {
            return Ok(Self::NOTHING);
        }
        let (high, left) = nth(&counts(scores, |value| (order.key(value) >> 16) as usize, |_| true)?, k);
        let below =
            counts(scores, |value| (order.key(value) & 0xffff) as usize, |value| order.key(value) >> 16 == high)?;
        let (low, ties) = nth(&below, left);
        Ok(Self { key: (high << 16) | low, ties })
    }

    pub(super) fn start(self) -> Cutter {
        Cutter { cut: self, seen: 0 }
    }
}

impl Cutter {
    /// Whether the next one, of this key, is before the cut.
    pub(super) fn takes(&mut self, key: u32) -> bool {
        if key != self.cut.key {
            return key > self.cut.key;
        }
        self.seen += 1;
        self.seen <= self.cut.ties
    }
}

/// How many scores fall into each bin.
fn counts(scores: &dyn Scores, bin: impl Fn(f32) -> usize, counts: impl Fn(f32) -> bool) -> Result<Vec<u64>> {
    let mut bins = vec![0u64; BINS];
    for (i, shape) in scores.shapes().iter().enumerate() {
        scores.visit(i, &mut |values| {
            if let Some(bad) = values.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
                let message = format!("tensor {}: a score is {bad}; scores are finite and not negative", shape.name);
                return Err(Error::new(Kind::Numeric, message));
            }
            values.iter().filter(|v| counts(**v)).for_each(|&v| bins[bin(v)] += 1);
            Ok(())
        })?;
    }
    Ok(bins)
}

/// The bin of the k-th largest, from 1, and which one of its bin it is.
fn nth(bins: &[u64], k: u64) -> (u32, u64) {
    let mut left = k;
    for (bin, &n) in bins.iter().enumerate().rev() {
        if left <= n {
            return (bin as u32, left);
        }
        left -= n;
    }
    (0, bins[0])
}
