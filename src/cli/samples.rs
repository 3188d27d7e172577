//! A few prompts, answered by the base and with the adapter.

use crate::data::{EncodeOptions, Encoder, Example, Message, Rows, Text};
use crate::error::Result;
use crate::generate::{self, GenerateParams};
use crate::report::SampleAnswer;
use crate::runtime::{Adapter, Model, SamplerParams};
use std::path::Path;
use std::sync::Arc;

/// Tokens of an answer at most.
const N_PREDICT: usize = 64;

/// The first `n` different prompts of some rows.
pub(super) fn first_prompts(rows: &Rows, n: usize) -> Vec<Text> {
    let mut prompts: Vec<Text> = Vec::new();
    for row in &rows.rows {
        let (Example::Completion { prompt, .. } | Example::Pair { prompt, .. } | Example::Labelled { prompt, .. }) =
            &row.example
        else {
            continue;
        };
        if prompts.len() == n {
            break;
        }
        if !prompts.contains(prompt) {
            prompts.push(prompt.clone());
        }
    }
    prompts
}

/// Answers them, the likeliest token each time. Prompts that leave no room in the model's context are left out.
pub(super) fn samples(
    model: &Arc<Model>,
    adapter: &Path,
    prompts: &[Text],
    n_threads: usize,
) -> Result<Vec<SampleAnswer>> {
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let template = model.template()?;
    let encoder = Encoder::new(&**model, template.as_ref(), &EncodeOptions::default())?;
    let adapters = [(Adapter::open(model, adapter)?, 1.0)];
    let greedy = SamplerParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    let params = GenerateParams { n_predict: N_PREDICT, n_threads, n_parallel: 1, sampler: greedy };
    let mut answers = Vec::new();
    for prompt in prompts {
        let tokens = encoder.prompt(prompt)?;
        if tokens.len() < model.n_ctx_train() {
            let before = generate::answer(model, &[], &tokens, &params)?;
            let after = generate::answer(model, &adapters, &tokens, &params)?;
            answers.push(SampleAnswer { prompt: shown(prompt), before, after });
        }
    }
    Ok(answers)
}

/// A prompt as a person reads it: messages with their roles where there are several.
fn shown(prompt: &Text) -> String {
    match prompt {
        Text::Plain(text) => text.clone(),
        Text::Messages(messages) => match messages.as_slice() {
            [only] => only.content.clone(),
            all => all
                .iter()
                .map(|Message { role, content }| format!("{role}: {content}"))
                .collect::<Vec<_>>()
                .join("\n\n"),
        },
    }
}
