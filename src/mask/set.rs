//! Masks and what can be done with them.

use super::{Bits, Granularity, Shape};
use crate::error::{Error, Kind, Result};
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A tensor's part of a mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMask {
    /// The tensor.
    pub shape: Shape,
    /// What of it is free to move.
    pub bits: Bits,
}

/// Which weights may move. What no tensor of it names may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    granularity: Granularity,
    tensors: Vec<TensorMask>,
    /// Where it comes from: what its file tells, by key.
    pub provenance: BTreeMap<String, String>,
}

impl Mask {
    /// A mask of unknown provenance.
    pub fn new(granularity: Granularity, tensors: Vec<TensorMask>) -> Self {
        Self { granularity, tensors, provenance: BTreeMap::new() }
    }

    /// All of some tensors.
    pub fn all(granularity: Granularity, shapes: &[Shape]) -> Self {
        let whole = |s: &Shape| TensorMask { shape: s.clone(), bits: Bits::all(s.units(granularity)) };
        Self::new(granularity, shapes.iter().map(whole).collect())
    }

    /// What a bit stands for.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Its tensors.
    pub fn tensors(&self) -> &[TensorMask] {
        &self.tensors
    }

    /// A tensor's part.
    pub fn tensor(&self, name: &str) -> Option<&TensorMask> {
        self.tensors.iter().find(|t| t.shape.name == name)
    }

    /// Weights, rows, columns or tensors that are free.
    pub fn count(&self) -> u64 {
        self.tensors.iter().map(|t| t.bits.count() as u64).sum()
    }

    /// Of how many.
    pub fn n(&self) -> u64 {
        self.tensors.iter().map(|t| t.bits.len() as u64).sum()
    }

    /// Weights that are free.
    pub fn n_weights(&self) -> u64 {
        self.tensors.iter().map(|t| t.n_weights(self.granularity)).sum()
    }

    /// What is in either.
    ///
    /// # Errors
    /// As for all of these: if the masks are of different granularity, or of tensors that have other shapes.
    pub fn union(&self, other: &Self) -> Result<Self> {
        self.with(other, "union", |a, b| a | b)
    }

    /// What is in both.
    ///
    /// # Errors
    /// As [`Self::union`].
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.with(other, "intersection", |a, b| a & b)
    }

    /// What is here and not there.
    ///
    /// # Errors
    /// As [`Self::union`].
    pub fn difference(&self, other: &Self) -> Result<Self> {
        self.with(other, "difference", |a, b| a & !b)
    }

    /// What is not in it, of the same tensors.
    #[must_use]
    pub fn complement(&self) -> Self {
        let other = |t: &TensorMask| TensorMask { shape: t.shape.clone(), bits: t.bits.complement() };
        Self::new(self.granularity, self.tensors.iter().map(other).collect())
    }

    /// Whether all that is in it is in the other.
    ///
    /// # Errors
    /// As [`Self::union`].
    pub fn is_within(&self, other: &Self) -> Result<bool> {
        Ok(self.difference(other)?.count() == 0)
    }

    /// A control: as many of every tensor as here, drawn without regard to scores. Each tensor has draws of its own, so that a
    /// mask of some tensors draws the same of them.
    #[must_use]
    pub fn random_like(&self, seed: u64) -> Self {
        let draw = |t: &TensorMask| TensorMask { shape: t.shape.clone(), bits: t.redrawn(seed) };
        Self::new(self.granularity, self.tensors.iter().map(draw).collect())
    }

    /// A tensor that only one of them names has nothing in the other.
    fn with(&self, other: &Self, what: &str, f: impl Fn(u64, u64) -> u64) -> Result<Self> {
        let mismatch = |says: String| Error::new(Kind::Mismatch, format!("{what} of masks: {says}"));
        if self.granularity != other.granularity {
            let (a, b) = (self.granularity.name(), other.granularity.name());
            return Err(mismatch(format!("one is of {a}s, the other of {b}s")));
        }
        let empty = |t: &TensorMask| TensorMask { shape: t.shape.clone(), bits: Bits::none(t.bits.len()) };
        let of_other = other.tensors.iter().filter(|t| self.tensor(&t.shape.name).is_none()).map(empty);
        let mut tensors: Vec<_> = self.tensors.iter().cloned().chain(of_other).collect();
        for tensor in &mut tensors {
            let there = other.tensor(&tensor.shape.name).cloned().unwrap_or_else(|| empty(tensor));
            if there.shape != tensor.shape {
                return Err(mismatch(format!("tensor {} has two shapes", tensor.shape.name)));
            }
            tensor.bits = tensor.bits.with(&there.bits, &f);
        }
        Ok(Self::new(self.granularity, tensors))
    }
}

impl TensorMask {
    /// Weights that are free.
    pub fn n_weights(&self, granularity: Granularity) -> u64 {
        (self.bits.count() * self.shape.weights_per_unit(granularity)) as u64
    }

    /// The same for every single weight.
    pub fn weights(&self, granularity: Granularity) -> Bits {
        let Shape { n_in, n_out, .. } = self.shape;
        match granularity {
            Granularity::Weight => self.bits.clone(),
            Granularity::Row => self.bits.widened(n_in),
            Granularity::Column => {
                let mut all = Bits::none(n_in * n_out);
                let columns: Vec<usize> = self.bits.runs().flatten().collect();
                (0..n_out).for_each(|row| columns.iter().for_each(|column| all.set(row * n_in + column)));
                all
            }
            Granularity::Tensor => self.bits.widened(n_in * n_out),
        }
    }

    /// So many others (Knuth, The Art of Computer Programming 2, section 3.4.2, algorithm S).
    fn redrawn(&self, seed: u64) -> Bits {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(b"random mask\0").update(self.shape.name.as_bytes());
        let mut rng = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
        let mut bits = Bits::none(self.bits.len());
        let (mut left, mut wanted) = (self.bits.len() as u64, self.bits.count() as u64);
        for i in 0..self.bits.len() {
            // Chosen with probability wanted / left, in 64 bits.
            if (u128::from(rng.next_u64()) * u128::from(left)) >> 64 < u128::from(wanted) {
                bits.set(i);
                wanted -= 1;
            }
            left -= 1;
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(tensors: &[(&str, usize, &[usize])]) -> Mask {
        let tensor = |(name, n, chosen): &(&str, usize, &[usize])| {
            let mut bits = Bits::none(*n);
            chosen.iter().for_each(|&i| bits.set(i));
            TensorMask { shape: Shape { name: (*name).into(), n_in: 4, n_out: *n }, bits }
        };
        Mask::new(Granularity::Row, tensors.iter().map(tensor).collect())
    }

    #[test]
    fn sets_do_what_sets_do() {
        let (a, b) = (mask(&[("x", 5, &[0, 1, 4])]), mask(&[("x", 5, &[1, 2]), ("y", 3, &[0])]));
        assert_eq!(a.union(&b).unwrap(), mask(&[("x", 5, &[0, 1, 2, 4]), ("y", 3, &[0])]));
        assert_eq!(a.intersection(&b).unwrap(), mask(&[("x", 5, &[1]), ("y", 3, &[])]));
        assert_eq!(b.difference(&a).unwrap(), mask(&[("x", 5, &[2]), ("y", 3, &[0])]));
        assert_eq!(a.complement(), mask(&[("x", 5, &[2, 3])]));
        assert!(a.intersection(&b).unwrap().is_within(&a).unwrap() && !b.is_within(&a).unwrap());
        assert_eq!((a.count(), a.n(), a.n_weights()), (3, 5, 12));
        let error = a.union(&mask(&[("x", 6, &[])])).unwrap_err();
        assert!(error.kind() == Kind::Mismatch && error.to_string().contains('x'), "{error}");
        assert!(a.union(&Mask::new(Granularity::Column, Vec::new())).is_err());
    }

    /// T21's control: equal counts of every tensor; the draws are even.
    #[test]
    fn a_random_control_has_equal_counts_and_no_favourites() {
        let chosen: Vec<usize> = (0..100).collect();
        let given = mask(&[("x", 1000, &chosen), ("y", 10, &[3]), ("z", 7, &[]), ("w", 2, &[0, 1])]);
        let (drawn, again, other) = (given.random_like(1), given.random_like(1), given.random_like(2));
        assert!(drawn == again && drawn != other && drawn != given);
        let counts = |m: &Mask| m.tensors().iter().map(|t| t.bits.count()).collect::<Vec<_>>();
        assert_eq!(counts(&drawn), counts(&given));
        let mut hits = [0u32; 10];
        (0..2000).for_each(|seed| hits[given.random_like(seed).tensors()[1].bits.runs().next().unwrap().start] += 1);
        // 200 each; five standard deviations are 67.
        assert!(hits.iter().all(|&n| n.abs_diff(200) < 67), "{hits:?}");
    }
}
