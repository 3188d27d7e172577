//! Products with chosen matrices, chosen biases, and rows of values read by a choice.

use super::{holds, small};
use crate::random::Random;
use crate::small::{fixed, Small};
use llama_align::ir::{Leaf, Op, Sym, ValueId};
use quant::Type;

/// Experts, of which each of five tokens chooses two.
const EXPERTS: usize = 4;
const CHOSEN: usize = 2;
const TOKENS: usize = 5;

/// The two largest of random numbers for every token, as a router's view of their order.
fn choices(s: &mut Small) -> ValueId {
    let by = s.random(fixed([EXPERTS, TOKENS, 1, 1]), "router");
    let mut params = [0; 16];
    params[0] = 1;
    let ne = fixed([EXPERTS, TOKENS, 1, 1]);
    let order = s.program.node(Op::Other("ARGSORT".into()), Type::I32, ne, &[by], params);
    let nb = s.program.get(order).nb;
    s.program.view(order, fixed([CHOSEN, TOKENS, 1, 1]), nb, Sym::default())
}

fn matrices(s: &mut Small, ne: [usize; 4]) -> ValueId {
    let values = Random::of("matrices").vector(ne.iter().product(), 1.0);
    s.leaf(Leaf::Param, fixed(ne), values)
}

#[test]
fn of_products_with_chosen_matrices() {
    for slots in [1, CHOSEN] {
        let mut s = small();
        let choices = choices(&mut s);
        let w = matrices(&mut s, [12, 20, EXPERTS, 1]);
        let x = s.random(fixed([12, slots, TOKENS, 1]), "x");
        let y = s.program.mul_mat_id(w, x, choices);
        holds(&mut s, &format!("MUL_MAT_ID of {slots}"), y, &[w, x]);
    }
}

#[test]
fn of_chosen_biases_and_rows() {
    let mut s = small();
    let choices = choices(&mut s);
    let (x, bias) = (s.random(fixed([12, CHOSEN, TOKENS, 1]), "x"), s.random(fixed([12, EXPERTS, 1, 1]), "bias"));
    let y = s.node(Op::AddId, fixed([12, CHOSEN, TOKENS, 1]), &[x, bias, choices], [0; 16]);
    holds(&mut s, "ADD_ID", y, &[x]);

    let mut s = small();
    let choices = self::choices(&mut s);
    let values = s.random(fixed([3, EXPERTS, TOKENS, 1]), "values");
    let y = s.node(Op::GetRows, fixed([3, CHOSEN, TOKENS, 1]), &[values, choices], [0; 16]);
    holds(&mut s, "GET_ROWS", y, &[values]);
}
