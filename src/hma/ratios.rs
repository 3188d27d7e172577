//! Ratios of K groups that keep their mean whatever is chosen (arXiv 2309.06256, equation 3).
//!
//! From free numbers s: h = σ(s) + ε, a_i = a·K·h_i / Σh. The paper's equation 11 lacks the factor K and with it contradicts its
//! own constraint; the authors' code has it.

use crate::error::{Error, Kind, Result};

/// What K ratios may be: their mean, and how far they may be from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    mean: f64,
    epsilon: f64,
    n_groups: usize,
}

impl Ratios {
    /// `epsilon` of the authors' code.
    pub const EPSILON: f64 = 0.2;
    /// With more of it ratios are their mean but for rounding.
    const EPSILON_MAX: f64 = 1e6;

    /// Checks the bounds: the mean lies inside 0 to 1, and no ratio can leave 0 to 1.
    ///
    /// # Errors
    /// [`Kind::Argument`], with the least ε that would do.
    pub fn new(mean: f64, epsilon: f64, n_groups: usize) -> Result<Self> {
        let bad = |what: String| Err(Error::new(Kind::Argument, what));
        if !(mean > 0.0 && mean < 1.0) {
            return bad(format!("--pre-weight {mean}: outside 0 to 1, where there is something to choose"));
        }
        if n_groups == 0 {
            return bad("--groups: no group".to_owned());
        }
        if epsilon > Self::EPSILON_MAX {
            return bad(format!("--epsilon {epsilon}: more than {}", Self::EPSILON_MAX));
        }
        let least = Self::least_epsilon(mean, n_groups);
        if !(epsilon.is_finite() && epsilon >= least) {
            return bad(format!(
                "--epsilon {epsilon}: a ratio could leave 0 to 1 with {n_groups} groups of mean {mean}; the least is {least}"
            ));
        }
        Ok(Self { mean, epsilon, n_groups })
    }

    /// The least ε with which no ratio exceeds 1: 0 where K·a ≤ 1, and (K·a − 1) / (K·(1 − a)) otherwise.
    pub fn least_epsilon(mean: f64, n_groups: usize) -> f64 {
        let k = n_groups as f64;
        if n_groups <= 1 || k * mean <= 1.0 {
            return 0.0;
        }
        (k * mean - 1.0) / (k * (1.0 - mean))
    }

    /// The ratios' mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// ε.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// How many there are.
    pub fn n_groups(&self) -> usize {
        self.n_groups
    }

    /// The least and the largest that one ratio can come to.
    pub fn bounds(&self) -> [f64; 2] {
        let (a, e, k) = (self.mean, self.epsilon, self.n_groups as f64);
        if self.n_groups == 1 {
            return [a, a];
        }
        [a * k * e / (k * e + k - 1.0), a * k * (1.0 + e) / (1.0 + k * e)]
    }

    /// Numbers s at which every ratio is the mean: ln(a / (1 − a)) for each.
    pub fn start(&self) -> Vec<f64> {
        vec![(self.mean / (1.0 - self.mean)).ln(); self.n_groups]
    }

    fn heights(&self, s: &[f64]) -> (Vec<f64>, f64) {
        let h: Vec<f64> = s.iter().map(|&s| sigmoid(s) + self.epsilon).collect();
        let sum = h.iter().sum();
        (h, sum)
    }

    /// The ratios at s, one for each group.
    pub fn at(&self, s: &[f64]) -> Vec<f64> {
        let (h, sum) = self.heights(s);
        // In this order equal heights give the mean itself.
        h.iter().map(|h| self.mean * (self.n_groups as f64 * h / sum)).collect()
    }

    /// From a gradient by the ratios to that by s: Jᵀ·g with ∂a_i/∂s_j = a·K·σ'(s_j)·([i = j]/Σh − h_i/(Σh)²).
    pub fn pull_back(&self, s: &[f64], by_ratio: &[f64]) -> Vec<f64> {
        let (h, sum) = self.heights(s);
        let scale = self.mean * self.n_groups as f64;
        let mean_pull = h.iter().zip(by_ratio).map(|(h, g)| h * g).sum::<f64>() / sum;
        let slope = |s: f64| sigmoid(s) * sigmoid(-s);
        s.iter().zip(by_ratio).map(|(&s, g)| scale * slope(s) / sum * (g - mean_pull)).collect()
    }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        x.exp() / (1.0 + x.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden() -> Ratios {
        Ratios::new(0.2, 0.2, 3).unwrap()
    }

    #[test]
    fn golden_values_are_those_of_the_code_not_of_equation_11() {
        let a = golden().at(&[0.0, 1.0, -1.0]);
        for (found, wanted) in a.iter().zip([0.2, 0.26601674, 0.13398326]) {
            assert!((found - wanted).abs() < 5e-9, "{a:?}");
        }
        assert!((a[1] - 0.08867225).abs() > 0.1, "equation 11 as it is printed");
    }

    #[test]
    fn the_jacobian_is_the_golden_one() {
        let wanted = [
            [0.04761905, -0.01872495, -0.01872495],
            [-0.03166866, 0.03126909, -0.02490575],
            [-0.01595039, -0.01254415, 0.04363069],
        ];
        for (i, wanted) in wanted.iter().enumerate() {
            let unit: Vec<f64> = (0..3).map(|k| f64::from(u8::from(k == i))).collect();
            let row = golden().pull_back(&[0.0, 1.0, -1.0], &unit);
            assert!(row.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 5e-9), "{row:?}");
        }
    }

    #[test]
    fn bounds_are_those_of_the_table() {
        for (epsilon, low, high) in
            [(0.0, 0.0, 0.6), (0.1, 0.026, 0.508), (0.2, 0.046, 0.45), (0.5, 0.086, 0.36), (0.9, 0.115, 0.308)]
        {
            let [found_low, found_high] = Ratios::new(0.2, epsilon, 3).unwrap().bounds();
            assert!((found_low - low).abs() < 6e-4 && (found_high - high).abs() < 6e-4, "{epsilon}");
        }
    }

    #[test]
    fn an_epsilon_that_lets_a_ratio_exceed_one_is_refused() {
        let message = Ratios::new(0.6, 0.2, 3).unwrap_err().to_string();
        assert!(message.contains("--epsilon 0.2") && message.contains("0.666"), "{message}");
        assert!((Ratios::least_epsilon(0.6, 3) - 2.0 / 3.0).abs() < 1e-12);
        assert!((Ratios::least_epsilon(0.4, 3) - 0.111).abs() < 1e-3);
        assert!(Ratios::new(0.6, Ratios::least_epsilon(0.6, 3), 3).is_ok() && Ratios::new(0.3, 0.0, 3).is_ok());
        for (mean, epsilon, n) in
            [(0.0, 0.2, 3), (1.0, 9.0, 3), (f64::NAN, 0.2, 3), (0.2, f64::NAN, 3), (0.2, 1e300, 3), (0.2, 0.2, 0)]
        {
            assert!(Ratios::new(mean, epsilon, n).is_err());
        }
    }

    proptest! {
        #[test]
        fn the_mean_is_kept_and_the_bounds_hold(
            s in proptest::collection::vec(-30.0f64..30.0, 1..12), mean in 0.01f64..0.99, more in 0.0f64..2.0,
        ) {
            let ratios = Ratios::new(mean, Ratios::least_epsilon(mean, s.len()) + more, s.len()).unwrap();
            let a = ratios.at(&s);
            prop_assert!((a.iter().sum::<f64>() / a.len() as f64 - mean).abs() < 1e-12);
            let [low, high] = ratios.bounds();
            prop_assert!(a.iter().all(|&a| a >= low - 1e-12 && a <= high + 1e-12 && a <= 1.0 + 1e-12), "{a:?}");
            prop_assert!(ratios.at(&ratios.start()).iter().all(|a| (a - mean).abs() < 1e-12));
            // The mean does not move, so a gradient that is equal for all pulls nowhere.
            prop_assert!(ratios.pull_back(&s, &vec![1.0; s.len()]).iter().all(|g| g.abs() < 1e-12));
        }

        #[test]
        fn the_pull_back_is_the_slope(
            s in proptest::collection::vec(-3.0f64..3.0, 2..6), g in proptest::collection::vec(-1.0f64..1.0, 6),
        ) {
            let ratios = Ratios::new(0.3, 1.5, s.len()).unwrap();
            let loss = |s: &[f64]| ratios.at(s).iter().zip(&g).map(|(a, g)| a * g).sum::<f64>();
            let exact = ratios.pull_back(&s, &g[..s.len()]);
            for j in 0..s.len() {
                let moved = |h: f64| {
                    let mut s = s.clone();
                    s[j] += h;
                    loss(&s)
                };
                prop_assert!((exact[j] - (moved(1e-5) - moved(-1e-5)) / 2e-5).abs() < 1e-9);
            }
        }
    }
}
