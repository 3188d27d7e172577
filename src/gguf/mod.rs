//! The GGUF file format: reading after complete validation, and writing.
//!
//! **In:** paths. **Out:** keys, tensor directory and bytes that are safe to hand to ggml, or an error that names file, key
//! or tensor, and offset. **Invariant:** ggml aborts the process on malformed files, so it never sees one that was not
//! validated here; memory use is bounded by the size of the file.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adapter;
mod behind;
mod cursor;
mod draft;
mod header;
mod hparams;
mod imatrix;
mod model;
mod output;
mod reader;
mod split;
mod stream;
mod tokenizer;
mod value;
mod writer;

pub(crate) use adapter::BASE_HASH;
pub use adapter::{check_fits, check_shapes, validate_adapter, AdapterInfo, Pair};
pub use header::{Entry, Header};
pub(crate) use hparams::BLOCKS_MAX;
pub use imatrix::Imatrix;
pub(crate) use model::hash_on;
pub use model::{base_hash, validate_model};
pub use output::check_output;
pub use reader::{File, TensorInfo};
pub use stream::Stream;
pub use value::{Array, Value};
pub use writer::{write_atomically, Writer};
