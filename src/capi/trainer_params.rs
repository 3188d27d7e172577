//! `llama_align_trainer_params`: a run's configuration.

use super::dataset::{method, LLAMA_ALIGN_METHOD_DPO};
use super::model::{precision, LLAMA_ALIGN_PRECISION_AUTO};
use super::params::{Params, Struct};
use super::status::argument;
use crate::error::Result;
use crate::loss::PreferenceLoss;
use crate::optim::{OptimizerKind, ScheduleKind};
use crate::train::{DeltaKind, Recompute, TrainConfig};
use std::mem::offset_of;
use std::path::PathBuf;

/// The peak, always.
pub const LLAMA_ALIGN_SCHEDULE_CONSTANT: u32 = 0;
/// A line to 0 after the warm-up.
pub const LLAMA_ALIGN_SCHEDULE_LINEAR: u32 = 1;
/// Half a cosine to 0 after the warm-up.
pub const LLAMA_ALIGN_SCHEDULE_COSINE: u32 = 2;

/// Half a cosine to min_lr after the warm-up.
pub const LLAMA_ALIGN_SCHEDULE_COSINE_WITH_MIN_LR: u32 = 3;

/// AdamW.
pub const LLAMA_ALIGN_OPTIM_ADAMW: u32 = 0;
/// SGD with momentum.
pub const LLAMA_ALIGN_OPTIM_SGD: u32 = 1;

/// Short rows are put together to packs of the dataset's max_length tokens, which then count as rows (SFT). Attention stays
/// within each row.
pub const LLAMA_ALIGN_TRAINER_PACKING: u32 = 1;

/// DPO's own loss on pairs.
pub const LLAMA_ALIGN_LOSS_SIGMOID: u32 = 0;
/// DPO with labels that are wrong at times.
pub const LLAMA_ALIGN_LOSS_CDPO: u32 = 1;
/// The same without its bias.
pub const LLAMA_ALIGN_LOSS_ROBUST: u32 = 2;
/// SLiC's hinge.
pub const LLAMA_ALIGN_LOSS_HINGE: u32 = 3;
/// IPO.
pub const LLAMA_ALIGN_LOSS_IPO: u32 = 4;
/// DPO on log-ratios per token.
pub const LLAMA_ALIGN_LOSS_SIGMOID_NORM: u32 = 5;
/// APO-zero.
pub const LLAMA_ALIGN_LOSS_APO_ZERO: u32 = 6;
/// APO-down.
pub const LLAMA_ALIGN_LOSS_APO_DOWN: u32 = 7;
/// SimPO, without a reference.
pub const LLAMA_ALIGN_LOSS_SIMPO: u32 = 8;
/// CPO, without a reference.
pub const LLAMA_ALIGN_LOSS_CPO: u32 = 9;
/// ORPO, without a reference.
pub const LLAMA_ALIGN_LOSS_ORPO: u32 = 10;
/// BCO on pairs.
pub const LLAMA_ALIGN_LOSS_BCO_PAIR: u32 = 11;
/// NCA on pairs.
pub const LLAMA_ALIGN_LOSS_NCA_PAIR: u32 = 12;
/// SPPO with hard labels.
pub const LLAMA_ALIGN_LOSS_SPPO_HARD: u32 = 13;

/// Numbers of losses at most: the length of loss_weights.
pub const LLAMA_ALIGN_LOSSES_MAX: usize = 16;

/// The insides of blocks are computed again for the backward pass: least memory.
pub const LLAMA_ALIGN_RECOMPUTE_ALWAYS: u32 = 0;
/// They are kept: fastest.
pub const LLAMA_ALIGN_RECOMPUTE_NEVER: u32 = 1;
/// They are kept where they take less than a quarter of the memory that is free, or where max_memory has room for them.
pub const LLAMA_ALIGN_RECOMPUTE_AUTO: u32 = 2;

/// A run's configuration. Fill it in with llama_align_trainer_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_trainer_params {
    /// sizeof(llama_align_trainer_params).
    pub struct_size: u32,
    /// LLAMA_ALIGN_METHOD_SFT, _DPO, _KTO or _NPO; the dataset's rows must suit it. Default DPO.
    pub method: u32,
    /// LLAMA_ALIGN_SCHEDULE_*. Default COSINE.
    pub schedule: u32,
    /// LLAMA_ALIGN_PRECISION_*. Default AUTO.
    pub precision: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// Rows of a micro-batch, 1 to 65536. Default 4.
    pub batch_size: u32,
    /// Micro-batches of an optimizer step, 1 to 65536. Default 2.
    pub grad_accum: u32,
    /// Tokens of one forward at most, 1 to 1048576; a row that is longer goes alone. Default 1024.
    pub micro_batch_tokens: u32,
    /// LLAMA_ALIGN_LOSS_*: the loss on pairs of method DPO. Default SIGMOID.
    pub loss: u32,
    /// LLAMA_ALIGN_OPTIM_*. Default ADAMW.
    pub optim: u32,
    /// LLAMA_ALIGN_TRAINER_* bits. Default 0.
    pub flags: u32,
    /// LLAMA_ALIGN_RECOMPUTE_*; the bits are the same. Default ALWAYS: the library is a guest in its process.
    pub recompute: u32,
    /// Optimizer steps; 0 means by epochs. Default 0.
    pub max_steps: u64,
    /// Seed of the order. Default 0.
    pub seed: u64,
    /// Steps that the rate rises over; 0, the default, means by warmup_ratio.
    pub warmup_steps: u64,
    /// Passes over the data. Default 1.
    pub epochs: f64,
    /// Peak rate, up to 10; 0, the default, is the method's: 3e-4 for DPO, 2e-4 for SFT and KTO, 3e-5 for NPO; of adapters of rows
    /// and of whole weights 5e-6, 1e-5 for SFT, 5e-7 for NPO.
    pub learning_rate: f64,
    /// Share of the steps that the rate rises over, [0, 1]. Default 0.1.
    pub warmup_ratio: f64,
    /// Rate that COSINE_WITH_MIN_LR ends at; 0, the default, is a tenth of the peak.
    pub min_lr: f64,
    /// Rate of the factors B over that of A (LoRA+). Default 1.
    pub loraplus_lr_ratio: f64,
    /// Share of what the factors A read that each step drops, drawn by seed and step, [0, 0.99]. Default 0.
    pub lora_dropout: f64,
    /// Strength of the pull to the reference; 0, the default, is the loss's own: 0.1, for SimPO 2.
    pub beta: f64,
    /// Share of labels that CDPO and ROBUST take to be wrong. Default 0.1.
    pub label_smoothing: f64,
    /// How much better SIMPO wants the chosen answer. Default 1.
    pub simpo_gamma: f64,
    /// Weight of CPO's likelihood term. Default 1.
    pub cpo_alpha: f64,
    /// Weight of the chosen answer's likelihood per token, added to any loss on pairs. Default 0.
    pub sft_weight: f64,
    /// KTO's weight of good answers. Default 1.
    pub desirable_weight: f64,
    /// KTO's weight of bad answers. Default 1.
    pub undesirable_weight: f64,
    /// Global norm that gradients are cut to; 0 means none. Default 1.
    pub max_grad_norm: f64,
    /// Weight decay, beside the gradient (ADAMW) or in it (SGD). Default 0.
    pub weight_decay: f64,
    /// Momentum of SGD. Default 0.9.
    pub sgd_momentum: f64,
    /// AdamW's decay of the first moment. Default 0.9.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment. Default 0.999.
    pub adam_beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub adam_epsilon: f64,
    /// Share of a rejected answer's tokens that DPO sees, those of the lowest log-ratio, above 0, up to 1 (ALLO's learning: 0.1).
    /// Default 1.
    pub rejected_share: f64,
    /// Bytes that the run may take beside the mapped model: decides what RECOMPUTE_AUTO comes to, and one that does not fit is refused.
    /// 0, the default, is no limit.
    pub max_memory: u64,
    /// Weights of several losses of method DPO together, each at its LLAMA_ALIGN_LOSS_*, 0 to 1000; `loss` is then 0. All 0, the
    /// default: `loss` alone. A likelihood beside them is sft_weight.
    pub loss_weights: [f64; LLAMA_ALIGN_LOSSES_MAX],
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_trainer_params {
    const NAME: &'static str = "llama_align_trainer_params";
    const BYTES_V1: usize = offset_of!(Self, max_memory);
}

impl Params for llama_align_trainer_params {
    fn defaults() -> Self {
        let c = TrainConfig::default();
        Self {
            struct_size: size_of::<Self>() as u32,
            method: LLAMA_ALIGN_METHOD_DPO,
            schedule: LLAMA_ALIGN_SCHEDULE_COSINE,
            precision: LLAMA_ALIGN_PRECISION_AUTO,
            n_threads: c.threads as u32,
            batch_size: c.batch_size as u32,
            grad_accum: c.grad_accum as u32,
            micro_batch_tokens: c.micro_batch_tokens as u32,
            loss: LLAMA_ALIGN_LOSS_SIGMOID,
            optim: LLAMA_ALIGN_OPTIM_ADAMW,
            flags: 0,
            recompute: LLAMA_ALIGN_RECOMPUTE_ALWAYS,
            max_steps: c.max_steps as u64,
            seed: c.seed,
            warmup_steps: c.warmup_steps as u64,
            epochs: c.epochs,
            learning_rate: c.learning_rate,
            warmup_ratio: c.warmup_ratio,
            min_lr: c.min_lr,
            loraplus_lr_ratio: c.loraplus_lr_ratio,
            lora_dropout: f64::from(c.lora_dropout),
            beta: c.beta,
            label_smoothing: c.label_smoothing,
            simpo_gamma: c.simpo_gamma,
            cpo_alpha: c.cpo_alpha,
            sft_weight: c.sft_weight,
            desirable_weight: c.desirable_weight,
            undesirable_weight: c.undesirable_weight,
            max_grad_norm: c.max_grad_norm,
            weight_decay: c.weight_decay,
            sgd_momentum: c.sgd_momentum,
            adam_beta1: c.adam_beta1,
            adam_beta2: c.adam_beta2,
            adam_epsilon: c.adam_epsilon,
            rejected_share: c.rejected_share,
            max_memory: 0,
            loss_weights: [0.0; LLAMA_ALIGN_LOSSES_MAX],
        }
    }
}

/// What a run's adapter decides of its configuration.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    /// The device that its model is on, if it is on one.
    pub(super) device: Option<String>,
    /// What moves.
    pub(super) delta: DeltaKind,
    /// Whether norms, and whether biases move beside it.
    pub(super) vectors: [bool; 2],
}

/// The configuration that the parameters mean, and the memory that the run may take; rank, alpha and what moves, the longest row, and
/// devices are the adapter's, the dataset's and the model's.
pub(super) fn configuration(
    params: llama_align_trainer_params,
    max_length: usize,
    decided: &Decided,
) -> Result<(TrainConfig, Option<u64>)> {
    let Decided { device, delta, vectors: [train_norms, train_biases] } = decided.clone();
    let llama_align_trainer_params {
        struct_size: _,
        method: number,
        schedule,
        precision: wanted,
        n_threads,
        batch_size,
        grad_accum,
        micro_batch_tokens,
        loss,
        optim,
        flags,
        recompute,
        max_steps,
        seed,
        warmup_steps,
        epochs,
        learning_rate,
        warmup_ratio,
        min_lr,
        loraplus_lr_ratio,
        lora_dropout,
        beta,
        label_smoothing,
        simpo_gamma,
        cpo_alpha,
        sft_weight,
        desirable_weight,
        undesirable_weight,
        max_grad_norm,
        weight_decay,
        sgd_momentum,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
        rejected_share,
        max_memory,
        loss_weights,
    } = params;
    if flags & !LLAMA_ALIGN_TRAINER_PACKING != 0 {
        return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
    }
    let (loss_type, loss_weights) = losses(loss, loss_weights)?;
    let config = TrainConfig {
        method: method(number)?.ok_or_else(|| argument("method: NONE trains nothing"))?,
        lr_scheduler_type: match schedule {
            LLAMA_ALIGN_SCHEDULE_CONSTANT => ScheduleKind::Constant,
            LLAMA_ALIGN_SCHEDULE_LINEAR => ScheduleKind::Linear,
            LLAMA_ALIGN_SCHEDULE_COSINE => ScheduleKind::Cosine,
            LLAMA_ALIGN_SCHEDULE_COSINE_WITH_MIN_LR => ScheduleKind::CosineWithMinLr,
            other => return Err(argument(format!("schedule: {other} is none of LLAMA_ALIGN_SCHEDULE_*"))),
        },
        precision: precision(wanted)?,
        device,
        threads: n_threads as usize,
        batch_size: batch_size as usize,
        grad_accum: grad_accum as usize,
        micro_batch_tokens: micro_batch_tokens as usize,
        max_steps: usize::try_from(max_steps).map_err(|_| argument(format!("max_steps: {max_steps} is too large")))?,
        loss_type,
        loss_weights,
        recompute: match recompute {
            LLAMA_ALIGN_RECOMPUTE_ALWAYS => Recompute::Always,
            LLAMA_ALIGN_RECOMPUTE_NEVER => Recompute::Never,
            LLAMA_ALIGN_RECOMPUTE_AUTO => Recompute::Auto,
            other => return Err(argument(format!("recompute: {other} is none of LLAMA_ALIGN_RECOMPUTE_*"))),
        },
        packing: flags & LLAMA_ALIGN_TRAINER_PACKING != 0,
        optim: match optim {
            LLAMA_ALIGN_OPTIM_ADAMW => OptimizerKind::AdamW,
            LLAMA_ALIGN_OPTIM_SGD => OptimizerKind::Sgd,
            other => return Err(argument(format!("optim: {other} is none of LLAMA_ALIGN_OPTIM_*"))),
        },
        warmup_steps: usize::try_from(warmup_steps)
            .map_err(|_| argument(format!("warmup_steps: {warmup_steps} is too large")))?,
        max_length,
        seed,
        epochs,
        learning_rate,
        warmup_ratio,
        min_lr,
        lora_dropout: lora_dropout as f32,
        loraplus_lr_ratio,
        beta,
        label_smoothing,
        simpo_gamma,
        cpo_alpha,
        sft_weight,
        desirable_weight,
        undesirable_weight,
        max_grad_norm,
        weight_decay,
        sgd_momentum,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
        rejected_share,
        delta,
        train_norms,
        train_biases,
        mask: (delta == DeltaKind::Rows).then(PathBuf::new),
        ..TrainConfig::default()
    };
    config.refuse_unused(&changed(&params))?;
    Ok((config.resolve()?, (max_memory > 0).then_some(max_memory)))
}

/// A loss by its number, or several by their weights, as a configuration names them.
fn losses(loss: u32, weights: [f64; LLAMA_ALIGN_LOSSES_MAX]) -> Result<(String, Vec<f64>)> {
    let known = |i: usize, field: &str| {
        let name = PreferenceLoss::ALL.get(i).map(|(_, name)| (*name).to_owned());
        name.ok_or_else(|| argument(format!("{field}: {i} is none of LLAMA_ALIGN_LOSS_*")))
    };
    let given: Vec<(usize, f64)> = weights.into_iter().enumerate().filter(|(_, weight)| *weight != 0.0).collect();
    if given.is_empty() {
        return Ok((known(loss as usize, "loss")?, Vec::new()));
    }
    if loss != 0 {
        return Err(argument(format!("loss: {loss} beside loss_weights, which name the losses")));
    }
    let names = given.iter().map(|(i, _)| known(*i, "loss_weights")).collect::<Result<Vec<_>>>()?;
    Ok((names.join(","), given.into_iter().map(|(_, weight)| weight).collect()))
}

/// Constants that are not the defaults: one that the run has no use for is refused, not ignored.
fn changed(params: &llama_align_trainer_params) -> Vec<&'static str> {
    let (p, d) = (params, llama_align_trainer_params::defaults());
    let constants = [
        ("min_lr", p.min_lr, d.min_lr),
        ("beta", p.beta, d.beta),
        ("label_smoothing", p.label_smoothing, d.label_smoothing),
        ("simpo_gamma", p.simpo_gamma, d.simpo_gamma),
        ("cpo_alpha", p.cpo_alpha, d.cpo_alpha),
        ("sft_weight", p.sft_weight, d.sft_weight),
        ("desirable_weight", p.desirable_weight, d.desirable_weight),
        ("undesirable_weight", p.undesirable_weight, d.undesirable_weight),
        ("sgd_momentum", p.sgd_momentum, d.sgd_momentum),
        ("adam_beta1", p.adam_beta1, d.adam_beta1),
        ("adam_beta2", p.adam_beta2, d.adam_beta2),
        ("adam_epsilon", p.adam_epsilon, d.adam_epsilon),
        ("rejected_share", p.rejected_share, d.rejected_share),
        ("lora_dropout", p.lora_dropout, d.lora_dropout),
        ("loraplus_lr_ratio", p.loraplus_lr_ratio, d.loraplus_lr_ratio),
    ];
    let mut names: Vec<_> = constants.iter().filter(|(_, is, was)| is != was).map(|(name, ..)| *name).collect();
    if p.flags & LLAMA_ALIGN_TRAINER_PACKING != 0 {
        names.push("packing");
    }
    if p.loss_weights != d.loss_weights {
        names.push("loss_weights");
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTORS: Decided = Decided { device: None, delta: DeltaKind::Lora, vectors: [false; 2] };

    /// The numbers of the header are places in the list of losses.
    #[test]
    fn every_loss_has_its_number() {
        let wanted = [
            (LLAMA_ALIGN_LOSS_SIGMOID, "sigmoid"),
            (LLAMA_ALIGN_LOSS_CDPO, "cdpo"),
            (LLAMA_ALIGN_LOSS_ROBUST, "robust"),
            (LLAMA_ALIGN_LOSS_HINGE, "hinge"),
            (LLAMA_ALIGN_LOSS_IPO, "ipo"),
            (LLAMA_ALIGN_LOSS_SIGMOID_NORM, "sigmoid_norm"),
            (LLAMA_ALIGN_LOSS_APO_ZERO, "apo_zero"),
            (LLAMA_ALIGN_LOSS_APO_DOWN, "apo_down"),
            (LLAMA_ALIGN_LOSS_SIMPO, "simpo"),
            (LLAMA_ALIGN_LOSS_CPO, "cpo"),
            (LLAMA_ALIGN_LOSS_ORPO, "orpo"),
            (LLAMA_ALIGN_LOSS_BCO_PAIR, "bco_pair"),
            (LLAMA_ALIGN_LOSS_NCA_PAIR, "nca_pair"),
            (LLAMA_ALIGN_LOSS_SPPO_HARD, "sppo_hard"),
        ];
        assert_eq!(wanted.len(), PreferenceLoss::ALL.len());
        for (loss, name) in wanted {
            let params = llama_align_trainer_params { loss, ..llama_align_trainer_params::defaults() };
            assert_eq!(configuration(params, 64, &FACTORS).unwrap().0.loss_type, name);
        }
        // As the program does: what is given to no use is refused.
        let unused = llama_align_trainer_params { simpo_gamma: 0.5, ..llama_align_trainer_params::defaults() };
        assert!(configuration(unused, 64, &FACTORS).unwrap_err().to_string().contains("simpo-gamma"));
        let packed = llama_align_trainer_params { flags: 1, ..llama_align_trainer_params::defaults() };
        assert!(configuration(packed, 64, &FACTORS).unwrap_err().to_string().contains("packing"));
        let params = llama_align_trainer_params { loss: 14, ..llama_align_trainer_params::defaults() };
        assert!(configuration(params, 64, &FACTORS).unwrap_err().to_string().contains("LLAMA_ALIGN_LOSS_"));
        let simpo =
            llama_align_trainer_params { loss: LLAMA_ALIGN_LOSS_SIMPO, ..llama_align_trainer_params::defaults() };
        assert_eq!(configuration(simpo, 64, &FACTORS).unwrap().0.beta, 2.0);
    }

    #[test]
    fn weights_name_several_losses() {
        let mixed = |change: &dyn Fn(&mut llama_align_trainer_params)| {
            let mut params = llama_align_trainer_params::defaults();
            params.loss_weights[LLAMA_ALIGN_LOSS_BCO_PAIR as usize] = 0.2;
            params.loss_weights[LLAMA_ALIGN_LOSS_SIGMOID as usize] = 0.8;
            change(&mut params);
            configuration(params, 64, &FACTORS).map(|(config, _)| config).map_err(|e| e.to_string())
        };
        let config = mixed(&|_| {}).unwrap();
        assert_eq!((config.loss_type.as_str(), config.loss_weights), ("sigmoid,bco_pair", vec![0.8, 0.2]));
        for (change, says) in [
            (&|p: &mut llama_align_trainer_params| p.loss = 4, "loss: 4"),
            (&|p: &mut llama_align_trainer_params| p.loss_weights[15] = 1.0, "loss_weights: 15"),
            (&|p: &mut llama_align_trainer_params| p.loss_weights[3] = 1e4, "outside 0"),
            (&|p: &mut llama_align_trainer_params| p.method = 3, "loss-weights"),
        ] as [(&dyn Fn(&mut llama_align_trainer_params), &str); 4]
        {
            let error = mixed(change).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
