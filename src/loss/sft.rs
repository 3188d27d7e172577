//! Supervised fine-tuning: negative log-likelihood per completion token.

/// Contribution of completion tokens to the mean over all `n_tokens_step` completion tokens of the optimizer step:
/// value, and the derivative with respect to each token's log-prob.
pub fn sft(logps: &[f32], n_tokens_step: usize) -> (f64, f64) {
    let n = n_tokens_step.max(1) as f64;
    let sum: f64 = logps.iter().map(|&l| f64::from(l)).sum();
    (-sum / n, -1.0 / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_a_step_changes_nothing() {
        let logps = [-0.5f32, -1.25, -3.0, -0.25];
        let whole = sft(&logps, 4);
        let parts = [sft(&logps[..1], 4), sft(&logps[1..], 4)];
        assert_eq!(whole, (1.25, -0.25));
        assert_eq!((parts[0].0 + parts[1].0, parts[0].1), (1.25, -0.25));
    }
}
