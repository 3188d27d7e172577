//! Text from llama.cpp itself: its decode, its samplers, adapters applied as a server would; several sequences at once.

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
    /// Sequences that are decoded together, at least 1.
    pub n_parallel: usize,
    /// How tokens are drawn. Sequence `i` of a call draws with the seed plus `i`.
    pub sampler: SamplerParams,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its text, lossy where it was cut inside a character.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<i32>,
    /// Whether the model ended it; otherwise it was cut at `n_predict`, or where the model's context ends.
    pub ended: bool,
}

/// Answers prompts of token ids, in their order. An answer ends at an end-of-generation token, and where the model's context
/// does: learned positions end there, and the runtime ends the process behind them.
///
/// Prompts are taken in groups of `n_parallel` in their order, so that a group's answers depend on nothing but its own
/// prompts; in which group a prompt is may change the last bits of its logits, as with any batched decoding.
///
/// # Errors
/// [`Kind::Argument`] for a prompt without tokens, or one that fills the model's context.
pub fn generate(
    model: &Arc<Model>,
    adapters: &[(Arc<Adapter>, f32)],
    prompts: &[Vec<i32>],
    params: &GenerateParams,
) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(prompts.len());
    for (i, group) in prompts.chunks(params.n_parallel.max(1)).enumerate() {
        let first = i * params.n_parallel.max(1);
        answers.extend(Group::new(model, adapters, group, first, params)?.run(params.n_predict)?);
    }
    Ok(answers)
}

/// Answers one prompt of token ids: the text alone.
///
/// # Errors
/// As [`generate`].
pub fn answer(
    model: &Arc<Model>,
    adapters: &[(Arc<Adapter>, f32)],
    prompt: &[i32],
    params: &GenerateParams,
) -> Result<String> {
    let answers = generate(model, adapters, &[prompt.to_vec()], params)?;
    Ok(answers.into_iter().map(|answer| answer.text).collect())
}

/// Sequences that are decoded together.
struct Group<'a> {
    model: &'a Model,
    context: Context,
    prompts: &'a [Vec<i32>],
    /// One sampler per sequence: draws of one do not depend on when another one ends.
    samplers: Vec<Sampler>,
    /// Tokens that a sequence may still add.
    room: Vec<usize>,
    answers: Vec<Answer>,
}

impl<'a> Group<'a> {
    fn new(
        model: &'a Arc<Model>,
        adapters: &[(Arc<Adapter>, f32)],
        prompts: &'a [Vec<i32>],
        first: usize,
        params: &GenerateParams,
    ) -> Result<Self> {
        let n_ctx = model.n_ctx_train();
        let mut room = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            if prompt.is_empty() {
                return Err(Error::new(Kind::Argument, "the prompt has no tokens"));
            }
            let left = n_ctx.checked_sub(prompt.len()).filter(|&n| n > 0).ok_or_else(|| {
                let message = format!("the prompt has {} tokens, but the model's context is {n_ctx}", prompt.len());
                Error::new(Kind::Argument, message)
            })?;
            room.push(params.n_predict.min(left));
        }
        let cells = prompts.iter().zip(&room).map(|(prompt, room)| prompt.len() + room).sum();
        let mut context = Context::new(model, cells, prompts.len(), params.n_threads)?;
        context.set_adapters(adapters)?;
        let sampler = |i: usize| {
            let seed = params.sampler.seed.wrapping_add((first + i) as u32);
            Sampler::new(model, SamplerParams { seed, ..params.sampler })
        };
        let samplers = (0..prompts.len()).map(sampler).collect::<Result<_>>()?;
        let empty = Answer { text: String::new(), tokens: Vec::new(), ended: false };
        let answers = vec![empty; prompts.len()];
        Ok(Self { model, context, prompts, samplers, room, answers })
    }

    fn run(mut self, n_predict: usize) -> Result<Vec<Answer>> {
        // Each prompt alone: its logits, and so its answer, then depend less on its neighbours.
        let mut active = Vec::new();
        for (sequence, prompt) in self.prompts.iter().enumerate() {
            let batch: Vec<_> = prompt.iter().enumerate().map(|(place, &token)| (token, place, sequence)).collect();
            let last = batch.len() - 1;
            self.context.decode(&batch, |i| i == last)?;
            if self.draw(sequence, last)? {
                active.push(sequence);
            }
        }
        for _ in 1..n_predict {
            if active.is_empty() {
                break;
            }
            let next = |&sequence: &usize| {
                let (prompt, tokens) = (&self.prompts[sequence], &self.answers[sequence].tokens);
                tokens.last().map(|&token| (token, prompt.len() + tokens.len() - 1, sequence))
            };
            let batch: Vec<_> = active.iter().filter_map(next).collect();
            self.context.decode(&batch, |_| true)?;
            let mut still = Vec::with_capacity(active.len());
            for (i, &sequence) in active.iter().enumerate() {
                if self.draw(sequence, i)? {
                    still.push(sequence);
                }
            }
            active = still;
        }
        for answer in &mut self.answers {
            let bytes: Vec<u8> = answer.tokens.iter().flat_map(|&token| self.model.piece(token, false)).collect();
            answer.text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Ok(self.answers)
    }

    /// Draws a sequence's next token from the `i`-th logits of the last batch; `false` where the sequence ends with it.
    fn draw(&mut self, sequence: usize, i: usize) -> Result<bool> {
        if self.room[sequence] == 0 {
            return Ok(false);
        }
        let token = self.context.sample(&mut self.samplers[sequence], i)?;
        if self.model.is_end(token) {
            self.answers[sequence].ended = true;
            return Ok(false);
        }
        self.answers[sequence].tokens.push(token);
        Ok(self.answers[sequence].tokens.len() < self.room[sequence])
    }
}

/// Tokens of a text that may hold a template's markup; exactly one BOS where the vocabulary wants one.
///
/// # Errors
/// Where the runtime cannot tokenise the text.
pub fn prompt_tokens(model: &Model, text: &str) -> Result<Vec<i32>> {
    let mut tokens = model.tokenize(text, true)?;
    if let Some(bos) = model.bos().filter(|_| model.adds_bos()) {
        if tokens.first() != Some(&bos) {
            tokens.insert(0, bos);
        }
    }
    Ok(tokens)
}
