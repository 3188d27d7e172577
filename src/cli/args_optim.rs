//! Flags about the optimizer and its learning rate, as `train` takes them; names are Hugging Face's.

use crate::train::TrainOverrides;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct OptimArgs {
    /// Shape of the learning rate after the warm-up: constant, linear, cosine, cosine_with_min_lr [default: cosine]
    #[arg(long, alias = "lr-scheduler")]
    lr_scheduler_type: Option<String>,
    /// Share of the steps that the rate rises over [default: 0.1]
    #[arg(long)]
    warmup_ratio: Option<f64>,
    /// Steps that the rate rises over, instead of a share [default: by --warmup-ratio]
    #[arg(long, conflicts_with = "warmup_ratio")]
    warmup_steps: Option<usize>,
    /// Rate that cosine_with_min_lr ends at [default: a tenth of the peak]
    #[arg(long, alias = "lr-min")]
    min_lr: Option<f64>,
    /// adamw or sgd [default: adamw]
    #[arg(long)]
    optim: Option<String>,
    /// Momentum of sgd [default: 0.9]
    #[arg(long)]
    sgd_momentum: Option<f64>,
    /// Weight decay: beside the gradient (adamw), or in it (sgd) [default: 0]
    #[arg(long)]
    weight_decay: Option<f64>,
}

impl OptimArgs {
    /// Into the configuration's flags.
    pub(super) fn overrides(&self, rest: TrainOverrides) -> TrainOverrides {
        TrainOverrides {
            lr_scheduler_type: self.lr_scheduler_type.clone(),
            warmup_ratio: self.warmup_ratio,
            warmup_steps: self.warmup_steps,
            min_lr: self.min_lr,
            optim: self.optim.clone(),
            sgd_momentum: self.sgd_momentum,
            weight_decay: self.weight_decay,
            ..rest
        }
    }
}
