//! Flags about rows, as `train` takes them.

use crate::train::TrainOverrides;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct RowsArgs {
    /// Longest row, in tokens [default: 1024]
    #[arg(long, alias = "max-seq-length")]
    max_length: Option<usize>,
    /// Longer rows: drop, truncate (their beginning is kept) or error [default: drop]
    #[arg(long, alias = "truncation-mode", alias = "excess-length-strategy")]
    too_long: Option<String>,
    /// Tokens with a loss (sft): assistant (every turn of the assistant), completion or last-turn (the last one), all
    /// [default: completion]
    #[arg(long, conflicts_with = "assistant_only_loss")]
    loss_mask: Option<String>,
    /// Put short rows together to packs of --max-length tokens, which then count as rows (sft)
    #[arg(long)]
    packing: bool,
    /// The same as --loss-mask assistant
    #[arg(long, alias = "assistant-loss-only")]
    assistant_only_loss: bool,
    /// Columns that files call otherwise: prompt=question,chosen=right_answer
    #[arg(long)]
    columns: Option<String>,
    /// Names of control tokens in the data become those tokens: for rows that a template has rendered already
    #[arg(long)]
    parse_special: bool,
}

impl RowsArgs {
    /// Into the configuration's flags.
    pub(super) fn overrides(&self, rest: TrainOverrides) -> TrainOverrides {
        TrainOverrides {
            max_length: self.max_length,
            too_long: self.too_long.clone(),
            loss_mask: self.loss_mask.clone().or(self.assistant_only_loss.then(|| "assistant".into())),
            parse_special: self.parse_special,
            packing: self.packing,
            columns: self.columns.clone(),
            ..rest
        }
    }
}
