//! The rows that a mask names, as changes that are none yet.

use super::{Granularity, Mask};
use crate::adapter::{Linear, RowChange};
use crate::error::{Error, Kind, Result};

/// The rows of these weights that a mask of rows or tensors leaves free.
///
/// # Errors
/// For a mask of weights or columns, one of other shapes, and one that names no row of them.
pub fn rows_of(mask: &Mask, targets: &[Linear]) -> Result<Vec<RowChange>> {
    let granularity = mask.granularity();
    if !matches!(granularity, Granularity::Row | Granularity::Tensor) {
        let what =
            format!("a mask of {}s names no rows: --delta full holds it, or make one of rows", granularity.name());
        return Err(Error::new(Kind::Unsupported, what));
    }
    let mut changes = Vec::new();
    for linear in targets {
        let Some(tensor) = mask.tensor(&linear.name) else { continue };
        if linear.n_experts != 1 {
            let message = format!("mask: tensor {} is a stack of experts, whose rows do not move singly", linear.name);
            return Err(Error::new(Kind::Unsupported, message));
        }
        if (tensor.shape.n_in, tensor.shape.n_out) != (linear.n_in, linear.n_out) {
            let message = format!("mask: tensor {} has another shape in the model", linear.name);
            return Err(Error::new(Kind::Mismatch, message));
        }
        let rows: Vec<usize> = match granularity {
            Granularity::Row => tensor.bits.runs().flatten().collect(),
            _ => (0..if tensor.bits.get(0) { linear.n_out } else { 0 }).collect(),
        };
        if !rows.is_empty() {
            changes.push(RowChange::zero(linear, rows));
        }
    }
    match changes.is_empty() {
        true => Err(Error::new(Kind::Argument, "mask: it leaves nothing free of the weights that are trained")),
        false => Ok(changes),
    }
}
