//! Neuron masks: which weights may move (ALLO, Chen et al. 2024, arXiv 2406.12606; specs `allo_hbat`, section 1.4, step 2).
//!
//! **In:** scores of weights, seen some rows at a time, such as how far a warm-up moved each. **Out:** a mask, its file, and
//! which values of a delta it leaves free. **Invariant:** a mask of a share r holds exactly ⌊N·r⌋ of the N that were ranked,
//! whatever their scores; masks of one ranking are nested; memory does not grow with the scores.

mod bits;
mod cut;
mod dense;
mod file;
mod granularity;
mod hold;
mod low_rank;
mod pool;
mod released;
mod rows;
mod select;
mod set;
mod table;

pub use bits::Bits;
pub use dense::Moved;
pub use file::is_mask;
pub use granularity::{Granularity, Shape};
pub use hold::{hold, hold_changes, hold_rows, Hold};
pub use low_rank::LowRank;
pub use pool::{pool, Table};
pub use released::select_as_released;
pub use rows::rows_of;
pub use select::{count, select, Band, Order};
pub use set::{Mask, TensorMask};
pub use table::{shares, Share};

use crate::error::Result;

/// Scores of the weights of some tensors, or of their rows, columns, or the tensors themselves.
pub trait Scores {
    /// The tensors, in the order in which equal scores are taken.
    fn shapes(&self) -> &[Shape];
    /// What has a score.
    fn granularity(&self) -> Granularity;
    /// All scores of tensor `i`, in order, some at a time: weights row by row, each time whole rows.
    ///
    /// # Errors
    /// Those of `each`, and whatever stands in the way of forming them.
    fn visit(&self, i: usize, each: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>;
    /// How many are ranked.
    fn n(&self) -> u64 {
        self.shapes().iter().map(|shape| shape.units(self.granularity()) as u64).sum()
    }
}
