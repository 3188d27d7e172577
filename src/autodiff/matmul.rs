//! Rules of `MUL_MAT`: frozen weights, trainable factors, and products of two activations (specs: vjp, section 3).

use super::{refuse, Slots};
use crate::error::Result;
use crate::ir::{GradOp, Leaf, Op, Program, Sym, ValueId};
use quant::Type;

/// Hands `dy` down to the sources of a product.
pub(super) fn apply(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) -> Result<()> {
    let (a, b) = (program.get(id).src(0), program.get(id).src(1));
    let (a_ne, b_ne) = (program.get(a).ne, program.get(b).ne);
    if slots.wants(b) {
        let db = match program.get(a).leaf() {
            Some(Leaf::Weight(_) | Leaf::Param) if a_ne[2] == Sym::fixed(1) && a_ne[3] == Sym::fixed(1) => {
                program.node(Op::Grad(GradOp::LinearBack), Type::F32, b_ne, &[a, dy], [0; 16])
            }
            // Two activations, or a stack of weights, one per head, which is small enough to be decoded whole.
            _ => {
                let float = match program.get(a).ty {
                    Type::F32 => a,
                    _ => program.node(Op::Cast, Type::F32, a_ne, &[a], [0; 16]),
                };
                let turned = program.transposed(float);
                program.mul_mat(turned, dy)
            }
        };
        slots.add(program, b, db);
    }
    if slots.wants(a) {
        let da = match program.get(a).leaf() {
            Some(Leaf::Param) => {
                let x = program.cont(b);
                program.node(Op::Grad(GradOp::OuterSum), Type::F32, a_ne, &[x, dy], [0; 16])
            }
            _ => grouped(program, id, a_ne, b, dy)?,
        };
        slots.add(program, a, da);
    }
    Ok(())
}

/// da of two activations: the group of heads that share `a` is folded into the contraction (vjp 3).
fn grouped(program: &mut Program, id: ValueId, a_ne: [Sym; 4], b: ValueId, dy: ValueId) -> Result<ValueId> {
    let b_ne = program.get(b).ne;
    let one = Sym::fixed(1);
    if a_ne[3] != one || b_ne[3] != one || !a_ne[2].is_fixed() || !b_ne[2].is_fixed() || a_ne[2].a == 0 {
        return Err(refuse(program, id, "a product over four axes has no gradient rule"));
    }
    let group = Sym::fixed(b_ne[2].a / a_ne[2].a);
    let fold = |program: &mut Program, z: ValueId| {
        let ne = program.get(z).ne;
        let split = program.reshape(z, [ne[0], ne[1], group, a_ne[2]]);
        let turned = program.permute(split, [2, 0, 1, 3]);
        let turned = program.cont(turned);
        let folded = ne[1].times(group)?;
        Some(program.reshape(turned, [folded, ne[0], a_ne[2], one]))
    };
    match (fold(program, b), fold(program, dy)) {
        (Some(b), Some(dy)) => Ok(program.mul_mat(b, dy)),
        _ => Err(refuse(program, id, "two axes grow with the tokens")),
    }
}
