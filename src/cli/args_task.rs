//! Flags of `eval` about tasks.

use crate::error::{Error, Kind, Result};
use crate::evaluate::TaskParams;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// What is measured on --data: pairs, nll, kl (with --lora: drift from the base), mc (TruthfulQA), exact-match (GSM8K)
    /// or em-f1 (SQuAD)
    #[arg(long, conflicts_with = "tax")]
    pub(super) task: Option<String>,
    /// TASK=FILE, measured without and with the adapter and compared item by item; may be given several times
    #[arg(long, value_name = "TASK=FILE")]
    pub(super) tax: Vec<String>,
    /// Write every item's scores, as JSON lines
    #[arg(long, value_name = "FILE", requires = "task")]
    pub(super) per_item: Option<PathBuf>,
    /// Write the table of --tax as JSON; as RUN/tax.json it becomes part of the run's report
    #[arg(short = 'o', long, value_name = "FILE", requires = "tax")]
    pub(super) output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Items of a task at most, drawn by the seed [default: all]
    #[arg(long)]
    limit: Option<usize>,
    /// Seed of that draw and of intervals [default: 0]
    #[arg(short = 's', long)]
    seed: Option<u64>,
    /// Tokens of a generated answer at most [default: 256 for exact-match, 32 for em-f1]
    #[arg(short = 'n', long = "predict")]
    predict: Option<usize>,
    /// Ask without the model's chat template: "Q: …", "A:"
    #[arg(long)]
    no_template: bool,
}

impl TaskArgs {
    /// How tasks run; refuses flags that nothing here would heed.
    pub(super) fn params(&self, max_length: usize) -> Result<TaskParams> {
        let needless = [
            ("limit", self.limit.is_some()),
            ("seed", self.seed.is_some()),
            ("predict", self.predict.is_some()),
            ("no-template", self.no_template),
            ("overwrite", self.overwrite && self.per_item.is_none() && self.output.is_none()),
        ];
        let alone = self.task.is_none() && self.tax.is_empty();
        if let Some((flag, _)) = needless.iter().find(|(flag, given)| *given && (alone || *flag == "overwrite")) {
            let needs = if *flag == "overwrite" { "--per-item or --output" } else { "--task or --tax" };
            return Err(Error::new(Kind::Argument, format!("--{flag}: needs {needs}")));
        }
        if self.limit == Some(0) || self.predict == Some(0) {
            return Err(Error::new(Kind::Argument, "--limit and --predict are at least 1"));
        }
        Ok(TaskParams {
            max_length,
            limit: self.limit.unwrap_or(0),
            seed: self.seed.unwrap_or(0),
            n_predict: self.predict.unwrap_or(0),
            apply_template: !self.no_template,
            ..TaskParams::default()
        })
    }
}
