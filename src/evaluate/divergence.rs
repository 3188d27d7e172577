//! How far a model has moved from its base on given answers: over the whole vocabulary, token by token.

use crate::data::Sequence;
use crate::engine::Engine;
use crate::error::Result;

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

/// KL(p ‖ q) of two rows of logits, in F64.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (ln_p, ln_q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        ln_p.exp() * (ln_p - ln_q)
    };
    p.iter().zip(q).map(term).sum()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(largest) + row.iter().map(|&x| f64::from(x - largest).exp()).sum::<f64>().ln()
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln(2/3).
        let (p, q) = ([1.0f32, 1.0], [0.0f32, 3f32.ln()]);
        let wanted = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((divergence(&p, &q) - wanted).abs() < 1e-7);
        assert_eq!(divergence(&p, &p), 0.0);
        assert_eq!((likeliest(&[1.0, 3.0, 3.0]), likeliest(&[0.0])), (1, 0));
    }
}
