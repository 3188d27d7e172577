//! The loss head: which tokens are scored, and their log-probs with unit gradients, a chunk of logits at a time.
//!
//! **In:** the last block's results. **Out:** log-probs, and per token the gradient of its log-prob with respect to each value
//! that the head reads, to be weighed when the loss is known.

use super::inputs::Inputs;
use super::layout::Layout;
use super::lower::{Lowering, Scope};
use super::plan::Step;
use super::session::{Engine, Keep};
use crate::autodiff::token_axis;
use crate::data::Sequence;
use crate::error::{Error, Kind, Result};
use crate::ir::{Program, ValueId};
use crate::loss::logprob;
use crate::runtime::{GraphBuilder, Kernel, Region};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// Bytes that a chunk of logits may take.
const CHUNK_BYTES: usize = 32 << 20;

/// A scored token: `token` at `place` of a sequence, predicted from the place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) sequence: usize,
    pub(super) place: usize,
    pub(super) token: i32,
}

/// For each read of the head that moves: its unit gradients, one column per row.
pub(super) type Units = Vec<(ValueId, Region)>;

/// Every token of a batch that has a loss, in order.
pub(super) fn rows(sequences: &[&Sequence]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (s, sequence) in sequences.iter().enumerate() {
        if sequence.prompt_len == 0 || sequence.prompt_len >= sequence.tokens.len() {
            let message =
                format!("a sequence of {} tokens with a prompt of {}", sequence.tokens.len(), sequence.prompt_len);
            return Err(Error::new(Kind::Argument, message));
        }
        rows.extend(sequence.scored().map(|place| Row { sequence: s, place, token: sequence.tokens[place] }));
    }
    Ok(rows)
}

/// Tokens per chunk of logits.
pub(super) fn chunk(n_vocab: usize) -> usize {
    (CHUNK_BYTES / (4 * n_vocab.max(1))).clamp(16, 512) / 16 * 16
}

/// Width of a chunk's graph: fixed steps, so that a token's bits do not depend on how many share its chunk.
pub(super) fn padded(n_rows: usize) -> usize {
    n_rows.next_multiple_of(16)
}

/// Elements per token of a value that the head reads.
pub(super) fn per_token(program: &Program, id: ValueId) -> Result<usize> {
    token_axis(program, id)
        .ok_or_else(|| Error::new(Kind::Internal, format!("{} has no token axis", program.describe(id))))
}

/// Where a kernel leaves its rows' log-probs.
#[derive(Clone, Debug)]
pub(super) struct Found(Arc<Vec<AtomicU32>>);

impl Found {
    fn new(n: usize) -> Self {
        Self(Arc::new((0..n).map(|_| AtomicU32::new(0)).collect()))
    }

    fn set(&self, i: usize, value: f32) {
        self.0[i].store(value.to_bits(), Ordering::Relaxed);
    }

    /// The values, after the graph ran.
    pub(super) fn take(&self) -> Vec<f32> {
        self.0.iter().map(|v| f32::from_bits(v.load(Ordering::Relaxed))).collect()
    }
}

/// Logits \[V, n\] → log-prob of each row's target; rows beyond the targets are padding.
pub(super) fn log_probs(targets: Vec<i32>, n: usize) -> (Kernel, Found) {
    let found = Found::new(n);
    let out = found.clone();
    let kernel = crate::kernel::ops::per_row(move |i, logits, result| {
        let value = targets.get(i).map_or(0.0, |&t| logprob::log_prob(logits, t as usize));
        out.set(i, value);
        result[0] = value;
    });
    (kernel, found)
}

/// Logits \[V, n\] → onehot − softmax of each row: the gradient of its target's log-prob (vjp 10, c = 1).
pub(super) fn unit_gradients(targets: Vec<i32>, n: usize) -> (Kernel, Found) {
    let found = Found::new(n);
    let out = found.clone();
    let kernel = crate::kernel::ops::per_row(move |i, logits, result| match targets.get(i) {
        Some(&target) => {
            result.copy_from_slice(logits);
            out.set(i, logprob::unit_gradient(result, target as usize));
        }
        None => result.fill(0.0),
    });
    (kernel, found)
}

impl Engine {
    /// Runs the blocks, then shows the logits \[V\] of every completion token: sequence, place in it, logits.
    pub fn visit_logits(&mut self, sequences: &[&Sequence], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<()> {
        let rows = rows(sequences)?;
        self.blocks(sequences, rows.len(), false)?;
        self.visit_kept_logits(sequences, visit)
    }

    /// The same on what the blocks have left in the last batch, or were given by [`Self::block_values`].
    pub fn visit_kept_logits(
        &mut self,
        sequences: &[&Sequence],
        visit: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let rows = rows(sequences)?;
        let n_vocab = self.model.n_vocab();
        let n_chunk = chunk(n_vocab);
        let chunk_bytes = self.memory.take(n_vocab * n_chunk * 4)?;
        for rows in rows.chunks(n_chunk) {
            let mark = self.memory.used();
            let (inputs, given) = self.gathered(rows)?;
            self.graph(&inputs, &given, padded(rows.len()), [(self.adapted.logits, chunk_bytes)])?;
            for (row, logits) in rows.iter().zip(self.memory.floats(chunk_bytes).chunks_exact(n_vocab)) {
                visit(row.sequence, row.place, logits);
            }
            self.memory.reset(mark);
        }
        Ok(())
    }

    /// The head's reads at the chosen tokens, padded, and its inputs at that width.
    fn gathered(&mut self, rows: &[Row]) -> Result<(Inputs, HashMap<ValueId, Region>)> {
        let n = padded(rows.len());
        let layout = Arc::new(Layout::bare(&vec![0; n]));
        let inputs = Inputs::place(&self.adapted.program, self.form, &layout, &mut self.memory)?;
        let Some(batch) = &self.batch else { return Err(Error::new(Kind::Internal, "no batch was run")) };
        let mut given = batch.kept.clone();
        for &read in &self.plan.head.reads {
            let per_token = per_token(&self.adapted.program, read)?;
            let region = self.memory.take(per_token * n * 4)?;
            let source = *batch
                .kept
                .get(&read)
                .ok_or_else(|| Error::new(Kind::Internal, "the head reads what no block wrote"))?;
            for (i, row) in rows.iter().enumerate() {
                let from = batch.layout.spans()[row.sequence].place(row.place - 1) * per_token;
                let column = self.memory.floats(source)[from..from + per_token].to_vec();
                self.memory.floats_mut(region)[i * per_token..(i + 1) * per_token].copy_from_slice(&column);
            }
            self.memory.floats_mut(region)[rows.len() * per_token..].fill(0.0);
            given.insert(read, region);
        }
        Ok((inputs, given))
    }

    /// Log-probs of the rows' tokens and, if gradients are kept, each read's gradient of its row's log-prob.
    pub(super) fn head(&mut self, rows: &[Row], keep: Keep) -> Result<(Vec<f32>, Units)> {
        let step = self.plan.head.clone();
        let mut units = Vec::new();
        if keep == Keep::Gradients {
            for &(read, _) in &step.read_gradients {
                let per_token = per_token(&self.adapted.program, read)?;
                units.push((read, self.memory.take(per_token * rows.len() * 4)?));
            }
        }
        let mut values = Vec::with_capacity(rows.len());
        let n_chunk = chunk(self.model.n_vocab());
        for (c, rows) in rows.chunks(n_chunk).enumerate() {
            let mark = self.memory.used();
            let (inputs, given) = self.gathered(rows)?;
            let n = padded(rows.len());
            let outputs = units
                .iter()
                .map(|&(read, _)| self.memory.take(per_token(&self.adapted.program, read)? * n * 4))
                .collect::<Result<Vec<_>>>()?;
            let targets = rows.iter().map(|r| r.token).collect();
            let found = self.head_graph(&step, &inputs, &given, n, targets, &outputs)?;
            values.extend(&found[..rows.len()]);
            for (&(read, all), &chunk) in units.iter().zip(&outputs) {
                let per_token = per_token(&self.adapted.program, read)?;
                let (at, len) = (c * n_chunk * per_token, rows.len() * per_token);
                let part = self.memory.floats(chunk)[..len].to_vec();
                self.memory.floats_mut(all)[at..at + len].copy_from_slice(&part);
            }
            self.memory.reset(mark);
        }
        Ok((values, units))
    }

    fn head_graph(
        &mut self,
        step: &Step,
        inputs: &Inputs,
        given: &HashMap<ValueId, Region>,
        n: usize,
        targets: Vec<i32>,
        outputs: &[Region],
    ) -> Result<Vec<f32>> {
        let program = &self.adapted.program;
        let names = self.model.runtime().names();
        let scope = Scope {
            program,
            weights: &self.trace.weights,
            names,
            form: self.form,
            inputs,
            given,
            n_tokens: n,
            profile: self.profile.as_ref(),
        };
        let builder = GraphBuilder::new(&mut self.backend, &mut self.memory, program.values.len() * 4 + 512)?;
        let mut lowering = Lowering::new(scope, builder);
        let logits = lowering.tensor(self.adapted.logits)?;
        let found = if outputs.is_empty() {
            let (kernel, found) = log_probs(targets, n);
            lowering.custom_output([1, n as i64, 1, 1], logits, kernel)?;
            found
        } else {
            let (kernel, found) = unit_gradients(targets, n);
            let seed = lowering.custom([self.model.n_vocab() as i64, n as i64, 1, 1], logits, kernel)?;
            for &(_, leaf) in &step.seeds {
                lowering.define(leaf, seed);
            }
            for (&(_, gradient), &region) in step.read_gradients.iter().zip(outputs) {
                lowering.output(gradient, region)?;
            }
            found
        };
        lowering.finish().compute()?;
        Ok(found.take())
    }
}
