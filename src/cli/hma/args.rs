//! The grammar of `hma`.

use crate::cli::args::Threads;
use crate::error::{Error, Kind, Result};
use crate::evaluate::{Task, TaskParams};
use crate::hma::{Deviation, Penalty, PenaltyWeights, SearchParams, Solver};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::cli) struct HmaArgs {
    /// The model before alignment, in GGUF
    #[arg(short = 'm', long)]
    pub(super) model: PathBuf,
    /// The model after alignment, in GGUF
    #[arg(long, required_unless_present = "lora", conflicts_with = "lora")]
    pub(super) after: Option<PathBuf>,
    /// The adapter that aligns the model: its blocks are scaled, nothing is lost
    #[arg(long)]
    pub(super) lora: Option<PathBuf>,
    /// Mean weight of the model before alignment; that of the model after it is 1 minus this
    #[arg(long, default_value_t = 0.2)]
    pub(super) pre_weight: f64,
    #[command(flatten)]
    pub(super) groups: GroupArgs,
    #[command(flatten)]
    pub(super) responses: ResponseArgs,
    #[command(flatten)]
    pub(super) search: SearchArgs,
    #[command(flatten)]
    pub(super) sweep: SweepArgs,
    /// File to make: the adapter with its scales folded in (--lora), or the blended model (--after, or --lora with --fold)
    #[arg(short = 'o', long)]
    pub(super) output: Option<PathBuf>,
    /// With --lora: fold the scaled adapter into the model
    #[arg(long, requires = "lora", requires = "output")]
    pub(super) fold: bool,
    /// Types of a model that is made: keep, auto, or a type for every matrix that changes [default: keep]
    #[arg(long, requires = "output")]
    pub(super) outtype: Option<String>,
    /// File for a page with the ratios, the likelihoods and the plots
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
    /// Replace existing files
    #[arg(long)]
    pub(super) overwrite: bool,
    /// One line of JSON on stdout
    #[arg(long)]
    pub(super) json: bool,
    /// Numbers that products with weights are formed in: auto, f32 or bf16
    #[arg(long, default_value = "auto")]
    pub(super) precision: String,
    #[command(flatten)]
    pub(super) threads: Threads,
}

#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    /// Groups of blocks with a ratio each: a number, layers, or the last block of every group but the last one, such as 9,19
    #[arg(long, default_value = "3")]
    pub(super) groups: String,
    /// How a number of groups becomes cuts: paper (equal sizes) or released (as in the authors' code)
    #[arg(long, default_value = "paper")]
    pub(super) group_rule: String,
    /// How little ratios may differ: 0 lets them be anything around their mean [default: 0.2, or what keeps them within 1]
    #[arg(long)]
    pub(super) epsilon: Option<f64>,
    /// Weights of the model before, one for every group, instead of a search, such as 0.6,0,0; their mean is in place of --pre-weight
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true, conflicts_with_all = ["pre_weight", "epsilon", "prompts",
        "responses"])]
    pub(super) ratios: Vec<f64>,
    /// What embeddings and norms of a blend of two models are: faithful (the model's before) or uniform (averaged with the mean)
    /// [default: faithful; uniform for averages]
    #[arg(long)]
    pub(super) others: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ResponseArgs {
    /// Prompts that the aligned model answers; what it says is what the ratios are fitted to
    #[arg(short = 'f', long, conflicts_with = "responses")]
    pub(super) prompts: Option<PathBuf>,
    /// Responses of the aligned model instead: rows with answers, such as prompt and completion
    #[arg(long)]
    pub(super) responses: Option<PathBuf>,
    /// Columns that files call otherwise: prompt=question,completion=reply
    #[arg(long, default_value = "")]
    pub(super) columns: String,
    /// Responses to every prompt
    #[arg(long, default_value_t = 1, requires = "prompts")]
    pub(super) samples: usize,
    /// Tokens per response at most; what is longer is left out
    #[arg(short = 'n', long = "predict", default_value_t = 256, requires = "prompts")]
    pub(super) predict: usize,
    /// Temperature
    #[arg(long, default_value_t = 1.0, requires = "prompts")]
    pub(super) temp: f32,
    /// Probability mass kept
    #[arg(long, default_value_t = 1.0, requires = "prompts")]
    pub(super) top_p: f32,
    /// Sequences that are decoded together
    #[arg(long, default_value_t = 4, requires = "prompts")]
    pub(super) parallel: usize,
    /// File for the responses that were sampled, to be used again
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub(super) responses_out: Option<PathBuf>,
    /// Keep the best response of every prompt: by implicit (how much likelier alignment made it), or by a FILE with a number per
    /// line for the rows of --responses
    #[arg(long, value_name = "implicit|FILE")]
    pub(super) score: Option<String>,
    /// Responses at most, the best by --score
    #[arg(long, requires = "score")]
    pub(super) keep: Option<usize>,
    /// Tokens with a loss: completion (the responses, as in the paper) or all (as in the authors' code)
    #[arg(long, default_value = "completion")]
    pub(super) loss_mask: String,
    /// Longest row, in tokens
    #[arg(long, default_value_t = 1024)]
    pub(super) max_length: usize,
}

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// gradient (exact slopes from activations) or nelder-mead (likelihoods alone)
    #[arg(long, default_value = "gradient")]
    solver: String,
    /// Passes over the responses (gradient) [default: 3, or as many as make 50 steps]
    #[arg(long)]
    epochs: Option<usize>,
    /// Responses per step, 0 for all (gradient) [default: 16]
    #[arg(long)]
    batch_size: Option<usize>,
    /// First step in the space of the ratios' logits (gradient) [default: 0.2]
    #[arg(long, alias = "lr")]
    learning_rate: Option<f64>,
    /// Evaluations of all responses at most (nelder-mead) [default: 60]
    #[arg(long)]
    evaluations: Option<usize>,
    /// Strength of the regulariser that holds ratios near their mean; the authors' code has 1e-4
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    rho: f64,
    /// Its form: absolute or squared [default: absolute]
    #[arg(long, requires = "rho")]
    rho_form: Option<String>,
    /// Its weights of blocks: middle, even, or released (the middle of 26 blocks, whatever the depth) [default: middle]
    #[arg(long, requires = "rho")]
    rho_weights: Option<String>,
    /// Seed of responses, of their order and of drawn items
    #[arg(short = 's', long, default_value_t = 0)]
    pub(super) seed: u64,
}

impl GroupArgs {
    /// The mean weight of the model before: that of ratios that are given, or what was asked for.
    pub(super) fn mean(&self, pre_weight: f64) -> f64 {
        match self.ratios.len() {
            0 => pre_weight,
            n => self.ratios.iter().sum::<f64>() / n as f64,
        }
    }

    /// Checks ratios that are given.
    pub(super) fn validate(&self) -> Result<()> {
        match self.ratios.iter().find(|a| !(0.0..=1.0).contains(*a)) {
            Some(bad) => Err(Error::new(Kind::Argument, format!("--ratios {bad}: outside 0 to 1"))),
            None => Ok(()),
        }
    }
}

impl SearchArgs {
    /// The search's numbers; a flag that the solver has no use for is refused.
    pub(super) fn params(&self) -> Result<SearchParams> {
        let solver = Solver::from_name(&self.solver)?;
        let given = [
            ("epochs", self.epochs.is_some(), Solver::Gradient),
            ("batch-size", self.batch_size.is_some(), Solver::Gradient),
            ("learning-rate", self.learning_rate.is_some(), Solver::Gradient),
            ("evaluations", self.evaluations.is_some(), Solver::NelderMead),
        ];
        if let Some((flag, ..)) = given.iter().find(|(_, given, of)| *given && *of != solver) {
            return Err(Error::new(Kind::Argument, format!("--{flag}: --solver {} has no use for it", self.solver)));
        }
        let defaults = SearchParams::default();
        let penalty = Penalty {
            rho: self.rho,
            deviation: Deviation::from_name(self.rho_form.as_deref().unwrap_or("absolute"))?,
            weights: PenaltyWeights::from_name(self.rho_weights.as_deref().unwrap_or("middle"))?,
        };
        let params = SearchParams {
            solver,
            penalty,
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            epochs: self.epochs.unwrap_or(defaults.epochs),
            batch_size: self.batch_size.unwrap_or(defaults.batch_size),
            evaluations: self.evaluations.unwrap_or(defaults.evaluations),
            seed: self.seed,
        };
        params.validate().map(|()| params)
    }
}

#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Mean weights of the model before to be measured too, such as 0,0.2,0.4,1: averages, and with responses a search at each
    #[arg(long, value_delimiter = ',', requires = "tax")]
    pub(super) sweep: Vec<f64>,
    /// TASK=FILE that every point is measured by (pairs, nll, kl, mc, exact-match, em-f1); may be given several times
    #[arg(long, value_name = "TASK=FILE")]
    pub(super) tax: Vec<String>,
    /// Items of a task at most, drawn by the seed [default: all]
    #[arg(long, requires = "tax")]
    limit: Option<usize>,
    /// Ask tasks' questions without the model's chat template: "Q: …", "A:"
    #[arg(long, requires = "tax")]
    no_template: bool,
}

impl SweepArgs {
    /// Tasks and their files.
    pub(super) fn tasks(&self) -> Result<Vec<(Task, PathBuf)>> {
        let parse = |text: &String| match text.split_once('=') {
            Some((task, file)) if !file.is_empty() => Ok((Task::from_name(task)?, PathBuf::from(file))),
            _ => Err(Error::new(Kind::Argument, format!("--tax {text}: expected TASK=FILE"))),
        };
        self.tax.iter().map(parse).collect()
    }

    /// How they run.
    pub(super) fn params(&self, max_length: usize, seed: u64) -> Result<TaskParams> {
        if self.limit == Some(0) {
            return Err(Error::new(Kind::Argument, "--limit 0: no item"));
        }
        if let Some(bad) = self.sweep.iter().find(|a| !(0.0..=1.0).contains(*a)) {
            return Err(Error::new(Kind::Argument, format!("--sweep {bad}: outside 0 to 1")));
        }
        let (limit, apply_template) = (self.limit.unwrap_or(0), !self.no_template);
        Ok(TaskParams { max_length, limit, seed, apply_template, ..TaskParams::default() })
    }
}
