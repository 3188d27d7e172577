//! The grammar of `adapter`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum AdapterCommand {
    /// The sum of adapters, exactly: their ranks are put beside each other
    #[command(visible_alias = "concat")]
    Add(SumArgs),
    /// An adapter times a number
    Scale(ScaleArgs),
    /// The nearest adapter of a smaller rank
    Truncate(TruncateArgs),
    /// What two models differ in, as an adapter of the first
    Extract(ExtractArgs),
    /// The same factors, said to be for another base of the same shapes, such as another quantisation
    Rebase(RebaseArgs),
    /// An adapter of PEFT (a directory with adapter_model.safetensors) as one in GGUF
    Import(ImportArgs),
    /// An adapter in GGUF as one of PEFT
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(super) struct AdapterFile {
    /// Adapter to make
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub(super) overwrite: bool,
}

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Largest rank [default: with --energy 256]
    #[arg(long, alias = "lora-r")]
    pub(super) rank: Option<usize>,
    /// Share of each update's squared norm that is to be kept, with the smallest rank that does
    #[arg(long, allow_negative_numbers = true)]
    pub(super) energy: Option<f64>,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SumArgs {
    /// Adapters, FILE or FILE:SCALE
    #[arg(required = true)]
    pub(super) adapters: Vec<String>,
    #[command(flatten)]
    pub(super) out: AdapterFile,
}

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// Adapter in GGUF
    pub(super) adapter: PathBuf,
    /// The number
    #[arg(long, allow_negative_numbers = true)]
    pub(super) by: f32,
    #[command(flatten)]
    pub(super) out: AdapterFile,
}

#[derive(Debug, Args)]
pub(super) struct TruncateArgs {
    /// Adapter in GGUF
    pub(super) adapter: PathBuf,
    #[command(flatten)]
    pub(super) limit: LimitArgs,
    #[command(flatten)]
    pub(super) out: AdapterFile,
}

#[derive(Debug, Args)]
pub(super) struct ExtractArgs {
    /// Model that the adapter shall lead to
    #[arg(short = 'm', long, required_unless_present = "change")]
    pub(super) model: Option<PathBuf>,
    /// Instead: changes of weights or rows, as `train --delta full|rows` leaves them
    #[arg(long, conflicts_with = "model")]
    pub(super) change: Option<PathBuf>,
    /// Model that the adapter is for
    #[arg(long)]
    pub(super) base: PathBuf,
    #[command(flatten)]
    pub(super) limit: LimitArgs,
    /// Seed of the random projection
    #[arg(short = 's', long, default_value_t = 0)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) out: AdapterFile,
}

#[derive(Debug, Args)]
pub(super) struct RebaseArgs {
    /// Adapter in GGUF
    pub(super) adapter: PathBuf,
    /// Model that it is to be for
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) out: AdapterFile,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Directory with adapter_config.json and adapter_model.safetensors
    pub(super) directory: PathBuf,
    /// Model in GGUF that it is for
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) out: AdapterFile,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Adapter in GGUF
    pub(super) adapter: PathBuf,
    /// Model in GGUF that it is for
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// Directory to make
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// What the configuration calls the base: its name on the Hub, or a path
    #[arg(long)]
    pub(super) base_model: Option<String>,
    /// Replace an adapter in an existing directory
    #[arg(long)]
    pub(super) overwrite: bool,
}
