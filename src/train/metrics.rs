//! `metrics.jsonl`: one JSON object per step or evaluation, with TRL's names, flushed line by line.

use super::evaluate::EvalReport;
use super::trainer::StepReport;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file of a run.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Makes an empty file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io(path, "cannot make the metrics file", &e))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a training step.
    pub fn step(&mut self, report: &StepReport) -> Result<()> {
        let mut line = Map::new();
        line.insert("loss".into(), report.loss.into());
        line.insert("grad_norm".into(), report.grad_norm.into());
        line.insert("learning_rate".into(), report.learning_rate.into());
        line.insert("epoch".into(), report.epoch.into());
        line.insert("global_step".into(), report.step.into());
        line.insert("num_tokens".into(), report.num_tokens.into());
        for (key, value) in &report.metrics {
            line.insert((*key).into(), (*value).into());
        }
        if !report.block_grad_norms.is_empty() {
            line.insert("block_grad_norms".into(), report.block_grad_norms.clone().into());
        }
        self.append(&line)
    }

    /// Appends an evaluation after `step` steps; names get the prefix `eval_`.
    pub fn evaluation(&mut self, step: usize, report: &EvalReport) -> Result<()> {
        let fields = serde_json::to_value(report).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        let mut line = Map::new();
        line.insert("global_step".into(), step.into());
        for (key, value) in fields.as_object().into_iter().flatten() {
            line.insert(format!("eval_{key}"), value.clone());
        }
        self.append(&line)
    }

    fn append(&mut self, line: &Map<String, Value>) -> Result<()> {
        let text = Value::Object(line.clone()).to_string() + "\n";
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush());
        written.map_err(|e| Error::io(&self.path, "cannot append", &e))
    }
}
