//! One optimizer step's rows as losses: which sequences a row needs, and what its log-probs cost.

use super::config::TrainConfig;
use super::evaluate::References;
use super::method::Method;
use crate::data::{Sample, Sequence, TokenWeights};
use crate::error::{Error, Kind, Result};
use crate::loss::{kl_baseline, kto, lowest, weighted_sum, ExampleLogps, PairLogps, PairUnits, TokenNpo};

/// Sums over a step for its report; means are taken at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) loss: f64,
    pub(super) n_chosen: usize,
    pub(super) n_rejected: usize,
    pub(super) reward_chosen: f64,
    pub(super) reward_rejected: f64,
    pub(super) wins: usize,
    pub(super) n_pairs: usize,
    pub(super) logps_chosen: f64,
    pub(super) logps_rejected: f64,
    pub(super) kl: f64,
    pub(super) n_tokens: usize,
}

/// The unit counts of one optimizer step.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepUnits {
    /// Completion tokens; as for the others, those whose weight is not 0.
    pub(super) n_tokens: usize,
    /// Those of the chosen answers, where there are pairs.
    pub(super) n_chosen_tokens: usize,
    /// Those of the rejected answers.
    pub(super) n_rejected_tokens: usize,
    /// Rows.
    pub(super) n_rows: usize,
    /// KTO's baseline.
    pub(super) kl: f64,
}

/// Sum of a completion's log-probs.
pub(super) fn total(logps: &[f32]) -> f64 {
    logps.iter().map(|&l| f64::from(l)).sum()
}

/// The unit counts of some rows.
pub(super) fn count_units(samples: &[Sample], rows: &[usize], weights: &TokenWeights, kl: f64) -> StepUnits {
    let mut units = StepUnits { n_tokens: 0, n_chosen_tokens: 0, n_rejected_tokens: 0, n_rows: rows.len(), kl };
    for &row in rows {
        for (k, sequence) in samples[row].sequences().enumerate() {
            let n = n_weighted(weights, row, k, sequence.n_scored());
            units.n_tokens += n;
            *(if k == 0 { &mut units.n_chosen_tokens } else { &mut units.n_rejected_tokens }) += n;
        }
    }
    units
}

/// Row `i`'s prompt with the completion of the next row that comes from another line of the file: the two answers of a pair
/// have one prompt, so neither is a mismatch for the other. Cut to `max_length` tokens (KTO's mismatched pair).
pub(super) fn mismatched(samples: &[Sample], i: usize, max_length: usize) -> Result<Sequence> {
    let n = samples.len();
    let other = (1..n).map(|k| (i + k) % n).find(|&j| samples[j].line() != samples[i].line()).unwrap_or((i + 1) % n);
    let (Some(own), Some(next)) = (samples[i].sequences().next(), samples[other].sequences().next()) else {
        return Err(Error::new(Kind::Internal, "a row without a sequence"));
    };
    let mut tokens = own.tokens[..own.prompt_len].to_vec();
    tokens.extend_from_slice(&next.tokens[next.prompt_len..]);
    tokens.truncate(max_length.max(own.prompt_len + 1));
    Ok(Sequence::new(tokens, own.prompt_len))
}

/// A row's log-probs with those of its reference, and the weights of its tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLogps<'a> {
    /// Its number.
    pub(super) row: usize,
    /// Of each sequence, under the policy.
    pub(super) policy: &'a [Vec<f32>],
    /// Under the reference; of no use where the loss has none.
    pub(super) references: &'a References,
    /// Weights of single tokens.
    pub(super) weights: &'a TokenWeights,
}

impl RowLogps<'_> {
    /// Tokens of sequence `k` that have a weight other than 0.
    fn n_weighted(&self, k: usize) -> usize {
        n_weighted(self.weights, self.row, k, self.policy[k].len())
    }

    fn sum(&self, k: usize) -> f64 {
        weighted_sum(&self.policy[k], self.weights.of(self.row, k))
    }

    fn reference_sum(&self, k: usize) -> Result<f64> {
        Ok(weighted_sum(&self.references.tokens_of(self.row)?[k], self.weights.of(self.row, k)))
    }

    /// d loss / d log-prob of every token from that of the weighted sum.
    fn spread(&self, k: usize, slope: f64) -> Vec<f32> {
        let of = |w: &[f32]| w.iter().map(|&w| (slope * f64::from(w)) as f32).collect();
        self.weights.of(self.row, k).map_or_else(|| vec![slope as f32; self.policy[k].len()], of)
    }

    /// A pair's sums as its loss takes them, 0 for a reference that the loss does not have, and the weights of the rejected
    /// answer's tokens: those of the file, and of the share that the loss sees.
    pub(super) fn pair(&self, config: &TrainConfig, has_reference: bool) -> Result<(PairLogps, Vec<f32>)> {
        let given = |n: usize| self.weights.of(self.row, 1).map_or_else(|| vec![1.0; n], <[f32]>::to_vec);
        let mut rejected = given(self.policy[1].len());
        let mut pair = PairLogps {
            chosen: self.sum(0),
            rejected: 0.0,
            ref_chosen: 0.0,
            ref_rejected: 0.0,
            n_chosen: self.n_weighted(0),
            n_rejected: 0,
        };
        if has_reference {
            let reference = &self.references.tokens_of(self.row)?[1];
            if config.rejected_share < 1.0 {
                let kept = lowest(&self.policy[1], reference, config.rejected_share);
                rejected.iter_mut().zip(kept).for_each(|(w, k)| *w *= k);
            }
            (pair.ref_chosen, pair.ref_rejected) = (self.reference_sum(0)?, weighted_sum(reference, Some(&rejected)));
        }
        pair.rejected = weighted_sum(&self.policy[1], Some(&rejected));
        pair.n_rejected = rejected.iter().filter(|w| **w != 0.0).count();
        Ok((pair, rejected))
    }
}

/// Tokens of a row's sequence `k` of `n` that have a weight other than 0.
pub(super) fn n_weighted(weights: &TokenWeights, row: usize, k: usize, n: usize) -> usize {
    weights.of(row, k).map_or(n, |weights| weights.iter().filter(|w| **w != 0.0).count())
}

/// The loss of one row from its log-probs: adds to the tally, returns d loss / d log-prob of every completion token.
pub(super) fn row_loss(
    config: &TrainConfig,
    sample: &Sample,
    logps: &RowLogps<'_>,
    units: &StepUnits,
    tally: &mut Tally,
) -> Result<Vec<Vec<f32>>> {
    tally.n_tokens += logps.policy.iter().map(Vec::len).sum::<usize>();
    match (config.method, sample) {
        (Method::Sft, Sample::Completion { .. }) => {
            let n = units.n_tokens.max(1) as f64;
            tally.loss -= logps.sum(0) / n;
            Ok(vec![logps.spread(0, -1.0 / n)])
        }
        (Method::Dpo, Sample::Pair { .. }) => {
            let mixture = config.mixture()?;
            let (pair, rejected) = logps.pair(config, mixture.has_reference())?;
            let found = mixture.of(&pair, PairUnits { n_pairs: units.n_rows, n_chosen_tokens: units.n_chosen_tokens });
            tally.loss += found.loss;
            tally.pair([found.reward_chosen, found.reward_rejected], [pair.chosen, pair.rejected]);
            let of_rejected = rejected.iter().map(|&w| (found.d_rejected * f64::from(w)) as f32).collect();
            Ok(vec![logps.spread(0, found.d_chosen), of_rejected])
        }
        (Method::Npo, Sample::Pair { .. }) => {
            let (pair, weights) = logps.pair(config, true)?;
            let reference = &logps.references.tokens_of(logps.row)?[1];
            let npo = TokenNpo { beta: config.beta, rescaled: false };
            let found = npo.of(&logps.policy[1], reference, &weights, units.n_rejected_tokens);
            tally.loss += found.loss;
            let reward = |policy: f64, reference: f64| config.beta * (policy - reference);
            let rewards = [reward(pair.chosen, pair.ref_chosen), reward(pair.rejected, pair.ref_rejected)];
            tally.pair(rewards, [pair.chosen, pair.rejected]);
            Ok(vec![vec![0.0; logps.policy[0].len()], found.slopes.iter().map(|&s| s as f32).collect()])
        }
        (Method::Kto, Sample::Labelled { desirable, .. }) => {
            let example =
                ExampleLogps { policy: logps.sum(0), reference: logps.reference_sum(0)?, desirable: *desirable };
            let weights = [config.desirable_weight, config.undesirable_weight];
            let found = kto(&example, units.kl, config.beta, weights, units.n_rows);
            tally.loss += found.loss;
            if *desirable {
                tally.reward_chosen += found.reward;
                tally.logps_chosen += example.policy;
                tally.n_chosen += 1;
            } else {
                tally.reward_rejected += found.reward;
                tally.logps_rejected += example.policy;
                tally.n_rejected += 1;
            }
            Ok(vec![logps.spread(0, found.d_policy)])
        }
        _ => Err(Error::new(
            Kind::Internal,
            format!("a row of line {} does not suit method {}", sample.line(), config.method.name()),
        )),
    }
}

impl Tally {
    /// Counts a pair: rewards and log-probs of the chosen and the rejected answer.
    fn pair(&mut self, rewards: [f64; 2], logps: [f64; 2]) {
        self.reward_chosen += rewards[0];
        self.reward_rejected += rewards[1];
        self.wins += usize::from(rewards[0] > rewards[1]);
        self.logps_chosen += logps[0];
        self.logps_rejected += logps[1];
        (self.n_chosen, self.n_rejected, self.n_pairs) = (self.n_chosen + 1, self.n_rejected + 1, self.n_pairs + 1);
    }
}

/// KTO's baseline of a step from the log-probs of its mismatched pairs.
pub(super) fn baseline(policy: &[f64], reference: &[f64]) -> f64 {
    let ratios: Vec<f64> = policy.iter().zip(reference).map(|(p, r)| p - r).collect();
    kl_baseline(&ratios)
}

#[cfg(test)]
#[path = "objective_tests.rs"]
mod tests;
