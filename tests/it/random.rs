//! Numbers that depend on nothing but a name.

use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn of(name: &str) -> Self {
        Self(ChaCha8Rng::from_seed(*blake3::hash(name.as_bytes()).as_bytes()))
    }

    /// Uniform in ±1, a multiple of 2^-23, so that it is exact in F32.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.next_u32() as usize % n
    }

    /// `n` numbers in ±`size`.
    pub(crate) fn vector(&mut self, n: usize, size: f32) -> Vec<f32> {
        (0..n).map(|_| size * self.uniform()).collect()
    }

    /// A direction of length 1.
    pub(crate) fn direction(&mut self, n: usize) -> Vec<f64> {
        let mut d: Vec<f64> = (0..n).map(|_| f64::from(self.uniform())).collect();
        let norm = crate::oracle::norm(&d);
        d.iter_mut().for_each(|x| *x /= norm);
        d
    }
}
