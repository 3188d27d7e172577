//! The grammar of `merge`.

use super::args::Threads;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Recipe in YAML, in mergekit's words, instead of models and a method; file names in it are GGUF files
    #[arg(value_name = "RECIPE", conflicts_with_all = ["model", "lora", "lora_scaled", "change", "method", "weight", "base", "slerp_t",
        "density", "lambda", "epsilon", "gamma"])]
    pub(super) recipe: Option<PathBuf>,
    /// Model in GGUF; several to merge, one to fold adapters into. Keys, tokenizer and template are the first one's
    #[arg(short = 'm', long, required_unless_present = "recipe")]
    pub(super) model: Vec<PathBuf>,
    /// Adapter to fold in; may be given several times
    #[arg(long)]
    pub(super) lora: Vec<PathBuf>,
    /// Adapter to fold in with its scale, FILE:SCALE
    #[arg(long)]
    pub(super) lora_scaled: Vec<String>,
    /// Changes of whole weights to add, as `train --delta full` writes them, or --train-norms beside an adapter
    #[arg(long, conflicts_with_all = ["method", "weight", "base", "slerp_t", "density", "lambda",
        "epsilon", "gamma", "seed"])]
    pub(super) change: Option<PathBuf>,
    /// linear, slerp, nuslerp, task_arithmetic, ties, dare_linear, dare_ties, della_linear, della, breadcrumbs,
    /// breadcrumbs_ties or model_stock [default: linear]
    #[arg(long)]
    pub(super) method: Option<String>,
    /// A model's weight, in the models' order; linear divides them by their sum [default: 1 each]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) weight: Vec<f64>,
    /// Model that changes are counted from (task_arithmetic, ties, dare_*, della*, breadcrumbs*, model_stock, nuslerp)
    #[arg(long)]
    pub(super) base: Option<PathBuf>,
    /// Way from the first model to the second, 0 to 1 (slerp)
    #[arg(long, allow_negative_numbers = true)]
    pub(super) slerp_t: Option<f64>,
    /// Share of changes that is kept: the largest (ties, breadcrumbs*), or drawn (dare_*, della*)
    #[arg(long, allow_negative_numbers = true)]
    pub(super) density: Option<f64>,
    /// Factor of the merged change (task_arithmetic, ties, dare_*, della*, breadcrumbs*) [default: 1]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) lambda: Option<f64>,
    /// Half the range of probabilities around the density, by rank (della*) [default: 0.15]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) epsilon: Option<f64>,
    /// Share of the largest changes that is dropped (breadcrumbs*) [default: 0.01]
    #[arg(long, allow_negative_numbers = true)]
    pub(super) gamma: Option<f64>,
    /// Seed of what is drawn (dare_*, della*) [default: 0]
    #[arg(short = 's', long)]
    pub(super) seed: Option<u64>,
    /// File to make
    #[arg(short = 'o', long, required_unless_present = "dry_run")]
    pub(super) output: Option<PathBuf>,
    /// keep, auto, or a type for every matrix that changes: F32, F16, BF16, Q8_0, Q4_K, … [default: keep, or a recipe's dtype]
    #[arg(long)]
    pub(super) outtype: Option<String>,
    /// A type for tensors by name, as in llama-quantize: PATTERN=TYPE, such as blk\..*ffn_down=q6_k; the first that fits counts
    #[arg(long)]
    pub(super) tensor_type: Vec<String>,
    /// Importance matrix for the encoders, as llama-imatrix writes it
    #[arg(long)]
    pub(super) imatrix: Option<PathBuf>,
    /// Split the output into files of at most so much data: N(M|G)
    #[arg(long, conflicts_with = "modelfile")]
    pub(super) split_max_size: Option<String>,
    /// Cosine of wanted and realised change below which auto raises a tensor's type [default: 0.9]
    #[arg(long, conflicts_with = "min_gain")]
    pub(super) min_cosine: Option<f64>,
    /// Instead: share of the wanted change, noise aside, below which auto raises a tensor's type
    #[arg(long)]
    pub(super) min_gain: Option<f64>,
    /// Compute everything, print what each tensor will be, write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Ask neither inputs nor output for likelihoods and answers
    #[arg(long)]
    pub(super) no_verify: bool,
    /// File for everything that is known of the result, in JSON
    #[arg(long)]
    pub(super) report: Option<PathBuf>,
    /// File for an Ollama Modelfile of the result
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) modelfile: Option<PathBuf>,
    /// Replace existing files
    #[arg(long)]
    pub(super) overwrite: bool,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) threads: Threads,
}
