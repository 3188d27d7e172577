//! A run directory: made once, never written into by accident.

use super::config::TrainConfig;
use crate::error::{Error, Kind, Result};
use crate::gguf::write_atomically;
use std::path::{Path, PathBuf};

/// Files that a run makes; overwriting removes these and nothing else.
const FILES: [&str; 3] = ["config.toml", "metrics.jsonl", "adapter.gguf"];

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
            for file in FILES.map(|f| path.join(f)).into_iter().filter(|f| f.exists()) {
                std::fs::remove_file(&file).map_err(|e| Error::io(&file, "cannot remove the former run's file", &e))?;
            }
        } else {
            std::fs::create_dir_all(path).map_err(|e| {
                Error::new(Kind::Output, format!("{}: the run directory cannot be made: {e}", path.display()))
            })?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The resolved configuration.
    pub fn write_config(&self, config: &TrainConfig) -> Result<()> {
        write_atomically(&self.path.join("config.toml"), config.to_toml()?.as_bytes())
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
