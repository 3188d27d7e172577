//! A recipe's numbers: one for all, a gradient over the blocks, or by filters on tensor names.

use super::names;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Settings by name.
pub(super) type Parameters = BTreeMap<String, Setting>;

/// What a parameter is set to.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(
    untagged,
    expecting = "a parameter is a number, true or false, a list of numbers, or a list of filter and value"
)]
pub(super) enum Setting {
    Plain(Plain),
    /// The first whose filter is part of the tensor's name counts.
    Filters(Vec<Conditional>),
}

/// A setting for all tensors that it is for.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged, expecting = "a value is a number, true or false, or a list of numbers")]
pub(super) enum Plain {
    Flag(bool),
    Number(f64),
    /// From the first block of a slice to its last.
    Gradient(Vec<f64>),
}

/// A setting for some tensors; for all others where the filter is missing or `*`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Conditional {
    #[serde(default)]
    filter: Option<String>,
    value: Plain,
}

/// What a setting comes to for one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Found {
    Flag(bool),
    Number(f64),
}

impl Setting {
    /// Its value for a tensor at `t` of its slice, 0 to 1; `None` where no filter is for it.
    pub(super) fn at(&self, tensor: &str, t: f64) -> Option<Found> {
        match self {
            Self::Plain(plain) => Some(plain.at(t)),
            Self::Filters(list) => list.iter().find(|c| c.is_for(tensor)).map(|c| c.value.at(t)),
        }
    }

    /// Filters that are for none of these tensors.
    pub(super) fn idle_filter<'a>(&'a self, tensors: &[&str]) -> Option<&'a str> {
        let Self::Filters(list) = self else { return None };
        let idle = |c: &&Conditional| c.filter.is_some() && !tensors.iter().any(|tensor| c.is_for(tensor));
        list.iter().find(idle).and_then(|c| c.filter.as_deref())
    }

    /// The number that it is for every tensor, if it is.
    pub(super) fn everywhere(&self) -> Option<f64> {
        match self {
            Self::Plain(Plain::Number(x)) => Some(*x),
            _ => None,
        }
    }

    /// True for a list of nothing.
    pub(super) fn is_empty(&self) -> bool {
        let empty = |plain: &Plain| matches!(plain, Plain::Gradient(list) if list.is_empty());
        match self {
            Self::Plain(plain) => empty(plain),
            Self::Filters(list) => list.is_empty() || list.iter().any(|c| empty(&c.value)),
        }
    }
}

impl Conditional {
    fn is_for(&self, tensor: &str) -> bool {
        match self.filter.as_deref() {
            None | Some("*") => true,
            Some(filter) => tensor.contains(filter) || names::of_hugging_face(tensor).contains(filter),
        }
    }
}

impl Plain {
    fn at(&self, t: f64) -> Found {
        match self {
            Self::Flag(flag) => Found::Flag(*flag),
            Self::Number(x) => Found::Number(*x),
            Self::Gradient(list) => Found::Number(gradient(list, t)),
        }
    }
}

/// The straight line between the neighbours of place `t`, where the numbers lie evenly from 0 to 1.
fn gradient(list: &[f64], t: f64) -> f64 {
    let at = |i: usize| list.get(i).or(list.last()).copied().unwrap_or(f64::NAN);
    let x = t * (list.len().max(1) - 1) as f64;
    let i = x as usize;
    let share = x - i as f64;
    if share == 0.0 {
        at(i)
    } else {
        (1.0 - share) * at(i) + share * at(i + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> Setting {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn gradients_run_over_the_blocks() {
        let setting = of("[0, 0.5, 0.3, 0.7, 1]");
        let at = |layer: usize| match setting.at("blk.0.attn_q.weight", layer as f64 / 31.0) {
            Some(Found::Number(x)) => x,
            other => panic!("{other:?}"),
        };
        assert_eq!((at(0), at(31)), (0.0, 1.0));
        assert!((at(15) - 0.312_903_23).abs() < 1e-8, "{}", at(15));
        assert_eq!(of("[0.25]").at("x", 0.7), Some(Found::Number(0.25)));
    }

    #[test]
    fn the_first_filter_that_fits_counts_in_either_spelling() {
        let setting = of("[{filter: self_attn, value: 0.1}, {filter: ffn_down, value: [0, 1]}, {value: true}]");
        let at = |name: &str| setting.at(name, 0.5);
        assert_eq!(at("blk.3.attn_q.weight"), Some(Found::Number(0.1)));
        assert_eq!(at("blk.3.ffn_down.weight"), Some(Found::Number(0.5)));
        assert_eq!(at("output.weight"), Some(Found::Flag(true)));
        assert_eq!(of("[{filter: mlp, value: 1}]").at("blk.3.attn_q.weight", 0.0), None);
        assert_eq!(setting.idle_filter(&["blk.0.ffn_down.weight"]), Some("self_attn"));
        assert_eq!(setting.idle_filter(&["blk.0.ffn_down.weight", "blk.0.attn_q.weight"]), None);
    }
}
