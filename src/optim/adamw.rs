//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), in PyTorch's order of operations.

/// Its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWParams {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamWParams {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Moments of all tensors.
#[derive(Clone, Debug)]
pub struct AdamW {
    params: AdamWParams,
    pub(super) step: u64,
    pub(super) moments: Vec<(Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// Zero moments for tensors of these lengths.
    pub fn new(params: AdamWParams, lengths: impl Iterator<Item = usize>) -> Self {
        Self { params, step: 0, moments: lengths.map(|n| (vec![0.0; n], vec![0.0; n])).collect() }
    }

    /// Begins a step; every tensor is then updated once.
    pub fn begin(&mut self) {
        self.step += 1;
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
        let AdamWParams { beta1, beta2, eps, weight_decay } = self.params;
        let t = self.step as i32;
        let step_size = (learning_rate / (1.0 - beta1.powi(t))) as f32;
        let correction = (1.0 - beta2.powi(t)).sqrt() as f32;
        let decay = (1.0 - learning_rate * weight_decay) as f32;
        // From F64: 1 - 0.999 in F32 is 1.3e-5 off, and every step with it.
        let (keep_second, take_first, take_second) = (beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let eps = eps as f32;
        let (first, second) = &mut self.moments[i];
        let (first, second) = (&mut first[start..], &mut second[start..]);
        for (((p, &g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = g * factor;
            *p *= decay;
            *m += (g - *m) * take_first;
            *v = *v * keep_second + g * g * take_second;
            *p -= step_size * *m / (v.sqrt() / correction + eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_memory_a_step_is_the_sign_of_the_gradient() {
        let params = AdamWParams { beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.5 };
        let mut adam = AdamW::new(params, [2].into_iter());
        let mut values = [4.0, -1.0];
        adam.begin();
        adam.update(0, &mut values, &[0.25, -3.0], 1.0, 1.0);
        // Decay halves, then one step of length 1 against the sign.
        assert_eq!(values, [1.0, 0.5]);
    }

    #[test]
    fn ten_steps_follow_the_published_recurrence() {
        let params = AdamWParams { weight_decay: 0.01, ..AdamWParams::default() };
        let mut adam = AdamW::new(params, [1].into_iter());
        let (mut x, mut y, mut m, mut v) = ([1.0f32], 1.0f64, 0.0f64, 0.0f64);
        for t in 1..=10 {
            let g = f64::from(t).sin();
            adam.begin();
            adam.update(0, &mut x, &[g as f32], 1.0, 0.1);
            (m, v) = (0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g);
            let (mh, vh) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
            y -= 0.1 * (mh / (vh.sqrt() + 1e-8) + 0.01 * y);
        }
        // Ten roundings of a number near 1; a constant formed in F32 costs 5e-6.
        assert!((f64::from(x[0]) - y).abs() < 1e-6, "{} {y}", x[0]);
    }
}
