//! Gradients of the adapter: the rules against differences, the engine against the rules.

mod bf16;
mod blocks;
mod case;
mod controls;
mod differences;
mod ops;
mod rows;
mod vectors;

use crate::models::{each, trainable};
use crate::oracle::{self, Array, Oracle};
use crate::tiny::{find, Tiny};
use case::{Backward, Case};
use differences::Loss;
use llama_align::data::Sequence;
use llama_align::engine::{adapt, Engine, Form, Plan};
use llama_align::ir::{Op, ValueId, ValueKind};
use llama_align::trace::Trace;
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

/// The whole program's gradients in F64 against differences, then the engine's against those, without and with taps.
fn holds(case: &Case) {
    let backward = case.backward();
    for tapped in [false, true] {
        let mut oracle = seeded(case, &backward, tapped);
        let taps = cotangents(case, &backward, &oracle, tapped);
        let loss = Loss { backward: &backward, targets: &case.targets, taps: &taps };
        let (error, place) = loss.worst_difference(&mut oracle, "gradients");
        assert!(error <= DIFFERENCE, "differences {place}: {error:e}");
        engine_holds(case, &backward, &mut oracle, tapped, 1);
    }
}

/// An oracle with cotangents on the logits and, if `tapped`, on hidden states.
fn seeded<'a>(case: &'a Case, backward: &'a Backward, tapped: bool) -> Oracle<'a> {
    let mut oracle = case.oracle(&backward.adapted);
    let logits = oracle.value(backward.adapted.logits);
    oracle.give(backward.logits_seed, oracle::seed(&logits, &case.targets));
    let taps = cotangents(case, backward, &oracle, tapped);
    for (&(_, leaf), tap) in backward.taps.iter().zip(taps) {
        oracle.give(leaf, tap);
    }
    oracle
}

/// The engine's log-probs and gradients against the oracle's.
fn engine_holds(case: &Case, backward: &Backward, oracle: &mut Oracle, tapped: bool, n_threads: usize) {
    let mut engine = case.engine(n_threads);
    let worst = worst_error(&mut engine, case, backward, oracle, tapped);
    assert!(worst.0 <= ENGINE, "engine {}, tapped {tapped}: {:e}", worst.1, worst.0);
}

/// The worst error of an engine's log-probs and gradients over the oracle's, and where it is.
fn worst_error(
    engine: &mut Engine,
    case: &Case,
    backward: &Backward,
    oracle: &mut Oracle,
    tapped: bool,
) -> (f64, String) {
    let logits = oracle.value(backward.adapted.logits);
    let log_probs = oracle::log_probs(&logits, &case.targets);
    let log_probs = Array::new([log_probs.len(), 1, 1, 1], log_probs);
    let mut worst = (log_probs.distance(&engine.forward(&case.batch()).unwrap().concat()), String::from("log-probs"));
    let narrowed: Vec<_> = cotangents(case, backward, oracle, tapped).iter().map(narrow).collect();
    let listed: Vec<_> = narrowed.iter().enumerate().map(|(layer, values)| (layer, values.as_slice())).collect();
    engine.backward_with(&case.weights, if tapped { &listed } else { &[] }).unwrap();
    for (i, &gradient) in backward.gradients.iter().enumerate() {
        let (name, error) = (engine.parameter_info(i).0, oracle.value(gradient).distance(engine.gradient(i)));
        if error > worst.0 || error.is_nan() {
            worst = (error, name.to_owned());
        }
    }
    worst
}

/// The engine alone: the rules were held against differences elsewhere.
fn engine_alone(case: &Case, n_threads: usize) {
    let backward = case.backward();
    let mut oracle = seeded(case, &backward, true);
    engine_holds(case, &backward, &mut oracle, true, n_threads);
}

#[test]
fn of_every_architecture() {
    each(&trainable(), Tiny::name, |tiny| holds(&Case::new(tiny, Type::F32)));
}

#[test]
fn through_quantised_weights() {
    let few = QUANTISED.into_iter().flat_map(|name| [Type::Q4_0, Type::Q4_1, Type::F16].map(|ty| (find(name), ty)));
    let cases: Vec<_> = trainable().into_iter().map(|tiny| (tiny, Type::Q8_0)).chain(few).collect();
    each(
        &cases,
        |(tiny, ty)| format!("{} {}", tiny.name(), ty.name()),
        |(tiny, ty)| engine_alone(&Case::new(tiny, *ty), 1),
    );
    // The one whose program depends on the type: stacks of quantised weights are decoded in it.
    holds(&Case::new(&find("deepseek2"), Type::Q8_0));
}

#[test]
fn of_every_block_by_its_inputs() {
    each(&trainable(), Tiny::name, |tiny| blocks::hold(&Case::new(tiny, Type::F32)));
}

#[test]
fn of_batches_at_the_edges() {
    let lengths = [(64, 1), (2, 1), (65, 64), (129, 100)];
    let names = ["gemma2", "bloom", "phi3", "gpt2"];
    each(
        &names,
        |name| (*name).to_owned(),
        |name| {
            holds(&Case::with(&find(name), Type::F32, &lengths, |_| {}));
        },
    );
}

/// The answers of a pair read one prompt: gradients against the oracle on that layout, and both against the same rows
/// computed apart.
#[test]
fn of_a_pair_that_shares_its_prompt() {
    let check = |tiny: &Tiny| {
        let case = Case::pair(tiny, Type::F32);
        assert_eq!((case.layout.n_tokens(), case.layout.spans()[2].shared), (64 + 128 + 64, 70));
        engine_alone(&case, 2);
        let run = |sequences: &[&Sequence], form| {
            let mut engine = case.engine_in(form, 1);
            let log_probs = engine.forward(sequences).unwrap().concat();
            engine.backward(&case.weights).unwrap();
            (log_probs, engine.trainable().into_iter().map(|i| engine.gradient(i).to_vec()).collect::<Vec<_>>())
        };
        let apart: Vec<_> = case.sequences.iter().map(|s| Sequence { shared: 0, ..s.clone() }).collect();
        let wide = |x: &[f32]| Array::new([x.len(), 1, 1, 1], x.iter().map(|&x| f64::from(x)).collect());
        for form in [Form::Training, Form::TrainingOps] {
            let (shared, apart) = (run(&case.batch(), form), run(&apart.iter().collect::<Vec<_>>(), form));
            let error = wide(&apart.0).distance(&shared.0);
            assert!(error <= ENGINE, "{form:?}: log-probs {error:e}");
            for (a, s) in apart.1.iter().zip(&shared.1) {
                let error = wide(a).distance(s);
                assert!(error <= ENGINE, "{form:?}: a gradient {error:e}");
            }
        }
    };
    each(&trainable(), Tiny::name, check);
}

/// Work is shared out among threads, one model after another because threads that wait keep a core busy.
#[test]
fn on_several_threads() {
    for name in ["llama-untied", "gemma2", "bloom", "deepseek2", "chatglm"] {
        engine_alone(&Case::new(&find(name), Type::Q8_0), 3);
    }
}

/// The last block adds what the first one left to what it computed, so that two blocks read the first one's result.
#[test]
fn of_a_value_that_skips_a_block() {
    let skip = |trace: &mut Trace| {
        let program = &mut trace.program;
        let find =
            |name: &str| program.ids().find(|&id| program.get(id).name == name).expect("llama.cpp names its values");
        let (first, residual, last) = (find("l_out-0"), find("ffn_inp-2"), find("l_out-2"));
        let ValueKind::Node { op: Op::Add, src } = &mut program.values[last.0 as usize].kind else { panic!("no sum") };
        *src.iter_mut().find(|s| **s == Some(residual)).expect("a residual stream") = Some(first);
    };
    let case = Case::with(&find("llama-deep"), Type::F32, &[(20, 5), (9, 2)], skip);
    let plan = Plan::make(&mut adapt(&case.trace, std::slice::from_ref(&case.delta), Form::Training).unwrap()).unwrap();
    let first = plan.blocks[0].writes[0];
    assert_eq!(plan.blocks.iter().filter(|block| block.reads.contains(&first)).count(), 2);
    holds(&case);
    blocks::hold(&case);
}

/// What blocks compute inside is the same whether it is kept or computed again, and so are the gradients; also where the
/// reference pass keeps nothing.
#[test]
fn are_the_same_bits_whether_insides_are_kept_or_not() {
    let check = |(tiny, form): &(Tiny, Form)| {
        let case = Case::new(tiny, Type::Q8_0);
        let run = |recompute| {
            let mut engine = case.engine_in(*form, 1);
            engine.set_recompute(recompute);
            let plain = engine.log_probs(&case.batch()).unwrap();
            assert!(
                plain == engine.forward(&case.batch()).unwrap(),
                "log-probs differ from those of the reference pass"
            );
            engine.backward(&case.weights).unwrap();
            let gradients: Vec<_> = engine.trainable().into_iter().map(|i| engine.gradient(i).to_vec()).collect();
            (plain, gradients, engine.peak_bytes())
        };
        let (again, kept) = (run(true), run(false));
        assert!(again.0 == kept.0 && again.1 == kept.1, "other bits");
        assert!(kept.2 > again.2, "nothing was kept");
    };
    let cases: Vec<_> =
        trainable().into_iter().flat_map(|t| [(t.clone(), Form::Training), (t, Form::TrainingBf16)]).collect();
    each(&cases, |(tiny, form)| format!("{} {form:?}", tiny.name()), check);
}

#[test]
fn add_up_over_batches_and_are_the_same_bits_every_time() {
    let case = Case::new(&find("gemma3"), Type::Q8_0);
    let mut engine = case.engine(1);
    let run = |engine: &mut Engine| {
        engine.forward(&case.batch()).unwrap();
        engine.backward(&case.weights).unwrap();
        engine.trainable().into_iter().map(|i| engine.gradient(i).to_vec()).collect::<Vec<_>>()
    };
    let (once, twice) = (run(&mut engine), run(&mut engine));
    let doubled: Vec<Vec<f32>> = once.iter().map(|g| g.iter().map(|x| 2.0 * x).collect()).collect();
    assert!(twice == doubled && once.iter().flatten().any(|&g| g != 0.0));
    engine.zero_gradients();
    assert!(run(&mut engine) == once);
}
