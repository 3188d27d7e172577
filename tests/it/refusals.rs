//! What cannot be trained is refused by name, never by an abort.

use crate::models::open;
use crate::tiny::find;
use llama_align::adapter::{peft, Limit, Linear, Lora};
use llama_align::engine::{Delta, Engine};
use llama_align::error::Kind;
use llama_align::ir::{Op, ValueKind};
use llama_align::trace::{trace, Trace};
use quant::Type;
use std::sync::Arc;

/// A fresh adapter on every weight that can carry one.
fn delta(trace: &Trace) -> Delta {
    Delta { lora: Lora::init(&Linear::all(trace), 2, 4.0, 1), scale: 1.0, trainable: true }
}

#[test]
fn an_op_without_a_rule_is_refused_with_op_node_and_architecture() {
    let opened = open(&find("llama-tied"), Type::F32).unwrap();
    let mut traced = trace(&opened.model).unwrap();
    let gate = traced.program.ids().find(|&id| matches!(traced.program.get(id).op(), Some(Op::Glu(_)))).unwrap();
    let ValueKind::Node { op, .. } = &mut traced.program.values[gate.0 as usize].kind else { unreachable!() };
    *op = Op::Other("ROLL".into());
    let trace = Arc::new(traced);
    // Frozen, it runs.
    assert!(Engine::new(&opened.model, &trace, Vec::new(), 1).is_ok());
    let error = Engine::new(&opened.model, &trace, vec![delta(&trace)], 1).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let message = error.to_string();
    for part in ["ROLL \"", "-0\"", "architecture llama"] {
        assert!(message.contains(part), "{message}");
    }
}

/// What rows of one matrix mean is not what those of a stack mean.
#[test]
fn factors_of_experts_are_refused_where_they_have_no_meaning() {
    let opened = open(&find("llama-experts"), Type::F32).unwrap();
    let lora = delta(&trace(&opened.model).unwrap()).lora;
    let errors = [
        lora.truncated(Limit { rank: 1, energy: 1.0 }).unwrap_err(),
        peft::write(&lora, &opened.file, None, &std::env::temp_dir()).unwrap_err(),
    ];
    for error in errors {
        let message = error.to_string();
        assert!(error.kind() == Kind::Unsupported && message.contains("_exps.weight"), "{message}");
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
