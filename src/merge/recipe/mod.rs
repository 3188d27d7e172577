//! Recipes: merges written down in YAML, in mergekit's words.
//!
//! **In:** a document. **Out:** which models it needs, and for every tensor of the output its sources and the method with its
//! numbers. **Invariant:** a word that is not understood, not used by the method, or that matches nothing is refused by name.

mod cook;
mod names;
mod numbers;
mod setting;
mod slices;

pub use cook::cook;
pub(crate) use slices::block_count;

use super::outtype::type_from_name;
use crate::error::{Error, Kind, Result};
use quant::Type;
use serde::Deserialize;
use setting::Parameters;
use std::io::Read;
use std::path::Path;

/// A merge that was written down.
#[derive(Clone, Debug)]
pub struct Recipe {
    label: String,
    text: String,
    method: String,
    slices: Vec<Slice>,
    /// True where blocks stay where they are: the document has `models`, not `slices`.
    whole: bool,
    parameters: Parameters,
    out: Option<Type>,
    tokenizer_source: Option<String>,
    notes: Vec<String>,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// Some blocks of the output.
#[derive(Clone, Debug)]
struct Slice {
    sources: Vec<Input>,
    base: Option<String>,
    parameters: Parameters,
}

/// A model's part in a slice.
#[derive(Clone, Debug)]
struct Input {
    model: String,
    /// Blocks from the first to before the second; all of them where nothing is said.
    layers: Option<(u64, u64)>,
    parameters: Parameters,
}

/// The words of the document.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    merge_method: String,
    models: Option<Vec<ModelEntry>>,
    slices: Option<Vec<SliceEntry>>,
    base_model: Option<String>,
    #[serde(default)]
    parameters: Option<Parameters>,
    dtype: Option<String>,
    out_dtype: Option<String>,
    tokenizer_source: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    model: String,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SliceEntry {
    sources: Vec<SourceEntry>,
    base_model: Option<String>,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceEntry {
    model: String,
    layer_range: Option<(u64, u64)>,
    #[serde(default)]
    parameters: Option<Parameters>,
}

/// Longest document, in bytes: it goes into the output's keys.
const TEXT_MAX: u64 = 1 << 20;

/// Methods without a base, and what `base_model` means to the others: changes are counted from it, or (slerp) it is where the
/// way begins.
const WITHOUT_BASE: [&str; 2] = ["linear", "passthrough"];

impl Recipe {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let failed = |e: std::io::Error| Error::io(path, "cannot read", &e);
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(failed)?.take(TEXT_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let refuse = |what: &str| Error::new(Kind::Argument, format!("{label}: no recipe: {what}"));
        if bytes.len() as u64 > TEXT_MAX {
            return Err(refuse("longer than a megabyte"));
        }
        let text = String::from_utf8(bytes).map_err(|_| refuse("not UTF-8"))?;
        Self::parse(&text, &label)
    }

    /// Reads a document; `label` stands for its file in messages.
    pub fn parse(text: &str, label: &str) -> Result<Self> {
        let refuse = |what: String| Error::new(Kind::Argument, format!("{label}: {what}"));
        let document: Document = serde_saphyr::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let Document { merge_method, models, slices, base_model, parameters, .. } = document;
        numbers::words(&merge_method).map_err(|what| refuse(format!("merge_method {merge_method}: {what}")))?;
        let whole = models.is_some();
        let mut slices = match (models, slices) {
            (Some(models), None) => vec![Slice {
                sources: models.into_iter().map(|m| input(m.model, None, m.parameters)).collect(),
                base: base_model.clone(),
                parameters: Parameters::default(),
            }],
            (None, Some(slices)) => slices.into_iter().map(|s| slice(s, base_model.as_deref())).collect(),
            _ => return Err(refuse("needs either models or slices".to_owned())),
        };
        if slices.is_empty() || slices.iter().any(|slice| slice.sources.is_empty()) {
            return Err(refuse("names no models".to_owned()));
        }
        for slice in &mut slices {
            let Some(base) = &slice.base else { continue };
            if WITHOUT_BASE.contains(&merge_method.as_str()) {
                return Err(refuse(format!("merge_method {merge_method}: takes no base_model")));
            }
            let listed = slice.sources.iter().any(|source| source.model == *base);
            if !listed && !whole {
                return Err(refuse(format!(
                    "base_model {base}: is no source of every slice, so its blocks are unknown"
                )));
            }
            if !listed {
                slice.sources.push(input(base.clone(), None, None));
            }
        }
        let out = document.out_dtype.or(document.dtype);
        let out = out.map(|name| dtype(&name).map_err(|what| refuse(format!("dtype {name}: {what}")))).transpose()?;
        let mut recipe = Self {
            label: label.to_owned(),
            text: text.to_owned(),
            method: merge_method,
            slices,
            whole,
            parameters: parameters.unwrap_or_default(),
            out,
            tokenizer_source: document.tokenizer_source,
            notes: Vec::new(),
            seed: 0,
        };
        recipe.check_words()?;
        recipe.check_tokenizer_source()?;
        Ok(recipe)
    }

    /// The models, by the words for them in the document: in its order, the base last where it is not listed.
    pub fn models(&self) -> Vec<&str> {
        let mut models: Vec<&str> = Vec::new();
        for source in self.slices.iter().flat_map(|slice| &slice.sources) {
            if !models.contains(&source.model.as_str()) {
                models.push(&source.model);
            }
        }
        models
    }

    /// The type that `out_dtype` or `dtype` names, for every matrix of the output. Sums are always formed in F32 or wider.
    pub fn out_type(&self) -> Option<Type> {
        self.out
    }

    fn refuse(&self, what: impl std::fmt::Display) -> Error {
        Error::new(Kind::Argument, format!("{}: {what}", self.label))
    }

    /// Vocabularies have to be equal, so their union is any of them; which model's tokenizer keys the output has may be chosen.
    fn check_tokenizer_source(&self) -> Result<()> {
        let Some(source) = self.tokenizer_source.as_deref() else { return Ok(()) };
        let has_base = self.slices.iter().any(|slice| slice.base.is_some());
        if (source == "base" && has_base) || source == "union" || self.models().contains(&source) {
            return Ok(());
        }
        Err(self.refuse(format!(
            "tokenizer_source {source}: is neither base (with a base_model), union nor one of the models"
        )))
    }
}

fn input(model: String, layers: Option<(u64, u64)>, parameters: Option<Parameters>) -> Input {
    Input { model, layers, parameters: parameters.unwrap_or_default() }
}

fn slice(entry: SliceEntry, base_model: Option<&str>) -> Slice {
    Slice {
        sources: entry.sources.into_iter().map(|s| input(s.model, s.layer_range, s.parameters)).collect(),
        base: entry.base_model.or_else(|| base_model.map(str::to_owned)),
        parameters: entry.parameters.unwrap_or_default(),
    }
}

fn dtype(name: &str) -> std::result::Result<Type, &'static str> {
    match name {
        "float16" => Ok(Type::F16),
        "bfloat16" => Ok(Type::BF16),
        "float32" => Ok(Type::F32),
        other => type_from_name(other).map_err(|_| "none of float16, bfloat16, float32, nor a type of ggml"),
    }
}

#[cfg(test)]
mod tests;
