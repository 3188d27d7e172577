//! The output's keys: all of the first model's, and where it comes from.

use crate::error::Result;
use crate::gguf::{hash_on, Array, File, Header, Value};

/// What is told of a parent, where its file says it.
const TOLD: [&str; 5] = ["name", "author", "version", "organization", "repo_url"];
/// Keys of ours.
const OURS: &str = "llama_align.merge.";

/// How the output came about.
#[derive(Debug)]
pub(super) struct Lineage<'a> {
    /// linear, ties, …, or fold.
    pub(super) method: &'a str,
    /// The method's numbers.
    pub(super) parameters: Vec<(&'a str, f64)>,
    /// Weights of the models, or scales of the adapters.
    pub(super) weights: Vec<f64>,
    /// The models, base first where there is one.
    pub(super) models: Vec<&'a File>,
    /// The adapters.
    pub(super) adapters: Vec<&'a File>,
}

/// The first model's keys in their order, its own ancestors replaced by the models at hand, whose fingerprints are added.
/// No clock, no path: equal inputs give equal bytes.
pub(super) fn header(first: &File, lineage: &Lineage, pool: &rayon::ThreadPool) -> Result<Header> {
    let mut header = Header::new();
    first.keys().for_each(|(key, value)| header.set(key, value.clone()));
    header.remove(|key| key.starts_with("general.base_model.") || key.starts_with(OURS));
    header.set("general.base_model.count", Value::U32(lineage.models.len() as u32));
    for (i, model) in lineage.models.iter().enumerate() {
        for told in TOLD {
            if let Some(Value::String(text)) = model.get(&format!("general.{told}")) {
                header.set(&format!("general.base_model.{i}.{told}"), Value::String(text.clone()));
            }
        }
    }
    header.set(&format!("{OURS}method"), Value::String(lineage.method.to_owned()));
    for (name, value) in &lineage.parameters {
        header.set(&format!("{OURS}{name}"), Value::F64(*value));
    }
    if !lineage.weights.is_empty() {
        header.set(&format!("{OURS}weights"), Value::Array(Array::F64(lineage.weights.clone())));
    }
    let hashes = |files: &[&File]| Value::Array(Array::String(files.iter().map(|f| hash_on(f, pool)).collect()));
    header.set(&format!("{OURS}models"), hashes(&lineage.models));
    if !lineage.adapters.is_empty() {
        header.set(&format!("{OURS}adapters"), hashes(&lineage.adapters));
    }
    Ok(header)
}
