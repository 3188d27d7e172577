//! Our kernels as ops of a ggml graph: operands in, one thread's share out.

mod attention;
mod experts;
mod gradient;
mod linear;
mod rows;
mod tabled;

pub use attention::{attention, attention_back, AttentionSpec};
pub use experts::{frozen_stack, routed, StackSource};
pub use gradient::gradient;
pub use linear::{frozen, frozen_product, frozen_product_back, linear, linear_back};
pub use linear::{product, product_back, rounded, sum_of_products, TermMatrix, TermSpec};
pub use rows::per_row;
pub use tabled::tabled;

use crate::error::{Error, Kind, Result};
use crate::runtime::Operand;
use std::cell::RefCell;

/// Rows of floats, `n` of length `len`, whose rows lie `stride` floats apart; all outer axes taken together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) data: *mut f32,
    pub(super) len: usize,
    pub(super) n: usize,
    pub(super) stride: usize,
}

impl Matrix {
    /// An operand as rows of axis 0.
    pub(super) fn of(operand: Operand) -> Result<Self> {
        let Operand { data, ne, nb } = operand;
        let flat = (ne[2] == 1 || nb[2] == nb[1] * ne[1]) && (ne[3] == 1 || nb[3] == nb[2] * ne[2]);
        if nb[0] != 4 || nb[1] % 4 != 0 || !flat || data.is_null() {
            let message = format!("an op of ours got an operand of shape {ne:?}, strides {nb:?}");
            return Err(Error::new(Kind::Internal, message));
        }
        Ok(Self { data: data.cast(), len: ne[0], n: ne[1] * ne[2] * ne[3], stride: nb[1] / 4 })
    }
}

/// Lends this thread's scratch of at least `n` floats.
pub(super) fn with_scratch<T>(n: usize, body: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|cell| {
        let mut scratch = cell.borrow_mut();
        // Sixteen floats more, so that an aligned start can be chosen.
        if scratch.len() < n + 16 {
            scratch.resize(n + 16, 0.0);
        }
        let start = scratch.as_ptr().align_offset(64).min(16);
        body(&mut scratch[start..start + n])
    })
}
