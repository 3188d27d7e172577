//! Whether models can be merged at all: the same architecture, sizes, vocabulary and tensors. What differs is named.

use crate::error::{Error, Kind, Result};
use crate::gguf::{Array, File, TensorInfo, Value};
use std::collections::BTreeSet;

/// A tensor where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a File,
    pub(super) tensor: &'a TensorInfo,
}

impl<'a> Source<'a> {
    pub(super) fn data(&self) -> &'a [u8] {
        self.file.data(self.tensor)
    }

    /// True if the other holds the same bytes of the same type.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.tensor.ty == other.tensor.ty && self.data() == other.data()
    }
}

/// One tensor of the output and where its values come from, in the models' order.
#[derive(Clone, Debug)]
pub(super) struct Matched<'a> {
    pub(super) name: String,
    pub(super) sources: Vec<Source<'a>>,
}

/// The head of models that have one of their own; the others use their embeddings.
pub(super) const HEAD: &str = "output.weight";
const EMBEDDINGS: &str = "token_embd.weight";
/// Keys that say which rows of the embeddings are which tokens; they must agree.
const VOCABULARY: [&str; 5] = ["model", "pre", "tokens", "merges", "scores"];
/// Keys that say how far a model was trained to look, not what its weights mean.
const ABOUT: [&str; 1] = ["context_length"];

/// Whether blocks are merged with those of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    Stay,
    /// Models may have different numbers of blocks, and differ in what each block is told.
    Move,
}

/// Compares every model with the first. Returns what differs without harm, where the first model's word counts.
pub(super) fn compare(files: &[&File], blocks: Blocks) -> Result<Vec<String>> {
    let (Some(first), mut notes) = (files.first(), Vec::new()) else { return Ok(Vec::new()) };
    for other in files.iter().skip(1) {
        let mismatch = |what: String| {
            let (a, b) = (first.path().display(), other.path().display());
            Err(Error::new(Kind::Mismatch, format!("{b}: cannot be merged with {a}: {what}")))
        };
        let (ours, theirs) = (first.architecture()?, other.architecture()?);
        if ours != theirs {
            return mismatch(format!("architecture {theirs} instead of {ours}"));
        }
        let prefix = format!("{ours}.");
        let keys: BTreeSet<&str> = first.keys().chain(other.keys()).map(|(key, _)| key).collect();
        for key in keys {
            let (a, b) = (first.get(key), other.get(key));
            if a == b {
                continue;
            }
            if blocks == Blocks::Move && key.starts_with(&prefix) && tells_of_blocks(key, a, b) {
                continue;
            }
            let vocabulary = key.strip_prefix("tokenizer.ggml.").is_some_and(|k| VOCABULARY.contains(&k));
            let size = key.strip_prefix(&prefix).is_some_and(|k| !ABOUT.contains(&k));
            if vocabulary || size {
                return mismatch(format!("key {key} is {}", difference(a, b)));
            }
            if key.starts_with("tokenizer.") || key.starts_with(&prefix) {
                notes.push(format!("{}: key {key} differs: the first model's is kept", other.path().display()));
            }
        }
    }
    Ok(notes)
}

/// The number of blocks, and lists that have an entry for each.
fn tells_of_blocks(key: &str, ours: Option<&Value>, theirs: Option<&Value>) -> bool {
    key.ends_with(".block_count") || matches!((ours, theirs), (Some(Value::Array(_)), Some(Value::Array(_))))
}

/// What two values differ in, the second first.
fn difference(ours: Option<&Value>, theirs: Option<&Value>) -> String {
    match (ours, theirs) {
        (Some(Value::Array(Array::String(a))), Some(Value::Array(Array::String(b)))) => {
            match a.iter().zip(b).position(|(x, y)| x != y) {
                Some(i) => format!("{:?} instead of {:?} at {i}", b[i], a[i]),
                None => format!("a list of {} instead of {}", b.len(), a.len()),
            }
        }
        (Some(a), Some(b)) => format!("{} instead of {}", shown(b), shown(a)),
        (Some(_), None) => "missing".to_owned(),
        (None, Some(b)) => format!("{}, where the first model has none", shown(b)),
        (None, None) => String::new(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(a) => format!("another list of {}", a.len()),
        Value::String(s) => format!("{s:?}"),
        Value::F32(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        other => other.as_int().map_or_else(|| format!("{other:?}"), |i| i.to_string()),
    }
}

/// Finds every tensor in every file. A model without a head of its own lends its embeddings where another has one.
pub(super) fn match_tensors<'a>(files: &[&'a File]) -> Result<Vec<Matched<'a>>> {
    let Some(&first) = files.first() else { return Ok(Vec::new()) };
    let mut names: Vec<&str> = first.tensors().iter().map(|t| t.name.as_str()).collect();
    for &other in &files[1..] {
        let new = other.tensors().iter().find(|t| first.tensor(&t.name).is_none() && t.name != HEAD);
        if let Some(tensor) = new {
            return Err(mismatch(other, first, &tensor.name, "is missing in the other"));
        }
        if other.tensor(HEAD).is_some() && !names.contains(&HEAD) {
            names.push(HEAD);
        }
    }
    let named = |name: &str| files.iter().map(|file| (*file, name.to_owned())).collect::<Vec<_>>();
    names.into_iter().map(|name| match_names(name, &named(name))).collect()
}

/// Finds one tensor of the output under its name in every file.
pub(super) fn match_names<'a>(name: &str, files: &[(&'a File, String)]) -> Result<Matched<'a>> {
    let mut sources: Vec<Source> = Vec::with_capacity(files.len());
    for (file, there) in files {
        let own = file.tensor(there).or_else(|| file.tensor(EMBEDDINGS).filter(|_| there == HEAD));
        let Some(tensor) = own else { return Err(mismatch(file, files[0].0, there, "is missing")) };
        let source = Source { file, tensor };
        if let Some(first) = sources.first() {
            if tensor.ne != first.tensor.ne {
                let what = format!("is {:?} instead of {:?}", tensor.ne, first.tensor.ne);
                return Err(mismatch(file, first.file, there, &what));
            }
            // Divisors of RoPE's frequencies are constants of the architecture.
            if there.starts_with("rope_") && !source.equals(first) {
                return Err(mismatch(file, first.file, there, "holds other constants"));
            }
        }
        sources.push(source);
    }
    Ok(Matched { name: name.to_owned(), sources })
}

fn mismatch(file: &File, first: &File, tensor: &str, what: &str) -> Error {
    let (a, b) = (first.path().display(), file.path().display());
    Error::new(Kind::Mismatch, format!("{b}: cannot be merged with {a}: tensor {tensor} {what}"))
}
