//! An adapter file that unmodified llama.cpp loads (specs: ecosystem B2).

use super::Lora;
use crate::error::Result;
use crate::gguf::{Value, Writer};
use quant::Type;
use std::path::Path;

/// Where an adapter comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The base's architecture.
    pub architecture: String,
    /// The base's `general.name`, if it has one.
    pub base_name: Option<String>,
    /// Fingerprint of the base: `gguf::base_hash`; `None` where there is no file to take it of.
    pub base_hash: Option<String>,
    /// How it was trained: sft, dpo, kto.
    pub method: String,
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
        let (n_in, n_out, rank) = (factor.n_in as u64, factor.n_out as u64, factor.rank as u64);
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.tensor(&format!("{}.lora_a", factor.weight), Type::F32, &[n_in, rank], bytes(&factor.a))?;
        writer.tensor(&format!("{}.lora_b", factor.weight), Type::F32, &[rank, n_out], bytes(&factor.b))?;
    }
    Ok(writer)
}
