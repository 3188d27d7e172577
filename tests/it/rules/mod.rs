//! Every rule on its own: interpreted gradients against differences, the engine's kernels and its form in
//! ggml's ops against the oracle.
//!
//! The models need not have an op, or need it in one shape only; here each has operands that tell a wrong reading apart.

mod attention;
mod experts;

use crate::small::{fixed, floats, Small};
use llama_align::engine::{Form, Layout};
use llama_align::ir::{Glu, Leaf, Op, Sym, Unary, ValueId};
use quant::Type;

/// Against central differences.
const DIFFERENCE: f64 = 1e-7;
/// The engine's F32 against F64.
const KERNEL: f64 = 2e-6;

/// Differentiates `result` by `wanted` and holds everything against everything.
fn holds(small: &mut Small, name: &str, result: ValueId, wanted: &[ValueId]) {
    let n = small.elements(small.program.get(result).ne);
    let dy = crate::random::Random::of(&format!("{name} dy")).vector(n, 1.0);
    let back = small.pullback(result, dy, wanted);
    let error = small.difference_error(&back);
    assert!(error <= DIFFERENCE, "{name}: differences {error:e}");
    let outputs: Vec<_> = [result].into_iter().chain(back.gradients).collect();
    for form in [Form::Training, Form::TrainingOps] {
        let error = small.engine_error(form, &outputs);
        assert!(error <= KERNEL, "{name}: engine, {form:?} {error:e}");
    }
}

fn small() -> Small {
    Small::new(Layout::bare(&[0; 5]))
}

/// A value with gaps between its rows: the first half of the rows of something wider.
fn gapped(s: &mut Small, ne: [usize; 4], name: &str) -> (ValueId, ValueId) {
    let whole = s.random(fixed([2 * ne[0], ne[1], ne[2], ne[3]]), name);
    let nb = s.program.get(whole).nb;
    (whole, s.program.view(whole, fixed(ne), nb, Sym::fixed(4 * ne[0] as i64)))
}

#[test]
fn of_arithmetic_with_a_tiled_operand() {
    let shapes = [[12, 3, 4, 2], [1, 3, 4, 2], [12, 1, 1, 1], [4, 3, 2, 1], [1, 1, 1, 1]];
    for op in [Op::Add, Op::Sub, Op::Mul, Op::Div] {
        for ne in shapes {
            let mut s = small();
            let (whole, a) = gapped(&mut s, [12, 3, 4, 2], "a");
            let b = s.random(fixed(ne), "b");
            // Away from zero, for the quotient's sake.
            let apart = s.node(Op::Sqr, fixed(ne), &[b], [0; 16]);
            let apart = s.node(Op::Scale, fixed(ne), &[apart], floats(&[(0, 1.0), (1, 0.5)]));
            let y = s.node(op.clone(), fixed([12, 3, 4, 2]), &[a, apart], [0; 16]);
            holds(&mut s, &format!("{} {ne:?}", op.name()), y, &[whole, b]);
        }
    }
}

#[test]
fn of_a_value_that_an_op_reads_twice() {
    let mut s = small();
    let x = s.random(fixed([6, 2, 1, 1]), "x");
    let y = s.program.mul(x, x);
    let z = s.program.add(y, x);
    holds(&mut s, "x·x + x", z, &[x]);
}

#[test]
fn of_functions() {
    let ne = [24, 3, 1, 1];
    for (kind, name) in Unary::ALL.into_iter().filter(|(u, _)| ![Unary::Step, Unary::Sgn].contains(u)) {
        let mut s = small();
        let x = s.random(fixed(ne), name);
        let wide = s.program.scale(x, 4.0);
        let y = s.node(Op::Unary(kind), fixed(ne), &[wide], floats(&[(1, 0.9), (2, 0.7), (3, 0.5), (4, -1e-6)]));
        holds(&mut s, name, y, &[x]);
    }
}

#[test]
fn of_gated_units_split_fused_and_swapped() {
    for (kind, name) in Glu::ALL {
        for form in ["split", "fused", "swapped"] {
            let mut s = small();
            let mut params = floats(&[(2, 1.702), (3, 0.8)]);
            params[1] = i32::from(form == "swapped");
            let (whole, x) = gapped(&mut s, [16, 3, 1, 1], name);
            let (src, wanted, n) = if form == "split" {
                let b = s.random(fixed([16, 3, 1, 1]), "multiplier");
                (vec![x, b], vec![whole, b], 16)
            } else {
                (vec![x], vec![whole], 8)
            };
            let y = s.node(Op::Glu(kind), fixed([n, 3, 1, 1]), &src, params);
            holds(&mut s, &format!("{name} {form}"), y, &wanted);
        }
    }
}

#[test]
fn of_row_ops() {
    let ne = [10, 3, 4, 1];
    let eps = floats(&[(0, 0.01)]);
    let one = [1, 3, 4, 1];
    let cases = [
        (Op::Scale, ne, floats(&[(0, -0.7), (1, 0.3)])),
        (Op::Clamp, ne, floats(&[(0, -0.4), (1, 0.6)])),
        (Op::Clamp, ne, floats(&[(0, f32::NEG_INFINITY), (1, 0.6)])),
        (Op::Sqr, ne, [0; 16]),
        (Op::SumRows, one, [0; 16]),
        (Op::Mean, one, [0; 16]),
        (Op::RmsNorm, ne, eps),
        (Op::Norm, ne, eps),
        (Op::L2Norm, ne, eps),
        // A floor above every row's length: the norm is a constant then.
        (Op::L2Norm, ne, floats(&[(0, 50.0)])),
        (Op::SoftMax, ne, floats(&[(0, 1.7)])),
        (Op::Repeat, [20, 3, 8, 2], [0; 16]),
        (Op::Cont, ne, [0; 16]),
        (Op::Cont, [30, 4, 1, 1], [0; 16]),
    ];
    for (op, result, params) in cases {
        let mut s = small();
        let name = op.name();
        let x = s.random(fixed(ne), &name);
        let y = s.node(op, fixed(result), &[x], params);
        holds(&mut s, &format!("{name} {result:?}"), y, &[x]);
    }
    for op in [Op::Sqrt, Op::Log] {
        let mut s = small();
        let name = op.name();
        let x = s.random(fixed(ne), &name);
        let square = s.node(Op::Sqr, fixed(ne), &[x], [0; 16]);
        let apart = s.node(Op::Scale, fixed(ne), &[square], floats(&[(0, 1.0), (1, 0.5)]));
        let y = s.node(op, fixed(ne), &[apart], [0; 16]);
        holds(&mut s, &name, y, &[x]);
    }
}

#[test]
fn of_products() {
    for (heads_a, heads_b) in [(1, 1), (3, 3), (2, 6), (1, 4)] {
        let mut s = small();
        let (whole, a) = gapped(&mut s, [8, 7, heads_a, 1], "a");
        let b = s.random(fixed([8, 5, heads_b, 1]), "b");
        let y = s.program.mul_mat(a, b);
        holds(&mut s, &format!("MUL_MAT {heads_a} of {heads_b} heads"), y, &[whole, b]);
    }
    let mut s = small();
    let tokens = |n: usize| [Sym::fixed(n as i64), Sym::per_token(1), Sym::fixed(1), Sym::fixed(1)];
    let factor = |s: &mut Small, ne: [usize; 4]| {
        let values = crate::random::Random::of(&format!("{ne:?}")).vector(ne[0] * ne[1], 1.0);
        s.leaf(Leaf::Param, fixed(ne), values)
    };
    let (a, b) = (factor(&mut s, [12, 3, 1, 1]), factor(&mut s, [3, 20, 1, 1]));
    let x = s.random(tokens(12), "x");
    let low = s.program.mul_mat(a, x);
    let y = s.program.mul_mat(b, low);
    holds(&mut s, "LoRA factors", y, &[x, a, b]);
}

#[test]
fn of_views_that_overlap_or_leave_gaps() {
    // Three parts of a fused row, the middle one read by two views and the last elements by none; then the whole again.
    let mut s = small();
    let one = Sym::fixed(1);
    let tokens = |n: i64| [Sym::fixed(n), Sym::per_token(1), one, one];
    let x = s.random(tokens(20), "fused");
    let nb = s.program.get(x).nb;
    let part = |s: &mut Small, at: i64| s.program.view(x, tokens(6), nb, Sym::fixed(4 * at));
    let parts = [0, 6, 8].map(|at| part(&mut s, at));
    let product = s.program.mul(parts[0], parts[1]);
    let sum = s.program.add(product, parts[2]);
    // A view of a view, as heads, that starts within it.
    let (two, t) = (Sym::fixed(2), Sym::per_token(1));
    let heads = s.program.view(parts[2], [two, two, t, one], [nb[0], Sym::fixed(8), nb[1], nb[2]], Sym::fixed(8));
    let turned = s.program.permute(heads, [0, 2, 1, 3]);
    let squared = s.node(Op::Sqr, [two, t, two, one], &[turned], [0; 16]);
    let back = s.program.permute(squared, [0, 2, 1, 3]);
    let flat = s.program.reshape(back, tokens(4));
    let of_heads = s.node(Op::SumRows, tokens(1), &[flat], [0; 16]);
    let of_all = s.node(Op::SumRows, tokens(1), &[x], [0; 16]);
    let factor = s.program.add(of_heads, of_all);
    let y = s.program.mul(sum, factor);
    holds(&mut s, "views", y, &[x]);
}

/// More views of one value than one gradient op takes.
#[test]
fn of_many_views_of_one_value() {
    let mut s = small();
    let x = s.random(fixed([22, 3, 1, 1]), "x");
    let nb = s.program.get(x).nb;
    let two = s.input([1, 1, 1, 1], vec![2.0]);
    let mut product = s.program.view(x, fixed([2, 3, 1, 1]), nb, Sym::default());
    for part in 1..11 {
        let view = s.program.view(x, fixed([2, 3, 1, 1]), nb, Sym::fixed(8 * part));
        // Away from zero, so that no factor hides the others.
        let apart = s.program.add(view, two);
        product = s.program.mul(product, apart);
    }
    holds(&mut s, "many views", product, &[x]);
}

#[test]
fn of_permutations_and_concatenations() {
    for axes in [[1, 0, 2, 3], [0, 2, 1, 3], [1, 2, 0, 3], [2, 0, 1, 3], [3, 1, 0, 2]] {
        let mut s = small();
        let x = s.random(fixed([2, 3, 4, 5]), "x");
        let y = s.program.permute(x, axes);
        let y = s.program.cont(y);
        holds(&mut s, &format!("PERMUTE {axes:?}"), y, &[x]);
    }
    for dim in 0..4 {
        let mut s = small();
        let (a_ne, mut b_ne, mut ne) = ([2, 3, 4, 5], [2, 3, 4, 5], [2, 3, 4, 5]);
        b_ne[dim] = 3;
        ne[dim] = a_ne[dim] + b_ne[dim];
        let (a, b) = (s.random(fixed(a_ne), "a"), s.random(fixed(b_ne), "b"));
        let mut params = [0; 16];
        params[0] = dim as i32;
        let y = s.node(Op::Concat, fixed(ne), &[a, b], params);
        holds(&mut s, &format!("CONCAT {dim}"), y, &[a, b]);
    }
}

/// Rotations: modes, part of the channels, factors, YaRN.
#[test]
fn of_rotations() {
    let yarn = [(5, 1e4), (6, 0.25), (7, 1.0), (8, 1.1), (9, 32.0), (10, 1.0)];
    let plain = [(5, 1e4), (6, 1.0), (7, 0.0), (8, 1.0), (9, 32.0), (10, 1.0)];
    let half = [(5, 1e4), (6, 0.5), (7, 0.5), (8, 0.9), (9, 32.0), (10, 1.0)];
    // Mode, dimensions that turn, first of them, position rows.
    let cases = [(0, 8, 0, 1), (0, 4, 2, 1), (2, 8, 0, 1), (2, 4, 0, 1), (2, 4, 2, 1), (8, 8, 0, 4), (40, 8, 0, 4)];
    for (mode, n_dims, shift, sections) in cases {
        for (scaling, has_factors) in [(plain, false), (yarn, true), (half, false)] {
            let mut s = Small::new(Layout::new([[1; 9].as_slice(), &[1; 4]]).unwrap());
            let mut params = floats(&scaling);
            (params[1], params[2], params[4], params[15]) = (n_dims, mode, 32, shift);
            params[11..15].copy_from_slice(&[2, 1, 1, 0]);
            let one = Sym::fixed(1);
            let ne = [Sym::fixed(8), Sym::fixed(3), Sym::per_token(1), one];
            let x = s.random(ne, "x");
            let at = [Sym::per_token(sections as i64), one, one, one];
            let mut src = vec![x, s.program.leaf(Leaf::Positions { sections }, Type::I32, at, "positions")];
            if has_factors {
                src.push(s.input([4, 1, 1, 1], vec![1.0, 1.5, 2.5, 0.7]));
            }
            let y = s.node(Op::Rope, ne, &src, params);
            holds(&mut s, &format!("ROPE {mode} {n_dims} {shift} {scaling:?}"), y, &[x]);
        }
    }
}

/// A wrong rule is seen: the heads of the second operand tiled over those of the first instead of grouped.
#[test]
fn a_wrong_broadcast_shows() {
    let mut s = small();
    let (a_ne, b_ne) = ([8, 7, 2, 1], [8, 5, 6, 1]);
    let (a, b) = (s.random(fixed(a_ne), "a"), s.random(fixed(b_ne), "b"));
    let y = s.program.mul_mat(a, b);
    let dy = crate::random::Random::of("dy").vector(7 * 5 * 6, 1.0);
    let mut back = s.pullback(y, dy, &[a]);
    assert!(s.difference_error(&back) <= DIFFERENCE);
    // [n, M, heads of a, group] instead of [n, M, group, heads of a]; heads first, as the fold expects them.
    let fold = |s: &mut Small, z: ValueId, n: usize| {
        let split = s.program.reshape(z, fixed([n, 5, 2, 3]));
        let turned = s.program.permute(split, [2, 0, 3, 1]);
        let turned = s.program.cont(turned);
        s.program.reshape(turned, fixed([15, n, 2, 1]))
    };
    let (x, d) = (fold(&mut s, b, 8), fold(&mut s, back.seed, 7));
    back.gradients = vec![s.program.mul_mat(x, d)];
    assert!(s.difference_error(&back) > 0.1);
}
