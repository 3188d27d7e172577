//! `llama_align_task_run`: a model, with or without an adapter, on a task's file; and a run directory's page.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::longest;
use super::guard::guard;
use super::handle::get;
use super::model::{llama_align_model, precision, threads, ModelObject, LLAMA_ALIGN_PRECISION_AUTO};
use super::params::{init, read, Out, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{fill, text};
use super::LLAMA_ALIGN_OK;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::evaluate::{load, run, Subject, Task, TaskParams, TaskReport};
use crate::report::write_page;
use crate::runtime::Adapter;
use std::ffi::c_char;
use std::path::Path;
use std::sync::Arc;

/// Preference pairs: is the chosen answer likelier? Metrics accuracy, accuracy_norm, margin, margin_norm.
pub const LLAMA_ALIGN_TASK_PAIRS: u32 = 1;
/// Negative log-likelihood per token of the answers. Metrics nll, perplexity.
pub const LLAMA_ALIGN_TASK_NLL: u32 = 2;
/// Drift from the base on the answers; needs an adapter. Metrics kl, top1_agreement.
pub const LLAMA_ALIGN_TASK_KL: u32 = 3;
/// Multiple choice (TruthfulQA). Metrics mc1, mc2 by summed log-probs, mc1_norm, mc2_norm per token.
pub const LLAMA_ALIGN_TASK_MC: u32 = 4;
/// Final numbers of generated answers (GSM8K). Metrics exact_match, strict_match.
pub const LLAMA_ALIGN_TASK_EXACT_MATCH: u32 = 5;
/// Short generated answers (SQuAD). Metrics em, f1.
pub const LLAMA_ALIGN_TASK_EM_F1: u32 = 6;

/// Metrics of a task at most.
pub const LLAMA_ALIGN_TASK_METRICS_MAX: usize = 8;

/// Flag: ask without the model's chat template.
pub const LLAMA_ALIGN_TASK_NO_TEMPLATE: u32 = 1;

/// How a task runs. Fill it in with llama_align_task_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_task_params {
    /// sizeof(llama_align_task_params).
    pub struct_size: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// LLAMA_ALIGN_PRECISION_*. Default AUTO.
    pub precision: u32,
    /// LLAMA_ALIGN_TASK_NO_TEMPLATE or 0. Default 0.
    pub flags: u32,
    /// Longer items are left out and counted, in tokens, up to the model's context. 0, the default: 1024, or the model's context
    /// where that is less.
    pub max_length: u32,
    /// Tokens of a generated answer at most; 0 is the task's own. Default 0.
    pub n_predict: u32,
    /// Items at most, drawn by the seed; 0 takes all. Default 0.
    pub limit: u64,
    /// Seed of that draw. Default 0.
    pub seed: u64,
}

/// What a task gave.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_task_report {
    /// sizeof(llama_align_task_report), set by the caller.
    pub struct_size: u32,
    /// Metrics that follow.
    pub n_metrics: u32,
    /// Items measured.
    pub n_items: u64,
    /// Items left out as too long.
    pub n_too_long: u64,
    /// Means over the items, in the order of their names.
    pub values: [f64; LLAMA_ALIGN_TASK_METRICS_MAX],
    /// Their names, NUL-terminated.
    pub names: [[c_char; 24]; LLAMA_ALIGN_TASK_METRICS_MAX],
}

// SAFETY: numbers and characters only; no padding, as a test compares.
unsafe impl Struct for llama_align_task_params {
    const NAME: &'static str = "llama_align_task_params";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_task_report {
    const NAME: &'static str = "llama_align_task_report";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_task_params {
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            n_threads: 0,
            precision: LLAMA_ALIGN_PRECISION_AUTO,
            flags: 0,
            max_length: 0,
            n_predict: 0,
            limit: 0,
            seed: 0,
        }
    }
}

fn task(number: u32) -> Result<Task> {
    match number {
        LLAMA_ALIGN_TASK_PAIRS => Ok(Task::Pairs),
        LLAMA_ALIGN_TASK_NLL => Ok(Task::Nll),
        LLAMA_ALIGN_TASK_KL => Ok(Task::Kl),
        LLAMA_ALIGN_TASK_MC => Ok(Task::Mc),
        LLAMA_ALIGN_TASK_EXACT_MATCH => Ok(Task::ExactMatch),
        LLAMA_ALIGN_TASK_EM_F1 => Ok(Task::EmF1),
        other => Err(argument(format!("task: {other} is none of LLAMA_ALIGN_TASK_*"))),
    }
}

/// The parameters within their bounds.
fn checked(params: &llama_align_task_params, n_context: usize) -> Result<TaskParams> {
    let llama_align_task_params { flags, max_length, n_predict, limit, seed, .. } = *params;
    if flags & !LLAMA_ALIGN_TASK_NO_TEMPLATE != 0 {
        return Err(argument(format!("flags: {flags:#x} has a bit that is none of LLAMA_ALIGN_TASK_*")));
    }
    Ok(TaskParams {
        max_length: longest(max_length, n_context)?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
        seed,
        n_predict: n_predict as usize,
        apply_template: flags & LLAMA_ALIGN_TASK_NO_TEMPLATE == 0,
        ..TaskParams::default()
    })
}

fn measure(
    model: &ModelObject,
    adapter: Option<&AdapterObject>,
    task: Task,
    path: &Path,
    params: llama_align_task_params,
) -> Result<TaskReport> {
    let (task_params, n_threads) = (checked(&params, model.model.n_ctx_train())?, threads(params.n_threads));
    let form = precision(params.precision)?.form_for(&model.model)?;
    if task == Task::Kl && adapter.is_none() {
        return Err(argument("adapter is NULL, but LLAMA_ALIGN_TASK_KL measures its drift from the base"));
    }
    let items = load(task, path, &model.model, &task_params)?;
    let trace = if task.scores() { Some(model.checked(form, n_threads)?.0) } else { None };
    let subject = |adapter: Option<&AdapterObject>| -> Result<Subject> {
        let moved = || adapter.map(AdapterObject::moved).unwrap_or_default();
        let engine = match &trace {
            Some(trace) => Some(Engine::with_all(&model.model, trace, moved(), n_threads, form, 0.0)?),
            None => None,
        };
        let adapters = match adapter.filter(|_| !task.scores()) {
            Some(adapter) => vec![(loaded(model, adapter)?, 1.0)],
            None => Vec::new(),
        };
        Ok(Subject { model: model.model.clone(), engine, adapters, n_threads })
    };
    let mut base = if task == Task::Kl { Some(subject(None)?) } else { None };
    run(task, &items, &mut subject(adapter)?, base.as_mut(), &task_params, &mut |_, _| {})
}

/// The adapter as llama.cpp loads it: from a file, which is gone when it has been read.
fn loaded(model: &ModelObject, adapter: &AdapterObject) -> Result<Arc<Adapter>> {
    let fault = |e: std::io::Error| Error::new(Kind::Io, format!("a temporary file for the adapter: {e}"));
    let directory = tempfile::tempdir().map_err(fault)?;
    let path = directory.path().join("adapter.gguf");
    let ((_, lineage), lora) = (adapter.snapshot()?, adapter.only_factors()?);
    crate::adapter::export(&lora, &lineage, &path)?;
    Adapter::open(&model.model, &path)
}

impl llama_align_task_report {
    fn new(report: &TaskReport) -> Self {
        let mut out = Self {
            struct_size: 0,
            n_metrics: report.metrics.len().min(LLAMA_ALIGN_TASK_METRICS_MAX) as u32,
            n_items: report.n_items as u64,
            n_too_long: report.n_too_long as u64,
            values: [0.0; LLAMA_ALIGN_TASK_METRICS_MAX],
            names: [[0; 24]; LLAMA_ALIGN_TASK_METRICS_MAX],
        };
        for ((name, value), (to, room)) in report.metrics.iter().zip(out.values.iter_mut().zip(&mut out.names)) {
            *to = *value;
            fill(room, name);
        }
        out
    }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_task_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_task_params_init(
    params: *mut llama_align_task_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Runs one task. Tasks that score check the model first, unless a check of that precision has passed before. `model`
/// (borrowed): not NULL. `adapter` (borrowed): NULL for the model alone; made with the same model handle, and measured as it
/// is when the call begins; a task that generates writes it to a temporary file, which llama.cpp loads. `task`:
/// LLAMA_ALIGN_TASK_*. `path` (borrowed): the task's items, UTF-8. `params` (borrowed): NULL for the defaults. `out`
/// (borrowed): not NULL, struct_size set. Any thread, callback-safe. Errors: ARGUMENT, MISSING, IO, DATA, MISMATCH, CHECK,
/// UNSUPPORTED (also a task that generates with norms, biases or whole weights that moved: llama.cpp loads no such adapter), MEMORY,
/// POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_task_run(
    model: *const llama_align_model,
    adapter: *const llama_align_adapter,
    task: u32,
    path: *const c_char,
    params: *const llama_align_task_params,
    out: *mut llama_align_task_report,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        let adapter = (!adapter.is_null()).then(|| get::<AdapterObject>(adapter)).transpose()?;
        let task = self::task(task)?;
        // SAFETY: pointers are what the header asks for.
        let (path, params, out) = unsafe { (text(path, "path")?, read(params)?, Out::new(out)?) };
        if adapter.as_ref().is_some_and(|a| !Arc::ptr_eq(&a.model, &model.share())) {
            return Err(Error::new(Kind::Mismatch, "the adapter was made with another model handle"));
        }
        let run = || measure(&model, adapter.as_deref(), task, Path::new(path), params);
        let report = model.log.during(run)?;
        out.put(llama_align_task_report::new(&report));
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Writes report.html into a run directory, as `llama-align train` made it, from what else lies there. `directory` (borrowed):
/// not NULL. Any thread, callback-safe. Errors: ARGUMENT, MISSING, IO, FORMAT, UNSUPPORTED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_report_write(
    directory: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: `directory` is what the header asks for.
        write_page(Path::new(unsafe { text(directory, "directory") }?))?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
