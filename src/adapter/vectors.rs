//! Norms and biases of a model's blocks: small tensors that activations are multiplied with element by element, or that are
//! added to them. They have no factors; what moves is a free change of each.

use super::lora::Linear;
use crate::error::{Error, Kind, Result};
use crate::ir::{Op, Program, ValueId};
use crate::trace::Trace;
use quant::Type;

/// The norms' weights, `*norm.weight`, and the biases, `*.bias`, of a trace's blocks, in the order in which the model uses them;
/// the length of a vector is `n_in`.
///
/// # Errors
/// If there are none of those that are wanted, or one is not read by sums and products of F32 alone.
pub fn norms_and_biases(trace: &Trace, norms: bool, biases: bool) -> Result<Vec<Linear>> {
    let program = &trace.program;
    let mut found = Vec::new();
    for (wanted, flag, ending) in [(norms, "train-norms", "norm.weight"), (biases, "train-biases", ".bias")] {
        let weights = program.weights.iter().filter(|w| w.name.starts_with("blk.") && w.name.ends_with(ending));
        let before = found.len();
        for weight in weights.filter(|_| wanted) {
            let refuse = |what: &str| Error::new(Kind::Unsupported, format!("{flag}: tensor {} {what}", weight.name));
            if weight.ty != Type::F32 || weight.ne[2] * weight.ne[3] != 1 {
                return Err(refuse("is no vector or matrix in F32"));
            }
            if let Some(id) = other_use(program, &weight.name) {
                return Err(refuse(&format!("is read by {}", program.describe(id))));
            }
            let [n_in, n_out, ..] = weight.ne.map(|n| n as usize);
            found.push(Linear::new(weight.name.clone(), n_in, n_out));
        }
        if wanted && found.len() == before {
            let message = format!("{flag}: the blocks of architecture {} have none", program.architecture);
            return Err(Error::new(Kind::Argument, message));
        }
    }
    Ok(found)
}

/// What else than a sum or a product of two reads a weight.
fn other_use(program: &Program, name: &str) -> Option<ValueId> {
    let is_it = |&id: &ValueId| program.as_weight(id).is_some_and(|w| program.weight(w).name == name);
    program.ids().find(|&id| {
        let value = program.get(id);
        !matches!(value.op(), Some(Op::Add | Op::Mul)) && value.sources().iter().flatten().any(is_it)
    })
}
