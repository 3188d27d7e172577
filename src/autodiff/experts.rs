//! Rules of mixtures of experts: products with chosen matrices, and values that are read by a choice (specs: vjp, section 9).
//!
//! The choice itself is a constant of the step.

use super::rules::sum_to;
use super::{refuse, Slots};
use crate::error::Result;
use crate::ir::{GradOp, Leaf, Op, Program, ValueId};
use quant::Type;

/// Hands `dy` \[N, k, T\] of a product with chosen matrices down.
pub(super) fn product(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) -> Result<()> {
    let [w, x, choices] = [0, 1, 2].map(|i| program.get(id).src(i));
    let (w_ne, x_ne, y_ne) = (program.get(w).ne, program.get(x).ne, program.get(id).ne);
    let is_matrix = matches!(program.get(w).leaf(), Some(Leaf::Weight(_) | Leaf::Param));
    if !is_matrix {
        return Err(refuse(program, id, "a product with chosen matrices that are computed has no gradient rule"));
    }
    if slots.wants(x) {
        let ne = [x_ne[0], y_ne[1], y_ne[2], y_ne[3]];
        let dx = program.node(Op::Grad(GradOp::ExpertsBack), Type::F32, ne, &[w, dy, choices], [0; 16]);
        // All experts of a token may have read one row.
        let dx = sum_to(program, dx, x_ne);
        slots.add(program, x, dx);
    }
    if slots.wants(w) {
        let x = program.cont(x);
        let dw = program.node(Op::Grad(GradOp::ExpertsSum), Type::F32, w_ne, &[x, dy, choices], [0; 16]);
        slots.add(program, w, dw);
    }
    Ok(())
}

/// Hands the cotangent of a sum with chosen biases down: they are frozen.
pub(super) fn bias(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) -> Result<()> {
    let (x, biases) = (program.get(id).src(0), program.get(id).src(1));
    if slots.wants(biases) {
        return Err(refuse(program, id, "trained biases of experts have no gradient rule"));
    }
    if slots.wants(x) {
        slots.add(program, x, dy);
    }
    Ok(())
}

/// Hands `dy` \[n, k, T\] of chosen rows back to the values \[n, R, T\] they were read from.
pub(super) fn rows(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) {
    let (table, choices) = (program.get(id).src(0), program.get(id).src(1));
    if slots.wants(table) {
        let ne = program.get(table).ne;
        let rows = program.node(Op::Grad(GradOp::RowsBack), Type::F32, ne, &[dy, choices], [0; 16]);
        slots.add(program, table, rows);
    }
}
