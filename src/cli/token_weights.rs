//! `llama-align token-weights`: which tokens of rejected answers an alignment has made less likely, as weights for `train`.
//!
//! The source is a log-ratio, ln p(token) of the aligned model less that of the base: the adapter, or the changes, of a short DPO
//! run are enough, so that raw pairs are all that it takes. Another model of the same vocabulary does as well.

use super::args_mask::TokenWeightsArgs;
use super::{dataset, open_model, Printer};
use crate::adapter::{import, import_changes};
use crate::check::checked_trace;
use crate::data::{read_all_with, Columns, Dataset, EncodeOptions, Example, Row, Rows, Sequence, Text, Tokenize};
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_fits, check_output, validate_adapter, write_atomically, File, Value};
use crate::loss::lowest;
use crate::report::{tokens_page, TokenAnswer};
use crate::rewriter::{self, Weigh, FAULT};
use crate::runtime::Model;
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
        (_, _, _, Some(path)) => (Source::Rewriter(path), Choice::Copied(weigh(args)?)),
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

fn ratio(args: &TokenWeightsArgs) -> Choice {
    args.share.map_or(Choice::Below(args.below.unwrap_or(0.0)), Choice::Share)
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

/// What weights tokens have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    /// Those whose log-ratio is below.
    Below(f64),
    /// This share of every answer's, those of the lowest log-ratios.
    Share(f64),
    /// By the probability with which a rewriter copies them.
    Copied(Weigh),
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
        let with = |deltas: Vec<Delta>| Engine::with_form(&model, &trace, deltas, threads, form);
        let adapted = |path: &Path| -> Result<Delta> {
            let adapter = File::open(path)?;
            check_fits(&validate_adapter(&adapter)?, &file)?;
            Ok(Delta { lora: import(&adapter)?, scale: 1.0, trainable: false })
        };
        let numbers: Vec<[Vec<f32>; 2]> = match self.source {
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
                copied(engine, of, &data, &read_all_with(self.data, self.columns)?, &encoding, printer)?
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
                ratios(&data, &aligned, &base)?
            }
        };
        let name = if matches!(self.source, Source::Rewriter(_)) { "copied" } else { "log_ratios" };
        let (mut lines, mut answers, mut counts) = (String::new(), Vec::new(), [0usize; 2]);
        for (row, (sample, [chosen, rejected])) in data.samples.iter().zip(numbers).enumerate() {
            let weights: Vec<f32> = match choice {
                Choice::Share(share) => lowest(&rejected, &vec![0.0; rejected.len()], share),
                Choice::Below(limit) => {
                    rejected.iter().map(|&r| if f64::from(r) < limit { 1.0 } else { 0.0 }).collect()
                }
                Choice::Copied(weigh) => rejected.iter().map(|&q| weigh.of(f64::from(q))).collect(),
            };
            counts = [counts[0] + weights.iter().filter(|w| **w != 0.0).count(), counts[1] + weights.len()];
            let line = json!({
                "line": sample.line(), "rejected": weights, name: { "chosen": chosen, "rejected": rejected },
            });
            lines.push_str(&format!("{line}\n"));
            if answers.len() < SHOWN {
                // A rewriter's probabilities around the middle, as log-ratios lie around 0.
                let middle = if name == "copied" { FAULT as f32 } else { 0.0 };
                let shifted = [chosen, rejected].map(|of| of.iter().map(|v| v - middle).collect());
                answers.push(shown(&model, &data, row, shifted.into(), weights));
            }
        }
        write_atomically(output, lines.as_bytes())?;
        let (weighted, all) = (counts[0], counts[1]);
        printer
            .data(&format!("{}: {weighted} of {all} tokens of the rejected answers have a weight", output.display()));
        if let Some(page) = html {
            let name = output.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            write_atomically(page, tokens_page(&answers, &name).as_bytes())?;
        }
        Ok(())
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

/// ln p(token) of the aligned model less that of the base.
fn ratios(data: &Dataset, aligned: &References, base: &References) -> Result<Vec<[Vec<f32>; 2]>> {
    let less = |now: &Vec<f32>, before: &Vec<f32>| now.iter().zip(before).map(|(n, b)| n - b).collect();
    let of = |row: usize| {
        let (now, before) = (aligned.tokens_of(row)?, base.tokens_of(row)?);
        Ok([0, 1].map(|k| less(&now[k], &before[k])))
    };
    (0..data.samples.len()).map(of).collect()
}

/// The probabilities with which a rewriter copies the tokens of both answers, each given as a prediction to correct.
fn copied(
    mut engine: Engine,
    model: &Arc<Model>,
    data: &Dataset,
    rows: &Rows,
    encoding: &EncodeOptions,
    printer: &mut Printer,
) -> Result<Vec<[Vec<f32>; 2]>> {
    let asked = |row: &Row, k: usize| -> Result<Row> {
        let [problem, chosen, rejected] = rewriter::parts(row)?;
        let prediction = if k == 0 { &chosen } else { &rejected };
        let prompt = Text::Plain(rewriter::question(&problem, &chosen, prediction));
        let example = Example::Completion { prompt, completion: Text::Plain(prediction.clone()) };
        Ok(Row { line: row.line, example })
    };
    let mut found: Vec<[Vec<f32>; 2]> = Vec::with_capacity(data.samples.len());
    let mut too_long = 0;
    let max_length = dataset::max_length(2 * encoding.max_length, model, &mut Printer::new());
    let encoding = EncodeOptions { max_length, ..*encoding };
    for sample in &data.samples {
        let row = rows.rows.iter().find(|row| row.line == sample.line());
        let row = row.ok_or_else(|| Error::new(Kind::Internal, "a sample of no row"))?;
        let mut of_row = [Vec::new(), Vec::new()];
        for (k, own) in sample.sequences().enumerate() {
            let one = Rows { source: rows.source.clone(), form: rows.form, rows: vec![asked(row, k)?] };
            let encoded = dataset::encode(&one, model, &encoding)?;
            let Some(sequence) = encoded.samples.first().and_then(|s| s.sequences().next()) else {
                // As a row that is too long to be judged: nothing of it is forgotten.
                too_long += 1;
                of_row[k] = vec![1.0; own.n_scored()];
                continue;
            };
            let tokens = |s: &Sequence| s.scored().map(|i| s.tokens[i]).collect::<Vec<_>>();
            if tokens(sequence) != tokens(own) {
                let message = format!(
                    "line {}: the rewriter sees other tokens in the answer than the model does: its template differs",
                    row.line
                );
                return Err(Error::new(Kind::Data, message));
            }
            of_row[k] = engine.log_probs(&[sequence])?.remove(0).iter().map(|l| l.exp()).collect();
        }
        found.push(of_row);
    }
    if too_long > 0 {
        printer.talk(&format!("{too_long} answers are too long for the rewriter: none of their tokens has a weight"));
    }
    Ok(found)
}

/// A row's texts, token by token.
fn shown(model: &Model, data: &Dataset, row: usize, ratios: Vec<Vec<f32>>, weights: Vec<f32>) -> TokenAnswer {
    let sample = &data.samples[row];
    let texts: Vec<Vec<String>> =
        sample.sequences().map(|s| s.scored().map(|i| model.text_of(s.tokens[i])).collect()).collect();
    TokenAnswer { line: sample.line(), texts, ratios, weights }
}
