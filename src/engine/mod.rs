//! Runs programs: places batches, lowers to graphs, keeps what the backward needs.
//!
//! **In:** a trace, deltas, packed sequences. **Out:** token log-probs, hidden states, gradients of the deltas.
//! **Invariant:** frozen weights are never written; equal inputs, threads and backend give equal bits.

mod adapt;
mod backward;
mod dropout;
mod experts;
mod fused;
mod head;
mod inputs;
mod layout;
mod lower;
mod op_form;
mod plan;
mod profile;
mod session;
mod tally;
mod terms;
mod values;

pub use adapt::{adapt, adapt_changed, Adapted, Delta, Parameter, Role};
pub use inputs::{input_bytes, Inputs};
pub use layout::{Layout, Span, SEQUENCE_ALIGNMENT};
pub use lower::{Form, Lowering, Scope};
pub use plan::{Plan, Step};
pub use profile::{Profile, Seconds};
pub use session::Engine;
pub use tally::where_it_ran;
pub use values::BlockValues;
