//! `llama_align_model`: a frozen model.

use super::guard::{create, free, guard};
use super::handle::{get, Object};
use super::params::{init, read, Out, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{fill, text};
use super::LLAMA_ALIGN_OK;
use crate::check::{checked_trace, Report};
use crate::engine::Form;
use crate::error::{Error, Kind, Result};
use crate::gguf::{self, base_hash, Value};
use crate::runtime::{Model, Runtime};
use crate::trace::Trace;
use crate::train::Precision;
use std::ffi::c_char;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A frozen model, mapped from its GGUF file. Lifetime: from _open to _free; adapters, datasets and trainers made from it keep
/// what they need, so it may be freed before them. Threads: any number at once.
#[derive(Debug)]
pub struct llama_align_model {
    _never: (),
}

/// BF16 where the CPU multiplies it faster, F32 elsewhere.
pub const LLAMA_ALIGN_PRECISION_AUTO: u32 = 0;
/// Products in F32.
pub const LLAMA_ALIGN_PRECISION_F32: u32 = 1;
/// Weights and activations are rounded to BF16 before they are multiplied; sums are in F32.
pub const LLAMA_ALIGN_PRECISION_BF16: u32 = 2;

/// What a file holds. Strings are UTF-8, terminated, and cut where they are longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_model_info {
    /// sizeof(llama_align_model_info), set by the caller.
    pub struct_size: u32,
    /// Blocks.
    pub n_layer: u32,
    /// Tokens of the vocabulary.
    pub n_vocab: u32,
    /// Context that the model was trained with, in tokens: no row may be longer.
    pub n_ctx_train: u32,
    /// Sliding window in tokens, 0 if there is none.
    pub n_swa: u32,
    /// Tensors.
    pub n_tensors: u32,
    /// 1 if the file has a chat template, which prompts then go through, else 0.
    pub has_chat_template: u32,
    /// Version of the GGUF format.
    pub gguf_version: u32,
    /// Bytes of all tensors.
    pub weights_bytes: u64,
    /// general.architecture.
    pub architecture: [c_char; 64],
    /// general.name, empty where the file has none.
    pub name: [c_char; 128],
}

/// How to check. Fill it in with llama_align_check_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_check_params {
    /// sizeof(llama_align_check_params).
    pub struct_size: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// LLAMA_ALIGN_PRECISION_*, the one that training would use. Default AUTO.
    pub precision: u32,
}

/// What a check that passed has measured.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_check_report {
    /// sizeof(llama_align_check_report), set by the caller.
    pub struct_size: u32,
    /// LLAMA_ALIGN_PRECISION_F32 or _BF16: what AUTO came to.
    pub precision: u32,
    /// Linear weights of the blocks that an adapter can be put on.
    pub n_trainable: u32,
    /// Operations of the traced graph.
    pub n_ops: u32,
    /// Largest difference of any logit between the traced graph and llama.cpp's own decode: 0.
    pub max_abs_diff: f32,
    /// Largest relative difference of a block between the training graph and the runtime's.
    pub max_rel_diff: f32,
    /// What is allowed for max_rel_diff, by the model's weight types.
    pub bound: f32,
    /// Probes that were compared.
    pub n_probes: u32,
}

// SAFETY: numbers and bytes only; no padding, as a test compares.
unsafe impl Struct for llama_align_model_info {
    const NAME: &'static str = "llama_align_model_info";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_check_report {
    const NAME: &'static str = "llama_align_check_report";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_check_params {
    const NAME: &'static str = "llama_align_check_params";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_check_params {
    fn defaults() -> Self {
        Self { struct_size: size_of::<Self>() as u32, n_threads: 0, precision: LLAMA_ALIGN_PRECISION_AUTO }
    }
}

/// An open model and what was found out about it.
pub(super) struct ModelObject {
    pub(super) model: Arc<Model>,
    pub(super) file: gguf::File,
    hash: OnceLock<String>,
    checked: Mutex<Vec<(Form, Arc<Trace>, Report)>>,
}

impl Object for ModelObject {
    type C = llama_align_model;
    const NAME: &'static str = "model";
}

impl ModelObject {
    fn open(path: &Path) -> Result<Self> {
        let file = gguf::File::open(path)?;
        gguf::validate_model(&file)?;
        let model = Model::open(&runtime()?, path)?;
        Ok(Self { model, file, hash: OnceLock::new(), checked: Mutex::new(Vec::new()) })
    }

    /// The trace in a form that was compared with the runtime and can be trained, and what the comparison said; once per form.
    pub(super) fn checked(&self, form: Form, n_threads: usize) -> Result<(Arc<Trace>, Report)> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, trace, report)) = checked.iter().find(|(f, ..)| *f == form) {
            return Ok((trace.clone(), report.clone()));
        }
        let (trace, report) = checked_trace(&self.model, n_threads, form)?;
        if let Some(op) = report.unsupported.first() {
            let message = format!("{}: {op}: no gradient rule for this op", self.model.path().display());
            return Err(Error::new(Kind::Unsupported, message));
        }
        checked.push((form, trace.clone(), report.clone()));
        Ok((trace, report))
    }

    /// The fingerprint of its weights; the first call reads all of them.
    pub(super) fn hash(&self) -> &str {
        self.hash.get_or_init(|| base_hash(&self.file))
    }

    /// Its name in the file.
    pub(super) fn name(&self) -> Option<&str> {
        self.file.get("general.name").and_then(Value::as_str)
    }
}

#[cfg(feature = "linked")]
fn runtime() -> Result<Arc<Runtime>> {
    Runtime::linked()
}

#[cfg(not(feature = "linked"))]
fn runtime() -> Result<Arc<Runtime>> {
    Err(Error::new(Kind::Unsupported, "this build has no llama.cpp of its own"))
}

/// A precision by its number.
pub(super) fn precision(number: u32) -> Result<Precision> {
    match number {
        LLAMA_ALIGN_PRECISION_AUTO => Ok(Precision::Auto),
        LLAMA_ALIGN_PRECISION_F32 => Ok(Precision::F32),
        LLAMA_ALIGN_PRECISION_BF16 => Ok(Precision::Bf16),
        other => Err(argument(format!("precision: {other} is none of LLAMA_ALIGN_PRECISION_*"))),
    }
}

/// A number of threads: 0 stands for the number of cores.
pub(super) fn threads(n: u32) -> usize {
    match n {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n as usize,
    }
}

/// Validates and opens a GGUF model. `path` (borrowed): not NULL. `out` (owned): not NULL; NULL is written on failure. Errors:
/// ARGUMENT, MISSING, IO, FORMAT, MISMATCH (an adapter), UNSUPPORTED, MEMORY. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_open(
    path: *const c_char,
    out: *mut *mut llama_align_model,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { create(out, err, || ModelObject::open(Path::new(text(path, "path")?))) }
}

/// Frees a model; NULL is fine. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_model_free(model: *mut llama_align_model) {
    free::<ModelObject>(model);
}

/// What the file holds. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_describe(
    model: *const llama_align_model,
    out: *mut llama_align_model_info,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: `out` is what the header asks for.
        let (object, out) = (get::<ModelObject>(model)?, unsafe { Out::new(out) }?);
        let m = &object.model;
        let mut info = llama_align_model_info {
            struct_size: 0,
            n_layer: m.n_layer() as u32,
            n_vocab: m.n_vocab() as u32,
            n_ctx_train: m.n_ctx_train() as u32,
            n_swa: m.n_swa() as u32,
            n_tensors: object.file.tensors().len() as u32,
            has_chat_template: u32::from(m.chat_template().is_some()),
            gguf_version: object.file.version(),
            weights_bytes: object.file.tensors().iter().map(|t| t.bytes).sum(),
            architecture: [0; 64],
            name: [0; 128],
        };
        fill(&mut info.architecture, &m.architecture());
        fill(&mut info.name, object.name().unwrap_or_default());
        out.put(info);
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_check_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_check_params_init(
    params: *mut llama_align_check_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Traces the model through llama.cpp and compares the trace with llama.cpp's own results. OK means that it can be trained.
/// Takes seconds; what passed is remembered, so that the next check, trainer or evaluation of the same precision does not
/// repeat it. `params` (borrowed): NULL for the defaults. `out` (borrowed): NULL, or struct_size set. Errors: ARGUMENT, CHECK,
/// UNSUPPORTED (names the operation), MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_check(
    model: *const llama_align_model,
    params: *const llama_align_check_params,
    out: *mut llama_align_check_report,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let (params, out) = unsafe { (read(params)?, Out::optional(out)?) };
        let llama_align_check_params { struct_size: _, n_threads, precision: wanted } = params;
        let precision = precision(wanted)?.resolve();
        let (_, report) = object.checked(precision.form(), threads(n_threads))?;
        if let Some(out) = out {
            out.put(llama_align_check_report {
                struct_size: 0,
                precision: match precision {
                    Precision::Bf16 => LLAMA_ALIGN_PRECISION_BF16,
                    Precision::F32 | Precision::Auto => LLAMA_ALIGN_PRECISION_F32,
                },
                n_trainable: report.trainable.len() as u32,
                n_ops: report.ops.values().sum::<usize>() as u32,
                max_abs_diff: report.runtime_form.max_abs_diff,
                max_rel_diff: report.training_form.max_rel_diff,
                bound: report.training_form.bound,
                n_probes: report.runtime_form.probes.len() as u32,
            });
        }
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
