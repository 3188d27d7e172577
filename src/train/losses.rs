//! The losses on pairs that a configuration names.

use super::config::TrainConfig;
use super::method::Method;
use super::resolve::bad;
use crate::error::Result;
use crate::loss::{Mixture, Preference, PreferenceLoss};

/// What minus the mean ln π of the chosen answers' tokens is called in a list of losses.
const SFT: &str = "sft";

impl TrainConfig {
    /// `loss_type` with its weights; `None` stands for `sft`.
    fn weighted_losses(&self) -> Result<Vec<(f64, Option<PreferenceLoss>)>> {
        let wanted = self.loss_type.to_ascii_lowercase().replace('-', "_");
        let mut losses = Vec::new();
        for name in wanted.split(',').map(str::trim) {
            let loss = PreferenceLoss::ALL.into_iter().find(|(_, known)| *known == name).map(|(loss, _)| loss);
            if loss.is_none() && name != SFT {
                let names: Vec<_> = PreferenceLoss::ALL.iter().map(|(_, name)| *name).collect();
                let what = format!("{name} is none of {}, nor, in a list, {SFT}", names.join(", "));
                return Err(bad("loss_type", &what));
            }
            if losses.iter().any(|(_, known)| *known == loss) {
                return Err(bad("loss_type", &format!("{name} is listed twice")));
            }
            losses.push((1.0, loss));
        }
        let n = self.loss_weights.len();
        if n > 0 && n != losses.len() {
            return Err(bad("loss_weights", &format!("{n} weights for {} losses of loss-type", losses.len())));
        }
        losses.iter_mut().zip(&self.loss_weights).for_each(|((weight, _), &given)| *weight = given);
        if losses.iter().all(|(weight, loss)| loss.is_none() || *weight == 0.0) {
            return Err(bad("loss_type", "without a loss on pairs of some weight it is --method sft"));
        }
        Ok(losses)
    }

    /// The losses on pairs that `loss_type` names, with their weights.
    pub(super) fn losses(&self) -> Result<Vec<(f64, PreferenceLoss)>> {
        Ok(self.weighted_losses()?.into_iter().filter_map(|(weight, loss)| Some((weight, loss?))).collect())
    }

    /// By what held-out answers have rewards: the first loss on pairs, as in training; DPO's implicit reward for other methods.
    pub(super) fn rewards(&self) -> Result<Preference> {
        let first = match self.method {
            Method::Dpo => self.mixture()?.parts.first().map(|(_, part)| *part),
            Method::Sft | Method::Kto | Method::Npo => None,
        };
        Ok(first.unwrap_or_else(|| Preference::dpo(self.beta)))
    }

    /// The losses on pairs with their constants.
    pub fn mixture(&self) -> Result<Mixture> {
        let Self { beta, label_smoothing, simpo_gamma: gamma, cpo_alpha, sft_weight, .. } = *self;
        let losses = self.weighted_losses()?;
        let sft = losses.iter().filter(|(_, loss)| loss.is_none()).map(|(weight, _)| weight).sum();
        let first = self.losses()?.iter().position(|(weight, _)| *weight > 0.0);
        let part = |(i, (weight, loss)): (usize, (f64, PreferenceLoss))| {
            // Once, whatever the weight of the loss that it stands beside.
            let sft_weight = if Some(i) == first { sft_weight / weight } else { 0.0 };
            (weight, Preference { loss, beta, label_smoothing, gamma, cpo_alpha, sft_weight })
        };
        Ok(Mixture { parts: self.losses()?.into_iter().enumerate().map(part).collect(), sft })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(text: &str) -> Result<Mixture> {
        let (config, keys) = TrainConfig::from_toml_with_keys(text, "run.toml")?;
        config.refuse_unused(&keys)?;
        config.resolve()?.mixture()
    }

    #[test]
    fn trl_spells_mixtures_as_lists_and_flags_with_commas() {
        let mpo = mixture("loss_type = [\"sigmoid\", \"bco_pair\", \"sft\"]\nloss_weights = [0.8, 0.2, 1.0]").unwrap();
        let parts: Vec<_> = mpo.parts.iter().map(|(weight, part)| (*weight, part.loss, part.beta)).collect();
        assert_eq!(parts, [(0.8, PreferenceLoss::Sigmoid, 0.1), (0.2, PreferenceLoss::BcoPair, 0.1)]);
        assert_eq!(mpo.sft, 1.0);
        assert_eq!(mixture("loss_type = \"sigmoid,bco-pair, sft\"\nloss_weights = [0.8, 0.2, 1]").unwrap(), mpo);
        let plain = mixture("loss_type = \"orpo, sft\"").unwrap();
        assert!((plain.parts[0].0, plain.sft) == (1.0, 1.0) && !plain.has_reference());
        assert!(mixture("loss_type = \"simpo,sigmoid\"").unwrap().has_reference());
        let beside = mixture("loss_type = \"ipo,hinge\"\nloss_weights = [0.5, 2]\nsft_weight = 0.3").unwrap();
        let weights: Vec<_> = beside.parts.iter().map(|(weight, part)| weight * part.sft_weight).collect();
        assert_eq!(weights, [0.3, 0.0]);
    }

    #[test]
    fn lists_that_mean_nothing_are_refused() {
        for (text, says) in [
            ("loss_type = \"sigmoid,sft\"\nloss_weights = [1.0]", "1 weights for 2 losses"),
            ("loss_type = \"sigmoid,sigmoid\"", "twice"),
            ("loss_type = \"sft\"", "--method sft"),
            ("loss_type = \"\"", "none of"),
            ("loss_type = \"sigmoid,\"", "none of"),
            ("loss_weights = [-1.0]", "outside 0"),
            ("loss_weights = [nan]", "outside 0"),
            ("loss_type = \"sigmoid,ipo\"\nlabel_smoothing = 0.1", "label-smoothing"),
            ("cpo_alpha = 0.5", "cpo-alpha"),
        ] {
            let error = mixture(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!(mixture("loss_type = \"ipo,robust\"\nlabel_smoothing = 0.2").unwrap().parts.len(), 2);
    }
}
