//! From scores to a mask: the ranks of a band, over all tensors together.
//!
//! **Ties**: of equal scores the one in the earlier tensor comes first, then the one with the lower index. A mask is therefore
//! one and the same wherever it is made, and its count exact.

use super::cut::Cut;
use super::{Bits, Mask, Scores, TensorMask};
use crate::error::{Error, Kind, Result};

/// What comes first in a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The largest score.
    Largest,
    /// The smallest score.
    Smallest,
}

impl Order {
    /// A score as a number that is the larger the earlier it comes. Scores are not negative, so that their bits have their
    /// order; −0 is 0.
    pub(super) fn key(self, score: f32) -> u32 {
        let bits = score.abs().to_bits();
        match self {
            Self::Largest => bits,
            Self::Smallest => !bits,
        }
    }
}

/// Shares of a ranking: the ranks behind ⌊N·from⌋, up to ⌊N·to⌋.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
}

impl Band {
    /// The first ones.
    pub fn first(ratio: f64) -> Self {
        Self { from: 0.0, to: ratio }
    }
}

/// ⌊n·ratio⌋, as decimals mean it: 0.29 of 100 is 29, although 0.29·100 is less in binary.
pub fn count(n: u64, ratio: f64) -> u64 {
    let exact = n as f64 * ratio;
    let near = exact.round();
    let whole = if (exact - near).abs() <= 1e-9 * near.max(1.0) { near } else { exact.floor() };
    (whole as u64).min(n)
}

/// The mask of a band of ranks: exactly ⌊N·to⌋ − ⌊N·from⌋ of the N that have scores.
///
/// # Errors
/// If the band is none within 0 and 1, or a score is negative or not finite.
pub fn select(scores: &dyn Scores, order: Order, band: Band) -> Result<Mask> {
    if !(0.0 <= band.from && band.from <= band.to && band.to <= 1.0) {
        let message = format!("ratio: {} to {} is no band of shares within 0 and 1", band.from, band.to);
        return Err(Error::new(Kind::Argument, message));
    }
    let n = scores.n();
    let mut until = Cut::behind(scores, order, count(n, band.to))?.start();
    let mut before = Cut::behind(scores, order, count(n, band.from))?.start();
    let mut tensors = Vec::with_capacity(scores.shapes().len());
    for (i, shape) in scores.shapes().iter().enumerate() {
        let mut bits = Bits::none(shape.units(scores.granularity()));
        let mut at = 0;
        scores.visit(i, &mut |values| {
            for &value in values {
                let key = order.key(value);
                // Both cuts have to see every one.
                let (inside, earlier) = (until.takes(key), before.takes(key));
                if inside && !earlier {
                    bits.set(at);
                }
                at += 1;
            }
            Ok(())
        })?;
        tensors.push(TensorMask { shape: shape.clone(), bits });
    }
    Ok(Mask::new(scores.granularity(), tensors))
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
