//! `llama-align token-weights`: which tokens of rejected answers an alignment has made less likely, as weights for `train`.
//!
//! The source is a log-ratio, ln p(token) of the aligned model less that of the base: the adapter, or the changes, of a short DPO
//! run are enough, so that raw pairs are all that it takes. Another model of the same vocabulary does as well.

use super::args_mask::TokenWeightsArgs;
use super::{dataset, open_model, Printer};
use crate::adapter::{import, import_changes};
use crate::check::checked_trace;
use crate::data::{read_all_with, Columns, Dataset, EncodeOptions, Tokenize};
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_fits, check_output, validate_adapter, write_atomically, File, Value};
use crate::report::{tokens_page, TokenAnswer, TokenScale};
use crate::rewriter::{self, Weigh, FAULT};
use crate::runtime::Model;
use crate::token_scores::{copy_probabilities, log_ratios, Copied, PairNumbers, TokenChoice};
use crate::trace::Trace;
use crate::train::{Method, Precision, References, TrainConfig};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Rows that the page shows.
const SHOWN: usize = 40;
/// Key of a vocabulary.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// Runs the command.
pub(super) fn run(args: &TokenWeightsArgs, printer: &mut Printer) -> Result<u8> {
    if args.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return Err(Error::new(Kind::Argument, "--share: outside 0 to 1"));
    }
    if let Some(below) = args.below.filter(|below| !below.is_finite()) {
        return Err(Error::new(Kind::Argument, format!("--below {below}: no number")));
    }
    let columns = dataset::columns(&args.columns)?;
    if let Some(output) = &args.rewriter_data {
        return lessons(args, output, &columns, printer);
    }
    let (Some(model), Some(output)) = (&args.model, &args.output) else {
        return Err(Error::new(Kind::Argument, "--model, --output: both are needed"));
    };
    let (source, choice) = match (&args.lora, &args.change, &args.after, &args.rewriter) {
        (Some(path), ..) => (Source::Lora(path), ratio(args)),
        (_, Some(path), ..) => (Source::Change(path), ratio(args)),
        (_, _, Some(path), _) => (Source::Model(path), ratio(args)),
        (_, _, _, Some(path)) => (Source::Rewriter(path), TokenChoice::Copied(weigh(args)?)),
        _ => {
            return Err(Error::new(
                Kind::Argument,
                "--lora, --change, --after or --rewriter: nothing tells tokens apart",
            ))
        }
    };
    for output in std::iter::once(output).chain(&args.html) {
        check_output(output, [model.as_path(), &args.data, source.path()], args.overwrite)?;
    }
    let encoding = EncodeOptions { max_length: args.max_length, ..EncodeOptions::default() };
    let tell = Tell { model, source, data: &args.data, columns: &columns, encoding, threads: args.threads.count() };
    tell.write(choice, output, args.html.as_deref(), printer)?;
    Ok(0)
}

fn ratio(args: &TokenWeightsArgs) -> TokenChoice {
    args.share.map_or(TokenChoice::Below(args.below.unwrap_or(0.0)), TokenChoice::Share)
}

fn weigh(args: &TokenWeightsArgs) -> Result<Weigh> {
    match args.weigh.as_deref() {
        None => Ok(Weigh::Below(args.below.unwrap_or(FAULT))),
        Some("released") => Ok(Weigh::Released),
        Some("rlmec") => Ok(Weigh::Rlmec),
        Some(name) => Err(Error::new(Kind::Argument, format!("--weigh {name}: is none of released, rlmec"))),
    }
}

/// Writes rows to teach a rewriter by.
fn lessons(args: &TokenWeightsArgs, output: &Path, columns: &Columns, printer: &mut Printer) -> Result<u8> {
    let inputs = std::iter::once(args.data.as_path()).chain(args.rewrites.as_deref());
    check_output(output, inputs, args.overwrite)?;
    let rewrites = args.rewrites.as_deref().map(rewriter::read_rewrites).transpose()?.unwrap_or_default();
    let pairs = read_all_with(&args.data, columns)?.into_pairs()?;
    let rows = rewriter::rows(&pairs.rows, &rewrites, args.seed.unwrap_or(0))?;
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    write_atomically(output, text.as_bytes())?;
    let (n, wrong, mended) = (rows.len(), pairs.rows.len(), rewrites.len());
    printer.data(&format!(
        "{}: {n} rows, {wrong} wrong answers of which {mended} were mended by someone, {} right ones to be copied",
        output.display(),
        n - wrong
    ));
    Ok(0)
}

/// What tells tokens apart: what an alignment left, or a rewriter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// An adapter.
    Lora(&'a Path),
    /// Changes of whole weights.
    Change(&'a Path),
    /// Another model of the same vocabulary.
    Model(&'a Path),
    /// An adapter, or a model of the same vocabulary.
    Rewriter(&'a Path),
}

impl<'a> Source<'a> {
    fn path(self) -> &'a Path {
        match self {
            Self::Lora(path) | Self::Change(path) | Self::Model(path) | Self::Rewriter(path) => path,
        }
    }
}

/// What tells tokens apart, and the rows that they are of.
pub(super) struct Tell<'a> {
    pub(super) model: &'a Path,
    pub(super) source: Source<'a>,
    pub(super) data: &'a Path,
    pub(super) columns: &'a Columns,
    pub(super) encoding: EncodeOptions,
    pub(super) threads: usize,
}

impl Tell<'_> {
    /// Writes weights, and a page if one is wanted.
    pub(super) fn write(
        &self,
        choice: TokenChoice,
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
        let with = |deltas: Vec<Delta>| Engine::with_form(&model, &trace, deltas, threads, form);
        let adapted = |path: &Path| -> Result<Delta> {
            let adapter = File::open(path)?;
            check_fits(&validate_adapter(&adapter)?, &file)?;
            Ok(Delta { lora: import(&adapter)?, scale: 1.0, trainable: false })
        };
        let numbers: Vec<PairNumbers> = match self.source {
            Source::Rewriter(path) => {
                let lora = match File::open(path)?.get("general.type").and_then(Value::as_str) == Some("adapter") {
                    true => Some(adapted(path)?),
                    false => None,
                };
                let other = lora.is_none().then(|| self.other(path, &file)).transpose()?;
                let engine = match &other {
                    Some((model, trace)) => Engine::with_form(model, trace, Vec::new(), threads, form)?,
                    None => with(lora.into_iter().collect())?,
                };
                let of = other.as_ref().map_or(&model, |(model, _)| model);
                self.copied(engine, of, &data, &encoding, printer)?
            }
            source => {
                let base = measure(with(Vec::new())?)?;
                let aligned = match source {
                    Source::Change(path) => {
                        let changes = import_changes(&File::open(path)?, &file)?;
                        measure(Engine::with_changes(&model, &trace, Vec::new(), changes, threads, form)?)?
                    }
                    Source::Model(path) => {
                        let (after, trace) = self.other(path, &file)?;
                        measure(Engine::with_form(&after, &trace, Vec::new(), threads, form)?)?
                    }
                    Source::Lora(path) | Source::Rewriter(path) => measure(with(vec![adapted(path)?])?)?,
                };
                log_ratios(&data, &aligned, &base)?
            }
        };
        let (name, scale) = match self.source {
            Source::Rewriter(_) => ("copied", TokenScale::Copied),
            _ => ("log_ratios", TokenScale::LogRatio),
        };
        let (mut lines, mut answers, mut counts) = (String::new(), Vec::new(), [0usize; 2]);
        for (row, (sample, [chosen, rejected])) in data.samples.iter().zip(numbers).enumerate() {
            let weights = choice.weights(&rejected);
            counts = [counts[0] + weights.iter().filter(|w| **w != 0.0).count(), counts[1] + weights.len()];
            let line = json!({
                "line": sample.line(), "rejected": weights, name: { "chosen": chosen, "rejected": rejected },
            });
            lines.push_str(&format!("{line}\n"));
            if answers.len() < SHOWN {
                answers.push(shown(&model, &data, row, vec![chosen, rejected], weights));
            }
        }
        write_atomically(output, lines.as_bytes())?;
        let (weighted, all) = (counts[0], counts[1]);
        printer
            .data(&format!("{}: {weighted} of {all} tokens of the rejected answers have a weight", output.display()));
        if let Some(page) = html {
            let name = output.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            write_atomically(page, tokens_page(&answers, scale, &name).as_bytes())?;
        }
        Ok(())
    }

    /// What a rewriter copies of the answers, read with room for its questions.
    fn copied(
        &self,
        mut engine: Engine,
        model: &Model,
        data: &Dataset,
        encoding: &EncodeOptions,
        printer: &mut Printer,
    ) -> Result<Vec<PairNumbers>> {
        let max_length = dataset::max_length(2 * encoding.max_length, model, &mut Printer::new());
        let encoding = EncodeOptions { max_length, ..*encoding };
        let rows = read_all_with(self.data, self.columns)?;
        let Copied { numbers, too_long } = copy_probabilities(&mut engine, model, data, &rows, &encoding)?;
        if too_long > 0 {
            printer
                .talk(&format!("{too_long} answers are too long for the rewriter: none of their tokens has a weight"));
        }
        Ok(numbers)
    }

    /// Another model of the same vocabulary, traced.
    fn other(&self, path: &Path, file: &File) -> Result<(Arc<Model>, Arc<Trace>)> {
        let (other, of_other) = open_model(path, None, None)?;
        if file.get(TOKENS) != of_other.get(TOKENS) {
            let message = format!("{}: its tokens are not those of {}", path.display(), self.model.display());
            return Err(Error::new(Kind::Mismatch, message));
        }
        let form = Precision::Auto.form_for(&other)?;
        let (trace, _) = checked_trace(&other, self.threads, form)?;
        Ok((other, trace))
    }
}

/// A row's texts, token by token.
fn shown(model: &Model, data: &Dataset, row: usize, numbers: Vec<Vec<f32>>, weights: Vec<f32>) -> TokenAnswer {
    let sample = &data.samples[row];
    let texts: Vec<Vec<String>> =
        sample.sequences().map(|s| s.scored().map(|i| model.text_of(s.tokens[i])).collect()).collect();
    TokenAnswer { line: sample.line(), texts, numbers, weights }
}
