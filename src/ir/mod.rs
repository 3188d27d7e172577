//! The intermediate representation: what llama.cpp computes for a batch, as a flat list of values without side effects.
//!
//! **In:** the trace of a decode. **Out:** programs that `autodiff` extends and `engine` lowers to ggml graphs.
//! **Invariant:** a value's sources have smaller ids; a value never changes; nothing here knows ggml's numbers.

mod build;
mod op;
mod program;
mod shape;
mod span;

pub use op::{Glu, GradOp, Op, Placement, Unary};
pub use program::{row_bytes, strides, Leaf, Program, Value, ValueId, ValueKind, WeightId, WeightInfo, N_SOURCES_MAX};
pub use shape::{contiguous, n_elements, Sym};
pub use span::{MaskRule, Span};
