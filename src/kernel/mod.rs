//! Products of activations with frozen, possibly quantised weights, on the CPU, for use inside ggml custom operators.
//!
//! ggml calls a custom operator once on each of its threads with `(ith, nth)` and offers no barrier inside it, so every
//! call computes its own share of the output and nothing else. A weight is decoded once per product, not once per token.

pub mod attention;
mod bf16;
mod decode;
mod encode;
mod experts;
pub mod ops;
mod peak;
mod product_bf16;
mod product_f32;
#[cfg(test)]
mod reference;
pub mod rows;
mod simd;
mod split;
mod sums;
mod weight;

pub use bf16::is_fast as has_fast_bf16;
pub(crate) use bf16::round_row;
pub(crate) use encode::{encoder, exact_decoder};
pub(crate) use experts::{sums as expert_sums, Choices, Outer, Routed};
pub use experts::{Arithmetic, Stack};
pub use peak::peak_gflops;
pub use product_bf16::Side;
pub(crate) use product_bf16::{scratch_floats as sum_scratch_floats, sum_of_products, Term};
pub use product_f32::{forward, scratch_floats, transposed};
pub use simd::instruction_set;
pub(crate) use simd::{exp_shifted, maximum};
pub use split::Share;
pub(crate) use sums::{change_sums, product_of_changes, sum_of_two};
pub use weight::{Rows, RowsMut, ToFloat, Weight};
