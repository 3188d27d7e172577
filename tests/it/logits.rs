//! Logits of the oracle, of the engine's training form and of llama.cpp.

use crate::models::{each, open, trainable};
use crate::oracle::{decode, Array, Oracle};
use crate::random::Random;
use crate::tiny::{find, Tiny};
use llama_align::data::Sequence;
use llama_align::engine::{Engine, Layout};
use llama_align::runtime::Context;
use llama_align::trace::trace;
use quant::Type;
use std::sync::Arc;

/// F32 against F64, over the norm of all logits of a sequence.
const ENGINE: f64 = 5e-6;
/// llama.cpp rounds keys and values to 16 bits and looks GELU up in a table of 16-bit floats.
const RUNTIME_F32: f64 = 2e-3;
/// It also rounds activations to 8 bits where weights are quantised.
const RUNTIME_QUANTISED: f64 = 0.05;

fn compare(tiny: &Tiny, weights: Type) {
    let opened = open(tiny, weights).unwrap();
    let model = &opened.model;
    let trace = Arc::new(trace(model).unwrap());
    let mut random = Random::of(&tiny.name());
    let mut sequence = |n: usize| Sequence::new((0..n).map(|_| random.below(model.n_vocab()) as i32).collect(), 1);
    let sequences = [sequence(70), sequence(33)];
    let layout = Layout::new(sequences.iter().map(|s| s.tokens.as_slice())).unwrap();
    let logits = Oracle::new(&trace.program, &layout, decode(&trace.program, &opened.file)).value(trace.logits);

    let mut engine = Engine::new(model, &trace, Vec::new(), 1).unwrap();
    let mut found = [Vec::new(), Vec::new()];
    let mut take = |sequence: usize, _: usize, row: &[f32]| found[sequence].extend_from_slice(row);
    engine.visit_logits(&sequences.iter().collect::<Vec<_>>(), &mut take).unwrap();
    let bound = if weights.is_quantized() { RUNTIME_QUANTISED } else { RUNTIME_F32 };
    for ((sequence, span), found) in sequences.iter().zip(layout.spans()).zip(found) {
        // Every token but the first is predicted from the one before.
        let n = sequence.tokens.len() - 1;
        let wanted: Vec<_> = (0..n).flat_map(|i| logits.row([0, span.place(i), 0, 0]).to_vec()).collect();
        let wanted = Array::new([model.n_vocab(), n, 1, 1], wanted);
        let error = wanted.distance(&found);
        assert!(error <= ENGINE, "engine: {error:e}");

        let mut context = Context::new(model, sequence.tokens.len(), 1, 1).unwrap();
        let batch: Vec<_> = sequence.tokens.iter().enumerate().map(|(i, &token)| (token, i, 0)).collect();
        context.decode(&batch, |_| true).unwrap();
        let found: Vec<f32> = (0..n).flat_map(|i| context.logits(i).unwrap().to_vec()).collect();
        let error = wanted.distance(&found);
        assert!(error <= bound, "llama.cpp: {error:e}");
    }
}

#[test]
fn of_every_architecture() {
    each(&trainable(), Tiny::name, |tiny| compare(tiny, Type::F32));
}

#[test]
fn from_quantised_weights() {
    let names = ["llama-untied", "qwen3", "gemma3", "cohere2", "phi3", "deepseek2", "gpt2", "bloom"];
    let types = [Type::Q8_0, Type::Q4_0, Type::Q4_1];
    let cases: Vec<_> = names.into_iter().flat_map(|name| types.map(|ty| (find(name), ty))).collect();
    each(&cases, |(tiny, ty)| format!("{} {}", tiny.name(), ty.name()), |(tiny, ty)| compare(tiny, *ty));
}
