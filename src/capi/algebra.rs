//! `llama_align_adapter_sum` and its kind: adapters made of adapters, and of two models.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::guard::{create, guard};
use super::handle::get;
use super::model::{llama_align_model, ModelObject};
use super::params::{init, read, Out, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, text};
use crate::adapter::{Kept, Limit, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::File;
use crate::merge::extract;
use std::ffi::c_char;
use std::path::Path;
use std::sync::Arc;

/// How much of an update is kept. Fill it in with llama_align_limit_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_limit_params {
    /// sizeof(llama_align_limit_params).
    pub struct_size: u32,
    /// Largest rank, 1 to 4096. Default 16.
    pub rank: u32,
    /// Share of each update's squared norm that is to be kept, above 0, up to 1: the smallest rank that keeps it, and no more
    /// than `rank`. Default 1.
    pub energy: f64,
}

/// What a limit kept.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_kept {
    /// sizeof(llama_align_kept), set by the caller.
    pub struct_size: u32,
    /// Largest rank of a weight's update.
    pub rank: u32,
    /// Weights with an update.
    pub n_weights: u64,
    /// Tensors that differ and that no adapter carries, such as norms and embeddings; of an extraction.
    pub n_left_out: u64,
    /// Share of the squared norm of all updates together.
    pub energy: f64,
    /// Share that the worst of them keeps.
    pub energy_min: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_limit_params {
    const NAME: &'static str = "llama_align_limit_params";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_kept {
    const NAME: &'static str = "llama_align_kept";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_limit_params {
    fn defaults() -> Self {
        Self { struct_size: size_of::<Self>() as u32, rank: 16, energy: 1.0 }
    }
}

impl llama_align_limit_params {
    fn limit(self) -> Result<Limit> {
        let Self { struct_size: _, rank, energy } = self;
        let limit = Limit { rank: rank as usize, energy };
        limit.validate().map(|()| limit)
    }
}

impl llama_align_kept {
    fn new(kept: &[Kept], n_left_out: usize) -> Self {
        let sum = |of: &dyn Fn(&Kept) -> f64| kept.iter().map(|k| k.norm * k.norm * of(k)).sum::<f64>();
        let total = sum(&|_| 1.0);
        Self {
            struct_size: 0,
            rank: kept.iter().map(|k| k.rank).max().unwrap_or(0) as u32,
            n_weights: kept.len() as u64,
            n_left_out: n_left_out as u64,
            energy: if total > 0.0 { sum(&|k| k.energy) / total } else { 1.0 },
            energy_min: kept.iter().map(|k| k.energy).fold(1.0, f64::min),
        }
    }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_limit_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_limit_params_init(
    params: *mut llama_align_limit_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Makes the sum of adapters, each times its scale, exactly: their ranks are put beside each other. One adapter alone is scaled.
/// `adapters` (borrowed): `n_adapters` handles, at least one, made with the same model handle; they stay as they are. `scales`
/// (borrowed): as many; NULL for 1 each. `out` (owned): not NULL; NULL is written on failure. Any thread, callback-safe. Errors:
/// ARGUMENT, MISMATCH (made with different model handles), NUMERIC (a product is no finite number), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_sum(
    adapters: *const *const llama_align_adapter,
    scales: *const f32,
    n_adapters: usize,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let handles = unsafe { array(adapters, n_adapters, "adapters") }?;
        let scales = match scales.is_null() {
            true => vec![1.0; handles.len()],
            // SAFETY: as above.
            false => unsafe { array(scales, n_adapters, "scales") }?.to_vec(),
        };
        if let Some(i) = scales.iter().position(|s| !s.is_finite()) {
            return Err(argument(format!("scales[{i}]: {} is no finite number", scales[i])));
        }
        let objects = handles.iter().map(|&handle| get::<AdapterObject>(handle)).collect::<Result<Vec<_>>>()?;
        let Some(first) = objects.first() else { return Err(argument("n_adapters is 0")) };
        if let Some(i) = objects.iter().position(|o| !Arc::ptr_eq(&o.model, &first.model)) {
            let message = format!("adapters[{i}] and adapters[0] were made with different model handles");
            return Err(Error::new(Kind::Mismatch, message));
        }
        let loras: Vec<Lora> = objects.iter().map(|o| o.only_factors()).collect::<Result<_>>()?;
        let terms: Vec<(&Lora, f32)> = loras.iter().zip(scales).collect();
        Ok(AdapterObject::new(first.model.clone(), Lora::sum(&terms)?, "sum"))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes the nearest adapter of a smaller rank. `adapter` (borrowed): not NULL; it stays as it is. `params` (borrowed): NULL for
/// the defaults. `kept` (borrowed): NULL, or struct_size set. `out` (owned): not NULL; NULL is written on failure. Any thread,
/// callback-safe. Errors: ARGUMENT, NUMERIC, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_truncate(
    adapter: *const llama_align_adapter,
    params: *const llama_align_limit_params,
    kept: *mut llama_align_kept,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        let (limit, told) = unsafe { (read(params)?.limit()?, Out::optional(kept)?) };
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        let lora = adapter.only_factors()?;
        let (lora, kept) = lora.truncated(limit)?;
        if let Some(told) = told {
            told.put(llama_align_kept::new(&kept, 0));
        }
        Ok(AdapterObject::new(adapter.model.clone(), lora, "truncate"))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes an adapter of what two models differ in, weight by weight, by a randomised decomposition. `model`: shared; the adapter is
/// for it. `tuned_path` (borrowed): the model that the adapter leads to, of the same architecture, sizes and vocabulary; not NULL.
/// `params` (borrowed): NULL for the defaults. `seed`: of the decomposition. `kept` (borrowed): NULL, or struct_size set. `out`
/// (owned): not NULL; NULL is written on failure. Any thread. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH (also where nothing
/// differs), UNSUPPORTED (also a host's model without its file), NUMERIC, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_extract(
    model: *const llama_align_model,
    tuned_path: *const c_char,
    params: *const llama_align_limit_params,
    seed: u64,
    kept: *mut llama_align_kept,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let (limit, told) = unsafe { (read(params)?.limit()?, Out::optional(kept)?) };
        // SAFETY: as above.
        let path = Path::new(unsafe { text(tuned_path, "tuned_path") }?);
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        let tuned = File::open(path)?;
        let found = extract(model.model.runtime(), model.file()?, &tuned, limit, seed, &mut |_| {})?;
        if let Some(told) = told {
            told.put(llama_align_kept::new(&found.kept, found.left_out.len()));
        }
        Ok(AdapterObject::new(model.share(), found.lora, "extract"))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}
