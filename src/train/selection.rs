//! Which evaluation of a run was the best one, and when to stop: Hugging Face's `metric_for_best_model`,
//! `greater_is_better` and `early_stopping_patience`.

use super::config::TrainConfig;
use super::evaluate::EvalReport;
use crate::error::{Error, Kind, Result};

/// Follows one metric over a run's evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    metric: String,
    greater_is_better: bool,
    patience: usize,
    best: Option<(usize, f64)>,
    misses: usize,
}

/// What an evaluation means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is better than all before it.
    pub is_best: bool,
    /// As many evaluations in a row as patience allows were no better than the best.
    pub stop: bool,
}

impl Selection {
    /// Follows `metric`, with or without its prefix `eval_`; an empty name means the loss. Without `greater_is_better`
    /// losses, likelihoods' negatives and perplexities are better small, everything else is better large. A patience of
    /// 0 never stops.
    pub fn new(metric: &str, greater_is_better: Option<bool>, patience: usize) -> Self {
        let metric = metric.strip_prefix("eval_").unwrap_or(metric);
        let metric = if metric.is_empty() { "loss" } else { metric }.to_owned();
        let small = ["loss", "nll", "perplexity"].iter().any(|end| metric.ends_with(end));
        let greater_is_better = greater_is_better.unwrap_or(!small);
        Self { metric, greater_is_better, patience, best: None, misses: 0 }
    }

    /// As a configuration asks for.
    pub fn of(config: &TrainConfig) -> Self {
        Self::new(&config.metric_for_best_model, config.greater_is_better, config.early_stopping_patience)
    }

    /// The metric's value in a report; an error names those that there are.
    pub fn value(&self, report: &EvalReport) -> Result<f64> {
        let fields = serde_json::to_value(report).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        fields.get(&self.metric).and_then(serde_json::Value::as_f64).ok_or_else(|| {
            let names: Vec<_> = fields.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let message = format!("metric-for-best-model: {} is none of {}", self.metric, names.join(", "));
            Error::new(Kind::Argument, message)
        })
    }

    /// Takes the evaluation after `step` in.
    pub fn offer(&mut self, step: usize, report: &EvalReport) -> Result<Verdict> {
        let value = self.value(report)?;
        let is_best =
            self.best.is_none_or(|(_, best)| if self.greater_is_better { value > best } else { value < best });
        if is_best {
            (self.best, self.misses) = (Some((step, value)), 0);
        } else {
            self.misses += 1;
        }
        Ok(Verdict { is_best, stop: self.patience > 0 && self.misses >= self.patience })
    }

    /// Takes up where it stood: step and value of the best evaluation, and how many in a row were no better since.
    pub(super) fn restore(&mut self, best: (usize, f64), misses: usize) {
        (self.best, self.misses) = (Some(best), misses);
    }

    /// Evaluations in a row that were no better than the best.
    pub(super) fn misses(&self) -> usize {
        self.misses
    }

    /// Step and value of the best evaluation so far.
    pub fn best(&self) -> Option<(usize, f64)> {
        self.best
    }

    /// The metric's name, without a prefix.
    pub fn metric(&self) -> &str {
        &self.metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(nll: f64, margin: f64) -> EvalReport {
        EvalReport { nll, loss: Some(nll), reward_margin: Some(margin), ..EvalReport::default() }
    }

    #[test]
    fn patience_counts_evaluations_in_a_row_that_are_no_better() {
        let mut selection = Selection::new("", None, 2);
        let offers = [3.0, 2.0, 2.0, 1.0, 1.5, 1.2].map(|nll| selection.offer(0, &report(nll, 0.0)).unwrap());
        assert_eq!(offers.map(|v| v.is_best), [true, true, false, true, false, false]);
        assert_eq!(offers.map(|v| v.stop), [false, false, false, false, false, true]);
        assert_eq!(selection.best(), Some((0, 1.0)));
    }

    #[test]
    fn larger_is_better_for_rewards_and_as_told() {
        let best = |metric: &str, greater: Option<bool>| {
            let mut selection = Selection::new(metric, greater, 0);
            for (step, margin) in [(1, 0.5), (2, 0.9), (3, -1.0)] {
                assert!(!selection.offer(step, &report(1.0, margin)).unwrap().stop);
            }
            selection.best().unwrap().0
        };
        assert_eq!(best("eval_rewards/margins", None), 2);
        assert_eq!(best("rewards/margins", Some(false)), 3);
        assert_eq!(best("loss", None), 1);
    }

    #[test]
    fn a_metric_that_there_is_none_of_is_refused_with_the_names() {
        let error = Selection::new("rouge", None, 1).value(&report(1.0, 0.0)).unwrap_err();
        assert_eq!(error.kind(), Kind::Argument);
        let text = error.to_string();
        assert!(text.contains("rouge") && text.contains("rewards/margins") && text.contains("loss"), "{text}");
    }
}
