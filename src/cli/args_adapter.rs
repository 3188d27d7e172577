//! Flags about what is trained, as `train` takes them; names are PEFT's where it has them.

use crate::train::TrainOverrides;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct AdapterArgs {
    /// What moves: lora (factors beside the weights), rows (output rows of weights, those of --mask, in F32) or full (the weights
    /// themselves, in F32) [default: lora]
    #[arg(long)]
    delta: Option<String>,
    /// Rank r of the factors [default: 16]
    #[arg(long, alias = "lora-r")]
    pub(super) lora_rank: Option<usize>,
    /// The update is scaled by alpha / r [default: 32]
    #[arg(long)]
    lora_alpha: Option<f32>,
    /// all-linear, experts, or modules, separated by commas: attn_q,ffn_down or q_proj,down_proj [default: all-linear]
    #[arg(long, alias = "lora-target-modules", alias = "target-modules")]
    lora_targets: Option<String>,
    /// Blocks that are adapted, by numbers and ranges with commas between: 0,10-29 [default: all]
    #[arg(long)]
    layers_to_transform: Option<String>,
    /// Scale the update by alpha / √r instead (rsLoRA)
    #[arg(long)]
    use_rslora: bool,
    /// Share of what the factors A read that each step drops [default: 0]
    #[arg(long)]
    lora_dropout: Option<f32>,
    /// Learning rate of B over that of A (LoRA+) [default: 1]
    #[arg(long)]
    loraplus_lr_ratio: Option<f64>,
    /// Also train the norms of the blocks, in F32; llama.cpp's --lora has no place for them: the run leaves change.gguf for merge
    #[arg(long)]
    train_norms: bool,
    /// Also train the biases of the blocks, likewise
    #[arg(long)]
    train_biases: bool,
    /// Go on training this adapter: rank, alpha and weights are its own, and the reference is the model with it
    #[arg(long, conflicts_with_all = ["lora_rank", "lora_alpha", "lora_targets", "layers_to_transform", "use_rslora"])]
    pub(super) lora: Option<PathBuf>,
    /// Go on training these changes (--delta full, rows); the reference is the model with them
    #[arg(long, conflicts_with = "lora")]
    pub(super) change: Option<PathBuf>,
    /// Move only what this mask leaves free, as `neurons` makes them; the rest of the model keeps its bits
    #[arg(long)]
    mask: Option<PathBuf>,
}

impl AdapterArgs {
    /// What the run goes on from, if not from the model itself.
    pub(super) fn from(&self) -> Option<&Path> {
        self.lora.as_deref().or(self.change.as_deref())
    }

    /// Into the configuration's flags.
    pub(super) fn overrides(&self, rest: TrainOverrides) -> TrainOverrides {
        TrainOverrides {
            lora_rank: self.lora_rank,
            lora_alpha: self.lora_alpha,
            lora_targets: self.lora_targets.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            use_rslora: self.use_rslora.then_some(true),
            lora_dropout: self.lora_dropout,
            loraplus_lr_ratio: self.loraplus_lr_ratio,
            train_norms: self.train_norms.then_some(true),
            train_biases: self.train_biases.then_some(true),
            mask: self.mask.clone(),
            delta: self.delta.clone(),
            ..rest
        }
    }
}
