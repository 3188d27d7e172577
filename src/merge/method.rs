//! How several models become one.

use crate::error::{Error, Kind, Result};

/// A way to merge, with its parameters. Weights belong to the models in their order, the base not among them.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// The weighted mean (model soups: Wortsman et al. 2022, arXiv 2203.05482); the weights are divided by their sum.
    Linear {
        /// One per model.
        weights: Vec<f64>,
    },
    /// Spherical interpolation of two models (Shoemake 1985), each tensor as one vector.
    Slerp {
        /// 0 is the first model, 1 the second.
        t: f64,
    },
    /// base + lambda · Σ w · (model − base) (Ilharco et al. 2023, arXiv 2212.04089).
    TaskArithmetic {
        /// One per model.
        weights: Vec<f64>,
        /// Factor of the sum.
        lambda: f64,
    },
    /// TIES (Yadav et al. 2023, arXiv 2306.01708), trimmed tensor by tensor.
    Ties {
        /// One per model, positive.
        weights: Vec<f64>,
        /// Share of each model's largest changes that is kept; of equal ones at the edge all are kept.
        density: f64,
        /// Factor of the mean.
        lambda: f64,
    },
    /// Task arithmetic on randomly thinned changes (DARE: Yu et al. 2024, arXiv 2311.03099).
    DareLinear {
        /// One per model.
        weights: Vec<f64>,
        /// Share of changes that is kept, each divided by it.
        density: f64,
        /// Factor of the sum.
        lambda: f64,
        /// Seed of the choice.
        seed: u64,
    },
}

impl Method {
    /// Its name on the command line and in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Linear { .. } => "linear",
            Method::Slerp { .. } => "slerp",
            Method::TaskArithmetic { .. } => "task_arithmetic",
            Method::Ties { .. } => "ties",
            Method::DareLinear { .. } => "dare_linear",
        }
    }

    /// True where changes are counted from a base.
    pub fn needs_base(&self) -> bool {
        !matches!(self, Method::Linear { .. } | Method::Slerp { .. })
    }

    /// Its numbers, by name, for the file and for people.
    pub fn parameters(&self) -> Vec<(&'static str, f64)> {
        match self {
            Method::Linear { .. } => vec![],
            Method::Slerp { t } => vec![("t", *t)],
            Method::TaskArithmetic { lambda, .. } => vec![("lambda", *lambda)],
            Method::Ties { density, lambda, .. } => vec![("density", *density), ("lambda", *lambda)],
            Method::DareLinear { density, lambda, seed, .. } => {
                vec![("density", *density), ("lambda", *lambda), ("seed", *seed as f64)]
            }
        }
    }

    /// The models' weights; none for slerp.
    pub fn weights(&self) -> &[f64] {
        match self {
            Method::Slerp { .. } => &[],
            Method::Linear { weights }
            | Method::TaskArithmetic { weights, .. }
            | Method::Ties { weights, .. }
            | Method::DareLinear { weights, .. } => weights,
        }
    }

    /// Checks the parameters for this many models.
    pub fn validate(&self, n_models: usize, has_base: bool) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Kind::Argument, format!("method {}: {what}", self.name())));
        if self.needs_base() != has_base {
            return refuse(if has_base { "takes no --base" } else { "needs --base" }.to_owned());
        }
        if let Method::Slerp { t } = self {
            return match (n_models, (0.0..=1.0).contains(t)) {
                (2, true) => Ok(()),
                (2, false) => refuse(format!("--slerp-t {t}: outside 0 to 1")),
                _ => refuse(format!("takes two models, not {n_models}")),
            };
        }
        let weights = self.weights();
        if n_models == 0 || weights.len() != n_models {
            return refuse(format!("{} weights for {n_models} models", weights.len()));
        }
        if let Some(bad) = weights.iter().find(|w| !(-1e3..=1e3).contains(*w)) {
            return refuse(format!("--weight {bad}: outside -1000 to 1000"));
        }
        match self {
            Method::Linear { weights } if weights.iter().sum::<f64>().abs() < 1e-6 => {
                return refuse("the weights add up to 0".to_owned());
            }
            Method::Ties { weights, .. } if weights.iter().any(|w| *w <= 0.0) => {
                return refuse("a weight is not positive".to_owned());
            }
            _ => {}
        }
        for (name, value) in self.parameters() {
            match name {
                "density" if !(value > 0.0 && value <= 1.0) => {
                    return refuse(format!("--density {value}: outside 0 to 1, or 0"));
                }
                "lambda" if !(-1e3..=1e3).contains(&value) => {
                    return refuse(format!("--lambda {value}: outside -1000 to 1000"))
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The coefficient of every source (the base first, where there is one) if the result is the same sum everywhere.
    pub(super) fn coefficients(&self) -> Option<Vec<f64>> {
        match self {
            Method::Linear { weights } => {
                let sum: f64 = weights.iter().sum();
                Some(weights.iter().map(|w| w / sum).collect())
            }
            Method::TaskArithmetic { weights, lambda } => {
                let scaled: Vec<f64> = weights.iter().map(|w| lambda * w).collect();
                let base = 1.0 - scaled.iter().sum::<f64>();
                Some(std::iter::once(base).chain(scaled).collect())
            }
            Method::Slerp { t } if *t == 0.0 || *t == 1.0 => Some(vec![1.0 - t, *t]),
            Method::Slerp { .. } | Method::Ties { .. } | Method::DareLinear { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_out_of_range_are_named() {
        let says = |method: Method, n: usize, base: bool, text: &str| {
            let error = method.validate(n, base).unwrap_err();
            assert!(error.kind() == Kind::Argument && error.to_string().contains(text), "{error}");
        };
        says(Method::Linear { weights: vec![1.0, -1.0] }, 2, false, "add up to 0");
        says(Method::Linear { weights: vec![1.0] }, 2, false, "1 weights for 2 models");
        says(Method::Linear { weights: vec![1.0, f64::NAN] }, 2, false, "--weight NaN");
        says(Method::Linear { weights: vec![1.0] }, 1, true, "takes no --base");
        says(Method::Slerp { t: 1.5 }, 2, false, "--slerp-t 1.5");
        says(Method::Slerp { t: 0.5 }, 3, false, "two models");
        says(Method::TaskArithmetic { weights: vec![1.0], lambda: f64::INFINITY }, 1, true, "--lambda inf");
        says(Method::TaskArithmetic { weights: vec![1.0], lambda: 1.0 }, 1, false, "needs --base");
        says(Method::Ties { weights: vec![0.0], density: 0.5, lambda: 1.0 }, 1, true, "not positive");
        says(Method::Ties { weights: vec![1.0], density: 0.0, lambda: 1.0 }, 1, true, "--density 0");
        let dare = Method::DareLinear { weights: vec![1.0], density: 1.5, lambda: 1.0, seed: 0 };
        says(dare, 1, true, "--density 1.5");
        assert!(Method::Ties { weights: vec![1.0], density: 1.0, lambda: 1.0 }.validate(1, true).is_ok());
    }
}
