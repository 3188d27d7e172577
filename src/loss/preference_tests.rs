use super::super::central;
use super::*;

/// Every formula once more, straight from the papers: probabilities and powers, no care for overflow.
fn twin(x: &Preference, p: &PairLogps) -> f64 {
    use PreferenceLoss as L;
    let logistic = |z: f64| 1.0 / (1.0 + (-z).exp());
    let (s_w, s_l) = (p.chosen - p.ref_chosen, p.rejected - p.ref_rejected);
    let (n_w, n_l) = (p.n_chosen as f64, p.n_rejected as f64);
    // Bradley-Terry: the chosen answer's share of the powers.
    let wins = |a: f64, b: f64| a.exp() / (a.exp() + b.exp());
    let (b, e) = (x.beta, x.label_smoothing);
    let value = match x.loss {
        L::Sigmoid => -wins(b * s_w, b * s_l).ln(),
        L::Cdpo => -(1.0 - e) * wins(b * s_w, b * s_l).ln() - e * wins(b * s_l, b * s_w).ln(),
        L::Robust => (-(1.0 - e) * wins(b * s_w, b * s_l).ln() + e * wins(b * s_l, b * s_w).ln()) / (1.0 - 2.0 * e),
        L::Hinge => f64::max(0.0, 1.0 - b * (s_w - s_l)),
        L::Ipo => (s_w / n_w - s_l / n_l - 1.0 / (2.0 * b)).powi(2),
        L::SigmoidNorm => -wins(b * s_w / n_w, b * s_l / n_l).ln(),
        L::ApoZero => 1.0 - logistic(b * s_w) + logistic(b * s_l),
        L::ApoDown => logistic(b * s_w) + 1.0 - logistic(b * s_w - b * s_l),
        L::Simpo => -logistic(b * (p.chosen / n_w - p.rejected / n_l) - x.gamma).ln(),
        L::Cpo => -wins(b * p.chosen, b * p.rejected).ln() - x.cpo_alpha * p.chosen / n_w,
        L::Orpo => {
            let odds = |l: f64, n: f64| {
                let mean = (l / n).exp();
                mean / (1.0 - mean)
            };
            let ratio = odds(p.chosen, n_w) / odds(p.rejected, n_l);
            -p.chosen / n_w - b * logistic(ratio.ln()).ln()
        }
        L::BcoPair => -logistic(b * s_w).ln() - (1.0 - logistic(b * s_l)).ln(),
        L::NcaPair => {
            let (w, l) = (logistic(b * s_w), logistic(b * s_l));
            -w.ln() - 0.5 * (1.0 - w).ln() - 0.5 * (1.0 - l).ln()
        }
        L::SppoHard => (s_w - 1.0 / (2.0 * b)).powi(2) + (s_l + 1.0 / (2.0 * b)).powi(2),
    };
    value - x.sft_weight * p.chosen / n_w
}

const PAIR: PairLogps =
    PairLogps { chosen: -31.0, rejected: -24.5, ref_chosen: -35.2, ref_rejected: -23.0, n_chosen: 14, n_rejected: 9 };

fn all() -> impl Iterator<Item = Preference> {
    PreferenceLoss::ALL.into_iter().map(|(loss, _)| Preference {
        loss,
        beta: if loss == PreferenceLoss::Simpo { 2.0 } else { 0.13 },
        label_smoothing: 0.2,
        gamma: 0.7,
        cpo_alpha: 0.6,
        sft_weight: 0.3,
    })
}

#[test]
fn values_and_slopes_match_the_twin() {
    // The second pair lies on the other side of every kink and sign.
    let other = PairLogps { chosen: -20.0, rejected: -44.0, ref_chosen: -30.0, ref_rejected: -30.0, ..PAIR };
    for (x, p) in all().flat_map(|x| [(x, PAIR), (x, other)]) {
        let found = x.of(&p, 4);
        let wanted = twin(&x, &p) / 4.0;
        assert!(
            (found.loss - wanted).abs() < 1e-12 * wanted.abs().max(1.0),
            "{}: {} {wanted}",
            x.loss.name(),
            found.loss
        );
        let d_chosen = central(|l| twin(&x, &PairLogps { chosen: l, ..p }), p.chosen) / 4.0;
        let d_rejected = central(|l| twin(&x, &PairLogps { rejected: l, ..p }), p.rejected) / 4.0;
        // The noise of a difference grows with the values that it is taken of.
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9 * wanted.abs().max(1.0);
        assert!(close(found.d_chosen, d_chosen) && close(found.d_rejected, d_rejected), "{}", x.loss.name());
    }
}

#[test]
fn golden_values() {
    // By hand: s_w = 4.2, s_l = -1.5, Δ = 5.7; with β = 0.1 and e.g. sigmoid −ln σ(0.57) = ln(1 + e^−0.57).
    let plain =
        |loss| Preference { loss, beta: 0.1, label_smoothing: 0.1, gamma: 0.5, cpo_alpha: 1.0, sft_weight: 0.0 };
    for (loss, wanted) in [
        (PreferenceLoss::Sigmoid, 0.448_221_511_221),
        (PreferenceLoss::Cdpo, 0.505_221_511_221),
        (PreferenceLoss::Robust, 0.376_971_511_221),
        (PreferenceLoss::Hinge, 0.43),
        (PreferenceLoss::Ipo, 20.551_111_111_111),
        // (4.2 − 5)² + (−1.5 + 5)².
        (PreferenceLoss::SppoHard, 12.89),
    ] {
        let found = plain(loss).of(&PAIR, 1).loss;
        assert!((found - wanted).abs() < 5e-10, "{}: {found:.10}", loss.name());
    }
}

#[test]
fn the_reference_itself_costs_ln_two() {
    let pair = PairLogps { ref_chosen: -31.0, ref_rejected: -24.5, ..PAIR };
    let found = Preference::dpo(0.1).of(&pair, 1);
    assert_eq!((found.reward_chosen, found.reward_rejected), (0.0, 0.0));
    assert!((found.loss - 2f64.ln()).abs() < 1e-15);
}

#[test]
fn no_smoothing_makes_cdpo_and_robust_dpo() {
    for loss in [PreferenceLoss::Cdpo, PreferenceLoss::Robust] {
        let x = Preference { loss, ..Preference::dpo(0.1) };
        let (found, wanted) = (x.of(&PAIR, 2), Preference::dpo(0.1).of(&PAIR, 2));
        assert!((found.loss - wanted.loss).abs() < 1e-15 && (found.d_chosen - wanted.d_chosen).abs() < 1e-15);
    }
}

#[test]
fn extremes_stay_finite() {
    for (x, chosen) in all().flat_map(|x| [-1e4, -1e-9, 0.0].map(|c| (x, c))) {
        let found = x.of(&PairLogps { chosen, ..PAIR }, 1);
        assert!(
            found.loss.is_finite() && found.d_chosen.is_finite() && found.d_rejected.is_finite(),
            "{}",
            x.loss.name()
        );
    }
}
