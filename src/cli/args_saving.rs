//! Flags about checkpoints, as `train` takes them.

use crate::train::TrainOverrides;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct SavingArgs {
    /// Steps between two checkpoints; 0 makes one only on Ctrl-C [default: 100]
    #[arg(long)]
    save_steps: Option<usize>,
    /// Latest checkpoints that are kept; 0 keeps all [default: 2]
    #[arg(long)]
    save_total_limit: Option<usize>,
    /// Go on with the run in the output directory: auto (from its latest checkpoint; from the start if there is none), or
    /// one of its checkpoints. The result has the same bits as that of a run without interruption
    #[arg(long, alias = "resume-from-checkpoint", conflicts_with = "overwrite", value_name = "auto|FILE")]
    pub(super) resume: Option<PathBuf>,
    /// Go on although threads, kernels, precision, recomputation or the program's version differ: with other bits
    #[arg(long, requires = "resume")]
    pub(super) resume_inexact: bool,
}

impl SavingArgs {
    /// Into the configuration's flags.
    pub(super) fn overrides(&self, rest: TrainOverrides) -> TrainOverrides {
        TrainOverrides { save_steps: self.save_steps, save_total_limit: self.save_total_limit, ..rest }
    }
}
