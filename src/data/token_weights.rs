//! Weights of single tokens, a file beside the rows: one JSON object per line, which names a row by its line in the data file.
//!
//! `{"line": 3, "chosen": [1, 1, 0.5], "rejected": [0, 1]}` for a pair, `{"line": 3, "completion": [1, 0]}` for other rows.
//! A number for every token that has a loss, the end of the answer included; `chosen` may be left out and is 1 then.

use super::dataset::{Dataset, Sample};
use super::tokens::Sequence;
use crate::error::{Error, Kind, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Weights of the rows of one data set: of each row's sequences, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenWeights {
    rows: Vec<Vec<Vec<f32>>>,
}

/// A line of the file.
#[derive(Debug, Deserialize)]
struct Line {
    line: usize,
    chosen: Option<Vec<f32>>,
    rejected: Option<Vec<f32>>,
    completion: Option<Vec<f32>>,
}

impl TokenWeights {
    /// Reads the file for these rows.
    ///
    /// # Errors
    /// Naming file and line: what is no such object, a row without weights or with weights for other tokens, and weights that are
    /// negative or not finite.
    pub fn read(path: &Path, data: &Dataset) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the token weights", &e))?;
        Self::parse(&text, &path.display().to_string(), data)
    }

    fn parse(text: &str, source: &str, data: &Dataset) -> Result<Self> {
        let mut lines = BTreeMap::new();
        for (i, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let fault = |what: &str| Error::new(Kind::Data, format!("{source}:{}: {what}", i + 1));
            let line: Line = serde_json::from_str(text).map_err(|e| fault(&e.to_string()))?;
            let all = [&line.chosen, &line.rejected, &line.completion];
            if all.into_iter().flatten().flatten().any(|w| !(w.is_finite() && *w >= 0.0)) {
                return Err(fault("a weight is negative or not finite"));
            }
            if lines.insert(line.line, (i + 1, line)).is_some() {
                return Err(fault("a second line for the same row"));
            }
        }
        let of = |sample: &Sample| {
            let Some((at, line)) = lines.get(&sample.line()) else {
                let message = format!("{source}: the row of line {} has no weights", sample.line());
                return Err(Error::new(Kind::Data, message));
            };
            let fault = |what: String| Error::new(Kind::Data, format!("{source}:{at}: {what}"));
            let given = match sample {
                Sample::Pair { .. } => vec![("chosen", &line.chosen), ("rejected", &line.rejected)],
                _ => vec![("completion", &line.completion)],
            };
            let weights = sample.sequences().zip(given).map(|(sequence, (name, weights))| match weights {
                Some(weights) if weights.len() == sequence.n_scored() => Ok(weights.clone()),
                Some(weights) => {
                    let (found, wanted) = (weights.len(), sequence.n_scored());
                    Err(fault(format!("{name} has {found} weights, the row has {wanted} tokens with a loss")))
                }
                None if name == "chosen" => Ok(vec![1.0; sequence.n_scored()]),
                None => Err(fault(format!("{name} is missing"))),
            });
            weights.collect::<Result<Vec<_>>>()
        };
        Ok(Self { rows: data.samples.iter().map(of).collect::<Result<_>>()? })
    }

    /// Weights from a function of row and sequence.
    pub fn from_fn(data: &Dataset, of: impl Fn(usize, usize, &Sequence) -> Vec<f32>) -> Self {
        let row = |(i, sample): (usize, &Sample)| sample.sequences().enumerate().map(|(k, s)| of(i, k, s)).collect();
        Self { rows: data.samples.iter().enumerate().map(row).collect() }
    }

    /// Those of a row's sequence `k`; `None` where there are none, and each is 1.
    pub fn of(&self, row: usize, k: usize) -> Option<&[f32]> {
        self.rows.get(row)?.get(k).map(Vec::as_slice)
    }

    /// Those of row `row`'s sequence `k` become these; a place that is none stays none.
    pub fn set(&mut self, row: usize, k: usize, weights: &[f32]) {
        if let Some(own) = self.rows.get_mut(row).and_then(|row| row.get_mut(k)) {
            *own = weights.to_vec();
        }
    }

    /// Those of the rows that are kept.
    #[must_use]
    pub fn of_rows(&self, kept: &[bool]) -> Self {
        let rows = self.rows.iter().zip(kept).filter(|(_, kept)| **kept).map(|(row, _)| row.clone());
        Self { rows: rows.collect() }
    }

    /// A fingerprint.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for weights in self.rows.iter().flatten() {
            hasher.update(&(weights.len() as u64).to_le_bytes());
            for weight in weights {
                hasher.update(&weight.to_le_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dataset::Report;
    use super::*;

    fn data() -> Dataset {
        let sequence = |n: usize| Sequence::new((0..n as i32 + 2).collect(), 2);
        let samples = vec![Sample::pair(4, sequence(2), sequence(3)), Sample::pair(9, sequence(1), sequence(1))];
        Dataset { samples, report: Report::default() }
    }

    #[test]
    fn rows_are_found_by_their_lines() {
        let text = "{\"line\": 9, \"chosen\": [0.5], \"rejected\": [0]}\n\n{\"line\":4,\"rejected\":[1,0,2],\"note\":\"x\"}\n{\"line\": 1}\n";
        let weights = TokenWeights::parse(text, "w.jsonl", &data()).unwrap();
        assert_eq!((weights.of(0, 0), weights.of(0, 1)), (Some(&[1.0, 1.0][..]), Some(&[1.0, 0.0, 2.0][..])));
        assert_eq!((weights.of(1, 0), weights.of(1, 1), weights.of(2, 0)), (Some(&[0.5][..]), Some(&[0.0][..]), None));
        assert_ne!(weights.digest(), TokenWeights::from_fn(&data(), |_, _, s| vec![1.0; s.n_scored()]).digest());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_file_and_line() {
        let good = "{\"line\": 9, \"rejected\": [0]}\n";
        for (text, says) in [
            (good.to_owned(), "line 4"),
            (format!("{good}{{\"line\": 4}}"), "w.jsonl:2: rejected is missing"),
            (
                format!("{good}{{\"line\": 4, \"rejected\": [1, 1]}}"),
                "w.jsonl:2: rejected has 2 weights, the row has 3",
            ),
            (format!("{good}{{\"line\": 4, \"rejected\": [1, -1, 1]}}"), "w.jsonl:2: a weight is negative"),
            (format!("{good}{good}"), "w.jsonl:2: a second"),
            (format!("{good}[1]"), "w.jsonl:2"),
        ] {
            let error = TokenWeights::parse(&text, "w.jsonl", &data()).unwrap_err();
            assert!(error.kind() == Kind::Data && error.to_string().contains(says), "{says}: {error}");
        }
    }
}
