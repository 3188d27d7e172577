//! `llama-align mask`: masks out of masks.

use super::args_mask::{MaskCommand, MaskOutput};
use super::Printer;
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_output, File, Value, BASE_HASH};
use crate::mask::Mask;
use std::path::{Path, PathBuf};

/// Runs the command.
pub(super) fn run(command: &MaskCommand, printer: &mut Printer) -> Result<u8> {
    let (name, paths, output): (&str, Vec<&Path>, &MaskOutput) = match command {
        MaskCommand::Union(args) => ("union", paths(&args.masks), &args.output),
        MaskCommand::Intersection(args) => ("intersection", paths(&args.masks), &args.output),
        MaskCommand::Difference(args) => ("difference", paths(&args.masks), &args.output),
        MaskCommand::Complement(args) => ("complement", vec![&args.mask], &args.output),
        MaskCommand::Random(args) => ("random", vec![&args.mask], &args.output),
    };
    check_output(&output.output, paths.iter().copied(), output.overwrite)?;
    let files = paths.iter().map(|path| File::open(path)).collect::<Result<Vec<_>>>()?;
    let masks = files.iter().map(Mask::from_file).collect::<Result<Vec<_>>>()?;
    let (first, others) = masks.split_first().ok_or_else(|| Error::new(Kind::Argument, "no mask"))?;
    let base = base(&files)?;
    let fold = |with: fn(&Mask, &Mask) -> Result<Mask>| others.iter().try_fold(first.clone(), |m, o| with(&m, o));
    let mut mask = match command {
        MaskCommand::Union(_) => fold(Mask::union)?,
        MaskCommand::Intersection(_) => fold(Mask::intersection)?,
        MaskCommand::Difference(_) => fold(Mask::difference)?,
        MaskCommand::Complement(_) => first.complement(),
        MaskCommand::Random(args) => first.random_like(args.seed),
    };
    mask.provenance.insert("operation".to_owned(), name.to_owned());
    if let MaskCommand::Random(args) = command {
        mask.provenance.insert("seed".to_owned(), args.seed.to_string());
    }
    for (i, mask_of) in masks.iter().enumerate() {
        for (key, value) in &mask_of.provenance {
            mask.provenance.insert(format!("{i}.{key}"), value.clone());
        }
    }
    mask.write(&output.output, files[0].architecture()?, base)?;
    tell(&mask, &output.output, printer);
    Ok(0)
}

fn paths(paths: &[PathBuf]) -> Vec<&Path> {
    paths.iter().map(PathBuf::as_path).collect()
}

/// The model that all of them are of.
fn base(files: &[File]) -> Result<&str> {
    let hash = |file: &'_ File| file.get(BASE_HASH).and_then(Value::as_str).map(str::to_owned);
    let first = files.first().and_then(|file| file.get(BASE_HASH)).and_then(Value::as_str).unwrap_or_default();
    match files.iter().find(|file| hash(file).as_deref() != Some(first)) {
        Some(other) => {
            let (a, b) = (files[0].path().display(), other.path().display());
            Err(Error::new(Kind::Mismatch, format!("{a} and {b}: masks of different models")))
        }
        None => Ok(first),
    }
}

/// Says what a mask holds.
pub(super) fn tell(mask: &Mask, path: &Path, printer: &mut Printer) {
    let (count, n, unit) = (mask.count(), mask.n(), mask.granularity().name());
    let all: u64 = mask.tensors().iter().map(|t| (t.shape.n_in * t.shape.n_out) as u64).sum();
    let weights = mask.n_weights();
    let share = 100.0 * weights as f64 / all.max(1) as f64;
    printer.data(&format!("{}: {count} of {n} {unit}s, {weights} of {all} weights ({share:.2} %)", path.display()));
}
