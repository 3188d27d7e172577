//! Part one of the self-check: the program in the runtime's own form against `llama_decode`.

use super::{probe_tokens, RuntimeForm};
use crate::data::Sequence;
use crate::engine::{input_bytes, Engine, Form, Inputs, Layout, Lowering, Scope, SEQUENCE_ALIGNMENT};
use crate::error::{Error, Kind, Result};
use crate::ir::ValueId;
use crate::runtime::{Backend, Context, GraphBuilder, Memory, Model};
use crate::trace::Trace;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A token count that no trace used.
const T_OTHER: usize = 21;
/// Logits compared past the sliding window: all of them would take gigabytes where window and vocabulary are large.
const N_PAST_WINDOW: usize = 16;
/// Pairs of sequences that are packed.
const T_PACKED: [[usize; 2]; 2] = [[64, 128], [37, 91]];
/// Positions that the probes need.
const T_MIN: usize = 128;

/// Logits \[V, T\] of `llama_decode` for one sequence.
fn decode(context: &mut Context, tokens: &[i32]) -> Result<Vec<f32>> {
    context.clear();
    let batch: Vec<_> = tokens.iter().enumerate().map(|(i, &t)| (t, i, 0)).collect();
    context.decode(&batch, |_| true)?;
    let mut logits = Vec::new();
    for i in 0..tokens.len() {
        logits.extend_from_slice(context.logits(i)?);
    }
    Ok(logits)
}

/// The logits of a packed batch, computed from the program in one graph.
fn own(model: &Arc<Model>, trace: &Trace, layout: &Layout, n_threads: usize) -> Result<Vec<f32>> {
    let (runtime, program, n_tokens) = (model.runtime(), &trace.program, layout.n_tokens());
    let mut backend = Backend::new(runtime, n_threads)?;
    let bytes = model.n_vocab() * n_tokens * 4;
    let capacity = input_bytes(program, Form::Runtime, layout) + bytes + 64;
    let mut memory = Memory::new(runtime, capacity)?;
    let inputs = Inputs::place(program, Form::Runtime, &Arc::new(layout.clone()), &mut memory)?;
    let region = memory.take(bytes)?;
    let given = HashMap::<ValueId, _>::new();
    let (weights, names) = (trace.weights.as_slice(), runtime.names());
    let scope =
        Scope { program, weights, names, form: Form::Runtime, inputs: &inputs, given: &given, n_tokens, profile: None };
    let builder = GraphBuilder::new(&mut backend, &mut memory, program.values.len() * 2 + 64)?;
    let mut lowering = Lowering::new(scope, builder);
    lowering.output(trace.logits, region)?;
    lowering.finish().compute()?;
    Ok(memory.floats(region).to_vec())
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    // NaN compares as different from everything.
    a.iter().zip(b).map(|(x, y)| if x == y { 0.0 } else { (x - y).abs().max(f32::MIN_POSITIVE) }).fold(
        0.0,
        |m: f32, d| {
            if d.is_nan() {
                f32::INFINITY
            } else {
                m.max(d)
            }
        },
    )
}

/// Compares at a token count that was not traced, past the sliding window, and for packed sequences.
pub(super) fn compare(model: &Arc<Model>, trace: &Arc<Trace>, n_threads: usize) -> Result<RuntimeForm> {
    if model.n_ctx_train() < T_MIN {
        let message = format!(
            "{}: a context of {} tokens, the self-check needs {T_MIN}",
            model.path().display(),
            model.n_ctx_train()
        );
        return Err(Error::new(Kind::Unsupported, message));
    }
    let mut probes = BTreeMap::new();
    let tokens = probe_tokens(model, T_OTHER, 1);
    let expected = decode(&mut Context::new(model, T_OTHER, 1, n_threads)?, &tokens)?;
    let found = own(model, trace, &Layout::bare(&tokens), n_threads)?;
    probes.insert(format!("{T_OTHER} tokens"), difference(&expected, &found));
    if model.n_swa() > 0 {
        let n = (model.n_swa() + N_PAST_WINDOW).next_multiple_of(SEQUENCE_ALIGNMENT);
        probes.insert(format!("{n} tokens, past the window"), past_window(model, trace, n, n_threads)?);
    }
    for pair in T_PACKED {
        let sequences = [probe_tokens(model, pair[0], 2), probe_tokens(model, pair[1], 3)];
        let found = packed(model, trace, &sequences, n_threads)?;
        probes.insert(format!("{} and {} tokens packed", pair[0], pair[1]), found);
    }
    let max_abs_diff = probes.values().copied().fold(0.0, f32::max);
    Ok(RuntimeForm { max_abs_diff, probes, blocks: None })
}

/// The last tokens of a sequence that is longer than the window.
fn past_window(model: &Arc<Model>, trace: &Arc<Trace>, n: usize, n_threads: usize) -> Result<f32> {
    let tokens = probe_tokens(model, n, 1);
    let first = n - N_PAST_WINDOW;
    let mut context = Context::new(model, n, 1, n_threads)?;
    let batch: Vec<_> = tokens.iter().enumerate().map(|(i, &t)| (t, i, 0)).collect();
    // The logits that predict a token are those of the place before it.
    context.decode(&batch, |i| (first - 1..n - 1).contains(&i))?;
    let mut engine = Engine::with_form(model, trace, Vec::new(), n_threads, Form::Runtime)?;
    let (mut worst, mut fault) = (0.0f32, None);
    engine.visit_logits(&[&Sequence::new(tokens, first)], &mut |_, place, logits| match context.logits(place - 1) {
        Ok(expected) => worst = worst.max(difference(expected, logits)),
        Err(e) => fault = Some(e),
    })?;
    fault.map_or(Ok(worst), Err)
}

/// Packed sequences against a decode of each, padded as the packing pads: a decode's own bits depend on its length.
fn packed(model: &Arc<Model>, trace: &Trace, sequences: &[Vec<i32>; 2], n_threads: usize) -> Result<f32> {
    let layout = Layout::new(sequences.iter().map(Vec::as_slice))?;
    let found = own(model, trace, &layout, n_threads)?;
    let mut context = Context::new(model, layout.n_tokens(), 1, n_threads)?;
    let n_vocab = model.n_vocab();
    let mut worst: f32 = 0.0;
    for span in layout.spans() {
        let end = span.start + span.len.next_multiple_of(SEQUENCE_ALIGNMENT);
        let expected = decode(&mut context, &layout.tokens()[span.start..end])?;
        let n = span.len * n_vocab;
        worst = worst.max(difference(&expected[..n], &found[span.start * n_vocab..][..n]));
    }
    Ok(worst)
}
