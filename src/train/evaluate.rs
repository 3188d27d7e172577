//! Log-probs of a reference, and measures on held-out rows.

use super::objective::{mismatched, total};
use super::policy::Policy;
use crate::data::{Dataset, Sample, Sequence};
use crate::engine::Layout;
use crate::error::{Error, Kind, Result};
use crate::loss::Preference;
use serde::Serialize;
use std::collections::BTreeMap;

/// Reference log-probs of rows' sequences, token by token and summed, and sums of KTO's mismatched pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    rows: BTreeMap<usize, Vec<f64>>,
    tokens: BTreeMap<usize, Vec<Vec<f32>>>,
    mismatched: BTreeMap<usize, f64>,
}

impl References {
    /// Runs the policy as it is now, once over all rows.
    pub fn measure(policy: &mut dyn Policy, samples: &[Sample], max_tokens: usize) -> Result<Self> {
        let rows: Vec<usize> = (0..samples.len()).collect();
        Self::of_rows(policy, samples, &rows, None, max_tokens, &mut |_| {})
    }

    /// Runs the policy as it is now, once over the chosen rows. At step 0 of a run this is the reference: the same graph,
    /// kernels and padding as the policy's own, so every log-ratio starts at exactly 0. With
    /// `mismatched_max_length` also the rows' mismatched pairs, cut to that length. `progress` is told the number of
    /// sequences done.
    pub fn of_rows(
        policy: &mut dyn Policy,
        samples: &[Sample],
        rows: &[usize],
        mismatched_max_length: Option<usize>,
        max_tokens: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let sequences: Vec<&Sequence> = rows.iter().flat_map(|&r| samples[r].sequences()).collect();
        let mut logps = log_probs(policy, &sequences, max_tokens, progress)?.into_iter();
        let own = |&r: &usize| (r, logps.by_ref().take(samples[r].sequences().count()).collect());
        let mut references = Self::of_tokens(rows.iter().map(own).collect());
        if let Some(max_length) = mismatched_max_length {
            let pairs = rows.iter().map(|&r| mismatched(samples, r, max_length)).collect::<Result<Vec<_>>>()?;
            let mut after = |done| progress(sequences.len() + done);
            let sums = summed_log_probs(policy, &pairs.iter().collect::<Vec<_>>(), max_tokens, &mut after)?;
            references.mismatched = rows.iter().copied().zip(sums).collect();
        }
        Ok(references)
    }

    fn of_tokens(tokens: BTreeMap<usize, Vec<Vec<f32>>>) -> Self {
        let sums = |(row, logps): (&usize, &Vec<Vec<f32>>)| (*row, logps.iter().map(|l| total(l)).collect());
        Self { rows: tokens.iter().map(sums).collect(), tokens, mismatched: BTreeMap::new() }
    }

    /// Every row's number, number of sequences, each with its length before it, and mismatched pair (a count of 0 or 1 before
    /// it), one after another.
    pub(super) fn to_numbers(&self) -> Vec<f64> {
        let mut numbers = Vec::new();
        for (row, logps) in &self.tokens {
            numbers.extend([*row as f64, logps.len() as f64]);
            for sequence in logps {
                numbers.push(sequence.len() as f64);
                numbers.extend(sequence.iter().map(|&l| f64::from(l)));
            }
            let mismatched = self.mismatched.get(row);
            numbers.push(f64::from(u8::from(mismatched.is_some())));
            numbers.extend(mismatched);
        }
        numbers
    }

    /// The inverse; `None` for numbers that are no such table.
    pub(super) fn from_numbers(numbers: &[f64]) -> Option<Self> {
        fn count(rest: &mut std::slice::Iter<'_, f64>, max: f64) -> Option<usize> {
            rest.next().filter(|n| n.fract() == 0.0 && (0.0..=max).contains(*n)).map(|&n| n as usize)
        }
        let (mut tokens, mut mismatched, mut rest) = (BTreeMap::new(), BTreeMap::new(), numbers.iter());
        while !rest.as_slice().is_empty() {
            let (row, n) = (count(&mut rest, 1e15)?, count(&mut rest, 2.0)?);
            let mut logps = Vec::with_capacity(n);
            for _ in 0..n {
                let length = count(&mut rest, 1e15)?;
                let own = rest.as_slice().get(..length)?;
                logps.push(own.iter().map(|&l| l as f32).collect::<Vec<f32>>());
                rest = rest.as_slice()[length..].iter();
            }
            tokens.insert(row, logps);
            if count(&mut rest, 1.0)? == 1 {
                mismatched.insert(row, *rest.next()?);
            }
        }
        Some(Self { mismatched, ..Self::of_tokens(tokens) })
    }

    /// Adds what was measured on other rows.
    pub(super) fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.tokens.extend(other.tokens);
        self.mismatched.extend(other.mismatched);
    }

    /// True if nothing was measured.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The sums of a row's sequences.
    pub(super) fn of(&self, row: usize) -> Result<&[f64]> {
        self.rows.get(&row).map(Vec::as_slice).ok_or_else(|| unmeasured(row))
    }

    /// The log-probs of a row's sequences.
    pub fn tokens_of(&self, row: usize) -> Result<&[Vec<f32>]> {
        self.tokens.get(&row).map(Vec::as_slice).ok_or_else(|| unmeasured(row))
    }

    /// The sum of a row's mismatched pair.
    pub(super) fn of_mismatched(&self, row: usize) -> Result<f64> {
        self.mismatched.get(&row).copied().ok_or_else(|| unmeasured(row))
    }
}

fn unmeasured(row: usize) -> Error {
    Error::new(Kind::Internal, format!("row {row} has no reference log-probs"))
}

/// Splits sequences into runs whose padded length stays within `max_tokens`; a longer one goes alone. What shares tokens stays
/// together, as it is in a step.
pub(crate) fn packs<'a, 'b>(sequences: &'b [&'a Sequence], max_tokens: usize) -> Vec<&'b [&'a Sequence]> {
    let mut packs = Vec::new();
    let (mut start, mut used, mut i) = (0, 0, 0);
    for group in sequences.chunk_by(|_, next| next.shared > 0) {
        let need = Layout::padded(group.iter().copied());
        if i > start && used + need > max_tokens {
            packs.push(&sequences[start..i]);
            (start, used) = (i, 0);
        }
        (used, i) = (used + need, i + group.len());
    }
    if start < sequences.len() {
        packs.push(&sequences[start..]);
    }
    packs
}

/// Summed log-probs of the sequences' answers, packed; `progress` is told the number done.
pub fn summed_log_probs(
    policy: &mut dyn Policy,
    sequences: &[&Sequence],
    max_tokens: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    Ok(log_probs(policy, sequences, max_tokens, progress)?.iter().map(|l| total(l)).collect())
}

/// The same, token by token.
fn log_probs(
    policy: &mut dyn Policy,
    sequences: &[&Sequence],
    max_tokens: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f32>>> {
    let mut logps = Vec::with_capacity(sequences.len());
    for pack in packs(sequences, max_tokens) {
        logps.extend(policy.log_probs(pack)?);
        progress(logps.len());
    }
    Ok(logps)
}

/// What was measured on held-out rows; fields that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EvalReport {
    /// Rows measured.
    pub n_rows: usize,
    /// Completion tokens.
    pub n_tokens: usize,
    /// Mean negative log-likelihood per completion token (of the wanted answers, for pairs).
    pub nll: f64,
    /// e^nll.
    pub perplexity: f64,
    /// The run's own loss, where a run measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Pairs measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_pairs: Option<usize>,
    /// Share of pairs whose chosen answer has the higher summed log-prob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Mean summed log-prob of chosen answers.
    #[serde(rename = "logps/chosen", skip_serializing_if = "Option::is_none")]
    pub logps_chosen: Option<f64>,
    /// Mean summed log-prob of rejected answers.
    #[serde(rename = "logps/rejected", skip_serializing_if = "Option::is_none")]
    pub logps_rejected: Option<f64>,
    /// Share of pairs whose chosen answer has the higher reward.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none")]
    pub reward_accuracy: Option<f64>,
    /// Mean difference of rewards.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none")]
    pub reward_margin: Option<f64>,
    /// Mean reward of chosen (desirable) answers.
    #[serde(rename = "rewards/chosen", skip_serializing_if = "Option::is_none")]
    pub reward_chosen: Option<f64>,
    /// Mean reward of rejected (undesirable) answers.
    #[serde(rename = "rewards/rejected", skip_serializing_if = "Option::is_none")]
    pub reward_rejected: Option<f64>,
}

/// What one row scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowScore {
    /// Line of the source, from 1.
    pub line: usize,
    /// Mean negative log-likelihood per token of the first answer (the chosen one of a pair).
    pub nll: f64,
    /// Summed log-prob of each answer, the chosen one first.
    pub logps: Vec<f64>,
    /// For a pair: 1 if the chosen answer has the higher summed log-prob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Reward of each answer against a reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewards: Option<Vec<f64>>,
    /// For a pair: 1 if the chosen answer has the higher reward.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none")]
    pub reward_accuracy: Option<f64>,
    /// For a pair: the difference of rewards.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none")]
    pub reward_margin: Option<f64>,
}

/// The rewards of a row's sequences whose summed log-probs are `now`, and `then` under the reference.
fn gains(sample: &Sample, now: &[f64], then: &[f64], rewards: &Preference) -> Vec<f64> {
    let logps = now.iter().zip(then);
    sample
        .sequences()
        .zip(logps)
        .map(|(sequence, (now, then))| rewards.reward(*now, *then, sequence.n_scored()))
        .collect()
}

/// Every row's own scores, in the order of the data; rewards by `rewards`, where there is a reference.
pub fn row_scores(
    data: &Dataset,
    now: &References,
    reference: Option<&References>,
    rewards: &Preference,
) -> Result<Vec<RowScore>> {
    let score = |(row, sample): (usize, &Sample)| {
        let logps = now.of(row)?.to_vec();
        let rewards = reference.map(|r| Ok(gains(sample, &logps, r.of(row)?, rewards))).transpose()?;
        let pair = matches!(sample, Sample::Pair { .. });
        let wins = |of: &[f64]| f64::from(u8::from(of[0] > of[1]));
        let n_tokens = sample.sequences().next().map_or(1, Sequence::n_scored);
        Ok(RowScore {
            line: sample.line(),
            nll: -logps[0] / n_tokens as f64,
            accuracy: pair.then(|| wins(&logps)),
            reward_accuracy: rewards.as_deref().filter(|_| pair).map(wins),
            reward_margin: rewards.as_deref().filter(|_| pair).map(|r| r[0] - r[1]),
            logps,
            rewards,
        })
    };
    data.samples.iter().enumerate().map(score).collect()
}

/// What `now`, measured over all rows of `data`, amounts to; rewards as the loss `by` has them where there is a `reference`
/// ([`Preference::dpo`] for the implicit one).
pub fn evaluate(
    data: &Dataset,
    now: &References,
    reference: Option<&References>,
    by: &Preference,
) -> Result<EvalReport> {
    let mut report = EvalReport { n_rows: data.samples.len(), ..EvalReport::default() };
    // Sums and counts: wanted, unwanted.
    let (mut nll, mut logps, mut rewards, mut n) = (0.0, [0.0; 2], [0.0; 2], [0usize; 2]);
    let (mut wins, mut reward_wins, mut n_pairs) = (0usize, 0usize, 0usize);
    // Rows of which somebody says that they are good or bad, even if all are good.
    let judged = data.samples.iter().any(|s| matches!(s, Sample::Pair { .. } | Sample::Labelled { .. }));
    for (row, sample) in data.samples.iter().enumerate() {
        let sums = now.of(row)?;
        let gains = reference.map(|r| Ok(gains(sample, sums, r.of(row)?, by))).transpose()?;
        let first_is_wanted = !matches!(sample, Sample::Labelled { desirable: false, .. });
        for (k, sequence) in sample.sequences().enumerate() {
            let wanted = first_is_wanted && k == 0;
            let side = usize::from(!wanted);
            logps[side] += sums[k];
            n[side] += 1;
            rewards[side] += gains.as_ref().map_or(0.0, |g| g[k]);
            if wanted {
                nll -= sums[k];
                report.n_tokens += sequence.n_scored();
            }
        }
        if matches!(sample, Sample::Pair { .. }) {
            n_pairs += 1;
            wins += usize::from(sums[0] > sums[1]);
            reward_wins += usize::from(gains.as_ref().is_some_and(|g| g[0] > g[1]));
        }
    }
    let mean = |sum: f64, n: usize| (n > 0).then(|| sum / n as f64);
    report.nll = mean(nll, report.n_tokens).unwrap_or(0.0);
    report.perplexity = report.nll.exp();
    if judged {
        (report.logps_chosen, report.logps_rejected) = (mean(logps[0], n[0]), mean(logps[1], n[1]));
    }
    if n_pairs > 0 {
        report.n_pairs = Some(n_pairs);
        report.accuracy = mean(wins as f64, n_pairs);
    }
    if reference.is_some() && judged {
        (report.reward_chosen, report.reward_rejected) = (mean(rewards[0], n[0]), mean(rewards[1], n[1]));
        report.reward_margin = report.reward_chosen.zip(report.reward_rejected).map(|(c, r)| c - r);
        report.reward_accuracy = mean(reward_wins as f64, n_pairs);
    }
    Ok(report)
}
