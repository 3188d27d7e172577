//! Flags of `neurons` and `mask`.

use super::args::Threads;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct NeuronsArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// Pairs to warm up on: a run of DPO whose changes are the scores
    #[arg(short = 'd', long = "data", required_unless_present_any = ["lora", "change"])]
    pub(super) data: Option<PathBuf>,
    /// An adapter that a warm-up left; its changes are the scores
    #[arg(long, conflicts_with_all = ["data", "config", "max_steps", "learning_rate", "lora_rank", "delta", "score"])]
    pub(super) lora: Option<PathBuf>,
    /// Changes of whole weights that a warm-up left (`train --delta full`); they are the scores
    #[arg(long, conflicts_with_all = ["data", "lora", "config", "max_steps", "learning_rate", "lora_rank", "delta", "score"])]
    pub(super) change: Option<PathBuf>,
    /// Mask to make
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// Share that is chosen, of all weights (rows, columns, tensors) together
    #[arg(long, default_value_t = 0.05)]
    pub(super) ratio: f64,
    /// Share of the ranking that is passed over first
    #[arg(long, default_value_t = 0.0)]
    pub(super) skip: f64,
    /// Choose what moved least
    #[arg(long)]
    pub(super) smallest: bool,
    /// What is chosen as one: weight, row, column or tensor [default: row of a LoRA's changes, which can hold no smaller part,
    /// else weight]
    #[arg(long)]
    pub(super) granularity: Option<String>,
    /// What the warm-up moves: lora (factors), full (the weights themselves) or rows (those of --mask) [default: lora]
    #[arg(long)]
    pub(super) delta: Option<String>,
    /// With --delta rows: the rows that move, among which the mask is chosen; --ratio is of all rows still
    #[arg(long, conflicts_with_all = ["lora", "change"])]
    pub(super) mask: Option<PathBuf>,
    /// change (how far a weight moved), or gradient or gradient2 (absolute or squared gradients of the steps, added up while nothing
    /// moves); with --delta lora these are of the rows of B: the weights' as A sees them
    #[arg(long, default_value = "change")]
    pub(super) score: String,
    /// Choose as the authors' release does, for comparison: a mask may hold more than its share
    #[arg(long, conflicts_with_all = ["skip", "smallest"])]
    pub(super) as_released: bool,
    /// Configuration of the warm-up in TOML, as for `train`
    #[arg(long)]
    pub(super) config: Option<PathBuf>,
    /// Optimizer steps of the warm-up [default: one pass over the data]
    #[arg(long)]
    pub(super) max_steps: Option<usize>,
    /// Learning rate of the warm-up
    #[arg(long, alias = "lr")]
    pub(super) learning_rate: Option<f64>,
    /// Rank r of the warm-up's factors [default: 16]
    #[arg(long, alias = "lora-r")]
    pub(super) lora_rank: Option<usize>,
    /// Seed of the warm-up
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Replace an existing mask
    #[arg(long)]
    pub(super) overwrite: bool,
    #[command(flatten)]
    pub(super) threads: Threads,
}

/// Masks out of masks.
#[derive(Debug, Subcommand)]
pub(super) enum MaskCommand {
    /// What is in any of the masks
    Union(SetArgs),
    /// What is in all of the masks
    Intersection(SetArgs),
    /// What is in the first mask and in none of the others
    Difference(SetArgs),
    /// What is not in the mask
    Complement(OneArgs),
    /// A control: as many of every tensor, drawn at random
    Random(RandomArgs),
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// Masks
    #[arg(num_args = 2.., required = true)]
    pub(super) masks: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) output: MaskOutput,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Mask
    pub(super) mask: PathBuf,
    #[command(flatten)]
    pub(super) output: MaskOutput,
}

#[derive(Debug, Args)]
pub(super) struct RandomArgs {
    /// Mask
    pub(super) mask: PathBuf,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) output: MaskOutput,
}

#[derive(Debug, Args)]
pub(super) struct MaskOutput {
    /// Mask to make
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// Replace an existing mask
    #[arg(long)]
    pub(super) overwrite: bool,
}

#[derive(Debug, Args)]
pub(super) struct TokenWeightsArgs {
    /// Model in GGUF: the base of the log-ratios, or of a rewriter's adapter
    #[arg(short = 'm', long, required_unless_present = "rewriter_data")]
    pub(super) model: Option<PathBuf>,
    /// Adapter of a run of DPO: with it the model is the aligned one
    #[arg(long, required_unless_present_any = ["change", "after", "rewriter", "rewriter_data"])]
    pub(super) lora: Option<PathBuf>,
    /// Changes of whole weights, or rows, that such a run left (`train --delta full`)
    #[arg(long, conflicts_with = "lora")]
    pub(super) change: Option<PathBuf>,
    /// The aligned model itself, of the same vocabulary
    #[arg(long, conflicts_with_all = ["lora", "change"])]
    pub(super) after: Option<PathBuf>,
    /// Instead of log-ratios: a rewriter, as an adapter of the model or as a model of its vocabulary; tokens that it would rather
    /// not copy are at fault
    #[arg(long, conflicts_with_all = ["lora", "change", "after"])]
    pub(super) rewriter: Option<PathBuf>,
    /// Write rows to teach a rewriter by (`train --method sft`), and nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "lora", "change", "after", "rewriter", "output", "below", "share", "html"])]
    pub(super) rewriter_data: Option<PathBuf>,
    /// Mended answers for these rows: JSON lines, {"line": 3, "rewrite": "…"}; without one the chosen answer stands in
    #[arg(long, value_name = "FILE", requires = "rewriter_data")]
    pub(super) rewrites: Option<PathBuf>,
    /// Seed of which right answers are copied in these rows [default: 0]
    #[arg(short = 's', long, requires = "rewriter_data")]
    pub(super) seed: Option<u64>,
    /// Pairs
    #[arg(short = 'd', long = "data")]
    pub(super) data: PathBuf,
    /// Weights to make, JSON lines
    #[arg(short = 'o', long, required_unless_present = "rewriter_data")]
    pub(super) output: Option<PathBuf>,
    /// Rejected tokens whose log-ratio, or probability of being copied, is below get weight 1, the others 0 [default: 0, or 0.5
    /// with --rewriter]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) below: Option<f64>,
    /// Instead: the share of every rejected answer's tokens whose log-ratio is lowest
    #[arg(long, conflicts_with_all = ["below", "rewriter"])]
    pub(super) share: Option<f64>,
    /// Instead, with --rewriter: released (the probability itself, as in the authors' code) or rlmec
    #[arg(long, conflicts_with = "below", requires = "rewriter")]
    pub(super) weigh: Option<String>,
    /// File for a page with the answers coloured
    #[arg(long)]
    pub(super) html: Option<PathBuf>,
    /// Longest row, in tokens
    #[arg(long, default_value_t = 1024)]
    pub(super) max_length: usize,
    /// Columns that files call otherwise: prompt=question,chosen=right_answer
    #[arg(long, default_value = "")]
    pub(super) columns: String,
    /// Replace existing files
    #[arg(long)]
    pub(super) overwrite: bool,
    #[command(flatten)]
    pub(super) threads: Threads,
}
