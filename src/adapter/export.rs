//! An adapter file that unmodified llama.cpp loads (specs: ecosystem B2).

use super::{Factor, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, validate_adapter, File, Value, Writer};
use quant::Type;
use std::borrow::Cow;
use std::path::Path;

/// Where an adapter comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The base's architecture.
    pub architecture: String,
    /// The base's `general.name`, if it has one.
    pub base_name: Option<String>,
    /// Fingerprint of the base, `gguf::base_hash`; an adapter of another program may have none.
    pub base_hash: Option<String>,
    /// How it came about: sft, dpo, kto, sum, truncate, extract.
    pub method: String,
}

impl Lineage {
    /// What an adapter's file tells. `method` is how what follows from it came about.
    ///
    /// # Errors
    /// If the adapter acts after certain tokens only (aLoRA), which no other adapter would.
    pub fn of_adapter(file: &File, method: &str) -> Result<Self> {
        if file.get("adapter.alora.invocation_tokens").is_some() {
            let message = format!("{}: it acts after certain tokens only (aLoRA)", file.path().display());
            return Err(Error::new(Kind::Unsupported, message));
        }
        let info = validate_adapter(file)?;
        let base_name = file.get("general.base_model.0.name").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { architecture: info.architecture, base_name, base_hash: info.base_hash, method: method.to_owned() })
    }

    /// That of an adapter for a model.
    pub fn of_base(file: &File, method: &str) -> Result<Self> {
        let base_name = file.get("general.name").and_then(Value::as_str).map(str::to_owned);
        let (architecture, base_hash) = (file.architecture()?.to_owned(), Some(base_hash(file)));
        Ok(Self { architecture, base_name, base_hash, method: method.to_owned() })
    }

    /// That of adapters for one base; what only some of them know is believed.
    ///
    /// # Errors
    /// If their bases differ; `names` tells which.
    pub fn common(lineages: &[Self], names: &[String]) -> Result<Self> {
        let Some(first) = lineages.first() else { return Err(Error::new(Kind::Argument, "no adapter")) };
        let mut all = first.clone();
        for (other, name) in lineages.iter().zip(names).skip(1) {
            let hashes = all.base_hash.as_ref().zip(other.base_hash.as_ref());
            if other.architecture != all.architecture || hashes.is_some_and(|(a, b)| a != b) {
                let message = format!("{name}: made for another base than {}", names[0]);
                return Err(Error::new(Kind::Mismatch, message));
            }
            all.base_hash = all.base_hash.or_else(|| other.base_hash.clone());
            all.base_name = all.base_name.or_else(|| other.base_name.clone());
        }
        Ok(all)
    }
}

/// Key of how an adapter was trained.
pub(crate) const METHOD: &str = "llama_align.method";

/// Writes the factors in F32. The file is complete under its name or absent.
pub fn export(lora: &Lora, lineage: &Lineage, path: &Path) -> Result<()> {
    writer(lora, lineage)?.write(path)
}

/// The bytes of the file that [`export`] writes.
pub fn to_bytes(lora: &Lora, lineage: &Lineage) -> Result<Vec<u8>> {
    Ok(writer(lora, lineage)?.to_bytes())
}

fn writer(lora: &Lora, lineage: &Lineage) -> Result<Writer> {
    let mut writer = Writer::new();
    let text = |s: &str| Value::String(s.to_owned());
    writer.set("general.architecture", text(&lineage.architecture));
    writer.set("general.type", text("adapter"));
    let base = lineage.base_name.as_deref().unwrap_or("model");
    writer.set("general.name", text(&format!("{base} {} LoRA", lineage.method.to_uppercase())));
    if let Some(name) = &lineage.base_name {
        writer.set("general.base_model.count", Value::U32(1));
        writer.set("general.base_model.0.name", text(name));
    }
    writer.set("adapter.type", text("lora"));
    writer.set("adapter.lora.alpha", Value::F32(lora.alpha));
    if let Some(hash) = &lineage.base_hash {
        writer.set(crate::gguf::BASE_HASH, text(hash));
    }
    writer.set(METHOD, text(&lineage.method));
    for factor in &lora.factors {
        let [n_in, n_out, rank, n_experts] =
            [factor.n_in, factor.n_out, factor.rank, factor.n_experts].map(|n| n as u64);
        let n_dims = if n_experts == 1 { 2 } else { 3 };
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor(
            &format!("{}.lora_a", factor.weight),
            Type::F32,
            &[n_in, rank, n_experts][..n_dims],
            bytes(&factor.a),
        )?;
        writer.tensor(
            &format!("{}.lora_b", factor.weight),
            Type::F32,
            &[rank, n_out, n_experts][..n_dims],
            bytes(&b(lora, factor)),
        )?;
    }
    Ok(writer)
}

/// B as the file's one alpha wants it: a factor with an alpha of its own is scaled.
fn b<'a>(lora: &Lora, factor: &'a Factor) -> Cow<'a, [f32]> {
    let adapters = if lora.alpha == 0.0 { 1.0 } else { f64::from(lora.alpha) / factor.rank as f64 };
    match factor.alpha {
        None => Cow::Borrowed(&factor.b),
        Some(_) => {
            let ratio = f64::from(lora.scale(factor)) / adapters;
            factor.b.iter().map(|&b| (f64::from(b) * ratio) as f32).collect()
        }
    }
}
