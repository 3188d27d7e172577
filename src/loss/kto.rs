//! Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8).
//!
//! s = ln π(y|x) − ln π_ref(y|x); desirable: λ_D·(1 − σ(β(s − KL))); undesirable: λ_U·(1 − σ(β(KL − s))).
//!
//! KL is an estimate of KL(π‖π_ref) from mismatched pairs: the prompt of row i with the completion of the next row that comes
//! from another line of the data file (the last row takes the first), fixed for the run. It is the mean of their log-ratios over the optimizer step, at
//! least 0, and no gradient flows through it. Since a mismatched pair does not need a second row of the same batch, every
//! batch size works.

use super::sigmoid;

/// Summed log-probs of an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExampleLogps {
    /// Under the policy.
    pub policy: f64,
    /// Under the reference.
    pub reference: f64,
    /// The completion is wanted.
    pub desirable: bool,
}

/// What an example contributes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExampleLoss {
    /// To the step's loss.
    pub loss: f64,
    /// d loss / d ln π(y|x).
    pub d_policy: f64,
    /// β·s.
    pub reward: f64,
}

/// The step's KL estimate from the log-ratios of its mismatched pairs.
pub fn kl_baseline(mismatched: &[f64]) -> f64 {
    let mean = mismatched.iter().sum::<f64>() / mismatched.len().max(1) as f64;
    mean.max(0.0)
}

/// An example's contribution to the mean over `n_examples_step` examples; `weights` are λ_D and λ_U.
pub fn kto(example: &ExampleLogps, kl: f64, beta: f64, weights: [f64; 2], n_examples_step: usize) -> ExampleLoss {
    let n = n_examples_step.max(1) as f64;
    let ratio = example.policy - example.reference;
    let (sign, weight) = if example.desirable { (1.0, weights[0]) } else { (-1.0, weights[1]) };
    let z = sign * beta * (ratio - kl);
    // 1 − σ(z) = σ(−z), whose slope is −σ(z)σ(−z).
    let loss = weight * sigmoid(-z) / n;
    let d_policy = -weight * sign * beta * sigmoid(z) * sigmoid(-z) / n;
    ExampleLoss { loss, d_policy, reward: beta * ratio }
}

#[cfg(test)]
mod tests {
    use super::super::central;
    use super::*;

    /// Straight from equation 8, value function and weights written out.
    fn reference(e: &ExampleLogps, kl: f64, beta: f64, weights: [f64; 2]) -> f64 {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let s = e.policy - e.reference;
        match e.desirable {
            true => weights[0] * (1.0 - logistic(beta * (s - kl))),
            false => weights[1] * (1.0 - logistic(beta * (kl - s))),
        }
    }

    #[test]
    fn value_and_gradient_match_the_twin() {
        for desirable in [true, false] {
            let e = ExampleLogps { policy: -20.0, reference: -23.5, desirable };
            let found = kto(&e, 1.2, 0.3, [1.0, 1.33], 2);
            assert!((found.loss - reference(&e, 1.2, 0.3, [1.0, 1.33]) / 2.0).abs() < 1e-12);
            let slope = central(|x| reference(&ExampleLogps { policy: x, ..e }, 1.2, 0.3, [1.0, 1.33]), e.policy) / 2.0;
            assert!((found.d_policy - slope).abs() < 1e-9);
        }
    }

    #[test]
    fn the_baseline_is_never_negative() {
        assert_eq!(kl_baseline(&[-2.0, 1.0]), 0.0);
        assert_eq!(kl_baseline(&[2.0, 1.0]), 1.5);
        assert_eq!(kl_baseline(&[]), 0.0);
    }
}
