//! One model out of several, or out of a model and its adapters, on GGUF files of any types.
//!
//! **In:** validated files, a method or adapters with scales, the types wanted. **Out:** a GGUF file with the first model's keys
//! and its lineage, and a report of how much of every tensor's change survived being stored. **Invariant:** inputs are never
//! written to; an output name holds a complete file or nothing; equal inputs give equal bytes, whatever the number of threads;
//! memory does not grow with the models.

mod blend;
mod codec;
mod combine;
mod compat;
mod evidence;
mod extract;
mod fidelity;
mod lineage;
mod method;
mod outtype;
mod pass;
mod recipe;
mod report;
mod run;
mod select;
mod sink;
mod task;

pub use combine::{add_update, gram, magnitude, slerp_coefficients, stock_coefficients, weighted_sum};
pub use evidence::{Evidence, Findings, Subject, PROMPTS, TEXT};
pub use extract::{extract, extract_changes, Extraction, Leaked};
pub use fidelity::Fidelity;
pub use method::{Method, TaskVectors, Thinning, Vectors, EPSILON, GAMMA};
pub use outtype::{Bound, OutType, TensorType};
pub(crate) use recipe::block_count;
pub use recipe::{cook, Recipe};
pub use report::{Progress, Report, TensorReport};
pub use task::{add_task_vectors, Cut, Draws};

use crate::adapter::{import, Change, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf::{check_fits, hash_on, validate_adapter, validate_model, Entry, File, Header, Imatrix};
use crate::runtime::Runtime;
use blend::Update;
use compat::{compare, match_tensors, Blocks, Source};
use lineage::{header, Lineage};
use pass::Workers;
use run::{Done, Job, Rule, Run};
use std::path::Path;

/// How the output is stored.
#[derive(Clone, Debug)]
pub struct Options {
    /// Types of the output's tensors.
    pub out: OutType,
    /// Types by tensor names; the first that fits counts, and before `out`, also for tensors that do not change.
    pub types: Vec<TensorType>,
    /// Importances for the encoders.
    pub imatrix: Option<Imatrix>,
    /// Most bytes of data per file of the output; one file where there is no limit.
    pub split_max_bytes: Option<u64>,
    /// Threads at work.
    pub threads: usize,
    /// Whether an existing output is replaced.
    pub overwrite: bool,
}

impl Default for Options {
    /// Types are kept, on one thread, and nothing is replaced.
    fn default() -> Self {
        Self {
            out: OutType::Keep,
            types: Vec::new(),
            imatrix: None,
            split_max_bytes: None,
            threads: 1,
            overwrite: false,
        }
    }
}

/// Merges models into `output`, or only computes what would come of it. `each` hears of every tensor that is done.
pub fn merge(
    runtime: &Runtime,
    models: &[&File],
    base: Option<&File>,
    method: &Method,
    options: &Options,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    method.validate(models.len(), base.is_some())?;
    let all: Vec<&File> = models.iter().copied().chain(base).collect();
    all.iter().try_for_each(|file| validate_model(file))?;
    let notes = compare(&all, Blocks::Stay)?;
    let jobs = match_tensors(&all)?.into_iter().map(|matched| {
        let mut sources = matched.sources;
        let entry = entry(&matched.name, &sources[0])?;
        // Changes are counted from the base, which therefore comes first.
        sources.rotate_right(usize::from(base.is_some()));
        Ok(Job { entry, sources, rule: Rule::Merge(method.clone()) })
    });
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    let lineage = Lineage {
        method: method.name(),
        parameters: method.parameters(),
        weights: method.weights().to_vec(),
        models: base.into_iter().chain(models.iter().copied()).collect(),
        adapters: Vec::new(),
    };
    let workers = Workers::new(options.threads)?;
    let header = header(models[0], &lineage, workers.pool())?;
    finish(Plan { runtime, jobs, options, workers, header }, &lineage, models[0], notes, output, each)
}

/// Folds adapters, each with its scale, into a model. Tensors that no adapter changes are copied, whatever type is wanted.
pub fn fold(
    runtime: &Runtime,
    base: &File,
    adapters: &[(&File, f32)],
    options: &Options,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    if adapters.is_empty() {
        return Err(Error::new(Kind::Argument, "no adapter to fold"));
    }
    fold_all(runtime, base, adapters, None, options, output, each)
}

/// Folds adapters and changes of other weights, norms and biases that were trained beside an adapter, into a model.
///
/// # Errors
/// If an adapter and the changes hold the same weight.
pub fn fold_all(
    runtime: &Runtime,
    base: &File,
    adapters: &[(&File, f32)],
    changes: Option<(&File, &[Change])>,
    options: &Options,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    validate_model(base)?;
    // Adapters are asked whether they are this base's: all threads compute its fingerprint, once.
    let workers = Workers::new(options.threads)?;
    hash_on(base, workers.pool());
    let loras = adapters.iter().map(|&(file, scale)| Ok((foldable(file, base)?, scale)));
    let loras = loras.collect::<Result<Vec<(Lora, f32)>>>()?;
    let jobs = base.tensors().iter().map(|tensor| {
        let source = Source { file: base, tensor };
        let updates: Vec<Update> =
            loras.iter().filter_map(|(lora, scale)| update(lora, *scale, &tensor.name)).collect();
        let changed = changes.and_then(|(_, changes)| changes.iter().find(|c| c.weight == tensor.name));
        let rule = match (updates.is_empty(), changed) {
            (true, None) => Rule::Copy,
            (true, Some(change)) => Rule::Change(change),
            (false, None) => Rule::Fold(updates),
            (false, Some(_)) => {
                let message = format!("tensor {}: an adapter adapts it and --change changes it as well", tensor.name);
                return Err(Error::new(Kind::Mismatch, message));
            }
        };
        Ok(Job { entry: entry(&tensor.name, &source)?, sources: vec![source], rule })
    });
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    let scales = adapters.iter().map(|(_, scale)| f64::from(*scale));
    let lineage = Lineage {
        method: "fold",
        parameters: Vec::new(),
        weights: scales.chain(changes.map(|_| 1.0)).collect(),
        models: vec![base],
        adapters: adapters.iter().map(|(file, _)| *file).chain(changes.map(|(file, _)| file)).collect(),
    };
    let header = header(base, &lineage, workers.pool())?;
    finish(Plan { runtime, jobs, options, workers, header }, &lineage, base, Vec::new(), output, each)
}

/// Whether models belong together: architecture, sizes, vocabulary, tensors. Returns what differs without harm.
///
/// # Errors
/// [`Kind::Mismatch`], naming the key or tensor.
pub fn check_mergeable(models: &[&File]) -> Result<Vec<String>> {
    let notes = compare(models, Blocks::Stay)?;
    match_tensors(models)?;
    Ok(notes)
}

/// Blends two models into `output`, or only computes what would come of it: each tensor is the weighted mean, `share` giving the
/// weight of the model before by the tensor's name. Keys and types are those of the model after, and changes are counted from it.
/// `numbers` go into the file beside the method's name.
#[allow(clippy::too_many_arguments)]
pub fn average(
    runtime: &Runtime,
    [before, after]: [&File; 2],
    share: &dyn Fn(&str) -> f64,
    numbers: &[(&str, f64)],
    options: &Options,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    let all = [after, before];
    all.iter().try_for_each(|file| validate_model(file))?;
    let notes = compare(&all, Blocks::Stay)?;
    let jobs = match_tensors(&all)?.into_iter().map(|matched| {
        let entry = entry(&matched.name, &matched.sources[0])?;
        let before = share(&matched.name);
        let method = Method::Linear { weights: vec![1.0 - before, before], normalize: false };
        Ok(Job { entry, sources: matched.sources, rule: Rule::Merge(method) })
    });
    let jobs = jobs.collect::<Result<Vec<_>>>()?;
    let (models, adapters) = (all.to_vec(), Vec::new());
    let lineage = Lineage { method: "average", parameters: numbers.to_vec(), weights: Vec::new(), models, adapters };
    let workers = Workers::new(options.threads)?;
    let header = header(after, &lineage, workers.pool())?;
    finish(Plan { runtime, jobs, options, workers, header }, &lineage, after, notes, output, each)
}

/// Adds changes of whole weights to a model. Tensors that nothing changes are copied, whatever type is wanted, and so are rows of
/// the others where the type stays.
pub fn fold_changes(
    runtime: &Runtime,
    base: &File,
    changes: (&File, &[Change]),
    options: &Options,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    fold_all(runtime, base, &[], Some(changes), options, output, each)
}

/// All that is to be done.
struct Plan<'a> {
    runtime: &'a Runtime,
    jobs: Vec<Job<'a>>,
    options: &'a Options,
    workers: Workers,
    header: Header,
}

/// Carries a plan out. `tokens` is the file whose tokenizer the output has.
fn finish(
    plan: Plan,
    lineage: &Lineage,
    tokens: &File,
    notes: Vec<String>,
    output: Option<&Path>,
    each: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    let Plan { runtime, jobs, options, workers, header } = plan;
    let inputs = lineage.models.iter().chain(&lineage.adapters).copied().collect();
    let run = Run { runtime, jobs, options, workers: &workers, inputs };
    let Done { tensors, bytes, files } = run.run(header, output, each)?;
    Ok(Report {
        method: lineage.method.to_owned(),
        tensors,
        bytes,
        files,
        keys_from: tokens.path().display().to_string(),
        has_template: tokens.get("tokenizer.chat_template").is_some(),
        notes,
        evidence: None,
    })
}

fn entry(name: &str, source: &Source) -> Result<Entry> {
    Entry::new(name, source.tensor.ty, &source.tensor.ne[..source.tensor.n_dims as usize])
}

/// An adapter's factors, if they belong to this base and are what llama.cpp applies to whole matrices, always.
fn foldable(file: &File, base: &File) -> Result<Lora> {
    let info = validate_adapter(file)?;
    let unsupported = |what: String| Err(Error::new(Kind::Unsupported, format!("{}: {what}", file.path().display())));
    // llama.cpp flips the factors of embeddings, and skips those of norms.
    for pair in &info.pairs {
        if pair.weight.ends_with("token_embd.weight") || pair.weight.ends_with("_norm.weight") {
            return unsupported(format!("it adapts {}, which cannot be folded", pair.weight));
        }
        let is_stack = base.tensor(&pair.weight).is_some_and(|t| t.ne[2] * t.ne[3] != 1);
        if is_stack && !pair.weight.ends_with("_exps.weight") {
            return unsupported(format!(
                "it adapts {}, a stack of matrices that are no experts, which cannot be folded",
                pair.weight
            ));
        }
    }
    if file.get("adapter.alora.invocation_tokens").is_some() {
        return unsupported("it acts after certain tokens only (aLoRA) and cannot be folded".to_owned());
    }
    check_fits(&info, base)?;
    import(file)
}

/// An adapter's part in a weight, if it changes anything.
fn update<'a>(lora: &'a Lora, scale: f32, weight: &str) -> Option<Update<'a>> {
    let factor = lora.factors.iter().find(|f| f.weight == weight)?;
    // An alpha of 0 means none, as in llama.cpp.
    let alpha = factor.alpha.unwrap_or(lora.alpha);
    let scale = if alpha == 0.0 { scale } else { scale * alpha / factor.rank as f32 };
    (scale != 0.0 && factor.b.iter().any(|&b| b != 0.0)).then_some(Update { factor, scale })
}
