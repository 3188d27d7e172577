//! A run directory as the page shows it: what is there, read once.

use super::record::{RunRecord, TaxRecord};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// One prompt with the base's answer and that with the adapter, both greedy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleAnswer {
    /// What was asked.
    pub prompt: String,
    /// The base's answer.
    pub before: String,
    /// The answer with the adapter.
    pub after: String,
}

/// What the files of a run say. Only the configuration and the metrics must be there: a run that was stopped has no more.
#[derive(Clone, Debug, Default)]
pub struct RunView {
    /// `config.toml`.
    pub config: toml::Table,
    /// Optimizer steps of `metrics.jsonl`.
    pub steps: Vec<Map<String, Value>>,
    /// Its measurements of held-out rows.
    pub evaluations: Vec<Map<String, Value>>,
    /// `run.json`.
    pub record: Option<RunRecord>,
    /// `samples.jsonl`.
    pub samples: Vec<SampleAnswer>,
    /// `tax.json`.
    pub tax: Option<TaxRecord>,
}

impl RunView {
    /// Reads a run directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let config_path = directory.join("config.toml");
        let text = std::fs::read_to_string(&config_path)
            .map_err(|e| Error::io(&config_path, "cannot read; is this a run directory?", &e))?;
        let config = toml::from_str(&text)
            .map_err(|e| Error::new(Kind::Format, format!("{}: {}", config_path.display(), e.to_string().trim())))?;
        let mut view = Self { config, ..Self::default() };
        for line in lines::<Map<String, Value>>(&directory.join("metrics.jsonl"))? {
            if line.contains_key("loss") { &mut view.steps } else { &mut view.evaluations }.push(line);
        }
        let there = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        view.record = there("run.json").map(|path| RunRecord::read(&path)).transpose()?;
        view.samples = there("samples.jsonl").map(|path| lines(&path)).transpose()?.unwrap_or_default();
        view.tax = there("tax.json").map(|path| TaxRecord::read(&path)).transpose()?;
        Ok(view)
    }

    /// (step, value) of a number of the steps.
    pub(super) fn series(&self, key: &str) -> Vec<(f64, f64)> {
        points(&self.steps, key)
    }

    /// (step, value) of a number of the measurements.
    pub(super) fn evaluated(&self, key: &str) -> Vec<(f64, f64)> {
        points(&self.evaluations, &format!("eval_{key}"))
    }
}

fn points(lines: &[Map<String, Value>], key: &str) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|line| Some((line.get("global_step")?.as_f64()?, line.get(key)?.as_f64()?))).collect()
}

/// The objects of a JSON lines file.
fn lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read", &e))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::new(Kind::Format, format!("{}:{}: {e}", path.display(), i + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}
