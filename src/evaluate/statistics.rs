//! Means, deviations, and how sure a difference is.

use crate::data::below;
use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Which draw this is: no other use of the same seed sees these random numbers.
const PURPOSE: &[u8; 16] = b"paired bootstrap";
/// Resamples of a bootstrap: the ends of a 95 % interval then move by about a hundredth of its width.
pub const RESAMPLES: usize = 10_000;

/// The mean, 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of a sample (divided by n − 1); nothing below two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// A mean difference with its percentile interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bootstrap {
    /// The weighted mean of the differences.
    pub difference: f64,
    /// 2.5 % of the resampled means lie below.
    pub low: f64,
    /// 2.5 % lie above.
    pub high: f64,
    /// Twice the share of resampled means on the rarer side of 0, at most 1.
    pub p: f64,
}

/// Paired bootstrap (Efron and Tibshirani 1993; Koehn 2004 for systems on the same items): resamples items with their
/// weights, and takes the weighted mean of each resample.
///
/// `differences` and `weights` have one entry per item; nothing for no items.
pub fn paired_bootstrap(differences: &[f64], weights: &[f64], seed: u64) -> Option<Bootstrap> {
    let n = differences.len().min(weights.len());
    let total: f64 = weights.iter().take(n).sum();
    if n == 0 || total <= 0.0 {
        return None;
    }
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[16..].copy_from_slice(PURPOSE);
    let mut rng = ChaCha8Rng::from_seed(key);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut sum, mut weight) = (0.0, 0.0);
            for _ in 0..n {
                let i = below(&mut rng, n as u32) as usize;
                sum += weights[i] * differences[i];
                weight += weights[i];
            }
            if weight > 0.0 {
                sum / weight
            } else {
                0.0
            }
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let share = |side: &dyn Fn(&f64) -> bool| means.iter().filter(|m| side(m)).count() as f64 / RESAMPLES as f64;
    let p = 2.0 * share(&|m| *m <= 0.0).min(share(&|m| *m >= 0.0));
    let difference = differences.iter().zip(weights).map(|(d, w)| d * w).sum::<f64>() / total;
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some(Bootstrap { difference, low: at(0.025), high: at(0.975), p: p.min(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_by_hand() {
        assert_eq!(mean(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), 5.0);
        // Squares sum to 32, over 7.
        let sd = standard_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert!((sd - (32.0f64 / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!((standard_deviation(&[1.0]), mean(&[])), (None, 0.0));
    }

    /// 40 coins, 30 up and 10 down: the mean is 0.5, its standard error √(1 − 0.25)/√40 = 0.137, so the interval is near
    /// 0.5 ± 0.268, up to a step of 0.05 that means of coins have, and 0 is 3.65 errors away.
    #[test]
    fn the_interval_is_that_of_the_binomial() {
        let coins: Vec<f64> = (0..40).map(|i| if i % 4 == 0 { -1.0 } else { 1.0 }).collect();
        let found = paired_bootstrap(&coins, &[1.0; 40], 7).unwrap();
        assert_eq!(found.difference, 0.5);
        assert!((found.low - 0.232).abs() < 0.05 && (found.high - 0.768).abs() < 0.05, "{found:?}");
        assert!(found.p < 0.003, "{found:?}");
        assert_eq!(paired_bootstrap(&coins, &[1.0; 40], 7).unwrap(), found);
        assert_ne!(paired_bootstrap(&coins, &[1.0; 40], 8).unwrap(), found);
    }

    #[test]
    fn nothing_moves_nothing_and_weights_count() {
        let still = paired_bootstrap(&[0.0; 5], &[1.0; 5], 0).unwrap();
        assert_eq!(still, Bootstrap { difference: 0.0, low: 0.0, high: 0.0, p: 1.0 });
        assert_eq!(paired_bootstrap(&[1.0, 4.0], &[2.0, 1.0], 0).unwrap().difference, 2.0);
        assert_eq!(paired_bootstrap(&[], &[], 0), None);
    }
}
