//! The optimizers behind one door, and what of them a checkpoint holds.

use super::{AdamW, AdamWParams, Sgd, SgdParams};
use crate::error::{Error, Kind, Result};
use crate::mask::Bits;
use serde::{Deserialize, Serialize};

/// Which optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// [`AdamW`].
    AdamW,
    /// [`Sgd`], with momentum.
    Sgd,
}

impl OptimizerKind {
    /// All of them with their names in flags and files.
    pub const ALL: [(Self, &'static str); 2] = [(Self::AdamW, "adamw"), (Self::Sgd, "sgd")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("adamw", |(_, name)| name)
    }
}

/// An optimizer with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimizerParams {
    /// AdamW.
    AdamW(AdamWParams),
    /// SGD with momentum.
    Sgd(SgdParams),
}

/// An optimizer at work.
#[derive(Clone, Debug)]
pub enum Optimizer {
    /// AdamW.
    AdamW(AdamW),
    /// SGD with momentum.
    Sgd(Sgd),
}

/// What an optimizer remembers between two steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Steps that it has made.
    pub steps: u64,
    /// Its memories by the names that PyTorch gives them, each with one vector per tensor.
    pub slots: Vec<(String, Vec<Vec<f32>>)>,
}

impl Optimizer {
    /// An optimizer that has seen nothing, for tensors of these lengths.
    pub fn new(params: OptimizerParams, lengths: impl Iterator<Item = usize>) -> Self {
        match params {
            OptimizerParams::AdamW(params) => Self::AdamW(AdamW::new(params, lengths)),
            OptimizerParams::Sgd(params) => Self::Sgd(Sgd::new(params, lengths)),
        }
    }

    /// Begins a step; every tensor is then updated once.
    pub fn begin(&mut self) {
        if let Self::AdamW(adam) = self {
            adam.begin();
        }
    }

    /// Moves tensor `i` against its gradient times `factor` (the clipping factor).
    pub fn update(&mut self, i: usize, values: &mut [f32], gradient: &[f32], factor: f32, learning_rate: f64) {
        match self {
            Self::AdamW(adam) => adam.update(i, values, gradient, factor, learning_rate),
            Self::Sgd(sgd) => sgd.update(i, values, gradient, factor, learning_rate),
        }
    }

    /// The same for its free numbers only: the others keep their bits, and nothing is remembered of them. The mask multiplies
    /// the whole update, decay included, behind the clipping (specs `allo_hbat`, 1.4, step 6); AdamW and SGD are elementwise,
    /// so that what moves moves as it would without a mask.
    pub fn update_free(
        &mut self,
        i: usize,
        values: &mut [f32],
        gradient: &[f32],
        factor: f32,
        learning_rate: f64,
        free: &Bits,
    ) {
        for run in free.runs() {
            let (start, values, gradient) = (run.start, &mut values[run.clone()], &gradient[run]);
            match self {
                Self::AdamW(adam) => adam.update_from(i, start, values, gradient, factor, learning_rate),
                Self::Sgd(sgd) => sgd.update_from(i, start, values, gradient, factor, learning_rate),
            }
        }
    }

    /// A copy of what it remembers.
    pub fn state(&self) -> OptimizerState {
        match self {
            Self::AdamW(adam) => {
                let first = adam.moments.iter().map(|(m, _)| m.clone()).collect();
                let second = adam.moments.iter().map(|(_, v)| v.clone()).collect();
                let slots = vec![("exp_avg".to_owned(), first), ("exp_avg_sq".to_owned(), second)];
                OptimizerState { steps: adam.step, slots }
            }
            Self::Sgd(sgd) => {
                OptimizerState { steps: 0, slots: vec![("momentum_buffer".to_owned(), sgd.buffers.clone())] }
            }
        }
    }

    /// Takes up a memory.
    ///
    /// # Errors
    /// If it is another optimizer's, or of other tensors.
    pub fn restore(&mut self, state: OptimizerState) -> Result<()> {
        let own = self.state();
        let shape = |s: &OptimizerState| -> Vec<(String, Vec<usize>)> {
            s.slots.iter().map(|(name, tensors)| (name.clone(), tensors.iter().map(Vec::len).collect())).collect()
        };
        if shape(&own) != shape(&state) {
            return Err(Error::new(
                Kind::Mismatch,
                "the optimizer's state is of other tensors or of another optimizer",
            ));
        }
        let mut slots = state.slots.into_iter().map(|(_, tensors)| tensors);
        match self {
            Self::AdamW(adam) => {
                let (first, second) = (slots.next().unwrap_or_default(), slots.next().unwrap_or_default());
                adam.moments = first.into_iter().zip(second).collect();
                adam.step = state.steps;
            }
            Self::Sgd(sgd) => sgd.buffers = slots.next().unwrap_or_default(),
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "masked_tests.rs"]
mod masked_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const ADAM: OptimizerParams =
        OptimizerParams::AdamW(AdamWParams { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 });
    const SGD: OptimizerParams = OptimizerParams::Sgd(SgdParams { momentum: 0.9, weight_decay: 0.1 });

    fn step(optimizer: &mut Optimizer, values: &mut [Vec<f32>; 2], k: usize) {
        optimizer.begin();
        for (i, values) in values.iter_mut().enumerate() {
            let gradient: Vec<f32> = (0..values.len()).map(|j| ((k * 7 + j * 3 + i) as f32).sin()).collect();
            optimizer.update(i, values, &gradient, 0.7, 0.01);
        }
    }

    #[test]
    fn a_memory_taken_up_continues_to_the_bit() {
        for params in [ADAM, SGD] {
            let fresh = || Optimizer::new(params, [3, 5].into_iter());
            let (mut whole, mut values) = (fresh(), [vec![1.0; 3], vec![-2.0; 5]]);
            (0..4).for_each(|k| step(&mut whole, &mut values, k));
            let (mut second, mut there) = (fresh(), values.clone());
            second.restore(whole.state()).unwrap();
            (4..9).for_each(|k| step(&mut whole, &mut values, k));
            (4..9).for_each(|k| step(&mut second, &mut there, k));
            assert_eq!(values, there);
            assert_eq!(whole.state(), second.state());
        }
    }

    #[test]
    fn another_optimizers_memory_is_refused() {
        let mut adam = Optimizer::new(ADAM, [3].into_iter());
        assert_eq!(adam.restore(Optimizer::new(SGD, [3].into_iter()).state()).unwrap_err().kind(), Kind::Mismatch);
        assert!(adam.restore(Optimizer::new(ADAM, [4].into_iter()).state()).is_err());
    }
}
