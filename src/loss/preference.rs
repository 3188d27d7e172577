//! Losses on preference pairs: the DPO family, and those that need no reference.
//!
//! Notation: l = ln π(y|x) summed over the answer's n tokens, s = l − ln π_ref(y|x), subscripts w (chosen) and l (rejected),
//! Δ = s_w − s_l, ā = l/n, σ the logistic function.

use super::{log_sigmoid, sigmoid};

/// Which loss, by the names that TRL gives them where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreferenceLoss {
    /// −ln σ(βΔ). DPO, Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    Sigmoid,
    /// −(1−ε)·ln σ(βΔ) − ε·ln σ(−βΔ). Conservative DPO, Mitchell 2023 (A note on DPO with noisy preferences,
    /// ericmitchell.ai/cdpo.pdf), equation 3: labels are wrong with probability ε.
    Cdpo,
    /// \[−(1−ε)·ln σ(βΔ) + ε·ln σ(−βΔ)\]/(1−2ε). Robust DPO, Chowdhury et al. 2024 (arXiv 2403.00409), equation 8.
    Robust,
    /// max(0, 1 − βΔ). SLiC's hinge with log-ratios, Liu et al. 2023 (arXiv 2309.06657), equation 9.
    Hinge,
    /// (s_w/n_w − s_l/n_l − 1/(2β))². IPO, Azar et al. 2023 (arXiv 2310.12036), equation 17, per token as its authors do.
    Ipo,
    /// −ln σ(β(s_w/n_w − s_l/n_l)): sigmoid on log-ratios per token, as TRL's `sigmoid_norm`; with lengths as in SimPO and a
    /// reference as in DPO.
    SigmoidNorm,
    /// 1 − σ(βs_w) + σ(βs_l). APO-zero, D'Oosterlinck et al. 2024 (arXiv 2408.06266): for answers better than the model's.
    ApoZero,
    /// σ(βs_w) + 1 − σ(βΔ). APO-down, the same paper: for answers worse than the model's.
    ApoDown,
    /// −ln σ(β(ā_w − ā_l) − γ). SimPO, Meng et al. 2024 (arXiv 2405.14734), equation 6.
    Simpo,
    /// −ln σ(β(l_w − l_l)) − λ·ā_w. CPO, Xu et al. 2024 (arXiv 2401.08417), equation 6 has λ = 1; its likelihood term per
    /// token.
    Cpo,
    /// −ā_w − β·ln σ(ln odds_w − ln odds_l), ln odds = ā − ln(1 − e^ā). ORPO, Hong et al. 2024 (arXiv 2403.07691), eq. 6.
    Orpo,
    /// −ln σ(βs_w) − ln σ(−βs_l). BCO on pairs, Jung et al. 2024 (arXiv 2404.04656), equation 9 with δ = 0, as TRL has it; the
    /// paper's δ is the running mean of the rewards.
    BcoPair,
    /// −ln σ(βs_w) − ½·ln σ(−βs_w) − ½·ln σ(−βs_l). NCA on pairs, Chen et al. 2024 (arXiv 2402.05369), equation 13.
    NcaPair,
    /// (s_w − 1/(2β))² + (s_l + 1/(2β))². SPPO with hard labels, Wu et al. 2024 (arXiv 2405.00675), equation 4.5; β is 1/η.
    SppoHard,
}

impl PreferenceLoss {
    /// All of them with their names in flags and files.
    pub const ALL: [(PreferenceLoss, &'static str); 14] = [
        (PreferenceLoss::Sigmoid, "sigmoid"),
        (PreferenceLoss::Cdpo, "cdpo"),
        (PreferenceLoss::Robust, "robust"),
        (PreferenceLoss::Hinge, "hinge"),
        (PreferenceLoss::Ipo, "ipo"),
        (PreferenceLoss::SigmoidNorm, "sigmoid_norm"),
        (PreferenceLoss::ApoZero, "apo_zero"),
        (PreferenceLoss::ApoDown, "apo_down"),
        (PreferenceLoss::Simpo, "simpo"),
        (PreferenceLoss::Cpo, "cpo"),
        (PreferenceLoss::Orpo, "orpo"),
        (PreferenceLoss::BcoPair, "bco_pair"),
        (PreferenceLoss::NcaPair, "nca_pair"),
        (PreferenceLoss::SppoHard, "sppo_hard"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(loss, _)| *loss == self).map_or("sigmoid", |(_, name)| name)
    }

    /// True if it compares with a reference.
    pub fn has_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Cpo | Self::Orpo)
    }

    /// β where nothing else is asked for: SimPO's is the paper's 2, not the 0.1 that trainers copy from DPO.
    pub fn beta(self) -> f64 {
        if self == Self::Simpo {
            2.0
        } else {
            0.1
        }
    }
}

/// A loss with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preference {
    /// Which.
    pub loss: PreferenceLoss,
    /// β.
    pub beta: f64,
    /// ε of cDPO and robust DPO, below one half.
    pub label_smoothing: f64,
    /// γ of SimPO: how much better the chosen answer must be.
    pub gamma: f64,
    /// λ of CPO: weight of its likelihood term.
    pub cpo_alpha: f64,
    /// Weight of −ā_w, the chosen answer's likelihood, added to any loss.
    pub sft_weight: f64,
}

/// Summed log-probs of a pair, and lengths in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogps {
    /// Chosen answer under the policy.
    pub chosen: f64,
    /// Rejected answer under the policy.
    pub rejected: f64,
    /// Chosen answer under the reference; anything where the loss has none.
    pub ref_chosen: f64,
    /// Rejected answer under the reference.
    pub ref_rejected: f64,
    /// Tokens of the chosen answer.
    pub n_chosen: usize,
    /// Tokens of the rejected answer.
    pub n_rejected: usize,
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
    /// β·s_w; β·l_w (β·ā_w for SimPO and ORPO) where there is no reference.
    pub reward_chosen: f64,
    /// The same of the rejected answer.
    pub reward_rejected: f64,
}

/// −ln σ(z) and its slope −σ(−z).
fn logistic(z: f64) -> (f64, f64) {
    (-log_sigmoid(z), -sigmoid(-z))
}

/// σ'(z).
fn bell(z: f64) -> f64 {
    sigmoid(z) * sigmoid(-z)
}

/// ln(1 − e^a) for a < 0, without loss at either end (Mächler 2012).
fn log1mexp(a: f64) -> f64 {
    // An average log-prob of exactly 0 is a certain answer, whose odds have no bound.
    let a = a.min(-1e-12);
    if a > -std::f64::consts::LN_2 {
        (-a.exp_m1()).ln()
    } else {
        (-a.exp()).ln_1p()
    }
}

impl Preference {
    /// DPO as in its paper.
    pub fn dpo(beta: f64) -> Self {
        Self { loss: PreferenceLoss::Sigmoid, beta, label_smoothing: 0.0, gamma: 0.0, cpo_alpha: 1.0, sft_weight: 0.0 }
    }

    /// A pair's contribution to the mean over `n_pairs_step` pairs.
    pub fn of(&self, p: &PairLogps, n_pairs_step: usize) -> PairLoss {
        use PreferenceLoss as L;
        let Self { loss: kind, beta, label_smoothing: eps, gamma, cpo_alpha, sft_weight } = *self;
        let (n_w, n_l) = (p.n_chosen.max(1) as f64, p.n_rejected.max(1) as f64);
        let (s_w, s_l) = (p.chosen - p.ref_chosen, p.rejected - p.ref_rejected);
        let (a_w, a_l) = (p.chosen / n_w, p.rejected / n_l);
        let margin = beta * (s_w - s_l);
        // Value, and slopes with respect to l_w and l_l.
        let (mut loss, mut d_w, d_l) = match kind {
            L::Sigmoid => {
                let (v, d) = logistic(margin);
                (v, beta * d, -beta * d)
            }
            L::Cdpo | L::Robust => {
                let ((v, d), (v_flip, d_flip)) = (logistic(margin), logistic(-margin));
                let (keep, flip) = match kind {
                    L::Cdpo => (1.0 - eps, eps),
                    _ => ((1.0 - eps) / (1.0 - 2.0 * eps), -eps / (1.0 - 2.0 * eps)),
                };
                let slope = beta * (keep * d - flip * d_flip);
                (keep * v + flip * v_flip, slope, -slope)
            }
            L::Hinge => {
                let slope = if margin < 1.0 { -beta } else { 0.0 };
                ((1.0 - margin).max(0.0), slope, -slope)
            }
            L::Ipo => {
                let off = s_w / n_w - s_l / n_l - 0.5 / beta;
                (off * off, 2.0 * off / n_w, -2.0 * off / n_l)
            }
            L::SigmoidNorm => {
                let (v, d) = logistic(beta * (s_w / n_w - s_l / n_l));
                (v, beta * d / n_w, -beta * d / n_l)
            }
            L::ApoZero => {
                let value = sigmoid(-beta * s_w) + sigmoid(beta * s_l);
                (value, -beta * bell(beta * s_w), beta * bell(beta * s_l))
            }
            L::ApoDown => {
                let d = beta * bell(margin);
                (sigmoid(beta * s_w) + sigmoid(-margin), beta * bell(beta * s_w) - d, d)
            }
            L::Simpo => {
                let (v, d) = logistic(beta * (a_w - a_l) - gamma);
                (v, beta * d / n_w, -beta * d / n_l)
            }
            L::Cpo => {
                let (v, d) = logistic(beta * (p.chosen - p.rejected));
                (v - cpo_alpha * a_w, beta * d - cpo_alpha / n_w, -beta * d)
            }
            L::Orpo => {
                let odds = |a: f64| a - log1mexp(a);
                let (v, d) = logistic(odds(a_w) - odds(a_l));
                // d ln odds / d ā = 1/(1 − e^ā).
                let slope = |a: f64| 1.0 / -a.min(-1e-12).exp_m1();
                (beta * v - a_w, (beta * d * slope(a_w) - 1.0) / n_w, -beta * d * slope(a_l) / n_l)
            }
            L::BcoPair => {
                let ((v_w, d_w), (v_l, d_l)) = (logistic(beta * s_w), logistic(-beta * s_l));
                (v_w + v_l, beta * d_w, -beta * d_l)
            }
            L::NcaPair => {
                let ((v, d), (v_w, d_w), (v_l, d_l)) =
                    (logistic(beta * s_w), logistic(-beta * s_w), logistic(-beta * s_l));
                (v + 0.5 * (v_w + v_l), beta * (d - 0.5 * d_w), -0.5 * beta * d_l)
            }
            L::SppoHard => {
                let (off_w, off_l) = (s_w - 0.5 / beta, s_l + 0.5 / beta);
                (off_w * off_w + off_l * off_l, 2.0 * off_w, 2.0 * off_l)
            }
        };
        loss -= sft_weight * a_w;
        d_w -= sft_weight / n_w;
        let n = n_pairs_step.max(1) as f64;
        PairLoss {
            loss: loss / n,
            d_chosen: d_w / n,
            d_rejected: d_l / n,
            reward_chosen: self.reward(p.chosen, p.ref_chosen, p.n_chosen),
            reward_rejected: self.reward(p.rejected, p.ref_rejected, p.n_rejected),
        }
    }

    /// The reward that an answer of `n` tokens has by this loss: β·s; where there is no reference β·l, of SimPO and ORPO β·ā.
    pub fn reward(&self, logp: f64, ref_logp: f64, n: usize) -> f64 {
        self.beta
            * match self.loss {
                PreferenceLoss::Cpo => logp,
                PreferenceLoss::Simpo | PreferenceLoss::Orpo => logp / n.max(1) as f64,
                _ => logp - ref_logp,
            }
    }
}

#[cfg(test)]
#[path = "preference_tests.rs"]
mod tests;
