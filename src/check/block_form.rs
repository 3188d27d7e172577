//! Part one of the self-check where bits cannot be equal: weights on a device, or in a layout of the host's own. Each block
//! starts from what the runtime's own decode left before it, so that no difference is carried from block to block.

use super::{probe_tokens, Blocks};
use crate::data::Sequence;
use crate::engine::{Engine, Form, Layout};
use crate::error::{Error, Kind, Result};
use crate::runtime::{observe, Model};
use crate::trace::Trace;
use std::sync::Arc;

/// Tokens of the probe; more where a window has to be passed.
const N_TOKENS: usize = 50;

/// Compares every block of the program in the runtime's form, and its logits, with a decode.
pub(super) fn compare(model: &Arc<Model>, trace: &Arc<Trace>, n_threads: usize) -> Result<Blocks> {
    let n = if model.n_swa() > 0 { (model.n_swa() + 9).min(1100) } else { N_TOKENS };
    let tokens = probe_tokens(model, n, 4);
    let layout = Layout::bare(&tokens);
    let mut engine = Engine::with_form(model, trace, Vec::new(), n_threads, Form::Runtime)?;
    let last = engine.block_results();
    let names = last.iter().map(|&id| trace.program.get(id).name.clone()).collect();
    let observed = observe(model, &tokens, names, n_threads)?;
    let mut expected = crate::engine::BlockValues::new();
    for &id in &last {
        let name = &trace.program.get(id).name;
        let values = observed.values.get(name).ok_or_else(|| {
            let message = format!("{}: llama.cpp did not show the value {name}", model.path().display());
            Error::new(Kind::Check, message)
        })?;
        if crate::ir::n_elements(trace.program.get(id).ne).map(|e| e.at(n as i64)) != Some(values.len() as i64) {
            let message = format!("{}: {name} has another shape than the trace says", model.path().display());
            return Err(Error::new(Kind::Check, message));
        }
        expected.insert(id, values.clone());
    }
    let found = engine.block_values(&layout, Some(&expected))?;
    let mut worst = Blocks { max_rel_diff: 0.0, bound: bound(trace), worst_block: "none".into() };
    for (id, reference) in &expected {
        let values = found.get(id).ok_or_else(|| Error::new(Kind::Internal, "a block's result is missing"))?;
        worst.note(super::training_form::relative(&trace.program, *id, reference, values, &layout), || {
            trace.program.describe(*id)
        });
    }
    let sequence = Sequence::new(tokens, 1);
    let n_vocab = model.n_vocab();
    let (mut difference, mut size) = (0.0f64, 0.0f64);
    engine.visit_kept_logits(&[&sequence], &mut |_, place, logits| {
        let reference = &observed.logits[(place - 1) * n_vocab..place * n_vocab];
        for (x, y) in reference.iter().zip(logits) {
            difference += f64::from(x - y).powi(2);
            size += f64::from(*x).powi(2);
        }
    })?;
    worst.note((difference / size.max(f64::MIN_POSITIVE)).sqrt() as f32, || "the logits".into());
    Ok(worst)
}

/// What a block may differ by. Both sides run the same ops on the same backends; their shapes differ, because a decode keeps
/// its keys in a padded cache, and so does the order of sums. Where weights are quantised some backends round activations
/// to 8 bits, which turns a last bit into a step.
fn bound(trace: &Trace) -> f32 {
    if trace.program.weights.iter().any(|w| w.ty.is_quantized()) {
        1e-2
    } else {
        2e-3
    }
}
