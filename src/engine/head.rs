//! The loss head: which tokens are scored, and their log-probs with unit gradients, a chunk of logits at a time.

use crate::autodiff::token_axis;
use crate::data::Sequence;
use crate::error::{Error, Kind, Result};
use crate::ir::{Program, ValueId};
use crate::loss::logprob;
use crate::runtime::Kernel;
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

/// Every completion token of a batch, in order.
pub(super) fn rows(sequences: &[&Sequence]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (s, sequence) in sequences.iter().enumerate() {
        if sequence.prompt_len == 0 || sequence.prompt_len >= sequence.tokens.len() {
            let message = format!("a sequence of {} tokens with a prompt of {}", sequence.tokens.len(), sequence.prompt_len);
            return Err(Error::new(Kind::Argument, message));
        }
        let scored = sequence.tokens.iter().enumerate().skip(sequence.prompt_len);
        rows.extend(scored.map(|(place, &token)| Row { sequence: s, place, token }));
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
    token_axis(program, id).ok_or_else(|| Error::new(Kind::Internal, format!("{} has no token axis", program.describe(id))))
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
