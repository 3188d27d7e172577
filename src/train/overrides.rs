//! Flags, which win over a configuration's file.

use super::config::TrainConfig;
use super::delta::DeltaKind;
use super::method::Method;
use super::resolve::bad;
use super::{Precision, Recompute};
use crate::data::{Columns, LossMask, TooLong};
use crate::error::Result;
use crate::optim::{OptimizerKind, ScheduleKind};
use std::path::PathBuf;

/// Flags that win over a file; `None` leaves the value as it is.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the fields are those of `TrainConfig`
pub struct TrainOverrides {
    pub method: Option<String>,
    pub lora_rank: Option<usize>,
    pub lora_alpha: Option<f32>,
    pub lora_targets: Option<String>,
    pub layers_to_transform: Option<String>,
    pub use_rslora: Option<bool>,
    pub lora_dropout: Option<f32>,
    pub loraplus_lr_ratio: Option<f64>,
    pub train_norms: Option<bool>,
    pub train_biases: Option<bool>,
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
    pub loss_weights: Option<Vec<f64>>,
    pub cpo_alpha: Option<f64>,
    pub desirable_weight: Option<f64>,
    pub undesirable_weight: Option<f64>,
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
    pub delta: Option<String>,
    pub token_weights: Option<PathBuf>,
    pub rejected_share: Option<f64>,
    pub mask: Option<PathBuf>,
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
    /// Applies flags.
    pub fn apply(&mut self, flags: TrainOverrides) -> Result<()> {
        if let Some(name) = flags.method {
            self.method = Method::from_name(&name)?;
        }
        if let Some(name) = flags.delta {
            self.delta = DeltaKind::from_name(&name)?;
        }
        let mut given = Vec::new();
        macro_rules! take {
            ($($field:ident),+) => {
                $( if let Some(value) = flags.$field { self.$field = value; given.push(stringify!($field)); } )+
            };
        }
        take!(layers_to_transform, use_rslora, lora_dropout, loraplus_lr_ratio, train_norms, train_biases);
        take!(lora_rank, lora_alpha, lora_targets, learning_rate, batch_size, grad_accum, max_length, seed, threads);
        take!(rejected_share);
        take!(loss_type, loss_weights, beta, label_smoothing, simpo_gamma, cpo_alpha, sft_weight);
        take!(desirable_weight, undesirable_weight, sgd_momentum, weight_decay, min_lr);
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
        if flags.token_weights.is_some() {
            self.token_weights = flags.token_weights;
        }
        if flags.mask.is_some() {
            self.mask = flags.mask;
        }
        if flags.eval_data.is_some() {
            self.eval_data = flags.eval_data;
        }
        Ok(())
    }
}
