//! Negative preference optimisation of single tokens: ALLO's forgetting (specs `allo_hbat`, 1.4, step 4), after NPO (Zhang et
//! al. 2024, arXiv 2404.05868, equation 3), whose losses are of whole answers.
//!
//! L = Σ_t −w_t·ln σ(−β·(lp_t − lref_t)) / #{t: w_t ≠ 0}. The count is that of the whole optimizer step. A token's slope is
//! w_t·β·σ(β·(lp_t − lref_t)) over that count: it vanishes once the token is unlikely, so nothing blows up as in ascent on
//! the likelihood.

use super::{log_sigmoid, sigmoid};

/// What a sequence contributes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLoss {
    /// To the step's loss.
    pub loss: f64,
    /// d loss / d ln π of every token.
    pub slopes: Vec<f64>,
}

/// Token NPO with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenNpo {
    /// β.
    pub beta: f64,
    /// Multiply by 2/β, as NPO does and ALLO does not: AdamW does not notice, clipping and SGD do.
    pub rescaled: bool,
}

impl TokenNpo {
    /// A sequence's contribution to a step of `n_weighted` tokens whose weight is not 0. All three slices are of its tokens.
    pub fn of(&self, logps: &[f32], reference: &[f32], weights: &[f32], n_weighted: usize) -> TokenLoss {
        let factor = if self.rescaled { 2.0 / self.beta } else { 1.0 } / n_weighted.max(1) as f64;
        let mut found = TokenLoss::default();
        for ((&logp, &reference), &weight) in logps.iter().zip(reference).zip(weights) {
            let (z, weight) = (self.beta * (f64::from(logp) - f64::from(reference)), factor * f64::from(weight));
            if weight == 0.0 {
                found.slopes.push(0.0);
                continue;
            }
            found.loss -= weight * log_sigmoid(-z);
            found.slopes.push(weight * self.beta * sigmoid(z));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::central;
    use super::*;

    const NPO: TokenNpo = TokenNpo { beta: 0.1, rescaled: false };

    fn near(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        found.iter().zip(wanted).for_each(|(f, w)| assert!((f - w).abs() < 1e-8, "{found:?} {wanted:?}"));
    }

    /// Specs `allo_hbat`, 1.12, G4.
    #[test]
    fn g4_four_tokens() {
        let (logps, reference, weights) = ([-1.0, -0.2, -3.0, -0.7], [-1.5, -0.1, -2.0, -0.7], [1.0, 0.0, 1.0, 1.0]);
        let found = NPO.of(&logps, &reference, &weights, 3);
        near(&[found.loss], &[0.685_334_496]);
        near(&found.slopes, &[0.017_083_247, 0.0, 0.015_834_027, 0.016_666_667]);
        let rescaled = TokenNpo { rescaled: true, ..NPO }.of(&logps, &reference, &weights, 3);
        assert!((rescaled.loss - 13.706_689_924).abs() < 1e-7, "{}", rescaled.loss);
        near(&rescaled.slopes, &found.slopes.iter().map(|s| 20.0 * s).collect::<Vec<_>>());
    }

    /// T10 and T13: at the reference it is ln 2; a token of weight 0 changes nothing.
    #[test]
    fn at_the_reference_every_weighted_token_has_half_the_slope() {
        let found = NPO.of(&[-2.0, -0.5, -9.0], &[-2.0, -0.5, -9.0], &[1.0, 0.0, 1.0], 2);
        near(&[found.loss], &[std::f64::consts::LN_2]);
        near(&found.slopes, &[0.025, 0.0, 0.025]);
        assert_eq!(found.loss, NPO.of(&[-2.0, -9.0], &[-2.0, -9.0], &[1.0, 1.0], 2).loss);
        assert_eq!(NPO.of(&[-1.0], &[-2.0], &[0.0], 0), TokenLoss { loss: 0.0, slopes: vec![0.0] });
    }

    /// T12, and the twin: the formula as the specification writes it, by central differences.
    #[test]
    fn slopes_are_the_derivatives_and_bounded() {
        let plain = |logp: f64, reference: f64, weight: f64| {
            -weight * (1.0 / (1.0 + (0.1 * (logp - reference)).exp())).ln() / 5.0
        };
        for (logp, reference, weight) in [(-0.1f32, -30.0f32, 1.0f32), (-60.0, -0.1, 0.5), (-2.0, -2.5, 2.0)] {
            let found = NPO.of(&[logp], &[reference], &[weight], 5);
            let of = |logp| plain(logp, reference.into(), weight.into());
            near(&[found.loss, found.slopes[0]], &[of(logp.into()), central(of, logp.into())]);
            assert!(found.slopes[0] > 0.0 && found.slopes[0] <= 0.1 * f64::from(weight) / 5.0);
        }
    }

    /// Micro-batches of a step add up to the step.
    #[test]
    fn parts_of_a_step_add_up() {
        let (logps, reference, weights) = ([-1.0, -2.0, -3.0], [-1.5, -2.5, -1.0], [0.3, 1.0, 0.7]);
        let whole = NPO.of(&logps, &reference, &weights, 3).loss;
        let parts: f64 = (0..3).map(|i| NPO.of(&logps[i..=i], &reference[i..=i], &weights[i..=i], 3).loss).sum();
        assert!((whole - parts).abs() < 1e-15);
    }
}
