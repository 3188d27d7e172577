//! Reverse mode over programs: one rule per op, each made of forward ops and a few fused gradient ops.
//!
//! **In:** a program, values with given cotangents, values whose cotangents are wanted. **Out:** the same program with the
//! backward values appended. **Invariant:** cotangents are contiguous F32 in their value's shape; a rule's formula is in
//! specs `vjp`; an op without a rule is refused by name, never skipped.

mod experts;
mod matmul;
mod rules;
mod segments;

pub(crate) use segments::token_axis;
pub use segments::{layer_of, Segment, Segments};

use crate::error::{Error, Kind, Result};
use crate::ir::{GradOp, Op, Placement, Program, Sym, ValueId};
use quant::Type;
use std::collections::{BTreeMap, BTreeSet};

/// Sources that one `Scatter` may have.
const SCATTER_SOURCES_MAX: usize = 8;

/// Appends the backward pass of the values that lead to `seeds`, as far down as `wanted` and never past `given`.
///
/// `seeds` pairs a value with the leaf that holds its cotangent. Returns the cotangent of each wanted value, `None` where
/// nothing that was seeded depends on it.
pub fn differentiate(
    program: &mut Program,
    seeds: &[(ValueId, ValueId)],
    wanted: &[ValueId],
    given: &BTreeSet<ValueId>,
) -> Result<Vec<Option<ValueId>>> {
    let active = activity(program, wanted, given);
    let is_active = move |id: ValueId| active.get(id.0 as usize).copied().unwrap_or(false);
    let top = seeds.iter().map(|(value, _)| value.0).max().unwrap_or(0);
    let mut slots = Slots { cotangents: BTreeMap::new(), scattered: BTreeMap::new(), active: &is_active };
    for &(value, seed) in seeds {
        slots.add(program, value, seed);
    }
    for id in (0..=top).rev().map(ValueId) {
        if !is_active(id) || given.contains(&id) || program.get(id).leaf().is_some() {
            continue;
        }
        if let Some(dy) = slots.take(program, id) {
            rules::apply(program, &mut slots, id, dy)?;
        }
    }
    Ok(wanted.iter().map(|&id| slots.take(program, id)).collect())
}

/// Which values depend on a wanted one; given values are taken as constants unless they are wanted themselves, and so are
/// integers: a choice of experts is a constant of the step (vjp 12).
fn activity(program: &Program, wanted: &[ValueId], given: &BTreeSet<ValueId>) -> Vec<bool> {
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    let mut active = vec![false; program.values.len()];
    for id in program.ids() {
        let depends = || program.get(id).sources().iter().flatten().any(|s| active[s.0 as usize]);
        let flows = program.get(id).ty != Type::I32 && !given.contains(&id);
        active[id.0 as usize] = wanted.contains(&id) || (flows && depends());
    }
    active
}

/// Every value on the way from the adapted products to the logits whose op has no rule, described.
pub fn unsupported(program: &Program, logits: ValueId, adapted: &[ValueId]) -> Vec<String> {
    let active = activity(program, adapted, &BTreeSet::new());
    let mut reached = vec![false; program.values.len()];
    reached[logits.0 as usize] = true;
    let mut list = Vec::new();
    for id in program.ids().rev() {
        if !reached[id.0 as usize] {
            continue;
        }
        for source in program.get(id).sources().iter().flatten() {
            reached[source.0 as usize] = true;
        }
        if active[id.0 as usize] && !rules::has_rule(program, id) {
            list.push(program.describe(id));
        }
    }
    list.reverse();
    list
}

/// The cotangents gathered so far: one slot per value, views' parts kept apart until their parent is visited.
pub(crate) struct Slots<'a> {
    cotangents: BTreeMap<ValueId, ValueId>,
    scattered: BTreeMap<ValueId, Vec<(ValueId, Placement)>>,
    active: &'a dyn Fn(ValueId) -> bool,
}

impl Slots<'_> {
    /// True if a value's cotangent is of use.
    pub(crate) fn wants(&self, id: ValueId) -> bool {
        (self.active)(id)
    }

    /// Adds a contribution to a value's cotangent.
    pub(crate) fn add(&mut self, program: &mut Program, id: ValueId, contribution: ValueId) {
        let sum = match self.cotangents.get(&id) {
            Some(&sum) => program.add(sum, contribution),
            None => contribution,
        };
        self.cotangents.insert(id, sum);
    }

    /// Adds a contribution to the part of a contiguous parent that a view shows.
    pub(crate) fn scatter(&mut self, parent: ValueId, contribution: ValueId, placement: Placement) {
        self.scattered.entry(parent).or_default().push((contribution, placement));
    }

    /// A value's complete cotangent, if anything contributed.
    pub(crate) fn take(&mut self, program: &mut Program, id: ValueId) -> Option<ValueId> {
        let parts = self.scattered.remove(&id).unwrap_or_default();
        for some in parts.chunks(SCATTER_SOURCES_MAX) {
            let (src, placements): (Vec<_>, Vec<_>) = some.iter().copied().unzip();
            let ne = program.get(id).ne;
            let whole = program.node(Op::Grad(GradOp::Scatter(placements)), Type::F32, ne, &src, [0; 16]);
            self.add(program, id, whole);
        }
        self.cotangents.remove(&id)
    }
}

/// A refusal that names op, tensor and architecture.
pub(crate) fn refuse(program: &Program, id: ValueId, why: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{}: {why}", program.describe(id)))
}

/// Where a view's elements lie in the value that owns the memory, with that value.
pub(crate) fn placement(program: &Program, view: ValueId) -> Result<(ValueId, Placement)> {
    let value = program.get(view);
    let (mut offset, mut root) = (value.offset, value.src(0));
    while program.get(root).op() == Some(&Op::View) {
        let next = program.get(root);
        offset = Sym { a: offset.a + next.offset.a, b: offset.b + next.offset.b };
        root = next.src(0);
    }
    let owner = program.get(root);
    if !owner.is_contiguous() || owner.ty != Type::F32 {
        return Err(refuse(program, view, "a view of something that is not contiguous F32 has no gradient rule"));
    }
    let elements = |bytes: Sym| Sym { a: bytes.a / 4, b: bytes.b / 4 };
    Ok((root, Placement { offset: elements(offset), stride: value.nb.map(elements) }))
}
