//! Flags about the loss, as `train` takes them; names are TRL's where it has them.

use crate::train::TrainOverrides;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct LossArgs {
    /// Weights of single tokens: JSON lines with the line of a row and a number for each of its tokens
    #[arg(long)]
    token_weights: Option<PathBuf>,
    /// Share of a rejected answer's tokens that dpo sees: those that the policy likes least, against the reference (ALLO: 0.1)
    /// [default: 1, all]
    #[arg(long)]
    rejected_share: Option<f64>,
    /// Loss on pairs (dpo), or several with commas between them, then also sft: sigmoid, cdpo, robust, hinge, ipo,
    /// sigmoid_norm, apo_zero, apo_down, simpo, cpo, orpo, bco_pair, nca_pair, sppo_hard [default: sigmoid]
    #[arg(long)]
    loss_type: Option<String>,
    /// Weights of several losses, with commas between them [default: 1 each]
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    loss_weights: Option<Vec<f64>>,
    /// Strength of the pull to the reference (dpo, kto) [default: 0.1, simpo 2]
    #[arg(long)]
    beta: Option<f64>,
    /// Share of labels that cdpo and robust take to be wrong [default: 0.1]
    #[arg(long)]
    label_smoothing: Option<f64>,
    /// How much better simpo wants the chosen answer [default: 1]
    #[arg(long)]
    simpo_gamma: Option<f64>,
    /// Weight of cpo's likelihood term [default: 1]
    #[arg(long)]
    cpo_alpha: Option<f64>,
    /// Weight of the chosen answer's likelihood per token, added to any loss on pairs [default: 0]
    #[arg(long, alias = "rpo-alpha", alias = "pref-ftx")]
    sft_weight: Option<f64>,
    /// Weight of kto's wanted answers [default: 1]
    #[arg(long)]
    desirable_weight: Option<f64>,
    /// Weight of kto's unwanted answers [default: 1]
    #[arg(long)]
    undesirable_weight: Option<f64>,
}

impl LossArgs {
    /// Into the configuration's flags.
    pub(super) fn overrides(&self, rest: TrainOverrides) -> TrainOverrides {
        TrainOverrides {
            token_weights: self.token_weights.clone(),
            rejected_share: self.rejected_share,
            loss_type: self.loss_type.clone(),
            loss_weights: self.loss_weights.clone(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma,
            cpo_alpha: self.cpo_alpha,
            sft_weight: self.sft_weight,
            desirable_weight: self.desirable_weight,
            undesirable_weight: self.undesirable_weight,
            ..rest
        }
    }
}
