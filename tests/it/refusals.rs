//! What cannot be trained is refused by name, never by an abort.

use crate::models::open;
use crate::tiny::{all, find};
use llama_align::adapter::{Linear, Lora};
use llama_align::engine::{Delta, Engine};
use llama_align::error::Kind;
use llama_align::trace::{trace, Trace};
use quant::Type;
use std::sync::Arc;

/// A fresh adapter on every weight that can carry one.
fn delta(trace: &Trace) -> Delta {
    let info = |name: &String| trace.program.weights.iter().find(|w| w.name == *name).unwrap();
    let names = trace.linears();
    let linear = |name: &String| {
        let ne = info(name).ne;
        Linear { name: name.clone(), n_in: ne[0] as usize, n_out: ne[1] as usize }
    };
    let linears: Vec<_> = names.keys().map(linear).collect();
    Delta { lora: Lora::init(&linears, 2, 4.0, 1), scale: 1.0, trainable: true }
}

#[test]
fn a_mixture_of_experts_is_refused_with_op_node_and_architecture() {
    for tiny in all().iter().filter(|tiny| tiny.is_moe()) {
        let opened = open(tiny, Type::F32).unwrap();
        let trace = Arc::new(trace(&opened.model).unwrap());
        // Frozen, it runs.
        assert!(Engine::new(&opened.model, &trace, Vec::new(), 1).is_ok(), "{}", tiny.name());
        let error = Engine::new(&opened.model, &trace, vec![delta(&trace)], 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let message = error.to_string();
        // The first op without a rule above the lowest adapted weight; the router's choice comes before its experts.
        for part in ["MUL_MAT_ID \"", "-0\"", &format!("architecture {}", tiny.arch)] {
            assert!(message.contains(part), "{}: {message}", tiny.name());
        }
    }
}

#[test]
fn a_recurrent_model_is_refused_by_the_tracer() {
    let opened = open(&find("mamba"), Type::F32).unwrap();
    let error = trace(&opened.model).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let message = error.to_string();
    for part in ["architecture mamba", "state", "_l0"] {
        assert!(message.contains(part), "{message}");
    }
}
