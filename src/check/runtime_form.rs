//! Part one of the self-check: the program in the runtime's own form against `llama_decode`.

use super::{probe_tokens, RuntimeForm};
use crate::engine::{input_bytes, Form, Inputs, Layout, Lowering, Scope};
use crate::error::{Error, Kind, Result};
use crate::ir::ValueId;
use crate::runtime::{Backend, Context, GraphBuilder, Memory, Model};
use crate::trace::Trace;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A token count that no trace used.
const T_OTHER: usize = 21;
/// Pairs of sequences that are packed.
const T_PACKED: [[usize; 2]; 2] = [[64, 128], [37, 91]];
/// Positions that the probes need.
const T_MIN: usize = 128;
/// Tokens beyond the sliding window.
const T_PAST_WINDOW: usize = 24;

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
    let capacity = input_bytes(program, Form::Runtime, n_tokens) + bytes + 64;
    let mut memory = Memory::new(runtime, capacity)?;
    let inputs = Inputs::place(program, Form::Runtime, &Arc::new(layout.clone()), &mut memory)?;
    let region = memory.take(bytes)?;
    let given = HashMap::<ValueId, _>::new();
    let (weights, names) = (trace.weights.as_slice(), runtime.names());
    let scope = Scope { program, weights, names, form: Form::Runtime, inputs: &inputs, given: &given, n_tokens };
    let builder = GraphBuilder::new(&mut backend, &mut memory, program.values.len() * 2 + 64)?;
    let mut lowering = Lowering::new(scope, builder);
    lowering.output(trace.logits, region)?;
    lowering.finish().compute()?;
    Ok(memory.floats(region).to_vec())
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    // NaN compares as different from everything.
    a.iter().zip(b).map(|(x, y)| if x == y { 0.0 } else { (x - y).abs().max(f32::MIN_POSITIVE) }).fold(0.0, |m: f32, d| {
        if d.is_nan() {
            f32::INFINITY
        } else {
            m.max(d)
        }
    })
}

/// Compares at a token count that was not traced, past the sliding window, and for packed sequences.
pub(super) fn compare(model: &Arc<Model>, trace: &Trace, n_threads: usize) -> Result<RuntimeForm> {
    if model.n_ctx_train() < T_MIN {
        let message = format!("{}: a context of {} tokens, the self-check needs {T_MIN}", model.path().display(), model.n_ctx_train());
        return Err(Error::new(Kind::Unsupported, message));
    }
    let mut probes = BTreeMap::new();
    let mut lengths = vec![T_OTHER];
    if model.n_swa() > 0 {
        lengths.push(model.n_swa() + T_PAST_WINDOW);
    }
    for n in lengths {
        let tokens = probe_tokens(model, n, 1);
        let mut context = Context::new(model, n, 1, n_threads)?;
        let expected = decode(&mut context, &tokens)?;
        drop(context);
        let found = own(model, trace, &Layout::bare(&tokens), n_threads)?;
        probes.insert(format!("{n} tokens"), difference(&expected, &found));
    }
    for pair in T_PACKED {
        let sequences = [probe_tokens(model, pair[0], 2), probe_tokens(model, pair[1], 3)];
        let found = packed(model, trace, &sequences, n_threads)?;
        probes.insert(format!("{} and {} tokens packed", pair[0], pair[1]), found);
    }
    let max_abs_diff = probes.values().copied().fold(0.0, f32::max);
    Ok(RuntimeForm { max_abs_diff, probes })
}

/// Packed sequences against a decode of each, padded as the packing pads: a decode's own bits depend on its length.
fn packed(model: &Arc<Model>, trace: &Trace, sequences: &[Vec<i32>; 2], n_threads: usize) -> Result<f32> {
    let layout = Layout::new(sequences.iter().map(Vec::as_slice))?;
    let found = own(model, trace, &layout, n_threads)?;
    let mut context = Context::new(model, layout.n_tokens(), 1, n_threads)?;
    let n_vocab = model.n_vocab();
    let mut worst: f32 = 0.0;
    for span in layout.spans() {
        let end = span.start + span.len.next_multiple_of(crate::engine::SEQUENCE_ALIGNMENT);
        let expected = decode(&mut context, &layout.tokens()[span.start..end])?;
        let n = span.len * n_vocab;
        worst = worst.max(difference(&expected[..n], &found[span.start * n_vocab..][..n]));
    }
    Ok(worst)
}
