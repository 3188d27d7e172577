//! A run directory: made once, never written into by accident.

use super::checkpoint::Checkpoint;
use super::config::TrainConfig;
use crate::error::{Error, Kind, Result};
use crate::gguf::write_atomically;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Files that a run makes; overwriting removes these, adapters kept on the way, and nothing else.
const FILES: [&str; 9] = [
    "config.toml",
    "metrics.jsonl",
    "adapter.gguf",
    "change.gguf",
    "run.json",
    "eval-items.jsonl",
    "samples.jsonl",
    "tax.json",
    "report.html",
];
/// Where adapters of measurements on the way lie.
const KEPT: &str = "adapters";

/// A checkpoint and where it lies.
type Found = (PathBuf, Checkpoint);

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the directory. One that exists and is not empty is refused unless `overwrite`, which removes a former run's files.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        if path.exists() {
            let mut entries = std::fs::read_dir(path)
                .map_err(|e| Error::new(Kind::Output, format!("{}: cannot be a run directory: {e}", path.display())))?;
            if entries.next().is_some() && !overwrite {
                let message =
                    format!("{}: the run directory exists; --overwrite replaces the run in it", path.display());
                return Err(Error::new(Kind::Output, message));
            }
            let former = Self { path: path.to_owned() };
            let checkpoints = former.checkpoints()?.into_iter().map(|(_, file)| file);
            let files = FILES.map(|f| path.join(f)).into_iter().filter(|f| f.exists());
            for file in files.chain(kept(&path.join(KEPT))).chain(checkpoints).chain(former.drafts()?) {
                std::fs::remove_file(&file).map_err(|e| Error::io(&file, "cannot remove the former run's file", &e))?;
            }
            // Left where the user put something of their own into it.
            let _ = std::fs::remove_dir(path.join(KEPT));
        } else {
            std::fs::create_dir_all(path).map_err(|e| {
                Error::new(Kind::Output, format!("{}: the run directory cannot be made: {e}", path.display()))
            })?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Opens the directory of a run that is taken up again; what a killed process left half written is removed.
    pub fn reopen(path: &Path) -> Result<Self> {
        let run = Self { path: path.to_owned() };
        for file in run.drafts()? {
            std::fs::remove_file(&file).map_err(|e| Error::io(&file, "cannot remove", &e))?;
        }
        Ok(run)
    }

    fn entries(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path).map_err(|e| Error::io(&self.path, "cannot list", &e))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Files under the temporary names that atomic writing gives them.
    fn drafts(&self) -> Result<Vec<PathBuf>> {
        let is_draft = |name: &String| name.starts_with('.') && name.ends_with(".part");
        let below = |run: &Self| -> Result<Vec<PathBuf>> {
            Ok(run.entries()?.into_iter().filter(is_draft).map(|name| run.path.join(name)).collect())
        };
        let kept = Self { path: self.path.join(KEPT) };
        let of_kept = if kept.path.is_dir() { below(&kept)? } else { Vec::new() };
        Ok(below(self)?.into_iter().chain(of_kept).collect())
    }

    /// Where the changes of whole weights go.
    pub fn change(&self) -> PathBuf {
        self.path.join("change.gguf")
    }

    /// Where the checkpoint after `step` steps lies.
    pub fn checkpoint(&self, step: usize) -> PathBuf {
        self.path.join(format!("checkpoint-{step}.gguf"))
    }

    /// The steps and files of all checkpoints, the earliest first.
    pub fn checkpoints(&self) -> Result<Vec<(usize, PathBuf)>> {
        let step = |name: &str| name.strip_prefix("checkpoint-")?.strip_suffix(".gguf")?.parse().ok();
        let mut found: Vec<(usize, PathBuf)> =
            self.entries()?.iter().filter_map(|name| Some((step(name)?, self.path.join(name)))).collect();
        found.sort();
        Ok(found)
    }

    /// The latest checkpoint that can be read, with what is wrong with those that cannot.
    pub fn latest(&self) -> Result<(Option<Found>, Vec<Error>)> {
        let mut damaged = Vec::new();
        for (_, path) in self.checkpoints()?.into_iter().rev() {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => return Ok((Some((path, checkpoint)), damaged)),
                Err(error) => damaged.push(error),
            }
        }
        Ok((None, damaged))
    }

    /// Writes a checkpoint, then removes the earliest ones beyond `limit` (0 keeps all).
    pub fn save(&self, checkpoint: &Checkpoint, limit: usize) -> Result<PathBuf> {
        let path = self.checkpoint(checkpoint.state.done);
        checkpoint.write(&path)?;
        self.prune_checkpoints(checkpoint.state.done, limit)?;
        Ok(path)
    }

    /// Removes the earliest checkpoints up to step `last` beyond `limit` (0 keeps all): a run that was killed may have left one
    /// too many.
    pub fn prune_checkpoints(&self, last: usize, limit: usize) -> Result<()> {
        if limit > 0 {
            let earlier = self.checkpoints()?;
            for (_, old) in earlier.iter().filter(|(step, _)| *step < last).rev().skip(limit - 1) {
                std::fs::remove_file(old).map_err(|e| Error::io(old, "cannot remove an earlier checkpoint", &e))?;
            }
        }
        Ok(())
    }

    /// The resolved configuration that the run was begun with.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The resolved configuration.
    pub fn write_config(&self, config: &TrainConfig) -> Result<()> {
        write_atomically(&self.config(), config.to_toml()?.as_bytes())
    }

    /// A run directory that is there.
    pub fn open(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one JSON object per line.
    pub fn write_lines<T: Serialize>(&self, name: &str, rows: &[T]) -> Result<()> {
        write_atomically(&self.path.join(name), json_lines(rows)?.as_bytes())
    }

    /// The adapter measured after `step`, kept on the way; its directory is made.
    pub fn kept_adapter(&self, step: usize) -> Result<PathBuf> {
        Ok(self.keep()?.join(format!("step-{step:06}.gguf")))
    }

    /// The adapter of the best measurement so far; its directory is made.
    pub fn best_adapter(&self) -> Result<PathBuf> {
        Ok(self.keep()?.join("best.gguf"))
    }

    /// The changes of norms and biases at the best measurement so far; its directory is made.
    pub fn best_change(&self) -> Result<PathBuf> {
        Ok(self.keep()?.join("best.change.gguf"))
    }

    fn keep(&self) -> Result<PathBuf> {
        let path = self.path.join(KEPT);
        std::fs::create_dir_all(&path).map_err(|e| Error::io(&path, "cannot make the directory", &e))?;
        Ok(path)
    }

    /// Removes adapters kept on the way but for the `n` latest ones and the best one.
    pub fn prune_adapters(&self, n: usize) -> Result<()> {
        let mut files: Vec<_> = kept(&self.path.join(KEPT)).into_iter().filter(|f| !f.ends_with("best.gguf")).collect();
        files.sort();
        for file in files.iter().rev().skip(n) {
            std::fs::remove_file(file).map_err(|e| Error::io(file, "cannot remove", &e))?;
        }
        Ok(())
    }

    /// The run's record.
    pub fn record(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// The metrics file.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The adapter.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter.gguf")
    }
}

/// Rows as JSON lines.
pub fn json_lines<T: Serialize>(rows: &[T]) -> Result<String> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        text.push('\n');
    }
    Ok(text)
}

/// Adapters in a directory of those kept on the way.
fn kept(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        ["best.gguf", "best.change.gguf"].contains(&name) || (name.starts_with("step-") && name.ends_with(".gguf"))
    };
    entries.filter(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_run_is_kept_unless_told_otherwise() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run");
        RunDir::create(&path, false).unwrap().write_config(&TrainConfig::default()).unwrap();
        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        assert_eq!(RunDir::create(&path, false).unwrap_err().kind(), Kind::Output);
        RunDir::create(&path, true).unwrap();
        assert!(!path.join("config.toml").exists() && path.join("notes.txt").exists());
    }
}
