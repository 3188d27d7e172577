//! What a run will take, found by two steps of its own.

use super::evaluate::References;
use super::policy::Policy;
use super::trainer::Trainer;
use super::{Method, TrainConfig};
use crate::data::{Dataset, Sample};
use crate::engine::Layout;
use crate::error::Result;
use crate::os::peak_rss_bytes;
use serde::Serialize;
use std::ops::Deref;
use std::time::Instant;

/// A run's cost. Times grow with places on the token axis, padding included; a run's later rows may be longer or shorter than
/// those that were tried.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Forecast {
    /// Steps of the run.
    pub n_steps: usize,
    /// Places on the token axis that the steps take together.
    pub step_tokens: usize,
    /// Places that are run without gradients: the reference, and every measurement of held-out rows.
    pub forward_tokens: usize,
    /// Places per second of the second step.
    pub step_tokens_per_s: f64,
    /// Places per second without gradients.
    pub forward_tokens_per_s: f64,
    /// Seconds from the reference pass to the last step and measurement. Loading, checking and saving come on top.
    pub seconds: f64,
    /// The most memory that this process has had resident, the mapped model included; a run's largest step is among the two.
    pub peak_rss_bytes: u64,
}

/// Places that rows take on the axis, each by itself.
fn places<'a>(samples: impl Iterator<Item = &'a Sample>) -> usize {
    samples.map(|s| Layout::padded(s.sequences())).sum()
}

impl<D: Deref<Target = Dataset>> Trainer<D> {
    /// Makes two steps of the run: the one with the largest micro-batch, which finds how much memory is needed, and then the
    /// median one, which is timed. The policy's parameters are moved, so a run cannot follow on the same policy.
    ///
    /// # Errors
    /// Those of a step.
    pub fn forecast(
        config: &TrainConfig,
        data: D,
        held_out: Option<&Dataset>,
        policy: &mut dyn Policy,
    ) -> Result<Forecast> {
        let mut trainer = Self::prepare(config, data, policy)?;
        let steps: Vec<Vec<usize>> = (0..trainer.n_steps()).map(|step| trainer.rows(step)).collect();
        let of = |rows: &[usize]| places(rows.iter().map(|&r| &trainer.data.samples[r]));
        let sizes: Vec<usize> = steps.iter().map(|rows| of(rows)).collect();
        let largest_batch = |rows: &[usize]| trainer.micro_batches(rows).into_iter().map(of).max();
        let largest = (0..steps.len()).max_by_key(|&i| (largest_batch(&steps[i]), sizes[i])).unwrap_or(0);
        let mut by_size: Vec<usize> = (0..steps.len()).collect();
        by_size.sort_by_key(|&i| sizes[i]);
        let median = by_size[by_size.len() / 2];

        let (per_epoch, has_reference) = (trainer.steps_per_epoch(), trainer.config.has_reference()?);
        let once: usize = sizes.iter().take(per_epoch).sum();
        // KTO's mismatched pairs are as many sequences as its rows, in the reference and again in every step.
        let passes = 1 + usize::from(config.method == Method::Kto);
        let reference_tokens = if has_reference { once * passes } else { 0 };
        let held_out_tokens = held_out.map_or(0, |h| places(h.samples.iter()) * passes);
        let forward_tokens = reference_tokens + held_out_tokens * (1 + measurements(config, steps.len()));

        let mut seconds = [0.0; 2];
        for step in [largest, median] {
            let begun = Instant::now();
            if forward_tokens > 0 {
                trainer.refer(policy, &steps[step])?;
            }
            seconds = [begun.elapsed().as_secs_f64(), trainer.step(policy, step)?.step_seconds];
        }
        let rate = |passes: usize, seconds: f64| (sizes[median] * passes) as f64 / seconds.max(f64::MIN_POSITIVE);
        let forward_tokens_per_s = if forward_tokens > 0 { rate(passes, seconds[0]) } else { 0.0 };
        let (step_tokens, step_tokens_per_s) = (sizes.iter().sum(), rate(1, seconds[1]));
        let forward_seconds = if forward_tokens > 0 { forward_tokens as f64 / forward_tokens_per_s } else { 0.0 };
        Ok(Forecast {
            n_steps: steps.len(),
            step_tokens,
            forward_tokens,
            step_tokens_per_s,
            forward_tokens_per_s,
            seconds: step_tokens as f64 / step_tokens_per_s + forward_seconds,
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    /// Measures the reference on a step's rows.
    fn refer(&mut self, policy: &mut dyn Policy, rows: &[usize]) -> Result<()> {
        let mismatched = (self.config.method == Method::Kto).then_some(self.config.max_length);
        let (samples, max_tokens) = (&self.data.samples, self.config.micro_batch_tokens);
        let found = References::of_rows(policy, samples, rows, mismatched, max_tokens, &mut |_| {})?;
        self.references.extend(found);
        Ok(())
    }
}

/// Measurements of held-out rows on the way and at the end.
fn measurements(config: &TrainConfig, n_steps: usize) -> usize {
    match config.eval_steps {
        0 => 1,
        every => n_steps.div_ceil(every),
    }
}
