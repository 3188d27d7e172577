//! Which values of a program are sums of products with matrices: each of these is one pass of one kernel.

use crate::ir::{GradOp, Leaf, Op, Program, Sym, ValueId, WeightId};
use crate::kernel::Side;
use quant::Type;

/// Sources that an op of ours may have.
const SOURCES_MAX: usize = 9;

/// The matrix of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matrix {
    /// A frozen weight.
    Weight(WeightId),
    /// A trainable factor.
    Factor(ValueId),
}

/// One term: a matrix, which way round, and the activations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) matrix: Matrix,
    pub(super) side: Side,
    pub(super) rows: ValueId,
}

/// How often each value of a program is a source.
pub(super) fn uses(program: &Program) -> Vec<u32> {
    let mut uses = vec![0; program.values.len()];
    for value in &program.values {
        for source in value.sources().iter().flatten() {
            uses[source.0 as usize] += 1;
        }
    }
    uses
}

/// The terms of a value that is a product, or a sum of products that nothing else reads. `is_there` says which values have
/// been computed already.
pub(super) fn terms(
    program: &Program,
    uses: &[u32],
    is_there: &dyn Fn(ValueId) -> bool,
    id: ValueId,
) -> Option<Vec<Term>> {
    let mut list = Vec::new();
    collect(program, uses, is_there, id, true, &mut list)?;
    let n_sources = list.iter().map(|t| if matches!(t.matrix, Matrix::Factor(_)) { 2 } else { 1 }).sum::<usize>();
    (n_sources <= SOURCES_MAX).then_some(list)
}

fn collect(
    program: &Program,
    uses: &[u32],
    is_there: &dyn Fn(ValueId) -> bool,
    id: ValueId,
    is_root: bool,
    list: &mut Vec<Term>,
) -> Option<()> {
    if !is_root && (is_there(id) || uses[id.0 as usize] != 1) {
        return None;
    }
    let value = program.get(id);
    match value.op()? {
        Op::Add if program.get(value.src(0)).ne == program.get(value.src(1)).ne => {
            collect(program, uses, is_there, value.src(0), false, list)?;
            collect(program, uses, is_there, value.src(1), false, list)
        }
        Op::MulMat => term(program, id, Side::Forward, list),
        Op::Grad(GradOp::LinearBack) => term(program, id, Side::Transposed, list),
        _ => None,
    }
}

fn term(program: &Program, id: ValueId, side: Side, list: &mut Vec<Term>) -> Option<()> {
    let value = program.get(id);
    let (matrix, rows) = (program.get(value.src(0)), value.src(1));
    let x = program.get(rows);
    let is_flat = x.ne[2] == Sym::fixed(1) || x.is_contiguous();
    if !is_flat || x.nb[0] != Sym::fixed(4) || x.ty != Type::F32 {
        return None;
    }
    let matrix = match matrix.leaf()? {
        Leaf::Param => Matrix::Factor(value.src(0)),
        Leaf::Weight(w) if program.weight(*w).ne[2] * program.weight(*w).ne[3] == 1 => Matrix::Weight(*w),
        _ => return None,
    };
    list.push(Term { matrix, side, rows });
    Some(())
}
