//! `llama_align_hma`: ratios between a model before and after alignment, and what is made with them.

use super::adapter::{llama_align_adapter, AdapterObject};
use super::dataset::{llama_align_dataset, DatasetObject};
use super::guard::{create, guard};
use super::handle::{get, Use};
use super::merge::{check_report, llama_align_merge_params, llama_align_merge_report};
use super::model::{llama_align_model, precision, threads, ModelObject, LLAMA_ALIGN_PRECISION_AUTO};
use super::params::{init, read, Out, Params, Struct};
use super::runtime::built_in;
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, array_mut, text};
use super::LLAMA_ALIGN_OK;
use crate::data::Sequence;
use crate::engine::Form;
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File};
use crate::hma::{
    search, Blended, Found, GroupRule, Groups, Others, Penalty, Ratios, Responses, SearchParams, Shares, Side, Solver,
};
use crate::merge::{average, block_count, OutType};
use crate::train::TrainConfig;
use std::ffi::c_char;
use std::path::Path;
use std::sync::Arc;

/// Exact slopes from activations.
pub const LLAMA_ALIGN_SOLVER_GRADIENT: u32 = 0;
/// Likelihoods alone: the simplex method of Nelder and Mead.
pub const LLAMA_ALIGN_SOLVER_NELDER_MEAD: u32 = 1;

/// Groups of equal size, the last ones larger where it does not divide.
pub const LLAMA_ALIGN_GROUPS_PAPER: u32 = 0;
/// Groups as the paper's authors' code makes them.
pub const LLAMA_ALIGN_GROUPS_RELEASED: u32 = 1;

/// Embeddings and norms are those of the model before.
pub const LLAMA_ALIGN_OTHERS_FAITHFUL: u32 = 0;
/// Embeddings and norms are averaged with the ratios' mean.
pub const LLAMA_ALIGN_OTHERS_UNIFORM: u32 = 1;

/// How ratios are searched. Fill it in with llama_align_hma_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_hma_params {
    /// sizeof(llama_align_hma_params).
    pub struct_size: u32,
    /// Threads; 0 is the number of cores. Default 0.
    pub n_threads: u32,
    /// LLAMA_ALIGN_PRECISION_*. Default AUTO.
    pub precision: u32,
    /// Tokens of one forward at most, 1 to 1048576; a row that is longer goes alone. Default 1024.
    pub micro_batch_tokens: u32,
    /// LLAMA_ALIGN_SOLVER_*. Default GRADIENT.
    pub solver: u32,
    /// LLAMA_ALIGN_GROUPS_*. Default PAPER.
    pub group_rule: u32,
    /// Groups of blocks with a ratio each; 0: every block. Default 3.
    pub n_groups: u32,
    /// LLAMA_ALIGN_OTHERS_*: what embeddings and norms of two models are. Default FAITHFUL.
    pub others: u32,
    /// Passes over the responses (GRADIENT), at most 10000; 0, the default: 3, or as many as make 50 steps.
    pub epochs: u32,
    /// Responses per step (GRADIENT), 0 for all. Default 16.
    pub batch_size: u32,
    /// Evaluations of all responses at most (NELDER_MEAD), 1 to 1000000. Default 60.
    pub evaluations: u32,
    /// 0.
    pub reserved: u32,
    /// Mean weight of the model before alignment, inside 0 to 1. Default 0.2.
    pub pre_weight: f64,
    /// How little ratios may differ, from 0 on; what lets a ratio exceed 1 is an error. Default 0.2.
    pub epsilon: f64,
    /// First step in the space of the ratios' logits (GRADIENT), above 0. Default 0.2.
    pub learning_rate: f64,
    /// Strength of the regulariser that holds ratios near their mean, from 0 on. Default 0: none.
    pub rho: f64,
    /// Seed of the order of responses. Default 0.
    pub seed: u64,
}

/// What a search found.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_hma_report {
    /// sizeof(llama_align_hma_report), set by the caller.
    pub struct_size: u32,
    /// Groups.
    pub n_groups: u32,
    /// Responses.
    pub n_responses: u64,
    /// Their tokens that count.
    pub n_tokens: u64,
    /// Responses passed forward, once for each time.
    pub n_forwards: u64,
    /// Negative log-likelihood per token of the responses under the model before.
    pub nll_before: f64,
    /// Under the model after.
    pub nll_after: f64,
    /// At uniform ratios.
    pub nll_uniform: f64,
    /// At the ratios that were found.
    pub nll: f64,
    /// The least that a ratio may be.
    pub ratio_min: f64,
    /// The largest that it may be.
    pub ratio_max: f64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_hma_params {
    const NAME: &'static str = "llama_align_hma_params";
    const BYTES_V1: usize = size_of::<Self>();
}

// SAFETY: as above.
unsafe impl Struct for llama_align_hma_report {
    const NAME: &'static str = "llama_align_hma_report";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_hma_params {
    fn defaults() -> Self {
        let SearchParams { learning_rate, epochs, batch_size, evaluations, .. } = SearchParams::default();
        Self {
            struct_size: size_of::<Self>() as u32,
            n_threads: 0,
            precision: LLAMA_ALIGN_PRECISION_AUTO,
            micro_batch_tokens: TrainConfig::default().micro_batch_tokens as u32,
            solver: LLAMA_ALIGN_SOLVER_GRADIENT,
            group_rule: LLAMA_ALIGN_GROUPS_PAPER,
            n_groups: 3,
            others: LLAMA_ALIGN_OTHERS_FAITHFUL,
            epochs: epochs as u32,
            batch_size: batch_size as u32,
            evaluations: evaluations as u32,
            reserved: 0,
            pre_weight: 0.2,
            epsilon: Ratios::EPSILON,
            learning_rate,
            rho: 0.0,
            seed: 0,
        }
    }
}

/// The parameters, checked.
struct Plan {
    params: SearchParams,
    form: Form,
    n_threads: usize,
    max_tokens: usize,
    ratios: Ratios,
    groups: Groups,
    others: Others,
}

fn others(number: u32) -> Result<Others> {
    match number {
        LLAMA_ALIGN_OTHERS_FAITHFUL => Ok(Others::Faithful),
        LLAMA_ALIGN_OTHERS_UNIFORM => Ok(Others::Uniform),
        _ => Err(argument(format!("others: {number} is no LLAMA_ALIGN_OTHERS_*"))),
    }
}

impl llama_align_hma_params {
    fn plan(self, n_layers: usize) -> Result<Plan> {
        let Self { struct_size: _, n_threads, precision: wanted, micro_batch_tokens, solver, .. } = self;
        let Self { group_rule, n_groups, others: of_others, epochs, batch_size, evaluations, reserved, .. } = self;
        let Self { pre_weight, epsilon, learning_rate, rho, seed, .. } = self;
        let solver = match solver {
            LLAMA_ALIGN_SOLVER_GRADIENT => Solver::Gradient,
            LLAMA_ALIGN_SOLVER_NELDER_MEAD => Solver::NelderMead,
            _ => return Err(argument(format!("solver: {solver} is no LLAMA_ALIGN_SOLVER_*"))),
        };
        let rule = match group_rule {
            LLAMA_ALIGN_GROUPS_PAPER => GroupRule::Paper,
            LLAMA_ALIGN_GROUPS_RELEASED => GroupRule::Released,
            _ => return Err(argument(format!("group_rule: {group_rule} is no LLAMA_ALIGN_GROUPS_*"))),
        };
        if reserved != 0 {
            return Err(argument(format!("reserved: {reserved} is not 0")));
        }
        let precision = precision(wanted)?;
        let max_tokens = micro_batch_tokens as usize;
        // The bounds of a run's configuration.
        let config = TrainConfig { precision, micro_batch_tokens: max_tokens, ..TrainConfig::default() }.resolve()?;
        let count = if n_groups == 0 { "layers".to_owned() } else { n_groups.to_string() };
        let groups = Groups::parse(&count, rule, n_layers)?;
        let penalty = Penalty { rho, ..Penalty::default() };
        let (epochs, batch_size, evaluations) = (epochs as usize, batch_size as usize, evaluations as usize);
        let params = SearchParams { solver, penalty, learning_rate, epochs, batch_size, evaluations, seed };
        params.validate()?;
        let ratios = Ratios::new(pre_weight, epsilon, groups.n_groups())?;
        let (form, n_threads, others) = (config.precision.form(), threads(n_threads), others(of_others)?);
        Ok(Plan { params, form, n_threads, max_tokens, ratios, groups, others })
    }
}

/// What aligns the model.
enum After {
    Adapter(Use<AdapterObject>),
    Model(Use<ModelObject>),
}

fn blended(rows: &DatasetObject, after: &After, plan: &Plan) -> Result<Blended> {
    let before = &rows.model;
    let (trace, _) = before.checked(plan.form, plan.n_threads)?;
    match after {
        After::Adapter(adapter) => {
            let lora = adapter.only_factors()?;
            Blended::of_adapter(&before.model, &trace, &lora, plan.n_threads, plan.form)
        }
        After::Model(model) => {
            let (theirs, _) = model.checked(plan.form, plan.n_threads)?;
            let ours = Side { model: &before.model, trace: &trace, file: before.file()? };
            let after = Side { model: &model.model, trace: &theirs, file: model.file()? };
            Blended::of_models(ours, after, plan.n_threads, plan.form)
        }
    }
}

/// The search, and the likelihoods under both models.
fn found(rows: &DatasetObject, after: &After, plan: &Plan) -> Result<(Found, [f64; 2], [u64; 2])> {
    let mut blended = blended(rows, after, plan)?;
    let n_layers = blended.n_layers();
    let sequences: Vec<&Sequence> = rows.data.samples.iter().filter_map(|s| s.sequences().next()).collect();
    let n_linears = blended.n_linears();
    let (mean, others) = (plan.ratios.mean(), plan.others);
    let shares = Shares { layers: vec![mean; n_layers], mean, others };
    let (blended_ref, max_tokens) = (&mut blended, plan.max_tokens);
    let mut objective = Responses { blended: blended_ref, sequences: sequences.clone(), shares, max_tokens };
    let found = search(&mut objective, &plan.groups, &plan.ratios, &n_linears, &plan.params, &mut |_| true)?;
    let mut n_tokens = 0;
    let mut alone = |share: f64| -> Result<f64> {
        blended.set(&Shares::uniform(share, n_layers));
        let total = blended.nll(&sequences, plan.max_tokens)?;
        n_tokens = total.n_tokens;
        Ok(total.mean())
    };
    let ends = [alone(1.0)?, alone(0.0)?];
    Ok((found, ends, [sequences.len() as u64, n_tokens as u64]))
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_hma_params). Errors: ARGUMENT. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_hma_params_init(
    params: *mut llama_align_hma_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Finds, between a model before and after alignment, a weight for each group of blocks (heterogeneous model averaging), so that
/// the blend still finds the aligned model's responses likely. No model is written. `responses` (borrowed): the aligned model's
/// answers; its model is the one before alignment; of pairs the chosen answer counts. `adapter` (borrowed): what aligns the model,
/// made with the same model handle, or NULL. `after` (borrowed): the aligned model, of the same architecture, sizes and vocabulary,
/// or NULL; exactly one of both is given. `params` (borrowed): NULL for the defaults. `ratios` (borrowed): room for a weight of the
/// model before for every block, 1 minus which is that of the model after; `n_ratios` is the number of blocks. `report` (borrowed):
/// NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISMATCH, CHECK, UNSUPPORTED (also a host's model without its file),
/// NUMERIC, MEMORY, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_hma(
    responses: *const llama_align_dataset,
    adapter: *const llama_align_adapter,
    after: *const llama_align_model,
    params: *const llama_align_hma_params,
    ratios: *mut f64,
    n_ratios: usize,
    report: *mut llama_align_hma_report,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let rows = get::<DatasetObject>(responses)?;
        let adapter = (!adapter.is_null()).then(|| get::<AdapterObject>(adapter)).transpose()?;
        let model = (!after.is_null()).then(|| get::<ModelObject>(after)).transpose()?;
        // SAFETY: pointers are what the header asks for.
        let (params, told) = unsafe { (read(params)?, Out::optional(report)?) };
        let after = match (adapter, model) {
            (Some(adapter), None) if !Arc::ptr_eq(&adapter.model, &rows.model) => {
                let message = "adapter and responses were made with different model handles";
                return Err(Error::new(Kind::Mismatch, message));
            }
            (Some(adapter), None) => After::Adapter(adapter),
            (None, Some(model)) => After::Model(model),
            _ => return Err(argument("exactly one of adapter and after is given")),
        };
        let n_layers = rows.model.model.n_layer();
        let plan = params.plan(n_layers)?;
        if n_ratios != n_layers {
            return Err(argument(format!("n_ratios: {n_ratios} for a model of {n_layers} blocks")));
        }
        // SAFETY: as above.
        let room = unsafe { array_mut(ratios, n_ratios, "ratios") }?;
        let (found, [nll_before, nll_after], [n_responses, n_tokens]) =
            rows.model.log.during(|| found(&rows, &after, &plan))?;
        room.copy_from_slice(&plan.groups.spread(&found.ratios));
        if let Some(told) = told {
            let [ratio_min, ratio_max] = plan.ratios.bounds();
            told.put(llama_align_hma_report {
                struct_size: 0,
                n_groups: plan.groups.n_groups() as u32,
                n_responses,
                n_tokens,
                n_forwards: found.n_forwards as u64,
                nll_before,
                nll_after,
                nll_uniform: found.nll_uniform,
                nll: found.nll,
                ratio_min,
                ratio_max,
            });
        }
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Makes an adapter whose part in every block is multiplied by a number, folded into its factors: 1 minus a ratio of
/// llama_align_hma(). `adapter` (borrowed): not NULL; it stays as it is. `scales` (borrowed): finite, one for each of the model's
/// `n_scales` blocks. `out` (owned): not NULL; NULL is written on failure. Any thread, callback-safe. Errors: ARGUMENT, NUMERIC,
/// POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_scale_blocks(
    adapter: *const llama_align_adapter,
    scales: *const f64,
    n_scales: usize,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        let n_layers = adapter.model.model.n_layer();
        if n_scales != n_layers {
            return Err(argument(format!("n_scales: {n_scales} for a model of {n_layers} blocks")));
        }
        // SAFETY: pointers are what the header asks for.
        let scales = unsafe { array(scales, n_scales, "scales") }?;
        if let Some(i) = scales.iter().position(|s| !s.is_finite()) {
            return Err(argument(format!("scales[{i}]: {} is no finite number", scales[i])));
        }
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        // What is in no block has the mean.
        let mean = scales.iter().sum::<f64>() / scales.len().max(1) as f64;
        let layers = scales.iter().map(|s| 1.0 - s).collect();
        let shares = Shares { layers, mean: 1.0 - mean, others: Others::Faithful };
        let lora = adapter.only_factors()?;
        let scaled = lora.scaled_by(&|weight| 1.0 - shares.of(weight, false))?;
        Ok(AdapterObject::new(adapter.model.clone(), scaled, "hma"))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Writes the weighted mean of a model before and after alignment, tensor by tensor in bounded memory. Keys and types are those of
/// the model after. The output is complete under its name, or what was there before stays; inputs are never written to.
/// `before_path`, `after_path` (borrowed): not NULL. `ratios` (borrowed): weight of the model before in every block, 0 to 1;
/// `n_ratios`: 1, for the same everywhere, or the number of blocks; the head has their mean. `others`: LLAMA_ALIGN_OTHERS_*.
/// `out_type` (borrowed): as for llama_align_fold_files(). `params` (borrowed): NULL for the defaults; without VERIFY. `output_path`
/// (borrowed): not NULL. `report_path` (borrowed): a file for all that is known of the result, in JSON, or NULL; it replaces what is
/// there. `report` (borrowed): NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH, UNSUPPORTED,
/// NUMERIC, OUTPUT. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_average_files(
    before_path: *const c_char,
    after_path: *const c_char,
    ratios: *const f64,
    n_ratios: usize,
    others: u32,
    out_type: *const c_char,
    params: *const llama_align_merge_params,
    output_path: *const c_char,
    report_path: *const c_char,
    report: *mut llama_align_merge_report,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let (before, after, output) = unsafe {
            (text(before_path, "before_path")?, text(after_path, "after_path")?, text(output_path, "output_path")?)
        };
        // SAFETY: as above.
        let ratios = unsafe { array(ratios, n_ratios, "ratios") }?;
        if let Some(i) = ratios.iter().position(|r| !(0.0..=1.0).contains(r)) {
            return Err(argument(format!("ratios[{i}]: {} is outside 0 to 1", ratios[i])));
        }
        let others = self::others(others)?;
        // SAFETY: as above.
        let optional = |ptr: *const c_char, name| (!ptr.is_null()).then(|| unsafe { text(ptr, name) }).transpose();
        let (out_type, report_path) = (optional(out_type, "out_type")?, optional(report_path, "report_path")?);
        // SAFETY: as above.
        let (params, told) = unsafe { (read(params)?, Out::optional(report)?) };
        let (options, verify) = params.options(out_type, OutType::Keep, report_path.is_some())?;
        if verify {
            return Err(argument("flags: LLAMA_ALIGN_MERGE_VERIFY is for llama_align_fold_files()"));
        }
        if let Some(path) = report_path {
            check_report(Path::new(path), &[before, after, output])?;
        }
        let (before, after) = (File::open(Path::new(before))?, File::open(Path::new(after))?);
        let n_layers = block_count(&before)? as usize;
        if n_ratios != 1 && n_ratios != n_layers {
            return Err(argument(format!("n_ratios: {n_ratios} is neither 1 nor the model's {n_layers} blocks")));
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
        let layers = if n_ratios == 1 { vec![mean; n_layers] } else { ratios.to_vec() };
        let shares = Shares { layers, mean, others };
        let tied = [&before, &after].iter().all(|file| file.tensor("output.weight").is_none());
        let share = |name: &str| shares.of(name, tied);
        let (files, numbers, runtime) = ([&before, &after], [("pre_weight", mean)], built_in()?);
        let done = average(&runtime, files, &share, &numbers, &options, Some(Path::new(output)), &mut |_| {})?;
        if let Some(path) = report_path {
            write_atomically(Path::new(path), format!("{:#}\n", done.to_json()).as_bytes())?;
        }
        if let Some(told) = told {
            told.put(llama_align_merge_report::new(&done));
        }
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
