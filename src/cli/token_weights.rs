//! `llama-align token-weights`: which tokens of rejected answers an alignment has made less likely, as weights for `train`.
//!
//! The source is a log-ratio, ln p(token) of the aligned model less that of the base: the adapter of a short DPO run is enough,
//! so that raw pairs are all that it takes.

use super::args_mask::TokenWeightsArgs;
use super::{dataset, open_model, Printer};
use crate::adapter::import;
use crate::check::checked_trace;
use crate::data::{Dataset, EncodeOptions, Tokenize};
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_fits, check_output, validate_adapter, write_atomically, File};
use crate::loss::lowest;
use crate::report::{tokens_page, TokenAnswer};
use crate::runtime::Model;
use crate::train::{Method, Precision, References, TrainConfig};
use serde_json::json;

/// Rows that the page shows.
const SHOWN: usize = 40;

/// Runs the command.
pub(super) fn run(args: &TokenWeightsArgs, printer: &mut Printer) -> Result<u8> {
    if args.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return Err(Error::new(Kind::Argument, "--share: outside 0 to 1"));
    }
    if !args.below.is_finite() {
        return Err(Error::new(Kind::Argument, format!("--below {}: no number", args.below)));
    }
    for output in std::iter::once(&args.output).chain(&args.html) {
        let inputs = [&args.model, &args.data, &args.lora].map(|path| path.as_path());
        check_output(output, inputs, args.overwrite)?;
    }
    let (model, file) = open_model(&args.model, None, None)?;
    let adapter = File::open(&args.lora)?;
    check_fits(&validate_adapter(&adapter)?, &file)?;
    let max_length = dataset::max_length(args.max_length, &model, printer);
    let encoding = EncodeOptions { max_length, ..EncodeOptions::default() };
    let data = dataset::load(&args.data, &model, Some(Method::Dpo), &dataset::columns(&args.columns)?, &encoding)?;
    let (threads, form) = (args.threads.count(), Precision::Auto.form_for(&model)?);
    let (trace, _) = checked_trace(&model, threads, form)?;
    let measure = |deltas: Vec<Delta>| {
        let mut engine = Engine::with_form(&model, &trace, deltas, threads, form)?;
        References::measure(&mut engine, &data.samples, TrainConfig::default().micro_batch_tokens)
    };
    let base = measure(Vec::new())?;
    let aligned = measure(vec![Delta { lora: import(&adapter)?, scale: 1.0, trainable: false }])?;
    let (mut lines, mut answers, mut counts) = (String::new(), Vec::new(), [0usize; 2]);
    for (row, sample) in data.samples.iter().enumerate() {
        let (now, before) = (aligned.tokens_of(row)?, base.tokens_of(row)?);
        let ratios: Vec<Vec<f32>> =
            now.iter().zip(before).map(|(now, before)| now.iter().zip(before).map(|(n, b)| n - b).collect()).collect();
        let weights = match args.share {
            Some(share) => lowest(&now[1], &before[1], share),
            None => ratios[1].iter().map(|&r| if f64::from(r) < args.below { 1.0 } else { 0.0 }).collect(),
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
    write_atomically(&args.output, lines.as_bytes())?;
    printer.data(&format!(
        "{}: {} of {} tokens of the rejected answers have weight 1",
        args.output.display(),
        counts[0],
        counts[1]
    ));
    if let Some(page) = &args.html {
        let name = args.output.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        write_atomically(page, tokens_page(&answers, &name).as_bytes())?;
    }
    Ok(0)
}

/// A row's texts, token by token.
fn shown(model: &Model, data: &Dataset, row: usize, ratios: Vec<Vec<f32>>, weights: Vec<f32>) -> TokenAnswer {
    let sample = &data.samples[row];
    let texts: Vec<Vec<String>> =
        sample.sequences().map(|s| s.scored().map(|i| model.text_of(s.tokens[i])).collect()).collect();
    TokenAnswer { line: sample.line(), texts, ratios, weights }
}
