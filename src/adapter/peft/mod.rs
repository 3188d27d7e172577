//! PEFT's adapters: a directory with `adapter_config.json` and `adapter_model.safetensors`, in and out.
//!
//! Hugging Face's names and GGUF's mean the same matrices, and a row-major \[r, n_in\] has the bytes of a GGUF's \[n_in, r\]. What
//! differs is the order of a llama's query and key rows, and where a scale is kept: PEFT gives each module its own.

mod config;
mod names;
mod read;
mod write;

pub use read::read;
pub use write::write;

/// The file of the factors.
const WEIGHTS: &str = "adapter_model.safetensors";
/// The file of everything else.
const CONFIG: &str = "adapter_config.json";
