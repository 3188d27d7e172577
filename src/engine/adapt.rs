//! Puts LoRA deltas into a program, in the order of operations of llama.cpp's own `build_lora_mm`.

use super::lower::Form;
use crate::adapter::Lora;
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

/// One factor tensor in the adapted program.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// `<weight>.lora_a` or `<weight>.lora_b`.
    pub name: String,
    /// Its leaf.
    pub value: ValueId,
    /// Elements.
    pub len: usize,
    /// Gradients are formed for it.
    pub trainable: bool,
    /// Which delta and which factor of it.
    pub factor: (usize, usize),
}

/// A program with deltas.
#[derive(Debug)]
pub struct Adapted {
    /// The program; backward passes are appended to it.
    pub program: Program,
    /// Logits \[V, T\].
    pub logits: ValueId,
    /// All factor tensors: A before B, deltas and factors in order.
    pub parameters: Vec<Parameter>,
}

/// Copies a traced program and adds the deltas to every product with their weights.
///
/// The runtime scales B·(A·x); training scales A·x, which is as long as the rank and not as the weight has rows.
pub fn adapt(trace: &Trace, deltas: &[Delta], form: Form) -> Result<Adapted> {
    let source = &trace.program;
    let mut program =
        Program { weights: source.weights.clone(), architecture: source.architecture.clone(), values: Vec::new() };
    let mut parameters = Vec::new();
    let factors = factor_leaves(&mut program, source, deltas, &mut parameters)?;
    let mut map: Vec<ValueId> = Vec::with_capacity(source.values.len());
    for id in source.ids() {
        let mut value = source.get(id).clone();
        if let ValueKind::Node { src, .. } = &mut value.kind {
            for s in src.iter_mut().flatten() {
                *s = map[s.0 as usize];
            }
        }
        let new = program.push(value);
        map.push(adapted(&mut program, source, id, new, &factors, form));
    }
    let logits = map[trace.logits.0 as usize];
    Ok(Adapted { program, logits, parameters })
}

/// A, B and the scale of each delta on a weight.
type Factors = BTreeMap<String, Vec<(ValueId, ValueId, f32)>>;

fn factor_leaves(
    program: &mut Program,
    source: &Program,
    deltas: &[Delta],
    parameters: &mut Vec<Parameter>,
) -> Result<Factors> {
    let mut factors = Factors::new();
    for (d, delta) in deltas.iter().enumerate() {
        for (f, factor) in delta.lora.factors.iter().enumerate() {
            let known = source.weights.iter().find(|w| w.name == factor.weight);
            let fits = known.is_some_and(|w| w.ne == [factor.n_in as i64, factor.n_out as i64, 1, 1]);
            if !fits
                || factor.rank == 0
                || factor.a.len() != factor.n_in * factor.rank
                || factor.b.len() != factor.n_out * factor.rank
            {
                let message = format!("the adapter's factors for {} do not fit the model", factor.weight);
                return Err(Error::new(Kind::Mismatch, message));
            }
            let one = Sym::fixed(1);
            let mut leaf = |suffix: &str, ne0: usize, ne1: usize| {
                let name = format!("{}.lora_{suffix}", factor.weight);
                let ne = [Sym::fixed(ne0 as i64), Sym::fixed(ne1 as i64), one, one];
                let value = program.leaf(Leaf::Param, Type::F32, ne, &name);
                let (len, trainable) = (ne0 * ne1, delta.trainable);
                parameters.push(Parameter { name, value, len, trainable, factor: (d, f) });
                value
            };
            let a = leaf("a", factor.n_in, factor.rank);
            let b = leaf("b", factor.rank, factor.n_out);
            let scale = match factor.alpha.unwrap_or(delta.lora.alpha) {
                0.0 => delta.scale,
                // In llama.cpp's order of operations.
                alpha => delta.scale * alpha / factor.rank as f32,
            };
            factors.entry(factor.weight.clone()).or_default().push((a, b, scale));
        }
    }
    Ok(factors)
}

/// The product with its deltas added, or the value as it is.
fn adapted(
    program: &mut Program,
    source: &Program,
    id: ValueId,
    new: ValueId,
    factors: &Factors,
    form: Form,
) -> ValueId {
    let value = source.get(id);
    if value.op() != Some(&Op::MulMat) {
        return new;
    }
    let Some(list) = source.as_weight(value.src(0)).and_then(|w| factors.get(&source.weight(w).name)) else {
        return new;
    };
    let x = program.get(new).src(1);
    let mut sum = new;
    for &(a, b, scale) in list {
        let h = program.mul_mat(a, x);
        let update = match form {
            Form::Runtime => {
                let ab = program.mul_mat(b, h);
                scaled(program, ab, scale)
            }
            Form::Training | Form::TrainingBf16 | Form::TrainingOps => {
                let h = scaled(program, h, scale);
                program.mul_mat(b, h)
            }
        };
        sum = program.add(sum, update);
    }
    sum
}

/// Also for scale 1: the runtime multiplies too, and a scale of 0 must switch the delta off.
fn scaled(program: &mut Program, x: ValueId, scale: f32) -> ValueId {
    let mut params = [0; 16];
    params[0] = scale.to_bits() as i32;
    let ne = program.get(x).ne;
    program.node(Op::Scale, Type::F32, ne, &[x], params)
}
