//! Tasks: a model, with or without an adapter, on items that have a right answer.

use super::choice::{mc1, mc2, Choice, Normalisation};
use super::items::{read_answers, read_choices, read_squad, ChoiceItem, QuestionItem};
use super::{divergence, number, squad};
use crate::data::{order, read_all, Dataset, EncodeOptions, Encoder, Sample, Sequence, Text};
use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::generate::{self, GenerateParams};
use crate::runtime::{Adapter, Model, SamplerParams};
use crate::train::summed_log_probs;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Preference pairs: is the chosen answer likelier, summed and per token?
    Pairs,
    /// Negative log-likelihood per token of the (chosen) answers.
    Nll,
    /// KL divergence from the base and agreement with its likeliest token, on the answers' tokens.
    Kl,
    /// Multiple choice by log-probs (TruthfulQA MC1 and MC2).
    Mc,
    /// The final number, or else the whole text, of a generated answer (GSM8K).
    ExactMatch,
    /// Exact match and F1 of a short generated answer (SQuAD).
    EmF1,
}

impl Task {
    /// All of them with their names in flags and files.
    pub const ALL: [(Task, &'static str); 6] = [
        (Task::Pairs, "pairs"),
        (Task::Nll, "nll"),
        (Task::Kl, "kl"),
        (Task::Mc, "mc"),
        (Task::ExactMatch, "exact-match"),
        (Task::EmF1, "em-f1"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(task, _)| *task == self).map_or("pairs", |(_, name)| name)
    }

    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        let wanted = name.to_ascii_lowercase().replace('_', "-");
        let found = Self::ALL.into_iter().find(|(_, n)| *n == wanted);
        found.map(|(task, _)| task).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::new(Kind::Argument, format!("task: {name} is none of {}", names.join(", ")))
        })
    }

    /// True if it needs log-probs, false if it generates.
    pub fn scores(self) -> bool {
        !matches!(self, Task::ExactMatch | Task::EmF1)
    }

    /// Tokens of an answer at most, where nothing else is asked for.
    fn n_predict(self) -> usize {
        match self {
            Task::ExactMatch => 256,
            _ => 32,
        }
    }
}

/// How tasks run.
#[derive(Clone, Debug)]
pub struct TaskParams {
    /// Longer rows and items are left out and counted, in tokens.
    pub max_length: usize,
    /// Items at most, drawn by the seed; 0 takes all.
    pub limit: usize,
    /// Seed of that draw.
    pub seed: u64,
    /// Tokens of a generated answer at most; 0 is the task's own (256 for exact-match, 32 for em-f1).
    pub n_predict: usize,
    /// Whether questions go through the model's chat template. Without it a question becomes "Q: … A:".
    pub apply_template: bool,
    /// Tokens on the packed axis of one forward at most.
    pub max_tokens: usize,
}

impl Default for TaskParams {
    fn default() -> Self {
        Self { max_length: 1024, limit: 0, seed: 0, n_predict: 0, apply_template: true, max_tokens: 1024 }
    }
}

/// A task's items.
#[derive(Clone, Debug)]
pub enum Items {
    /// Rows with answers.
    Rows(Dataset),
    /// Questions with choices.
    Choices(Vec<ChoiceItem>),
    /// Questions with gold answers.
    Questions(Vec<QuestionItem>),
}

/// What is measured: a model, and an adapter or none.
#[derive(Debug)]
pub struct Subject {
    /// The model.
    pub model: Arc<Model>,
    /// Gives log-probs, the adapter included; tasks that only generate need none.
    pub engine: Option<Engine>,
    /// The adapter as llama.cpp loaded it, with its scale, for tasks that generate.
    pub adapters: Vec<(Arc<Adapter>, f32)>,
    /// Threads of what generates.
    pub n_threads: usize,
}

/// One item's scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemScore {
    /// Its line, or its place in the file, from 1.
    pub item: usize,
    /// What it counts for in means: tokens for nll and kl, 1 otherwise.
    pub weight: f64,
    /// By metric.
    #[serde(flatten)]
    pub scores: BTreeMap<&'static str, f64>,
    /// What was generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// What a task gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// Its name.
    pub task: &'static str,
    /// Items measured.
    pub n_items: usize,
    /// Items left out because they are too long for the limit or the model.
    pub n_too_long: usize,
    /// Weighted means over the items.
    #[serde(flatten)]
    pub metrics: BTreeMap<&'static str, f64>,
    /// Every item.
    #[serde(skip)]
    pub items: Vec<ItemScore>,
}

impl TaskReport {
    fn of(task: Task, items: Vec<ItemScore>, n_too_long: usize) -> Result<Self> {
        if items.is_empty() {
            let message = format!("task {}: no item is short enough ({n_too_long} are too long)", task.name());
            return Err(Error::new(Kind::Data, message));
        }
        let mut sums: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
        for item in &items {
            for (&name, &score) in &item.scores {
                let (sum, weight) = sums.entry(name).or_default();
                (*sum, *weight) = (*sum + item.weight * score, *weight + item.weight);
            }
        }
        let mut metrics: BTreeMap<_, _> = sums.into_iter().map(|(name, (sum, weight))| (name, sum / weight)).collect();
        if let Some(nll) = metrics.get("nll") {
            metrics.insert("perplexity", nll.exp());
        }
        Ok(Self { task: task.name(), n_items: items.len(), n_too_long, metrics, items })
    }
}

/// Reads a task's items for a model.
pub fn load(task: Task, path: &Path, model: &Model, params: &TaskParams) -> Result<Items> {
    let drawn = |n: usize| -> Vec<usize> {
        let take = if params.limit == 0 { n } else { params.limit.min(n) };
        let mut drawn: Vec<usize> =
            order(n as u32, params.seed, 0).into_iter().take(take).map(|i| i as usize).collect();
        drawn.sort_unstable();
        drawn
    };
    Ok(match task {
        Task::Mc => {
            let items = read_choices(path)?;
            Items::Choices(drawn(items.len()).into_iter().map(|i| items[i].clone()).collect())
        }
        Task::ExactMatch | Task::EmF1 => {
            let items = if task == Task::EmF1 { read_squad(path)? } else { read_answers(path)? };
            Items::Questions(drawn(items.len()).into_iter().map(|i| items[i].clone()).collect())
        }
        Task::Pairs | Task::Nll | Task::Kl => {
            let rows = read_all(path)?;
            let mut rows = if task == Task::Pairs { rows.into_pairs()? } else { rows.into_completions()? };
            rows.rows = drawn(rows.rows.len()).into_iter().map(|i| rows.rows[i].clone()).collect();
            let options = EncodeOptions { max_length: limit(model, params.max_length), ..encoding(params) };
            Items::Rows(Dataset::encode(&rows, model, model.template()?.as_ref(), &options)?)
        }
    })
}

fn limit(model: &Model, max_length: usize) -> usize {
    max_length.min(model.n_ctx_train())
}

/// Runs a task. `base` is what [`Task::Kl`] compares with. `progress` is told the items done and all of them.
pub fn run(
    task: Task,
    items: &Items,
    subject: &mut Subject,
    base: Option<&mut Subject>,
    params: &TaskParams,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    match (task, items) {
        (Task::Pairs | Task::Nll, Items::Rows(data)) => rows(task, data, subject, params, progress),
        (Task::Kl, Items::Rows(data)) => {
            let base =
                base.ok_or_else(|| Error::new(Kind::Argument, "task kl: give an adapter to compare with the base"))?;
            kl(data, engine(subject)?, engine(base)?, progress)
        }
        (Task::Mc, Items::Choices(items)) => choices(items, subject, params, progress),
        (Task::ExactMatch | Task::EmF1, Items::Questions(items)) => questions(task, items, subject, params, progress),
        _ => Err(Error::new(Kind::Internal, format!("task {} got another task's items", task.name()))),
    }
}

fn engine(subject: &mut Subject) -> Result<&mut Engine> {
    subject.engine.as_mut().ok_or_else(|| Error::new(Kind::Internal, "a task that scores got no engine"))
}

fn item(item: usize, weight: f64, scores: impl IntoIterator<Item = (&'static str, f64)>) -> ItemScore {
    ItemScore { item, weight, scores: scores.into_iter().collect(), answer: None }
}

fn rows(
    task: Task,
    data: &Dataset,
    subject: &mut Subject,
    params: &TaskParams,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let sequences: Vec<&Sequence> = data.samples.iter().flat_map(Sample::sequences).collect();
    let mut told = |done| progress(done, sequences.len());
    let mut sums = summed_log_probs(engine(subject)?, &sequences, params.max_tokens, &mut told)?.into_iter();
    let mut items = Vec::with_capacity(data.samples.len());
    for sample in &data.samples {
        let of: Vec<(f64, f64)> = sample.sequences().zip(sums.by_ref()).map(|(s, sum)| (sum, n_tokens(s))).collect();
        items.push(match of.as_slice() {
            [(chosen, n_chosen), (rejected, n_rejected)] => {
                let (margin, margin_norm) = (chosen - rejected, chosen / n_chosen - rejected / n_rejected);
                let wins = |margin: f64| f64::from(u8::from(margin > 0.0));
                let scores = [
                    ("accuracy", wins(margin)),
                    ("accuracy_norm", wins(margin_norm)),
                    ("margin", margin),
                    ("margin_norm", margin_norm),
                ];
                item(sample.line(), 1.0, scores)
            }
            [(sum, n)] => item(sample.line(), *n, [("nll", -sum / n)]),
            _ => return Err(Error::new(Kind::Internal, "a row without a sequence")),
        });
    }
    TaskReport::of(task, items, data.report.dropped_too_long)
}

fn n_tokens(sequence: &Sequence) -> f64 {
    (sequence.tokens.len() - sequence.prompt_len) as f64
}

fn kl(
    data: &Dataset,
    now: &mut Engine,
    base: &mut Engine,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let mut items = Vec::with_capacity(data.samples.len());
    for (i, sample) in data.samples.iter().enumerate() {
        let Some(sequence) = sample.sequences().next() else { continue };
        let found = divergence::between(now, base, sequence)?;
        let scores = [("kl", found.kl), ("top1_agreement", found.top1_agreement)];
        items.push(item(sample.line(), n_tokens(sequence), scores));
        progress(i + 1, data.samples.len());
    }
    TaskReport::of(Task::Kl, items, data.report.dropped_too_long)
}

/// A question as the encoder takes it.
fn question(text: &str, params: &TaskParams, templated: bool) -> Text {
    match params.apply_template && templated {
        true => Text::Plain(text.to_owned()),
        false => Text::Plain(format!("Q: {text}\nA:")),
    }
}

fn choices(
    items: &[ChoiceItem],
    subject: &mut Subject,
    params: &TaskParams,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let model = subject.model.clone();
    let template = model.template()?;
    let encoder = Encoder::new(&*model, template.as_ref(), &encoding(params))?;
    let max_length = limit(&model, params.max_length);
    let (mut scored, mut n_too_long) = (Vec::new(), 0);
    for (done, it) in items.iter().enumerate() {
        let prompt = question(&it.question, params, template.is_some());
        let encode = |choice: &str| -> Result<Sequence> {
            let plain = !params.apply_template || template.is_none();
            let answer = if plain { format!(" {choice}") } else { choice.to_owned() };
            let mut sequence = encoder.sequence(&prompt, &Text::Plain(answer))?;
            // How an answer ends is no part of the choice.
            let ended = sequence.tokens.last().is_some_and(|&t| model.is_end(t));
            if ended && sequence.tokens.len() > sequence.prompt_len + 1 {
                sequence.tokens.pop();
            }
            Ok(sequence)
        };
        // Choices that both lists share are scored once.
        let mut texts: Vec<&str> = it.mc1.iter().chain(&it.mc2).map(|c| c.0.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        let encoded = texts.iter().map(|t| encode(t)).collect::<Result<Vec<_>>>();
        let encoded = encoded.during(|| format!("item {}", it.place))?;
        if encoded.iter().any(|s| s.tokens.len() > max_length) {
            n_too_long += 1;
            continue;
        }
        let sequences: Vec<&Sequence> = encoded.iter().collect();
        let sums = summed_log_probs(engine(subject)?, &sequences, params.max_tokens, &mut |_| {})?;
        let of = |list: &[(String, bool)]| -> Vec<Choice> {
            let found = list.iter().filter_map(|(text, truthful)| {
                let i = texts.binary_search(&text.as_str()).ok()?;
                let n_tokens = encoded[i].tokens.len() - encoded[i].prompt_len;
                Some(Choice { logp: sums[i], n_tokens, truthful: *truthful })
            });
            found.collect()
        };
        let (first, second) = (of(&it.mc1), of(&it.mc2));
        let scores = [
            ("mc1", mc1(&first, Normalisation::Sum)),
            ("mc1_norm", mc1(&first, Normalisation::PerToken)),
            ("mc2", mc2(&second, Normalisation::Sum)),
            ("mc2_norm", mc2(&second, Normalisation::PerToken)),
        ];
        scored.push(item(it.place, 1.0, scores));
        progress(done + 1, items.len());
    }
    TaskReport::of(Task::Mc, scored, n_too_long)
}

fn questions(
    task: Task,
    items: &[QuestionItem],
    subject: &mut Subject,
    params: &TaskParams,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let model = &subject.model;
    let template = model.template()?;
    let encoder = Encoder::new(&**model, template.as_ref(), &encoding(params))?;
    let n_predict = if params.n_predict == 0 { task.n_predict() } else { params.n_predict };
    let greedy = SamplerParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    let generation = GenerateParams { n_predict, n_threads: subject.n_threads, n_parallel: 1, sampler: greedy };
    let (mut scored, mut n_too_long) = (Vec::new(), 0);
    for (done, it) in items.iter().enumerate() {
        let prompt = encoder.prompt(&question(&it.prompt, params, template.is_some()));
        let prompt = prompt.during(|| format!("item {}", it.place))?;
        if prompt.len() >= limit(model, params.max_length) {
            n_too_long += 1;
            continue;
        }
        let answer = generate::answer(model, &subject.adapters, &prompt, &generation)?;
        let scores = if task == Task::EmF1 { short_answer(&answer, &it.gold) } else { final_answer(&answer, &it.gold) };
        scored.push(ItemScore { answer: Some(answer), ..item(it.place, 1.0, scores) });
        progress(done + 1, items.len());
    }
    TaskReport::of(task, scored, n_too_long)
}

/// How a task's rows become tokens.
fn encoding(params: &TaskParams) -> EncodeOptions {
    EncodeOptions { apply_template: params.apply_template, ..EncodeOptions::default() }
}

/// SQuAD's scores of an answer's first line.
fn short_answer(answer: &str, gold: &[String]) -> [(&'static str, f64); 2] {
    let line = answer.trim().lines().next().unwrap_or_default();
    [("em", squad::exact_match(line, gold)), ("f1", squad::f1(line, gold))]
}

/// Where the gold answer has a number behind `####` or is one: `exact_match` by the answer's number behind `####`, or else
/// its last; `strict_match` only by the one behind `####`. Elsewhere both compare normalised texts.
fn final_answer(answer: &str, gold: &[String]) -> [(&'static str, f64); 2] {
    let gold_number = |g: &String| number::marked(g).or_else(|| g.trim().parse().ok());
    let equal = |a: Option<f64>, g: f64| a.is_some_and(|a| (a - g).abs() <= 1e-9 * g.abs().max(1.0));
    let hit = |wins: bool| f64::from(u8::from(wins));
    let numbers: Vec<f64> = gold.iter().filter_map(gold_number).collect();
    if numbers.is_empty() {
        let same = squad::exact_match(answer, gold);
        return [("exact_match", same), ("strict_match", same)];
    }
    let (loose, strict) = (number::last(answer), number::marked(answer));
    let any = |of: Option<f64>| hit(numbers.iter().any(|&g| equal(of, g)));
    [("exact_match", any(loose)), ("strict_match", any(strict))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_number_or_by_text() {
        let gold = |t: &str| vec![t.to_owned()];
        let values = |s: [(&'static str, f64); 2]| s.map(|(_, v)| v);
        assert_eq!(values(final_answer("so 18", &gold("9*2\n#### 18"))), [1.0, 0.0]);
        assert_eq!(values(final_answer("#### 18.00", &gold("#### 18"))), [1.0, 1.0]);
        assert_eq!(values(final_answer("20", &gold("18"))), [0.0, 0.0]);
        assert_eq!(values(final_answer("The Paris.", &gold("paris"))), [1.0, 1.0]);
        assert_eq!(values(short_answer("\n308 points\nand more", &gold("308"))), [0.0, 2.0 / 3.0]);
    }

    #[test]
    fn means_are_weighted_and_nothing_is_an_error() {
        let items = vec![item(1, 3.0, [("nll", 1.0)]), item(2, 1.0, [("nll", 3.0)])];
        let report = TaskReport::of(Task::Nll, items, 0).unwrap();
        assert_eq!((report.metrics["nll"], report.metrics["perplexity"]), (1.5, 1.5f64.exp()));
        assert_eq!(TaskReport::of(Task::Mc, Vec::new(), 4).unwrap_err().kind(), Kind::Data);
        assert_eq!(Task::from_name("EM_F1").unwrap(), Task::EmF1);
        assert!(Task::from_name("bleu").unwrap_err().to_string().contains("em-f1"));
    }
}
