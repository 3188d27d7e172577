//! Flags of what looks at finished runs.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run directory; its report.html is written anew
    pub(super) run: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Finished run directories; those that differ in nothing but their seeds are one group
    #[arg(required = true)]
    pub(super) runs: Vec<PathBuf>,
    /// Group that differences are counted from: its name, or that of one of its run directories
    #[arg(long)]
    pub(super) baseline: Option<String>,
    /// Metric; may be given several times [default: those of held-out rows that there are]
    #[arg(long)]
    pub(super) metric: Vec<String>,
    /// A file in every run directory with items' scores, as `eval --per-item` writes it [default: the held-out rows]
    #[arg(long)]
    pub(super) items: Option<String>,
    /// md, csv or latex
    #[arg(long, default_value = "md")]
    pub(super) format: String,
    /// Seed of the bootstrap
    #[arg(short = 's', long, default_value_t = 0)]
    pub(super) seed: u64,
    /// One line of JSON on stdout
    #[arg(long, conflicts_with = "format")]
    pub(super) json: bool,
}
