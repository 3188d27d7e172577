//! What a trainer moves.

use crate::adapter::{Change, Lora};
use crate::data::Sequence;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};

/// A model whose log-probs can be had and whose parameters can be moved. The sequences of one call form one micro-batch.
pub trait Policy {
    /// log p(token | tokens before it) of every completion token, per sequence.
    fn log_probs(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>>;
    /// The same, keeping what the backward needs.
    fn forward(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>>;
    /// Takes d loss / d log-prob for every value of the last `forward`; adds to the gradients.
    fn backward(&mut self, gradients: &[Vec<f32>]) -> Result<()>;
    /// Lengths of the trainable tensors, in a fixed order.
    fn lengths(&self) -> Vec<usize>;
    /// Name of tensor `i`: no two are the same.
    fn name(&self, i: usize) -> String {
        format!("tensor.{i}")
    }
    /// Called before a step, counted from 0: whatever is drawn in it is keyed by seed and step.
    fn begin_step(&mut self, _seed: u64, _step: u64) {}
    /// Values of tensor `i`, to change, and its gradient.
    fn tensor(&mut self, i: usize) -> (&mut [f32], &[f32]);
    /// Gradient of tensor `i`.
    fn gradient(&self, i: usize) -> &[f32];
    /// Sets all gradients to zero.
    fn zero_gradients(&mut self);
    /// Block of the model that tensor `i` belongs to, if it belongs to one.
    fn block(&self, _i: usize) -> Option<usize> {
        None
    }
    /// The changes of whole weights as they are now, for a policy that moves them.
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }
    /// The adapter as it is now, for a policy that moves one.
    fn adapter(&self) -> Option<Lora> {
        None
    }
}

/// Names and values of what a policy trains.
pub(super) fn parameters(policy: &mut dyn Policy) -> Vec<(String, Vec<f32>)> {
    (0..policy.lengths().len()).map(|i| (policy.name(i), policy.tensor(i).0.to_vec())).collect()
}

/// Gives them other values; names and lengths must be the policy's own.
pub(super) fn set_parameters(policy: &mut dyn Policy, parameters: &[(String, Vec<f32>)]) -> Result<()> {
    let lengths = policy.lengths();
    let mismatch = |what: String| Error::new(Kind::Mismatch, format!("checkpoint: {what}"));
    if lengths.len() != parameters.len() {
        let (found, wanted) = (parameters.len(), lengths.len());
        return Err(mismatch(format!("it holds {found} tensors, the run trains {wanted}")));
    }
    for (i, (name, values)) in parameters.iter().enumerate() {
        let (own, len, found) = (policy.name(i), lengths[i], values.len());
        if *name != own || found != len {
            return Err(mismatch(format!("tensor {name} of {found} values instead of {own} of {len}")));
        }
        policy.tensor(i).0.copy_from_slice(values);
    }
    Ok(())
}

impl Policy for Engine {
    fn log_probs(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        Engine::log_probs(self, sequences)
    }

    fn forward(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        Engine::forward(self, sequences)
    }

    fn backward(&mut self, gradients: &[Vec<f32>]) -> Result<()> {
        Engine::backward(self, gradients)
    }

    fn begin_step(&mut self, seed: u64, step: u64) {
        self.set_step(seed, step);
    }

    fn lengths(&self) -> Vec<usize> {
        self.trainable().iter().map(|&i| self.parameter_info(i).1).collect()
    }

    fn name(&self, i: usize) -> String {
        self.parameter_info(self.trainable()[i]).0.to_owned()
    }

    fn tensor(&mut self, i: usize) -> (&mut [f32], &[f32]) {
        let i = self.trainable()[i];
        self.parameter_and_gradient(i)
    }

    fn gradient(&self, i: usize) -> &[f32] {
        Engine::gradient(self, self.trainable()[i])
    }

    fn zero_gradients(&mut self) {
        Engine::zero_gradients(self);
    }

    fn block(&self, i: usize) -> Option<usize> {
        let (name, _) = self.parameter_info(*self.trainable().get(i)?);
        name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
    }

    fn changes(&self) -> Vec<Change> {
        Engine::changes(self)
    }

    fn adapter(&self) -> Option<Lora> {
        self.deltas().into_iter().find(|delta| delta.trainable).map(|delta| delta.lora)
    }
}
