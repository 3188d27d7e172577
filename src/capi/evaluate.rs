//! `llama_align_evaluate`: a model, with or without an adapter, on rows.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::{llama_align_dataset, DatasetObject};
use super::guard::guard;
use super::handle::get;
use super::model::{precision, threads, LLAMA_ALIGN_PRECISION_AUTO};
use super::params::{init, read, Out, Params, Struct};
use super::status::{llama_align_error, llama_align_status};
use super::LLAMA_ALIGN_OK;
use crate::adapter::Change;
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::loss::{Preference, PreferenceLoss};
use crate::train::{evaluate, EvalReport, References, TrainConfig};
use std::sync::Arc;

/// How to measure. Fill it in with llama_align_evaluate_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_evaluate_params {
    /// sizeof(llama_align_evaluate_params).
    pub struct_size: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// LLAMA_ALIGN_PRECISION_*. Default AUTO.
    pub precision: u32,
    /// Tokens of one forward at most, 1 to 1048576; a row that is longer goes alone. Default 1024.
    pub micro_batch_tokens: u32,
    /// A reward is beta times the difference of log-probs with and without the adapter; above 0. Default 0.1.
    pub beta: f64,
}

/// What was measured. Numbers that the rows do not give are NaN: without an adapter all rewards.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_evaluation {
    /// sizeof(llama_align_evaluation), set by the caller.
    pub struct_size: u32,
    /// 1 if an adapter was measured, 0 for the model alone.
    pub has_adapter: u32,
    /// Rows measured.
    pub n_rows: u64,
    /// Pairs among them.
    pub n_pairs: u64,
    /// Tokens of the wanted answers.
    pub n_tokens: u64,
    /// Mean negative log-likelihood per token of the wanted answers.
    pub nll: f64,
    /// e^nll.
    pub perplexity: f64,
    /// Share of pairs whose chosen answer has the higher summed log-prob, [0, 1].
    pub accuracy: f64,
    /// Mean summed log-prob of chosen (good) answers.
    pub logps_chosen: f64,
    /// Mean summed log-prob of rejected (bad) answers.
    pub logps_rejected: f64,
    /// Share of pairs whose chosen answer has the higher reward, [0, 1].
    pub reward_accuracy: f64,
    /// Mean difference of rewards.
    pub reward_margin: f64,
    /// Mean reward of chosen (good) answers.
    pub reward_chosen: f64,
    /// Mean reward of rejected (bad) answers.
    pub reward_rejected: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_evaluate_params {
    const NAME: &'static str = "llama_align_evaluate_params";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_evaluation {
    const NAME: &'static str = "llama_align_evaluation";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_evaluate_params {
    fn defaults() -> Self {
        let TrainConfig { micro_batch_tokens, .. } = TrainConfig::default();
        Self {
            struct_size: size_of::<Self>() as u32,
            n_threads: 0,
            precision: LLAMA_ALIGN_PRECISION_AUTO,
            micro_batch_tokens: micro_batch_tokens as u32,
            beta: PreferenceLoss::Sigmoid.beta(),
        }
    }
}

impl llama_align_evaluation {
    fn new(report: &EvalReport, has_adapter: bool) -> Self {
        let EvalReport {
            n_rows,
            n_tokens,
            nll,
            perplexity,
            loss: _,
            n_pairs,
            accuracy,
            logps_chosen,
            logps_rejected,
            reward_accuracy,
            reward_margin,
            reward_chosen,
            reward_rejected,
        } = *report;
        let or_nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
        Self {
            struct_size: 0,
            has_adapter: u32::from(has_adapter),
            n_rows: n_rows as u64,
            n_pairs: n_pairs.unwrap_or(0) as u64,
            n_tokens: n_tokens as u64,
            nll,
            perplexity,
            accuracy: or_nan(accuracy),
            logps_chosen: or_nan(logps_chosen),
            logps_rejected: or_nan(logps_rejected),
            reward_accuracy: or_nan(reward_accuracy),
            reward_margin: or_nan(reward_margin),
            reward_chosen: or_nan(reward_chosen),
            reward_rejected: or_nan(reward_rejected),
        }
    }
}

/// Measures rows under the base and, where there is one, under the adapter: rewards tell how far it moved.
fn measure(
    rows: &DatasetObject,
    adapter: Option<&AdapterObject>,
    params: llama_align_evaluate_params,
) -> Result<EvalReport> {
    let llama_align_evaluate_params { struct_size: _, n_threads, precision: wanted, micro_batch_tokens, beta } = params;
    let wanted = precision(wanted)?;
    // The bounds of a run's configuration.
    let micro_batch_tokens = micro_batch_tokens as usize;
    let config = TrainConfig { micro_batch_tokens, beta, ..TrainConfig::default() }.resolve()?;
    let (form, n_threads) = (wanted.form_for(&rows.model.model)?, threads(n_threads));
    let (model, samples) = (&rows.model.model, &rows.data.samples);
    let (trace, _) = rows.model.checked(form, n_threads)?;
    let under = |(deltas, changes): (Vec<Delta>, Vec<Change>)| {
        let mut engine = Engine::with_all(model, &trace, (deltas, changes), n_threads, form, 0.0)?;
        References::measure(&mut engine, samples, config.micro_batch_tokens)
    };
    // As it is when the call begins.
    let moved = adapter.map(AdapterObject::moved);
    let base = under((Vec::new(), Vec::new()))?;
    match moved {
        None => evaluate(&rows.data, &base, None, &Preference::dpo(beta)),
        Some(moved) => evaluate(&rows.data, &under(moved)?, Some(&base), &Preference::dpo(beta)),
    }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_evaluate_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_evaluate_params_init(
    params: *mut llama_align_evaluate_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Measures a dataset under its model, and under an adapter. Checks the model first, unless a check of that precision has
/// passed before. `dataset` (borrowed): not NULL. `adapter` (borrowed): NULL for the model alone; made with the same model handle
/// as the dataset, and measured as it is when the call begins. `params` (borrowed): NULL for the defaults. `out` (borrowed): not
/// NULL, struct_size set. Any thread, callback-safe. Errors: ARGUMENT, MISMATCH, CHECK, UNSUPPORTED, MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_evaluate(
    dataset: *const llama_align_dataset,
    adapter: *const llama_align_adapter,
    params: *const llama_align_evaluate_params,
    out: *mut llama_align_evaluation,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let rows = get::<DatasetObject>(dataset)?;
        let adapter = (!adapter.is_null()).then(|| get::<AdapterObject>(adapter)).transpose()?;
        // SAFETY: pointers are what the header asks for.
        let (params, out) = unsafe { (read(params)?, Out::new(out)?) };
        if adapter.as_ref().is_some_and(|a| !Arc::ptr_eq(&a.model, &rows.model)) {
            let message = "adapter and dataset were made with different model handles";
            return Err(Error::new(Kind::Mismatch, message));
        }
        let report = rows.model.log.during(|| measure(&rows, adapter.as_deref(), params))?;
        out.put(llama_align_evaluation::new(&report, adapter.is_some()));
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
