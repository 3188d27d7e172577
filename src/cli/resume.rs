//! `--resume`: where a run begins.

use super::args::TrainArgs;
use super::args_saving::SavingArgs;
use super::Printer;
use crate::error::{Error, Kind, Result};
use crate::train::{Checkpoint, Precision, Recompute, RunDir, TrainConfig};
use std::path::Path;

/// Where a run begins.
pub(super) enum Start {
    /// At step 0, in a directory that is made or was left before its first checkpoint.
    Fresh { unfinished: bool },
    /// At a checkpoint.
    From(Box<Begun>),
    /// Nowhere: it ended already.
    Complete(Ended),
}

/// A run that was begun, its checkpoint, and the text of its configuration.
pub(super) struct Begun {
    pub(super) checkpoint: Checkpoint,
    config: Text,
}

/// A run that ended.
pub(super) struct Ended {
    config: Text,
}

/// A configuration file.
#[derive(Clone)]
pub(super) struct Text {
    text: String,
    source: String,
}

impl Text {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the configuration", &e))?;
        Ok(Self { text, source: path.display().to_string() })
    }

    /// The configuration, and which keys the text gives.
    pub(super) fn parse(&self) -> Result<(TrainConfig, Vec<String>)> {
        TrainConfig::from_toml_with_keys(&self.text, &self.source)
    }
}

impl Ended {
    /// Refuses to take the run that ended for one of another configuration.
    pub(super) fn check(&self, config: &TrainConfig) -> Result<()> {
        let (ended, _) = self.config.parse()?;
        // What the model's context left of the longest row that was asked for.
        let max_length = if config.max_length > ended.max_length { ended.max_length } else { config.max_length };
        let recompute = if config.recompute == Recompute::Auto { ended.recompute } else { config.recompute };
        TrainConfig { max_length, recompute, ..config.clone() }.check_same_run(&ended)
    }
}

impl Start {
    /// Looks at what the flags and the run directory say.
    pub(super) fn find(args: &SavingArgs, output: &Path, printer: &mut Printer) -> Result<Self> {
        let Some(resume) = &args.resume else { return Ok(Start::Fresh { unfinished: false }) };
        if resume.as_os_str() != "auto" {
            belongs(resume, output)?;
            let (checkpoint, config) = (Checkpoint::read(resume)?, Text::read(&RunDir::open(output).config())?);
            return Ok(Start::From(Box::new(Begun { checkpoint, config })));
        }
        if !output.is_dir() {
            return Ok(Start::Fresh { unfinished: false });
        }
        let run = RunDir::reopen(output)?;
        if run.record().exists() {
            return Ok(Start::Complete(Ended { config: Text::read(&run.config())? }));
        }
        let (found, damaged) = run.latest()?;
        let Some((path, checkpoint)) = found else {
            return match damaged.into_iter().next() {
                // To begin anew would be to lose the run without a word.
                Some(error) => Err(error.during("no checkpoint can be read")),
                None => Ok(Start::Fresh { unfinished: run.config().exists() }),
            };
        };
        damaged.iter().for_each(|error| printer.talk(&format!("{error}; an earlier one is taken")));
        printer.talk(&format!("{}: the run goes on after step {}", path.display(), checkpoint.state.done));
        Ok(Start::From(Box::new(Begun { checkpoint, config: Text::read(&run.config())? })))
    }

    /// The checkpoint that the run goes on from.
    pub(super) fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Start::From(begun) => Some(&begun.checkpoint),
            _ => None,
        }
    }

    /// The configuration's text: that of `--config`, or else what the run was begun with.
    pub(super) fn text(&self, args: &TrainArgs) -> Result<Option<Text>> {
        match (&args.config, self) {
            (Some(path), _) => Text::read(path).map(Some),
            (None, Start::From(begun)) => Ok(Some(begun.config.clone())),
            (None, Start::Complete(ended)) => Ok(Some(ended.config.clone())),
            (None, Start::Fresh { .. }) => Ok(None),
        }
    }

    /// The run's plan where the flags leave it open.
    pub(super) fn fill(&self, config: &mut TrainConfig) {
        let Some(begun) = self.checkpoint().map(|c| &c.config) else { return };
        let text = |key: &str| begun.get(key).and_then(toml::Value::as_str);
        if config.threads == 0 {
            let threads = begun.get("threads").and_then(toml::Value::as_integer);
            config.threads = threads.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        }
        if config.precision == Precision::Auto {
            config.precision = text("precision").and_then(|p| Precision::from_name(p).ok()).unwrap_or(Precision::Auto);
        }
        if config.recompute == Recompute::Auto {
            config.recompute = text("recompute").and_then(|r| Recompute::from_name(r).ok()).unwrap_or(Recompute::Auto);
        }
    }
}

/// A checkpoint of another run would find another run's metrics.
fn belongs(checkpoint: &Path, output: &Path) -> Result<()> {
    if !checkpoint.exists() {
        return Err(Error::new(Kind::Missing, format!("--resume {}: there is no such file", checkpoint.display())));
    }
    let whole = |path: &Path| if path == Path::new("") { Path::new(".").canonicalize() } else { path.canonicalize() };
    let inside = checkpoint.parent().is_some_and(|p| whole(p).is_ok_and(|p| whole(output).is_ok_and(|o| o == p)));
    if inside {
        return Ok(());
    }
    let message = format!("--resume {}: is no checkpoint of the run in {}", checkpoint.display(), output.display());
    Err(Error::new(Kind::Argument, message))
}
