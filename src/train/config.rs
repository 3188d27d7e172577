//! Everything that decides a run, with its defaults in one place.

use super::{Precision, Recompute};
use crate::data::{pack, Columns, EncodeOptions, LossMask, Sample, TooLong};
use crate::engine::Layout;
use crate::error::{Error, Kind, Result};
use crate::loss::{Preference, PreferenceLoss};
use crate::optim::{AdamWParams, OptimizerKind, OptimizerParams, Schedule, ScheduleKind, SgdParams};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use super::method::Method;

/// A resolved configuration: what `RUN_DIR/config.toml` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// sft, dpo or kto.
    pub method: Method,
    /// Rank r.
    pub lora_rank: usize,
    /// The update is scaled by alpha / r.
    pub lora_alpha: f32,
    /// all-linear, or module names separated by commas.
    pub lora_targets: String,
    /// Peak rate; 0 means the method's default.
    pub learning_rate: f64,
    /// Shape after the warm-up.
    pub lr_scheduler_type: ScheduleKind,
    /// Share of the steps that the rate rises over, where `warmup_steps` is 0.
    pub warmup_ratio: f64,
    /// Steps that the rate rises over; 0 means by `warmup_ratio`.
    pub warmup_steps: usize,
    /// Rate that `cosine_with_min_lr` ends at; 0 means a tenth of the peak.
    pub min_lr: f64,
    /// adamw or sgd.
    pub optim: OptimizerKind,
    /// Passes over the data.
    pub epochs: f64,
    /// Optimizer steps; 0 means by epochs.
    pub max_steps: usize,
    /// Rows per micro-batch.
    pub batch_size: usize,
    /// Micro-batches per optimizer step.
    pub grad_accum: usize,
    /// Tokens on the packed axis of one forward at most; a row that is longer goes alone.
    pub micro_batch_tokens: usize,
    /// Longest row, in tokens.
    pub max_length: usize,
    /// What becomes of longer rows.
    pub too_long: TooLong,
    /// Which tokens have a loss (sft).
    pub loss_mask: LossMask,
    /// Whether names of control tokens in the data become those tokens.
    pub parse_special: bool,
    /// Whether short rows are put together to packs of `max_length` tokens, which then count as rows (sft).
    pub packing: bool,
    /// Which loss on pairs.
    pub loss_type: String,
    /// Strength of the pull to the reference, or what the loss calls β; 0 means the loss's default.
    pub beta: f64,
    /// Share of labels that cDPO and robust DPO take to be wrong.
    pub label_smoothing: f64,
    /// γ of SimPO: how much better the chosen answer must be.
    pub simpo_gamma: f64,
    /// Weight of the chosen answer's likelihood per token, added to any loss on pairs.
    pub sft_weight: f64,
    /// λ_D of KTO.
    pub desirable_weight: f64,
    /// λ_U of KTO.
    pub undesirable_weight: f64,
    /// Global norm that gradients are cut to; 0 means none.
    pub max_grad_norm: f64,
    /// Weight decay: decoupled from the gradient (AdamW), or a part of it (SGD).
    pub weight_decay: f64,
    /// Momentum of SGD.
    pub sgd_momentum: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Seed of factors and order.
    pub seed: u64,
    /// Threads; 0 means the number of cores.
    pub threads: usize,
    /// auto, f32 or bf16; a resolved configuration never says auto unless devices compute.
    pub precision: Precision,
    /// Devices that compute, separated by commas, or none.
    pub device: Option<String>,
    /// Blocks whose weights go to the devices, counted from the last.
    pub n_gpu_layers: Option<u32>,
    /// auto, always or never; what a run directory holds never says auto.
    pub recompute: Recompute,
    /// Held-out rows.
    pub eval_data: Option<PathBuf>,
    /// Share of the training rows that is held out instead; 0 means none.
    pub eval_split: f64,
    /// Optimizer steps between two measurements of held-out rows; 0 means before and after the run only.
    pub eval_steps: usize,
    /// Measurements in a row without a better one that end the run; 0 means none do.
    pub early_stopping_patience: usize,
    /// What is better is decided by it; empty means the loss.
    pub metric_for_best_model: String,
    /// Whether it is better large; absent means by its name.
    pub greater_is_better: Option<bool>,
    /// The adapter of the best measurement is the run's result, and not the last one.
    pub load_best_model_at_end: bool,
    /// Adapters of the latest measurements that are kept beside the best one's; 0 means none.
    pub keep_adapters: usize,
    /// Steps between two checkpoints; 0 makes one only when the run is interrupted.
    pub save_steps: usize,
    /// Checkpoints that are kept, the latest ones; 0 keeps all.
    pub save_total_limit: usize,
    /// Columns of the parts of rows, where files call them otherwise: `[columns]`, `prompt = "question"`.
    #[serde(skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            method: Method::Dpo,
            lora_rank: 16,
            lora_alpha: 32.0,
            lora_targets: "all-linear".into(),
            learning_rate: 0.0,
            lr_scheduler_type: ScheduleKind::Cosine,
            warmup_ratio: 0.1,
            warmup_steps: 0,
            min_lr: 0.0,
            optim: OptimizerKind::AdamW,
            epochs: 1.0,
            max_steps: 0,
            batch_size: 4,
            grad_accum: 2,
            micro_batch_tokens: 1024,
            max_length: 1024,
            too_long: TooLong::Drop,
            loss_mask: LossMask::Completion,
            parse_special: false,
            packing: false,
            loss_type: "sigmoid".into(),
            beta: 0.0,
            label_smoothing: 0.1,
            simpo_gamma: 1.0,
            sft_weight: 0.0,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            sgd_momentum: 0.9,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            seed: 0,
            threads: 0,
            precision: Precision::Auto,
            device: None,
            n_gpu_layers: None,
            recompute: Recompute::Auto,
            eval_data: None,
            eval_split: 0.0,
            eval_steps: 0,
            early_stopping_patience: 0,
            metric_for_best_model: String::new(),
            greater_is_better: None,
            load_best_model_at_end: false,
            keep_adapters: 0,
            save_steps: 100,
            save_total_limit: 2,
            columns: Columns::default(),
        }
    }
}

/// Flags that win over a file; `None` leaves the value as it is.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the fields are those of `TrainConfig`
pub struct TrainOverrides {
    pub method: Option<String>,
    pub lora_rank: Option<usize>,
    pub lora_alpha: Option<f32>,
    pub lora_targets: Option<String>,
    pub learning_rate: Option<f64>,
    pub lr_scheduler_type: Option<String>,
    pub warmup_ratio: Option<f64>,
    pub warmup_steps: Option<usize>,
    pub min_lr: Option<f64>,
    pub optim: Option<String>,
    pub sgd_momentum: Option<f64>,
    pub weight_decay: Option<f64>,
    pub epochs: Option<f64>,
    pub max_steps: Option<usize>,
    pub batch_size: Option<usize>,
    pub grad_accum: Option<usize>,
    pub max_length: Option<usize>,
    pub too_long: Option<String>,
    pub loss_mask: Option<String>,
    pub parse_special: bool,
    pub packing: bool,
    pub columns: Option<String>,
    pub loss_type: Option<String>,
    pub beta: Option<f64>,
    pub label_smoothing: Option<f64>,
    pub simpo_gamma: Option<f64>,
    pub sft_weight: Option<f64>,
    pub seed: Option<u64>,
    pub threads: Option<usize>,
    pub precision: Option<String>,
    pub recompute: Option<String>,
    pub device: Option<String>,
    pub n_gpu_layers: Option<u32>,
    pub eval_data: Option<PathBuf>,
    pub eval_split: Option<f64>,
    pub eval_steps: Option<usize>,
    pub early_stopping_patience: Option<usize>,
    pub metric_for_best_model: Option<String>,
    pub greater_is_better: Option<bool>,
    pub load_best_model_at_end: Option<bool>,
    pub keep_adapters: Option<usize>,
    pub save_steps: Option<usize>,
    pub save_total_limit: Option<usize>,
}

impl TrainConfig {
    /// Reads a TOML text; an unknown key is an error that names it and its line.
    pub fn from_toml(text: &str, source: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::new(Kind::Argument, format!("{source}: {}", e.to_string().trim())))
    }

    /// Applies flags.
    pub fn apply(&mut self, flags: TrainOverrides) -> Result<()> {
        if let Some(name) = flags.method {
            self.method = Method::from_name(&name)?;
        }
        let mut given = Vec::new();
        macro_rules! take {
            ($($field:ident),+) => {
                $( if let Some(value) = flags.$field { self.$field = value; given.push(stringify!($field)); } )+
            };
        }
        take!(lora_rank, lora_alpha, lora_targets, learning_rate, batch_size, grad_accum, max_length, seed, threads);
        take!(loss_type, beta, label_smoothing, simpo_gamma, sft_weight, sgd_momentum, weight_decay, min_lr);
        take!(eval_split, eval_steps, early_stopping_patience, metric_for_best_model);
        take!(load_best_model_at_end, keep_adapters, save_steps, save_total_limit);
        self.greater_is_better = flags.greater_is_better.or(self.greater_is_better);
        if let Some(name) = flags.optim {
            let found = OptimizerKind::ALL.into_iter().find(|(_, n)| *n == name.to_ascii_lowercase());
            self.optim = found.ok_or_else(|| bad("optim", &format!("{name} is none of adamw, sgd")))?.0;
        }
        if let Some(name) = flags.lr_scheduler_type {
            let names = ScheduleKind::ALL.map(|(_, name)| name).join(", ");
            let unknown = || bad("lr_scheduler_type", &format!("{name} is none of {names}"));
            self.lr_scheduler_type = ScheduleKind::from_name(&name).ok_or_else(unknown)?;
        }
        if let Some(ratio) = flags.warmup_ratio {
            (self.warmup_ratio, self.warmup_steps) = (ratio, 0);
        }
        if let Some(steps) = flags.warmup_steps {
            // As a flag 0 steps are none at all.
            (self.warmup_steps, self.warmup_ratio) = (steps, if steps == 0 { 0.0 } else { self.warmup_ratio });
        }
        if let Some(name) = flags.loss_mask {
            self.loss_mask = LossMask::from_name(&name)?;
            given.push("loss_mask");
        }
        self.parse_special |= flags.parse_special;
        if flags.packing {
            self.packing = true;
            given.push("packing");
        }
        self.refuse_unused(&given)?;
        // In a file 0 means the default; who writes it as a flag means 0, which is no strength at all.
        if flags.beta == Some(0.0) {
            return Err(bad("beta", "0 is outside 0.000000001 to 1000"));
        }
        if let Some(name) = flags.precision {
            self.precision = Precision::from_name(&name)?;
        }
        if flags.device.is_some() {
            self.device = flags.device;
        }
        if flags.n_gpu_layers.is_some() {
            self.n_gpu_layers = flags.n_gpu_layers;
        }
        if let Some(name) = flags.recompute {
            self.recompute = Recompute::from_name(&name)?;
        }
        if let Some(name) = flags.too_long {
            self.too_long = TooLong::from_name(&name)?;
        }
        if let Some(pairs) = flags.columns {
            self.columns = Columns::parse(&pairs)?;
        }
        if let Some(epochs) = flags.epochs {
            (self.epochs, self.max_steps) = (epochs, 0);
        }
        if let Some(steps) = flags.max_steps {
            self.max_steps = steps;
        }
        if flags.eval_data.is_some() {
            self.eval_data = flags.eval_data;
        }
        Ok(())
    }

    /// Checks ranges and fills in what depends on other values.
    pub fn resolve(mut self) -> Result<Self> {
        let counts = [
            ("lora_rank", self.lora_rank, 4096),
            ("batch_size", self.batch_size, 65_536),
            ("grad_accum", self.grad_accum, 65_536),
            ("max_length", self.max_length, 1 << 20),
            ("micro_batch_tokens", self.micro_batch_tokens, 1 << 20),
        ];
        for (name, value, max) in counts {
            if value == 0 || value > max {
                return Err(bad(name, &format!("{value} is outside 1 to {max}")));
            }
        }
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads = if self.threads == 0 { cores() } else { self.threads };
        if !self.has_devices() {
            self.precision = self.precision.resolve();
        }
        if self.learning_rate == 0.0 {
            self.learning_rate = self.method.learning_rate();
        }
        if self.method != Method::Dpo && (self.loss_type != "sigmoid" || self.sft_weight != 0.0) {
            return Err(bad("loss_type", &format!("losses on pairs belong to method dpo, not {}", self.method.name())));
        }
        if self.min_lr == 0.0 && self.lr_scheduler_type == ScheduleKind::CosineWithMinLr {
            self.min_lr = self.learning_rate / 10.0;
        }
        if self.method != Method::Sft && (self.loss_mask != LossMask::Completion || self.packing) {
            let key = if self.packing { "packing" } else { "loss_mask" };
            return Err(bad(key, &format!("belongs to method sft, not {}", self.method.name())));
        }
        if self.beta == 0.0 {
            self.beta = self.preference_loss()?.beta();
        }
        let numbers = [
            ("learning_rate", self.learning_rate, f64::MIN_POSITIVE, 10.0),
            ("lora_alpha", f64::from(self.lora_alpha), 1e-6, 1e6),
            ("epochs", self.epochs, 1e-6, 1e6),
            ("beta", self.beta, 1e-9, 1e3),
            ("label_smoothing", self.label_smoothing, 0.0, 0.499),
            ("simpo_gamma", self.simpo_gamma, 0.0, 1e3),
            ("sft_weight", self.sft_weight, 0.0, 1e3),
            ("warmup_ratio", self.warmup_ratio, 0.0, 1.0),
            ("max_grad_norm", self.max_grad_norm, 0.0, 1e9),
            ("min_lr", self.min_lr, 0.0, self.learning_rate),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("sgd_momentum", self.sgd_momentum, 0.0, 0.999_999),
            ("desirable_weight", self.desirable_weight, 0.0, 1e3),
            ("undesirable_weight", self.undesirable_weight, 0.0, 1e3),
            ("adam_beta1", self.adam_beta1, 0.0, 0.999_999),
            ("adam_beta2", self.adam_beta2, 0.0, 0.999_999_9),
            ("adam_epsilon", self.adam_epsilon, 0.0, 1.0),
            ("eval_split", self.eval_split, 0.0, 0.999),
        ];
        for (name, value, min, max) in numbers {
            if !(min..=max).contains(&value) {
                return Err(bad(name, &format!("{value} is outside {min} to {max}")));
            }
        }
        self.resolve_evaluation()?;
        Ok(self)
    }

    /// Measurements over the run: what needs what.
    fn resolve_evaluation(&mut self) -> Result<()> {
        if self.eval_data.is_some() && self.eval_split > 0.0 {
            return Err(bad("eval_split", "held-out rows are given already by eval-data"));
        }
        let held_out = self.eval_data.is_some() || self.eval_split > 0.0;
        if self.eval_steps > 0 && !held_out {
            return Err(bad("eval_steps", "nothing is held out: give eval-data or eval-split"));
        }
        if self.early_stopping_patience > 0 {
            // As Hugging Face demands: where a run is stopped late by intent, its last adapter is not what was wanted.
            self.load_best_model_at_end = true;
        }
        let needs = [
            ("early_stopping_patience", self.early_stopping_patience > 0),
            ("load_best_model_at_end", self.load_best_model_at_end),
            ("keep_adapters", self.keep_adapters > 0),
            ("metric_for_best_model", !self.metric_for_best_model.is_empty()),
            ("greater_is_better", self.greater_is_better.is_some()),
        ];
        match needs.into_iter().find(|(_, wanted)| *wanted && self.eval_steps == 0) {
            Some((name, _)) => Err(bad(name, "the run is not measured on its way: give eval-steps")),
            None => Ok(()),
        }
    }

    /// True if devices compute.
    fn has_devices(&self) -> bool {
        match self.device.as_deref() {
            Some(names) => names != "none",
            None => self.n_gpu_layers.is_some_and(|n| n > 0),
        }
    }

    /// The loss on pairs that `loss_type` names.
    pub(super) fn preference_loss(&self) -> Result<PreferenceLoss> {
        let wanted = self.loss_type.to_ascii_lowercase().replace('-', "_");
        let found = PreferenceLoss::ALL.into_iter().find(|(_, name)| *name == wanted);
        found.map(|(loss, _)| loss).ok_or_else(|| {
            let names: Vec<_> = PreferenceLoss::ALL.iter().map(|(_, name)| *name).collect();
            bad("loss_type", &format!("{} is none of {}", self.loss_type, names.join(", ")))
        })
    }

    /// The loss on pairs with its constants.
    pub fn preference(&self) -> Result<Preference> {
        let Self { beta, label_smoothing, simpo_gamma: gamma, sft_weight, .. } = *self;
        Ok(Preference { loss: self.preference_loss()?, beta, label_smoothing, gamma, sft_weight })
    }

    /// True if the run compares with the weights it starts from.
    pub fn has_reference(&self) -> Result<bool> {
        Ok(match self.method {
            Method::Sft => false,
            Method::Dpo => self.preference_loss()?.has_reference(),
            Method::Kto => true,
        })
    }

    /// How rows become tokens.
    pub fn encoding(&self) -> EncodeOptions {
        let Self { max_length, too_long, loss_mask: mask, parse_special, .. } = *self;
        EncodeOptions { apply_template: true, max_length, too_long, mask, parse_special }
    }

    /// Rows that count as one: packs of short ones (see [`Self::packing`]), or each row alone.
    pub fn packs(&self, samples: &[Sample]) -> Vec<Vec<usize>> {
        if !self.packing {
            return (0..samples.len()).map(|row| vec![row]).collect();
        }
        let length = |s: &Sample| Layout::padded(s.sequences());
        pack(&samples.iter().map(length).collect::<Vec<_>>(), self.max_length)
    }

    /// Optimizer steps over `n_rows` rows, or packs.
    pub fn n_steps(&self, n_rows: usize) -> usize {
        if self.max_steps > 0 {
            return self.max_steps;
        }
        let per_epoch = n_rows.div_ceil(self.rows_per_step());
        ((per_epoch as f64 * self.epochs).ceil() as usize).max(1)
    }

    /// Rows of one optimizer step.
    pub fn rows_per_step(&self) -> usize {
        self.batch_size * self.grad_accum
    }

    /// The learning rate over a run of `n_steps`.
    pub fn schedule(&self, n_steps: usize) -> Schedule {
        let n_warmup = match self.warmup_steps {
            0 => (self.warmup_ratio * n_steps as f64).ceil() as usize,
            steps => steps,
        };
        let (peak, floor) = (self.learning_rate, self.min_lr);
        Schedule { kind: self.lr_scheduler_type, peak, floor, n_warmup, n_steps }
    }

    /// The optimizer with its constants.
    pub fn optimizer(&self) -> OptimizerParams {
        let Self { adam_beta1, adam_beta2, adam_epsilon, weight_decay, sgd_momentum: momentum, .. } = *self;
        match self.optim {
            OptimizerKind::AdamW => OptimizerParams::AdamW(AdamWParams {
                beta1: adam_beta1,
                beta2: adam_beta2,
                eps: adam_epsilon,
                weight_decay,
            }),
            OptimizerKind::Sgd => OptimizerParams::Sgd(SgdParams { momentum, weight_decay }),
        }
    }
}

pub(super) fn bad(name: &str, what: &str) -> Error {
    Error::new(Kind::Argument, format!("{}: {what}", name.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let config = TrainConfig { lora_rank: 4, ..TrainConfig::default() }.resolve().unwrap();
        assert_eq!(TrainConfig::from_toml(&config.to_toml().unwrap(), "x").unwrap(), config);
        assert_eq!(config.learning_rate, Method::Dpo.learning_rate());
    }

    #[test]
    fn a_loss_brings_its_own_beta_and_says_whether_it_has_a_reference() {
        let config = |loss: &str| TrainConfig { loss_type: loss.into(), ..TrainConfig::default() }.resolve();
        assert_eq!((config("sigmoid").unwrap().beta, config("simpo").unwrap().beta), (0.1, 2.0));
        assert!(config("IPO").unwrap().has_reference().unwrap() && !config("orpo").unwrap().has_reference().unwrap());
        let kto = TrainConfig { method: Method::Kto, loss_type: "ipo".into(), ..TrainConfig::default() };
        assert!(kto.resolve().unwrap_err().to_string().contains("method dpo"));
        assert!(config("sigmoids").unwrap_err().to_string().contains("apo_zero"));
    }

    #[test]
    fn unknown_keys_and_wild_values_are_refused_by_name() {
        let error = TrainConfig::from_toml("beta = 0.2\nbatchsize = 3\n", "run.toml").unwrap_err().to_string();
        assert!(error.contains("run.toml") && error.contains("batchsize") && error.contains('2'), "{error}");
        let config = TrainConfig { beta: f64::NAN, ..TrainConfig::default() };
        assert!(config.resolve().unwrap_err().to_string().contains("beta"));
        let flags = TrainOverrides { method: Some("rlhf".into()), ..TrainOverrides::default() };
        assert!(TrainConfig::default().apply(flags).is_err());
    }

    #[test]
    fn insides_are_kept_where_they_take_a_quarter_of_what_is_free_at_most() {
        assert_eq!(Recompute::Auto.resolve(25, 100), Recompute::Never);
        assert_eq!(Recompute::Auto.resolve(26, 100), Recompute::Always);
        assert_eq!(Recompute::Never.resolve(1000, 100), Recompute::Never);
        assert!(Recompute::from_name("sometimes").is_err() && Precision::from_name("f16").is_err());
        assert!(Precision::Auto.resolve() != Precision::Auto);
    }

    #[test]
    fn flags_of_losses_are_taken_and_those_a_loss_has_no_use_for_refused() {
        let apply = |loss: &str, flags: TrainOverrides| {
            let mut config = TrainConfig::default();
            config.apply(TrainOverrides { loss_type: Some(loss.into()), ..flags }).map_err(|e| e.to_string())?;
            config.preference().map_err(|e| e.to_string())
        };
        let smooth = || TrainOverrides { label_smoothing: Some(0.2), ..TrainOverrides::default() };
        let gamma = || TrainOverrides { simpo_gamma: Some(0.5), ..TrainOverrides::default() };
        let sft = TrainOverrides { sft_weight: Some(0.7), beta: Some(0.3), ..TrainOverrides::default() };
        let robust = apply("robust", smooth()).unwrap();
        assert_eq!((robust.loss, robust.label_smoothing), (PreferenceLoss::Robust, 0.2));
        let simpo = apply("simpo", gamma()).unwrap();
        assert_eq!((simpo.loss, simpo.gamma), (PreferenceLoss::Simpo, 0.5));
        let ipo = apply("ipo", sft).unwrap();
        assert_eq!((ipo.loss, ipo.sft_weight, ipo.beta), (PreferenceLoss::Ipo, 0.7, 0.3));
        assert!(apply("sigmoid", smooth()).unwrap_err().contains("label-smoothing"));
        assert!(apply("ipo", gamma()).unwrap_err().contains("simpo-gamma"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut config = TrainConfig::from_toml("max_steps = 5\nlora_rank = 2", "x").unwrap();
        config.apply(TrainOverrides { epochs: Some(2.0), lora_rank: Some(8), ..TrainOverrides::default() }).unwrap();
        assert_eq!((config.lora_rank, config.n_steps(100)), (8, 26));
    }
}
