//! What a configuration's values may be, and what follows from others.

use super::config::TrainConfig;
use super::delta::DeltaKind;
use super::method::Method;
use crate::data::LossMask;
use crate::error::{Error, Kind, Result};
use crate::optim::ScheduleKind;

impl TrainConfig {
    /// Checks ranges and fills in what depends on other values.
    pub fn resolve(mut self) -> Result<Self> {
        let counts = [
            ("lora_rank", self.lora_rank, 4096),
            ("batch_size", self.batch_size, 65_536),
            ("grad_accum", self.grad_accum, 65_536),
            ("max_length", self.max_length, 1 << 20),
            ("micro_batch_tokens", self.micro_batch_tokens, 1 << 20),
        ];
        if let Some((module, rank)) = self.rank_pattern.iter().find(|(_, r)| !(1..=4096).contains(*r)) {
            return Err(bad("rank_pattern", &format!("{module}: {rank} is outside 1 to 4096")));
        }
        if let Some((module, alpha)) = self.alpha_pattern.iter().find(|(_, a)| !(1e-6..=1e6).contains(*a)) {
            return Err(bad("alpha_pattern", &format!("{module}: {alpha} is outside 0.000001 to 1000000")));
        }
        for (name, value, max) in counts {
            if value == 0 || value > max {
                return Err(bad(name, &format!("{value} is outside 1 to {max}")));
            }
        }
        if self.warmup_steps > u32::MAX as usize {
            return Err(bad("warmup_steps", &format!("{} is outside 0 to {}", self.warmup_steps, u32::MAX)));
        }
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads = if self.threads == 0 { cores() } else { self.threads };
        if !self.has_devices() {
            self.precision = self.precision.resolve();
        }
        if self.learning_rate == 0.0 {
            self.learning_rate = self.method.learning_rate(self.delta);
        }
        if self.method != Method::Dpo && (self.loss_type != "sigmoid" || self.sft_weight != 0.0) {
            return Err(bad("loss_type", &format!("losses on pairs belong to method dpo, not {}", self.method.name())));
        }
        if let Some(wild) = self.loss_weights.iter().find(|w| !(0.0..=1e3).contains(*w)) {
            return Err(bad("loss_weights", &format!("{wild} is outside 0 to 1000")));
        }
        if self.min_lr == 0.0 && self.lr_scheduler_type == ScheduleKind::CosineWithMinLr {
            self.min_lr = self.learning_rate / 10.0;
        }
        if self.method != Method::Sft && (self.loss_mask != LossMask::Completion || self.packing) {
            let key = if self.packing { "packing" } else { "loss_mask" };
            return Err(bad(key, &format!("belongs to method sft, not {}", self.method.name())));
        }
        if self.beta == 0.0 {
            self.beta = self.losses()?.first().map_or(0.1, |(_, loss)| loss.beta());
        }
        let numbers = [
            ("learning_rate", self.learning_rate, f64::MIN_POSITIVE, 10.0),
            ("lora_alpha", f64::from(self.lora_alpha), 1e-6, 1e6),
            ("lora_dropout", f64::from(self.lora_dropout), 0.0, 0.99),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio, 1e-3, 1e4),
            ("epochs", self.epochs, 1e-6, 1e6),
            ("beta", self.beta, 1e-9, 1e3),
            ("label_smoothing", self.label_smoothing, 0.0, 0.499),
            ("simpo_gamma", self.simpo_gamma, 0.0, 1e3),
            ("cpo_alpha", self.cpo_alpha, 0.0, 1e3),
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
            ("rejected_share", self.rejected_share, 1e-6, 1.0),
        ];
        for (name, value, min, max) in numbers {
            if !(min..=max).contains(&value) {
                return Err(bad(name, &format!("{value} is outside {min} to {max}")));
            }
        }
        if self.rejected_share < 1.0 && (self.method != Method::Dpo || !self.mixture()?.has_reference()) {
            return Err(bad(
                "rejected_share",
                "tokens are chosen by their log-ratio to a reference, and the loss has none",
            ));
        }
        self.resolve_evaluation()?;
        self.resolve_delta()?;
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

    /// What the weights themselves, as they are trained, cannot do yet.
    fn resolve_delta(&self) -> Result<()> {
        if self.train_norms || self.train_biases {
            let key = if self.train_norms { "train_norms" } else { "train_biases" };
            if self.mask.is_some() {
                return Err(bad(key, "a mask holds whatever it does not name, and it names no norms or biases"));
            }
            if self.keep_adapters > 0 {
                return Err(bad("keep_adapters", "keeps adapters, which have no place for norms and biases"));
            }
        }
        if self.delta == DeltaKind::Lora {
            return Ok(());
        }
        let no = [("load_best_model_at_end", self.load_best_model_at_end), ("keep_adapters", self.keep_adapters > 0)];
        match no.into_iter().find(|(_, wanted)| *wanted) {
            Some((name, _)) => Err(bad(name, &format!("keeps adapters, and delta {} has none", self.delta.name()))),
            None if self.delta == DeltaKind::Rows && self.mask.is_none() => Err(bad(
                "delta",
                "rows moves those that a mask names: give --mask, as neurons makes them, or --method allo",
            )),
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
}

pub(super) fn bad(name: &str, what: &str) -> Error {
    Error::new(Kind::Argument, format!("{}: {what}", name.replace('_', "-")))
}
