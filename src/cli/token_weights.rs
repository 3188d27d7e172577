//! `llama-align token-weights`: which tokens of rejected answers an alignment has made less likely, as weights for `train`.
//!
//! The source is a log-ratio, ln p(token) of the aligned model less that of the base: the adapter, or the changes, of a short DPO
//! run are enough, so that raw pairs are all that it takes. Another model of the same vocabulary does as well.

use super::args_mask::TokenWeightsArgs;
use super::{dataset, open_model, Printer};
use crate::adapter::{import, import_changes};
use crate::check::checked_trace;
use crate::data::{Columns, Dataset, EncodeOptions, Tokenize};
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_fits, check_output, validate_adapter, write_atomically, File};
use crate::loss::lowest;
use crate::report::{tokens_page, TokenAnswer};
use crate::runtime::Model;
use crate::train::{Method, Precision, References, TrainConfig};
use serde_json::json;
use std::path::Path;

/// Rows that the page shows.
const SHOWN: usize = 40;
/// Key of a vocabulary.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// Runs the command.
pub(super) fn run(args: &TokenWeightsArgs, printer: &mut Printer) -> Result<u8> {
    if args.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return Err(Error::new(Kind::Argument, "--share: outside 0 to 1"));
    }
    if !args.below.is_finite() {
        return Err(Error::new(Kind::Argument, format!("--below {}: no number", args.below)));
    }
    let aligned = match (&args.lora, &args.change, &args.after) {
        (Some(path), ..) => Aligned::Lora(path),
        (_, Some(path), _) => Aligned::Change(path),
        (_, _, Some(path)) => Aligned::Model(path),
        _ => return Err(Error::new(Kind::Argument, "--lora, --change or --after: nothing to compare the model with")),
    };
    for output in std::iter::once(&args.output).chain(&args.html) {
        check_output(output, [args.model.as_path(), &args.data, aligned.path()], args.overwrite)?;
    }
    let columns = dataset::columns(&args.columns)?;
    let encoding = EncodeOptions { max_length: args.max_length, ..EncodeOptions::default() };
    let threads = args.threads.count();
    let tell = Tell { model: &args.model, aligned, data: &args.data, columns: &columns, encoding, threads };
    let choice = args.share.map_or(Choice::Below(args.below), Choice::Share);
    tell.write(choice, &args.output, args.html.as_deref(), printer)?;
    Ok(0)
}

/// What an alignment left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aligned<'a> {
    /// An adapter.
    Lora(&'a Path),
    /// Changes of whole weights.
    Change(&'a Path),
    /// Another model of the same vocabulary.
    Model(&'a Path),
}

impl<'a> Aligned<'a> {
    fn path(self) -> &'a Path {
        match self {
            Self::Lora(path) | Self::Change(path) | Self::Model(path) => path,
        }
    }
}

/// Which tokens have weight 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    /// Those whose log-ratio is below.
    Below(f64),
    /// This share of every answer's, those of the lowest log-ratios.
    Share(f64),
}

/// What tells tokens apart, and the rows that they are of.
pub(super) struct Tell<'a> {
    pub(super) model: &'a Path,
    pub(super) aligned: Aligned<'a>,
    pub(super) data: &'a Path,
    pub(super) columns: &'a Columns,
    pub(super) encoding: EncodeOptions,
    pub(super) threads: usize,
}

impl Tell<'_> {
    /// Writes weights, and a page if one is wanted.
    pub(super) fn write(
        &self,
        choice: Choice,
        output: &Path,
        html: Option<&Path>,
        printer: &mut Printer,
    ) -> Result<()> {
        let (model, file) = open_model(self.model, None, None)?;
        let max_length = dataset::max_length(self.encoding.max_length, &model, printer);
        let encoding = EncodeOptions { max_length, ..self.encoding };
        let data = dataset::load(self.data, &model, Some(Method::Dpo), self.columns, &encoding)?;
        let (threads, form) = (self.threads, Precision::Auto.form_for(&model)?);
        let (trace, _) = checked_trace(&model, threads, form)?;
        let measure = |mut engine: Engine| {
            References::measure(&mut engine, &data.samples, TrainConfig::default().micro_batch_tokens)
        };
        let base = measure(Engine::with_form(&model, &trace, Vec::new(), threads, form)?)?;
        let aligned = match self.aligned {
            Aligned::Lora(path) => {
                let adapter = File::open(path)?;
                check_fits(&validate_adapter(&adapter)?, &file)?;
                let delta = Delta { lora: import(&adapter)?, scale: 1.0, trainable: false };
                measure(Engine::with_form(&model, &trace, vec![delta], threads, form)?)?
            }
            Aligned::Change(path) => {
                let changes = import_changes(&File::open(path)?, &file)?;
                measure(Engine::with_changes(&model, &trace, Vec::new(), changes, threads, form)?)?
            }
            Aligned::Model(path) => {
                let (after, after_file) = open_model(path, None, None)?;
                if file.get(TOKENS) != after_file.get(TOKENS) {
                    let message = format!("{}: its tokens are not those of {}", path.display(), self.model.display());
                    return Err(Error::new(Kind::Mismatch, message));
                }
                let form = Precision::Auto.form_for(&after)?;
                let (trace, _) = checked_trace(&after, threads, form)?;
                measure(Engine::with_form(&after, &trace, Vec::new(), threads, form)?)?
            }
        };
        let (mut lines, mut answers, mut counts) = (String::new(), Vec::new(), [0usize; 2]);
        for (row, sample) in data.samples.iter().enumerate() {
            let (now, before) = (aligned.tokens_of(row)?, base.tokens_of(row)?);
            let ratios: Vec<Vec<f32>> = now
                .iter()
                .zip(before)
                .map(|(now, before)| now.iter().zip(before).map(|(n, b)| n - b).collect())
                .collect();
            let weights = match choice {
                Choice::Share(share) => lowest(&now[1], &before[1], share),
                Choice::Below(limit) => {
                    ratios[1].iter().map(|&r| if f64::from(r) < limit { 1.0 } else { 0.0 }).collect()
                }
            };
            counts = [counts[0] + weights.iter().filter(|w| **w != 0.0).count(), counts[1] + weights.len()];
            let line = json!({
                "line": sample.line(), "rejected": weights,
                "log_ratios": { "chosen": ratios[0], "rejected": ratios[1] },
            });
            lines.push_str(&format!("{line}\n"));
            if answers.len() < SHOWN {
                answers.push(shown(&model, &data, row, ratios, weights));
            }
        }
        write_atomically(output, lines.as_bytes())?;
        let (weighted, all) = (counts[0], counts[1]);
        printer
            .data(&format!("{}: {weighted} of {all} tokens of the rejected answers have weight 1", output.display()));
        if let Some(page) = html {
            let name = output.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            write_atomically(page, tokens_page(&answers, &name).as_bytes())?;
        }
        Ok(())
    }
}

/// A row's texts, token by token.
fn shown(model: &Model, data: &Dataset, row: usize, ratios: Vec<Vec<f32>>, weights: Vec<f32>) -> TokenAnswer {
    let sample = &data.samples[row];
    let texts: Vec<Vec<String>> =
        sample.sequences().map(|s| s.scored().map(|i| model.text_of(s.tokens[i])).collect()).collect();
    TokenAnswer { line: sample.line(), texts, ratios, weights }
}
