//! The self-check on every tiny model: what is traced is what llama.cpp computes.

use crate::models::{each, open, trainable};
use crate::tiny::Tiny;
use llama_align::check::check;
use llama_align::engine::Form;
use llama_align::trace::trace;
use quant::Type;
use std::collections::BTreeSet;
use std::sync::Arc;

fn passes(tiny: &Tiny, weights: Type, form: Form) {
    let opened = open(tiny, weights).unwrap();
    let trace = Arc::new(trace(&opened.model).unwrap());
    let report = check(&opened.model, &trace, 1, form).unwrap();
    assert!(report.ok, "{report:?}");
    // Not a tolerance: the runtime's own ops on the same bytes in the same order.
    assert_eq!(report.runtime_form.max_abs_diff, 0.0, "{:?}", report.runtime_form.probes);
    assert_eq!(report.architecture, tiny.arch);
    let windowed = report.runtime_form.probes.keys().any(|probe| {
        let tokens: usize = probe.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
        tiny.window().is_some_and(|window| tokens > window)
    });
    assert_eq!(
        windowed,
        tiny.window().is_some(),
        "no probe is longer than the window: {:?}",
        report.runtime_form.probes
    );
    assert!(report.unsupported.is_empty(), "{:?}", report.unsupported);
    assert!(!report.trainable.is_empty());
    let experts = report.trainable.iter().any(|name| name.ends_with("_exps.weight"));
    assert_eq!(experts, tiny.is_moe(), "{:?}", report.trainable);
}

#[test]
fn every_architecture_in_f32() {
    let models = trainable();
    let architectures: BTreeSet<_> = models.iter().map(|tiny| tiny.arch).collect();
    assert!(architectures.len() >= 20, "{architectures:?}");
    each(&models, Tiny::name, |tiny| passes(tiny, Type::F32, Form::Training));
}

#[test]
fn every_architecture_in_q8_0_and_bf16() {
    each(&trainable(), Tiny::name, |tiny| passes(tiny, Type::Q8_0, Form::TrainingBf16));
}
