//! The regulariser that holds ratios near their mean: ρ·Σ w_l·|a_l − a| over the linear weights of the blocks. The paper has it
//! as an option (appendix D.5); the authors' code has it on.

use super::Groups;
use crate::error::{Error, Kind, Result};

/// How a ratio's distance from the mean counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// Its magnitude.
    Absolute,
    /// Its square.
    Squared,
}

/// Weights of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PenaltyWeights {
    /// 1.
    Even,
    /// (L − 1) / (|l − L/2| + 1): the middle is held most.
    Middle,
    /// 25 / (|l − 13| + 1), whatever the depth, as in the authors' code, which was written for 26 blocks.
    Released,
}

/// The regulariser; none where ρ is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// ρ; the authors' code has 1e-4.
    pub rho: f64,
    /// How distances count.
    pub deviation: Deviation,
    /// How blocks count.
    pub weights: PenaltyWeights,
}

impl Default for Penalty {
    /// None.
    fn default() -> Self {
        Self { rho: 0.0, deviation: Deviation::Absolute, weights: PenaltyWeights::Middle }
    }
}

impl PenaltyWeights {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "even" => Ok(Self::Even),
            "middle" => Ok(Self::Middle),
            "released" => Ok(Self::Released),
            _ => Err(Error::new(Kind::Argument, format!("--rho-weights {name}: none of even, middle, released"))),
        }
    }

    fn of(self, layer: usize, n_layers: usize) -> f64 {
        let (l, n) = (layer as f64, n_layers as f64);
        match self {
            Self::Even => 1.0,
            Self::Middle => (n - 1.0).max(1.0) / ((l - (n / 2.0).floor()).abs() + 1.0),
            Self::Released => 25.0 / ((l - 13.0).abs() + 1.0),
        }
    }
}

impl Deviation {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "absolute" => Ok(Self::Absolute),
            "squared" => Ok(Self::Squared),
            _ => Err(Error::new(Kind::Argument, format!("--rho-form {name}: neither absolute nor squared"))),
        }
    }
}

impl Penalty {
    /// What each group's distance is multiplied by. `n_linears`: linear weights of every block.
    pub fn coefficients(&self, groups: &Groups, n_linears: &[usize]) -> Vec<f64> {
        let of = |layer: usize| {
            let n = n_linears.get(layer).copied().unwrap_or(0) as f64;
            self.rho * n * self.weights.of(layer, groups.n_layers())
        };
        groups.gather(&(0..groups.n_layers()).map(of).collect::<Vec<_>>())
    }

    /// Value, and slope by each ratio; the slope of a magnitude at 0 is 0.
    pub fn at(&self, ratios: &[f64], mean: f64, coefficients: &[f64]) -> (f64, Vec<f64>) {
        let each = ratios.iter().zip(coefficients).map(|(a, c)| {
            let d = a - mean;
            match self.deviation {
                Deviation::Absolute => (c * d.abs(), if d == 0.0 { 0.0 } else { c * d.signum() }),
                Deviation::Squared => (c * d * d, 2.0 * c * d),
            }
        });
        let (values, slopes): (Vec<f64>, Vec<f64>) = each.unzip();
        (values.iter().sum(), slopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hma::GroupRule;

    #[test]
    fn coefficients_are_those_that_the_release_implies() {
        let groups = Groups::parse("3", GroupRule::Released, 26).unwrap();
        let penalty = Penalty { rho: 1e-4, weights: PenaltyWeights::Released, ..Penalty::default() };
        let found = penalty.coefficients(&groups, &[7; 26]);
        for (found, wanted) in found.iter().zip([0.01403, 0.05746, 0.02357]) {
            assert!((found - wanted).abs() < 5e-6, "{found}");
        }
        let middle = Penalty { weights: PenaltyWeights::Middle, ..penalty };
        assert_eq!(middle.coefficients(&groups, &[7; 26]), penalty.coefficients(&groups, &[7; 26]));
        let even = Penalty { rho: 1.0, weights: PenaltyWeights::Even, ..penalty };
        assert_eq!(even.coefficients(&groups, &[2; 26]), [16.0, 16.0, 20.0]);
    }

    #[test]
    fn it_is_zero_at_the_mean_and_rises_by_its_slope() {
        for deviation in [Deviation::Absolute, Deviation::Squared] {
            let penalty = Penalty { rho: 1.0, deviation, ..Penalty::default() };
            assert_eq!(penalty.at(&[0.2, 0.2], 0.2, &[1.0, 2.0]), (0.0, vec![0.0, 0.0]));
            let value = |d: f64| penalty.at(&[0.3 + d, 0.1], 0.2, &[1.0, 2.0]).0;
            let slope = penalty.at(&[0.3, 0.1], 0.2, &[1.0, 2.0]).1[0];
            assert!((slope - (value(1e-6) - value(-1e-6)) / 2e-6).abs() < 1e-8 && value(0.0) > 0.0);
        }
    }
}
