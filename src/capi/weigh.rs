//! `llama_align_dataset_weigh`: the tokens that an alignment has made less likely, for ALLO's forgetting.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::{llama_align_dataset, DatasetObject};
use super::guard::guard;
use super::handle::get;
use super::model::{precision, threads, LLAMA_ALIGN_PRECISION_AUTO};
use super::params::{init, read, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::LLAMA_ALIGN_OK;
use crate::adapter::Change;
use crate::data::{Sample, Sequence, TokenWeights};
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::token_scores::{log_ratios, TokenChoice};
use crate::train::{References, TrainConfig};
use std::sync::Arc;

/// Which tokens of rejected answers are chosen. Fill it in with llama_align_weigh_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_weigh_params {
    /// sizeof(llama_align_weigh_params).
    pub struct_size: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// LLAMA_ALIGN_PRECISION_*. Default AUTO.
    pub precision: u32,
    /// 0.
    pub reserved: u32,
    /// Tokens whose log-ratio is below; finite. Default 0.
    pub below: f64,
    /// Instead: the share of every answer's tokens whose log-ratio is lowest, up to 1; 0, the default, means by `below`.
    pub share: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_weigh_params {
    const NAME: &'static str = "llama_align_weigh_params";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_weigh_params {
    fn defaults() -> Self {
        let (struct_size, precision) = (size_of::<Self>() as u32, LLAMA_ALIGN_PRECISION_AUTO);
        Self { struct_size, n_threads: 0, precision, reserved: 0, below: 0.0, share: 0.0 }
    }
}

impl llama_align_weigh_params {
    fn forget(&self) -> Result<TokenChoice> {
        let Self { reserved, below, share, .. } = *self;
        if reserved != 0 {
            return Err(argument(format!("reserved: {reserved} instead of 0")));
        }
        if !below.is_finite() {
            return Err(argument(format!("below: {below} is no number")));
        }
        if !(0.0..=1.0).contains(&share) {
            return Err(argument(format!("share: {share} is outside 0 to 1")));
        }
        if share > 0.0 && below != 0.0 {
            return Err(argument(format!("below: {below} beside share, which decides")));
        }
        Ok(if share > 0.0 { TokenChoice::Share(share) } else { TokenChoice::Below(below) })
    }
}

/// The weights of a dataset's tokens, and how many are 1 of the rejected answers'.
fn weigh(
    rows: &DatasetObject,
    adapter: &AdapterObject,
    params: llama_align_weigh_params,
) -> Result<(TokenWeights, u64)> {
    let forget = params.forget()?;
    let (form, n_threads) = (precision(params.precision)?.form_for(&rows.model.model)?, threads(params.n_threads));
    if let Some(row) = rows.data.samples.iter().find(|s| !matches!(s, Sample::Pair { .. })) {
        let message = format!("dataset: the row of line {} is no pair", row.line());
        return Err(Error::new(Kind::Mismatch, message));
    }
    let (trace, _) = rows.model.checked(form, n_threads)?;
    let under = |moved: (Vec<Delta>, Vec<Change>)| {
        let mut engine = Engine::with_all(&rows.model.model, &trace, moved, n_threads, form, 0.0)?;
        References::measure(&mut engine, &rows.data.samples, TrainConfig::default().micro_batch_tokens)
    };
    // As it is when the call begins.
    let moved = adapter.moved();
    let base = under((Vec::new(), Vec::new()))?;
    let ratios = log_ratios(&rows.data, &under(moved)?, &base)?;
    let rejected: Vec<Vec<f32>> = ratios.iter().map(|[_, rejected]| forget.weights(rejected)).collect();
    let n = rejected.iter().flatten().filter(|&&w| w != 0.0).count() as u64;
    let of = |row: usize, k: usize, s: &Sequence| match k {
        0 => vec![1.0; s.n_scored()],
        _ => rejected[row].clone(),
    };
    Ok((TokenWeights::from_fn(&rows.data, of), n))
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_weigh_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_weigh_params_init(
    params: *mut llama_align_weigh_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Weighs the tokens of all rejected answers by what an alignment has made of them, as `llama-align token-weights` does: 1 where the
/// log-ratio, ln p with the adapter less that without, is lowest, and 0 elsewhere; tokens of chosen answers count 1. Earlier weights are
/// replaced; they hold for trainers that are made afterwards. `dataset`: pairs. `adapter` (borrowed): one after a short run of DPO, made
/// with the same model handle, and measured as it is when the call begins. `params` (borrowed): NULL for the defaults. `n_chosen`
/// (borrowed): NULL, or gets the number of tokens with a weight of 1 in rejected answers. Checks the model first, unless a check of that
/// precision has passed before. Errors: ARGUMENT, MISMATCH (rows that are no pairs, or another model handle), CHECK, UNSUPPORTED, MEMORY,
/// POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_weigh(
    dataset: *mut llama_align_dataset,
    adapter: *const llama_align_adapter,
    params: *const llama_align_weigh_params,
    n_chosen: *mut u64,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let (rows, adapter) = (get::<DatasetObject>(dataset)?, get::<AdapterObject>(adapter)?);
        // SAFETY: pointers are what the header asks for.
        let params = unsafe { read(params) }?;
        if !Arc::ptr_eq(&adapter.model, &rows.model) {
            let message = "adapter and dataset were made with different model handles";
            return Err(Error::new(Kind::Mismatch, message));
        }
        let (weights, n) = rows.model.log.during(|| weigh(&rows, &adapter, params))?;
        rows.set_weights(weights);
        if !n_chosen.is_null() {
            // SAFETY: as above.
            unsafe { n_chosen.write(n) };
        }
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
