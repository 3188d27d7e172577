//! What an adapter file must hold before llama.cpp's loader sees it, and whether it fits a model.

use super::model::holds_weights;
use super::{base_hash, File, Value};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The two factors for one weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Name of the weight.
    pub weight: String,
    /// Rank r.
    pub rank: u64,
    /// Length of the weight's rows.
    pub n_in: u64,
    /// Number of its rows; of a stack, those of one expert.
    pub n_out: u64,
    /// Experts of a stack; 1 for a weight that every token uses.
    pub n_experts: u64,
}

/// A validated adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The base's architecture.
    pub architecture: String,
    /// alpha; the update is scaled by alpha / r.
    pub alpha: f32,
    /// Factors, by weight name.
    pub pairs: Vec<Pair>,
    /// Fingerprint of the base it was trained on, where the file tells.
    pub base_hash: Option<String>,
    path: String,
}

/// Key of the base's fingerprint.
pub(crate) const BASE_HASH: &str = "llama_align.base_hash";

/// Checks types and pairs: llama.cpp aborts on keys of the wrong type.
pub fn validate_adapter(file: &File) -> Result<AdapterInfo> {
    let text = |key: &str, wanted: &str| match file.get(key).and_then(Value::as_str) {
        Some(found) if found == wanted => Ok(()),
        _ => Err(file.fault(key, &format!("is not the text {wanted:?}"))),
    };
    text("general.type", "adapter")?;
    text("adapter.type", "lora")?;
    let alpha = file.get("adapter.lora.alpha").and_then(Value::as_f32).filter(|a| a.is_finite());
    let alpha = alpha.ok_or_else(|| file.fault("adapter.lora.alpha", "is no finite 32-bit number"))?;
    if let Some(other) = file.get("adapter.alora.invocation_tokens") {
        if !matches!(other, Value::Array(super::Array::U32(_))) {
            return Err(file.fault("adapter.alora.invocation_tokens", "is no list of 32-bit numbers"));
        }
    }
    for key in ["adapter.lora.task_name", "adapter.lora.prompt_prefix"] {
        if file.get(key).is_some_and(|v| v.as_str().is_none()) {
            return Err(file.fault(key, "is no text"));
        }
    }
    let fault =
        |name: &str, what: &str| Error::new(Kind::Format, format!("{}: tensor {name} {what}", file.path().display()));
    let mut halves: BTreeMap<&str, [Option<[u64; 4]>; 2]> = BTreeMap::new();
    for tensor in file.tensors() {
        let name = tensor.name.as_str();
        let (weight, half) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(weight), _) => (weight, 0),
            (_, Some(weight)) => (weight, 1),
            _ => return Err(fault(name, "is no factor of an adapter")),
        };
        if !holds_weights(tensor.ty) {
            return Err(fault(name, &format!("is of type {}, which cannot be multiplied by", tensor.ty.name())));
        }
        halves.entry(weight).or_default()[half] = Some(tensor.ne);
    }
    let mut pairs = Vec::with_capacity(halves.len());
    for (weight, half) in halves {
        let [Some(a), Some(b)] = half else { return Err(fault(weight, "has only one of its two factors")) };
        if a[1] != b[0] || a[2..] != b[2..] || a[3] != 1 {
            return Err(fault(weight, &format!("has factors of shapes {a:?} and {b:?}, which do not multiply")));
        }
        pairs.push(Pair { weight: weight.to_owned(), rank: a[1], n_in: a[0], n_out: b[1], n_experts: a[2] });
    }
    if pairs.is_empty() {
        return Err(Error::new(Kind::Format, format!("{}: an adapter without factors", file.path().display())));
    }
    let base_hash = file.get(BASE_HASH).and_then(Value::as_str).map(str::to_owned);
    let (architecture, path) = (file.architecture()?.to_owned(), file.path().display().to_string());
    Ok(AdapterInfo { architecture, alpha, pairs, base_hash, path })
}

/// Checks that an adapter belongs to a model: architecture, shapes, and the fingerprint where the adapter has one.
pub fn check_fits(adapter: &AdapterInfo, model: &File) -> Result<()> {
    let shape = |name: &str| model.tensor(name).map(|t| [t.ne[0], t.ne[1], t.ne[2] * t.ne[3]]);
    check_shapes(adapter, model.path(), model.architecture()?, shape)?;
    match &adapter.base_hash {
        Some(hash) if *hash != base_hash(model) => {
            Err(other_base(adapter, model.path(), "its weights have another fingerprint"))
        }
        _ => Ok(()),
    }
}

/// The same without a file to take the fingerprint of: `shape` gives a weight's row length, number of rows, and
/// matrices.
pub fn check_shapes(
    adapter: &AdapterInfo,
    model: &Path,
    architecture: &str,
    shape: impl Fn(&str) -> Option<[u64; 3]>,
) -> Result<()> {
    let mismatch = |what: String| Err(other_base(adapter, model, &what));
    if adapter.architecture != architecture {
        return mismatch(format!("architecture {} instead of {architecture}", adapter.architecture));
    }
    for pair in &adapter.pairs {
        let found = [pair.n_in, pair.n_out, pair.n_experts];
        match shape(&pair.weight) {
            None => return mismatch(format!("it adapts {}, which the model does not have", pair.weight)),
            Some(wanted) if wanted != found => {
                let shown = |ne: [u64; 3]| if ne[2] == 1 { format!("{:?}", &ne[..2]) } else { format!("{ne:?}") };
                let (wanted, found) = (shown(wanted), shown(found));
                return mismatch(format!("{} is {wanted}, the adapter is for {found}", pair.weight));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn other_base(adapter: &AdapterInfo, model: &Path, what: &str) -> Error {
    let message = format!("{}: made for another base than {}: {what}", adapter.path, model.display());
    Error::new(Kind::Mismatch, message)
}
