//! `llama_align_merge_files`, `llama_align_fold_files`: models, or a model and adapters, become one model.

use super::guard::guard;
use super::model::threads;
use super::params::{init, read, Out, Params, Struct};
use super::runtime::built_in;
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, text, texts};
use super::LLAMA_ALIGN_OK;
use crate::adapter::{import_changes, is_changes};
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File};
use crate::merge::{cook, fold_all, Bound, Evidence, Options, OutType, Recipe, Report};
use std::ffi::c_char;
use std::path::Path;

/// An existing output is replaced.
pub const LLAMA_ALIGN_MERGE_OVERWRITE: u32 = 1;
/// Inputs and output are asked for likelihoods and answers, which the report then holds; it needs a report.
pub const LLAMA_ALIGN_MERGE_VERIFY: u32 = 2;

/// How a merged model is stored. Fill it in with llama_align_merge_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_merge_params {
    /// sizeof(llama_align_merge_params).
    pub struct_size: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// LLAMA_ALIGN_MERGE_* bits. Default 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// With the type "auto": cosine of wanted and realised change below which a tensor's type is raised, [0, 1]. 0 where min_gain
    /// decides; both 0 stand for a cosine of 0.9. Default 0.
    pub min_cosine: f64,
    /// With the type "auto": share of the wanted change, noise aside, below which a tensor's type is raised, [0, 1]. Default 0.
    pub min_gain: f64,
}

/// What a merge did. Numbers that there are none of are NaN: where nothing changed, all of fidelity.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_merge_report {
    /// sizeof(llama_align_merge_report), set by the caller.
    pub struct_size: u32,
    /// 1 if the output has a chat template.
    pub has_template: u32,
    /// Tensors of the output.
    pub n_tensors: u64,
    /// Those whose bytes are an input's.
    pub n_copied: u64,
    /// Those that "auto" stored in a larger type.
    pub n_raised: u64,
    /// Length of the output in bytes.
    pub n_bytes: u64,
    /// Cosine of the wanted and the realised change, all changed tensors together, [-1, 1].
    pub cosine: f64,
    /// The realised change along the wanted one, over the wanted one.
    pub gain: f64,
    /// Length of the realised change over that of the wanted one.
    pub norm_ratio: f64,
    /// Root of the mean square of the difference, per value.
    pub rmse: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_merge_params {
    const NAME: &'static str = "llama_align_merge_params";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_merge_report {
    const NAME: &'static str = "llama_align_merge_report";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_merge_params {
    fn defaults() -> Self {
        let struct_size = size_of::<Self>() as u32;
        Self { struct_size, n_threads: 0, flags: 0, reserved: 0, min_cosine: 0.0, min_gain: 0.0 }
    }
}

impl llama_align_merge_params {
    /// The options, and whether evidence is wanted.
    pub(super) fn options(
        self,
        out_type: Option<&str>,
        own_type: OutType,
        has_report: bool,
    ) -> Result<(Options, bool)> {
        let Self { struct_size: _, n_threads, flags, reserved, min_cosine, min_gain } = self;
        let (overwrite, verify) = (flags & LLAMA_ALIGN_MERGE_OVERWRITE != 0, flags & LLAMA_ALIGN_MERGE_VERIFY != 0);
        if flags & !(LLAMA_ALIGN_MERGE_OVERWRITE | LLAMA_ALIGN_MERGE_VERIFY) != 0 || reserved != 0 {
            return Err(argument(format!("flags: {flags:#x}, reserved: {reserved}: a bit without a meaning is set")));
        }
        if verify && !has_report {
            return Err(argument("LLAMA_ALIGN_MERGE_VERIFY needs a report_path"));
        }
        for (name, min) in [("min_cosine", min_cosine), ("min_gain", min_gain)] {
            if !(0.0..=1.0).contains(&min) {
                return Err(argument(format!("{name}: {min} is outside 0 to 1")));
            }
        }
        let bound = match (min_cosine > 0.0, min_gain > 0.0) {
            (true, true) => return Err(argument("min_cosine and min_gain: one of them must be 0")),
            (true, false) => Bound::Cosine(min_cosine),
            (false, true) => Bound::Gain(min_gain),
            (false, false) => Bound::default(),
        };
        let out = out_type.map_or(Ok(own_type), |name| OutType::from_name(name, bound))?;
        if out.bound().is_none() && (min_cosine > 0.0 || min_gain > 0.0) {
            return Err(argument("min_cosine and min_gain are for the type \"auto\""));
        }
        Ok((Options { out, threads: threads(n_threads), overwrite, ..Options::default() }, verify))
    }
}

impl llama_align_merge_report {
    pub(super) fn new(report: &Report) -> Self {
        let (all, or_nan) = (report.overall(), |value: Option<f64>| value.unwrap_or(f64::NAN));
        Self {
            struct_size: 0,
            has_template: u32::from(report.has_template),
            n_tensors: report.tensors.len() as u64,
            n_copied: report.copied() as u64,
            n_raised: report.raised() as u64,
            n_bytes: report.bytes,
            cosine: or_nan(all.cosine()),
            gain: or_nan(all.gain()),
            norm_ratio: or_nan(all.norm_ratio()),
            rmse: if all.cosine().is_some() { all.rmse() } else { f64::NAN },
        }
    }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_merge_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_merge_params_init(
    params: *mut llama_align_merge_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Where a merge goes and how: the arguments that all of them have.
struct Order<'a> {
    output: &'a Path,
    report: Option<&'a Path>,
    options: Options,
    verify: bool,
    told: Option<Out<llama_align_merge_report>>,
}

impl<'a> Order<'a> {
    /// Checks the arguments. `own_type` stands for `out_type` where that is NULL; `inputs` are files that are read.
    ///
    /// # Safety
    /// Pointers are what the header asks for, and alive as long as this.
    unsafe fn new(
        (out_type, own_type): (*const c_char, OutType),
        params: *const llama_align_merge_params,
        (output_path, report_path): (*const c_char, *const c_char),
        report: *mut llama_align_merge_report,
        inputs: &[&str],
    ) -> Result<Self> {
        // SAFETY: by the caller.
        let output = unsafe { text(output_path, "output_path") }?;
        // SAFETY: as above.
        let optional = |ptr: *const c_char, name| (!ptr.is_null()).then(|| unsafe { text(ptr, name) }).transpose();
        let (out_type, report_path) = (optional(out_type, "out_type")?, optional(report_path, "report_path")?);
        // SAFETY: as above.
        let (params, told) = unsafe { (read(params)?, Out::optional(report)?) };
        let (options, verify) = params.options(out_type, own_type, report_path.is_some())?;
        if let Some(path) = report_path {
            check_report(Path::new(path), &[inputs, &[output]].concat())?;
        }
        Ok(Self { output: Path::new(output), report: report_path.map(Path::new), options, verify, told })
    }

    /// Asks the models where that is wanted, and tells what was done.
    fn finish(self, mut done: Report, models: &[&Path], adapters: &[(&Path, f32)]) -> Result<llama_align_status> {
        if self.verify {
            let (runtime, n_threads) = (built_in()?, self.options.threads);
            done.evidence = Some(Evidence::of_merge(&runtime, models, adapters, self.output, n_threads));
        }
        if let Some(path) = self.report {
            write_atomically(path, format!("{:#}\n", done.to_json()).as_bytes())?;
        }
        if let Some(told) = self.told {
            told.put(llama_align_merge_report::new(&done));
        }
        Ok(LLAMA_ALIGN_OK)
    }
}

/// Merges model files as a recipe says, tensor by tensor in bounded memory. The output is complete under its name, or what was there
/// before stays; inputs are never written to. `recipe` (borrowed): a document in YAML in mergekit's words (merge_method, models,
/// base_model, parameters, slices), whose models are paths of GGUF files; not NULL. `seed`: of methods that draw. `out_type`
/// (borrowed): "keep", "auto", or a type such as "Q8_0" for every matrix; NULL for the recipe's, or "keep". `params` (borrowed): NULL
/// for the defaults. `output_path` (borrowed): not NULL. `report_path` (borrowed): a file for all that is known of the result, in
/// JSON, or NULL; it replaces what is there. `report` (borrowed): NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISSING, IO,
/// FORMAT, MISMATCH, UNSUPPORTED, NUMERIC, OUTPUT. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_merge_files(
    recipe: *const c_char,
    seed: u64,
    out_type: *const c_char,
    params: *const llama_align_merge_params,
    output_path: *const c_char,
    report_path: *const c_char,
    report: *mut llama_align_merge_report,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let mut recipe = Recipe::parse(unsafe { text(recipe, "recipe") }?, "recipe")?;
        recipe.seed = seed;
        let models: Vec<String> = recipe.models().into_iter().map(str::to_owned).collect();
        let names: Vec<&str> = models.iter().map(String::as_str).collect();
        let own_type = recipe.out_type().map_or(OutType::Keep, OutType::Named);
        // SAFETY: as above.
        let order = unsafe { Order::new((out_type, own_type), params, (output_path, report_path), report, &names) }?;
        let files = models.iter().map(|path| File::open(Path::new(path))).collect::<Result<Vec<_>>>()?;
        let done = cook(&*built_in()?, &recipe, &files, &order.options, Some(order.output), &mut |_| {})?;
        let paths: Vec<&Path> = models.iter().map(Path::new).collect();
        order.finish(done, &paths, &[])
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Folds adapter files, and a file of changes (llama_align_adapter_save_change()), into a model file, tensor by tensor in bounded memory. The output is complete under its name, or what was
/// there before stays; inputs are never written to. `model_path` (borrowed): not NULL. `adapter_paths` (borrowed): `n_adapters`
/// files, at least one, one of changes at most. `scales` (borrowed): as many; NULL for 1 each; 1 for changes. `out_type` (borrowed): "keep", "auto", or a type such as
/// "Q8_0" for every matrix that changes; NULL is "keep". `params` (borrowed): NULL for the defaults. `output_path` (borrowed): not
/// NULL. `report_path` (borrowed): a file for all that is known of the result, in JSON, or NULL; it replaces what is there. `report`
/// (borrowed): NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH, UNSUPPORTED, NUMERIC,
/// OUTPUT. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_fold_files(
    model_path: *const c_char,
    adapter_paths: *const *const c_char,
    scales: *const f32,
    n_adapters: usize,
    out_type: *const c_char,
    params: *const llama_align_merge_params,
    output_path: *const c_char,
    report_path: *const c_char,
    report: *mut llama_align_merge_report,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let model = unsafe { text(model_path, "model_path") }?;
        // SAFETY: as above.
        let adapters = unsafe { texts(adapter_paths, n_adapters, "adapter_paths") }?;
        let scales = match scales.is_null() {
            true => vec![1.0; adapters.len()],
            // SAFETY: as above.
            false => unsafe { array(scales, n_adapters, "scales") }?.to_vec(),
        };
        if let Some(i) = scales.iter().position(|s| !s.is_finite()) {
            return Err(argument(format!("scales[{i}]: {} is no finite number", scales[i])));
        }
        let inputs: Vec<&str> = adapters.iter().map(String::as_str).chain([model]).collect();
        let keep = (out_type, OutType::Keep);
        // SAFETY: as above.
        let order = unsafe { Order::new(keep, params, (output_path, report_path), report, &inputs) }?;
        let base = File::open(Path::new(model))?;
        let files = adapters.iter().map(|path| File::open(Path::new(path))).collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            return Err(argument("n_adapters is 0"));
        }
        let (of_changes, list): (Vec<_>, Vec<_>) =
            files.iter().zip(scales.iter().copied()).partition(|(file, _)| is_changes(file));
        if let Some((file, scale)) = of_changes.iter().find(|(_, scale)| *scale != 1.0) {
            return Err(argument(format!(
                "scales: {scale} for {}; changes have no scale but 1",
                file.path().display()
            )));
        }
        if of_changes.len() > 1 {
            return Err(argument("adapter_paths: more than one file of changes"));
        }
        let changes = of_changes.first().map(|(file, _)| Ok((*file, import_changes(file, &base)?))).transpose()?;
        let changes = changes.as_ref().map(|(file, changes)| (*file, changes.as_slice()));
        let done = fold_all(&*built_in()?, &base, &list, changes, &order.options, Some(order.output), &mut |_| {})?;
        // What llama.cpp applies as an adapter is not all that was folded where weights changed as well.
        let applied = adapters.iter().map(Path::new).zip(scales).filter(|_| changes.is_none());
        order.finish(done, &[Path::new(model)], &applied.collect::<Vec<(&Path, f32)>>())
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Before anything is done: the report's file is no other of the call, and can lie where it is wanted.
pub(super) fn check_report(path: &Path, others: &[&str]) -> Result<()> {
    let real = path.canonicalize().ok();
    let same =
        |other: &str| Path::new(other) == path || (real.is_some() && Path::new(other).canonicalize().ok() == real);
    if let Some(other) = others.iter().find(|other| same(other)) {
        return Err(argument(format!("report_path: {} is another file of the call: {other}", path.display())));
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let problem = match (parent.is_dir(), path.is_dir()) {
        (false, _) => "its directory does not exist",
        (_, true) => "is a directory",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Output, format!("{}: {problem}", path.display())))
}
