//! The C interface: what `include/llama-align.h` declares. One file per C type; the only folder that says `extern "C"` outwards.
//!
//! **In:** pointers from anyone. **Out:** a status, and detail in the caller's own error object. **Invariants:**
//! - A handle is a slot and a generation, never an address: what is NULL, freed, or of another type is found out without
//!   touching memory ([`handle`]).
//! - No panic leaves ([`guard`]); the handles of the call that panicked are poisoned.
//! - Structs carry their size; a tail that this library does not know must be zero ([`params`]).
//! - What a call needs is shared, so handles are freed in any order.
//! - Everything that can be wrong with the arguments is found before any work begins.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![allow(non_camel_case_types)] // the names are C's
#![allow(clippy::missing_safety_doc)] // what pointers must be is said once, at the head of the header

mod adapter;
mod algebra;
mod change;
mod dataset;
mod device;
mod evaluate;
mod guard;
mod handle;
mod hma;
mod merge;
mod model;
mod neurons;
mod params;
mod progress;
mod run;
mod runtime;
mod status;
mod task;
mod text;
mod trainer;
mod trainer_params;
mod weigh;

pub use adapter::*;
pub use algebra::*;
pub use change::*;
pub use dataset::*;
pub use device::*;
pub use evaluate::*;
pub use hma::*;
pub use merge::*;
pub use model::*;
pub use neurons::*;
pub use progress::*;
pub use runtime::*;
pub use status::*;
pub use task::*;
pub use trainer::*;
pub use trainer_params::*;
pub use weigh::*;

// Panics become statuses by unwinding, and so do ggml's failed assertions.
#[cfg(panic = "abort")]
compile_error!("llama-align needs panic = \"unwind\"");
