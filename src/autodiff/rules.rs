//! The rules: what each op hands down to its sources (specs: vjp, sections 1 to 9).

use super::{experts, matmul, placement, refuse, Slots};
use crate::error::Result;
use crate::ir::{Glu, GradOp, Op, Program, Sym, Unary, ValueId};
use quant::Type;

/// True if [`apply`] knows the op.
pub(super) fn has_rule(program: &Program, id: ValueId) -> bool {
    match program.get(id).op() {
        None => true,
        Some(Op::Other(_)) => false,
        Some(_) => true,
    }
}

/// Hands the cotangent `dy` of `id` down to its sources.
pub(super) fn apply(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) -> Result<()> {
    let value = program.get(id).clone();
    let Some(op) = value.op().cloned() else { return Ok(()) };
    match op {
        Op::Add | Op::Sub | Op::Mul | Op::Div => binary(program, slots, id, dy, &op),
        Op::MulMat => return matmul::apply(program, slots, id, dy),
        Op::Attention => attention(program, slots, id, dy),
        Op::View => {
            let (parent, place) = placement(program, id)?;
            slots.scatter(parent, dy, place);
        }
        Op::Glu(kind) => glu(program, slots, id, dy, kind),
        Op::Concat => concat(program, slots, id, dy),
        Op::MulMatId => return experts::product(program, slots, id, dy),
        Op::AddId => return experts::bias(program, slots, id, dy),
        Op::GetRows => experts::rows(program, slots, id, dy),
        Op::Other(_) => return Err(refuse(program, id, "no gradient rule for this op")),
        Op::Grad(_) => return Err(refuse(program, id, "a gradient op is not differentiated again")),
        _ => {
            if let Some(dx) = single(program, id, dy, &op) {
                slots.add(program, value.src(0), dx);
            }
        }
    }
    Ok(())
}

/// Ops with one differentiable source; `None` where the gradient is zero everywhere.
fn single(program: &mut Program, id: ValueId, dy: ValueId, op: &Op) -> Option<ValueId> {
    let value = program.get(id).clone();
    let x = value.src(0);
    let x_ne = program.get(x).ne;
    let fused = |program: &mut Program, op: GradOp, src: &[ValueId]| {
        let src: Vec<_> = src.iter().map(|&s| program.cont(s)).collect();
        program.node(Op::Grad(op), Type::F32, x_ne, &src, value.params)
    };
    Some(match op {
        Op::Scale => program.scale(dy, value.param_f32(0)),
        Op::Dropout => {
            let dy = program.cont(dy);
            program.node(Op::Dropout, Type::F32, x_ne, &[dy], value.params)
        }
        Op::Clamp => fused(program, GradOp::ClampBack, &[x, dy]),
        Op::Sqr => {
            let product = program.mul(dy, x);
            program.scale(product, 2.0)
        }
        Op::Sqrt => {
            let mut params = [0; 16];
            params[0] = f32::MIN_POSITIVE.to_bits() as i32;
            params[1] = f32::INFINITY.to_bits() as i32;
            let safe = program.node(Op::Clamp, Type::F32, value.ne, &[id], params);
            let quotient = program.div(dy, safe);
            program.scale(quotient, 0.5)
        }
        Op::Log => program.div(dy, x),
        Op::SumRows => program.repeat(dy, x_ne),
        Op::Mean => {
            let share = program.scale(dy, 1.0 / x_ne[0].a as f32);
            program.repeat(share, x_ne)
        }
        Op::Repeat => sum_to(program, dy, x_ne),
        Op::RmsNorm => fused(program, GradOp::RmsNormBack, &[x, dy]),
        Op::Norm => fused(program, GradOp::NormBack, &[x, dy]),
        Op::L2Norm => fused(program, GradOp::L2NormBack, &[x, dy]),
        Op::SoftMax => fused(program, GradOp::SoftMaxBack, &[id, dy]),
        Op::Unary(Unary::Step | Unary::Sgn) => return None,
        Op::Unary(Unary::Neg) => program.scale(dy, -1.0),
        Op::Unary(u) => fused(program, GradOp::UnaryBack(*u), &[x, dy]),
        Op::Rope => {
            let mut src = vec![dy];
            src.extend(value.sources().iter().skip(1).flatten());
            program.node(Op::Grad(GradOp::RopeBack), Type::F32, x_ne, &src, value.params)
        }
        Op::Cont | Op::Cast | Op::Reshape => program.reshape(dy, x_ne),
        Op::Permute => {
            let mut inverse = [0; 4];
            for axis in 0..4 {
                inverse[value.params[axis].clamp(0, 3) as usize] = axis;
            }
            let view = program.permute(dy, inverse);
            program.cont(view)
        }
        Op::Transpose => program.transposed(dy),
        _ => return None,
    })
}

/// Sums a full-shape cotangent over everything a tiled operand of shape `ne` mapped to.
pub(super) fn sum_to(program: &mut Program, z: ValueId, ne: [Sym; 4]) -> ValueId {
    if program.get(z).ne == ne {
        return z;
    }
    program.node(Op::Grad(GradOp::SumTo), Type::F32, ne, &[z], [0; 16])
}

fn binary(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId, op: &Op) {
    let (a, b) = (program.get(id).src(0), program.get(id).src(1));
    let b_ne = program.get(b).ne;
    if slots.wants(a) {
        let da = match op {
            Op::Mul => program.mul(dy, b),
            Op::Div => program.div(dy, b),
            _ => dy,
        };
        slots.add(program, a, da);
    }
    if slots.wants(b) {
        let full = match op {
            Op::Mul => program.mul(dy, a),
            Op::Div => {
                let da = program.div(dy, b);
                program.mul(da, id)
            }
            _ => dy,
        };
        let sum = sum_to(program, full, b_ne);
        let db = if matches!(op, Op::Sub | Op::Div) { program.scale(sum, -1.0) } else { sum };
        slots.add(program, b, db);
    }
}

fn glu(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId, kind: Glu) {
    let value = program.get(id).clone();
    let a = value.src(0);
    match value.sources().get(1).copied().flatten() {
        Some(b) => {
            for (source, op) in [(a, GradOp::GluBackGate(kind)), (b, GradOp::GluBackMul(kind))] {
                if slots.wants(source) {
                    let dx = program.node(Op::Grad(op), Type::F32, value.ne, &[a, b, dy], value.params);
                    slots.add(program, source, dx);
                }
            }
        }
        None => {
            let ne = program.get(a).ne;
            let x = program.cont(a);
            let dx = program.node(Op::Grad(GradOp::GluBackFused(kind)), Type::F32, ne, &[x, dy], value.params);
            slots.add(program, a, dx);
        }
    }
}

fn concat(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) {
    let value = program.get(id).clone();
    let dim = value.params[0].clamp(0, 3) as usize;
    let nb = program.get(dy).nb;
    let mut offset = Sym::default();
    for &source in value.sources().iter().flatten() {
        let ne = program.get(source).ne;
        if slots.wants(source) {
            let part = program.view(dy, ne, nb, offset);
            let dx = program.cont(part);
            slots.add(program, source, dx);
        }
        // One axis at most grows with the tokens, so the product exists.
        offset = ne[dim].times(nb[dim]).map_or(offset, |step| Sym { a: offset.a + step.a, b: offset.b + step.b });
    }
}

/// dq, dk and dv come out of one fused op in memory order [d, heads, T]; where q, k, v are the usual permuted views, they go
/// straight to what was permuted.
fn attention(program: &mut Program, slots: &mut Slots, id: ValueId, dy: ValueId) {
    let value = program.get(id).clone();
    let sources: Vec<_> = (0..3).map(|k| value.src(k)).collect();
    let memory = |program: &Program, s: ValueId| {
        let ne = program.get(s).ne;
        [ne[0], ne[2], ne[1], ne[3]]
    };
    let sizes: Vec<i64> = sources.iter().map(|&s| program.get(s).ne[0].a * program.get(s).ne[2].a).collect();
    let total = [Sym::per_token(sizes.iter().sum()), Sym::fixed(1), Sym::fixed(1), Sym::fixed(1)];
    let mut src: Vec<_> = sources.iter().map(|&s| Some(s)).collect();
    src.push(Some(dy));
    src.extend(value.sources().iter().skip(3));
    let all = program.node(Op::Grad(GradOp::AttentionBack), Type::F32, total, &[], value.params);
    if let crate::ir::ValueKind::Node { src: slot, .. } = &mut program.values[all.0 as usize].kind {
        *slot = src;
    }
    let mut offset = 0;
    for (&source, &size) in sources.iter().zip(&sizes) {
        let ne = memory(program, source);
        let part = program.view(all, ne, crate::ir::strides(Type::F32, ne), Sym::per_token(offset));
        offset += size * 4;
        if !slots.wants(source) {
            continue;
        }
        let permuted = program.get(source);
        if permuted.op() == Some(&Op::Permute) && permuted.params[..4] == [0, 2, 1, 3] {
            let target = permuted.src(0);
            slots.add(program, target, part);
        } else {
            let view = program.permute(part, [0, 2, 1, 3]);
            let dx = program.cont(view);
            slots.add(program, source, dx);
        }
    }
}
