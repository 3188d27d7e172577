//! Scores that are in memory, and scores of rows, columns and tensors: the means of their weights'.

use super::{Granularity, Scores, Shape};
use crate::error::{Error, Kind, Result};

/// Scores in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    granularity: Granularity,
    shapes: Vec<Shape>,
    values: Vec<Vec<f32>>,
}

impl Table {
    /// Scores of these tensors, or of their parts.
    ///
    /// # Errors
    /// If they are not as many as the tensors have parts.
    pub fn new(granularity: Granularity, shapes: Vec<Shape>, values: Vec<Vec<f32>>) -> Result<Self> {
        let fits = |(shape, values): (&Shape, &Vec<f32>)| shape.units(granularity) == values.len();
        if shapes.len() != values.len() || !shapes.iter().zip(&values).all(fits) {
            return Err(Error::new(Kind::Internal, "scores do not fit the tensors that they are of"));
        }
        Ok(Self { granularity, shapes, values })
    }

    /// Scores of tensor `i`.
    pub fn values(&self, i: usize) -> &[f32] {
        &self.values[i]
    }
}

impl Scores for Table {
    fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    fn granularity(&self) -> Granularity {
        self.granularity
    }

    fn visit(&self, i: usize, each: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        each(&self.values[i])
    }
}

/// Scores of larger parts from those of weights. A row's and a column's is the norm of its weights' scores: what the neuron's
/// result can change by, whatever the number of its inputs (the change of a LoRA's weights is smaller where rows are long, since
/// A begins at 1/√n_in). A tensor's is their mean, so that large tensors and small ones compare.
///
/// # Errors
/// If the scores are not those of weights.
pub fn pool(scores: &dyn Scores, granularity: Granularity) -> Result<Table> {
    if scores.granularity() != Granularity::Weight {
        let own = scores.granularity().name();
        return Err(Error::new(Kind::Argument, format!("granularity: scores of {own}s cannot be taken apart")));
    }
    let by_norm = matches!(granularity, Granularity::Row | Granularity::Column);
    let mut values = Vec::with_capacity(scores.shapes().len());
    for (i, shape) in scores.shapes().iter().enumerate() {
        let mut sums = vec![0.0f64; shape.units(granularity)];
        let mut at = 0;
        scores.visit(i, &mut |tile| {
            for &value in tile {
                let part = match granularity {
                    Granularity::Weight => at,
                    Granularity::Row => at / shape.n_in,
                    Granularity::Column => at % shape.n_in,
                    Granularity::Tensor => 0,
                };
                let value = f64::from(value);
                sums[part] += if by_norm { value * value } else { value };
                at += 1;
            }
            Ok(())
        })?;
        let n = shape.weights_per_unit(granularity) as f64;
        let pooled = |sum: f64| if by_norm { sum.sqrt() } else { sum / n };
        values.push(sums.into_iter().map(|sum| pooled(sum) as f32).collect());
    }
    Table::new(granularity, scores.shapes().to_vec(), values)
}
