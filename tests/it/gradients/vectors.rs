//! Gradients of norms and biases beside those of the factors, in every form.

use super::bf16::{distance, run, ROUNDING};
use super::case::Case;
use super::{engine_alone, holds, ops, ENGINE};
use crate::models::{dense, each};
use crate::tiny::{find, Tiny};
use llama_align::engine::Form;
use quant::Type;

/// Rounding in BF16 also moves activations across the bounds of a clamp, and a norm's gradient sums what is left of them.
const ROUNDED: f64 = 2.0 * ROUNDING;

fn moving(tiny: &Tiny, weights: Type) -> Case {
    Case::new(tiny, weights).with_vectors()
}

/// Those whose blocks have norms or biases: all but the OLMo with neither.
fn models() -> Vec<Tiny> {
    let found: Vec<_> = dense().into_iter().filter(|tiny| !moving(tiny, Type::F32).changes.is_empty()).collect();
    assert!(found.len() + 3 > dense().len(), "{} of {}", found.len(), dense().len());
    found
}

/// The whole program's in F64 against differences, then the engine's against those.
#[test]
fn of_norms_and_biases_of_every_architecture() {
    each(&models(), Tiny::name, |tiny| holds(&moving(tiny, Type::F32)));
}

#[test]
fn of_norms_and_biases_in_the_other_forms() {
    each(&models(), Tiny::name, |tiny| {
        let case = moving(tiny, Type::F32);
        let (error, place) = ops::worst(&case);
        assert!(error <= ENGINE, "in ops, {place}: {error:e}");
        let (_, wanted) = run(&mut case.engine(1), &case);
        let (_, found) = run(&mut case.engine_in(Form::TrainingBf16, 1), &case);
        let off = distance(&found, &wanted);
        assert!(off > 0.0 && off < ROUNDED, "in BF16: {off:e}");
    });
    engine_alone(&moving(&find("gemma3"), Type::Q8_0), 3);
}

/// Kept and computed again alike; and the same run gives the same bits.
#[test]
fn of_norms_and_biases_are_the_same_bits_whether_insides_are_kept_or_not() {
    for (name, form) in [("gpt2", Form::Training), ("gemma3", Form::TrainingBf16)] {
        let case = moving(&find(name), Type::Q8_0);
        let of = |recompute| {
            let mut engine = case.engine_in(form, 1);
            engine.set_recompute(recompute);
            run(&mut engine, &case)
        };
        let (again, kept) = (of(true), of(false));
        assert!(again == kept && again == of(true), "{name}");
    }
}
