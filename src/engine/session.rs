//! A session: one model with deltas, one batch after another.

use super::adapt::{adapt_with, Adapted, Delta, Moving, Role};
use super::dropout::Draws;
use super::head;
use super::inputs::{input_bytes, Inputs};
use super::layout::Layout;
use super::lower::{Form, Lowering, Scope};
use super::plan::Plan;
use super::profile::Profile;
use crate::adapter::{one_hot, Change, RowChange};
use crate::data::Sequence;
use crate::error::{Error, Kind, Result};
use crate::ir::{Leaf, Op, ValueId};
use crate::runtime::{Backend, GraphBuilder, Memory, Model, Region, Tally};
use crate::trace::Trace;
use std::collections::HashMap;
use std::sync::Arc;

/// Runs a model with deltas on packed batches and forms the deltas' gradients.
#[derive(Debug)]
pub struct Engine {
    pub(super) model: Arc<Model>,
    pub(super) trace: Arc<Trace>,
    pub(super) adapted: Adapted,
    pub(super) plan: Plan,
    pub(super) form: Form,
    pub(super) backend: Backend,
    pub(super) memory: Memory,
    deltas: Vec<Delta>,
    /// Weights that change as a whole, without their values.
    changes: Vec<Change>,
    pub(super) parameters: Vec<Region>,
    pub(super) gradients: Vec<Region>,
    /// Bytes of the memory that hold parameters and gradients; the rest belongs to the batch.
    fixed: usize,
    n_positions: Option<usize>,
    /// The insides of blocks are computed again in the backward pass, and not kept.
    recompute: bool,
    /// Share of what the factors A read that is dropped in a step.
    dropout: f32,
    /// Seed and step that the draws are keyed by.
    step: Option<(u64, u64)>,
    pub(super) profile: Option<Arc<Profile>>,
    pub(super) batch: Option<Batch>,
    peak: usize,
}

/// Tensors that the graph of one block may have.
const N_TENSORS: usize = 2048;
/// The same where gradients are made of ops, and for each sequence what attention is made of.
const N_TENSORS_OPS: usize = 8192;
const N_TENSORS_SEQUENCE: usize = 128;

/// What a forward pass leaves for the backward.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) inputs: Inputs,
    pub(super) layout: Arc<Layout>,
    /// Values that lie in the memory: parameters and what blocks wrote.
    pub(super) kept: HashMap<ValueId, Region>,
    pub(super) rows: Vec<head::Row>,
    pub(super) units: head::Units,
}

/// What becomes of the head's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    LogProbs,
    Gradients,
}

impl Engine {
    /// Prepares a session in the training form.
    pub fn new(model: &Arc<Model>, trace: &Arc<Trace>, deltas: Vec<Delta>, n_threads: usize) -> Result<Self> {
        Self::with_form(model, trace, deltas, n_threads, Form::Training)
    }

    /// Prepares a session in either form; only the training form has gradients.
    pub fn with_form(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        deltas: Vec<Delta>,
        n_threads: usize,
        form: Form,
    ) -> Result<Self> {
        Self::with_dropout(model, trace, deltas, n_threads, form, 0.0)
    }

    /// Prepares a session in which whole weights move: W + D for every change, beside deltas that need not be there.
    pub fn with_changes(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        deltas: Vec<Delta>,
        changes: Vec<Change>,
        n_threads: usize,
        form: Form,
    ) -> Result<Self> {
        Self::with_all(model, trace, (deltas, changes), n_threads, form, 0.0)
    }

    /// Prepares a session with deltas and changes, where the deltas are trained with [`Self::with_dropout`]'s dropout.
    pub fn with_all(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        moving: (Vec<Delta>, Vec<Change>),
        n_threads: usize,
        form: Form,
        dropout: f32,
    ) -> Result<Self> {
        let how = if dropout > 0.0 { Moving::Dropping } else { Moving::Factors };
        Self::make(model, trace, moving, n_threads, form, (how, dropout))
    }

    /// Prepares a session in which some rows of weights move. A row's change is a row of A, and B, which stays, puts its products
    /// where they belong: only rows that move have parameters, and gradients are formed of no others.
    pub fn with_rows(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        rows: &[RowChange],
        n_threads: usize,
        form: Form,
    ) -> Result<Self> {
        let delta = Delta { lora: one_hot(rows), scale: 1.0, trainable: true };
        Self::make(model, trace, (vec![delta], Vec::new()), n_threads, form, (Moving::Rows, 0.0))
    }

    /// Prepares a session in which what moves is not the deltas' factors but a number for each of them, which multiplies its
    /// update: [`Self::ratios`].
    pub fn with_ratios(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        deltas: Vec<Delta>,
        n_threads: usize,
        form: Form,
    ) -> Result<Self> {
        Self::make(model, trace, (deltas, Vec::new()), n_threads, form, (Moving::Ratios, 0.0))
    }

    /// Prepares a session whose trainable deltas see their inputs with a share of `dropout` of the numbers dropped, in
    /// [`Self::forward`] and [`Self::backward`] only; [`Self::set_step`] says what is drawn.
    pub fn with_dropout(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        deltas: Vec<Delta>,
        n_threads: usize,
        form: Form,
        dropout: f32,
    ) -> Result<Self> {
        Self::with_all(model, trace, (deltas, Vec::new()), n_threads, form, dropout)
    }

    fn make(
        model: &Arc<Model>,
        trace: &Arc<Trace>,
        (deltas, mut changes): (Vec<Delta>, Vec<Change>),
        n_threads: usize,
        form: Form,
        (moving, dropout): (Moving, f32),
    ) -> Result<Self> {
        let mut adapted = adapt_with(trace, &deltas, &changes, form, moving)?;
        let products: Vec<_> = adapted.parameters.iter().filter(|p| p.trainable).map(|p| p.value).collect();
        if let Some(first) = crate::autodiff::unsupported(&adapted.program, adapted.logits, &products).first() {
            return Err(Error::new(Kind::Unsupported, format!("{first}: no gradient rule for this op")));
        }
        let n_positions = position_rows(&adapted);
        let plan = Plan::make(&mut adapted)?;
        let runtime = model.runtime();
        let floats: usize = adapted.parameters.iter().map(|p| p.len.next_multiple_of(16)).sum();
        let mut memory = Memory::new(runtime, floats * 8 + 64)?;
        let mut take = |len: usize| memory.take(len * 4);
        let parameters = adapted.parameters.iter().map(|p| take(p.len)).collect::<Result<Vec<_>>>()?;
        let gradients =
            adapted.parameters.iter().map(|p| take(if p.trainable { p.len } else { 0 })).collect::<Result<Vec<_>>>()?;
        for (parameter, &region) in adapted.parameters.iter().zip(&parameters) {
            match parameter.role {
                Role::A(d, f) => memory.floats_mut(region).copy_from_slice(&deltas[d].lora.factors[f].a),
                Role::B(d, f) => memory.floats_mut(region).copy_from_slice(&deltas[d].lora.factors[f].b),
                Role::Change(c) => memory.floats_mut(region).copy_from_slice(&changes[c].values),
                Role::Ratio => memory.floats_mut(region).fill(1.0),
            }
        }
        let backend = match model.devices().is_empty() && form != Form::TrainingOps {
            true => Backend::new(runtime, n_threads)?,
            false => Backend::scheduled(runtime, model.devices(), n_threads)?,
        };
        // They lie in the memory now.
        changes.iter_mut().for_each(|change| change.values = Vec::new());
        let fixed = memory.used();
        let (model, trace) = (model.clone(), trace.clone());
        Ok(Self {
            model,
            trace,
            adapted,
            plan,
            form,
            backend,
            memory,
            deltas,
            changes,
            parameters,
            gradients,
            fixed,
            n_positions,
            recompute: true,
            dropout,
            step: None,
            profile: None,
            batch: None,
            peak: 0,
        })
    }

    /// The deltas with their present factors; ratios are not counted in.
    pub fn deltas(&self) -> Vec<Delta> {
        let mut deltas = self.deltas.clone();
        for (parameter, &region) in self.adapted.parameters.iter().zip(&self.parameters) {
            let values = match parameter.role {
                Role::A(d, f) => &mut deltas[d].lora.factors[f].a,
                Role::B(d, f) => &mut deltas[d].lora.factors[f].b,
                Role::Change(_) | Role::Ratio => continue,
            };
            values.copy_from_slice(self.memory.floats(region));
        }
        deltas
    }

    /// The changes of whole weights as they are now.
    pub fn changes(&self) -> Vec<Change> {
        let values = |c: usize| {
            let i = self.adapted.parameters.iter().position(|p| p.role == Role::Change(c));
            i.map_or_else(Vec::new, |i| self.parameter(i).to_vec())
        };
        self.changes.iter().enumerate().map(|(c, change)| Change { values: values(c), ..change.clone() }).collect()
    }

    /// Writes the changes as they are now into others of the same weights, in the same order: without memory of its own.
    pub fn write_changes(&self, to: &mut [Change]) {
        for (parameter, &region) in self.adapted.parameters.iter().zip(&self.parameters) {
            if let Role::Change(c) = parameter.role {
                if let Some(change) = to.get_mut(c).filter(|to| to.weight == self.changes[c].weight) {
                    change.values.copy_from_slice(self.memory.floats(region));
                }
            }
        }
    }

    /// Indices of the trainable parameters, in a fixed order.
    pub fn trainable(&self) -> Vec<usize> {
        (0..self.adapted.parameters.len()).filter(|&i| self.adapted.parameters[i].trainable).collect()
    }

    /// Indices of the ratios, one number each, trainable or not; a parameter's name is its weight's with `.ratio` behind it.
    pub fn ratios(&self) -> Vec<usize> {
        (0..self.adapted.parameters.len()).filter(|&i| self.adapted.parameters[i].role == Role::Ratio).collect()
    }

    /// Whether a parameter moves.
    pub fn is_trainable(&self, i: usize) -> bool {
        self.adapted.parameters[i].trainable
    }

    /// Name and elements of a parameter.
    pub fn parameter_info(&self, i: usize) -> (&str, usize) {
        (&self.adapted.parameters[i].name, self.adapted.parameters[i].len)
    }

    /// A parameter's values.
    pub fn parameter(&self, i: usize) -> &[f32] {
        self.memory.floats(self.parameters[i])
    }

    /// A parameter's values, to change.
    pub fn parameter_mut(&mut self, i: usize) -> &mut [f32] {
        self.memory.floats_mut(self.parameters[i])
    }

    /// A parameter's gradient, summed since the last [`Self::zero_gradients`].
    pub fn gradient(&self, i: usize) -> &[f32] {
        self.memory.floats(self.gradients[i])
    }

    /// A parameter's values, to change, with its gradient.
    pub fn parameter_and_gradient(&mut self, i: usize) -> (&mut [f32], &[f32]) {
        self.memory.floats_pair(self.parameters[i], self.gradients[i])
    }

    /// A parameter's gradient, to change.
    pub fn gradient_mut(&mut self, i: usize) -> &mut [f32] {
        self.memory.floats_mut(self.gradients[i])
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        for i in 0..self.gradients.len() {
            self.memory.floats_mut(self.gradients[i]).fill(0.0);
        }
    }

    /// Whether a backward pass computes the insides of blocks again (so it starts) or finds them kept. Both give the same
    /// bits.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
        self.batch = None;
    }

    /// What dropout draws by, until the next step.
    pub fn set_step(&mut self, seed: u64, step: u64) {
        self.step = Some((seed, step));
    }

    /// Adds the times of kernels up from now on.
    pub fn set_profile(&mut self, profile: Arc<Profile>) {
        self.profile = Some(profile);
    }

    /// Bytes that a batch of `n_tokens` on the packed axis takes where the insides of blocks are computed again: what is kept from
    /// block to block, and twice one block's inside for its graph.
    pub fn batch_bytes(&self, n_tokens: usize) -> usize {
        let n_blocks = self.plan.blocks.len().max(1);
        let graph = 2 * self.inner_bytes(n_tokens) / n_blocks;
        self.plain_bytes(&Layout::bare(&vec![0; n_tokens]), n_tokens, true) + graph
    }

    /// Bytes that keeping the insides of blocks takes for a batch of `n_tokens` on the packed axis.
    pub fn inner_bytes(&self, n_tokens: usize) -> usize {
        self.plan.blocks.iter().flat_map(|b| &b.inner).map(|&id| self.region_bytes(id, n_tokens)).sum()
    }

    pub(super) fn region_bytes(&self, id: ValueId, n_tokens: usize) -> usize {
        self.bytes(id, n_tokens).next_multiple_of(64) + 64
    }

    /// Bytes that batches have needed at most, beside the mapped weights.
    pub fn peak_bytes(&self) -> usize {
        self.peak + self.backend.work_bytes()
    }

    /// Where the nodes of all graphs ran so far; `None` where only the CPU computes.
    pub fn tally(&self) -> Option<&Tally> {
        self.backend.tally()
    }

    /// log p(token | tokens before it) of every completion token, per sequence.
    pub fn log_probs(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        let log_probs = self.run(sequences, Keep::LogProbs)?;
        self.batch = None;
        Ok(log_probs)
    }

    /// The same, keeping what [`Self::backward`] needs.
    pub fn forward(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        self.run(sequences, Keep::Gradients)
    }

    fn run(&mut self, sequences: &[&Sequence], keep: Keep) -> Result<Vec<Vec<f32>>> {
        let rows = head::rows(sequences)?;
        self.blocks(sequences, rows.len(), keep == Keep::Gradients)?;
        let (values, units) = self.head(&rows, keep)?;
        let mut out: Vec<Vec<f32>> = sequences.iter().map(|_| Vec::new()).collect();
        for (row, value) in rows.iter().zip(values) {
            out[row.sequence].push(value);
        }
        if let Some(batch) = &mut self.batch {
            (batch.rows, batch.units) = (rows, units);
        }
        Ok(out)
    }

    /// Runs all blocks and keeps what they write.
    pub(super) fn blocks(&mut self, sequences: &[&Sequence], n_rows: usize, backward: bool) -> Result<()> {
        for sequence in sequences {
            self.check_tokens(&sequence.tokens)?;
        }
        let layout = Arc::new(Layout::of(sequences)?);
        let n = layout.n_tokens();
        self.reserve(&layout, n_rows, backward, 0)?;
        let mut inputs = Inputs::place(&self.adapted.program, self.form, &layout, &mut self.memory)?;
        inputs.draws = match (self.dropout > 0.0 && backward, self.step) {
            (false, _) => None,
            (true, Some((seed, step))) => Some(Arc::new(Draws::new(self.dropout, seed, step, &layout))),
            (true, None) => return Err(Error::new(Kind::Internal, "a forward pass with dropout outside of a step")),
        };
        let mut kept = self.placed_parameters();
        for k in 0..self.plan.blocks.len() {
            let mut outputs = self.plan.blocks[k].writes.clone();
            if backward && !self.recompute {
                let inner = self.plan.blocks[k].inner.iter().filter(|id| !outputs.contains(id)).copied();
                outputs = inner.chain(outputs.iter().copied()).collect();
            }
            let regions = outputs.iter().map(|&w| self.memory.take(self.bytes(w, n))).collect::<Result<Vec<_>>>()?;
            self.graph(&inputs, &kept, n, outputs.iter().copied().zip(regions.iter().copied()))?;
            kept.extend(outputs.into_iter().zip(regions));
        }
        self.batch = Some(Batch { inputs, layout, kept, rows: Vec::new(), units: Vec::new() });
        Ok(())
    }

    /// Hidden states \[d, T\] on the packed axis that block `layer` left in the last batch, with the batch's layout.
    pub fn hidden(&self, layer: usize) -> Option<(&[f32], &Layout)> {
        let batch = self.batch.as_ref()?;
        let write = *self.plan.blocks.get(layer)?.writes.last()?;
        Some((self.memory.floats(*batch.kept.get(&write)?), &batch.layout))
    }

    /// Lowers and runs one graph.
    pub(super) fn graph(
        &mut self,
        inputs: &Inputs,
        given: &HashMap<ValueId, Region>,
        n_tokens: usize,
        outputs: impl IntoIterator<Item = (ValueId, Region)>,
    ) -> Result<()> {
        let program = &self.adapted.program;
        let names = self.model.runtime().names();
        let scope = Scope {
            program,
            weights: &self.trace.weights,
            names,
            form: self.form,
            inputs,
            given,
            n_tokens,
            profile: self.profile.as_ref(),
        };
        let n_tensors = match self.form {
            Form::TrainingOps => N_TENSORS_OPS + N_TENSORS_SEQUENCE * inputs.layout.spans().len(),
            _ => N_TENSORS,
        };
        let builder = GraphBuilder::new(&mut self.backend, &mut self.memory, n_tensors)?;
        let mut lowering = Lowering::new(scope, builder);
        for (id, region) in outputs {
            lowering.output(id, region)?;
        }
        lowering.finish().compute().map(|_| ())
    }

    pub(super) fn bytes(&self, id: ValueId, n: usize) -> usize {
        let elements = crate::ir::n_elements(self.adapted.program.get(id).ne);
        elements.map_or(0, |e| e.at(n as i64) as usize * 4)
    }

    /// Room for a batch with `n_rows` completion tokens, and `more` bytes.
    pub(super) fn reserve(&mut self, layout: &Layout, n_rows: usize, backward: bool, more: usize) -> Result<()> {
        self.batch = None;
        self.memory.reset(self.fixed);
        let inner = if backward && !self.recompute { self.inner_bytes(layout.n_tokens()) } else { 0 };
        let needed = self.fixed + self.plain_bytes(layout, n_rows, backward) + inner + more;
        self.peak = self.peak.max(needed);
        self.memory.ensure(needed)
    }

    /// What a batch needs if the insides of blocks are not kept.
    fn plain_bytes(&self, layout: &Layout, n_rows: usize, backward: bool) -> usize {
        let (program, blocks) = (&self.adapted.program, &self.plan.blocks);
        let value = |id: &ValueId| self.region_bytes(*id, layout.n_tokens());
        let writes: usize = blocks.iter().flat_map(|b| &b.writes).map(value).sum();
        // Head: gathered reads, their gradients, one chunk of logits; inputs again at chunk width.
        let n_chunk = head::chunk(self.model.n_vocab());
        let per_row: usize =
            self.plan.head.reads.iter().map(|r| head::per_token(program, *r).unwrap_or(0) * 4 + 64).sum();
        let head = per_row * (2 * n_chunk + n_rows) + self.model.n_vocab() * n_chunk * 4;
        let chunk = Layout::bare(&vec![0; n_chunk]);
        let inputs = input_bytes(program, self.form, layout) + input_bytes(program, self.form, &chunk);
        let cotangents: usize = match backward {
            true => writes + blocks.iter().flat_map(|b| &b.reads).map(value).sum::<usize>() + self.fixed,
            false => 0,
        };
        writes + head + inputs + cotangents + 65536
    }

    /// Everything about tokens that would make ggml abort.
    pub(super) fn check_tokens(&self, tokens: &[i32]) -> Result<()> {
        let n_vocab = self.model.n_vocab() as i32;
        if let Some(bad) = tokens.iter().find(|&&t| t < 0 || t >= n_vocab) {
            return Err(Error::new(Kind::Argument, format!("token {bad} is outside the vocabulary of {n_vocab}")));
        }
        match self.n_positions {
            Some(rows) if tokens.len() > rows => {
                let message = format!("{} tokens, but the model has {rows} learned positions", tokens.len());
                Err(Error::new(Kind::Argument, message))
            }
            _ => Ok(()),
        }
    }
}

/// Rows of the learned position table, if the model has one.
fn position_rows(adapted: &Adapted) -> Option<usize> {
    let program = &adapted.program;
    program.ids().find_map(|id| {
        let value = program.get(id);
        let by_position = value.op() == Some(&Op::GetRows)
            && matches!(program.get(value.src(1)).leaf(), Some(Leaf::Positions { .. }));
        by_position.then(|| program.get(value.src(0)).ne[1].a as usize)
    })
}
