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
use super::LLAMA_ALIGN_OK;
use crate::error::Result;
use crate::loss::PreferenceLoss;
use crate::optim::ScheduleKind;
use crate::train::TrainConfig;
use std::ffi::c_void;
use std::time::Duration;

/// A run: graph, optimizer and position in the data. Lifetime: from _new to _free; adapter, dataset and model may be freed
/// before, and a call that trains while its trainer is freed ends after its step. Threads: one call at a time trains, a second
/// one gets BUSY; _cancel, _report and _free from any thread at any time.
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

/// A run's configuration. Fill it in with llama_align_trainer_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_trainer_params {
    /// sizeof(llama_align_trainer_params).
    pub struct_size: u32,
    /// LLAMA_ALIGN_METHOD_SFT, _DPO or _KTO; the dataset's rows must suit it. Default DPO.
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
    /// Optimizer steps; 0 means by epochs. Default 0.
    pub max_steps: u64,
    /// Seed of the order. Default 0.
    pub seed: u64,
    /// Passes over the data. Default 1.
    pub epochs: f64,
    /// Peak rate, up to 10; 0, the default, is the method's: 3e-4 for DPO, 2e-4 for SFT and KTO.
    pub learning_rate: f64,
    /// Share of the steps that the rate rises over, [0, 1]. Default 0.1.
    pub warmup_ratio: f64,
    /// Strength of the pull to the reference. Default 0.1.
    pub beta: f64,
    /// KTO's weight of good answers. Default 1.
    pub desirable_weight: f64,
    /// KTO's weight of bad answers. Default 1.
    pub undesirable_weight: f64,
    /// Global norm that gradients are cut to; 0 means none. Default 1.
    pub max_grad_norm: f64,
    /// Decoupled weight decay. Default 0.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment. Default 0.9.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment. Default 0.999.
    pub adam_beta2: f64,
    /// Added to the root of the second moment. Default 1e-8.
    pub adam_epsilon: f64,
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
            max_steps: c.max_steps as u64,
            seed: c.seed,
            epochs: c.epochs,
            learning_rate: c.learning_rate,
            warmup_ratio: c.warmup_ratio,
            beta: PreferenceLoss::Sigmoid.beta(),
            desirable_weight: c.desirable_weight,
            undesirable_weight: c.undesirable_weight,
            max_grad_norm: c.max_grad_norm,
            weight_decay: c.weight_decay,
            adam_beta1: c.adam_beta1,
            adam_beta2: c.adam_beta2,
            adam_epsilon: c.adam_epsilon,
        }
    }
}

/// The configuration that the parameters mean; rank, alpha and the longest row are the adapter's and the dataset's.
fn configuration(params: llama_align_trainer_params, max_length: usize) -> Result<TrainConfig> {
    let llama_align_trainer_params {
        struct_size: _,
        method: number,
        schedule,
        precision: wanted,
        n_threads,
        batch_size,
        grad_accum,
        micro_batch_tokens,
        max_steps,
        seed,
        epochs,
        learning_rate,
        warmup_ratio,
        beta,
        desirable_weight,
        undesirable_weight,
        max_grad_norm,
        weight_decay,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
    } = params;
    let config = TrainConfig {
        method: method(number)?.ok_or_else(|| argument("method: NONE trains nothing"))?,
        lr_scheduler_type: match schedule {
            LLAMA_ALIGN_SCHEDULE_CONSTANT => ScheduleKind::Constant,
            LLAMA_ALIGN_SCHEDULE_LINEAR => ScheduleKind::Linear,
            LLAMA_ALIGN_SCHEDULE_COSINE => ScheduleKind::Cosine,
            other => return Err(argument(format!("schedule: {other} is none of LLAMA_ALIGN_SCHEDULE_*"))),
        },
        precision: precision(wanted)?,
        threads: n_threads as usize,
        batch_size: batch_size as usize,
        grad_accum: grad_accum as usize,
        micro_batch_tokens: micro_batch_tokens as usize,
        max_steps: usize::try_from(max_steps).map_err(|_| argument(format!("max_steps: {max_steps} is too large")))?,
        max_length,
        seed,
        epochs,
        learning_rate,
        warmup_ratio,
        beta,
        desirable_weight,
        undesirable_weight,
        max_grad_norm,
        weight_decay,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
        ..TrainConfig::default()
    };
    config.resolve()
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
        let config = configuration(unsafe { read(params) }?, dataset.max_length)?;
        TrainerObject::new(adapter.share(), &dataset, config)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes one optimizer step; the first one of DPO and KTO measures the reference before. `out` (borrowed): NULL, or
/// struct_size set; gets what llama_align_trainer_report() would. Returns MORE if steps are left, OK if the run is complete (a
/// complete run does nothing), CANCELLED. Errors: ARGUMENT, NUMERIC (the step was not applied), MEMORY, BUSY, POISONED.
/// Since 0.1.
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
/// complete, CANCELLED if it was stopped; then a later call goes on with the next step. Errors: as llama_align_trainer_step().
/// Since 0.1.
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
/// requests with it. The reference of DPO and KTO belongs to the first step. Returns MORE if steps are left; otherwise as
/// llama_align_trainer_run(). Since 0.1.
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
