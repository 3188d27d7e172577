//! The self-check before every run: the traced program against the runtime, in two parts.
//!
//! **In:** a model. **Out:** a report; `ok` only if the runtime's form is exact and the training form within its bound.
//! **Invariant:** errors are never compared end to end on quantised weights, where 8-bit activations amplify them: each
//! block of the training form starts from the runtime form's own values (DESIGN: the self-check).

mod runtime_form;
mod training_form;

use crate::autodiff::unsupported;
use crate::engine::Form;
use crate::error::{Error, Kind, Result};
use crate::runtime::Model;
use crate::trace::{trace, Trace};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The program as the runtime computes it, against `llama_decode`.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeForm {
    /// Largest difference over all logits of all probes; 0 is required.
    pub max_abs_diff: f32,
    /// Each probe with its difference.
    pub probes: BTreeMap<String, f32>,
}

/// The program as training computes it, block by block from the runtime form's values.
#[derive(Clone, Debug, Serialize)]
pub struct TrainingForm {
    /// Largest relative root mean square difference of a block's result.
    pub max_rel_diff: f32,
    /// What is allowed for the model's weight types.
    pub bound: f32,
    /// The block with the largest difference.
    pub worst_block: String,
}

/// What `check` found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The runtime's name of the architecture.
    pub architecture: String,
    /// Everything holds; training may start (unless `unsupported` lists something).
    pub ok: bool,
    /// Part one.
    pub runtime_form: RuntimeForm,
    /// Part two.
    pub training_form: TrainingForm,
    /// Ops and how often they occur.
    pub ops: BTreeMap<String, usize>,
    /// Ops on the way of a gradient that have no rule yet; `train` refuses these.
    pub unsupported: Vec<String>,
    /// Weights that an adapter can be put on.
    pub trainable: Vec<String>,
}

/// Runs both parts; `form` is the one that training would use.
pub fn check(model: &Arc<Model>, trace: &Arc<Trace>, n_threads: usize, form: Form) -> Result<Report> {
    let runtime_form = runtime_form::compare(model, trace, n_threads)?;
    let training_form = training_form::compare(model, trace, n_threads, form)?;
    let linears = trace.linears();
    let products: Vec<_> = linears.values().flatten().copied().collect();
    Ok(Report {
        architecture: model.architecture(),
        ok: runtime_form.max_abs_diff == 0.0 && training_form.max_rel_diff <= training_form.bound,
        runtime_form,
        training_form,
        ops: trace.op_counts(),
        unsupported: unsupported(&trace.program, trace.logits, &products),
        trainable: linears.into_keys().collect(),
    })
}

/// Traces a model and refuses it unless the check passes.
pub fn checked_trace(model: &Arc<Model>, n_threads: usize, form: Form) -> Result<(Arc<Trace>, Report)> {
    let trace = Arc::new(trace(model)?);
    let report = check(model, &trace, n_threads, form)?;
    if report.ok {
        return Ok((trace, report));
    }
    let message = format!(
        "{}: architecture {}: the traced graph does not reproduce the runtime: logits differ by {:e}, {} by {:e} (bound {:e})",
        model.path().display(),
        report.architecture,
        report.runtime_form.max_abs_diff,
        report.training_form.worst_block,
        report.training_form.max_rel_diff,
        report.training_form.bound
    );
    Err(Error::new(Kind::Check, message))
}

/// Tokens for probes: spread over the vocabulary, the same in every run.
fn probe_tokens(model: &Model, n: usize, salt: usize) -> Vec<i32> {
    let n_vocab = model.n_vocab().max(1);
    (0..n).map(|i| ((i * 7919 + salt * 104_729 + 13) % n_vocab) as i32).collect()
}
