//! Gradients of the adapter: the rules against differences, the engine against the rules.

mod blocks;
mod case;
mod controls;
mod differences;

use crate::models::{dense, each};
use crate::oracle::{self, Array, Oracle};
use crate::tiny::{find, Tiny};
use case::{Backward, Case};
use differences::Loss;
use llama_align::ir::ValueId;
use quant::Type;

/// Largest error of the engine's log-probs and gradients, over the norm of all log-probs or of the tensor's gradient.
/// 1e-3 is what training needs; F32 leaves 4e-6 on these models, so that anything above this is a fault.
const ENGINE: f64 = 2e-5;
/// Largest error of a difference quotient, over the size that a random direction's derivative has.
const DIFFERENCE: f64 = 1e-6;

/// Architectures between them hold every kind of block: their gradients are also taken through quantised weights.
const QUANTISED: [&str; 9] =
    ["llama-untied", "qwen3", "gemma2", "cohere2", "phi3", "deepseek2", "gpt2", "bloom", "nemotron"];

/// The cotangents of hidden states that a batch adds to its loss: none, or random ones on every block's.
fn cotangents(case: &Case, backward: &Backward, oracle: &Oracle, tapped: bool) -> Vec<Array> {
    let draw = |(layer, &(value, _)): (usize, &(ValueId, ValueId))| {
        case.on_real_tokens(oracle.ne(value), &format!("tap {layer}"), if tapped { 0.3 } else { 0.0 })
    };
    backward.taps.iter().enumerate().map(draw).collect()
}

fn narrow(array: &Array) -> Vec<f32> {
    array.to_vec().into_iter().map(|x| x as f32).collect()
}

fn holds(tiny: &Tiny, weights: Type) {
    let case = Case::new(tiny, weights);
    let backward = case.backward();
    let mut oracle = case.oracle(&backward.adapted);
    let logits = oracle.value(backward.adapted.logits);
    let mut engine = case.engine();
    let log_probs = oracle::log_probs(&logits, &case.targets);
    let log_probs = Array::new([log_probs.len(), 1, 1, 1], log_probs);
    for tapped in [false, true] {
        let taps = cotangents(&case, &backward, &oracle, tapped);
        let mut seeds: Vec<_> = backward.taps.iter().map(|&(_, leaf)| leaf).zip(taps.iter().cloned()).collect();
        seeds.push((backward.logits_seed, oracle::seed(&logits, &case.targets)));
        oracle = oracle.with(&seeds);
        let loss = Loss { backward: &backward, targets: &case.targets, taps: &taps };
        let (error, place) = loss.worst_difference(&mut oracle, &tiny.name());
        assert!(error <= DIFFERENCE, "differences {place}: {error:e}");

        engine.zero_gradients();
        let error = log_probs.distance(&engine.forward(&case.batch()).unwrap().concat());
        assert!(error <= ENGINE, "log-probs: {error:e}");
        let narrowed: Vec<_> = taps.iter().map(narrow).collect();
        let listed: Vec<_> = narrowed.iter().enumerate().map(|(layer, values)| (layer, values.as_slice())).collect();
        engine.backward_with(&case.weights, if tapped { &listed } else { &[] }).unwrap();
        for (i, &gradient) in backward.gradients.iter().enumerate() {
            let (name, error) = (engine.parameter_info(i).0, oracle.value(gradient).distance(engine.gradient(i)));
            assert!(error <= ENGINE, "engine {name}, tapped {tapped}: {error:e}");
        }
    }
}

#[test]
fn of_every_architecture() {
    each(&dense(), Tiny::name, |tiny| holds(tiny, Type::F32));
}

#[test]
fn through_quantised_weights() {
    let types = [Type::Q8_0, Type::Q4_0, Type::Q4_1, Type::F16];
    let cases: Vec<_> = QUANTISED.into_iter().flat_map(|name| types.map(|ty| (find(name), ty))).collect();
    each(&cases, |(tiny, ty)| format!("{} {}", tiny.name(), ty.name()), |(tiny, ty)| holds(tiny, *ty));
}

#[test]
fn of_every_block_by_its_inputs() {
    each(&dense(), Tiny::name, |tiny| blocks::hold(tiny, Type::F32));
}
