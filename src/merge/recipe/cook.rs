//! A recipe carried out.

use super::numbers::Place;
use super::slices::Part;
use super::Recipe;
use crate::error::{Error, Kind, Result};
use crate::gguf::{validate_model, File, Header, Value};
use crate::merge::compat::{compare, Blocks};
use crate::merge::lineage::{header, Lineage};
use crate::merge::pass::Workers;
use crate::merge::run::{Job, Rule};
use crate::merge::{entry, finish, Options, Plan, Progress, Report};
use crate::runtime::Runtime;
use std::path::Path;

/// The recipe itself, in the file that came of it.
const RECIPE_KEY: &str = "llama_align.merge.recipe";

/// Merges what a recipe says into `output`, or only computes what would come of it. `files` are the recipe's models in its
/// order; `each` hears of every tensor that is done.
pub fn cook<'a>(
    runtime: &'a Runtime,
    recipe: &Recipe,
    files: &'a [File],
    options: &'a Options,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    let models = recipe.models();
    if models.len() != files.len() {
        return Err(Error::new(Kind::Argument, format!("{} files for {} models", files.len(), models.len())));
    }
    files.iter().try_for_each(validate_model)?;
    let all: Vec<&File> = files.iter().collect();
    let notes = compare(&all, if recipe.whole { Blocks::Stay } else { Blocks::Move })?;
    let file = |model: &str| -> &'a File { &files[models.iter().position(|m| *m == model).unwrap_or(0)] };
    let parts = recipe.parts(&file)?;
    recipe.check_filters(&parts)?;
    let jobs = parts.into_iter().map(|part| recipe.job(part)).collect::<Result<Vec<_>>>()?;
    let numbers = recipe.parameters.iter().filter_map(|(name, setting)| Some((name.as_str(), setting.everywhere()?)));
    let lineage = Lineage {
        method: &recipe.method,
        parameters: numbers.collect(),
        weights: Vec::new(),
        models: all.clone(),
        adapters: Vec::new(),
    };
    let workers = Workers::new(options.threads)?;
    let mut keys = header(all[0], &lineage, workers.pool())?;
    recipe.restack(&mut keys, &file)?;
    let tokens = recipe.tokenizer_file(&file);
    if let Some(tokens) = tokens {
        take_tokenizer(&mut keys, tokens);
    }
    keys.set(RECIPE_KEY, Value::String(recipe.text.clone()));
    let notes = recipe.notes.iter().cloned().chain(notes).collect();
    finish(
        Plan { runtime, jobs, options, workers, header: keys },
        &lineage,
        tokens.unwrap_or(all[0]),
        notes,
        output,
        each,
    )
}

impl Recipe {
    /// A filter that is for no tensor is a mistake.
    fn check_filters(&self, parts: &[Part]) -> Result<()> {
        let names = parts.iter().flat_map(|part| {
            let sources = part.matched.sources.iter().map(|source| source.tensor.name.as_str());
            sources.chain([part.matched.name.as_str()])
        });
        let names: Vec<&str> = names.collect();
        for (word, setting) in self.settings() {
            if let Some(filter) = setting.idle_filter(&names) {
                return Err(self.refuse(format!("parameter {word}: no tensor's name has the filter {filter:?} in it")));
            }
        }
        Ok(())
    }

    /// One tensor: the base, where there is one, comes first, since changes are counted from the first source.
    fn job<'a>(&self, part: Part<'a>) -> Result<Job<'a>> {
        let slice = &self.slices[part.slice];
        let mut sources = part.matched.sources;
        let base = slice.base.as_ref().and_then(|base| slice.sources.iter().position(|s| s.model == *base));
        let mut inputs: Vec<_> = slice.sources.iter().zip(&sources).map(|(i, s)| (i, s.tensor.name.as_str())).collect();
        if let Some(base) = base {
            sources[..=base].rotate_right(1);
            inputs[..=base].rotate_right(1);
        }
        // Slerp's base is one of its two models: where the way begins.
        let counts_from_base = base.is_some() && self.method != "slerp";
        if counts_from_base {
            inputs.remove(0);
        }
        let (name, t) = (part.matched.name.as_str(), part.t);
        let place = Place { name, slice: part.slice, t, inputs, has_base: counts_from_base };
        let rule = Rule::Merge(self.method_at(&place)?);
        let entry = entry(name, &sources[0])?;
        Ok(Job { entry, sources, rule })
    }

    /// The file whose tokenizer keys the output has, where the recipe chooses one.
    fn tokenizer_file<'a>(&self, file: &dyn Fn(&str) -> &'a File) -> Option<&'a File> {
        match self.tokenizer_source.as_deref()? {
            "union" => None,
            "base" => self.slices.iter().find_map(|slice| slice.base.as_deref()).map(file),
            model => Some(file(model)),
        }
    }
}

/// The tokenizer's keys of another file in place of the first one's; vocabularies are equal.
fn take_tokenizer(header: &mut Header, file: &File) {
    let is_tokenizer = |key: &str| key.starts_with("tokenizer.");
    header.remove(|key| is_tokenizer(key) && file.get(key).is_none());
    file.keys().filter(|(key, _)| is_tokenizer(key)).for_each(|(key, value)| header.set(key, value.clone()));
}
