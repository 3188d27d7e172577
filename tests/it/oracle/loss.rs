//! The loss Σ c·log p(token) over completion tokens, and its gradient by the logits (specs: vjp, section 10).

use super::array::Array;
use llama_align::data::Sequence;
use llama_align::engine::Layout;

/// A scored token: where on the packed axis it is predicted, which it is, its weight in the loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) place: usize,
    pub(crate) token: usize,
    pub(crate) weight: f64,
}

/// The completion tokens of a batch with their weights, in order.
pub(crate) fn targets(layout: &Layout, sequences: &[Sequence], weights: &[Vec<f32>]) -> Vec<Target> {
    let mut all = Vec::new();
    for ((sequence, span), weights) in sequences.iter().zip(layout.spans()).zip(weights) {
        let scored = (sequence.prompt_len..sequence.tokens.len()).zip(weights);
        all.extend(scored.map(|(i, &weight)| Target {
            place: span.place(i - 1),
            token: sequence.tokens[i] as usize,
            weight: f64::from(weight),
        }));
    }
    all
}

fn log_sum(row: &[f64]) -> f64 {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + row.iter().map(|z| (z - top).exp()).sum::<f64>().ln()
}

/// log p of each target from logits \[V, T\].
pub(crate) fn log_probs(logits: &Array, targets: &[Target]) -> Vec<f64> {
    let log_prob = |t: &Target| {
        let row = logits.row([0, t.place, 0, 0]);
        row[t.token] - log_sum(row)
    };
    targets.iter().map(log_prob).collect()
}

/// d loss / d logits \[V, T\]: c·(onehot − softmax) at each target's place.
pub(crate) fn seed(logits: &Array, targets: &[Target]) -> Array {
    let n_vocab = logits.ne[0];
    let mut out = vec![0.0; n_vocab * logits.ne[1]];
    for target in targets {
        let (row, d) = (logits.row([0, target.place, 0, 0]), &mut out[target.place * n_vocab..][..n_vocab]);
        let log_sum = log_sum(row);
        d.iter_mut().zip(row).for_each(|(d, z)| *d -= target.weight * (z - log_sum).exp());
        d[target.token] += target.weight;
    }
    Array::new(logits.ne, out)
}
