//! Neurons and tokens that matter (ALLO): masks of what an adapter may move, adapters of rows, weights of single tokens.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::{llama_align_dataset, DatasetObject};
use super::guard::{create, guard};
use super::handle::get;
use super::model::{llama_align_model, ModelObject};
use super::params::{init, read, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, text};
use super::LLAMA_ALIGN_OK;
use crate::adapter::{resolve_targets, Linear, Lora};
use crate::error::Result;
use crate::gguf::File;
use crate::mask::{pool, rows_of, select, Band, Granularity, LowRank, Mask, Moved, Order, Scores};
use crate::trace::trace;
use crate::train::DeltaKind;
use std::ffi::c_char;
use std::path::Path;

/// Output rows of weights are chosen.
pub const LLAMA_ALIGN_NEURONS_ROW: u32 = 0;
/// Input columns are.
pub const LLAMA_ALIGN_NEURONS_COLUMN: u32 = 1;
/// Whole tensors are.
pub const LLAMA_ALIGN_NEURONS_TENSOR: u32 = 2;
/// Single weights are. Factors and rows cannot hold them, whole weights can (LLAMA_ALIGN_ADAPTER_FULL).
pub const LLAMA_ALIGN_NEURONS_WEIGHT: u32 = 3;

/// What moved least is chosen.
pub const LLAMA_ALIGN_NEURONS_SMALLEST: u32 = 1;

/// How neurons are chosen. Fill it in with llama_align_neurons_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_neurons_params {
    /// sizeof(llama_align_neurons_params).
    pub struct_size: u32,
    /// LLAMA_ALIGN_NEURONS_ROW, _COLUMN, _TENSOR or _WEIGHT. Default ROW.
    pub granularity: u32,
    /// LLAMA_ALIGN_NEURONS_SMALLEST, or 0. Default 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Share that is chosen of all rows (columns, tensors, weights) together, 0 to 1. Default 0.05.
    pub ratio: f64,
    /// Share of the ranking that is passed over first; with `ratio` at most 1. Default 0.
    pub skip: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_neurons_params {
    const NAME: &'static str = "llama_align_neurons_params";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_neurons_params {
    fn defaults() -> Self {
        let (struct_size, granularity) = (size_of::<Self>() as u32, LLAMA_ALIGN_NEURONS_ROW);
        Self { struct_size, granularity, flags: 0, reserved: 0, ratio: 0.05, skip: 0.0 }
    }
}

impl llama_align_neurons_params {
    fn choice(self) -> Result<(Granularity, Order, Band)> {
        let Self { struct_size: _, granularity, flags, reserved, ratio, skip } = self;
        let granularity = match granularity {
            LLAMA_ALIGN_NEURONS_ROW => Granularity::Row,
            LLAMA_ALIGN_NEURONS_COLUMN => Granularity::Column,
            LLAMA_ALIGN_NEURONS_TENSOR => Granularity::Tensor,
            LLAMA_ALIGN_NEURONS_WEIGHT => Granularity::Weight,
            other => return Err(argument(format!("granularity: {other} is none of LLAMA_ALIGN_NEURONS_*"))),
        };
        if flags & !LLAMA_ALIGN_NEURONS_SMALLEST != 0 {
            return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
        }
        if reserved != 0 {
            return Err(argument(format!("reserved: {reserved} instead of 0")));
        }
        if !(ratio >= 0.0 && skip >= 0.0 && ratio + skip <= 1.0) {
            return Err(argument(format!("ratio {ratio} behind skip {skip}: no share of a ranking")));
        }
        let order = if flags & LLAMA_ALIGN_NEURONS_SMALLEST == 0 { Order::Largest } else { Order::Smallest };
        Ok((granularity, order, Band { from: skip, to: skip + ratio }))
    }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_neurons_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_neurons_params_init(
    params: *mut llama_align_neurons_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Writes a mask of what an adapter changes most: after a short run of DPO these are the neurons of its preferences. By one ranking
/// over all weights together, exactly the share that is asked for; of equal scores those of the earlier tensor and the lower index
/// come first. Rows and columns are ranked by the norms of their changes, tensors by means. Callback-safe. `adapter` (borrowed).
/// `params` (borrowed): NULL for the defaults. `path` (borrowed): not NULL; a file there is replaced. Errors: ARGUMENT, MISSING (the
/// directory), IO, UNSUPPORTED (a model that was attached without its file, or norms and biases that moved), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_neurons(
    adapter: *const llama_align_adapter,
    params: *const llama_align_neurons_params,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        let (granularity, order, band) = unsafe { read(params) }?.choice()?;
        // SAFETY: as above.
        let path = Path::new(unsafe { text(path, "path") }?);
        let base = adapter.model.file().map(|_| adapter.model.hash().unwrap_or_default().to_owned())?;
        let architecture = adapter.model.model.architecture();
        // Copies, so that a trainer which moves it is not held up.
        let lora = if adapter.delta == DeltaKind::Full { None } else { Some(adapter.only_factors()?) };
        let changes = if lora.is_none() { adapter.only_weights()? } else { Vec::new() };
        let shapes = lora.as_ref().map(Lora::shapes).unwrap_or_default();
        let weights: Box<dyn Scores + '_> = match &lora {
            Some(lora) => Box::new(LowRank::new(lora, &shapes)),
            None => Box::new(Moved::new(&changes)),
        };
        let pooled = (granularity != Granularity::Weight).then(|| pool(&*weights, granularity)).transpose()?;
        let scores: &dyn Scores = pooled.as_ref().map_or(&*weights, |table| table as &dyn Scores);
        let mut mask = select(scores, order, band)?;
        mask.provenance.insert("score".to_owned(), "|change|".to_owned());
        mask.provenance.insert("ratio".to_owned(), (band.to - band.from).to_string());
        mask.write(path, &architecture, &base)?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Holds all of an adapter that a mask does not leave free: whatever trains it from now on, what is masked out keeps its bits.
/// Factors that have changed nothing yet are made to suit it. A later mask takes the place of this one. `adapter`: no trainer moves it.
/// `path` (borrowed): a mask of rows, columns or tensors, for whole weights also of weights, of llama_align_adapter_neurons() or the
/// program; not NULL. Errors: ARGUMENT (also a mask that leaves nothing free, and an adapter of rows, or with norms or biases), MISSING, IO, FORMAT, MISMATCH (another model's, or factors change what is masked out), UNSUPPORTED (a mask
/// of single weights for factors), BUSY (a trainer moves the adapter), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_set_mask(
    adapter: *mut llama_align_adapter,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        let file = File::open(Path::new(unsafe { text(path, "path") }?))?;
        adapter.hold(&file)?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Makes an adapter that changes the rows of a mask, freely, and nothing else: a number for every weight of these rows, and none for
/// others. It changes nothing yet. It trains as any other (its default learning rate is 5e-6, that of whole weights), and leaves as an
/// exact LoRA whose rank is the number of rows. `model`: shared. `targets` (borrowed): as for llama_align_adapter_new(). `path`
/// (borrowed): a mask of rows or tensors; not NULL. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT (also a mask
/// without rows of these weights), MISSING, IO, FORMAT, MISMATCH (another model's), UNSUPPORTED (a mask of weights or columns), POISONED.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_from_rows(
    model: *const llama_align_model,
    targets: *const c_char,
    path: *const c_char,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let targets = if targets.is_null() { "all-linear" } else { unsafe { text(targets, "targets") }? };
        // SAFETY: as above.
        let file = File::open(Path::new(unsafe { text(path, "path") }?))?;
        let mask = Mask::from_file(&file)?;
        if let Some(base) = model.hash() {
            Mask::check_base(&file, base)?;
        }
        let targets = resolve_targets(targets, &Linear::all(&trace(&model.model)?))?;
        let rows = rows_of(&mask, &targets)?;
        Ok(AdapterObject::of_rows(model.share(), &rows, &file, mask.granularity()))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Number of an answer's tokens that have a loss, the end of the answer included. `row`: below llama_align_dataset_count(). `answer`:
/// 0, or 1 for the rejected one of a pair. `out` (borrowed): not NULL. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_answer_tokens(
    dataset: *const llama_align_dataset,
    row: u64,
    answer: u32,
    out: *mut u64,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<DatasetObject>(dataset)?;
        let n = object.answer(row, answer)?;
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        // SAFETY: `out` is what the header asks for.
        unsafe { out.write(n as u64) };
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Weighs the tokens of an answer in the loss of trainers that are made afterwards; tokens that nobody weighs count 1. Rows that
/// llama_align_dataset_without() leaves keep theirs. `dataset`. `row`, `answer`: as for llama_align_dataset_answer_tokens(). `weights`
/// (borrowed): not NULL; `n_weights` numbers, as many as the answer has tokens with a loss, none negative or not finite. Errors:
/// ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_set_weights(
    dataset: *mut llama_align_dataset,
    row: u64,
    answer: u32,
    weights: *const f32,
    n_weights: usize,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<DatasetObject>(dataset)?;
        let n = object.answer(row, answer)?;
        // SAFETY: pointers are what the header asks for.
        let weights = unsafe { array(weights, n_weights, "weights") }?;
        if weights.len() != n {
            return Err(argument(format!("weights: {n_weights} numbers for {n} tokens")));
        }
        if let Some(bad) = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
            return Err(argument(format!("weights: {bad} is negative or not finite")));
        }
        object.weigh(row, answer, weights);
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// The same for all answers, from a file of `llama-align token-weights`: JSON lines with the line of a row and a number for each token.
/// `path` (borrowed): not NULL. Errors: ARGUMENT, MISSING, IO, DATA (names file and line), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_load_weights(
    dataset: *mut llama_align_dataset,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<DatasetObject>(dataset)?;
        // SAFETY: pointers are what the header asks for.
        object.load_weights(Path::new(unsafe { text(path, "path") }?))?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
