//! Responses of a command: read or sampled, scored, tokenised.

use super::args::{HmaArgs, ResponseArgs};
use super::models::Pair;
use crate::cli::{dataset, Printer};
use crate::data::{read_all_with, read_prompts, Dataset, EncodeOptions, Example, LossMask, Rows, Sequence, Text};
use crate::error::{Error, Kind, Result};
use crate::generate::GenerateParams;
use crate::gguf::write_atomically;
use crate::hma::{best, implicit_rewards, sample, Blended};
use crate::pairs::prompt_json;
use crate::runtime::SamplerParams;
use crate::train::TrainConfig;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokenised responses, and which of them count.
pub(super) struct Chosen {
    data: Dataset,
    places: Vec<usize>,
}

impl Chosen {
    pub(super) fn sequences(&self) -> Vec<&Sequence> {
        let all: Vec<&Sequence> = self.data.samples.iter().flat_map(|s| s.sequences().take(1)).collect();
        self.places.iter().map(|&i| all[i]).collect()
    }

    /// Of all that was tokenised.
    pub(super) fn digest(&self) -> String {
        self.data.digest()
    }
}

/// Tokens of a forward at most.
pub(super) fn max_tokens() -> usize {
    TrainConfig::default().micro_batch_tokens
}

impl ResponseArgs {
    /// Checks flags before any work.
    pub(super) fn validate(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(Kind::Argument, what));
        if !(1..=4096).contains(&self.samples) {
            return bad(format!("--samples {}: outside 1 to 4096", self.samples));
        }
        if self.predict == 0 || self.keep == Some(0) {
            return bad("--predict and --keep are at least 1".to_owned());
        }
        if !(0.0..=100.0).contains(&self.temp) || !(0.0..=1.0).contains(&self.top_p) {
            return bad(format!("--temp {} or --top-p {}: outside 0 to 100, or 0 to 1", self.temp, self.top_p));
        }
        if !(1..=256).contains(&self.parallel) {
            return bad(format!("--parallel {}: outside 1 to 256", self.parallel));
        }
        if self.score.is_some() && self.prompts.is_none() && self.responses.is_none() {
            return bad("--score: needs --prompts or --responses".to_owned());
        }
        match self.score.as_deref() {
            Some(file) if file != "implicit" && self.responses.is_none() => {
                bad(format!("--score {file}: a file of scores is for the rows of --responses"))
            }
            _ => mask(&self.loss_mask).map(|_| ()),
        }
    }
}

fn mask(name: &str) -> Result<LossMask> {
    match name {
        "completion" | "all" => LossMask::from_name(name),
        _ => Err(Error::new(Kind::Argument, format!("--loss-mask {name}: neither completion nor all"))),
    }
}

/// Responses, where the command has any.
pub(super) fn responses(
    args: &HmaArgs,
    pair: &Pair,
    blended: &mut Blended,
    printer: &mut Printer,
) -> Result<Option<Chosen>> {
    let flags = &args.responses;
    let Some(rows) = rows(args, pair, printer)? else { return Ok(None) };
    let max_length = dataset::max_length(flags.max_length, &pair.before.model, printer);
    let options = EncodeOptions { max_length, mask: mask(&flags.loss_mask)?, ..EncodeOptions::default() };
    let data = dataset::encode(&rows, &pair.before.model, &options)?;
    if data.report.dropped_too_long > 0 {
        let n = data.report.dropped_too_long;
        printer.talk(&format!("{n} responses are longer than {max_length} tokens and left out"));
    }
    let mut chosen = Chosen { places: (0..data.samples.len()).collect(), data };
    if let Some(score) = &flags.score {
        let scores = match score.as_str() {
            "implicit" => implicit_rewards(blended, &chosen.sequences(), max_tokens())?,
            file => of_file(Path::new(file), &rows, &chosen.data)?,
        };
        let of_line: BTreeMap<usize, &Text> = rows.rows.iter().map(|row| (row.line, prompt(&row.example))).collect();
        let prompts: Vec<&Text> = chosen.data.samples.iter().filter_map(|s| of_line.get(&s.line()).copied()).collect();
        chosen.places = best(&prompts, &scores, flags.keep);
        printer.talk(&format!("{} of {} responses kept by their score", chosen.places.len(), scores.len()));
    }
    Ok(Some(chosen))
}

fn prompt(example: &Example) -> &Text {
    const NOTHING: &Text = &Text::Plain(String::new());
    match example {
        Example::Completion { prompt, .. } | Example::Pair { prompt, .. } | Example::Labelled { prompt, .. } => prompt,
        Example::Text { .. } => NOTHING,
    }
}

/// A number per line, for the rows in their order; those of rows that were too long are passed over.
fn of_file(path: &Path, rows: &Rows, data: &Dataset) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the scores", &e))?;
    let mut scores = BTreeMap::new();
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let bad = |what: String| Error::new(Kind::Data, format!("{}{what}", path.display()));
    for row in &rows.rows {
        let Some((i, line)) = lines.next() else {
            return Err(bad(format!(": fewer scores than the {} responses", rows.rows.len())));
        };
        let score = line.trim().parse::<f64>().ok().filter(|s| s.is_finite());
        scores.insert(row.line, score.ok_or_else(|| bad(format!(":{}: no finite number", i + 1)))?);
    }
    if let Some((i, _)) = lines.next() {
        return Err(bad(format!(":{}: more scores than the {} responses", i + 1, rows.rows.len())));
    }
    Ok(data.samples.iter().filter_map(|sample| scores.get(&sample.line()).copied()).collect())
}

fn rows(args: &HmaArgs, pair: &Pair, printer: &mut Printer) -> Result<Option<Rows>> {
    let flags = &args.responses;
    let columns = dataset::columns(&flags.columns)?;
    if let Some(path) = &flags.responses {
        return read_all_with(path, &columns)?.into_completions().map(Some);
    }
    let Some(path) = &flags.prompts else { return Ok(None) };
    let prompts = read_prompts(path, &columns)?;
    let (temperature, top_p, seed) = (flags.temp, flags.top_p, args.search.seed as u32);
    let sampler = SamplerParams { temperature, top_k: 0, top_p, min_p: 0.0, seed };
    let (n_predict, n_threads, n_parallel) = (flags.predict, args.threads.count(), flags.parallel);
    let params = GenerateParams { n_predict, n_threads, n_parallel, sampler };
    let (model, adapters) = pair.aligned();
    let mut told = None;
    let mut tell = |done: usize, all: usize| {
        let tenth = done * 10 / all.max(1);
        if told != Some(tenth) {
            told = Some(tenth);
            printer.talk(&format!("responses: {done} of {all}"));
        }
    };
    let sampled = sample(model, &adapters, &prompts, flags.samples, &params, &mut tell)?;
    let n = sampled.rows.rows.len();
    printer.talk(&format!("{n} responses; left out: {} cut, {} empty", sampled.n_cut, sampled.n_empty));
    if let Some(path) = &flags.responses_out {
        write_atomically(path, lines(&sampled.rows).as_bytes())?;
    }
    Ok(Some(sampled.rows))
}

fn lines(rows: &Rows) -> String {
    let line = |example: &Example| match example {
        Example::Completion { prompt, completion } => {
            let row = serde_json::json!({ "prompt": prompt_json(prompt), "completion": prompt_json(completion) });
            format!("{row}\n")
        }
        _ => String::new(),
    };
    rows.rows.iter().map(|row| line(&row.example)).collect()
}
