//! Everything that decides a run, with its defaults in one place.

use super::delta::DeltaKind;
use super::method::Method;
use super::{Precision, Recompute};
use crate::adapter::LoraShape;
use crate::data::{pack, Columns, EncodeOptions, LossMask, Sample, TooLong};
use crate::engine::Layout;
use crate::error::{Error, Kind, Result};
use crate::optim::{AdamWParams, OptimizerKind, OptimizerParams, Schedule, ScheduleKind, SgdParams};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A resolved configuration: what `RUN_DIR/config.toml` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// sft, dpo or kto.
    pub method: Method,
    /// lora, rows or full: factors beside the weights, the rows that a mask names, or the weights themselves.
    pub delta: DeltaKind,
    /// Rank r.
    pub lora_rank: usize,
    /// The update is scaled by alpha / r.
    pub lora_alpha: f32,
    /// all-linear, or module names separated by commas.
    pub lora_targets: String,
    /// Blocks that are adapted, such as 0,10-29; empty means all.
    pub layers_to_transform: String,
    /// Scale by alpha / √r (rsLoRA).
    pub use_rslora: bool,
    /// Share of what the factors A read that a step drops, drawn anew for every step.
    pub lora_dropout: f32,
    /// Rate of B over that of A (LoRA+); 1 is plain LoRA.
    pub loraplus_lr_ratio: f64,
    /// Whether the norms of the blocks move as well, each by a free change.
    pub train_norms: bool,
    /// Whether the biases of the blocks move as well.
    pub train_biases: bool,
    /// Weights of single tokens.
    pub token_weights: Option<PathBuf>,
    /// Share of a rejected answer's tokens, those of the lowest log-ratio, that the loss sees (dpo); 1 means all.
    pub rejected_share: f64,
    /// Mask of what may move.
    pub mask: Option<PathBuf>,
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
    /// Which loss on pairs, or several with commas between them; in such a list also `sft`.
    #[serde(deserialize_with = "names")]
    pub loss_type: String,
    /// Weights of the losses of a list; empty means 1 each.
    pub loss_weights: Vec<f64>,
    /// Strength of the pull to the reference, or what the loss calls β; 0 means the loss's default.
    pub beta: f64,
    /// Share of labels that cDPO and robust DPO take to be wrong.
    pub label_smoothing: f64,
    /// γ of SimPO: how much better the chosen answer must be.
    pub simpo_gamma: f64,
    /// λ of CPO: weight of its likelihood term.
    pub cpo_alpha: f64,
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
    /// Share of the training rows that is held out instead, the same ones for every seed; 0 means none.
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
    /// Ranks of some modules.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of some modules.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f32>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            method: Method::Dpo,
            delta: DeltaKind::Lora,
            lora_rank: 16,
            lora_alpha: 32.0,
            lora_targets: "all-linear".into(),
            layers_to_transform: String::new(),
            use_rslora: false,
            lora_dropout: 0.0,
            loraplus_lr_ratio: 1.0,
            train_norms: false,
            train_biases: false,
            token_weights: None,
            rejected_share: 1.0,
            mask: None,
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
            loss_weights: Vec::new(),
            beta: 0.0,
            label_smoothing: 0.1,
            simpo_gamma: 1.0,
            cpo_alpha: 1.0,
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
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl TrainConfig {
    /// Reads a TOML text; an unknown key is an error that names it and its line.
    pub fn from_toml(text: &str, source: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::new(Kind::Argument, format!("{source}: {}", e.to_string().trim())))
    }

    /// True if the run compares with the weights it starts from.
    pub fn has_reference(&self) -> Result<bool> {
        Ok(match self.method {
            Method::Sft => false,
            Method::Dpo => self.mixture()?.has_reference(),
            Method::Kto | Method::Npo => true,
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

    /// How large the factors are.
    pub fn shape(&self) -> LoraShape {
        LoraShape {
            rank: self.lora_rank,
            alpha: self.lora_alpha,
            rank_stabilized: self.use_rslora,
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
        }
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

/// A text, or TRL's list of texts, as one text with commas.
fn names<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        List(Vec<String>),
    }
    Ok(match Names::deserialize(from)? {
        Names::One(name) => name,
        Names::List(names) => names.join(","),
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
