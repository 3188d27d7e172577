//! `llama_align_model`: a frozen model.

use super::guard::{create, free, guard};
use super::handle::{get, Object};
use super::params::{init, read, Out, Params, Struct};
use super::runtime::{built_in, llama_align_runtime, LogSlot, RuntimeObject};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{fill, text};
use super::LLAMA_ALIGN_OK;
use crate::check::{checked_trace, Report};
use crate::engine::Form;
use crate::error::{Error, Kind, Result};
use crate::gguf::{self, base_hash, Value};
use crate::log::{say, Level};
use crate::runtime::{Model, Offload, Runtime};
use crate::trace::{trace, Placement, Trace};
use crate::train::Precision;
use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A frozen model: a GGUF file, mapped, or a host's. Lifetime: from _open to _free; adapters, datasets and trainers made from it keep
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

/// What a model is. Of a host's model that was attached without its file, n_tensors, gguf_version and weights_bytes are 0. Strings are UTF-8, terminated, and cut where they are longer.
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

/// Where a model's weights are read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_placement {
    /// sizeof(llama_align_placement), set by the caller.
    pub struct_size: u32,
    /// Tensors that are read where the runtime keeps them.
    pub n_shared: u32,
    /// Tensors that are read from a map of the file, since the runtime keeps them in a layout of its own.
    pub n_mapped: u32,
    /// Tensors that cannot be read.
    pub n_refused: u32,
    /// Bytes of the first kind.
    pub shared_bytes: u64,
    /// Bytes of the second kind.
    pub mapped_bytes: u64,
    /// Bytes of the third kind.
    pub refused_bytes: u64,
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
    /// LLAMA_ALIGN_PRECISION_F32 or _BF16: what AUTO came to; AUTO where devices compute, in numbers of their own.
    pub precision: u32,
    /// Linear weights of the blocks that an adapter can be put on.
    pub n_trainable: u32,
    /// Operations of the traced graph.
    pub n_ops: u32,
    /// Largest difference of any logit between the traced graph and llama.cpp's own decode: 0; NaN where devices compute, whose
    /// bits depend on shapes: then device_rel_diff is what was compared.
    pub max_abs_diff: f32,
    /// Largest relative difference of a block between the training graph and the runtime's.
    pub max_rel_diff: f32,
    /// What is allowed for max_rel_diff, by the model's weight types.
    pub bound: f32,
    /// Probes that were compared.
    pub n_probes: u32,
    /// Where devices compute: largest relative difference of a block, or of the logits, between the traced graph and llama.cpp's own
    /// decode, each block from the decode's own values; else NaN.
    pub device_rel_diff: f32,
    /// What is allowed for device_rel_diff; NaN where it is.
    pub device_bound: f32,
}

// SAFETY: numbers and bytes only; no padding, as a test compares.
unsafe impl Struct for llama_align_model_info {
    const NAME: &'static str = "llama_align_model_info";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_placement {
    const NAME: &'static str = "llama_align_placement";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_check_report {
    const NAME: &'static str = "llama_align_check_report";
    const BYTES_V1: usize = offset_of!(Self, device_rel_diff);
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
    pub(super) log: Arc<LogSlot>,
    /// `None` only for a host's model.
    file: Option<Arc<gguf::File>>,
    hash: OnceLock<String>,
    checked: Mutex<Vec<(Form, Arc<Trace>, Report)>>,
}

impl Object for ModelObject {
    type C = llama_align_model;
    const NAME: &'static str = "model";
}

impl ModelObject {
    fn new(model: Arc<Model>, log: Arc<LogSlot>, file: Option<Arc<gguf::File>>) -> Self {
        Self { model, log, file, hash: OnceLock::new(), checked: Mutex::new(Vec::new()) }
    }

    pub(super) fn open(runtime: &Arc<Runtime>, log: Arc<LogSlot>, path: &Path, offload: &Offload) -> Result<Self> {
        log.clone().during(|| {
            let file = validated(path)?;
            let model = Model::open_on(runtime, path, offload)?;
            say(Level::Info, || format!("{}: {} blocks, opened", path.display(), model.n_layer()));
            Ok(Self::new(model, log, Some(file)))
        })
    }

    /// # Safety
    /// As [`Model::attach`].
    unsafe fn attach(runtime: &RuntimeObject, live: *mut c_void, path: Option<&Path>) -> Result<Self> {
        if live.is_null() {
            return Err(argument("llama_model is NULL"));
        }
        runtime.log.during(|| {
            let file = path.map(validated).transpose()?;
            // SAFETY: by the caller.
            let model = unsafe { Model::attach(&runtime.runtime, live.cast(), file.clone()) }?;
            say(Level::Info, || format!("{}: {} blocks, attached", model.path().display(), model.n_layer()));
            Ok(Self::new(model, runtime.log.clone(), file))
        })
    }

    /// The trace in a form that was compared with the runtime and can be trained, and what the comparison said; once per form.
    pub(super) fn checked(&self, form: Form, n_threads: usize) -> Result<(Arc<Trace>, Report)> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, trace, report)) = checked.iter().find(|(f, ..)| *f == form) {
            return Ok((trace.clone(), report.clone()));
        }
        let (trace, report) = self.log.during(|| checked_trace(&self.model, n_threads, form))?;
        if let Some(op) = report.unsupported.first() {
            let message = format!("{}: {op}: no gradient rule for this op", self.model.path().display());
            return Err(Error::new(Kind::Unsupported, message));
        }
        self.log.during(|| {
            say(Level::Info, || {
                let (own, training) = (&report.runtime_form, &report.training_form);
                let (found, bound) = (training.max_rel_diff, training.bound);
                let runtime = match &own.blocks {
                    Some(b) => format!("blocks differ by {:e} of {:e}", b.max_rel_diff, b.bound),
                    None => format!("logits differ by {:e}", own.max_abs_diff),
                };
                format!("checked: {runtime}, in training by {found:e} of {bound:e} allowed")
            });
        });
        checked.push((form, trace.clone(), report.clone()));
        Ok((trace, report))
    }

    /// Its file.
    pub(super) fn file(&self) -> Result<&gguf::File> {
        let path = self.model.path().display();
        let missing = || Error::new(Kind::Unsupported, format!("{path}: attached without its file"));
        self.file.as_deref().ok_or_else(missing)
    }

    /// The fingerprint of the file's weights; the first call reads all of them.
    pub(super) fn hash(&self) -> Option<&str> {
        let file = self.file.as_ref()?;
        Some(self.hash.get_or_init(|| base_hash(file)))
    }

    /// Its name.
    pub(super) fn name(&self) -> Option<String> {
        match &self.file {
            Some(file) => file.get("general.name").and_then(Value::as_str).map(str::to_owned),
            None => self.model.meta("general.name"),
        }
    }

    /// Whether an adapter belongs to it.
    pub(super) fn check_fits(&self, adapter: &gguf::AdapterInfo) -> Result<()> {
        if let Some(file) = &self.file {
            return gguf::check_fits(adapter, file);
        }
        let weights = trace(&self.model)?.program.weights;
        let info = |name: &str| weights.iter().find(|w| w.name == name);
        let shape = |name: &str| info(name).map(|w| [w.ne[0], w.ne[1], w.ne[2] * w.ne[3]].map(|n| n as u64));
        gguf::check_shapes(adapter, self.model.path(), &self.model.architecture(), shape)
    }
}

fn validated(path: &Path) -> Result<Arc<gguf::File>> {
    let file = gguf::File::open(path)?;
    gguf::validate_model(&file)?;
    Ok(Arc::new(file))
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
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let path = Path::new(unsafe { text(path, "path") }?);
        ModelObject::open(&built_in()?, Arc::default(), path, &Offload::default())
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// The same by another llama.cpp. `runtime`: shared. Everything else as in llama_align_model_open(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_open_with(
    runtime: *const llama_align_runtime,
    path: *const c_char,
    out: *mut *mut llama_align_model,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let (runtime, on_cpu) = (get::<RuntimeObject>(runtime)?, Offload::default());
        // SAFETY: pointers are what the header asks for.
        let path = Path::new(unsafe { text(path, "path") }?);
        ModelObject::open(&runtime.runtime, runtime.log.clone(), path, &on_cpu)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Takes a model that the host has open: it is trained on its live weights, and nothing of it changes. `runtime`: shared; the host's.
/// `llama_model` (borrowed until this handle and all that was made from it are freed): a struct llama_model * of that runtime.
/// `path` (borrowed): the file it was loaded from, or NULL; weights that the host keeps in a layout of its own (a buffer such as
/// CPU_REPACK) are read from there, mapped, and without it cannot be trained: llama_align_model_placement() tells. Meanwhile the
/// host may decode, but not free the model. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISSING, IO,
/// FORMAT, MISMATCH (not the model's file), UNSUPPORTED, MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_attach(
    runtime: *const llama_align_runtime,
    llama_model: *mut c_void,
    path: *const c_char,
    out: *mut *mut llama_align_model,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let runtime = get::<RuntimeObject>(runtime)?;
        // SAFETY: pointers are what the header asks for.
        let path = if path.is_null() { None } else { Some(Path::new(unsafe { text(path, "path") }?)) };
        // SAFETY: as above.
        unsafe { ModelObject::attach(&runtime, llama_model, path) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Where the weights that the model computes with are read. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT,
/// UNSUPPORTED, MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_model_placement(
    model: *const llama_align_model,
    out: *mut llama_align_placement,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<ModelObject>(model)?;
        // SAFETY: `out` is what the header asks for.
        let out = unsafe { Out::new(out) }?;
        let Placement { shared, mapped, refused } = object.log.during(|| trace(&object.model))?.placement();
        out.put(llama_align_placement {
            struct_size: 0,
            n_shared: shared.n_tensors as u32,
            n_mapped: mapped.n_tensors as u32,
            n_refused: refused.n_tensors as u32,
            shared_bytes: shared.bytes,
            mapped_bytes: mapped.bytes,
            refused_bytes: refused.bytes,
        });
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
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
        let tensors = object.file.as_ref().map_or(&[][..], |f| f.tensors());
        let mut info = llama_align_model_info {
            struct_size: 0,
            n_layer: m.n_layer() as u32,
            n_vocab: m.n_vocab() as u32,
            n_ctx_train: m.n_ctx_train() as u32,
            n_swa: m.n_swa() as u32,
            n_tensors: tensors.len() as u32,
            has_chat_template: u32::from(m.chat_template().is_some()),
            gguf_version: object.file.as_ref().map_or(0, |f| f.version()),
            weights_bytes: tensors.iter().map(|t| t.bytes).sum(),
            architecture: [0; 64],
            name: [0; 128],
        };
        fill(&mut info.architecture, &m.architecture());
        fill(&mut info.name, &object.name().unwrap_or_default());
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
        let form = precision(wanted)?.form_for(&object.model)?;
        let (_, report) = object.checked(form, threads(n_threads))?;
        if let Some(out) = out {
            let on_devices = report.runtime_form.blocks.as_ref();
            out.put(llama_align_check_report {
                struct_size: 0,
                precision: match form {
                    Form::TrainingBf16 => LLAMA_ALIGN_PRECISION_BF16,
                    Form::Training | Form::Runtime => LLAMA_ALIGN_PRECISION_F32,
                    Form::TrainingOps => LLAMA_ALIGN_PRECISION_AUTO,
                },
                n_trainable: report.trainable.len() as u32,
                n_ops: report.ops.values().sum::<usize>() as u32,
                max_abs_diff: on_devices.map_or(report.runtime_form.max_abs_diff, |_| f32::NAN),
                max_rel_diff: report.training_form.max_rel_diff,
                bound: report.training_form.bound,
                n_probes: report.runtime_form.probes.len() as u32 + u32::from(on_devices.is_some()),
                device_rel_diff: on_devices.map_or(f32::NAN, |b| b.max_rel_diff),
                device_bound: on_devices.map_or(f32::NAN, |b| b.bound),
            });
        }
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
