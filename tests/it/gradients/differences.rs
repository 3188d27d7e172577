//! Central differences of the oracle's loss.

use super::case::Backward;
use crate::oracle::{log_probs, norm, slope, Array, Oracle, Target};
use crate::random::Random;

/// Tensors whose directions are tried: all of a model with two blocks, every third or so of a deeper one.
const TENSORS_MAX: usize = 32;
/// Single entries that are tried.
const ENTRIES: usize = 3;

/// Σ c·log p over the targets, and each block's hidden state times its cotangent.
pub(crate) struct Loss<'a> {
    pub(crate) backward: &'a Backward,
    pub(crate) targets: &'a [Target],
    pub(crate) taps: &'a [Array],
}

impl Loss<'_> {
    fn at(&self, oracle: &mut Oracle) -> f64 {
        let logits = oracle.value(self.backward.adapted.logits);
        let scored = log_probs(&logits, self.targets).iter().zip(self.targets).map(|(l, t)| t.weight * l).sum::<f64>();
        let tapped = self.backward.taps.iter().zip(self.taps).map(|(&(value, _), tap)| {
            let hidden = oracle.value(value);
            hidden.to_vec().iter().zip(tap.slice()).map(|(h, t)| h * t).sum::<f64>()
        });
        scored + tapped.sum::<f64>()
    }

    /// The worst error of an interpreted gradient, over what a direction's derivative is like, and where it is.
    pub(crate) fn worst_difference(&self, oracle: &mut Oracle, name: &str) -> (f64, String) {
        let mut random = Random::of(&format!("{name} directions"));
        let mut worst = (0.0, String::from("nowhere"));
        let mut note = |error: f64, place: String| {
            if error > worst.0 || error.is_nan() {
                worst = (error, place);
            }
        };
        let parameters = &self.backward.adapted.parameters;
        let stride = parameters.len().div_ceil(TENSORS_MAX) | 1;
        for (i, parameter) in parameters.iter().enumerate().step_by(stride) {
            let gradient = oracle.value(self.backward.gradients[i]);
            let direction = random.direction(parameter.len);
            let size = norm(gradient.slice()) / (parameter.len as f64).sqrt();
            let exact: f64 = gradient.slice().iter().zip(&direction).map(|(g, d)| g * d).sum();
            let found = slope(oracle, &[(parameter.value, &direction)], &|o| self.at(o));
            note((found - exact).abs() / size, format!("along {}", parameter.name));
        }
        for _ in 0..ENTRIES {
            let i = random.below(parameters.len());
            let gradient = oracle.value(self.backward.gradients[i]);
            let entry = random.below(parameters[i].len);
            let mut direction = vec![0.0; parameters[i].len];
            direction[entry] = 1.0;
            let size = norm(gradient.slice()) / (parameters[i].len as f64).sqrt();
            let found = slope(oracle, &[(parameters[i].value, &direction)], &|o| self.at(o));
            note((found - gradient.slice()[entry]).abs() / size, format!("entry {entry} of {}", parameters[i].name));
        }
        worst
    }
}
