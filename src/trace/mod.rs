//! Turns llama.cpp's own graph into a program, whatever the architecture.
//!
//! **In:** captures of one model at several token counts. **Out:** a [`Program`] that is right for any token count,
//! without a cache, and where its weights lie. **Invariant:** nothing here names an architecture; what no rule covers is
//! refused with op, tensor and architecture (specs: tracing, sections 1 to 3).

mod inputs;
mod rewrite;
mod unify;

use crate::error::{Context as _, Error, Kind, Result};
use crate::ir::{Op, Program, ValueId};
use crate::runtime::{capture, Model, RawNode, WeightData};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Token counts of the captures: two to fit sizes that grow with the tokens, one to verify the prediction.
const T_FIT: [usize; 2] = [13, 17];
const T_VERIFY: usize = 29;
/// Where the fitting captures start, so that positions differ from row numbers.
const POSITION_FIT: usize = 5;

/// Weights of one kind of place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Tensors.
    pub n_tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Where a program's weights lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Read where the runtime keeps them.
    pub shared: Share,
    /// Read from a map of the model's file: the runtime keeps them in a layout of its own.
    pub mapped: Share,
    /// Out of reach.
    pub refused: Share,
}

/// A traced model.
#[derive(Debug)]
pub struct Trace {
    /// What the model computes.
    pub program: Program,
    /// Where each weight lies, by `WeightId`; `None` where its bytes cannot be shared.
    pub weights: Vec<Option<WeightData>>,
    /// Logits \[V, T\].
    pub logits: ValueId,
    /// What two models' weights are blended by, where the program is one of two models.
    pub ratios: Vec<Ratio>,
    /// Models beside the traced one whose weights the program reads.
    pub others: Vec<Arc<Model>>,
}

/// A leaf of one number, the second model's share in a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// The leaf.
    pub value: ValueId,
    /// A gradient is formed for it.
    pub trainable: bool,
}

/// One capture and what was asked of it.
pub(crate) struct Capture {
    pub(crate) nodes: Vec<RawNode>,
    pub(crate) tokens: Vec<i32>,
    pub(crate) position: usize,
}

impl Capture {
    fn take(model: &Arc<Model>, n_tokens: usize, position: usize, all_logits: bool) -> Result<Self> {
        let n_vocab = model.n_vocab().max(1);
        // Never equal to positions or row numbers, so that inputs can be told apart by content.
        let tokens: Vec<i32> = (0..n_tokens).map(|i| ((7 * i + 11) % n_vocab) as i32).collect();
        Ok(Self { nodes: capture(model, &tokens, position, all_logits)?, tokens, position })
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// Traces a model. Takes milliseconds and computes nothing.
pub fn trace(model: &Arc<Model>) -> Result<Trace> {
    let refuse = |what: &str| {
        let message = format!("architecture {}: {what}", model.architecture());
        Error::new(Kind::Unsupported, message)
    };
    if model.has_encoder() {
        return Err(refuse("an encoder-decoder model has no single decoder graph"));
    }
    let fit =
        [Capture::take(model, T_FIT[0], POSITION_FIT, true)?, Capture::take(model, T_FIT[1], POSITION_FIT, true)?];
    let verify = Capture::take(model, T_VERIFY, 0, true)?;
    // A sliding window shows only in masks longer than itself.
    let probe = match model.n_swa() {
        0 => None,
        // Only its inputs are looked at, so it need not make room for all logits.
        window => Some(Capture::take(model, window + 11, 0, false)?),
    };
    let sizes = unify::sizes(&fit, &verify).during(|| format!("tracing architecture {}", model.architecture()))?;
    let logits = fit[0]
        .nodes
        .iter()
        .rposition(|n| n.ne == [model.n_vocab() as i64, T_FIT[0] as i64, 1, 1])
        .ok_or_else(|| refuse("its graph ends without logits for every token"))?;
    rewrite::emit(model, &fit[0], probe.as_ref().unwrap_or(&verify), &sizes, logits)
}

impl Trace {
    /// Where the weights lie.
    pub fn placement(&self) -> Placement {
        let mut placement = Placement::default();
        for (info, data) in self.program.weights.iter().zip(&self.weights) {
            let share = match data {
                Some(data) if data.is_shared() => &mut placement.shared,
                Some(_) => &mut placement.mapped,
                None => &mut placement.refused,
            };
            share.n_tensors += 1;
            let rows = info.ne[1..].iter().product::<i64>().max(0) as u64;
            share.bytes += info.ty.row_bytes(info.ne[0].max(0) as u64).unwrap_or(0) * rows;
        }
        placement
    }

    /// How often each op occurs, by ggml's name.
    pub fn op_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for value in &self.program.values {
            if let Some(op) = value.op() {
                *counts.entry(op.name()).or_insert(0) += 1;
            }
        }
        counts
    }

    /// The weights that an adapter can be put on, those of the blocks: name and ids of the products that read them. Stacks of
    /// experts are among them.
    pub fn adaptable(&self) -> BTreeMap<String, Vec<ValueId>> {
        let mut all = self.products(&Op::MulMatId, |ne| ne[3] == 1);
        all.append(&mut self.linears());
        all
    }

    /// Those that every token uses.
    pub fn linears(&self) -> BTreeMap<String, Vec<ValueId>> {
        self.products(&Op::MulMat, |ne| ne[2] * ne[3] == 1)
    }

    fn products(&self, op: &Op, fits: impl Fn(&[i64; 4]) -> bool) -> BTreeMap<String, Vec<ValueId>> {
        let mut linears: BTreeMap<String, Vec<ValueId>> = BTreeMap::new();
        for id in self.program.ids() {
            let value = self.program.get(id);
            if value.op() != Some(op) {
                continue;
            }
            if let Some(weight) = self.program.as_weight(value.src(0)) {
                let info = self.program.weight(weight);
                if info.name.starts_with("blk.") && info.name.ends_with(".weight") && fits(&info.ne) {
                    linears.entry(info.name.clone()).or_default().push(id);
                }
            }
        }
        linears
    }
}
