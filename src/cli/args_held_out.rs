//! Flags about held-out rows, as `train` takes them; names are Hugging Face's where it has them.

use crate::train::TrainOverrides;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct HeldOutArgs {
    /// Held-out rows, measured before and after training
    #[arg(long)]
    pub(super) eval_data: Option<PathBuf>,
    /// Share of the training rows that is held out instead, by prompt, the same rows for every seed [default: 0]
    #[arg(long, alias = "val-size", alias = "val-set-size", conflicts_with = "eval_data")]
    eval_split: Option<f64>,
    /// Measure every so many optimizer steps as well [default: 0, before and after only]
    #[arg(long)]
    eval_steps: Option<usize>,
    /// Stop after so many measurements in a row without a better one; the result is then the best one's adapter
    /// [default: 0, never]
    #[arg(long)]
    early_stopping_patience: Option<usize>,
    /// What decides which measurement is better: loss, nll, rewards/margins, … [default: loss]
    #[arg(long)]
    metric_for_best_model: Option<String>,
    /// Whether it is better large: true or false [default: false for loss, nll and perplexity, else true]
    #[arg(long)]
    greater_is_better: Option<bool>,
    /// The result is the adapter of the best measurement, not the last one
    #[arg(long)]
    load_best_model_at_end: bool,
    /// Keep the adapters of this many latest measurements, and the best one's, in RUN/adapters [default: 0]
    #[arg(long)]
    keep_adapters: Option<usize>,
}

impl HeldOutArgs {
    /// Into the configuration's flags.
    pub(super) fn overrides(&self, rest: TrainOverrides) -> TrainOverrides {
        TrainOverrides {
            eval_data: self.eval_data.clone(),
            eval_split: self.eval_split,
            eval_steps: self.eval_steps,
            early_stopping_patience: self.early_stopping_patience,
            metric_for_best_model: self.metric_for_best_model.clone(),
            greater_is_better: self.greater_is_better,
            load_best_model_at_end: self.load_best_model_at_end.then_some(true),
            keep_adapters: self.keep_adapters,
            ..rest
        }
    }
}
