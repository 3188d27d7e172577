//! Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).
//!
//! L = −ln σ(β·Δ), Δ = (ln π(y_w) − ln π_ref(y_w)) − (ln π(y_l) − ln π_ref(y_l)), log-probs summed over completion tokens.

use super::{log_sigmoid, sigmoid};

/// Summed log-probs of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogps {
    /// Chosen answer under the policy.
    pub chosen: f64,
    /// Rejected answer under the policy.
    pub rejected: f64,
    /// Chosen answer under the reference.
    pub ref_chosen: f64,
    /// Rejected answer under the reference.
    pub ref_rejected: f64,
}

/// What a pair contributes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// To the step's loss.
    pub loss: f64,
    /// d loss / d ln π(y_w).
    pub d_chosen: f64,
    /// d loss / d ln π(y_l).
    pub d_rejected: f64,
    /// β·(ln π(y_w) − ln π_ref(y_w)).
    pub reward_chosen: f64,
    /// β·(ln π(y_l) − ln π_ref(y_l)).
    pub reward_rejected: f64,
}

/// A pair's contribution to the mean over `n_pairs_step` pairs.
pub fn dpo(pair: &PairLogps, beta: f64, n_pairs_step: usize) -> PairLoss {
    let n = n_pairs_step.max(1) as f64;
    let reward_chosen = beta * (pair.chosen - pair.ref_chosen);
    let reward_rejected = beta * (pair.rejected - pair.ref_rejected);
    let margin = reward_chosen - reward_rejected;
    let slope = -beta * sigmoid(-margin) / n;
    PairLoss { loss: -log_sigmoid(margin) / n, d_chosen: slope, d_rejected: -slope, reward_chosen, reward_rejected }
}

#[cfg(test)]
mod tests {
    use super::super::central;
    use super::*;

    /// Straight from equation 7: the preference probability of the Bradley-Terry model as a ratio of powers.
    fn reference(p: &PairLogps, beta: f64) -> f64 {
        let win = (beta * (p.chosen - p.ref_chosen)).exp();
        let lose = (beta * (p.rejected - p.ref_rejected)).exp();
        -(win / (win + lose)).ln()
    }

    const PAIR: PairLogps = PairLogps { chosen: -31.0, rejected: -24.5, ref_chosen: -35.2, ref_rejected: -23.0 };

    #[test]
    fn value_and_gradients_match_the_twin() {
        let found = dpo(&PAIR, 0.3, 4);
        assert!((found.loss - reference(&PAIR, 0.3) / 4.0).abs() < 1e-12);
        let d_chosen = central(|x| reference(&PairLogps { chosen: x, ..PAIR }, 0.3), PAIR.chosen) / 4.0;
        let d_rejected = central(|x| reference(&PairLogps { rejected: x, ..PAIR }, 0.3), PAIR.rejected) / 4.0;
        assert!((found.d_chosen - d_chosen).abs() < 1e-9 && (found.d_rejected - d_rejected).abs() < 1e-9);
    }

    #[test]
    fn the_reference_itself_costs_ln_two() {
        let pair = PairLogps { ref_chosen: -31.0, ref_rejected: -24.5, ..PAIR };
        let found = dpo(&pair, 0.1, 1);
        assert_eq!((found.reward_chosen, found.reward_rejected), (0.0, 0.0));
        assert!((found.loss - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn extremes_stay_finite() {
        for chosen in [-1e4, 1e4] {
            let found = dpo(&PairLogps { chosen, ..PAIR }, 1.0, 1);
            assert!(found.loss.is_finite() && found.d_chosen.is_finite());
        }
    }
}
