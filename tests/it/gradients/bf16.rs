//! The form that multiplies BF16 numbers against the one that multiplies F32. Rounding may choose other experts, so that mixtures
//! cannot be compared as a whole: `kernel/experts.rs` compares their products.

use super::case::Case;
use crate::models::{dense, each};
use crate::tiny::{find, Tiny};
use llama_align::engine::{Engine, Form};
use quant::Type;

/// Largest difference of all gradients together, over their norm. A product rounds both factors to eight bits, 2e-3 each;
/// two or three blocks of random weights, forward and backward, leave 1e-2.
pub(super) const ROUNDING: f64 = 2.5e-2;

pub(super) fn run(engine: &mut Engine, case: &Case) -> (Vec<f32>, Vec<f32>) {
    let log_probs = engine.forward(&case.batch()).unwrap().concat();
    engine.backward(&case.weights).unwrap();
    (log_probs, engine.trainable().into_iter().flat_map(|i| engine.gradient(i).to_vec()).collect())
}

pub(super) fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = found.iter().zip(wanted).map(|(f, w)| square(f - w)).sum();
    (apart / wanted.iter().map(|&w| square(w)).sum::<f64>()).sqrt()
}

#[test]
fn differ_by_rounding_only() {
    let cases: Vec<_> = dense().into_iter().map(|tiny| (tiny, Type::F32)).chain([(find("phi3"), Type::Q4_1)]).collect();
    each(
        &cases,
        |(tiny, _): &(Tiny, Type)| tiny.name(),
        |(tiny, ty)| {
            let case = Case::new(tiny, *ty);
            let (log_probs, wanted) = run(&mut case.engine(1), &case);
            let (rounded, found) = run(&mut case.engine_in(Form::TrainingBf16, 1), &case);
            let (d_log_probs, d_gradients) = (distance(&rounded, &log_probs), distance(&found, &wanted));
            assert!(d_log_probs > 0.0 && d_gradients > 0.0, "nothing was rounded");
            assert!(
                d_log_probs < ROUNDING && d_gradients < ROUNDING,
                "log-probs {d_log_probs:e}, gradients {d_gradients:e}"
            );
        },
    );
}

/// Bits depend neither on the split among threads nor on what else is in the batch.
#[test]
fn are_the_same_bits_on_every_thread_count_and_alone() {
    for name in ["llama-untied", "gemma2"] {
        let case = Case::new(&find(name), Type::Q8_0);
        let run = |n_threads| run(&mut case.engine_in(Form::TrainingBf16, n_threads), &case);
        let (once, again, split) = (run(1), run(1), run(3));
        assert!(once == again && once.0 == split.0, "{name}");
        let mut engine = case.engine_in(Form::TrainingBf16, 1);
        let apart: Vec<f32> = case.batch().iter().flat_map(|s| engine.log_probs(&[*s]).unwrap().concat()).collect();
        assert!(apart == once.0, "{name}: a sequence alone has other bits");
    }
}
