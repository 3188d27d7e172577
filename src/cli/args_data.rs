//! The grammar of the commands that make and look at training data, and of what is sampled.

use super::args::Threads;
use super::args_devices::Devices;
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Adapters {
    /// Adapter in GGUF; may be given several times
    #[arg(long)]
    pub(super) lora: Vec<PathBuf>,
    /// Adapter with its scale, FILE:SCALE
    #[arg(long)]
    pub(super) lora_scaled: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Sampling {
    /// Tokens per answer at most
    #[arg(short = 'n', long = "predict", default_value_t = 128)]
    pub(super) predict: usize,
    /// Temperature; 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    pub(super) temp: f32,
    /// Likeliest tokens kept, 0 keeps all
    #[arg(long, default_value_t = 40)]
    pub(super) top_k: i32,
    /// Probability mass kept
    #[arg(long, default_value_t = 0.95)]
    pub(super) top_p: f32,
    /// Least probability kept, relative to the likeliest
    #[arg(long, default_value_t = 0.05)]
    pub(super) min_p: f32,
    /// Seed of the draw
    #[arg(short = 's', long, default_value_t = 0)]
    pub(super) seed: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum DataCommand {
    /// Count rows and tokens, find faults, show what has a loss
    Check(DataCheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct DataCheckArgs {
    /// Rows: one JSON object per line, or one array of objects
    pub(super) file: PathBuf,
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// Convert rows to what sft, dpo or kto trains on [default: as they are]
    #[arg(long)]
    pub(super) method: Option<String>,
    /// Longest row, in tokens
    #[arg(long, default_value_t = 1024)]
    pub(super) max_length: usize,
    /// Tokens with a loss: assistant, completion, last-turn or all
    #[arg(long, default_value = "completion")]
    pub(super) loss_mask: String,
    /// Columns that files call otherwise: prompt=question,chosen=right_answer
    #[arg(long, default_value = "")]
    pub(super) columns: String,
    /// Names of control tokens in the data become those tokens
    #[arg(long)]
    pub(super) parse_special: bool,
    /// Print the tokens of the first rows, coloured by whether they have a loss
    #[arg(long, default_value_t = 0)]
    pub(super) show: usize,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PairsArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// A file of prompts: one per line, plain or JSON objects with a `prompt`
    #[arg(short = 'f', long, alias = "file")]
    pub(super) prompts: PathBuf,
    /// What the chosen answers are told: "Answer in one short sentence."
    #[arg(long)]
    pub(super) chosen_system: String,
    /// What the rejected answers are told [default: nothing]
    #[arg(long)]
    pub(super) rejected_system: Option<String>,
    /// File of pairs to make, one JSON object per line
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// Replace an existing file, and begin unfinished work anew
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Sequences that are decoded together
    #[arg(long, default_value_t = 4)]
    pub(super) parallel: usize,
    /// Columns that files call otherwise: prompt=question
    #[arg(long, default_value = "")]
    pub(super) columns: String,
    #[command(flatten)]
    pub(super) adapters: Adapters,
    #[command(flatten)]
    pub(super) sampling: Sampling,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct SampleArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// Questions with their answers: rows with `question` and `answer`, as GSM8K's
    #[arg(short = 'd', long = "data", alias = "prompts")]
    pub(super) data: PathBuf,
    /// File of pairs to make, one JSON object per line: right answers against wrong ones
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// File to make of all wrong answers, each beside a right one: what `train --method npo` forgets
    #[arg(long)]
    pub(super) forget: Option<PathBuf>,
    /// Answers per question
    #[arg(long, default_value_t = 10)]
    pub(super) samples: usize,
    /// Pairs of a question at most, drawn by the seed
    #[arg(long, default_value_t = 5)]
    pub(super) pairs_per_question: usize,
    /// Questions at most, the first ones; 0 takes all
    #[arg(long, default_value_t = 0)]
    pub(super) limit: usize,
    /// A line behind every question, such as "Let's think step by step."
    #[arg(long)]
    pub(super) append: Option<String>,
    /// Sequences that are decoded together
    #[arg(long, default_value_t = 10)]
    pub(super) parallel: usize,
    /// Replace existing files, and begin unfinished work anew
    #[arg(long)]
    pub(super) overwrite: bool,
    #[command(flatten)]
    pub(super) adapters: Adapters,
    #[command(flatten)]
    pub(super) sampling: Sampling,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct RateArgs {
    /// Rows with two answers each (prompt, chosen, rejected, in whatever order), or prompts for --model to answer twice
    pub(super) file: PathBuf,
    /// Model in GGUF that answers each prompt twice
    #[arg(short = 'm', long)]
    pub(super) model: Option<PathBuf>,
    /// File of pairs to make, one JSON object per line
    #[arg(short = 'o', long)]
    pub(super) output: PathBuf,
    /// Replace an existing file, and begin unfinished work anew
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Columns that files call otherwise: prompt=question
    #[arg(long, default_value = "")]
    pub(super) columns: String,
    /// Tokens per answer at most
    #[arg(short = 'n', long = "predict", default_value_t = 128, requires = "model")]
    pub(super) predict: usize,
    /// Temperature of the answers
    #[arg(long, default_value_t = 0.8, requires = "model")]
    pub(super) temp: f32,
    /// Seed of the draws, and of the order in which answers are shown
    #[arg(short = 's', long, default_value_t = 0)]
    pub(super) seed: u32,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}
