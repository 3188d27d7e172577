//! `llama-align adapter`: arithmetic of adapters.

use super::args_algebra::{
    AdapterCommand, AdapterFile, ExportArgs, ExtractArgs, ImportArgs, LimitArgs, RebaseArgs, ScaleArgs, SumArgs,
    TruncateArgs,
};
use super::Printer;
use crate::adapter::{export, import, import_changes, peft, Kept, Limit, Lineage, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_fits, check_output, validate_adapter, validate_model, File};
use crate::merge::{extract, extract_changes, Leaked};
use crate::runtime::Runtime;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

/// Runs the command.
pub(super) fn run(command: &AdapterCommand, printer: &mut Printer) -> Result<u8> {
    match command {
        AdapterCommand::Add(args) => add(args, printer),
        AdapterCommand::Scale(args) => scale(args, printer),
        AdapterCommand::Truncate(args) => truncate(args, printer),
        AdapterCommand::Extract(args) => extracted(args, printer),
        AdapterCommand::Rebase(args) => rebase(args, printer),
        AdapterCommand::Import(args) => imported(args, printer),
        AdapterCommand::Export(args) => exported(args, printer),
    }
    .map(|()| 0)
}

/// An adapter with what its file tells.
struct Opened {
    lora: Lora,
    lineage: Lineage,
}

fn open(path: &Path, method: &str) -> Result<Opened> {
    let file = File::open(path)?;
    Ok(Opened { lineage: Lineage::of_adapter(&file, method)?, lora: import(&file)? })
}

fn add(args: &SumArgs, printer: &mut Printer) -> Result<()> {
    let list: Vec<(PathBuf, f32)> = args.adapters.iter().map(|text| scaled(text)).collect::<Result<_>>()?;
    let names: Vec<String> = list.iter().map(|(path, _)| path.display().to_string()).collect();
    check_output(&args.out.output, list.iter().map(|(path, _)| path.as_path()), args.out.overwrite)?;
    let opened = list.iter().map(|(path, _)| open(path, "sum")).collect::<Result<Vec<_>>>()?;
    let lineages: Vec<Lineage> = opened.iter().map(|o| o.lineage.clone()).collect();
    let lineage = Lineage::common(&lineages, &names)?;
    let terms: Vec<(&Lora, f32)> = opened.iter().zip(&list).map(|(o, (_, scale))| (&o.lora, *scale)).collect();
    write(&Lora::sum(&terms)?, &lineage, &args.out, printer)
}

/// `FILE` or `FILE:SCALE`. A name that ends in a colon and a number is one with a scale, unless there is such a file.
fn scaled(text: &str) -> Result<(PathBuf, f32)> {
    let whole = PathBuf::from(text);
    let parsed =
        text.rsplit_once(':').and_then(|(path, scale)| Some((PathBuf::from(path), scale.parse::<f32>().ok()?)));
    match parsed.filter(|_| !whole.exists()) {
        Some((_, scale)) if !scale.is_finite() => {
            Err(Error::new(Kind::Argument, format!("{text}: the scale is no finite number")))
        }
        Some(found) => Ok(found),
        None => Ok((whole, 1.0)),
    }
}

fn scale(args: &ScaleArgs, printer: &mut Printer) -> Result<()> {
    if !args.by.is_finite() {
        return Err(Error::new(Kind::Argument, format!("--by {}: no finite number", args.by)));
    }
    check_output(&args.out.output, [args.adapter.as_path()], args.out.overwrite)?;
    let file = File::open(&args.adapter)?;
    let method =
        validate_adapter(&file).map(|_| file.get(crate::adapter::METHOD).and_then(crate::gguf::Value::as_str))?;
    let opened = open(&args.adapter, method.unwrap_or("scale"))?;
    write(&Lora::sum(&[(&opened.lora, args.by)])?, &opened.lineage, &args.out, printer)
}

fn truncate(args: &TruncateArgs, printer: &mut Printer) -> Result<()> {
    let limit = limit(&args.limit)?;
    check_output(&args.out.output, [args.adapter.as_path()], args.out.overwrite)?;
    let opened = open(&args.adapter, "truncate")?;
    let (lora, kept) = opened.lora.truncated(limit)?;
    tell(&kept, &[], None, &args.limit, printer);
    write(&lora, &opened.lineage, &args.out, printer)
}

fn extracted(args: &ExtractArgs, printer: &mut Printer) -> Result<()> {
    let limit = limit(&args.limit)?;
    let to = args.model.as_deref().or(args.change.as_deref());
    let to = to.ok_or_else(|| Error::new(Kind::Argument, "--model or --change: nothing to lead to"))?;
    check_output(&args.out.output, [args.base.as_path(), to], args.out.overwrite)?;
    let (base, tuned) = (File::open(&args.base)?, File::open(to)?);
    let lines = !args.limit.json;
    let mut each = |kept: &Kept| {
        if lines {
            printer.talk(&line(kept));
        }
    };
    let found = match args.change {
        None => extract(&*Runtime::linked()?, &base, &tuned, limit, args.seed, &mut each)?,
        Some(_) => {
            validate_model(&base)?;
            extract_changes(import_changes(&tuned, &base)?, limit, args.seed, &mut each)?
        }
    };
    tell(&found.kept, &found.left_out, found.leaked, &args.limit, printer);
    write(&found.lora, &Lineage::of_base(&base, "extract")?, &args.out, printer)
}

/// The same factors, said to be another base's: what they are then worth is for the one who says so to know.
fn rebase(args: &RebaseArgs, printer: &mut Printer) -> Result<()> {
    check_output(&args.out.output, [args.adapter.as_path(), args.model.as_path()], args.out.overwrite)?;
    let (file, base) = (File::open(&args.adapter)?, File::open(&args.model)?);
    validate_model(&base)?;
    let mut info = validate_adapter(&file)?;
    info.base_hash = None;
    let method = file.get(crate::adapter::METHOD).and_then(crate::gguf::Value::as_str).unwrap_or("rebase");
    let opened = open(&args.adapter, method)?;
    check_fits(&info, &base)?;
    write(&opened.lora, &Lineage::of_base(&base, method)?, &args.out, printer)
}

fn imported(args: &ImportArgs, printer: &mut Printer) -> Result<()> {
    check_output(&args.out.output, [args.model.as_path()], args.out.overwrite)?;
    let base = File::open(&args.model)?;
    validate_model(&base)?;
    write(&peft::read(&args.directory, &base)?, &Lineage::of_base(&base, "peft")?, &args.out, printer)
}

fn exported(args: &ExportArgs, printer: &mut Printer) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(Kind::Output, format!("{}: {what}", args.output.display())));
    let is_new = !args.output.exists();
    let is_empty = std::fs::read_dir(&args.output).map(|mut entries| entries.next().is_none());
    match is_empty {
        Ok(false) if !args.overwrite => {
            return refuse("exists and is not empty (--overwrite replaces an adapter in it)");
        }
        Err(_) if !is_new => return refuse("exists and is no directory"),
        _ => {}
    }
    let (file, base) = (File::open(&args.adapter)?, File::open(&args.model)?);
    validate_model(&base)?;
    check_fits(&validate_adapter(&file)?, &base)?;
    let opened = open(&args.adapter, "peft")?;
    if is_new {
        std::fs::create_dir(&args.output).map_err(|e| Error::io(&args.output, "cannot make the directory", &e))?;
    }
    if let Err(error) = peft::write(&opened.lora, &base, args.base_model.as_deref(), &args.output) {
        if is_new {
            // Only where nothing was written.
            let _ = std::fs::remove_dir(&args.output);
        }
        return Err(error);
    }
    printer.talk(&format!("{} weights in {}", opened.lora.factors.len(), args.output.display()));
    Ok(())
}

/// Without either limit there is nothing to do; an energy alone lets the rank grow.
fn limit(args: &LimitArgs) -> Result<Limit> {
    let rank = match (args.rank, args.energy) {
        (None, None) => return Err(Error::new(Kind::Argument, "give --rank, --energy or both")),
        (Some(rank), _) => rank,
        (None, Some(_)) => 256,
    };
    let limit = Limit { rank, energy: args.energy.unwrap_or(1.0) };
    limit.validate().map(|()| limit)
}

fn line(kept: &Kept) -> String {
    format!("{:32} rank {:4}, {:.4} of the energy, norm {:.3e}", kept.weight, kept.rank, kept.energy, kept.norm)
}

/// What was kept: the whole, the worst, and what no adapter carries.
fn tell(kept: &[Kept], left_out: &[(String, f64)], leaked: Option<Leaked>, args: &LimitArgs, printer: &mut Printer) {
    let sum = |of: &dyn Fn(&Kept) -> f64| kept.iter().map(|k| k.norm * k.norm * of(k)).sum::<f64>();
    let (total, ranks) = (sum(&|_| 1.0), kept.iter().map(|k| k.rank));
    let energy = if total > 0.0 { sum(&|k| k.energy) / total } else { 1.0 };
    let (low, high) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
    if args.json {
        let weights: Vec<Value> = kept
            .iter()
            .map(|k| json!({ "weight": k.weight, "rank": k.rank, "energy": k.energy, "norm": k.norm }))
            .collect();
        let left_out: Vec<Value> =
            left_out.iter().map(|(name, size)| json!({ "tensor": name, "relative_change": size })).collect();
        let mut told = json!({ "energy": energy, "weights": weights, "left_out": left_out });
        if let Some(Leaked { moved, of, largest }) = leaked {
            told["held_weights"] = json!({ "moved": moved, "of": of, "largest": largest });
        }
        printer.data(&told.to_string());
        return;
    }
    printer.data(&format!("{} weights, ranks {low} to {high}: {energy:.4} of the energy kept", kept.len()));
    let mut worst: Vec<&Kept> = kept.iter().filter(|k| k.energy < 1.0).collect();
    worst.sort_by(|a, b| a.energy.total_cmp(&b.energy));
    worst.iter().take(10).for_each(|kept| printer.data(&format!("  {}", line(kept))));
    for (name, size) in left_out {
        printer.data(&format!("not in the adapter: {name}, which differs by {size:.2e} of its norm"));
    }
    if let Some(Leaked { moved, of, largest }) = leaked.filter(|leaked| leaked.moved > 0) {
        printer.data(&format!(
            "{moved} of {of} weights that the changes leave alone are moved by the adapter, by up to {largest:.2e}"
        ));
    }
}

fn write(lora: &Lora, lineage: &Lineage, out: &AdapterFile, printer: &mut Printer) -> Result<()> {
    export(lora, lineage, &out.output)?;
    let ranks = lora.factors.iter().map(|f| f.rank);
    let (low, high) = (ranks.clone().min().unwrap_or(0), ranks.max().unwrap_or(0));
    let ranks = if low == high { format!("rank {low}") } else { format!("ranks {low} to {high}") };
    printer.talk(&format!("{} weights of {ranks} in {}", lora.factors.len(), out.output.display()));
    Ok(())
}
