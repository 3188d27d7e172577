//! The mask of the authors' release, for who wants to compare numbers with it (specs `allo_hbat`, 1.9, D1): scores are
//! rounded to bf16, no tensor puts up more than twice the share as candidates, the threshold is found among these, and
//! then held against every unrounded score. It holds more than was asked for where a tensor moved much.

use super::{count, Bits, Granularity, Mask, Scores, TensorMask};
use crate::error::{Error, Kind, Result};
use half::bf16;

/// The release's mask of the largest scores of weights.
///
/// # Errors
/// If the ratio is outside 0 to 1, the scores are not those of weights, or one is negative or not finite.
pub fn select_as_released(scores: &dyn Scores, ratio: f64) -> Result<Mask> {
    if scores.granularity() != Granularity::Weight {
        return Err(Error::new(Kind::Argument, "granularity: the release chooses weights"));
    }
    if !(0.0..=1.0).contains(&ratio) {
        return Err(Error::new(Kind::Argument, format!("ratio: {ratio} is outside 0 to 1")));
    }
    // The largest candidates of every tensor, counted by their 16 bits.
    let mut candidates = vec![0u64; 1 << 16];
    let mut n = 0;
    for (i, shape) in scores.shapes().iter().enumerate() {
        let mut own = vec![0u64; 1 << 16];
        scores.visit(i, &mut |values| {
            for &value in values {
                if !(value.is_finite() && value >= 0.0) {
                    return Err(Error::new(Kind::Numeric, format!("tensor {}: a score is {value}", shape.name)));
                }
                own[usize::from(bf16::from_f32(value.abs()).to_bits())] += 1;
            }
            Ok(())
        })?;
        let units = shape.units(Granularity::Weight) as u64;
        n += units;
        let mut room = count(units, (2.0 * ratio).min(1.0));
        for (all, own) in candidates.iter_mut().zip(own).rev() {
            let taken = own.min(room);
            (*all, room) = (*all + taken, room - taken);
        }
    }
    let mut left = count(n, ratio);
    let threshold = candidates.iter().enumerate().rev().find_map(|(bits, &n)| {
        let found = left <= n;
        left = left.saturating_sub(n);
        found.then(|| bf16::from_bits(bits as u16).to_f32())
    });
    // As the release, a share of nothing takes what is at least 1e8.
    let threshold = if count(n, ratio) == 0 { 1e8 } else { threshold.unwrap_or(0.0) };
    let mut tensors = Vec::with_capacity(scores.shapes().len());
    for (i, shape) in scores.shapes().iter().enumerate() {
        let mut bits = Bits::none(shape.units(Granularity::Weight));
        let mut at = 0;
        scores.visit(i, &mut |values| {
            values.iter().enumerate().filter(|(_, v)| **v >= threshold).for_each(|(k, _)| bits.set(at + k));
            at += values.len();
            Ok(())
        })?;
        tensors.push(TensorMask { shape: shape.clone(), bits });
    }
    Ok(Mask::new(Granularity::Weight, tensors))
}
