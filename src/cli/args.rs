//! The program's grammar. Flags are spelled as in llama.cpp and TRL; TRL's underscores are accepted.

use super::args_adapter::AdapterArgs;
use super::args_algebra::AdapterCommand;
use super::args_allo::AlloArgs;
use super::args_data::{Adapters, DataCommand, PairsArgs, RateArgs, SampleArgs, Sampling};
use super::args_devices::{spelled_out, Devices};
use super::args_held_out::HeldOutArgs;
use super::args_loss::LossArgs;
use super::args_mask::{MaskCommand, NeuronsArgs, TokenWeightsArgs};
use super::args_merge::MergeArgs;
use super::args_optim::OptimArgs;
use super::args_rows::RowsArgs;
use super::args_runs::{CompareArgs, ReportArgs};
use super::args_saving::SavingArgs;
use super::args_task::TaskArgs;
use super::hma::HmaArgs;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "llama-align", version, about = "Aligns GGUF models where they already run", after_help = EXIT_CODES)]
pub(super) struct Options {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "Exit status: 0 ok, 2 usage or parameter, 65 bad data or model file, 66 missing input, 69 unsupported, \
70 bug, 71 memory, 73 output exists or cannot be made, 74 I/O, 76 NaN or infinite loss, 78 files do not belong together, \
79 self-check failed, 130 interrupted";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Trace a model and compare the result with llama.cpp
    Check(CheckArgs),
    /// Train a LoRA adapter, or the weights themselves, on a quantised model: sft, dpo, kto, npo or allo
    Train(Box<TrainArgs>),
    /// Measure a model, with or without an adapter, on held-out data
    Eval(EvalArgs),
    /// Answer prompts through llama.cpp's own decode and samplers
    Generate(GenerateArgs),
    /// Look at training data as a model will see it
    #[command(subcommand)]
    Data(DataCommand),
    /// Make pairs of a style that one can describe: answers with and without an instruction
    Pairs(PairsArgs),
    /// Make pairs of a model's own answers to questions whose answers are known: right against wrong (at temperature 0.7 unless
    /// --temp says another)
    Sample(SampleArgs),
    /// Make pairs by saying which of two answers is better
    Rate(RateArgs),
    /// Make one model of several, or fold adapters into a model
    Merge(Box<MergeArgs>),
    /// Find the weights that preferences move, as a mask for train
    Neurons(NeuronsArgs),
    /// Find the tokens of rejected answers that alignment makes less likely, as weights for train
    TokenWeights(TokenWeightsArgs),
    /// Make masks of masks: union, intersection, difference, complement, a random control
    #[command(subcommand)]
    Mask(MaskCommand),
    /// Average a model before and after alignment, with a weight for each group of blocks
    Hma(Box<HmaArgs>),
    /// Add, scale, shorten, extract adapters
    #[command(subcommand)]
    Adapter(AdapterCommand),
    /// Describe a GGUF model, an adapter, a mask or a run directory
    Inspect(InspectArgs),
    /// Measure how fast a model trains on this machine
    Bench(BenchArgs),
    /// Write a run directory's page, report.html
    Report(ReportArgs),
    /// Set finished runs side by side: means over seeds, differences from a baseline
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
pub(super) struct Threads {
    /// Threads; no more than there are cores are started [default: the number of cores]
    #[arg(short = 't', long = "threads")]
    threads: Option<usize>,
}

impl Threads {
    /// The number asked for, or that of the cores.
    pub(super) fn count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.filter(|&n| n > 0).unwrap_or_else(cores)
    }

    /// What was asked for, if anything was.
    pub(super) fn given(&self) -> Option<usize> {
        self.threads
    }
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// Training rows, one JSON object per line
    #[arg(short = 'd', long = "data", alias = "dataset")]
    pub(super) data: PathBuf,
    /// Run directory to make
    #[arg(short = 'o', long = "output", alias = "output-dir", alias = "output-file")]
    pub(super) output: PathBuf,
    /// Configuration in TOML; flags win over it. Lists in its [grid] make a run for each combination
    #[arg(long)]
    pub(super) config: Option<PathBuf>,
    /// sft, dpo, kto, npo or allo (a warm-up, a mask, forgetting and learning, one after another) [default: dpo]
    #[arg(long)]
    pub(super) method: Option<String>,
    #[command(flatten)]
    pub(super) adapter: AdapterArgs,
    /// Peak learning rate [default: by method, see README]
    #[arg(long, alias = "lr")]
    pub(super) learning_rate: Option<f64>,
    #[command(flatten)]
    pub(super) optim: OptimArgs,
    /// Passes over the data [default: 1]
    #[arg(long, alias = "num-train-epochs", conflicts_with = "max_steps")]
    pub(super) epochs: Option<f64>,
    /// Optimizer steps, instead of epochs
    #[arg(long)]
    pub(super) max_steps: Option<usize>,
    /// Rows per micro-batch [default: 4]
    #[arg(long, alias = "per-device-train-batch-size")]
    pub(super) batch_size: Option<usize>,
    /// Micro-batches per optimizer step [default: 2]
    #[arg(long, alias = "gradient-accumulation-steps")]
    pub(super) grad_accum: Option<usize>,
    #[command(flatten)]
    pub(super) rows: RowsArgs,
    #[command(flatten)]
    pub(super) loss: LossArgs,
    #[command(flatten)]
    pub(super) allo: AlloArgs,
    /// Seed of factors and order [default: 0]
    #[arg(short = 's', long)]
    pub(super) seed: Option<u64>,
    /// Numbers that products with weights are formed in: auto, f32 or bf16 [default: auto, bf16 where it is faster]
    #[arg(long)]
    pub(super) precision: Option<String>,
    /// Compute the insides of blocks again for the backward pass: auto, always (least memory) or never (fastest)
    /// [default: auto, never where it takes less than a quarter of the free memory]
    #[arg(long)]
    pub(super) recompute: Option<String>,
    /// Memory that the run may take beside the mapped model, such as 800M or 2G: decides what --recompute auto comes to, and
    /// refuses a run that does not fit [default: no limit]
    #[arg(long)]
    pub(super) memory: Option<String>,
    #[command(flatten)]
    pub(super) held_out: HeldOutArgs,
    #[command(flatten)]
    pub(super) saving: SavingArgs,
    /// Prompts, held-out ones first, that are answered before and after for the report
    #[arg(long, default_value_t = 3)]
    pub(super) samples: usize,
    /// Replace an existing run directory
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Check model and data, print the configuration, and what the run will take by two of its steps; write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// Rows, or a task's items, to measure on
    #[arg(short = 'd', long = "data", required_unless_present = "tax")]
    pub(super) data: Option<PathBuf>,
    /// Adapter in GGUF
    #[arg(long)]
    pub(super) lora: Option<PathBuf>,
    /// Changes of whole weights (`train --delta full`) as they are, before a merge rounds them
    #[arg(long, conflicts_with = "lora")]
    pub(super) change: Option<PathBuf>,
    #[command(flatten)]
    pub(super) tasks: TaskArgs,
    /// Strength that rewards are scaled by [default: 0.1]
    #[arg(long, conflicts_with_all = ["task", "tax"])]
    pub(super) beta: Option<f64>,
    /// Longest row, in tokens
    #[arg(long, default_value_t = 1024)]
    pub(super) max_length: usize,
    /// Longer rows: drop, truncate (their beginning is kept) or error
    #[arg(long, default_value = "drop")]
    pub(super) too_long: String,
    /// Columns that files call otherwise: prompt=question,chosen=right_answer
    #[arg(long, default_value = "")]
    pub(super) columns: String,
    /// Numbers that products with weights are formed in: auto, f32 or bf16
    #[arg(long, default_value = "auto")]
    pub(super) precision: String,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// A prompt; may be given several times
    #[arg(short = 'p', long)]
    pub(super) prompt: Vec<String>,
    /// A file of prompts: one per line, plain or JSON objects with a `prompt`
    #[arg(short = 'f', long, alias = "file")]
    pub(super) prompts: Option<PathBuf>,
    /// Answers per prompt
    #[arg(long, default_value_t = 1)]
    pub(super) samples: usize,
    /// Sequences that are decoded together
    #[arg(long, default_value_t = 1)]
    pub(super) parallel: usize,
    #[command(flatten)]
    pub(super) adapters: Adapters,
    #[command(flatten)]
    pub(super) sampling: Sampling,
    /// Take prompts as they are, without the model's chat template
    #[arg(long)]
    pub(super) no_template: bool,
    /// JSON lines on stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// GGUF file or run directory
    pub(super) file: PathBuf,
    /// JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
    /// File for a page that shows where a mask lies
    #[arg(long)]
    pub(super) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Model in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// sft or dpo
    #[arg(long, default_value = "sft")]
    pub(super) method: String,
    /// Rows and tokens per row; for dpo the tokens of both answers together
    #[arg(long, default_value = "4x512")]
    pub(super) shape: String,
    /// Rank r of the factors
    #[arg(long, alias = "lora-r", default_value_t = 16)]
    pub(super) lora_rank: usize,
    /// Steps that count, after one to warm up
    #[arg(long, default_value_t = 5)]
    pub(super) steps: usize,
    /// Numbers that products with weights are formed in: auto, f32 or bf16
    #[arg(long, default_value = "auto")]
    pub(super) precision: String,
    /// Compute the insides of blocks again for the backward pass: auto, always or never
    #[arg(long, default_value = "auto")]
    pub(super) recompute: String,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) devices: Devices,
    #[command(flatten)]
    pub(super) threads: Threads,
}

impl Options {
    /// Parses, after writing long flags with dashes: `--learning_rate` is `--learning-rate`.
    pub(super) fn parse_from(arguments: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments.into_iter().map(|argument| {
            let Some(flag) = argument.strip_prefix("--") else { return spelled_out(argument) };
            let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
            let name = name.replace('_', "-");
            value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::parse_from(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn the_grammar_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn trl_spellings_mean_the_same() {
        let line = "llama-align train -m a.gguf -d b.jsonl -o r --learning_rate 1e-4 --per_device_train_batch_size=2 --lora_r 4";
        let Command::Train(args) = parse(line).unwrap().command else { panic!("train expected") };
        assert_eq!((args.learning_rate, args.batch_size, args.adapter.lora_rank), (Some(1e-4), Some(2), Some(4)));
    }

    #[test]
    fn devices_are_spelled_as_in_llama_cpp() {
        let Command::Check(args) = parse("llama-align check -m a -ngl 7 -dev Vulkan0,none").unwrap().command else {
            panic!("check expected")
        };
        assert_eq!((args.devices.n_gpu_layers(), args.devices.names()), (Some(7), Some("Vulkan0,none")));
        let Command::Generate(args) = parse("llama-align generate -m a -p b -n 5 -ngl all").unwrap().command else {
            panic!("generate expected")
        };
        assert_eq!((args.sampling.predict, args.devices.n_gpu_layers()), (5, Some(crate::runtime::ALL_LAYERS)));
        assert!(parse("llama-align check -m a -ngl some").is_err());
    }

    #[test]
    fn epochs_and_steps_exclude_each_other() {
        assert!(parse("llama-align train -m a -d b -o r --epochs 1 --max-steps 3").is_err());
    }
}
