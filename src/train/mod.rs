//! The training loop: rows in an order, losses over whole optimizer steps, a reference that costs no second model.
//!
//! **In:** a policy, a dataset, a configuration. **Out:** moved parameters and a report per step. **Invariant:** the loop
//! does no file I/O; a step's result does not depend on how its rows were split into micro-batches.

mod allo;
mod checkpoint;
mod config;
mod course;
mod delta;
mod evaluate;
mod forecast;
mod gradient_sums;
mod grid;
mod held_out;
mod keys;
mod losses;
mod method;
mod metrics;
mod objective;
mod origin;
mod overrides;
mod policy;
mod precision;
mod resolve;
mod run_dir;
mod selection;
mod trainer;

pub use allo::{Allo, AlloChoice, AlloOverrides, ALLO, STAGES};
pub use checkpoint::Checkpoint;
pub use config::TrainConfig;
pub use course::{Best, Course, Measured, Outcome};
pub use delta::DeltaKind;
pub(crate) use evaluate::packs;
pub use evaluate::{evaluate, row_scores, summed_log_probs, EvalReport, References, RowScore};
pub use forecast::Forecast;
pub use gradient_sums::{gradient_sums, GradientScore};
pub use grid::{Cell, Grid};
pub use held_out::HeldOut;
pub use method::Method;
pub use metrics::MetricsFile;
pub use origin::Origin;
pub use overrides::TrainOverrides;
pub use policy::Policy;
pub use precision::{Precision, Recompute};
pub use run_dir::{json_lines, RunDir};
pub use selection::{Selection, Verdict};
pub use trainer::{Observer, StepReport, Trainer, TrainerState};
