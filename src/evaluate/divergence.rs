//! How far a model has moved from its base on given answers: over the whole vocabulary, token by token.

use crate::data::Sequence;
use crate::engine::Engine;
use crate::error::Result;
use crate::loss::logprob::divergence;

/// Tokens whose logits are held at a time: 128 rows of 262144 logits are 128 MiB.
const WINDOW: usize = 128;

/// Means over an answer's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// KL(now ‖ base) per token, in nats: the drift that DPO and RLHF bound.
    pub kl: f64,
    /// Share of tokens where both have the same likeliest token.
    pub top1_agreement: f64,
}

/// Compares two models on one answer.
pub fn between(now: &mut Engine, base: &mut Engine, sequence: &Sequence) -> Result<Divergence> {
    let (mut kl, mut same, mut n) = (0.0, 0usize, 0usize);
    let mut start = sequence.prompt_len;
    while start < sequence.tokens.len() {
        let end = (start + WINDOW).min(sequence.tokens.len());
        let window = Sequence::new(sequence.tokens[..end].to_vec(), start);
        let mut rows: Vec<Vec<f32>> = Vec::with_capacity(end - start);
        base.visit_logits(&[&window], &mut |_, _, logits| rows.push(logits.to_vec()))?;
        let mut rows = rows.into_iter();
        now.visit_logits(&[&window], &mut |_, _, logits| {
            if let Some(base) = rows.next() {
                kl += divergence(logits, &base);
                same += usize::from(likeliest(logits) == likeliest(&base));
                n += 1;
            }
        })?;
        start = end;
    }
    let n = n.max(1) as f64;
    Ok(Divergence { kl: kl / n, top1_agreement: same as f64 / n })
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_is_the_likeliest() {
        assert_eq!((likeliest(&[1.0, 3.0, 3.0]), likeliest(&[0.0])), (1, 0));
    }
}
