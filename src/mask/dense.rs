//! Scores of free changes, and of gradients that are added up.

use super::{Granularity, Scores, Shape};
use crate::adapter::Change;
use crate::error::Result;

/// |θ₁ − θ₀| of a warm-up that moved whole weights: the paper's score.
#[derive(Clone, Debug)]
pub struct Moved<'a> {
    changes: &'a [Change],
    shapes: Vec<Shape>,
}

/// Values that are handed out at a time.
const TILE: usize = 1 << 16;

impl<'a> Moved<'a> {
    /// Scores of these weights.
    pub fn new(changes: &'a [Change]) -> Self {
        let shape = |c: &Change| Shape { name: c.weight.clone(), n_in: c.n_in, n_out: c.n_out };
        Self { changes, shapes: changes.iter().map(shape).collect() }
    }
}

impl Scores for Moved<'_> {
    fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    fn granularity(&self) -> Granularity {
        Granularity::Weight
    }

    fn visit(&self, i: usize, each: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let change = &self.changes[i];
        let rows = (TILE / change.n_in).max(1);
        for tile in change.values.chunks(rows * change.n_in) {
            each(&tile.iter().map(|v| v.abs()).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
