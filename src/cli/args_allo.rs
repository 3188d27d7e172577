//! Flags of `train --method allo`.

use crate::train::AlloOverrides;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct AlloArgs {
    /// allo: share of all weights (rows, columns, tensors) that learning moves, those that the warm-up moved most
    /// [default: 0.05]
    #[arg(long)]
    mask_ratio: Option<f64>,
    /// allo: share that forgetting moves, within that of learning [default: half of --mask-ratio]
    #[arg(long)]
    forget_ratio: Option<f64>,
    /// allo: what is chosen as one: weight, row, column or tensor [default: weight with --delta full, else row]
    #[arg(long)]
    granularity: Option<String>,
    /// allo: rejected tokens whose log-ratio after the warm-up is below are forgotten [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    tokens_below: Option<f64>,
    /// allo: instead the share of every rejected answer's tokens whose log-ratio is lowest [default: by --tokens-below]
    #[arg(long, conflicts_with = "tokens_below")]
    tokens_share: Option<f64>,
    /// allo: optimizer steps of warm-up, forgetting and learning, such as 20,10,20 [default: by --max-steps or --epochs]
    #[arg(long, value_delimiter = ',', value_name = "W,F,L", conflicts_with = "stage_epochs")]
    stage_steps: Option<Vec<usize>>,
    /// allo: passes over the data of the three [default: by --epochs]
    #[arg(long, value_delimiter = ',', value_name = "W,F,L")]
    stage_epochs: Option<Vec<f64>>,
    /// allo: peak learning rates of the three [default: a fifth and a tenth of --learning-rate, and all of it]
    #[arg(long, value_delimiter = ',', value_name = "W,F,L")]
    stage_rates: Option<Vec<f64>>,
}

impl AlloArgs {
    /// Into the plan's flags.
    pub(super) fn overrides(&self) -> AlloOverrides {
        AlloOverrides {
            mask_ratio: self.mask_ratio,
            forget_ratio: self.forget_ratio,
            granularity: self.granularity.clone(),
            tokens_below: self.tokens_below,
            tokens_share: self.tokens_share,
            stage_steps: self.stage_steps.clone(),
            stage_epochs: self.stage_epochs.clone(),
            stage_rates: self.stage_rates.clone(),
        }
    }
}
