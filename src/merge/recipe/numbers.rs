//! Which words a method has a use for, and the method with its numbers for one tensor.

use super::setting::{Found, Parameters};
use super::{Input, Recipe};
use crate::error::Result;
use crate::merge::{Method, TaskVectors, Thinning, Vectors, EPSILON, GAMMA};

/// Words for every model, and words for the method.
pub(super) struct Words {
    models: &'static [&'static str],
    method: &'static [&'static str],
}

/// mergekit's switch for smaller masks in its memory. Our masks take none, so it changes nothing, and that is said.
const INT8_MASK: &str = "int8_mask";

/// What a method understands.
pub(super) fn words(method: &str) -> std::result::Result<Words, String> {
    let (models, method): (&[&str], &[&str]) = match method {
        "linear" => (&["weight"], &["normalize"]),
        "slerp" => (&[], &["t"]),
        "nuslerp" => (&["weight"], &["nuslerp_flatten", "nuslerp_row_wise"]),
        "task_arithmetic" => (&["weight"], &["normalize", "lambda", INT8_MASK]),
        "ties" => (&["weight", "density"], &["normalize", "lambda", INT8_MASK]),
        "dare_linear" | "dare_ties" => (&["weight", "density"], &["normalize", "lambda", "rescale", INT8_MASK]),
        "della_linear" | "della" => (&["weight", "density", "epsilon"], &["normalize", "lambda", "rescale", INT8_MASK]),
        "breadcrumbs" | "breadcrumbs_ties" => (&["weight", "density", "gamma"], &["normalize", "lambda", INT8_MASK]),
        "model_stock" => (&[], &["filter_wise"]),
        "passthrough" => (&["scale"], &[]),
        _ => return Err("is not known".to_owned()),
    };
    Ok(Words { models, method })
}

/// Where a tensor of the output comes from, as settings see it.
pub(super) struct Place<'a> {
    /// Its name in the output.
    pub(super) name: &'a str,
    /// The slice that it belongs to.
    pub(super) slice: usize,
    /// How far through the slice, 0 to 1.
    pub(super) t: f64,
    /// The models, the base not among them, each with the tensor's name there.
    pub(super) inputs: Vec<(&'a Input, &'a str)>,
    /// Whether there is a base.
    pub(super) has_base: bool,
}

impl Recipe {
    /// Refuses settings that the method has no use for, and lists without elements.
    pub(super) fn check_words(&mut self) -> Result<()> {
        let words = words(&self.method).map_err(|what| self.refuse(what))?;
        let check = |parameters: &Parameters, of_model: bool, place: &str| {
            for (name, setting) in parameters {
                let known =
                    words.models.contains(&name.as_str()) || (!of_model && words.method.contains(&name.as_str()));
                if !known {
                    let what =
                        if words.method.contains(&name.as_str()) { "is for all models together" } else { "is unknown" };
                    return Err(self.refuse(format!("{place}: parameter {name} of {} {what}", self.method)));
                }
                if setting.is_empty() {
                    return Err(self.refuse(format!("{place}: parameter {name} is an empty list")));
                }
            }
            Ok(())
        };
        check(&self.parameters, false, "parameters")?;
        for (i, slice) in self.slices.iter().enumerate() {
            check(&slice.parameters, false, &format!("slices[{i}]"))?;
            slice.sources.iter().try_for_each(|source| check(&source.parameters, true, &source.model))?;
        }
        let levels = std::iter::once(&self.parameters).chain(self.slices.iter().map(|slice| &slice.parameters));
        if levels.into_iter().any(|parameters| parameters.contains_key(INT8_MASK)) {
            self.notes.push(format!("parameter {INT8_MASK} changes nothing here: masks take no memory"));
        }
        Ok(())
    }

    /// Every setting and the level it stands at.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&str, &super::setting::Setting)> {
        let slices = self.slices.iter();
        let levels = slices.flat_map(|s| std::iter::once(&s.parameters).chain(s.sources.iter().map(|i| &i.parameters)));
        let all = std::iter::once(&self.parameters).chain(levels);
        all.flat_map(|parameters| parameters.iter().map(|(name, setting)| (name.as_str(), setting)))
    }

    /// The nearest level that tells: the model's own, the slice's, the recipe's.
    fn find(&self, word: &str, tensor: &str, place: &Place, of_model: Option<&Input>) -> Option<Found> {
        let own = of_model.map(|input| &input.parameters);
        let levels = own.into_iter().chain([&self.slices[place.slice].parameters, &self.parameters]);
        levels.filter_map(|level| level.get(word)).find_map(|setting| setting.at(tensor, place.t))
    }

    fn number(&self, found: Option<Found>, word: &str, place: &Place) -> Result<Option<f64>> {
        match found {
            Some(Found::Flag(_)) => Err(self.refuse(format!("parameter {word} of {} is no number", place.name))),
            Some(Found::Number(x)) => Ok(Some(x)),
            None => Ok(None),
        }
    }

    /// A number for every model.
    fn of_models(&self, word: &str, place: &Place, default: Option<f64>) -> Result<Vec<f64>> {
        let of_one = |(input, name): &(&Input, &str)| {
            let found = self.number(self.find(word, name, place, Some(input)), word, place)?;
            found
                .or(default)
                .ok_or_else(|| self.refuse(format!("{}: parameter {word} is missing for tensor {name}", input.model)))
        };
        place.inputs.iter().map(of_one).collect()
    }

    /// A number for all models together.
    fn of_method(&self, word: &str, place: &Place, default: Option<f64>) -> Result<f64> {
        let found = self.number(self.find(word, place.name, place, None), word, place)?;
        found.or(default).ok_or_else(|| self.refuse(format!("parameter {word} is missing for tensor {}", place.name)))
    }

    fn flag(&self, word: &str, place: &Place, default: bool) -> Result<bool> {
        match self.find(word, place.name, place, None) {
            None => Ok(default),
            Some(Found::Flag(flag)) => Ok(flag),
            Some(Found::Number(_)) => Err(self.refuse(format!("parameter {word} is neither true nor false"))),
        }
    }

    /// The method for one tensor. Defaults are mergekit's.
    pub(super) fn method_at(&self, place: &Place) -> Result<Method> {
        let method = match self.method.as_str() {
            "linear" => {
                let weights = self.of_models("weight", place, None)?;
                Method::Linear { weights, normalize: self.flag("normalize", place, true)? }
            }
            "slerp" => Method::Slerp { t: self.of_method("t", place, None)? },
            "nuslerp" => {
                let (whole, rows) =
                    (self.flag("nuslerp_flatten", place, true)?, self.flag("nuslerp_row_wise", place, false)?);
                let of = match (whole, rows) {
                    (true, false) => Vectors::Whole,
                    (true, true) => return Err(self.refuse("nuslerp_row_wise needs nuslerp_flatten: false")),
                    (false, true) => Vectors::Columns,
                    (false, false) => Vectors::Rows,
                };
                Method::NuSlerp { weights: self.of_models("weight", place, None)?, of }
            }
            "model_stock" => Method::ModelStock { filter_wise: self.flag("filter_wise", place, false)? },
            "passthrough" => match self.of_models("scale", place, Some(1.0))?.as_slice() {
                [scale] => Method::Passthrough { scale: *scale },
                other => return Err(self.refuse(format!("passthrough takes one model, not {}", other.len()))),
            },
            name => Method::TaskVectors(self.task_at(name, place)?),
        };
        method.validate(place.inputs.len(), place.has_base).map_err(|e| self.refuse(format!("{}: {e}", place.name)))?;
        Ok(method)
    }

    fn task_at(&self, name: &str, place: &Place) -> Result<TaskVectors> {
        let density = || self.of_models("density", place, Some(1.0));
        let (seed, rescale) = (self.seed, || self.flag("rescale", place, true));
        let thinning = match name {
            "ties" => Thinning::Largest { density: density()? },
            "dare_linear" | "dare_ties" => Thinning::Random { density: density()?, rescale: rescale()?, seed },
            "della_linear" | "della" => {
                let epsilon = self.of_models("epsilon", place, Some(EPSILON))?;
                Thinning::ByRank { density: density()?, epsilon, rescale: rescale()?, seed }
            }
            "breadcrumbs" | "breadcrumbs_ties" => {
                // Nothing is dropped where everything is to be kept.
                let density = density()?;
                let gamma = self.of_models("gamma", place, Some(GAMMA))?;
                let gamma = density.iter().zip(gamma).map(|(d, g)| if *d == 1.0 { 0.0 } else { g }).collect();
                Thinning::WithoutOutliers { density, gamma }
            }
            _ => Thinning::None,
        };
        Ok(TaskVectors {
            weights: self.of_models("weight", place, None)?,
            thinning,
            elect: matches!(name, "ties" | "dare_ties" | "della" | "breadcrumbs_ties"),
            normalize: self.flag("normalize", place, matches!(name, "ties" | "della"))?,
            lambda: self.of_method("lambda", place, Some(1.0))?,
        })
    }
}
