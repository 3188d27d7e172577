//! llama-align aligns GGUF models where they already run.
//!
//! ```text
//! GGUF ─▶ gguf (validates) ─▶ runtime (llama.cpp) ─▶ trace ─▶ ir ─▶ autodiff ─▶ engine ─▶ kernel
//!                                                                               │
//! JSONL ─▶ data (template, tokens) ─────────────────────────────▶ train ◀── loss, optim
//!                                                                   │
//!                                                               adapter ─▶ LoRA GGUF
//! ```
//!
//! Modules are listed in the order of the picture. Shapes are in ggml order, ne0 fastest; the letters: `T` tokens on the
//! packed axis, `V` vocabulary, `K` and `N` a weight's row length and number of rows, `R` rank, `H` heads.

pub mod error;
pub mod log;
pub mod os;

pub mod gguf;
pub mod runtime;

pub mod ir;
pub mod trace;

pub mod autodiff;
pub mod engine;
pub mod kernel;

pub mod check;
pub mod generate;

pub mod data;
pub mod journal;
pub mod pairs;
pub mod rate;
pub mod rewriter;

pub mod loss;
pub mod optim;

pub mod adapter;
pub mod mask;
pub mod merge;
pub mod modelfile;
pub mod train;

pub mod hma;

pub mod evaluate;
pub mod judged;
pub mod report;
pub mod token_scores;

pub mod bench;

pub mod capi;
#[cfg(feature = "linked")]
pub mod cli;
