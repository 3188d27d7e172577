//! Negative controls: what is wrong shows, and what is there matters.

use super::case::{Backward, Case};
use super::{differences::Loss, DIFFERENCE};
use crate::oracle::{self, Oracle};
use crate::tiny::find;
use llama_align::ir::{Glu, GradOp, Leaf, MaskRule, Op, Program, Span, Unary, Value, ValueKind};
use quant::Type;

/// A change of one value; false where there is nothing to change.
type Change = fn(&mut Value) -> bool;

/// Changes every value that can be changed.
fn change(program: &mut Program, f: Change) {
    let changed = program.values.iter_mut().map(f).filter(|&changed| changed).count();
    assert!(changed > 0, "there is nothing to change");
}

fn set(value: &mut Value, param: usize, x: f32) -> bool {
    let differs = value.param_f32(param) != x;
    value.params[param] = x.to_bits() as i32;
    differs
}

fn gradient_op(value: &mut Value) -> Option<&mut GradOp> {
    match &mut value.kind {
        ValueKind::Node { op: Op::Grad(op), .. } => Some(op),
        _ => None,
    }
}

fn replace(value: &mut Value, from: GradOp, to: GradOp) -> bool {
    gradient_op(value).filter(|op| **op == from).map(|op| *op = to).is_some()
}

fn drop_soft_cap(value: &mut Value) -> bool {
    gradient_op(value) == Some(&mut GradOp::AttentionBack) && set(value, 2, 0.0)
}

fn drop_slopes(value: &mut Value) -> bool {
    gradient_op(value) == Some(&mut GradOp::AttentionBack) && set(value, 1, 0.0)
}

/// The inverse of a rotation that also stretches, where the transpose is due.
fn invert_rotation(value: &mut Value) -> bool {
    let stretch = value.param_f32(8);
    gradient_op(value) == Some(&mut GradOp::RopeBack) && set(value, 8, 1.0 / stretch)
}

fn drop_factors(value: &mut Value) -> bool {
    match &mut value.kind {
        ValueKind::Node { op: Op::Grad(GradOp::RopeBack), src } => src.get_mut(2).and_then(Option::take).is_some(),
        _ => false,
    }
}

fn forget_the_mean(value: &mut Value) -> bool {
    replace(value, GradOp::NormBack, GradOp::RmsNormBack)
}

fn take_another_function(value: &mut Value) -> bool {
    replace(value, GradOp::UnaryBack(Unary::Gelu), GradOp::UnaryBack(Unary::GeluQuick))
}

fn swap_the_halves(value: &mut Value) -> bool {
    let fused = gradient_op(value) == Some(&mut GradOp::GluBackFused(Glu::Swiglu));
    value.params[1] ^= i32::from(fused);
    fused
}

fn exchange_keys_and_values(value: &mut Value) -> bool {
    match gradient_op(value) {
        Some(GradOp::Scatter(places)) if places.len() == 3 => {
            let last = places[2].offset;
            places[2].offset = places[1].offset;
            places[1].offset = last;
            true
        }
        _ => false,
    }
}

#[test]
fn wrong_rules_show_in_differences() {
    let cases: [(&str, Change); 8] = [
        ("gemma2", drop_soft_cap),
        ("bloom", drop_slopes),
        ("phi3", invert_rotation),
        ("llama-factors", drop_factors),
        ("orion", forget_the_mean),
        ("gpt2", take_another_function),
        ("chatglm", swap_the_halves),
        ("internlm2", exchange_keys_and_values),
    ];
    for (name, wrong) in cases {
        let case = Case::new(&find(name), Type::F32);
        let right = case.backward();
        assert!(difference(&case, &right) <= DIFFERENCE, "{name}");
        let mut backward = case.backward();
        change(&mut backward.adapted.program, wrong);
        let error = difference(&case, &backward);
        assert!(error > 1000.0 * DIFFERENCE, "{name}: {error:e}");
    }
}

fn difference(case: &Case, backward: &Backward) -> f64 {
    let mut oracle = case.oracle(&backward.adapted);
    let logits = oracle.value(backward.adapted.logits);
    oracle.give(backward.logits_seed, oracle::seed(&logits, &case.targets));
    for &(value, leaf) in &backward.taps {
        let zeros = case.on_real_tokens(oracle.ne(value), "", 0.0);
        oracle.give(leaf, zeros);
    }
    let loss = Loss { backward, targets: &case.targets, taps: &[] };
    loss.worst_difference(&mut oracle, "control").0
}

fn open_the_window(value: &mut Value) -> bool {
    match &mut value.kind {
        ValueKind::Leaf(Leaf::Mask(rule @ MaskRule { span: Span::Window(_), .. })) => {
            rule.span = Span::Causal;
            true
        }
        _ => false,
    }
}

fn uncap_scores(value: &mut Value) -> bool {
    value.op() == Some(&Op::Attention) && set(value, 2, 0.0)
}

fn flatten_slopes(value: &mut Value) -> bool {
    value.op() == Some(&Op::Attention) && set(value, 1, 0.0)
}

fn widen_the_clamp(value: &mut Value) -> bool {
    value.op() == Some(&Op::Clamp) && set(value, 1, f32::INFINITY)
}

/// The models' windows are shorter than the sequences, their caps and bounds bend what the weights produce.
#[test]
fn what_distinguishes_a_model_changes_its_logits() {
    let cases: [(&str, Change); 11] = [
        ("gemma2", open_the_window),
        ("gemma3", open_the_window),
        ("cohere2", open_the_window),
        ("olmo2-window", open_the_window),
        ("gemma2", uncap_scores),
        ("bloom", flatten_slopes),
        ("mpt", flatten_slopes),
        ("jais", flatten_slopes),
        ("refact", flatten_slopes),
        ("mpt-clamped", widen_the_clamp),
        ("olmo-clamped", widen_the_clamp),
    ];
    for (name, other) in cases {
        let case = Case::new(&find(name), Type::F32);
        let program = &case.trace.program;
        let mut changed = program.clone();
        change(&mut changed, other);
        let logits = |program| Oracle::new(program, &case.layout, case.decoded.clone()).value(case.trace.logits);
        let found: Vec<f32> = logits(&changed).to_vec().into_iter().map(|x| x as f32).collect();
        let difference = logits(program).distance(&found);
        assert!(difference > 1e-3, "{name}: {difference:e}");
    }
}
