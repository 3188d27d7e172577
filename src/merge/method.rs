//! How several models become one.

use crate::error::{Error, Kind, Result};

/// `epsilon` of DELLA where nothing is said, as in mergekit.
pub const EPSILON: f64 = 0.15;
/// `gamma` of breadcrumbs where nothing is said, as in mergekit.
pub const GAMMA: f64 = 0.01;

/// A way to merge, with its numbers. Numbers in lists belong to the models in their order, the base not among them.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// The weighted sum (model soups: Wortsman et al. 2022, arXiv 2203.05482).
    Linear {
        /// One per model.
        weights: Vec<f64>,
        /// Whether the sum is divided by that of the weights.
        normalize: bool,
    },
    /// Spherical interpolation of two models (Shoemake 1985), each tensor as one vector.
    Slerp {
        /// 0 is the first model, 1 the second.
        t: f64,
    },
    /// Spherical interpolation of two models, or of their changes from a base, by their weights.
    NuSlerp {
        /// One per model; the second's share of both is the way from the first to the second.
        weights: Vec<f64>,
        /// What is turned.
        of: Vectors,
    },
    /// base + lambda · Σ w · (model − base), the changes thinned first.
    TaskVectors(TaskVectors),
    /// Between the base and the models' mean, by the angles between their changes (Jang et al. 2024, arXiv 2403.19522).
    ModelStock {
        /// One angle per row instead of one per tensor.
        filter_wise: bool,
    },
    /// One model's tensors as they are, or scaled.
    Passthrough {
        /// Factor of all values.
        scale: f64,
    },
}

/// Parts of a tensor that spherical interpolation takes for one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// All of it.
    Whole,
    /// Each row: the weights of one output.
    Rows,
    /// Each column: the weights of one input.
    Columns,
}

/// A sum of changes (task arithmetic: Ilharco et al. 2023, arXiv 2212.04089).
#[derive(Clone, Debug, PartialEq)]
pub struct TaskVectors {
    /// One per model.
    pub weights: Vec<f64>,
    /// What is left of every model's changes.
    pub thinning: Thinning,
    /// Whether only what agrees with the sign of the weighted sum takes part (TIES: Yadav et al. 2023, arXiv 2306.01708).
    pub elect: bool,
    /// Whether the sum is divided by that of the weights that took part.
    pub normalize: bool,
    /// Factor of the sum.
    pub lambda: f64,
}

/// Which changes are left; one number per model in every list.
#[derive(Clone, Debug, PartialEq)]
pub enum Thinning {
    /// All.
    None,
    /// The largest of a tensor (TIES). Of equal ones at the edge all are kept.
    Largest {
        /// Share that is kept.
        density: Vec<f64>,
    },
    /// Any, drawn (DARE: Yu et al. 2024, arXiv 2311.03099).
    Random {
        /// Probability of being kept.
        density: Vec<f64>,
        /// Whether what is kept is divided by its probability.
        rescale: bool,
        /// Seed of the choice.
        seed: u64,
    },
    /// Any, drawn, larger ones of a row more likely (DELLA: Deep et al. 2024, arXiv 2406.11617).
    ByRank {
        /// Mean probability of being kept.
        density: Vec<f64>,
        /// The smallest change of a row has `density − epsilon`, the largest `density + epsilon`.
        epsilon: Vec<f64>,
        /// Whether what is kept is divided by its probability.
        rescale: bool,
        /// Seed of the choice.
        seed: u64,
    },
    /// The largest of a tensor after the outliers (model breadcrumbs: Davari and Belilovsky 2023, arXiv 2312.06795).
    WithoutOutliers {
        /// Share that is kept.
        density: Vec<f64>,
        /// Share of the largest that is dropped.
        gamma: Vec<f64>,
    },
}

impl Thinning {
    fn density(&self) -> &[f64] {
        match self {
            Self::None => &[],
            Self::Largest { density }
            | Self::Random { density, .. }
            | Self::ByRank { density, .. }
            | Self::WithoutOutliers { density, .. } => density,
        }
    }
}

impl Method {
    /// The weighted mean.
    pub fn linear(weights: &[f64]) -> Self {
        Self::Linear { weights: weights.to_vec(), normalize: true }
    }

    /// The sum of changes.
    pub fn task_arithmetic(weights: &[f64], lambda: f64) -> Self {
        let (weights, thinning) = (weights.to_vec(), Thinning::None);
        Self::TaskVectors(TaskVectors { weights, thinning, elect: false, normalize: false, lambda })
    }

    /// TIES with one density for all models.
    pub fn ties(weights: &[f64], density: f64, lambda: f64) -> Self {
        let thinning = Thinning::Largest { density: vec![density; weights.len()] };
        Self::TaskVectors(TaskVectors { weights: weights.to_vec(), thinning, elect: true, normalize: true, lambda })
    }

    /// Its name on the command line, in recipes and in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Linear { .. } => "linear",
            Method::Slerp { .. } => "slerp",
            Method::NuSlerp { .. } => "nuslerp",
            Method::ModelStock { .. } => "model_stock",
            Method::Passthrough { .. } => "passthrough",
            Method::TaskVectors(task) => match (&task.thinning, task.elect) {
                (Thinning::None, _) => "task_arithmetic",
                (Thinning::Largest { .. }, _) => "ties",
                (Thinning::Random { .. }, false) => "dare_linear",
                (Thinning::Random { .. }, true) => "dare_ties",
                (Thinning::ByRank { .. }, false) => "della_linear",
                (Thinning::ByRank { .. }, true) => "della",
                (Thinning::WithoutOutliers { .. }, false) => "breadcrumbs",
                (Thinning::WithoutOutliers { .. }, true) => "breadcrumbs_ties",
            },
        }
    }

    /// Its numbers that are the same for all models, by name, for the file and for people.
    pub fn parameters(&self) -> Vec<(&'static str, f64)> {
        let equal = |list: &[f64]| list.first().copied().filter(|first| list.iter().all(|x| x == first));
        match self {
            Method::Linear { .. } | Method::NuSlerp { .. } | Method::ModelStock { .. } => vec![],
            Method::Slerp { t } => vec![("t", *t)],
            Method::Passthrough { scale } => vec![("scale", *scale)],
            Method::TaskVectors(task) => {
                let density = equal(task.thinning.density()).map(|d| ("density", d));
                let other = match &task.thinning {
                    Thinning::ByRank { epsilon, .. } => equal(epsilon).map(|e| ("epsilon", e)),
                    Thinning::WithoutOutliers { gamma, .. } => equal(gamma).map(|g| ("gamma", g)),
                    _ => None,
                };
                let seed = match task.thinning {
                    Thinning::Random { seed, .. } | Thinning::ByRank { seed, .. } => Some(("seed", seed as f64)),
                    _ => None,
                };
                density.into_iter().chain([("lambda", task.lambda)]).chain(other).chain(seed).collect()
            }
        }
    }

    /// The models' weights; none where a method has none.
    pub fn weights(&self) -> &[f64] {
        match self {
            Method::Slerp { .. } | Method::ModelStock { .. } | Method::Passthrough { .. } => &[],
            Method::Linear { weights, .. } | Method::NuSlerp { weights, .. } => weights,
            Method::TaskVectors(task) => &task.weights,
        }
    }

    /// Checks the numbers for this many models.
    pub fn validate(&self, n_models: usize, has_base: bool) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Kind::Argument, format!("method {}: {what}", self.name())));
        match (self, has_base) {
            (Method::TaskVectors(_) | Method::ModelStock { .. }, false) => return refuse("needs a base".to_owned()),
            (Method::Linear { .. } | Method::Slerp { .. } | Method::Passthrough { .. }, true) => {
                return refuse("takes no base".to_owned());
            }
            _ => {}
        }
        let (least, most) = match self {
            Method::Slerp { .. } | Method::NuSlerp { .. } => (2, 2),
            Method::Passthrough { .. } => (1, 1),
            Method::ModelStock { .. } => (2, usize::MAX),
            Method::Linear { .. } | Method::TaskVectors(_) => (1, usize::MAX),
        };
        if n_models < least || n_models > most {
            let wanted = if most == usize::MAX { format!("{least} models or more") } else { models(most) };
            return refuse(format!("takes {wanted}, not {n_models}"));
        }
        let weights = self.weights();
        let weighted = !matches!(self, Method::Slerp { .. } | Method::ModelStock { .. } | Method::Passthrough { .. });
        if weighted && weights.len() != n_models {
            return refuse(format!("{} weights for {n_models} models", weights.len()));
        }
        let wild = |x: &&f64| !(-1e3..=1e3).contains(*x);
        if let Some(bad) = weights.iter().find(wild) {
            return refuse(format!("weight {bad}: outside -1000 to 1000"));
        }
        let sum = weights.iter().sum::<f64>();
        match self {
            Method::Slerp { t } if !(0.0..=1.0).contains(t) => refuse(format!("t {t}: outside 0 to 1")),
            Method::Passthrough { scale } if wild(&scale) => refuse(format!("scale {scale}: outside -1000 to 1000")),
            Method::Linear { normalize: true, .. } if sum.abs() < 1e-6 => refuse("the weights add up to 0".to_owned()),
            Method::NuSlerp { .. } if weights.iter().any(|w| *w < 0.0) || sum < 1e-6 => {
                refuse("the weights are no shares: negative, or all 0".to_owned())
            }
            Method::TaskVectors(task) => task.validate().map_err(|what| {
                let message = format!("method {}: {what}", self.name());
                Error::new(Kind::Argument, message)
            }),
            _ => Ok(()),
        }
    }

    /// The coefficient of every source (the base first, where there is one) if the result is the same sum everywhere.
    pub(super) fn coefficients(&self) -> Option<Vec<f64>> {
        match self {
            Method::Linear { weights, normalize: true } => {
                let sum: f64 = weights.iter().sum();
                Some(weights.iter().map(|w| w / sum).collect())
            }
            Method::Linear { weights, .. } => Some(weights.clone()),
            Method::Passthrough { scale } => Some(vec![*scale]),
            Method::TaskVectors(task) if task.thinning == Thinning::None => {
                let divisor = if task.normalize { task.weights.iter().sum() } else { 1.0 };
                let scaled: Vec<f64> = task.weights.iter().map(|w| task.lambda * w / divisor).collect();
                let base = 1.0 - scaled.iter().sum::<f64>();
                Some(std::iter::once(base).chain(scaled).collect())
            }
            Method::Slerp { t } if *t == 0.0 || *t == 1.0 => Some(vec![1.0 - t, *t]),
            Method::Slerp { .. } | Method::NuSlerp { .. } | Method::ModelStock { .. } | Method::TaskVectors(_) => None,
        }
    }

    /// True if models that are equal, and equal to the base, give themselves.
    pub(super) fn keeps_equals(&self) -> bool {
        match self.coefficients() {
            Some(coefficients) => (coefficients.iter().sum::<f64>() - 1.0).abs() < 1e-12,
            None => true,
        }
    }
}

fn models(n: usize) -> String {
    if n == 1 {
        "one model".to_owned()
    } else {
        "two models".to_owned()
    }
}

impl TaskVectors {
    fn validate(&self) -> std::result::Result<(), String> {
        if !(-1e3..=1e3).contains(&self.lambda) {
            return Err(format!("lambda {}: outside -1000 to 1000", self.lambda));
        }
        let elects = match self.thinning {
            Thinning::None => false,
            Thinning::Largest { .. } => true,
            _ => self.elect,
        };
        if self.elect != elects {
            return Err("signs are elected among the largest changes (ties), never among all".to_owned());
        }
        if self.elect && self.weights.iter().any(|w| *w <= 0.0) {
            return Err("a weight is not positive".to_owned());
        }
        if self.normalize && self.weights.iter().sum::<f64>().abs() < 1e-6 {
            return Err("the weights add up to 0".to_owned());
        }
        let density = self.thinning.density();
        if self.thinning != Thinning::None && density.len() != self.weights.len() {
            return Err(format!("{} densities for {} models", density.len(), self.weights.len()));
        }
        if let Some(bad) = density.iter().find(|d| !(**d > 0.0 && **d <= 1.0)) {
            return Err(format!("density {bad}: outside 0 to 1, or 0"));
        }
        let pairs = |list: &[f64], name: &str, fits: fn(f64, f64) -> bool| {
            if list.len() != density.len() {
                return Err(format!("{} values of {name} for {} models", list.len(), density.len()));
            }
            match density.iter().zip(list).find(|(d, x)| !fits(**d, **x)) {
                Some((d, x)) => Err(format!("{name} {x} does not go with density {d}")),
                None => Ok(()),
            }
        };
        match &self.thinning {
            // A density of 1 keeps everything, whatever epsilon is.
            Thinning::ByRank { epsilon, .. } => {
                pairs(epsilon, "epsilon", |d, e| e >= 0.0 && (d == 1.0 || (d - e > 0.0 && d + e <= 1.0)))
            }
            Thinning::WithoutOutliers { gamma, .. } => pairs(gamma, "gamma", |d, g| g >= 0.0 && d + g <= 1.0 + 1e-12),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(thinning: Thinning, elect: bool) -> Method {
        Method::TaskVectors(TaskVectors { weights: vec![1.0], thinning, elect, normalize: false, lambda: 1.0 })
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let says = |method: Method, n: usize, base: bool, text: &str| {
            let error = method.validate(n, base).unwrap_err();
            assert!(error.kind() == Kind::Argument && error.to_string().contains(text), "{error}");
        };
        says(Method::linear(&[1.0, -1.0]), 2, false, "add up to 0");
        says(Method::linear(&[1.0]), 2, false, "1 weights for 2 models");
        says(Method::linear(&[1.0, f64::NAN]), 2, false, "weight NaN");
        says(Method::linear(&[1.0]), 1, true, "takes no base");
        says(Method::Slerp { t: 1.5 }, 2, false, "t 1.5");
        says(Method::Slerp { t: 0.5 }, 3, false, "two models");
        says(Method::NuSlerp { weights: vec![1.0, -1.0], of: Vectors::Whole }, 2, false, "no shares");
        says(Method::Passthrough { scale: 1.0 }, 2, false, "one model");
        says(Method::ModelStock { filter_wise: false }, 1, true, "2 models or more");
        says(Method::ModelStock { filter_wise: false }, 2, false, "needs a base");
        says(Method::task_arithmetic(&[1.0], f64::INFINITY), 1, true, "lambda inf");
        says(Method::task_arithmetic(&[1.0], 1.0), 1, false, "needs a base");
        says(Method::ties(&[0.0], 0.5, 1.0), 1, true, "not positive");
        says(Method::ties(&[1.0], 0.0, 1.0), 1, true, "density 0");
        says(task(Thinning::None, true), 1, true, "never among all");
        let random = |density| Thinning::Random { density, rescale: true, seed: 0 };
        says(task(random(vec![1.5]), false), 1, true, "density 1.5");
        says(task(random(vec![]), false), 1, true, "0 densities for 1 models");
        let by_rank = |d, e| Thinning::ByRank { density: vec![d], epsilon: vec![e], rescale: true, seed: 0 };
        says(task(by_rank(0.5, 0.5), false), 1, true, "epsilon 0.5 does not go with density 0.5");
        let without = |d, g| Thinning::WithoutOutliers { density: vec![d], gamma: vec![g] };
        says(task(without(0.95, 0.1), true), 1, true, "gamma 0.1");
        for fine in [by_rank(1.0, 0.15), by_rank(0.5, 0.4), without(0.9, 0.1)] {
            task(fine, true).validate(1, true).unwrap();
        }
        assert!(Method::ties(&[1.0], 1.0, 1.0).validate(1, true).is_ok());
    }
}
