//! The oracle: a slow, readable interpreter of programs in f64, forward and backward.
//!
//! **In:** a program, a layout of sequences, weights decoded from a file's own bytes, values for parameters and seeds.
//! **Out:** any value of the program. **Invariant:** nothing here calls the library's kernels or ggml; formulas are those
//! of specs `vjp`, written down a second time. Casts are the identity: rounding is what the oracle is there to judge.

mod array;
mod attention;
mod difference;
mod evaluate;
mod experts;
mod forward;
mod function;
mod gradient;
mod loss;
mod rope;
mod weights;

pub(crate) use array::{norm, Array};
pub(crate) use difference::slope;
pub(crate) use evaluate::Oracle;
pub(crate) use loss::{log_probs, seed, targets, Target};
pub(crate) use weights::decode;
