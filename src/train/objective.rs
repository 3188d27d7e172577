//! One optimizer step's rows as losses: which sequences a row needs, and what its log-probs cost.

use super::config::TrainConfig;
use super::evaluate::References;
use super::method::Method;
use crate::data::{Sample, Sequence};
use crate::error::{Error, Kind, Result};
use crate::loss::{kl_baseline, kto, sft, ExampleLogps, PairLogps, PairUnits};

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
    /// Completion tokens.
    pub(super) n_tokens: usize,
    /// Those of the chosen answers, where there are pairs.
    pub(super) n_chosen_tokens: usize,
    /// Rows.
    pub(super) n_rows: usize,
    /// KTO's baseline.
    pub(super) kl: f64,
}

/// Sum of a completion's log-probs.
pub(super) fn total(logps: &[f32]) -> f64 {
    logps.iter().map(|&l| f64::from(l)).sum()
}

/// Completion tokens that a row's loss is formed over.
pub(super) fn n_loss_tokens(sample: &Sample) -> usize {
    sample.sequences().map(Sequence::n_scored).sum()
}

/// Those of the answer to imitate or to prefer.
pub(super) fn n_chosen_tokens(sample: &Sample) -> usize {
    sample.sequences().next().map_or(0, Sequence::n_scored)
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

/// The loss of one row from its log-probs: adds to the tally, returns d loss / d log-prob of every completion token.
pub(super) fn row_loss(
    config: &TrainConfig,
    sample: &Sample,
    row: usize,
    logps: &[Vec<f32>],
    references: &References,
    units: &StepUnits,
    tally: &mut Tally,
) -> Result<Vec<Vec<f32>>> {
    let spread = |d: f64, logps: &[f32]| vec![d as f32; logps.len()];
    tally.n_tokens += logps.iter().map(Vec::len).sum::<usize>();
    match (config.method, sample) {
        (Method::Sft, Sample::Completion { .. }) => {
            let (loss, d) = sft(&logps[0], units.n_tokens);
            tally.loss += loss;
            Ok(vec![spread(d, &logps[0])])
        }
        (Method::Dpo, Sample::Pair { .. }) => {
            let mixture = config.mixture()?;
            let reference = if mixture.has_reference() { references.of(row)? } else { &[0.0; 2] };
            let (sums, lengths) = ([total(&logps[0]), total(&logps[1])], [logps[0].len(), logps[1].len()]);
            let pair = pair_logps(&sums, reference, lengths);
            let found = mixture.of(&pair, PairUnits { n_pairs: units.n_rows, n_chosen_tokens: units.n_chosen_tokens });
            tally.loss += found.loss;
            tally.reward_chosen += found.reward_chosen;
            tally.reward_rejected += found.reward_rejected;
            tally.wins += usize::from(found.reward_chosen > found.reward_rejected);
            tally.logps_chosen += pair.chosen;
            tally.logps_rejected += pair.rejected;
            (tally.n_chosen, tally.n_rejected, tally.n_pairs) =
                (tally.n_chosen + 1, tally.n_rejected + 1, tally.n_pairs + 1);
            Ok(vec![spread(found.d_chosen, &logps[0]), spread(found.d_rejected, &logps[1])])
        }
        (Method::Kto, Sample::Labelled { desirable, .. }) => {
            let example =
                ExampleLogps { policy: total(&logps[0]), reference: references.of(row)?[0], desirable: *desirable };
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
            Ok(vec![spread(found.d_policy, &logps[0])])
        }
        _ => Err(Error::new(
            Kind::Internal,
            format!("a row of line {} does not suit method {}", sample.line(), config.method.name()),
        )),
    }
}

/// A pair's sums as its loss takes them; those of a reference are 0 where the loss has none.
pub(super) fn pair_logps(sums: &[f64], reference: &[f64], lengths: [usize; 2]) -> PairLogps {
    PairLogps {
        chosen: sums[0],
        rejected: sums[1],
        ref_chosen: reference[0],
        ref_rejected: reference[1],
        n_chosen: lengths[0],
        n_rejected: lengths[1],
    }
}

/// KTO's baseline of a step from the log-probs of its mismatched pairs.
pub(super) fn baseline(policy: &[f64], reference: &[f64]) -> f64 {
    let ratios: Vec<f64> = policy.iter().zip(reference).map(|(p, r)| p - r).collect();
    kl_baseline(&ratios)
}
