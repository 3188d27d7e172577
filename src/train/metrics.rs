//! `metrics.jsonl`: one JSON object per step or evaluation, with TRL's names, flushed line by line.

use super::evaluate::EvalReport;
use super::trainer::StepReport;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file of a run.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    lines: u64,
}

impl MetricsFile {
    /// Makes an empty file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::io(path, "cannot make the metrics file", &e))?;
        Ok(Self { path: path.to_owned(), file, lines: 0 })
    }

    /// Opens the file of a run that is taken up again: what comes after its first `lines` lines is cut off, for it will be
    /// written again.
    pub fn resume(path: &Path, lines: u64) -> Result<Self> {
        let io = |what: &str, e: &std::io::Error| Error::io(path, what, e);
        let mut file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|e| io("cannot open the metrics file", &e))?;
        let (mut reader, mut bytes, mut line) = (BufReader::new(&file), 0, Vec::new());
        for n in 0..lines {
            line.clear();
            bytes += reader.read_until(b'\n', &mut line).map_err(|e| io("cannot read", &e))? as u64;
            if line.last() != Some(&b'\n') {
                let message = format!("{}: has {n} lines, the checkpoint was made after {lines}", path.display());
                return Err(Error::new(Kind::Mismatch, message));
            }
        }
        file.set_len(bytes).map_err(|e| io("cannot cut", &e))?;
        file.seek(SeekFrom::End(0)).map_err(|e| io("cannot seek", &e))?;
        Ok(Self { path: path.to_owned(), file, lines })
    }

    /// Lines written, once they are safe on the disk.
    pub fn synced_lines(&self) -> Result<u64> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, "cannot sync", &e))?;
        Ok(self.lines)
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
        let at = || self.file.metadata().map_or(0, |meta| meta.len());
        written.map_err(|e| Error::io(&self.path, &format!("cannot append (at {} bytes)", at()), &e))?;
        self.lines += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_file_is_cut_to_its_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let step = |step| StepReport { step, ..StepReport::default() };
        let mut file = MetricsFile::create(&path).unwrap();
        (1..=3).for_each(|k| file.step(&step(k)).unwrap());
        assert_eq!(file.synced_lines().unwrap(), 3);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"torn"].concat()).unwrap();
        let mut again = MetricsFile::resume(&path, 2).unwrap();
        again.step(&step(3)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert!(MetricsFile::resume(&path, 4).unwrap_err().to_string().contains("has 3 lines"));
    }
}
