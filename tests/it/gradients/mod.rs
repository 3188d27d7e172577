//! Gradients of the adapter: the rules against differences, the engine against the rules.

mod case;
mod differences;

use crate::models::{dense, each};
use crate::oracle::{norm, Array, Oracle};
use crate::random::Random;
use crate::tiny::Tiny;
use case::{Backward, Case};
use differences::Loss;
use quant::Type;

/// Largest error of the engine's gradient, over the norm of the tensor's gradient.
const ENGINE: f64 = 1e-3;
/// Largest error of a difference quotient, over the size that a random direction's derivative has.
const DIFFERENCE: f64 = 1e-6;

fn distance(found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let difference: Vec<_> = found.iter().zip(wanted).map(|(&f, w)| f64::from(f) - w).collect();
    norm(&difference) / norm(wanted)
}

/// The cotangents of hidden states that a test adds: none, or random ones on every block's.
fn cotangents(case: &Case, backward: &Backward, oracle: &Oracle, tapped: bool) -> Vec<Array> {
    let draw = |(layer, &(value, _)): (usize, &(llama_align::ir::ValueId, _))| {
        let ne = oracle.ne(value);
        let per_token = ne.iter().product::<usize>() / case.layout.n_tokens();
        let mut values = vec![0.0; per_token * case.layout.n_tokens()];
        if tapped {
            let mut random = Random::of(&format!("tap {layer}"));
            for t in case.real() {
                let drawn = random.vector(per_token, 0.3);
                values[t * per_token..][..per_token].iter_mut().zip(drawn).for_each(|(v, d)| *v = f64::from(d));
            }
        }
        Array::new(ne, values)
    };
    backward.taps.iter().enumerate().map(draw).collect()
}

fn compare(tiny: &Tiny, weights: Type) {
    let case = Case::new(tiny, weights);
    let backward = case.backward();
    let mut oracle = case.oracle(&backward.adapted);
    let logits = oracle.value(backward.adapted.logits);
    let mut engine = case.engine();

    let wanted = crate::oracle::log_probs(&logits, &case.targets);
    let found: Vec<f32> = engine.log_probs(&case.batch()).unwrap().concat();
    let forward = distance(&found, &wanted);
    eprintln!("{} {} log-probs {forward:.1e}", tiny.name(), weights.name());

    let mut worst = (0.0, String::new());
    for tapped in [false, true] {
        let taps = cotangents(&case, &backward, &oracle, tapped);
        for (&(_, leaf), tap) in backward.taps.iter().zip(&taps) {
            oracle = oracle.with(&[(leaf, tap.clone())]);
        }
        oracle = oracle.with(&[(backward.logits_seed, crate::oracle::seed(&logits, &case.targets))]);
        engine.zero_gradients();
        engine.forward(&case.batch()).unwrap();
        let narrow: Vec<Vec<f32>> = taps.iter().map(|t| t.slice().iter().map(|&x| x as f32).collect()).collect();
        let listed: Vec<_> = narrow.iter().enumerate().map(|(layer, values)| (layer, values.as_slice())).collect();
        engine.backward_with(&case.weights, if tapped { &listed } else { &[] }).unwrap();
        for (i, &gradient) in backward.gradients.iter().enumerate() {
            let wanted = oracle.value(gradient);
            let error = distance(engine.gradient(i), wanted.slice());
            if error > worst.0 || error.is_nan() {
                worst = (error, format!("{} tapped {tapped}", engine.parameter_info(i).0));
            }
        }
        let loss = Loss { backward: &backward, targets: &case.targets, taps: &taps };
        let error = loss.worst_difference(&mut oracle, &tiny.name());
        eprintln!("{} {} differences {error:?}", tiny.name(), weights.name());
        assert!(error.0 <= DIFFERENCE, "{error:?}");
    }
    eprintln!("{} {} engine {worst:?}", tiny.name(), weights.name());
    assert!(worst.0 <= ENGINE, "{worst:?}");
}

#[test]
fn of_every_architecture() {
    each(&dense(), Tiny::name, |tiny| compare(tiny, Type::F32));
}
