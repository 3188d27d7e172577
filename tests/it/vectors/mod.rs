//! The golden vectors of specs `vjp`, section 14, against the oracle and against the engine's kernels.

mod table;

use crate::oracle::{log_probs, seed, Array, Target};
use crate::small::{fixed, floats, Pullback, Small};
use llama_align::engine::Layout;
use llama_align::ir::{Glu, GradOp, Leaf, MaskRule, Op, Program, Span, Sym, Unary, ValueId};
use quant::Type;
use table::{Vector, Vectors};

/// For F64; the vectors have nine digits.
const ORACLE: f64 = 1e-8;
/// For F64 where an op's parameter is no F32 number: half a step of F32 is 6e-8 of it.
const ROUNDED: f64 = 1.5e-7;
/// For F32 kernels.
const KERNEL: f64 = 2e-6;

/// Inputs are two-decimal numbers; the oracle takes them exactly, not as the F32 that the engine gets.
struct Golden {
    small: Small,
    exact: Vec<(ValueId, Array)>,
}

impl Golden {
    fn new(layout: Layout) -> Self {
        Self { small: Small::new(layout), exact: Vec::new() }
    }

    fn leaf(&mut self, leaf: Leaf, ne: [Sym; 4], vector: &Vector) -> ValueId {
        let id = self.small.leaf(leaf, ne, vector.narrow());
        self.exact.push((id, Array::new(vector.ne, vector.values.clone())));
        id
    }

    fn input(&mut self, vector: &Vector) -> ValueId {
        self.leaf(Leaf::Input, fixed(vector.ne), vector)
    }

    fn node(&mut self, op: Op, ne: [usize; 4], src: &[ValueId], params: [i32; 16]) -> ValueId {
        self.small.node(op, fixed(ne), src, params)
    }

    fn pullback(&mut self, result: ValueId, dy: &Vector, wanted: &[ValueId]) -> Pullback {
        let pullback = self.small.pullback(result, dy.narrow(), wanted);
        let ne = self.small.oracle().ne(pullback.seed);
        self.exact.push((pullback.seed, Array::new(ne, dy.values.clone())));
        pullback
    }

    /// Holds values against the vectors, in the oracle and in the engine.
    fn check(&self, expected: &[(ValueId, Vector)], tolerance: f64) {
        let mut oracle = self.small.oracle().with(&self.exact);
        let ids: Vec<_> = expected.iter().map(|(id, _)| *id).collect();
        let engine = self.small.engine(&ids);
        for ((id, vector), engine) in expected.iter().zip(&engine) {
            let name = self.small.program.describe(*id);
            close(&oracle.value(*id).to_vec(), vector, tolerance, &name);
            let engine: Vec<f64> = engine.iter().map(|&x| f64::from(x)).collect();
            close(&engine, vector, KERNEL, &name);
        }
    }
}

/// Relative to the largest entry.
fn close(found: &[f64], wanted: &Vector, tolerance: f64, name: &str) {
    let top = wanted.values.iter().fold(0.0f64, |top, w| top.max(w.abs()));
    assert_eq!(found.len(), wanted.values.len(), "{name}");
    let near = |(f, w): (&f64, &f64)| (f - w).abs() <= tolerance * top;
    assert!(found.iter().zip(&wanted.values).all(near), "{name}: {found:?} instead of {:?}", wanted.values);
}

fn one_token() -> Layout {
    Layout::bare(&[0])
}

#[test]
fn v1_products_group_the_heads_of_the_first_operand() {
    let v = Vectors::of("V1");
    let mut g = Golden::new(one_token());
    let (a, b) = (g.input(&v.get("a")), g.input(&v.get("b")));
    let y = g.small.program.mul_mat(a, b);
    let back = g.pullback(y, &v.get("dy"), &[a, b]);
    g.check(&[(y, v.get("y")), (back.gradients[0], v.get("da")), (back.gradients[1], v.get("db"))], ORACLE);
}

#[test]
fn v2_factors_are_tiled() {
    let v = Vectors::of("V2");
    let mut g = Golden::new(one_token());
    let (a, b) = (g.input(&v.get("a")), g.input(&v.get("b")));
    let y = g.small.program.mul(a, b);
    let back = g.pullback(y, &v.get("dy"), &[a, b]);
    g.check(&[(y, v.get("y")), (back.gradients[0], v.get("da")), (back.gradients[1], v.get("db"))], ORACLE);
}

#[test]
fn v3_norms() {
    let v = Vectors::of("V3");
    let eps = floats(&[(0, 0.01)]);
    for (op, y, dx, dw) in [(Op::RmsNorm, "y", "dx", "dw"), (Op::Norm, "y2", "dx2", "dw2")] {
        let mut g = Golden::new(one_token());
        let (x, w, b) = (g.input(&v.get("x")), g.input(&v.get("w")), g.input(&v.get("b")));
        let normed = g.node(op.clone(), [4, 2, 1, 1], &[x], eps);
        let gained = g.small.program.mul(normed, w);
        let sum = g.small.program.add(gained, b);
        let (result, wanted) = if op == Op::Norm { (sum, vec![x, w, b]) } else { (gained, vec![x, w]) };
        let back = g.pullback(result, &v.get("dy"), &wanted);
        let mut expected = vec![(result, v.get(y)), (back.gradients[0], v.get(dx)), (back.gradients[1], v.get(dw))];
        expected.extend(back.gradients.get(2).map(|&db| (db, v.get("db2"))));
        g.check(&expected, ORACLE);
    }
}

#[test]
fn v4_functions_and_slopes() {
    let v = Vectors::of("V4");
    let x = Vector { ne: [5, 1, 1, 1], values: vec![-3.0, -1.0, -0.25, 0.5, 2.0] };
    let ones = Vector { values: vec![1.0; 5], ..x.clone() };
    let xielu = floats(&[(1, 0.9), (2, 0.7), (3, 0.5), (4, -1e-6)]);
    let cases = [
        (Unary::Silu, "SILU"),
        (Unary::Gelu, "GELU"),
        (Unary::GeluErf, "GELU_ERF"),
        (Unary::GeluQuick, "GELU_QUI"),
        (Unary::Softplus, "SOFTPLUS"),
        (Unary::Xielu, "XIELU"),
    ];
    for (row, (kind, name)) in cases.into_iter().enumerate() {
        let mut g = Golden::new(one_token());
        let input = g.input(&x);
        let params = if kind == Unary::Xielu { xielu } else { [0; 16] };
        let y = g.node(Op::Unary(kind), x.ne, &[input], params);
        let back = g.pullback(y, &ones, &[input]);
        let tolerance = if kind == Unary::Xielu { ROUNDED } else { ORACLE };
        g.check(&[(y, v.get(name)), (back.gradients[0], v.nth("d", row))], tolerance);
    }
}

#[test]
fn v5_gated_units() {
    let v = Vectors::of("V5");
    let mut g = Golden::new(one_token());
    let (a, b) = (g.input(&v.get("a")), g.input(&v.get("b")));
    let y = g.node(Op::Glu(Glu::SwigluOai), [6, 1, 1, 1], &[a, b], floats(&[(2, 1.702), (3, 1.2)]));
    let back = g.pullback(y, &v.get("dy"), &[a, b]);
    g.check(&[(y, v.get("y")), (back.gradients[0], v.get("da")), (back.gradients[1], v.get("db"))], ROUNDED);

    let mut g = Golden::new(one_token());
    let x = g.input(&v.get("x"));
    let mut swapped = [0; 16];
    swapped[1] = 1;
    let y = g.node(Op::Glu(Glu::Geglu), [3, 1, 1, 1], &[x], swapped);
    let back = g.pullback(y, &v.nth("dy", 1), &[x]);
    g.check(&[(y, v.nth("y", 1)), (back.gradients[0], v.get("dx"))], ORACLE);
}

#[test]
fn v6_rotations() {
    let v = Vectors::of("V6");
    let mut scaled = floats(&[(5, 10000.0), (6, 0.25), (7, 1.0), (8, 1.1), (9, 32.0), (10, 1.0)]);
    (scaled[1], scaled[2], scaled[4]) = (4, 2, 32);
    let mut shifted = floats(&[(5, 10000.0), (6, 1.0), (8, 1.0), (9, 32.0), (10, 1.0)]);
    (shifted[1], shifted[15]) = (4, 2);
    for (nth, params) in [scaled, shifted].into_iter().enumerate() {
        // Positions that no layout gives: the token ids stand in for them.
        let mut g = Golden::new(Layout::bare(&[3, 7]));
        let ne = [Sym::fixed(6), Sym::fixed(1), Sym::per_token(1), Sym::fixed(1)];
        let x = g.leaf(Leaf::Input, ne, &v.get("x"));
        let one = Sym::fixed(1);
        let positions = g.small.program.leaf(Leaf::Tokens, Type::I32, [Sym::per_token(1), one, one, one], "positions");
        let mut src = vec![x, positions];
        if nth == 0 {
            src.push(g.input(&Vector { ne: [3, 1, 1, 1], values: vec![1.0, 1.5, 1.0] }));
        }
        let y = g.small.node(Op::Rope, ne, &src, params);
        let back = g.pullback(y, &v.get("dy"), &[x]);
        g.check(&[(y, v.nth("y", nth)), (back.gradients[0], v.nth("dx", nth))], ROUNDED);
    }
}

#[test]
fn v7_softmax_with_mask_slopes_and_sinks() {
    let v = Vectors::of("V7");
    let mut g = Golden::new(one_token());
    let [x, mask, sinks] = ["x", "mask", "sinks"].map(|name| g.input(&v.get(name)));
    let y = g.node(Op::SoftMax, [3, 2, 3, 1], &[x, mask, sinks], floats(&[(0, 0.6), (1, 8.0)]));
    let back = g.pullback(y, &v.get("dy"), &[x]);
    g.check(&[(y, v.get("y")), (back.gradients[0], v.get("dx"))], ROUNDED);
}

#[test]
fn v8_attention_with_everything() {
    let v = Vectors::of("V8");
    let mut g = Golden::new(Layout::bare(&[0; 3]));
    let (t, one) = (Sym::per_token(1), Sym::fixed(1));
    let heads = |n: i64| [Sym::fixed(2), t, Sym::fixed(n), one];
    let q = g.leaf(Leaf::Input, heads(2), &v.get("q"));
    let [k, values] = ["k", "v"].map(|name| g.leaf(Leaf::Input, heads(1), &v.get(name)));
    let mask = g.small.mask(MaskRule { span: Span::Causal, alibi: true });
    let sinks = g.input(&v.get("sinks"));
    let params = floats(&[(0, 0.7), (1, 8.0), (2, 1.5)]);
    let y = g.small.node(Op::Attention, [Sym::fixed(2), Sym::fixed(2), t, one], &[q, k, values, mask, sinks], params);
    let back = g.pullback(y, &v.get("dy"), &[q, k, values]);
    let [dq, dk, dv] = [0, 1, 2].map(|i| back.gradients[i]);
    g.check(&[(y, v.get("y")), (dq, v.get("dq")), (dk, v.get("dk")), (dv, v.get("dv"))], ROUNDED);
    let log_sums = g.small.oracle().with(&g.exact).log_sums(y);
    close(&log_sums.to_vec(), &v.get("L"), ROUNDED, "log of the sums");
}

#[test]
fn v9_head() {
    let v = Vectors::of("V9");
    let mut g = Golden::new(one_token());
    let (h, w) = (g.input(&v.get("h")), g.leaf(Leaf::Param, fixed(v.get("W").ne), &v.get("W")));
    let raw = g.small.program.mul_mat(w, h);
    let half = g.small.program.scale(raw, 0.5);
    let capped = g.node(Op::Unary(Unary::Tanh), [4, 2, 1, 1], &[half], [0; 16]);
    let z = g.small.program.scale(capped, 2.0);
    let targets = [Target { place: 0, token: 2, weight: 0.5 }, Target { place: 1, token: 0, weight: -1.0 }];
    let logits = g.small.oracle().with(&g.exact).value(z);
    let wanted = v.get("logp");
    for target in targets {
        let found = log_probs(&logits, &[target])[0];
        assert!((found - wanted.values[target.place * 4 + target.token]).abs() < ORACLE, "{found}");
    }
    let dz = Vector { ne: logits.ne, values: seed(&logits, &targets).to_vec() };
    let back = g.pullback(z, &dz, &[h]);
    g.check(&[(z, v.get("z")), (back.gradients[0], v.get("dH"))], ORACLE);

    // The library's own head, row by row.
    for target in targets {
        let mut row: Vec<f32> = logits.row([0, target.place, 0, 0]).iter().map(|&z| z as f32).collect();
        let found = llama_align::loss::logprob::unit_gradient(&mut row, target.token);
        assert!((f64::from(found) - wanted.values[target.place * 4 + target.token]).abs() < KERNEL);
        let raw = Vector { ne: [4, 1, 1, 1], values: v.get("dz_raw").values[target.place * 4..][..4].to_vec() };
        let through_cap = row.iter().zip(logits.row([0, target.place, 0, 0]));
        let found: Vec<_> = through_cap.map(|(&d, z)| target.weight * f64::from(d) * (1.0 - z * z / 4.0)).collect();
        close(&found, &raw, KERNEL, "dz");
    }
}

#[test]
fn v10_a_router_weighs_what_it_has_chosen() {
    let v = Vectors::of("V10");
    let mut golden = Golden::new(Layout::bare(&[0, 0]));
    let logits = golden.input(&v.get("logits"));
    let whole = fixed([4, 2, 1, 1]);
    let probs = golden.node(Op::SoftMax, [4, 2, 1, 1], &[logits], floats(&[(0, 1.0)]));
    let program = &mut golden.small.program;
    let mut descending = [0; 16];
    descending[0] = 1;
    let order = program.node(Op::Other("ARGSORT".into()), Type::I32, whole, &[probs], descending);
    let nb = program.get(order).nb;
    let choices = program.view(order, fixed([2, 2, 1, 1]), nb, Sym::default());
    let columns = program.reshape(probs, fixed([1, 4, 2, 1]));
    let chosen = golden.node(Op::GetRows, [1, 2, 2, 1], &[columns, choices], [0; 16]);
    let chosen = golden.small.program.reshape(chosen, fixed([2, 2, 1, 1]));
    let sum = golden.node(Op::SumRows, [1, 2, 1, 1], &[chosen], [0; 16]);
    let shares = golden.small.program.div(chosen, sum);
    let weights = golden.small.program.scale(shares, 2.5);
    let back = golden.pullback(weights, &v.get("dw"), &[logits]);
    // Only the chosen ones are read.
    let program = &golden.small.program;
    let is_back = |id: &ValueId| program.get(*id).op() == Some(&Op::Grad(GradOp::RowsBack));
    let of_probs = program.ids().find(is_back).unwrap();
    let expected = [(weights, v.get("weights")), (of_probs, v.get("dprobs")), (back.gradients[0], v.get("dlogits"))];
    golden.check(&expected, ROUNDED);
    let ids = golden.small.oracle().value(choices).to_vec();
    assert_eq!(ids, v.get("ids").values);
}

#[test]
fn v11_lora() {
    let v = Vectors::of("V11");
    let mut g = Golden::new(one_token());
    let x = g.input(&v.get("x"));
    let [w, a, b] = ["W", "A", "B"].map(|name| g.leaf(Leaf::Param, fixed(v.get(name).ne), &v.get(name)));
    let p: &mut Program = &mut g.small.program;
    let (frozen, low) = (p.mul_mat(w, x), p.mul_mat(a, x));
    let delta = p.mul_mat(b, low);
    let scaled = p.scale(delta, 0.7);
    let y = p.add(frozen, scaled);
    let back = g.pullback(y, &v.get("dy"), &[x, a, b]);
    let [dx, da, db] = [0, 1, 2].map(|i| back.gradients[i]);
    g.check(&[(y, v.get("y")), (dx, v.get("dx")), (da, v.get("dA")), (db, v.get("dB"))], ROUNDED);
}
