//! Gradients of a run's steps added up while nothing moves: scores of what the preferences pull at (ALLO's accumulated gradient;
//! specs `allo_hbat`, 1.4, step 2).

use super::policy::Policy;
use super::trainer::Trainer;
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use std::ops::Deref;

/// What is added up of every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientScore {
    /// |g|.
    Absolute,
    /// g².
    Squared,
}

/// Σ |g| or Σ g² over the steps of a run, of every group of `widths[i]` neighbouring numbers of the policy's tensor `i`, g being
/// the group's gradient: |g| is its norm. 1 gives a sum for every number, 0 none for the tensor. With the rank r as width the
/// groups of a factor B \[r, n_out\] are its rows: while B is 0, its gradient is s·G·Aᵀ, so that a row's is that of the weight's
/// row, G's, as A sees it. The policy keeps its values; `tell` hears of the steps that are done.
///
/// # Errors
/// If a width does not divide its tensor, and those of the trainer.
pub fn gradient_sums<D: Deref<Target = Dataset>>(
    trainer: &mut Trainer<D>,
    policy: &mut dyn Policy,
    score: GradientScore,
    widths: &[usize],
    tell: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f32>>> {
    let lengths = policy.lengths();
    let fits = |(len, width): (&usize, &usize)| *width == 0 || len % width == 0;
    if lengths.len() != widths.len() || !lengths.iter().zip(widths).all(fits) {
        return Err(Error::new(Kind::Argument, "widths: they do not divide the tensors that are trained"));
    }
    let mut sums: Vec<Vec<f32>> =
        lengths.iter().zip(widths).map(|(len, width)| vec![0.0; len.checked_div(*width).unwrap_or(0)]).collect();
    for step in 0..trainer.n_steps() {
        trainer.accumulate(policy, step)?;
        for (i, (sums, &width)) in sums.iter_mut().zip(widths).enumerate().filter(|(_, (_, width))| **width > 0) {
            for (sum, group) in sums.iter_mut().zip(policy.gradient(i).chunks_exact(width)) {
                let square = group.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
                *sum += if score == GradientScore::Absolute { square.sqrt() } else { square } as f32;
            }
        }
        tell(step + 1);
    }
    Ok(sums)
}
