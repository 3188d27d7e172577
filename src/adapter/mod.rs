//! What is trained: LoRA factors or free changes of weights, their initial values, and their files.
//!
//! **In:** a seed and a list of weights, or an adapter file. **Out:** factors for the engine, or a GGUF that unmodified
//! llama.cpp loads. **Invariant:** an exported file holds no clock, path or random id: equal factors give equal bytes.

mod algebra;
mod change;
mod export;
mod import;
mod lora;
mod low_rank;
pub mod peft;
mod rows;
mod shape;
mod targets;
mod vectors;

pub use algebra::{Kept, Limit, RANK_MAX};
pub use change::{export_changes, import_changes, is_changes, Change};
pub(crate) use export::METHOD;
pub use export::{export, to_bytes, Lineage};
pub use import::import;
pub use lora::{Factor, Linear, Lora};
pub(crate) use low_rank::LowRank;
pub use rows::{export_rows, one_hot, RowChange};
pub use shape::LoraShape;
pub use targets::{in_layers, resolve_targets};
pub use vectors::norms_and_biases;
