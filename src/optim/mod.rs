//! How parameters move: AdamW or SGD with momentum, learning-rate schedules, clipping of the global norm.
//!
//! **Invariant:** sums over parameters are in F64 and in a fixed order.

mod adamw;
mod clip;
mod optimizer;
mod schedule;
mod sgd;

pub use adamw::{AdamW, AdamWParams};
pub use clip::{clip_factor, global_norm, sum_of_squares};
pub use optimizer::{Optimizer, OptimizerKind, OptimizerParams, OptimizerState};
pub use schedule::{Schedule, ScheduleKind};
pub use sgd::{Sgd, SgdParams};
