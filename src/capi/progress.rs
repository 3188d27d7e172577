//! `llama_align_progress`: how far a run is, as a report and for a callback.

use super::params::Struct;
use super::status::argument;
use crate::error::Result;
use crate::train::StepReport;
use std::ffi::c_void;

/// Nothing was done yet.
pub const LLAMA_ALIGN_PHASE_NEW: u32 = 0;
/// The reference's log-probs are measured, before the first step of DPO and KTO.
pub const LLAMA_ALIGN_PHASE_REFERENCE: u32 = 1;
/// Optimizer steps.
pub const LLAMA_ALIGN_PHASE_STEP: u32 = 2;

/// A callback's answer: go on.
pub const LLAMA_ALIGN_CONTINUE: i32 = 0;
/// A callback's answer: stop here. The call returns LLAMA_ALIGN_CANCELLED, or LLAMA_ALIGN_OK where no step is left.
pub const LLAMA_ALIGN_STOP: i32 = 1;

/// How far a run is. Numbers that a method or phase does not have are NaN.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_progress {
    /// sizeof(llama_align_progress); set by the caller of llama_align_trainer_report(), by the library for a callback.
    pub struct_size: u32,
    /// LLAMA_ALIGN_PHASE_*.
    pub phase: u32,
    /// Steps done; in phase REFERENCE sequences done.
    pub step: u64,
    /// Steps of the run; in phase REFERENCE all sequences.
    pub n_steps: u64,
    /// Tokens trained on so far, prompts included.
    pub n_tokens: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Loss of the step, over all of its rows.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Rate of the step.
    pub learning_rate: f64,
    /// Mean reward of chosen (good) answers.
    pub reward_chosen: f64,
    /// Mean reward of rejected (bad) answers.
    pub reward_rejected: f64,
    /// reward_chosen - reward_rejected.
    pub reward_margin: f64,
    /// Share of pairs whose chosen answer has the higher reward, [0, 1].
    pub reward_accuracy: f64,
    /// Mean summed log-prob of chosen (good) answers.
    pub logps_chosen: f64,
    /// Mean summed log-prob of rejected (bad) answers.
    pub logps_rejected: f64,
    /// KTO's baseline.
    pub kl: f64,
    /// Time that the step took.
    pub step_ms: f64,
    /// Time since the first step was asked for, the reference included.
    pub elapsed_ms: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_progress {
    const NAME: &'static str = "llama_align_progress";
    const BYTES_V1: usize = size_of::<Self>();
}

/// Called after every step and while the reference is measured, on the thread of the call that trains; `progress` is valid only
/// during the callback. Returns LLAMA_ALIGN_CONTINUE or LLAMA_ALIGN_STOP; anything else ends the call with ARGUMENT. It may call
/// every function of this header; those that train with the same trainer return BUSY. It must not throw or longjmp.
pub type llama_align_progress_fn =
    Option<unsafe extern "C" fn(progress: *const llama_align_progress, user_data: *mut c_void) -> i32>;

/// A callback and what it is given.
#[derive(Clone, Copy)]
pub(super) struct Callback {
    pub(super) function: llama_align_progress_fn,
    pub(super) user_data: *mut c_void,
}

impl Callback {
    /// No callback.
    pub(super) fn none() -> Self {
        Self { function: None, user_data: std::ptr::null_mut() }
    }

    /// Tells it; false means stop.
    pub(super) fn tell(self, progress: &llama_align_progress) -> Result<bool> {
        let Some(function) = self.function else { return Ok(true) };
        // SAFETY: the function and its argument are what the header asks for.
        match unsafe { function(progress, self.user_data) } {
            LLAMA_ALIGN_CONTINUE => Ok(true),
            LLAMA_ALIGN_STOP => Ok(false),
            other => Err(argument(format!("the callback returned {other}, neither CONTINUE nor STOP"))),
        }
    }
}

impl llama_align_progress {
    /// A run of `n_steps` before its first step.
    pub(super) fn new(n_steps: usize) -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            phase: LLAMA_ALIGN_PHASE_NEW,
            step: 0,
            n_steps: n_steps as u64,
            n_tokens: 0,
            epoch: 0.0,
            loss: f64::NAN,
            grad_norm: f64::NAN,
            learning_rate: f64::NAN,
            reward_chosen: f64::NAN,
            reward_rejected: f64::NAN,
            reward_margin: f64::NAN,
            reward_accuracy: f64::NAN,
            logps_chosen: f64::NAN,
            logps_rejected: f64::NAN,
            kl: f64::NAN,
            step_ms: f64::NAN,
            elapsed_ms: 0.0,
        }
    }

    /// While the reference is measured.
    pub(super) fn reference(done: usize, n_sequences: usize, elapsed_ms: f64) -> Self {
        let phase = LLAMA_ALIGN_PHASE_REFERENCE;
        Self { phase, step: done as u64, elapsed_ms, ..Self::new(n_sequences) }
    }

    /// After a step.
    pub(super) fn step(report: &StepReport) -> Self {
        let StepReport {
            step,
            n_steps,
            epoch,
            loss,
            grad_norm,
            learning_rate,
            num_tokens,
            metrics,
            step_seconds,
            seconds,
            block_grad_norms: _,
        } = report;
        let metric = |key: &str| metrics.get(key).copied().unwrap_or(f64::NAN);
        Self {
            struct_size: size_of::<Self>() as u32,
            phase: LLAMA_ALIGN_PHASE_STEP,
            step: *step as u64,
            n_steps: *n_steps as u64,
            n_tokens: *num_tokens as u64,
            epoch: *epoch,
            loss: *loss,
            grad_norm: *grad_norm,
            learning_rate: *learning_rate,
            reward_chosen: metric("rewards/chosen"),
            reward_rejected: metric("rewards/rejected"),
            reward_margin: metric("rewards/margins"),
            reward_accuracy: metric("rewards/accuracies"),
            logps_chosen: metric("logps/chosen"),
            logps_rejected: metric("logps/rejected"),
            kl: metric("kl"),
            step_ms: step_seconds * 1e3,
            elapsed_ms: seconds * 1e3,
        }
    }
}
