//! Held-out rows over a run: measured at its start, which is their reference, and as often as wanted after it.

use super::config::TrainConfig;
use super::evaluate::{evaluate, row_scores, EvalReport, References, RowScore};
use super::method::Method;
use super::objective::{baseline, count_units, row_loss, RowLogps, Tally};
use super::policy::Policy;
use crate::data::{Dataset, TokenWeights};
use crate::error::Result;
use std::ops::Deref;

/// Held-out rows, and what the weights at the run's start make of them. `D` is `&Dataset` or `Arc<Dataset>`.
#[derive(Debug)]
pub struct HeldOut<D> {
    data: D,
    start: References,
    before: EvalReport,
}

impl<D: Deref<Target = Dataset>> HeldOut<D> {
    /// Measures the start of a run: the policy as it is now.
    pub fn new(config: &TrainConfig, data: D, policy: &mut dyn Policy) -> Result<Self> {
        let start = measure(config, &data, policy)?;
        Self::resume(config, data, start)
    }

    /// The same from what was measured at the start of a run that is taken up again.
    pub fn resume(config: &TrainConfig, data: D, start: References) -> Result<Self> {
        let mut before = evaluate(&data, &start, Some(&start), &config.rewards()?)?;
        before.loss = Some(loss(config, &data, &start, &start)?);
        Ok(Self { data, start, before })
    }

    /// The rows.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Log-probs at the start: the reference.
    pub fn start(&self) -> &References {
        &self.start
    }

    /// What was measured at the start.
    pub fn before(&self) -> &EvalReport {
        &self.before
    }

    /// Measures the policy as it is now: the report, and every row's own scores.
    pub fn measure(&self, config: &TrainConfig, policy: &mut dyn Policy) -> Result<(EvalReport, Vec<RowScore>)> {
        let now = measure(config, &self.data, policy)?;
        let rewards = config.rewards()?;
        let mut report = evaluate(&self.data, &now, Some(&self.start), &rewards)?;
        report.loss = Some(loss(config, &self.data, &now, &self.start)?);
        Ok((report, row_scores(&self.data, &now, Some(&self.start), &rewards)?))
    }
}

fn measure(config: &TrainConfig, data: &Dataset, policy: &mut dyn Policy) -> Result<References> {
    let rows: Vec<usize> = (0..data.samples.len()).collect();
    let mismatched = (config.method == Method::Kto).then_some(config.max_length);
    References::of_rows(policy, &data.samples, &rows, mismatched, config.micro_batch_tokens, &mut |_| {})
}

/// The run's loss over all held-out rows, as over one optimizer step; every token counts.
fn loss(config: &TrainConfig, data: &Dataset, now: &References, start: &References) -> Result<f64> {
    let (samples, weights) = (&data.samples, TokenWeights::default());
    let kl = match config.method {
        Method::Kto => {
            let sums = |r: &References| (0..samples.len()).map(|row| r.of_mismatched(row)).collect::<Result<Vec<_>>>();
            baseline(&sums(now)?, &sums(start)?)
        }
        Method::Sft | Method::Dpo | Method::Npo => 0.0,
    };
    let rows: Vec<usize> = (0..samples.len()).collect();
    let units = count_units(samples, &rows, &weights, kl);
    let mut tally = Tally::default();
    for (row, sample) in samples.iter().enumerate() {
        let logps = RowLogps { row, policy: now.tokens_of(row)?, references: start, weights: &weights };
        row_loss(config, sample, &logps, &units, &mut tally)?;
    }
    Ok(tally.loss)
}
