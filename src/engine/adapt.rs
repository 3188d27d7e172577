//! Puts LoRA deltas into a program, in the order of operations of llama.cpp's own `build_lora_mm` and `build_lora_mm_id`.

use super::dropout::weight_key;
use super::lower::Form;
use crate::adapter::{Change, Lora};
use crate::autodiff::layer_of;
use crate::error::{Error, Kind, Result};
use crate::ir::{Leaf, Op, Program, Sym, ValueId, ValueKind};
use crate::trace::Trace;
use quant::Type;
use std::collections::BTreeMap;

/// A delta on a frozen model: W + scale·(alpha/r)·B·A for each of its factors.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The factors.
    pub lora: Lora,
    /// Multiplies all of them.
    pub scale: f32,
    /// Gradients are formed for it.
    pub trainable: bool,
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A of a delta's factor: which delta, which factor of it.
    A(usize, usize),
    /// B of the same.
    B(usize, usize),
    /// A weight's free change.
    Change(usize),
    /// One number that multiplies a factor's update, or that is the second model's weight in a blend; 1 at first.
    Ratio,
}

/// One tensor of floats in the adapted program.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// `<weight>.lora_a`, `<weight>.lora_b`, `<weight>.change` or `<weight>.ratio`.
    pub name: String,
    /// Its leaf.
    pub value: ValueId,
    /// Elements.
    pub len: usize,
    /// Gradients are formed for it.
    pub trainable: bool,
    /// What it is.
    pub role: Role,
}

/// A program with deltas.
#[derive(Debug)]
pub struct Adapted {
    /// The program; backward passes are appended to it.
    pub program: Program,
    /// Logits \[V, T\].
    pub logits: ValueId,
    /// Ratios of the trace, then all factor tensors: A before B before its ratio, deltas and factors in order.
    pub parameters: Vec<Parameter>,
}

/// Copies a traced program and adds the deltas to every product with their weights.
///
/// The runtime scales B·(A·x); training scales A·x, which is as long as the rank and not as the weight has rows.
pub fn adapt(trace: &Trace, deltas: &[Delta], form: Form) -> Result<Adapted> {
    adapt_with(trace, deltas, &[], form, Moving::Factors)
}

/// What of the deltas a session moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moving {
    /// The factors.
    Factors,
    /// The factors, where what A reads is dropped in part while a step is computed.
    Dropping,
    /// A number for every factor, which multiplies its update; it is trained in a block.
    Ratios,
    /// A's rows alone: B says where they belong.
    Rows,
}

/// The same, where every weight of `changes` also becomes W + D, and D moves.
pub fn adapt_changed(trace: &Trace, deltas: &[Delta], changes: &[Change], form: Form) -> Result<Adapted> {
    adapt_with(trace, deltas, changes, form, Moving::Factors)
}

/// The same, with what of the deltas moves.
pub(super) fn adapt_with(
    trace: &Trace,
    deltas: &[Delta],
    changes: &[Change],
    form: Form,
    moving: Moving,
) -> Result<Adapted> {
    let source = &trace.program;
    let mut program =
        Program { weights: source.weights.clone(), architecture: source.architecture.clone(), values: Vec::new() };
    let mut parameters = Vec::new();
    let factors = factor_leaves(&mut program, source, deltas, &mut parameters, moving)?;
    let changes = change_leaves(&mut program, source, changes, &mut parameters)?;
    let mut map: Vec<ValueId> = Vec::with_capacity(source.values.len());
    for id in source.ids() {
        let mut value = source.get(id).clone();
        let adds = matches!(value.op(), Some(Op::Add | Op::Mul));
        if let ValueKind::Node { src, .. } = &mut value.kind {
            for s in src.iter_mut().flatten() {
                let change = source.as_weight(*s).filter(|_| adds).and_then(|w| changes.get(&source.weight(w).name));
                let new = map[s.0 as usize];
                // Beside its use: what a block reads of a weight is computed in that block.
                *s = change.map_or(new, |&change| program.add(new, change));
            }
        }
        let new = program.push(value);
        if let Some(ratio) = trace.ratios.iter().find(|ratio| ratio.value == id) {
            let (name, trainable) = (source.get(id).name.clone(), ratio.trainable);
            parameters.push(Parameter { name, value: new, len: 1, trainable, role: Role::Ratio });
        }
        let with_factors = adapted(&mut program, source, id, new, &factors, form)?;
        map.push(changed(&mut program, source, id, (new, with_factors), &changes));
    }
    let logits = map[trace.logits.0 as usize];
    Ok(Adapted { program, logits, parameters })
}

/// A delta on a weight.
struct Pair {
    a: ValueId,
    b: ValueId,
    /// The delta's scale times alpha / r.
    scale: f32,
    /// What A reads is dropped in part.
    drops: bool,
    ratio: Option<ValueId>,
}

/// The deltas by weight.
type Factors = BTreeMap<String, Vec<Pair>>;

fn factor_leaves(
    program: &mut Program,
    source: &Program,
    deltas: &[Delta],
    parameters: &mut Vec<Parameter>,
    moving: Moving,
) -> Result<Factors> {
    let mut factors = Factors::new();
    for (d, delta) in deltas.iter().enumerate() {
        for (f, factor) in delta.lora.factors.iter().enumerate() {
            let known = source.weights.iter().find(|w| w.name == factor.weight);
            let fits =
                known.is_some_and(|w| w.ne == [factor.n_in as i64, factor.n_out as i64, factor.n_experts as i64, 1]);
            let n_ranks = factor.rank * factor.n_experts;
            if !fits
                || n_ranks == 0
                || factor.a.len() != factor.n_in * n_ranks
                || factor.b.len() != factor.n_out * n_ranks
            {
                let message = format!("the adapter's factors for {} do not fit the model", factor.weight);
                return Err(Error::new(Kind::Mismatch, message));
            }
            let one = Sym::fixed(1);
            let mut leaf = |suffix: &str, [ne0, ne1, ne2]: [usize; 3], trainable: bool, role: Role| {
                let name = format!("{}.{suffix}", factor.weight);
                let [ne0, ne1, ne2] = [ne0, ne1, ne2].map(|n| n as i64);
                let ne = [Sym::fixed(ne0), Sym::fixed(ne1), Sym::fixed(ne2), one];
                let value = program.leaf(Leaf::Param, Type::F32, ne, &name);
                let len = (ne0 * ne1 * ne2) as usize;
                parameters.push(Parameter { name, value, len, trainable, role });
                value
            };
            let (by_ratio, in_block) = (moving == Moving::Ratios, layer_of(&factor.weight).is_some());
            let moves = delta.trainable && !by_ratio;
            let a = leaf("lora_a", [factor.n_in, factor.rank, factor.n_experts], moves, Role::A(d, f));
            let b = leaf(
                "lora_b",
                [factor.rank, factor.n_out, factor.n_experts],
                moves && moving != Moving::Rows,
                Role::B(d, f),
            );
            let ratio = by_ratio.then(|| leaf("ratio", [1, 1, 1], in_block, Role::Ratio));
            let scale = match factor.alpha.unwrap_or(delta.lora.alpha) {
                0.0 => delta.scale,
                // In llama.cpp's order of operations.
                alpha => delta.scale * alpha / factor.rank as f32,
            };
            let drops = moving == Moving::Dropping && delta.trainable;
            factors.entry(factor.weight.clone()).or_default().push(Pair { a, b, scale, drops, ratio });
        }
    }
    Ok(factors)
}

fn change_leaves(
    program: &mut Program,
    source: &Program,
    changes: &[Change],
    parameters: &mut Vec<Parameter>,
) -> Result<BTreeMap<String, ValueId>> {
    let mut leaves = BTreeMap::new();
    for (c, Change { weight, n_in, n_out, values }) in changes.iter().enumerate() {
        let known = source.weights.iter().find(|w| w.name == *weight);
        let fits = known.is_some_and(|w| w.ne == [*n_in as i64, *n_out as i64, 1, 1]);
        if !fits || values.len() != n_in * n_out || leaves.contains_key(weight) {
            let message = format!("the change of {weight} does not fit the model");
            return Err(Error::new(Kind::Mismatch, message));
        }
        let (name, one) = (format!("{weight}.change"), Sym::fixed(1));
        let ne = [Sym::fixed(*n_in as i64), Sym::fixed(*n_out as i64), one, one];
        let value = program.leaf(Leaf::Param, Type::F32, ne, &name);
        parameters.push(Parameter { name, value, len: values.len(), trainable: true, role: Role::Change(c) });
        leaves.insert(weight.clone(), value);
    }
    Ok(leaves)
}

/// The product `of.0` with W, which has become `of.1` by its factors, with D·x added.
fn changed(
    program: &mut Program,
    source: &Program,
    id: ValueId,
    of: (ValueId, ValueId),
    changes: &BTreeMap<String, ValueId>,
) -> ValueId {
    let value = source.get(id);
    if value.op() != Some(&Op::MulMat) {
        return of.1;
    }
    let weight = source.as_weight(value.src(0)).map(|w| &source.weight(w).name);
    let Some(&change) = weight.and_then(|name| changes.get(name)) else { return of.1 };
    let x = program.get(of.0).src(1);
    let update = program.mul_mat(change, x);
    program.add(of.1, update)
}

/// The product with its deltas added, or the value as it is.
fn adapted(
    program: &mut Program,
    source: &Program,
    id: ValueId,
    new: ValueId,
    factors: &Factors,
    form: Form,
) -> Result<ValueId> {
    let value = source.get(id);
    let is_product = matches!(value.op(), Some(Op::MulMat | Op::MulMatId));
    let weight = is_product.then(|| source.as_weight(value.src(0))).flatten();
    let Some((name, list)) = weight.and_then(|w| factors.get_key_value(&source.weight(w).name)) else {
        return Ok(new);
    };
    let x = program.get(new).src(1);
    // Factors of experts are chosen as the experts are.
    let choices = program.get(new).sources().get(2).copied().flatten();
    let product = |program: &mut Program, a: ValueId, x: ValueId| match choices {
        Some(choices) => program.mul_mat_id(a, x, choices),
        None => program.mul_mat(a, x),
    };
    let mut sum = new;
    for &Pair { a, b, scale, drops, ratio } in list {
        let seen = if drops { dropped(program, x, name)? } else { x };
        let h = product(program, a, seen);
        let update = match form {
            Form::Runtime => {
                let ab = product(program, b, h);
                let ab = scaled(program, ab, scale);
                ratio.map_or(ab, |ratio| program.mul(ab, ratio))
            }
            Form::Training | Form::TrainingBf16 | Form::TrainingOps => {
                let h = scaled(program, h, scale);
                let h = ratio.map_or(h, |ratio| program.mul(h, ratio));
                product(program, b, h)
            }
        };
        sum = program.add(sum, update);
    }
    Ok(sum)
}

/// x with some of its numbers dropped, keyed by the weight.
fn dropped(program: &mut Program, x: ValueId, weight: &str) -> Result<ValueId> {
    let ne = program.get(x).ne;
    // The head computes its tokens in chunks, whose places are not those of the batch.
    if !weight.starts_with("blk.") || ne[1] != Sym::per_token(1) || ne[2] != Sym::fixed(1) {
        let message = format!("lora-dropout: the input of {weight} is not one row per token of a block");
        return Err(Error::new(Kind::Unsupported, message));
    }
    let (mut params, key) = ([0; 16], weight_key(weight));
    (params[0], params[1]) = (key as u32 as i32, (key >> 32) as u32 as i32);
    Ok(program.node(Op::Dropout, Type::F32, ne, &[x], params))
}

/// Also for scale 1: the runtime multiplies too, and a scale of 0 must switch the delta off.
fn scaled(program: &mut Program, x: ValueId, scale: f32) -> ValueId {
    let mut params = [0; 16];
    params[0] = scale.to_bits() as i32;
    let ne = program.get(x).ne;
    program.node(Op::Scale, Type::F32, ne, &[x], params)
}
