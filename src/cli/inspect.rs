//! `llama-align inspect`: what a GGUF, an adapter or a run directory holds.

use super::args::InspectArgs;
use super::Printer;
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_output, validate_adapter, write_atomically, Array, File, Value};
use crate::mask::{is_mask, shares, Mask, Share};
use crate::report::mask_page;
use serde_json::{json, Map};
use std::collections::BTreeMap;
use std::path::Path;

/// Longest text of a key that is shown.
const SHOWN_MAX: usize = 120;

/// Runs the command.
pub(super) fn run(args: &InspectArgs, printer: &mut Printer) -> Result<u8> {
    let description = if args.file.is_dir() { run_directory(&args.file)? } else { gguf(&args.file)? };
    if let Some(page) = &args.html {
        page_of(&args.file, page)?;
    }
    if args.json {
        printer.data(&description.to_string());
    } else {
        show(printer, &description, 0);
    }
    Ok(0)
}

/// Writes a mask's page.
fn page_of(path: &Path, page: &Path) -> Result<()> {
    check_output(page, [path], true)?;
    let file = File::open(path)?;
    if !is_mask(&file) {
        return Err(Error::new(Kind::Argument, format!("{}: --html shows masks", path.display())));
    }
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    write_atomically(page, mask_page(&Mask::from_file(&file)?, &name).as_bytes())
}

fn gguf(path: &Path) -> Result<serde_json::Value> {
    let file = File::open(path)?;
    let mut keys = Map::new();
    for (key, value) in file.keys() {
        keys.insert(key.to_owned(), shown(value));
    }
    let mut types: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for tensor in file.tensors() {
        let entry = types.entry(tensor.ty.name()).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.bytes, entry.2 + tensor.ne.iter().product::<u64>());
    }
    let parameters: u64 = types.values().map(|t| t.2).sum();
    let types: Map<_, _> =
        types.into_iter().map(|(ty, (n, bytes, _))| (ty.into(), json!({ "tensors": n, "bytes": bytes }))).collect();
    let kind = file.get("general.type").and_then(Value::as_str);
    let is_adapter = kind == Some("adapter");
    let mut description = json!({
        "file": path.display().to_string(),
        "kind": kind.filter(|k| ["adapter", "checkpoint", "mask"].contains(k)).unwrap_or("model"),
        "gguf_version": file.version(),
        "architecture": file.get("general.architecture").and_then(Value::as_str),
        "parameters": parameters,
        "tensors": file.tensors().len(),
        "types": types,
    });
    if is_adapter {
        let info = validate_adapter(&file)?;
        let ranks: std::collections::BTreeSet<_> = info.pairs.iter().map(|p| p.rank).collect();
        description["alpha"] = json!(info.alpha);
        description["ranks"] = json!(ranks);
        description["adapted_weights"] = json!(info.pairs.iter().map(|p| p.weight.clone()).collect::<Vec<_>>());
        description["base_hash"] = json!(info.base_hash);
    }
    if is_mask(&file) {
        describe_mask(&mut description, &Mask::from_file(&file)?);
    }
    description["keys"] = keys.into();
    Ok(description)
}

/// What a mask leaves free: together, by module, by block and module.
fn describe_mask(description: &mut serde_json::Value, mask: &Mask) {
    let unit = mask.granularity().name();
    let show = |s: &Share| json!(format!("{} of {} {unit}s, {:.2} % of the weights", s.count, s.n, 100.0 * s.ratio()));
    let (mut all, mut modules) = (Share::default(), BTreeMap::<String, Share>::new());
    let mut blocks: BTreeMap<String, Map<String, serde_json::Value>> = BTreeMap::new();
    for ((block, module), share) in shares(mask) {
        all.add(&share);
        modules.entry(module.clone()).or_default().add(&share);
        // Padded, so that their names have their order.
        let block = block.map_or("other".to_owned(), |b| format!("{b:3}"));
        blocks.entry(block).or_default().insert(module, json!(format!("{:.2} %", 100.0 * share.ratio())));
    }
    description["granularity"] = json!(unit);
    description["free"] = show(&all);
    description["modules"] = modules.iter().map(|(module, share)| (module.clone(), show(share))).collect();
    description["blocks"] = json!(blocks);
    description["from"] = json!(mask.provenance);
}

/// A value as JSON; long texts and arrays are cut, control characters escaped by JSON itself.
fn shown(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => json!(b),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::String(s) if s.chars().count() > SHOWN_MAX => {
            json!(s.chars().take(SHOWN_MAX).collect::<String>() + "…")
        }
        Value::String(s) => json!(s),
        Value::Array(a) => json!(format!("{} of {}", array_type(a), a.len())),
        other => other.as_int().and_then(|i| i64::try_from(i).ok()).map_or(json!("?"), |i| json!(i)),
    }
}

fn array_type(array: &Array) -> &'static str {
    match array {
        Array::String(_) => "texts",
        Array::F32(_) | Array::F64(_) => "numbers",
        Array::Bool(_) => "truth values",
        _ => "integers",
    }
}

fn run_directory(path: &Path) -> Result<serde_json::Value> {
    let read = |name: &str| {
        let file = path.join(name);
        std::fs::read_to_string(&file).map_err(|e| Error::io(&file, "cannot read; is this a run directory?", &e))
    };
    let config: toml::Table = toml::from_str(&read("config.toml")?)
        .map_err(|e| Error::new(Kind::Format, format!("{}: config.toml: {e}", path.display())))?;
    let (mut last_step, mut last_eval) = (serde_json::Value::Null, serde_json::Value::Null);
    for line in read("metrics.jsonl")?.lines() {
        let value: serde_json::Value = serde_json::from_str(line)
            .map_err(|e| Error::new(Kind::Format, format!("{}: metrics.jsonl: {e}", path.display())))?;
        let slot = if value.get("loss").is_some() { &mut last_step } else { &mut last_eval };
        *slot = value;
    }
    let adapter = path.join("adapter.gguf");
    let adapter = if adapter.exists() { gguf(&adapter)? } else { serde_json::Value::Null };
    let config = serde_json::to_value(config).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    Ok(
        json!({ "kind": "run", "config": config, "last_step": last_step, "last_evaluation": last_eval, "adapter": adapter }),
    )
}

/// Indented lines; texts are printed as JSON, so that a file's control characters do nothing to the terminal.
fn show(printer: &mut Printer, value: &serde_json::Value, depth: usize) {
    let indent = "  ".repeat(depth);
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Object(_) => {
                printer.data(&format!("{indent}{key}:"));
                show(printer, value, depth + 1);
            }
            serde_json::Value::String(s) if !s.chars().any(char::is_control) => {
                printer.data(&format!("{indent}{key}: {s}"))
            }
            other => printer.data(&format!("{indent}{key}: {other}")),
        }
    }
}
