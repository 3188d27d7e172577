//! Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013), in PyTorch's form: the momentum buffer
//! sums gradients, weight decay is a part of the gradient, the rate multiplies the buffer.

/// Its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdParams {
    /// What is kept of the buffer each step; 0 means no momentum.
    pub momentum: f64,
    /// Added to the gradient, times the value.
    pub weight_decay: f64,
}

/// Momentum buffers of all tensors.
#[derive(Clone, Debug)]
pub struct Sgd {
    params: SgdParams,
    pub(super) buffers: Vec<Vec<f32>>,
}

impl Sgd {
    /// Zero buffers for tensors of these lengths.
    pub fn new(params: SgdParams, lengths: impl Iterator<Item = usize>) -> Self {
        Self { params, buffers: lengths.map(|n| vec![0.0; n]).collect() }
    }

    /// Moves tensor `i` against its gradient times `factor` (the clipping factor).
    pub fn update(&mut self, i: usize, values: &mut [f32], gradient: &[f32], factor: f32, learning_rate: f64) {
        self.update_from(i, 0, values, gradient, factor, learning_rate);
    }

    /// The same for a part of the tensor, which begins with its number `start`.
    pub(super) fn update_from(
        &mut self,
        i: usize,
        start: usize,
        values: &mut [f32],
        gradient: &[f32],
        factor: f32,
        learning_rate: f64,
    ) {
        let (momentum, decay, rate) =
            (self.params.momentum as f32, self.params.weight_decay as f32, learning_rate as f32);
        for ((p, &g), buffer) in values.iter_mut().zip(gradient).zip(&mut self.buffers[i][start..]) {
            // From a zero buffer the first step is the gradient itself, as PyTorch's.
            *buffer = *buffer * momentum + (g * factor + decay * *p);
            *p -= rate * *buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_can_be_followed_in_the_head() {
        let mut sgd = Sgd::new(SgdParams { momentum: 0.5, weight_decay: 0.0 }, [1].into_iter());
        let mut x = [4.0];
        // Buffers 2, 0.5·2 + 2 = 3, 0.5·3 − 1.5 = 0; the rate is 0.5.
        for (gradient, wanted) in [(2.0, 3.0), (2.0, 1.5), (-1.5, 1.5)] {
            sgd.update(0, &mut x, &[gradient], 1.0, 0.5);
            assert_eq!(x, [wanted]);
        }
        // Decay is in the gradient: 4·0.25 = 1, clipped gradient 8·0.25 = 2, together 3.
        let mut sgd = Sgd::new(SgdParams { momentum: 0.0, weight_decay: 0.25 }, [1].into_iter());
        let mut x = [4.0];
        sgd.update(0, &mut x, &[8.0], 0.25, 1.0);
        assert_eq!(x, [1.0]);
    }
}
