//! llama-align aligns GGUF models where they already run.
pub mod error;
pub mod ir;
pub mod runtime;
pub mod trace;
pub mod autodiff;
pub mod kernel;
pub mod gguf;
pub mod engine;
pub mod adapter;
pub mod generate;
pub mod loss;
pub mod optim;
pub mod check;
pub mod data;
