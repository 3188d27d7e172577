//! Scores of what an adapter changes: |s·B·A|, some rows at a time and never whole.

use super::{Granularity, Scores, Shape};
use crate::adapter::{Factor, Lora};
use crate::error::Result;

/// Values that are formed at a time.
const TILE: usize = 1 << 16;

/// |θ₁ − θ₀| of a warm-up that moved an adapter: the paper's score, with θ₁ − θ₀ = (α/r)·B·A.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    lora: &'a Lora,
    shapes: &'a [Shape],
}

impl Lora {
    /// The weights that it adapts, in its own order; a stack of experts counts as one matrix with the rows of all of them.
    pub fn shapes(&self) -> Vec<Shape> {
        let shape = |f: &Factor| Shape { name: f.weight.clone(), n_in: f.n_in, n_out: f.n_out * f.n_experts };
        self.factors.iter().map(shape).collect()
    }
}

impl<'a> LowRank<'a> {
    /// Scores of an adapter's weights; `shapes` is [`Lora::shapes`] of it.
    pub fn new(lora: &'a Lora, shapes: &'a [Shape]) -> Self {
        Self { lora, shapes }
    }
}

impl Scores for LowRank<'_> {
    fn shapes(&self) -> &[Shape] {
        self.shapes
    }

    fn granularity(&self) -> Granularity {
        Granularity::Weight
    }

    fn visit(&self, i: usize, each: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let factor = &self.lora.factors[i];
        let (rank, n_in, scale) = (factor.rank, factor.n_in, self.lora.scale(factor));
        let rows = (TILE / n_in).max(1);
        for (a, b) in factor.a.chunks(n_in * rank).zip(factor.b.chunks(factor.n_out * rank)) {
            for b in b.chunks(rows * rank) {
                let mut tile = vec![0.0f32; b.len() / rank * n_in];
                for (row, b) in tile.chunks_exact_mut(n_in).zip(b.chunks_exact(rank)) {
                    for (&c, a) in b.iter().zip(a.chunks_exact(n_in)) {
                        row.iter_mut().zip(a).for_each(|(r, &a)| *r += c * a);
                    }
                    row.iter_mut().for_each(|r| *r = (scale * *r).abs());
                }
                each(&tile)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{select, Band, Order};
    use super::*;

    /// T4: the sign of the change does not matter; and a product of f64s written out, over several tiles.
    #[test]
    fn tiles_are_the_product_of_the_factors() {
        let (n_in, n_out, rank) = (640, 300, 3);
        let wave = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin()).collect::<Vec<_>>();
        let (a, b) = (wave(n_in * rank, 0.37), wave(n_out * rank, 0.91));
        let factor = Factor { weight: "w".into(), rank, n_in, n_out, n_experts: 1, a, b, alpha: None };
        let lora = Lora { alpha: 6.0, factors: vec![factor.clone()] };
        let shapes = lora.shapes();
        let (mut found, mut n_tiles) = (Vec::new(), 0);
        let scores = LowRank::new(&lora, &shapes);
        scores
            .visit(0, &mut |tile| {
                (n_tiles, found) = (n_tiles + 1, [&found[..], tile].concat());
                Ok(())
            })
            .unwrap();
        assert!(n_tiles > 1 && found.len() == n_in * n_out);
        for (k, &value) in found.iter().enumerate() {
            let (row, column) = (k / n_in, k % n_in);
            let product = |r: usize| f64::from(factor.b[row * rank + r]) * f64::from(factor.a[r * n_in + column]);
            let wanted = (2.0 * (0..rank).map(product).sum::<f64>()).abs();
            assert!((f64::from(value) - wanted).abs() < 1e-5, "{k}: {value} {wanted}");
        }
        let turned =
            Lora { factors: vec![Factor { b: factor.b.iter().map(|b| -b).collect(), ..factor }], ..lora.clone() };
        let mask = |scores: &LowRank| select(scores, Order::Largest, Band::first(0.05)).unwrap();
        assert_eq!(mask(&LowRank::new(&turned, &shapes)), mask(&scores));
    }
}
