//! What the models say themselves, before and after: how likely they find a text, how far two of them are apart on it, and
//! what they answer. All of it by llama.cpp's own decode.

use crate::data::Message;
use crate::error::{Error, Kind, Result};
use crate::generate::{answer, prompt_tokens, GenerateParams};
use crate::gguf::{check_fits, validate_adapter, validate_model, File};
use crate::loss::logprob::{divergence, log_sum_exp};
use crate::runtime::{Adapter, Context, Model, Runtime, SamplerParams};
use serde_json::{json, Value};
use std::path::Path;
use std::sync::Arc;

/// The text whose likelihood is measured: prose, a fact, code, a question.
pub const TEXT: &str = include_str!("evidence.txt");
/// What the models are asked.
pub const PROMPTS: [&str; 3] = [
    "What is the capital of France?",
    "Give three tips for a good night's sleep.",
    "Write one sentence about the sea.",
];
/// Tokens of the text at most.
const TOKENS_MAX: usize = 256;
/// Tokens decoded at once: what they take is their number times the vocabulary.
const CHUNK: usize = 32;
/// Tokens of an answer at most.
const ANSWER_TOKENS: usize = 32;

/// A model as it is measured: its file, with adapters and their scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Path,
    /// Adapters that the runtime applies to it.
    pub adapters: Vec<(&'a Path, f32)>,
}

impl Subject<'_> {
    /// File names, as people tell the models apart.
    pub fn name(&self) -> String {
        let short = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut name = short(self.model);
        for (adapter, scale) in &self.adapters {
            name += &format!(" + {}", short(adapter));
            if *scale != 1.0 {
                name += &format!(" × {scale}");
            }
        }
        name
    }
}

/// What one model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// Tokens of the text.
    pub n_tokens: usize,
    /// Mean negative log-likelihood of the text per token, in nats.
    pub nll: f64,
    /// Mean Kullback-Leibler divergence of the next token's distribution from the reference's to this model's, in nats.
    pub kl: Option<f64>,
    /// Answers to [`PROMPTS`], the likeliest token each time.
    pub answers: Vec<String>,
}

/// What became of each model; the reason where the runtime could not measure it.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Name and findings of every model, in the order in which they were given.
    pub models: Vec<(String, std::result::Result<Findings, String>)>,
    /// Which of them the divergence is counted from.
    pub reference: Option<usize>,
}

impl Evidence {
    /// Measures one model after the other. The divergence of those behind `reference` is counted from it; it does not hold
    /// for another vocabulary and is left out there.
    pub fn measure(runtime: &Arc<Runtime>, subjects: &[Subject], reference: Option<usize>, n_threads: usize) -> Self {
        let mut from: Option<Reading> = None;
        let mut models = Vec::with_capacity(subjects.len());
        for (i, subject) in subjects.iter().enumerate() {
            let found = Reading::new(runtime, subject, n_threads).and_then(|mut reading| {
                let findings = reading.findings(from.as_mut())?;
                if reference == Some(i) {
                    from = Some(reading);
                }
                Ok(findings)
            });
            models.push((subject.name(), found.map_err(|e| e.to_string())));
        }
        Self { models, reference }
    }

    /// Asks every model that went in, the first also with the adapters that were folded, and what came out. The divergence is
    /// counted from the model with its adapters.
    pub fn of_merge(
        runtime: &Arc<Runtime>,
        models: &[&Path],
        adapters: &[(&Path, f32)],
        output: &Path,
        n_threads: usize,
    ) -> Self {
        let mut subjects: Vec<Subject> = models.iter().map(|&model| Subject { model, adapters: Vec::new() }).collect();
        let mut reference = None;
        if let (Some(&model), false) = (models.first(), adapters.is_empty()) {
            reference = Some(subjects.len());
            subjects.push(Subject { model, adapters: adapters.to_vec() });
        }
        subjects.push(Subject { model: output, adapters: Vec::new() });
        Self::measure(runtime, &subjects, reference, n_threads)
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let models: Vec<Value> = self
            .models
            .iter()
            .map(|(name, found)| match found {
                Ok(f) => json!({
                    "model": name, "n_tokens": f.n_tokens, "nll": f.nll, "kl": f.kl, "answers": f.answers,
                }),
                Err(reason) => json!({ "model": name, "error": reason }),
            })
            .collect();
        let reference = self.reference.and_then(|i| self.models.get(i)).map(|(name, _)| name);
        json!({ "prompts": PROMPTS, "kl_from": reference, "models": models })
    }
}

/// A model that reads the text.
struct Reading {
    model: Arc<Model>,
    adapters: Vec<(Arc<Adapter>, f32)>,
    tokens: Vec<i32>,
    n_threads: usize,
    context: Context,
}

impl Reading {
    fn new(runtime: &Arc<Runtime>, subject: &Subject, n_threads: usize) -> Result<Self> {
        let file = File::open(subject.model)?;
        validate_model(&file)?;
        let model = Model::open(runtime, subject.model)?;
        let mut adapters = Vec::with_capacity(subject.adapters.len());
        for &(path, scale) in &subject.adapters {
            check_fits(&validate_adapter(&File::open(path)?)?, &file)?;
            adapters.push((Adapter::open(&model, path)?, scale));
        }
        if model.has_encoder() {
            return Err(Error::new(Kind::Unsupported, format!("{}: it has an encoder", subject.model.display())));
        }
        let mut tokens = prompt_tokens(&model, TEXT)?;
        tokens.truncate(TOKENS_MAX.min(model.n_ctx_train()));
        if tokens.len() < 2 {
            let message = format!("{}: its context is shorter than two tokens", subject.model.display());
            return Err(Error::new(Kind::Unsupported, message));
        }
        let mut context = Context::new(&model, tokens.len(), 1, n_threads)?;
        context.set_adapters(&adapters)?;
        Ok(Self { model, adapters, tokens, n_threads, context })
    }

    fn findings(&mut self, mut reference: Option<&mut Self>) -> Result<Findings> {
        if reference.as_ref().is_some_and(|r| r.tokens != self.tokens || r.model.n_vocab() != self.model.n_vocab()) {
            reference = None;
        }
        self.context.clear();
        if let Some(reference) = reference.as_mut() {
            reference.context.clear();
        }
        let n = self.tokens.len();
        let (mut nll, mut kl) = (0.0, 0.0);
        for first in (0..n).step_by(CHUNK) {
            let end = n.min(first + CHUNK);
            self.decode(first, end)?;
            if let Some(reference) = reference.as_mut() {
                reference.decode(first, end)?;
            }
            for i in first..end {
                let logits = self.context.logits(i - first)?;
                let z = finite(log_sum_exp(logits))?;
                if let Some(&next) = self.tokens.get(i + 1) {
                    nll += z - f64::from(logits[next as usize]);
                }
                if let Some(reference) = reference.as_ref() {
                    kl += finite(divergence(reference.context.logits(i - first)?, logits))?;
                }
            }
        }
        let answers = PROMPTS.iter().map(|prompt| self.answer(prompt)).collect::<Result<_>>()?;
        let kl = reference.is_some().then_some(kl / n as f64);
        Ok(Findings { n_tokens: n, nll: nll / (n - 1) as f64, kl, answers })
    }

    fn decode(&mut self, first: usize, end: usize) -> Result<()> {
        let batch: Vec<_> = (first..end).map(|i| (self.tokens[i], i, 0)).collect();
        self.context.decode(&batch, |_| true)
    }

    fn answer(&self, prompt: &str) -> Result<String> {
        let text = match self.model.template()? {
            Some(template) => template.render(&[Message::new("user", prompt)], true)?,
            None => prompt.to_owned(),
        };
        let sampler = SamplerParams { temperature: 0.0, top_k: 1, top_p: 1.0, min_p: 0.0, seed: 0 };
        let params = GenerateParams { n_predict: ANSWER_TOKENS, n_threads: self.n_threads, n_parallel: 1, sampler };
        answer(&self.model, &self.adapters, &prompt_tokens(&self.model, &text)?, &params)
    }
}

/// A measured number that has to be one.
fn finite(number: f64) -> Result<f64> {
    if number.is_finite() {
        Ok(number)
    } else {
        Err(Error::new(Kind::Numeric, "its logits are no finite numbers"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_with_their_adapters_and_numbers_are_numbers() {
        assert!(finite(log_sum_exp(&[f32::NAN, 1.0])).is_err() && finite(0.5).is_ok());
        let subject = Subject { model: Path::new("x/a.gguf"), adapters: vec![(Path::new("b.gguf"), 0.5)] };
        assert_eq!(subject.name(), "a.gguf + b.gguf × 0.5");
    }
}
