//! What runs when: blocks forward, the head in chunks, blocks backward with their insides recomputed.

use super::adapt::{Adapted, Parameter};
use crate::autodiff::{differentiate, Segments};
use crate::error::Result;
use crate::ir::{Leaf, Op, Program, ValueId};
use quant::Type;
use std::collections::BTreeSet;

/// One block, or the head.
#[derive(Clone, Debug)]
pub struct Step {
    /// Values of earlier segments that it reads.
    pub reads: Vec<ValueId>,
    /// Values it leaves for later segments.
    pub writes: Vec<ValueId>,
    /// For each write, the leaf that holds its cotangent in the backward pass; empty if no backward is needed.
    pub seeds: Vec<(ValueId, ValueId)>,
    /// Reads that need a cotangent, with it.
    pub read_gradients: Vec<(ValueId, ValueId)>,
    /// Trainable parameters used here, by index, with their gradient.
    pub parameter_gradients: Vec<(usize, ValueId)>,
    /// Values computed here that the backward pass reads: what would have to be kept to recompute nothing.
    pub inner: Vec<ValueId>,
    /// Orders of experts that are made here (`ARGSORT`): what a router chooses by.
    pub orders: Vec<ValueId>,
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Blocks in order.
    pub blocks: Vec<Step>,
    /// From the last block's results to the logits.
    pub head: Step,
}

impl Plan {
    /// Cuts the program and appends the backward pass of every segment that needs one.
    pub fn make(adapted: &mut Adapted) -> Result<Self> {
        let segments = Segments::cut(&adapted.program, adapted.logits)?;
        let moving = depends_on_trainable(&adapted.program, &adapted.parameters);
        let mut blocks = Vec::with_capacity(segments.blocks.len());
        for block in &segments.blocks {
            blocks.push(step(adapted, &block.reads, &block.writes, &moving)?);
        }
        let head = step(adapted, &segments.head.reads, &segments.head.writes, &moving)?;
        Ok(Self { blocks, head })
    }
}

fn depends_on_trainable(program: &Program, parameters: &[Parameter]) -> Vec<bool> {
    let mut moving = vec![false; program.values.len()];
    for parameter in parameters.iter().filter(|p| p.trainable) {
        moving[parameter.value.0 as usize] = true;
    }
    for id in program.ids() {
        if program.get(id).sources().iter().flatten().any(|s| moving[s.0 as usize]) {
            moving[id.0 as usize] = true;
        }
    }
    moving
}

fn step(adapted: &mut Adapted, reads: &[ValueId], writes: &[ValueId], moving: &[bool]) -> Result<Step> {
    let given: BTreeSet<_> = reads.iter().copied().collect();
    let moves = |id: ValueId| moving.get(id.0 as usize).copied().unwrap_or(false);
    let mut step = Step {
        reads: reads.to_vec(),
        writes: writes.to_vec(),
        seeds: Vec::new(),
        read_gradients: Vec::new(),
        parameter_gradients: Vec::new(),
        inner: Vec::new(),
        orders: orders(&adapted.program, writes, &given),
    };
    let used = used_parameters(adapted, writes, &given);
    if used.is_empty() && !reads.iter().any(|&r| moves(r)) {
        return Ok(step);
    }
    for &write in writes.iter().filter(|&&w| moves(w)) {
        let ne = adapted.program.get(write).ne;
        let seed = adapted.program.leaf(Leaf::Input, Type::F32, ne, "cotangent");
        step.seeds.push((write, seed));
    }
    let first_backward = adapted.program.values.len() as u32;
    let active: Vec<_> = reads.iter().copied().filter(|&r| moves(r)).collect();
    let wanted: Vec<_> = active.iter().copied().chain(used.iter().map(|&p| adapted.parameters[p].value)).collect();
    let gradients = differentiate(&mut adapted.program, &step.seeds, &wanted, &given)?;
    let (of_reads, of_parameters) = gradients.split_at(active.len());
    step.read_gradients = active.into_iter().zip(of_reads).filter_map(|(r, g)| Some((r, (*g)?))).collect();
    step.parameter_gradients = used.into_iter().zip(of_parameters).filter_map(|(p, g)| Some((p, (*g)?))).collect();
    step.inner = inner(&adapted.program, &step, first_backward);
    Ok(step)
}

/// Forward values that the backward values from `first_backward` on read, where a copy in memory can stand for them.
fn inner(program: &Program, step: &Step, first_backward: u32) -> Vec<ValueId> {
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    let mut stack: Vec<_> = step.read_gradients.iter().map(|&(_, g)| g).collect();
    stack.extend(step.parameter_gradients.iter().map(|&(_, g)| g));
    while let Some(id) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        if id.0 >= first_backward {
            stack.extend(program.get(id).sources().iter().flatten());
            continue;
        }
        let root = program.root(id);
        let value = program.get(root);
        if value.ty == Type::I32 && value.leaf().is_none() {
            // A choice is made again, from what it was made of.
            stack.extend(value.sources().iter().flatten());
            continue;
        }
        if value.leaf().is_none() && !step.reads.contains(&root) && value.ty == Type::F32 && value.is_contiguous() {
            found.insert(root);
        }
    }
    found.into_iter().collect()
}

/// Values that the writes depend on without going through a read.
fn reached(program: &Program, writes: &[ValueId], given: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let mut seen = BTreeSet::new();
    let mut stack: Vec<_> = writes.to_vec();
    while let Some(id) = stack.pop() {
        if !given.contains(&id) && seen.insert(id) {
            stack.extend(program.get(id).sources().iter().flatten());
        }
    }
    seen
}

/// Trainable parameters among them.
fn used_parameters(adapted: &Adapted, writes: &[ValueId], given: &BTreeSet<ValueId>) -> Vec<usize> {
    let seen = reached(&adapted.program, writes, given);
    (0..adapted.parameters.len())
        .filter(|&p| adapted.parameters[p].trainable && seen.contains(&adapted.parameters[p].value))
        .collect()
}

/// Orders among them.
fn orders(program: &Program, writes: &[ValueId], given: &BTreeSet<ValueId>) -> Vec<ValueId> {
    let is_order = |id: &ValueId| matches!(program.get(*id).op(), Some(Op::Other(name)) if name == "ARGSORT");
    reached(program, writes, given).into_iter().filter(is_order).collect()
}
