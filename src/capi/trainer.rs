//! `llama_align_trainer`: a run.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::{llama_align_dataset, method, DatasetObject, LLAMA_ALIGN_METHOD_DPO};
use super::guard::{create, free, guard};
use super::handle::get;
use super::model::{precision, LLAMA_ALIGN_PRECISION_AUTO};
use super::params::{init, read, Out, Params, Struct};
use super::progress::{llama_align_progress, llama_align_progress_fn, Callback};
use super::run::{Limit, TrainerObject};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::text;
use super::LLAMA_ALIGN_OK;
use crate::error::Result;
use crate::loss::PreferenceLoss;
use crate::optim::{OptimizerKind, ScheduleKind};
use crate::train::{DeltaKind, TrainConfig};
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A run: graph, optimizer and position in the data. Lifetime: from _new to _free; adapter, dataset and model may be freed
/// before, and a call that trains while its trainer is freed ends after its step. Threads: one call at a time trains, a second
/// one gets BUSY; _set_paused, _cancel, _report and _free from any thread at any time.
#[derive(Debug)]
pub struct llama_align_trainer {
    _never: (),
}

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
    /// 0.
    pub reserved: u32,
    /// Optimizer steps; 0 means by epochs. Default 0.
    pub max_steps: u64,
    /// Seed of the order. Default 0.
    pub seed: u64,
    /// Steps that the rate rises over; 0, the default, means by warmup_ratio.
    pub warmup_steps: u64,
    /// Passes over the data. Default 1.
    pub epochs: f64,
    /// Peak rate, up to 10; 0, the default, is the method's: 3e-4 for DPO, 2e-4 for SFT and KTO, 3e-5 for NPO; of adapters of rows
    /// 5e-6, 1e-5 for SFT, 5e-7 for NPO.
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
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_trainer_params {
    const NAME: &'static str = "llama_align_trainer_params";
    const BYTES_V1: usize = size_of::<Self>();
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
            reserved: 0,
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
        }
    }
}

/// The device that an adapter's model is on, if it is on one, and what moves of it.
fn of_adapter(adapter: &AdapterObject) -> (Option<String>, DeltaKind) {
    let has_rows = adapter.factors().held.as_ref().is_some_and(|held| held.rows);
    let delta = if has_rows { DeltaKind::Rows } else { DeltaKind::Lora };
    (adapter.model.model.devices().first().map(|d| d.name.clone()), delta)
}

/// The configuration that the parameters mean; rank, alpha, the longest row and devices are the adapter's, the dataset's and the
/// model's.
fn configuration(
    params: llama_align_trainer_params,
    max_length: usize,
    (device, delta): (Option<String>, DeltaKind),
) -> Result<TrainConfig> {
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
        reserved,
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
    } = params;
    if flags & !LLAMA_ALIGN_TRAINER_PACKING != 0 {
        return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
    }
    if reserved != 0 {
        return Err(argument(format!("reserved: {reserved} instead of 0")));
    }
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
        loss_type: PreferenceLoss::ALL
            .get(loss as usize)
            .map(|(_, name)| (*name).to_owned())
            .ok_or_else(|| argument(format!("loss: {loss} is none of LLAMA_ALIGN_LOSS_*")))?,
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
        mask: (delta == DeltaKind::Rows).then(PathBuf::new),
        ..TrainConfig::default()
    };
    config.refuse_unused(&changed(&params))?;
    config.resolve()
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
    names
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_trainer_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_params_init(
    params: *mut llama_align_trainer_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Prepares a run; checks the model first, unless a check of that precision has passed before. `adapter`, `dataset`: shared,
/// made with the same model handle; the trainer moves the adapter, which no other trainer may do until this one is freed.
/// `params` (borrowed): NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISMATCH,
/// BUSY (another trainer moves the adapter), CHECK, UNSUPPORTED, MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_new(
    adapter: *mut llama_align_adapter,
    dataset: *const llama_align_dataset,
    params: *const llama_align_trainer_params,
    out: *mut *mut llama_align_trainer,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let (adapter, dataset) = (get::<AdapterObject>(adapter)?, get::<DatasetObject>(dataset)?);
        // SAFETY: pointers are what the header asks for.
        let config = configuration(unsafe { read(params) }?, dataset.max_length, of_adapter(&adapter))?;
        TrainerObject::new(adapter.share(), &dataset, config)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Go on although threads, kind of CPU, precision or the library's version are not the run's: with other bits.
pub const LLAMA_ALIGN_RESUME_INEXACT: u32 = 1;

/// Makes a trainer that stands where a checkpoint does, one of llama_align_trainer_save() or of the program's runs: its further
/// steps have the bits of a run that never stopped. `adapter`: moved, as by llama_align_trainer_new(); it must have the
/// checkpoint's weights, ranks and alpha, and gets its factors. `dataset`: shared; the run's rows. `params` (borrowed): NULL for
/// the defaults; the run's. `path` (borrowed): not NULL. `flags`: 0 or LLAMA_ALIGN_RESUME_INEXACT. `out` (owned): not NULL; NULL is
/// written on failure. Errors: as llama_align_trainer_new(), MISSING, IO, FORMAT (no checkpoint, or a damaged one), MISMATCH
/// (another run's). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_resume(
    adapter: *mut llama_align_adapter,
    dataset: *const llama_align_dataset,
    params: *const llama_align_trainer_params,
    path: *const c_char,
    flags: u32,
    out: *mut *mut llama_align_trainer,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let (adapter, dataset) = (get::<AdapterObject>(adapter)?, get::<DatasetObject>(dataset)?);
        // SAFETY: pointers are what the header asks for.
        let config = configuration(unsafe { read(params) }?, dataset.max_length, of_adapter(&adapter))?;
        // SAFETY: as above.
        let path = Path::new(unsafe { text(path, "path") }?);
        if flags & !LLAMA_ALIGN_RESUME_INEXACT != 0 {
            return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
        }
        TrainerObject::resume(adapter.share(), &dataset, config, path, flags == LLAMA_ALIGN_RESUME_INEXACT)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Writes a checkpoint: all that the steps to come depend on, with fingerprints of model and rows (a host's model whose file is not
/// known has none). The file is complete under its name, or what was there before stays.
/// `path` (borrowed): not NULL. Errors: ARGUMENT (also where no step was made), MISSING (the directory), IO, BUSY (a call trains,
/// or this is its callback), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_save(
    trainer: *mut llama_align_trainer,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let trainer = get::<TrainerObject>(trainer)?;
        // SAFETY: pointers are what the header asks for.
        trainer.save(Path::new(unsafe { text(path, "path") }?))?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Makes one optimizer step; the first one of DPO and KTO measures the reference before. `out` (borrowed): NULL, or
/// struct_size set; gets what llama_align_trainer_report() would. Returns MORE if steps are left, OK if the run is complete (a
/// complete run does nothing), CANCELLED. While the trainer is paused it returns MORE without a step. Errors: ARGUMENT, NUMERIC
/// (the step was not applied), MEMORY, BUSY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_step(
    trainer: *mut llama_align_trainer,
    out: *mut llama_align_progress,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let trainer = get::<TrainerObject>(trainer)?;
        // SAFETY: `out` is what the header asks for.
        let out = unsafe { Out::optional(out) }?;
        let status = trainer.drive(Limit::OneStep, Callback::none())?;
        if let Some(out) = out {
            out.put(trainer.last());
        }
        Ok(status)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Makes all steps that are left. `callback`: NULL for none. `user_data`: passed to it as it is. Returns OK if the run is
/// complete, CANCELLED if it was stopped; then a later call goes on with the next step. While the trainer is paused it waits.
/// Errors: as llama_align_trainer_step(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_run(
    trainer: *mut llama_align_trainer,
    callback: llama_align_progress_fn,
    user_data: *mut c_void,
    err: *mut llama_align_error,
) -> llama_align_status {
    let callback = Callback { function: callback, user_data };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, || get::<TrainerObject>(trainer)?.drive(Limit::None, callback)) }
}

/// Makes steps until `max_ms` have passed, at least one, and ends after the step in which they pass: a host trains between two
/// requests with it. `callback` and `user_data`: as in llama_align_trainer_run(). The reference of DPO and KTO belongs to the
/// first step. While the trainer is paused it waits, until `max_ms` have passed at most, if need be without a step. Returns MORE
/// if steps are left; otherwise as llama_align_trainer_run(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_run_for(
    trainer: *mut llama_align_trainer,
    max_ms: u64,
    callback: llama_align_progress_fn,
    user_data: *mut c_void,
    err: *mut llama_align_error,
) -> llama_align_status {
    let (callback, limit) = (Callback { function: callback, user_data }, Limit::Time(Duration::from_millis(max_ms)));
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, || get::<TrainerObject>(trainer)?.drive(limit, callback)) }
}

/// Pauses or goes on: while a trainer is paused, a call that trains makes no step, and llama_align_trainer_run() waits, after its step
/// or its batch of the reference, without using the CPU. What it trains is the same as without a pause, bit for bit. A call whose
/// time ends in the reference measures that anew the next time. _cancel and _free end the waiting. `paused`: 1 or 0. Any thread,
/// callback-safe; a callback that pauses its own llama_align_trainer_run() leaves it to another thread to go on. Errors: ARGUMENT,
/// POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_set_paused(
    trainer: *mut llama_align_trainer,
    paused: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let trainer = get::<TrainerObject>(trainer)?;
        match paused {
            0 => trainer.set_paused(false),
            1 => trainer.set_paused(true),
            other => return Err(argument(format!("paused: {other} is neither 0 nor 1"))),
        }
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Stops the call that trains, after its step or its batch of the reference; if none does, the next one returns CANCELLED
/// before its first step. Any thread, callback-safe. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_cancel(
    trainer: *mut llama_align_trainer,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        get::<TrainerObject>(trainer)?.cancel();
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// What the last step reported. Any thread, also while another one trains; callback-safe. `out` (borrowed): not NULL,
/// struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_trainer_report(
    trainer: *const llama_align_trainer,
    out: *mut llama_align_progress,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: `out` is what the header asks for.
        let (trainer, out) = (get::<TrainerObject>(trainer)?, unsafe { Out::new(out) }?);
        out.put(trainer.last());
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Frees a trainer; NULL is fine. A call that trains ends after its step. The adapter keeps what was trained. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_trainer_free(trainer: *mut llama_align_trainer) {
    free::<TrainerObject>(trainer);
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(configuration(params, 64, (None, DeltaKind::Lora)).unwrap().loss_type, name);
        }
        // As the program does: what is given to no use is refused.
        let unused = llama_align_trainer_params { simpo_gamma: 0.5, ..llama_align_trainer_params::defaults() };
        assert!(configuration(unused, 64, (None, DeltaKind::Lora)).unwrap_err().to_string().contains("simpo-gamma"));
        let packed = llama_align_trainer_params { flags: 1, ..llama_align_trainer_params::defaults() };
        assert!(configuration(packed, 64, (None, DeltaKind::Lora)).unwrap_err().to_string().contains("packing"));
        let params = llama_align_trainer_params { loss: 14, ..llama_align_trainer_params::defaults() };
        assert!(configuration(params, 64, (None, DeltaKind::Lora))
            .unwrap_err()
            .to_string()
            .contains("LLAMA_ALIGN_LOSS_"));
        let simpo =
            llama_align_trainer_params { loss: LLAMA_ALIGN_LOSS_SIMPO, ..llama_align_trainer_params::defaults() };
        assert_eq!(configuration(simpo, 64, (None, DeltaKind::Lora)).unwrap().beta, 2.0);
    }
}
