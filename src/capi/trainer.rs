//! `llama_align_trainer`: a run.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::{llama_align_dataset, DatasetObject};
use super::guard::{create, free, guard};
use super::handle::get;
use super::params::{init, read, Out};
use super::progress::{llama_align_progress, llama_align_progress_fn, Callback};
use super::run::{Limit, TrainerObject};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::text;
use super::trainer_params::{configuration, llama_align_trainer_params};
use super::LLAMA_ALIGN_OK;
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::time::Duration;

/// A run: graph, optimizer and position in the data. Lifetime: from _new to _free; adapter, dataset and model may be freed
/// before, and a call that trains while its trainer is freed ends after its step. Threads: one call at a time trains, a second
/// one gets BUSY; _set_paused, _cancel, _report and _free from any thread at any time.
#[derive(Debug)]
pub struct llama_align_trainer {
    _never: (),
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
        let (config, memory) = configuration(unsafe { read(params) }?, dataset.max_length, &adapter.decides())?;
        TrainerObject::new(adapter.share(), &dataset, config, memory)
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
        let (config, memory) = configuration(unsafe { read(params) }?, dataset.max_length, &adapter.decides())?;
        // SAFETY: as above.
        let path = Path::new(unsafe { text(path, "path") }?);
        if flags & !LLAMA_ALIGN_RESUME_INEXACT != 0 {
            return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
        }
        TrainerObject::resume(adapter.share(), &dataset, (config, memory), path, flags == LLAMA_ALIGN_RESUME_INEXACT)
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
