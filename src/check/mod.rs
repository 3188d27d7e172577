//! The self-check before every run: the traced program against the runtime, in two parts.
//!
//! **In:** a model. **Out:** a report; `ok` only if the runtime's form is exact (within its bound where devices compute) and the
//! training form within its own.
//! **Invariant:** errors are never compared end to end on quantised weights, where 8-bit activations amplify them: each
//! block of the training form starts from the runtime form's own values (DESIGN: the self-check).

mod block_form;
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

/// Differences of blocks, each computed from the other side's values.
#[derive(Clone, Debug, Serialize)]
pub struct Blocks {
    /// Largest relative root mean square difference of a block's result.
    pub max_rel_diff: f32,
    /// What is allowed for the model's weight types.
    pub bound: f32,
    /// The block with the largest difference.
    pub worst_block: String,
}

impl Blocks {
    fn note(&mut self, difference: f32, place: impl FnOnce() -> String) {
        // NaN is the largest of all.
        if difference > self.max_rel_diff || difference.is_nan() {
            self.max_rel_diff = if difference.is_nan() { f32::INFINITY } else { difference };
            self.worst_block = place();
        }
    }

    fn holds(&self) -> bool {
        self.max_rel_diff <= self.bound
    }
}

/// The program as the runtime computes it, against `llama_decode`.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeForm {
    /// Largest difference over all logits of all probes; 0 is required. Also 0 where there are no probes.
    pub max_abs_diff: f32,
    /// Each probe with its difference; none where devices compute, whose bits depend on shapes.
    pub probes: BTreeMap<String, f32>,
    /// There: each block, and the logits, from what the decode left before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
}

impl RuntimeForm {
    fn holds(&self) -> bool {
        self.max_abs_diff == 0.0 && self.blocks.as_ref().is_none_or(Blocks::holds)
    }
}

/// The program as training computes it, block by block from the runtime form's values.
pub type TrainingForm = Blocks;

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
    let runtime_form = match model.devices() {
        [] => runtime_form::compare(model, trace, n_threads)?,
        _ => {
            let blocks = Some(block_form::compare(model, trace, n_threads)?);
            RuntimeForm { max_abs_diff: 0.0, probes: BTreeMap::new(), blocks }
        }
    };
    let training_form = training_form::compare(model, trace, n_threads, form)?;
    let adaptable = trace.adaptable();
    let products: Vec<_> = adaptable.values().flatten().copied().collect();
    Ok(Report {
        architecture: model.architecture(),
        ok: runtime_form.holds() && training_form.holds(),
        runtime_form,
        training_form,
        ops: trace.op_counts(),
        unsupported: unsupported(&trace.program, trace.logits, &products),
        trainable: adaptable.into_keys().collect(),
    })
}

/// Traces a model and refuses it unless the check passes.
pub fn checked_trace(model: &Arc<Model>, n_threads: usize, form: Form) -> Result<(Arc<Trace>, Report)> {
    let trace = Arc::new(trace(model)?);
    let report = check(model, &trace, n_threads, form)?;
    if report.ok {
        return Ok((trace, report));
    }
    let by_block = |b: &Blocks| format!("{} by {:e} (bound {:e})", b.worst_block, b.max_rel_diff, b.bound);
    let runtime_form = match &report.runtime_form.blocks {
        Some(blocks) => by_block(blocks),
        None => format!("logits by {:e}", report.runtime_form.max_abs_diff),
    };
    let message = format!(
        "{}: architecture {}: the traced graph does not reproduce the runtime: {runtime_form}; in the training form {}",
        model.path().display(),
        report.architecture,
        by_block(&report.training_form)
    );
    Err(Error::new(Kind::Check, message))
}

/// Tokens for probes: spread over the vocabulary, the same in every run.
fn probe_tokens(model: &Model, n: usize, salt: usize) -> Vec<i32> {
    let n_vocab = model.n_vocab().max(1);
    (0..n).map(|i| ((i * 7919 + salt * 104_729 + 13) % n_vocab) as i32).collect()
}
