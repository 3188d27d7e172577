//! Weights of single tokens: sums of log-probs that they make, and the rejected tokens that ALLO's learning keeps (specs
//! `allo_hbat`, 1.4, step 5).

/// Σ w_t·lp_t. Without weights each is 1.
pub fn weighted_sum(logps: &[f32], weights: Option<&[f32]>) -> f64 {
    match weights {
        None => logps.iter().map(|&l| f64::from(l)).sum(),
        Some(weights) => logps.iter().zip(weights).map(|(&l, &w)| f64::from(l) * f64::from(w)).sum(),
    }
}

/// The share ε of a rejected answer's tokens whose log-ratio is lowest, as weights of 1 and 0: the others are noise, tokens that
/// the policy has come to like as much as the reference or more, and get no gradient.
///
/// ⌊ε·T⌋ of the T tokens are kept, at least one, and all whose log-ratio equals that of the last: while policy and reference
/// are the same, all tokens are, and the loss is plain DPO. Prompt and padding have no part in it. (The release counts them,
/// so that what it keeps of an answer depends on its batch; `allo_hbat`, 1.9, D5.)
pub fn lowest(logps: &[f32], reference: &[f32], share: f64) -> Vec<f32> {
    let ratios: Vec<f64> = logps.iter().zip(reference).map(|(&p, &r)| f64::from(p) - f64::from(r)).collect();
    // As decimals mean it: 0.29 of 100 is 29.
    let kept = ((ratios.len() as f64 * share + 1e-9) as usize).clamp(1, ratios.len().max(1));
    let mut sorted = ratios.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.get(kept - 1).copied().unwrap_or(f64::INFINITY);
    ratios.iter().map(|&ratio| if ratio <= last { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{PairLogps, Preference};
    use super::*;

    /// A pair whose log-ratios are these: the reference is 0.
    fn pair(chosen: &[f32], rejected: &[f32], share: f64) -> (Vec<f32>, f64, [f64; 2]) {
        let weights = lowest(rejected, &vec![0.0; rejected.len()], share);
        let logps = PairLogps {
            chosen: weighted_sum(chosen, None),
            rejected: weighted_sum(rejected, Some(&weights)),
            ref_chosen: 0.0,
            ref_rejected: 0.0,
            n_chosen: chosen.len(),
            n_rejected: rejected.len(),
        };
        let found = Preference::dpo(0.1).of(&logps, 1);
        (weights, found.loss, [found.d_chosen, found.d_rejected])
    }

    /// Specs `allo_hbat`, 1.12, G5; T15: kept tokens have one slope, the chosen ones its opposite.
    #[test]
    fn g5_two_of_five_rejected_tokens() {
        let (chosen, rejected) = ([0.2, 0.5, -0.1], [-2.0, 0.4, -0.3, 1.0, -0.05]);
        let (kept, loss, slopes) = pair(&chosen, &rejected, 0.4);
        assert_eq!(kept, [1.0, 0.0, 1.0, 0.0, 0.0]);
        assert!((loss - 0.558_623_048).abs() < 1e-8, "{loss}");
        assert!((slopes[0] + 0.042_800_387).abs() < 1e-8 && (slopes[1] - 0.042_800_387).abs() < 1e-8, "{slopes:?}");
        let (all, loss, _) = pair(&chosen, &rejected, 1.0);
        assert_eq!(all, [1.0; 5]);
        assert!((loss - 0.618_647_304).abs() < 1e-8, "{loss}");
    }

    /// T14: all tokens are plain DPO, and equal models too, whatever the share.
    #[test]
    fn equal_models_are_plain_dpo() {
        let logps = [-1.0, -2.5, -0.25, -7.0];
        assert_eq!(lowest(&logps, &logps, 0.1), [1.0; 4]);
        assert_eq!(pair(&[0.0; 3], &[0.0; 4], 0.25).1, std::f64::consts::LN_2);
    }

    /// T16, clean: the answer's own tokens decide, and there is always one.
    #[test]
    fn at_least_one_is_kept() {
        assert_eq!(lowest(&[-1.0, -3.0, -2.0], &[0.0; 3], 0.1), [0.0, 1.0, 0.0]);
        assert_eq!(lowest(&[-1.0, -3.0, -2.0, -3.0], &[0.0; 4], 0.25), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(lowest(&[], &[], 0.5), [0.0; 0]);
    }
}
