//! Weighted sums of losses on pairs: TRL's lists of `loss_type` with `loss_weights`, such as MPO (Wang et al. 2024,
//! arXiv 2411.10442): 0.8 sigmoid + 0.2 bco_pair + 1 sft.

use super::preference::{PairLogps, PairLoss, Preference};

/// Σ wᵢ·lossᵢ over pairs, and a weight of the chosen answers' likelihood.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Losses with their weights; rewards are the first one's.
    pub parts: Vec<(f64, Preference)>,
    /// Weight of `sft`: minus the mean ln π over all tokens of the step's chosen answers. (`Preference::sft_weight` takes the
    /// mean of each answer first, so that a long answer counts no more than a short one.)
    pub sft: f64,
}

/// What one optimizer step divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairUnits {
    /// Pairs.
    pub n_pairs: usize,
    /// Tokens of the chosen answers.
    pub n_chosen_tokens: usize,
}

impl Mixture {
    /// True if a part compares with a reference.
    pub fn has_reference(&self) -> bool {
        self.parts.iter().any(|(_, part)| part.loss.has_reference())
    }

    /// A pair's contribution to the step's loss.
    pub fn of(&self, pair: &PairLogps, units: PairUnits) -> PairLoss {
        let n_tokens = units.n_chosen_tokens.max(1) as f64;
        let mut sum = PairLoss {
            loss: -self.sft * pair.chosen / n_tokens,
            d_chosen: -self.sft / n_tokens,
            d_rejected: 0.0,
            reward_chosen: 0.0,
            reward_rejected: 0.0,
        };
        for (i, (weight, part)) in self.parts.iter().enumerate() {
            let found = part.of(pair, units.n_pairs);
            sum.loss += weight * found.loss;
            sum.d_chosen += weight * found.d_chosen;
            sum.d_rejected += weight * found.d_rejected;
            if i == 0 {
                (sum.reward_chosen, sum.reward_rejected) = (found.reward_chosen, found.reward_rejected);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::central;
    use super::super::preference::PreferenceLoss;
    use super::*;

    const PAIR: PairLogps = PairLogps {
        chosen: -31.0,
        rejected: -24.5,
        ref_chosen: -35.2,
        ref_rejected: -23.0,
        n_chosen: 14,
        n_rejected: 9,
    };
    const UNITS: PairUnits = PairUnits { n_pairs: 4, n_chosen_tokens: 70 };

    fn mpo() -> Mixture {
        let part = |weight, loss| (weight, Preference { loss, ..Preference::dpo(0.1) });
        Mixture { parts: vec![part(0.8, PreferenceLoss::Sigmoid), part(0.2, PreferenceLoss::BcoPair)], sft: 1.0 }
    }

    /// By hand with s_w = 4.2, s_l = −1.5: sigmoid ln(1 + e^−0.57), bco ln(1 + e^−0.42) + ln(1 + e^−0.15), each over 4 pairs;
    /// the likelihood of 31 nats over 70 tokens.
    #[test]
    fn mpo_is_the_weighted_sum_of_its_parts() {
        let found = mpo().of(&PAIR, UNITS);
        let softplus = |x: f64| x.exp().ln_1p();
        let wanted = 0.8 / 4.0 * softplus(-0.57) + 0.2 / 4.0 * (softplus(-0.42) + softplus(-0.15)) + 31.0 / 70.0;
        assert!((found.loss - wanted).abs() < 1e-12, "{} {wanted}", found.loss);
        let d_chosen = central(|chosen| mpo().of(&PairLogps { chosen, ..PAIR }, UNITS).loss, PAIR.chosen);
        let d_rejected = central(|rejected| mpo().of(&PairLogps { rejected, ..PAIR }, UNITS).loss, PAIR.rejected);
        assert!((found.d_chosen - d_chosen).abs() < 1e-9 && (found.d_rejected - d_rejected).abs() < 1e-9);
        assert!((found.reward_chosen - 0.42).abs() < 1e-12 && (found.reward_rejected + 0.15).abs() < 1e-12);
    }

    #[test]
    fn one_part_of_weight_one_is_the_loss_itself() {
        let part = Preference::dpo(0.3);
        let mixture = Mixture { parts: vec![(1.0, part)], sft: 0.0 };
        assert_eq!(mixture.of(&PAIR, UNITS), part.of(&PAIR, 4));
        assert!(mixture.has_reference());
        let free = Preference { loss: PreferenceLoss::Orpo, ..part };
        assert!(!Mixture { parts: vec![(1.0, free)], sft: 1.0 }.has_reference());
    }
}
