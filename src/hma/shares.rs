//! The weight of the model before alignment in every tensor.

use crate::autodiff::layer_of;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};

/// What becomes of tensors that are no linear weight of a block: embeddings and norms. The head has the ratios' mean either way,
/// and so has a tensor that is head and embeddings in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They are the model's before alignment, as in the authors' code.
    Faithful,
    /// They are averaged with the mean, as plain averaging does.
    Uniform,
}

impl Others {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "faithful" => Ok(Self::Faithful),
            "uniform" => Ok(Self::Uniform),
            _ => Err(Error::new(Kind::Argument, format!("--others {name}: neither faithful nor uniform"))),
        }
    }
}

/// A blend: a ratio for every block, and one for what is in none.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Weight of the model before, block by block.
    pub layers: Vec<f64>,
    /// Their mean, which the head has.
    pub mean: f64,
    /// What embeddings and norms have.
    pub others: Others,
}

impl Shares {
    /// Plain averaging: the same weight everywhere.
    pub fn uniform(mean: f64, n_layers: usize) -> Self {
        Self { layers: vec![mean; n_layers], mean, others: Others::Uniform }
    }

    /// Makes a session blend so. `is_tied`: the embeddings serve as head too.
    pub(super) fn set(&self, engine: &mut Engine, is_tied: bool) {
        for i in engine.ratios() {
            let name = engine.parameter_info(i).0;
            let share = self.of(name.strip_suffix(".ratio").unwrap_or(name), is_tied);
            engine.parameter_mut(i)[0] = (1.0 - share) as f32;
        }
    }

    /// The weight of the model before in a tensor. `is_tied`: the embeddings serve as head too.
    pub fn of(&self, tensor: &str, is_tied: bool) -> f64 {
        match (place(tensor), self.others) {
            (Place::Linear(layer), _) => self.layers.get(layer).copied().unwrap_or(self.mean),
            (Place::Head, _) => self.mean,
            (Place::Embeddings, _) if is_tied => self.mean,
            (_, Others::Uniform) => self.mean,
            (_, Others::Faithful) => 1.0,
        }
    }
}

/// What a tensor is, by its name in a GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A weight or bias of a block that is no norm.
    Linear(usize),
    Head,
    Embeddings,
    Other,
}

/// Whether a tensor has the ratio of its block.
pub(super) fn in_group(tensor: &str) -> bool {
    matches!(place(tensor), Place::Linear(_))
}

fn place(tensor: &str) -> Place {
    match layer_of(tensor) {
        Some(_) if tensor.contains("norm") => Place::Other,
        Some(layer) => Place::Linear(layer),
        None if tensor == "token_embd.weight" => Place::Embeddings,
        None if tensor == "output.weight" || tensor == "output.bias" => Place::Head,
        None => Place::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_embeddings_are_the_models_before() {
        let faithful = Shares { layers: vec![0.1, 0.3], mean: 0.2, others: Others::Faithful };
        let uniform = Shares { others: Others::Uniform, ..faithful.clone() };
        let table = [
            ("blk.0.attn_q.weight", 0.1, 0.1),
            ("blk.1.ffn_down.bias", 0.3, 0.3),
            ("blk.1.attn_norm.weight", 1.0, 0.2),
            ("blk.0.attn_q_norm.weight", 1.0, 0.2),
            ("token_embd.weight", 1.0, 0.2),
            ("output_norm.weight", 1.0, 0.2),
            ("output.weight", 0.2, 0.2),
        ];
        for (tensor, a, b) in table {
            assert_eq!((faithful.of(tensor, false), uniform.of(tensor, false)), (a, b), "{tensor}");
        }
        assert_eq!(
            (faithful.of("token_embd.weight", true), Others::from_name("uniform").unwrap()),
            (0.2, Others::Uniform)
        );
        assert!(Others::from_name("x").is_err());
    }
}
