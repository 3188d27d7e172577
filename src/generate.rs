//! Text from llama.cpp itself: its decode, its samplers, the adapter applied as a server would.

use crate::data::Tokenize;
use crate::error::{Error, Kind, Result};
use crate::runtime::{Adapter, Context, Model, Sampler, SamplerParams};
use std::sync::Arc;

/// How text is generated.
#[derive(Clone, Copy, Debug)]
pub struct GenerateParams {
    /// Tokens per answer at most.
    pub n_predict: usize,
    /// Threads.
    pub n_threads: usize,
    /// How tokens are drawn.
    pub sampler: SamplerParams,
}

/// Answers one prompt of token ids; stops at an end-of-generation token, and where the model's context ends: learned
/// positions end there, and the runtime ends the process behind them.
pub fn generate(
    model: &Arc<Model>,
    adapters: &[(Arc<Adapter>, f32)],
    prompt: &[i32],
    params: &GenerateParams,
) -> Result<String> {
    if prompt.is_empty() {
        return Err(Error::new(Kind::Argument, "the prompt has no tokens"));
    }
    let n_ctx = model.n_ctx_train();
    let Some(room) = n_ctx.checked_sub(prompt.len()).filter(|&n| n > 0) else {
        let message = format!("the prompt has {} tokens, but the model's context is {n_ctx}", prompt.len());
        return Err(Error::new(Kind::Argument, message));
    };
    let n_predict = params.n_predict.min(room);
    let mut context = Context::new(model, prompt.len() + n_predict, 1, params.n_threads)?;
    context.set_adapters(adapters)?;
    let mut sampler = Sampler::new(model, params.sampler)?;
    let mut batch: Vec<_> = prompt.iter().enumerate().map(|(i, &t)| (t, i, 0)).collect();
    let mut bytes = Vec::new();
    for step in 0..n_predict {
        let last = batch.len() - 1;
        context.decode(&batch, |i| i == last)?;
        let token = context.sample(&mut sampler, last)?;
        if model.is_end(token) {
            break;
        }
        bytes.extend(model.piece(token, false));
        batch = vec![(token, prompt.len() + step, 0)];
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Tokens of a prompt text that may hold template markup; exactly one BOS where the vocabulary wants one.
pub fn prompt_tokens(model: &Model, text: &str) -> Result<Vec<i32>> {
    let mut tokens = model.tokenize(text, true)?;
    if let Some(bos) = model.bos().filter(|_| model.adds_bos()) {
        if tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
    }
    Ok(tokens)
}
