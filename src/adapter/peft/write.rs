//! From factors to PEFT's directory.

use super::names::{n_blocks, Names};
use super::{CONFIG, WEIGHTS};
use crate::adapter::Lora;
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File};
use safetensors::tensor::TensorView;
use safetensors::Dtype;
use serde_json::{json, Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Writes both files into an existing directory, the configuration last: PEFT loads nothing without it. Factors are in F32.
/// `base_model`: what the configuration calls the base, a name on the Hub or a path.
///
/// # Errors
/// [`Kind::Unsupported`] for weights that PEFT's names do not reach, before anything is written.
pub fn write(lora: &Lora, base: &File, base_model: Option<&str>, directory: &Path) -> Result<()> {
    let names = Names::of(base)?;
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut modules = BTreeMap::new();
    for factor in &lora.factors {
        let factor = factor.of_one_matrix("have no place in PEFT's files here")?;
        let Some((block, module)) = Names::module(&factor.weight) else {
            let message = format!("{}: PEFT's files have no name for it here", factor.weight);
            return Err(Error::new(Kind::Unsupported, message));
        };
        let path = Names::path(block, module);
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let b = names.to_hf(&factor.weight, &factor.b, factor.rank)?;
        let name = |half: char| format!("base_model.model.{path}.lora_{half}.weight");
        tensors.insert(name('A'), (vec![factor.rank, factor.n_in], bytes(&factor.a)));
        tensors.insert(name('B'), (vec![factor.n_out, factor.rank], bytes(&b)));
        modules.insert(path, (module, factor.rank, f64::from(lora.scale(factor)) * factor.rank as f64));
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        view.map(|view| (name, view)).map_err(|e| Error::new(Kind::Internal, format!("{name}: {e}")))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| Error::new(Kind::Internal, format!("{WEIGHTS}: {e}")))?;
    let config = config(&modules, n_blocks(base), base_model);
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    let path = directory.join(CONFIG);
    match std::fs::remove_file(&path) {
        // Another adapter's configuration beside these factors would be a third adapter.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, "cannot replace", &e)),
        _ => {}
    }
    write_atomically(&directory.join(WEIGHTS), &bytes)?;
    write_atomically(&path, (text + "\n").as_bytes())
}

/// Path → module, rank and alpha.
type Modules<'a> = BTreeMap<String, (&'a str, usize, f64)>;

/// Rank and alpha that most modules have, and patterns for the others.
fn config(modules: &Modules, n_blocks: Option<usize>, base_model: Option<&str>) -> Value {
    let mut counts: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    modules.values().for_each(|(_, rank, alpha)| *counts.entry((*rank, alpha.to_bits())).or_default() += 1);
    let most = counts.iter().max_by_key(|(_, n)| **n).map_or((1, 1f64.to_bits()), |(key, _)| *key);
    let (r, alpha) = (most.0, f64::from_bits(most.1));
    // PEFT reads both, and its own are integers.
    let number = |x: f64| if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) };
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for (path, &(_, own_rank, own_alpha)) in modules {
        let pattern = path.replace('.', "\\.");
        if own_rank != r {
            ranks.insert(pattern.clone(), json!(own_rank));
        }
        if own_alpha != alpha {
            alphas.insert(pattern, number(own_alpha));
        }
    }
    let short: BTreeSet<&str> = modules.values().map(|(module, ..)| *module).collect();
    let last = |module: &str| module.rsplit('.').next().unwrap_or(module).to_owned();
    let targets: Vec<String> = match n_blocks {
        Some(n) if n * short.len() == modules.len() => short.into_iter().map(last).collect(),
        _ => modules.keys().cloned().collect(),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": r,
        "lora_alpha": number(alpha),
        "lora_dropout": 0.0,
        "use_rslora": false,
        "use_dora": false,
        "target_modules": targets,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
    })
}
