//! What a run moves: factors, rows, or whole weights; how it is held by a mask, run, and written.

use super::initial;
use crate::adapter::{
    export, export_changes, export_rows, import_changes, in_layers, is_changes, norms_and_biases, resolve_targets,
    Change, Lineage, Linear, Lora, RowChange,
};
use crate::engine::{Delta, Engine, Form};
use crate::error::{Context, Error, Kind, Result};
use crate::gguf::{base_hash, File};
use crate::mask::{hold, hold_changes, hold_rows, rows_of, Hold, Mask};
use crate::runtime::Model;
use crate::trace::Trace;
use crate::train::{DeltaKind, Outcome, RunDir, TrainConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What moves, as it is before the first step.
pub(super) enum Moving {
    Factors(Lora),
    Rows(Vec<RowChange>),
    Weights(Vec<Change>),
}

impl Moving {
    /// Fresh factors, weights that have not changed yet, or what a file holds of either, with its fingerprint.
    pub(super) fn start(
        config: &TrainConfig,
        trace: &Trace,
        file: &File,
        from: Option<&Path>,
    ) -> Result<(Self, Option<String>)> {
        if let Some(path) = from {
            fits(config.delta, path)?;
        }
        Ok(match (config.delta, from) {
            (DeltaKind::Lora, None) => (Self::Factors(initial::fresh(config, trace)?), None),
            (DeltaKind::Lora, Some(path)) => {
                let (lora, hash) = initial::from_file(path, file)?;
                (Self::Factors(lora), Some(hash))
            }
            (DeltaKind::Rows, from) => {
                let mut rows = rows(config, &targets(config, trace)?)?;
                let hash = from.map(|path| go_on_with_rows(&mut rows, path, file)).transpose()?;
                (Self::Rows(rows), hash)
            }
            (DeltaKind::Full, from) => {
                let mut changes: Vec<Change> = targets(config, trace)?.iter().map(Change::zero).collect();
                let hash = from.map(|path| go_on(&mut changes, path, file)).transpose()?;
                (Self::Weights(changes), hash)
            }
        })
    }

    /// Numbers of all that moves without a mask.
    pub(super) fn n_numbers(&self) -> u64 {
        match self {
            Self::Factors(lora) => lora.factors.iter().map(|f| (f.a.len() + f.b.len()) as u64).sum(),
            Self::Rows(changes) => changes.iter().map(|c| c.values.len() as u64).sum(),
            Self::Weights(changes) => changes.iter().map(|c| c.values.len() as u64).sum(),
        }
    }

    /// What a mask's file leaves free, with a fingerprint of the file. Fresh factors are made to suit it.
    pub(super) fn hold(&mut self, path: &Path, base: &File) -> Result<(Hold, String)> {
        let file = File::open(path)?;
        let mask = Mask::from_file(&file)?;
        Mask::check_base(&file, &base_hash(base))?;
        let hold = match self {
            Self::Factors(lora) => hold(&mask, lora),
            Self::Rows(changes) => Ok(hold_rows(changes)),
            Self::Weights(changes) => hold_changes(&mask, changes),
        };
        let hold = hold.during(|| path.display().to_string())?;
        Ok((hold, format!("{} {}s", base_hash(&file), mask.granularity().name())))
    }

    /// The session that moves it, and norms and biases beside it.
    pub(super) fn engine(
        self,
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        config: &TrainConfig,
        form: Form,
        vectors: Vec<Change>,
    ) -> Result<Engine> {
        let (deltas, changes) = match self {
            // A mask names them, and norms and biases move under none.
            Self::Rows(changes) => return Engine::with_rows(model, trace, &changes, config.threads, form),
            Self::Factors(lora) => (vec![Delta { lora, scale: 1.0, trainable: true }], vectors),
            Self::Weights(changes) => (Vec::new(), [changes, vectors].concat()),
        };
        Engine::with_all(model, trace, (deltas, changes), config.threads, form, config.lora_dropout)
    }
}

/// The norms and biases that a configuration moves, as they are before the first step.
pub(super) fn vectors(config: &TrainConfig, trace: &Trace) -> Result<Vec<Change>> {
    let found = norms_and_biases(trace, config.train_norms, config.train_biases)?;
    Ok(in_layers(&config.layers_to_transform, found)?.iter().map(Change::zero).collect())
}

/// Weights that move, and how.
pub(super) fn describe(moving: &Moving, vectors: &[Change], config: &TrainConfig) -> String {
    let beside = match vectors.len() {
        0 => String::new(),
        n => format!(", {n} norms and biases"),
    };
    match moving {
        Moving::Factors(lora) => {
            format!("{} weights adapted with r = {}{beside}", lora.factors.len(), config.lora_rank)
        }
        Moving::Rows(changes) => {
            let n: usize = changes.iter().map(|c| c.rows.len()).sum();
            format!("{n} rows of {} weights trained", changes.iter().filter(|c| !c.rows.is_empty()).count())
        }
        Moving::Weights(changes) => format!("{} weights trained whole{beside}", changes.len()),
    }
}

/// Files that hold what was trained.
pub(super) struct Written {
    /// The adapter, or the changes of the weights where there is none.
    pub(super) result: PathBuf,
    /// The changes of norms and biases beside an adapter.
    pub(super) beside: Option<PathBuf>,
}

/// Refuses to go on with what the run does not move.
fn fits(delta: DeltaKind, path: &Path) -> Result<()> {
    let is_change = is_changes(&File::open(path)?);
    match delta {
        DeltaKind::Lora if is_change => {
            let message =
                format!("change: {} holds changes of whole weights, which --delta full moves", path.display());
            Err(Error::new(Kind::Argument, message))
        }
        DeltaKind::Full | DeltaKind::Rows if !is_change => {
            let delta = delta.name();
            let message = format!("lora: --delta {delta} moves no factors; fold the adapter into the model first");
            Err(Error::new(Kind::Argument, message))
        }
        _ => Ok(()),
    }
}

/// The weights that the configuration means.
fn targets(config: &TrainConfig, trace: &Trace) -> Result<Vec<Linear>> {
    let linears = in_layers(&config.layers_to_transform, Linear::all(trace))?;
    let targets = resolve_targets(&config.lora_targets, &linears)?;
    match targets.iter().find(|t| t.n_experts != 1) {
        None => Ok(targets),
        Some(stack) => {
            let what = format!("lora-targets: --delta {} does not move experts ({})", config.delta.name(), stack.name);
            Err(Error::new(Kind::Unsupported, what))
        }
    }
}

/// The rows of a configuration's mask, unchanged.
fn rows(config: &TrainConfig, targets: &[Linear]) -> Result<Vec<RowChange>> {
    let path = config.mask.as_deref().ok_or_else(|| Error::new(Kind::Argument, "delta: rows without a mask"))?;
    rows_of(&Mask::read(path)?, targets).during(|| path.display().to_string())
}

/// As [`go_on`], with rows.
fn go_on_with_rows(changes: &mut [RowChange], path: &Path, base: &File) -> Result<String> {
    let file = File::open(path)?;
    for found in import_changes(&file, base)? {
        let taken = match changes.iter_mut().find(|own| own.weight == found.weight) {
            Some(own) => own.take(&found),
            None => Err(Error::new(Kind::Mismatch, format!("{} is changed already and may not move", found.weight))),
        };
        taken.during(|| path.display().to_string())?;
    }
    Ok(base_hash(&file))
}

/// Puts a file's changes into those that are trained; returns its fingerprint.
fn go_on(changes: &mut [Change], path: &Path, base: &File) -> Result<String> {
    let file = File::open(path)?;
    for found in import_changes(&file, base)? {
        let Some(own) = changes.iter_mut().find(|own| own.weight == found.weight) else {
            let message = format!("{}: it changes {}, which the run does not train", path.display(), found.weight);
            return Err(Error::new(Kind::Mismatch, message));
        };
        *own = found;
    }
    Ok(base_hash(&file))
}

/// Writes what was trained.
pub(super) fn write(
    config: &TrainConfig,
    engine: &Engine,
    outcome: Option<&Outcome>,
    lineage: &Lineage,
    run_dir: &RunDir,
) -> Result<Written> {
    if config.delta == DeltaKind::Full {
        export_changes(&engine.changes(), lineage, &run_dir.change())?;
        return Ok(Written { result: run_dir.change(), beside: None });
    }
    let best = outcome.filter(|_| config.load_best_model_at_end).map(|o| &o.result);
    let changes = best.map_or_else(|| engine.changes(), |measured| measured.changes.clone());
    let beside = (!changes.is_empty()).then(|| run_dir.change());
    if let Some(path) = &beside {
        export_changes(&changes, lineage, path)?;
    }
    let best = outcome.and_then(|o| o.result.adapter.clone());
    let now = || engine.deltas().into_iter().find(|delta| delta.trainable).map(|delta| delta.lora);
    let trained = best.or_else(now).ok_or_else(|| Error::new(Kind::Internal, "the engine lost its delta"))?;
    if config.delta == DeltaKind::Rows {
        let rows: Option<Vec<RowChange>> = trained.factors.iter().map(RowChange::of_factor).collect();
        let rows = rows.ok_or_else(|| Error::new(Kind::Internal, "rows have lost their places"))?;
        export_rows(&rows, lineage, &run_dir.change())?;
        // Exact as an adapter as well, which is of use while it is smaller than what it changes.
        if rows.iter().all(RowChange::fits_factors) {
            export(&trained, lineage, &run_dir.adapter())?;
        }
        return Ok(Written { result: run_dir.change(), beside: None });
    }
    export(&trained, lineage, &run_dir.adapter())?;
    Ok(Written { result: run_dir.adapter(), beside })
}
