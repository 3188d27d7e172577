//! A grid of runs: one directory each below the output; finished ones are skipped, interrupted ones
//! begun anew, or gone on with (`--resume auto`).

use super::args::TrainArgs;
use super::initial;
use super::resume::Start;
use super::train::{one, overrides, Job};
use super::Printer;
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, File};
use crate::report::{config_record, file_hash, RunRecord};
use crate::train::{Grid, TrainConfig};
use std::path::Path;

/// Runs every cell. Ends early, with the status of an interrupted run, where one is.
pub(super) fn run(args: &TrainArgs, grid: &Grid, printer: &mut Printer) -> Result<u8> {
    if args.saving.resume.as_ref().is_some_and(|resume| resume.as_os_str() != "auto") {
        return Err(Error::new(Kind::Argument, "--resume: a grid has many runs: give auto"));
    }
    let mut plan = Vec::new();
    for cell in grid.cells()? {
        let mut config = cell.config.clone();
        config.apply(overrides(args))?;
        grid.check_flags(&cell, &config)?;
        config.refuse_unused(&grid.axes())?;
        if let Some(path) = &args.adapter.lora {
            initial::claim(path, &mut config, &grid.keys())?;
        }
        plan.push((cell.name, config));
    }
    let hashes = Hashes { base: base_hash(&File::open(&args.model)?), data: file_hash(&args.data)? };
    for (i, (name, config)) in plan.iter().enumerate() {
        let (output, place) = (args.output.join(name), format!("cell {} of {}, {name}", i + 1, plan.len()));
        if !args.overwrite && !args.dry_run && finished(&output, &config.clone().resolve()?, &hashes)? {
            printer.talk(&format!("{place}: finished already"));
            continue;
        }
        printer.talk(&format!("{place}:"));
        let start = Start::find(&args.saving, &output, printer)?;
        let begun = args.saving.resume.is_none() && output.join("config.toml").exists();
        let mut config = config.clone();
        start.fill(&mut config);
        let (from, overwrite) = (args.adapter.from(), args.overwrite || begun);
        let job = Job { start, output: &output, from, overwrite, samples: args.samples, is_stage: false };
        let status = one(args, config.resolve()?, job, printer)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}

struct Hashes {
    base: String,
    data: String,
}

/// Whether a directory holds this cell's finished run; another run's is an error, not a result.
fn finished(output: &Path, config: &TrainConfig, hashes: &Hashes) -> Result<bool> {
    let path = output.join("run.json");
    if !path.exists() {
        return Ok(false);
    }
    let record = RunRecord::read(&path)?;
    let wanted = config_record(config)?;
    // Resolved when a run begins, by the memory that is free and by the model's context; and what is saved on the way.
    let other = ["recompute", "max_length", "save_steps", "save_total_limit", "keep_adapters"];
    let keys = wanted.iter().filter(|(key, _)| !other.contains(&key.as_str()));
    let differs = keys.into_iter().find(|(key, value)| record.config.get(key.as_str()) != Some(value));
    let differs = match differs {
        Some((key, _)) => Some(key.as_str()),
        None if record.base.hash != hashes.base => Some("model"),
        None if record.data.hash != hashes.data => Some("data"),
        None => None,
    };
    match differs {
        None => Ok(true),
        Some(key) => {
            let what = format!("holds a run with another {key}; --overwrite replaces it");
            Err(Error::new(Kind::Output, format!("{}: {what}", output.display())))
        }
    }
}
