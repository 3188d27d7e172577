//! Part two of the self-check: each block of the training form, from the runtime form's values.

use super::{probe_tokens, Blocks};
use crate::engine::{Engine, Form, Layout};
use crate::error::Result;
use crate::ir::ValueId;
use crate::runtime::Model;
use crate::trace::Trace;
use std::sync::Arc;

/// Compares both forms on two packed sequences and, where there is a window, past it.
pub(super) fn compare(model: &Arc<Model>, trace: &Arc<Trace>, n_threads: usize, form: Form) -> Result<Blocks> {
    let mut runtime = Engine::with_form(model, trace, Vec::new(), n_threads, Form::Runtime)?;
    let mut training = Engine::with_form(model, trace, Vec::new(), n_threads, form)?;
    let first = if model.n_swa() > 0 { (model.n_swa() + 9).min(1100) } else { 50 };
    let sequences = [probe_tokens(model, first, 4), probe_tokens(model, 70, 5)];
    let layout = Layout::new(sequences.iter().map(Vec::as_slice))?;
    let expected = runtime.block_values(&layout, None)?;
    let found = training.block_values(&layout, Some(&expected))?;
    let mut worst = Blocks { max_rel_diff: 0.0, bound: bound(trace), worst_block: "none".into() };
    for (id, values) in &found {
        let Some(reference) = expected.get(id) else { continue };
        let difference = relative(&trace.program, *id, reference, values, &layout);
        worst.note(difference, || trace.program.describe(*id));
    }
    Ok(worst)
}

/// What a block may differ by: the runtime rounds keys and values to 16 bits, and activations to 8 bits where weights are
/// quantised.
fn bound(trace: &Trace) -> f32 {
    if trace.program.weights.iter().any(|w| w.ty.is_quantized()) {
        0.05
    } else {
        0.01
    }
}

/// Root mean square of the difference over that of the reference, on real tokens only.
pub(super) fn relative(
    program: &crate::ir::Program,
    id: ValueId,
    reference: &[f32],
    values: &[f32],
    layout: &Layout,
) -> f32 {
    let per_token = program.get(id).ne.iter().filter(|n| n.is_fixed()).map(|n| n.a as usize).product::<usize>();
    let (mut difference, mut size) = (0.0f64, 0.0f64);
    for span in layout.spans() {
        let range = span.start * per_token..(span.start + span.len) * per_token;
        let (Some(a), Some(b)) = (reference.get(range.clone()), values.get(range)) else { continue };
        for (x, y) in a.iter().zip(b) {
            difference += f64::from(x - y).powi(2);
            size += f64::from(*x).powi(2);
        }
    }
    (difference / size.max(f64::MIN_POSITIVE)).sqrt() as f32
}
