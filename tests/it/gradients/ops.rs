//! The form in ggml's own ops, through its scheduler, with a second CPU backend in the place of a device: what every GPU runs.

use super::case::Case;
use super::{seeded, worst_error, ENGINE};
use crate::models::{each, trainable};
use crate::tiny::{find, Tiny};
use llama_align::engine::Form;
use quant::Type;

/// Largest error through quantised weights, over the norm of log-probs or of a tensor's gradient: forward products round
/// activations to 8 bits here, as the runtime does when it serves the model; a wrong rule leaves 1.
const ROUNDED: f64 = 0.15;

/// The worst error, and where it is; no kernel of ours takes part but the loss head's.
pub(super) fn worst(case: &Case) -> (f64, String) {
    let backward = case.backward();
    let mut oracle = seeded(case, &backward, true);
    let mut engine = case.engine_in(Form::TrainingOps, 1);
    let worst = worst_error(&mut engine, case, &backward, &mut oracle, true);
    let tally = engine.tally().unwrap();
    if !case.is_moe() {
        assert_eq!(tally.device.get("CUSTOM"), Some(&1), "one chunk of logits: {tally:?}");
    }
    assert!(tally.fallen_back.is_empty(), "the CPU has every op: {tally:?}");
    worst
}

#[test]
fn are_those_of_the_oracle_for_every_architecture() {
    each(&trainable(), Tiny::name, |tiny| {
        let (error, place) = worst(&Case::new(tiny, Type::F32));
        assert!(error <= ENGINE, "{place}: {error:e}");
    });
}

#[test]
fn go_through_quantised_weights() {
    let cases: Vec<_> = ["llama-untied", "gemma2", "phi3", "gpt2", "deepseek2"]
        .into_iter()
        .flat_map(|name| [Type::Q8_0, Type::Q4_1, Type::F16].map(|ty| (find(name), ty)))
        .collect();
    each(
        &cases,
        |(tiny, ty)| format!("{} {}", tiny.name(), ty.name()),
        |(tiny, ty)| {
            let (error, place) = worst(&Case::new(tiny, *ty));
            assert!(error > 0.0 && error <= ROUNDED, "{place}: {error:e}");
        },
    );
}
