//! `llama_align_dataset`: tokenised rows.

use super::guard::{create, free, guard};
use super::handle::{get, Object};
use super::model::{llama_align_model, ModelObject};
use super::params::{init, read, Out, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, text, texts};
use super::LLAMA_ALIGN_OK;
use crate::data::{
    read_all, read_all_with, rows_from_json, Columns, Dataset, EncodeOptions, Example, Form, LossMask, Report, Row,
    Rows, Sample, Text, TokenWeights, TooLong,
};
use crate::error::{Error, Kind, Result};
use crate::train::Method;
use std::ffi::c_char;
use std::mem::offset_of;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows, tokenised for one model. Lifetime: from its maker to _free; trainers keep what they need, so it may be freed before
/// them. Threads: any number at once.
#[derive(Debug)]
pub struct llama_align_dataset {
    _never: (),
}

/// Rows stay as they are: for evaluation.
pub const LLAMA_ALIGN_METHOD_NONE: u32 = 0;
/// Supervised fine-tuning on completions (the chosen answers of pairs, the rows labelled 1).
pub const LLAMA_ALIGN_METHOD_SFT: u32 = 1;
/// Direct preference optimisation on pairs.
pub const LLAMA_ALIGN_METHOD_DPO: u32 = 2;
/// Kahneman-Tversky optimisation on labelled completions (a pair becomes two).
pub const LLAMA_ALIGN_METHOD_KTO: u32 = 3;
/// Negative preference optimisation of the tokens of pairs' rejected answers; chosen ones are watched.
pub const LLAMA_ALIGN_METHOD_NPO: u32 = 4;

/// String prompts are used as they are, without the model's chat template.
pub const LLAMA_ALIGN_DATASET_PLAIN: u32 = 1;
/// Names of control tokens in the data become those tokens: for rows that a template has rendered already. Without it they
/// stay text.
pub const LLAMA_ALIGN_DATASET_PARSE_SPECIAL: u32 = 2;

/// Rows that are too long are left out and counted.
pub const LLAMA_ALIGN_TOO_LONG_DROP: u32 = 0;
/// Their beginning is kept; without a token that has a loss they are left out.
pub const LLAMA_ALIGN_TOO_LONG_TRUNCATE: u32 = 1;
/// They are an error, DATA.
pub const LLAMA_ALIGN_TOO_LONG_ERROR: u32 = 2;

/// The answer has the loss: of messages the last one.
pub const LLAMA_ALIGN_LOSS_MASK_COMPLETION: u32 = 0;
/// Every message of the assistant has, with the token that ends it. For completions only.
pub const LLAMA_ALIGN_LOSS_MASK_ASSISTANT: u32 = 1;
/// Everything but the first token has. For completions only.
pub const LLAMA_ALIGN_LOSS_MASK_ALL: u32 = 2;

/// How rows become tokens. Fill it in with llama_align_dataset_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_dataset_params {
    /// sizeof(llama_align_dataset_params).
    pub struct_size: u32,
    /// LLAMA_ALIGN_METHOD_*: rows are converted to what it trains on. Default NONE.
    pub method: u32,
    /// Longest row, prompt and answer together, in tokens: 2 to the model's context. 0, the default: 1024, or the model's
    /// context where that is less.
    pub max_length: u32,
    /// LLAMA_ALIGN_DATASET_* bits. Default 0.
    pub flags: u32,
    /// LLAMA_ALIGN_TOO_LONG_*: what becomes of longer rows. Default DROP.
    pub too_long: u32,
    /// LLAMA_ALIGN_LOSS_MASK_*: which tokens have a loss. Default COMPLETION.
    pub loss_mask: u32,
}

/// What became of the rows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_dataset_info {
    /// sizeof(llama_align_dataset_info), set by the caller.
    pub struct_size: u32,
    /// Longest row that was allowed, in tokens.
    pub max_length: u32,
    /// Rows that were kept.
    pub n_rows: u64,
    /// Rows that were left out because they are longer.
    pub n_dropped: u64,
    /// Tokens of the rows that were kept; the prompt of a pair counts twice.
    pub n_tokens: u64,
    /// Of these, tokens of answers: the ones with a loss.
    pub n_answer_tokens: u64,
    /// Tokens of the longest row, as it was before it was left out or cut.
    pub n_longest: u64,
    /// Rows that were cut to the longest length.
    pub n_truncated: u64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_dataset_params {
    const NAME: &'static str = "llama_align_dataset_params";
    const BYTES_V1: usize = offset_of!(Self, too_long);
}

// SAFETY: as above.
unsafe impl Struct for llama_align_dataset_info {
    const NAME: &'static str = "llama_align_dataset_info";
    const BYTES_V1: usize = offset_of!(Self, n_truncated);
}

impl Params for llama_align_dataset_params {
    fn defaults() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            method: LLAMA_ALIGN_METHOD_NONE,
            max_length: 0,
            flags: 0,
            too_long: LLAMA_ALIGN_TOO_LONG_DROP,
            loss_mask: LLAMA_ALIGN_LOSS_MASK_COMPLETION,
        }
    }
}

/// Tokenised rows and the model whose tokens they are.
pub(super) struct DatasetObject {
    pub(super) data: Arc<Dataset>,
    pub(super) model: Arc<ModelObject>,
    pub(super) max_length: usize,
    weights: Mutex<Option<TokenWeights>>,
}

impl DatasetObject {
    fn new(data: Arc<Dataset>, model: Arc<ModelObject>, max_length: usize) -> Self {
        Self { data, model, max_length, weights: Mutex::new(None) }
    }

    /// Weights of single tokens, if someone weighed any.
    pub(super) fn weights(&self) -> Option<TokenWeights> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tokens of an answer that have a loss.
    pub(super) fn answer(&self, row: u64, answer: u32) -> Result<usize> {
        let n = self.data.samples.len();
        let sample = usize::try_from(row).ok().and_then(|row| self.data.samples.get(row));
        let sample = sample.ok_or_else(|| argument(format!("row: {row} of {n} rows")))?;
        let sequence = sample.sequences().nth(answer as usize);
        Ok(sequence.ok_or_else(|| argument(format!("answer: row {row} has no answer {answer}")))?.n_scored())
    }

    /// Weighs an answer's tokens, which `answer` has found.
    pub(super) fn weigh(&self, row: u64, answer: u32, weights: &[f32]) {
        let mut all = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let ones = || TokenWeights::from_fn(&self.data, |_, _, s| vec![1.0; s.n_scored()]);
        all.get_or_insert_with(ones).set(row as usize, answer as usize, weights);
    }

    /// Weighs all answers' tokens.
    pub(super) fn set_weights(&self, weights: TokenWeights) {
        *self.weights.lock().unwrap_or_else(PoisonError::into_inner) = Some(weights);
    }

    /// The same by a file.
    pub(super) fn load_weights(&self, path: &Path) -> Result<()> {
        self.set_weights(TokenWeights::read(path, &self.data)?);
        Ok(())
    }
}

impl Object for DatasetObject {
    type C = llama_align_dataset;
    const NAME: &'static str = "dataset";
}

/// The longest row in tokens: 0 is 1024, or the model's context where that is less.
pub(super) fn longest(max_length: u32, n_context: usize) -> Result<usize> {
    match max_length as usize {
        0 => Ok(EncodeOptions::default().max_length.min(n_context)),
        n if n > n_context => {
            Err(argument(format!("max_length: {n} is more than the model's context of {n_context} tokens")))
        }
        n => Ok(n),
    }
}

/// Parameters after their check.
struct Options {
    method: Option<Method>,
    encode: EncodeOptions,
}

/// A method by its number.
pub(super) fn method(number: u32) -> Result<Option<Method>> {
    match number {
        LLAMA_ALIGN_METHOD_NONE => Ok(None),
        LLAMA_ALIGN_METHOD_SFT => Ok(Some(Method::Sft)),
        LLAMA_ALIGN_METHOD_DPO => Ok(Some(Method::Dpo)),
        LLAMA_ALIGN_METHOD_KTO => Ok(Some(Method::Kto)),
        LLAMA_ALIGN_METHOD_NPO => Ok(Some(Method::Npo)),
        other => Err(argument(format!("method: {other} is none of LLAMA_ALIGN_METHOD_*"))),
    }
}

impl Options {
    fn new(params: llama_align_dataset_params, n_context: usize) -> Result<Self> {
        let llama_align_dataset_params { struct_size: _, method: number, max_length, flags, too_long, loss_mask } =
            params;
        let method = method(number)?;
        let max_length = longest(max_length, n_context)?;
        let (plain, parse_special) = (LLAMA_ALIGN_DATASET_PLAIN, LLAMA_ALIGN_DATASET_PARSE_SPECIAL);
        if flags & !(plain | parse_special) != 0 {
            return Err(argument(format!("flags: {flags:#x} has bits that are none of LLAMA_ALIGN_DATASET_*")));
        }
        let too_long = match too_long {
            LLAMA_ALIGN_TOO_LONG_DROP => TooLong::Drop,
            LLAMA_ALIGN_TOO_LONG_TRUNCATE => TooLong::Truncate,
            LLAMA_ALIGN_TOO_LONG_ERROR => TooLong::Error,
            other => return Err(argument(format!("too_long: {other} is none of LLAMA_ALIGN_TOO_LONG_*"))),
        };
        let mask = match loss_mask {
            LLAMA_ALIGN_LOSS_MASK_COMPLETION => LossMask::Completion,
            LLAMA_ALIGN_LOSS_MASK_ASSISTANT => LossMask::Assistant,
            LLAMA_ALIGN_LOSS_MASK_ALL => LossMask::All,
            other => return Err(argument(format!("loss_mask: {other} is none of LLAMA_ALIGN_LOSS_MASK_*"))),
        };
        let (apply_template, parse_special) = (flags & plain == 0, flags & parse_special != 0);
        Ok(Self { method, encode: EncodeOptions { apply_template, max_length, too_long, mask, parse_special } })
    }
}

/// Makes a dataset of the rows that `rows` gives, which runs after the parameters were checked.
///
/// # Safety
/// `params` is NULL or the caller's struct.
unsafe fn encode(
    model: *const llama_align_model,
    params: *const llama_align_dataset_params,
    rows: impl FnOnce() -> Result<Rows>,
) -> Result<DatasetObject> {
    let object = get::<ModelObject>(model)?;
    let model = &object.model;
    // SAFETY: by the caller.
    let options = Options::new(unsafe { read(params) }?, model.n_ctx_train())?;
    let rows = match options.method {
        None => rows()?,
        Some(method) => method.rows(rows()?)?,
    };
    let data = Dataset::encode(&rows, model.as_ref(), model.template()?.as_ref(), &options.encode)?;
    Ok(DatasetObject::new(Arc::new(data), object.share(), options.encode.max_length))
}

/// Rows from memory, numbered from 1 in place of lines.
fn rows(form: Form, examples: impl Iterator<Item = Example>) -> Result<Rows> {
    let rows: Vec<Row> = examples.enumerate().map(|(i, example)| Row { line: i + 1, example }).collect();
    for row in &rows {
        let (prompt, answers) = match &row.example {
            Example::Text { .. } => continue,
            Example::Completion { prompt, completion } | Example::Labelled { prompt, completion, .. } => {
                (prompt, [Some(("completion", completion)), None])
            }
            Example::Pair { prompt, chosen, rejected } => {
                (prompt, [Some(("chosen", chosen)), Some(("rejected", rejected))])
            }
        };
        let parts = std::iter::once(("prompt", prompt)).chain(answers.into_iter().flatten());
        if let Some((name, _)) = parts.into_iter().find(|(_, text)| text.is_blank()) {
            return Err(Error::new(Kind::Data, format!("rows:{}: the {name} is empty", row.line)));
        }
    }
    if rows.is_empty() {
        return Err(Error::new(Kind::Data, "rows: there are none"));
    }
    Ok(Rows { source: "rows".into(), form, rows })
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_dataset_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_params_init(
    params: *mut llama_align_dataset_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Reads a file of one JSON object per line, or of one array of objects; their keys decide the form of the rows. `model`: shared. `path` (borrowed): not NULL. `params` (borrowed):
/// NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISSING, IO, DATA (names the
/// line), MISMATCH, FORMAT (the template), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_open(
    model: *const llama_align_model,
    path: *const c_char,
    params: *const llama_align_dataset_params,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: as above.
        unsafe { encode(model, params, || read_all(Path::new(path))) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// The same where the file calls its columns otherwise. `columns` (borrowed): such as "prompt=question,chosen=right_answer"; NULL for
/// none. `model`: shared. `path` (borrowed): not NULL. `params` (borrowed): NULL for the defaults. `out` (owned): not NULL; NULL is written
/// on failure. Errors: ARGUMENT, MISSING, IO, DATA (names the line), MISMATCH, FORMAT (the template), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_open_columns(
    model: *const llama_align_model,
    path: *const c_char,
    columns: *const c_char,
    params: *const llama_align_dataset_params,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let path = unsafe { text(path, "path") }?;
        let columns = match columns.is_null() {
            true => Columns::default(),
            // SAFETY: as above.
            false => Columns::parse(unsafe { text(columns, "columns") }?)?,
        };
        // SAFETY: as above.
        unsafe { encode(model, params, || read_all_with(Path::new(path), &columns)) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes a dataset of rows as a file has them: each is one JSON object, of any form that llama_align_dataset_open() reads
/// (messages, pairs, labelled rows, ...). `model`: shared. `rows` (borrowed): `n_rows` strings, none NULL. `params` (borrowed):
/// NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, DATA (names the row, from 1),
/// MISMATCH, FORMAT (the template), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_from_json(
    model: *const llama_align_model,
    rows: *const *const c_char,
    n_rows: usize,
    params: *const llama_align_dataset_params,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let list = unsafe { texts(rows, n_rows, "rows") }?;
        // SAFETY: as above.
        unsafe { encode(model, params, || rows_from_json("rows", &list, &Columns::default())) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes a dataset of prompts and answers to imitate. `model`: shared. `prompts`, `completions` (borrowed): `n_rows` strings
/// each, none NULL. `params` (borrowed): NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors:
/// ARGUMENT, DATA (names the row, from 1), FORMAT (the template), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_from_completions(
    model: *const llama_align_model,
    prompts: *const *const c_char,
    completions: *const *const c_char,
    n_rows: usize,
    params: *const llama_align_dataset_params,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let lists = unsafe { (texts(prompts, n_rows, "prompts")?, texts(completions, n_rows, "completions")?) };
        let examples = lists.0.into_iter().zip(lists.1);
        let examples = examples.map(|(prompt, completion)| Example::Completion {
            prompt: Text::Plain(prompt),
            completion: Text::Plain(completion),
        });
        // SAFETY: as above.
        unsafe { encode(model, params, || rows(Form::Completion, examples)) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes a dataset of prompts and answers with a verdict each. `labels` (borrowed): `n_rows` numbers, 1 for a good answer and
/// 0 for a bad one. Everything else as in llama_align_dataset_from_completions(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_from_labelled(
    model: *const llama_align_model,
    prompts: *const *const c_char,
    completions: *const *const c_char,
    labels: *const u8,
    n_rows: usize,
    params: *const llama_align_dataset_params,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let lists = unsafe { (texts(prompts, n_rows, "prompts")?, texts(completions, n_rows, "completions")?) };
        // SAFETY: as above.
        let labels = unsafe { array(labels, n_rows, "labels") }?;
        if let Some(i) = labels.iter().position(|&l| l > 1) {
            return Err(argument(format!("labels[{i}]: {} is neither 0 nor 1", labels[i])));
        }
        let examples = lists.0.into_iter().zip(lists.1).zip(labels);
        let examples = examples.map(|((prompt, completion), &label)| Example::Labelled {
            prompt: Text::Plain(prompt),
            completion: Text::Plain(completion),
            label: label == 1,
        });
        // SAFETY: as above.
        unsafe { encode(model, params, || rows(Form::Labelled, examples)) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes a dataset of prompts with a better and a worse answer each. `chosen`, `rejected` (borrowed): `n_rows` strings each,
/// none NULL. Everything else as in llama_align_dataset_from_completions(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_from_pairs(
    model: *const llama_align_model,
    prompts: *const *const c_char,
    chosen: *const *const c_char,
    rejected: *const *const c_char,
    n_rows: usize,
    params: *const llama_align_dataset_params,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let lists = unsafe { (texts(prompts, n_rows, "prompts")?, texts(chosen, n_rows, "chosen")?) };
        // SAFETY: as above.
        let rejected = unsafe { texts(rejected, n_rows, "rejected") }?;
        let examples = lists.0.into_iter().zip(lists.1).zip(rejected);
        let examples = examples.map(|((prompt, chosen), rejected)| Example::Pair {
            prompt: Text::Plain(prompt),
            chosen: Text::Plain(chosen),
            rejected: Text::Plain(rejected),
        });
        // SAFETY: as above.
        unsafe { encode(model, params, || rows(Form::Pair, examples)) }
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Makes a dataset that lacks rows of another: feedback is withdrawn with it. `dataset` (borrowed). `ids` (borrowed): `n_ids` ids of
/// rows; a row's id is its number among the rows that were given, from 1, or its line in the file: the number that messages name, which
/// stays with the row. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, DATA (no row has that id, or none is
/// left), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_without(
    dataset: *const llama_align_dataset,
    ids: *const u64,
    n_ids: usize,
    out: *mut *mut llama_align_dataset,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<DatasetObject>(dataset)?;
        // SAFETY: pointers are what the header asks for.
        let ids = unsafe { array(ids, n_ids, "ids") }?;
        let data = Arc::new(object.data.without(ids)?);
        let left = DatasetObject::new(data, object.model.clone(), object.max_length);
        if let Some(weights) = object.weights() {
            let kept = |s: &Sample| left.data.samples.iter().any(|own| own.line() == s.line());
            let rows = object.data.samples.iter().map(kept).collect::<Vec<_>>();
            *left.weights.lock().unwrap_or_else(PoisonError::into_inner) = Some(weights.of_rows(&rows));
        }
        Ok(left)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Frees a dataset; NULL is fine. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_dataset_free(dataset: *mut llama_align_dataset) {
    free::<DatasetObject>(dataset);
}

/// Number of rows that were kept. `out` (borrowed): not NULL. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_count(
    dataset: *const llama_align_dataset,
    out: *mut u64,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<DatasetObject>(dataset)?;
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        // SAFETY: `out` is what the header asks for.
        unsafe { out.write(object.data.samples.len() as u64) };
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// What became of the rows. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_dataset_describe(
    dataset: *const llama_align_dataset,
    out: *mut llama_align_dataset_info,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: `out` is what the header asks for.
        let (object, out) = (get::<DatasetObject>(dataset)?, unsafe { Out::new(out) }?);
        let Report { rows: _, dropped_too_long, truncated, longest, tokens, answer_tokens } = object.data.report;
        out.put(llama_align_dataset_info {
            struct_size: 0,
            max_length: object.max_length as u32,
            n_rows: object.data.samples.len() as u64,
            n_dropped: dropped_too_long as u64,
            n_tokens: tokens as u64,
            n_answer_tokens: answer_tokens as u64,
            n_longest: longest as u64,
            n_truncated: truncated as u64,
        });
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
