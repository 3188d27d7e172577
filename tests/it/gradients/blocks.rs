//! Blocks one by one, as the engine's plan cuts them: results, and cotangents of what a block reads.

use super::case::Case;
use super::{narrow, DIFFERENCE, ENGINE};
use crate::graph::run;
use crate::oracle::{norm, slope, Array, Oracle};
use crate::random::Random;
use llama_align::engine::{adapt, Form, Plan, Step};
use llama_align::ir::ValueId;

/// Both checks on every block and on the head; the first block's inputs are constants.
pub(super) fn hold(case: &Case) {
    let mut adapted = adapt(&case.trace, std::slice::from_ref(&case.delta), Form::Training).unwrap();
    let plan = Plan::make(&mut adapted).unwrap();
    let mut oracle = case.oracle(&adapted);
    oracle.value(adapted.logits);
    let steps: Vec<_> = plan.blocks.iter().chain([&plan.head]).collect();
    for (k, step) in steps.into_iter().enumerate() {
        assert_eq!(step.read_gradients.is_empty(), k == 0, "step {k} has gradients by {:?}", step.read_gradients);
        for &(value, seed) in &step.seeds {
            oracle.give(seed, case.on_real_tokens(oracle.ne(value), &format!("seed {k}"), 1.0));
        }
        let error = difference_error(&mut oracle, step);
        assert!(error <= DIFFERENCE, "step {k}, differences: {error:e}");

        let parameters = adapted.parameters.iter().map(|p| p.value);
        let seeds = step.seeds.iter().map(|&(_, seed)| seed);
        let given = parameters.chain(step.reads.iter().copied()).chain(seeds);
        let given: Vec<_> = given.map(|id| (id, narrow(&oracle.value(id)))).collect();
        let of_parameters = step.parameter_gradients.iter().map(|&(_, gradient)| gradient);
        let of_reads = step.read_gradients.iter().map(|&(_, gradient)| gradient);
        let gradients: Vec<_> = of_reads.chain(of_parameters).collect();
        let outputs: Vec<_> = step.writes.iter().chain(&gradients).copied().collect();
        let found = run(&adapted.program, &case.trace.weights, &case.layout, &given, &outputs);
        for (id, found) in outputs.iter().zip(found) {
            let wanted = oracle.value(*id);
            let error = if step.writes.contains(id) {
                case.distance_on_real_tokens(&wanted, &found)
            } else {
                wanted.distance(&found)
            };
            assert!(error <= ENGINE, "step {k}, engine {}: {error:e}", adapted.program.describe(*id));
        }
    }
}

/// The worst error of the cotangents of what a step reads, one random direction each; the other reads stay.
fn difference_error(oracle: &mut Oracle, step: &Step) -> f64 {
    let seeds: Vec<(ValueId, Array)> = step.seeds.iter().map(|&(value, seed)| (value, oracle.known(seed))).collect();
    let loss = |oracle: &mut Oracle| {
        let each = seeds.iter().map(|(value, seed)| {
            let written = oracle.value(*value).to_vec();
            written.iter().zip(seed.slice()).map(|(w, s)| w * s).sum::<f64>()
        });
        each.sum::<f64>()
    };
    let mut worst = 0.0;
    for &(read, gradient) in &step.read_gradients {
        let gradient = oracle.value(gradient).to_vec();
        let direction = Random::of("block input").direction(gradient.len());
        let still: Vec<_> = step.reads.iter().map(|&r| (r, vec![0.0; oracle.known(r).slice().len()])).collect();
        let along: Vec<_> = still
            .iter()
            .map(|(r, zeros)| (*r, if *r == read { direction.as_slice() } else { zeros.as_slice() }))
            .collect();
        let exact: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let size = norm(&gradient) / (gradient.len() as f64).sqrt();
        let error = (slope(oracle, &along, &loss) - exact).abs() / size;
        worst = if error > worst || error.is_nan() { error } else { worst };
    }
    worst
}
