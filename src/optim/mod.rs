//! How parameters move: AdamW, learning-rate schedules, clipping of the global norm.
//!
//! **Invariant:** sums over parameters are in F64 and in a fixed order.

mod adamw;
mod clip;
mod schedule;

pub use adamw::{AdamW, AdamWParams};
pub use clip::{clip_factor, global_norm, sum_of_squares};
pub use schedule::{Schedule, ScheduleKind};
