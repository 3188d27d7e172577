//! Weights of single tokens, a file beside the rows: one JSON object per line, which names a row by its line in the data file.
//!
//! `{"line": 3, "chosen": [1, 1, 0.5], "rejected": [0, 1]}` for a pair, `{"line": 3, "completion": [1, 0]}` for other rows.
//! A number for every token that has a loss, the end of the answer included; `chosen` may be left out and is 1 then. What SFT and
//! KTO make of a pair is weighed as the answer of the pair that it is: the chosen one, or where the label is false the rejected
//! one; an answer that such a line does not name is 1.
//!
//! Or they are columns of the rows themselves: `chosen_weights`, `rejected_weights`, `completion_weights`. What has none is 1.

use super::array::elements;
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
    #[serde(flatten)]
    answers: Answers,
}

/// Weights that someone gave a row's answers.
#[derive(Debug, Default, Deserialize)]
struct Answers {
    chosen: Option<Vec<f32>>,
    rejected: Option<Vec<f32>>,
    completion: Option<Vec<f32>>,
}

/// The same as columns of a row.
#[derive(Debug, Deserialize)]
struct InColumns {
    chosen_weights: Option<Vec<f32>>,
    rejected_weights: Option<Vec<f32>>,
    completion_weights: Option<Vec<f32>>,
}

impl Answers {
    fn check(&self) -> std::result::Result<(), String> {
        let all = [&self.chosen, &self.rejected, &self.completion];
        match all.into_iter().flatten().flatten().find(|w| !(w.is_finite() && **w >= 0.0)) {
            Some(_) => Err("a weight is negative or not finite".to_owned()),
            None => Ok(()),
        }
    }

    /// Those of a row's sequences; where a pair's line may lack its rejected answer, that is 1 as the chosen one is.
    fn of(&self, sample: &Sample, may_lack_all: bool) -> std::result::Result<Vec<Vec<f32>>, String> {
        let is_pair = matches!(sample, Sample::Pair { .. });
        let given = match sample {
            Sample::Pair { .. } => vec![("chosen", &self.chosen), ("rejected", &self.rejected)],
            _ if self.completion.is_some() || (self.chosen.is_none() && self.rejected.is_none()) => {
                vec![("completion", &self.completion)]
            }
            // The line is of a pair, of which the row is one answer.
            Sample::Labelled { desirable: false, .. } => vec![("rejected", &self.rejected)],
            _ => vec![("chosen", &self.chosen)],
        };
        let may_lack = |name: &str| may_lack_all || name == "chosen" || (name == "rejected" && !is_pair);
        let of = |(sequence, (name, weights)): (&Sequence, (&str, &Option<Vec<f32>>))| match weights {
            Some(weights) if weights.len() == sequence.n_scored() => Ok(weights.clone()),
            Some(weights) => {
                let (found, wanted) = (weights.len(), sequence.n_scored());
                Err(format!("{name} has {found} weights, the row has {wanted} tokens with a loss"))
            }
            None if may_lack(name) => Ok(vec![1.0; sequence.n_scored()]),
            None => Err(format!("{name} is missing")),
        };
        sample.sequences().zip(given).map(of).collect()
    }
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
            line.answers.check().map_err(|what| fault(&what))?;
            if lines.insert(line.line, (i + 1, line.answers)).is_some() {
                return Err(fault("a second line for the same row"));
            }
        }
        let of = |sample: &Sample| {
            let Some((at, answers)) = lines.get(&sample.line()) else {
                let message = format!("{source}: the row of line {} has no weights", sample.line());
                return Err(Error::new(Kind::Data, message));
            };
            answers.of(sample, false).map_err(|what| Error::new(Kind::Data, format!("{source}:{at}: {what}")))
        };
        Ok(Self { rows: data.samples.iter().map(of).collect::<Result<_>>()? })
    }

    /// Those that the rows' own file has as columns, `chosen_weights`, `rejected_weights` and `completion_weights`; `None` where no row
    /// has any. `data` was made of the file.
    ///
    /// # Errors
    /// Naming file and line: what is no list of numbers, weights for other tokens, and weights that are negative or not finite.
    pub fn of_columns(path: &Path, data: &Dataset) -> Result<Option<Self>> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        Self::in_columns(&text, &path.display().to_string(), data)
    }

    fn in_columns(text: &str, source: &str, data: &Dataset) -> Result<Option<Self>> {
        if !text.contains("_weights\"") {
            return Ok(None);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let fault = |line: usize, what: String| Error::new(Kind::Data, format!("{source}:{line}: {what}"));
        let rows = match text.trim_start().starts_with('[') {
            true => elements(text).map_err(|(line, what)| fault(line, what))?,
            false => text.lines().enumerate().map(|(i, row)| (i + 1, row)).collect(),
        };
        let mut found = BTreeMap::new();
        for (line, row) in rows.into_iter().filter(|(_, row)| row.contains("_weights\"")) {
            let InColumns { chosen_weights: chosen, rejected_weights: rejected, completion_weights: completion } =
                serde_json::from_str(row).map_err(|e| fault(line, format!("weights of tokens: {e}")))?;
            let answers = Answers { chosen, rejected, completion };
            answers.check().map_err(|what| fault(line, what))?;
            if answers.chosen.is_some() || answers.rejected.is_some() || answers.completion.is_some() {
                found.insert(line, answers);
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        let none = Answers::default();
        let of = |sample: &Sample| {
            let answers = found.get(&sample.line()).unwrap_or(&none);
            answers.of(sample, true).map_err(|what| fault(sample.line(), format!("weights of tokens: {what}")))
        };
        Ok(Some(Self { rows: data.samples.iter().map(of).collect::<Result<_>>()? }))
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

    /// What SFT and KTO make of pairs takes the weights of the answer that it is.
    #[test]
    fn an_answer_of_a_pair_has_its_weights_there() {
        let sequence = |n: usize| Sequence::new((0..n as i32 + 2).collect(), 2);
        let labelled = |n, desirable| Sample::Labelled { line: 4, sequence: sequence(n), desirable };
        let kto = Dataset { samples: vec![labelled(2, true), labelled(3, false)], report: Report::default() };
        let of = |text: &str, data: &Dataset| TokenWeights::parse(text, "w.jsonl", data).unwrap().rows;
        let both = r#"{"line":4,"chosen":[0.5,0.25],"rejected":[1,0,2]}"#;
        assert_eq!(of(both, &kto), [[vec![0.5, 0.25]], [vec![1.0, 0.0, 2.0]]]);
        assert_eq!(of(r#"{"line":4,"rejected":[1,0,2]}"#, &kto), [[vec![1.0, 1.0]], [vec![1.0, 0.0, 2.0]]]);
        assert_eq!(of(r#"{"line":4,"chosen":[0,3]}"#, &kto), [[vec![0.0, 3.0]], [vec![1.0, 1.0, 1.0]]]);
        let sft =
            Dataset { samples: vec![Sample::Completion { line: 4, sequence: sequence(2) }], report: Report::default() };
        assert_eq!(of(both, &sft), [[vec![0.5, 0.25]]]);
        assert_eq!(of(r#"{"line":4,"rejected":[1,0,2]}"#, &sft), [[vec![1.0, 1.0]]]);
        assert_eq!(of(r#"{"line":4,"completion":[2,1],"chosen":[0,0]}"#, &sft), [[vec![2.0, 1.0]]]);
        for (text, says) in [
            (r#"{"line":4}"#, "completion is missing"),
            (r#"{"line":4,"chosen":[1]}"#, "chosen has 1 weights, the row has 2"),
        ] {
            let error = TokenWeights::parse(text, "w.jsonl", &sft).unwrap_err().to_string();
            assert!(error.contains("w.jsonl:1") && error.contains(says), "{error}");
        }
    }

    #[test]
    fn rows_have_them_as_columns() {
        let of = |text: &str| TokenWeights::in_columns(text, "d.jsonl", &data());
        let rows = "\n\n\n{\"chosen\":\"x\",\"rejected_weights\":[1,0,2]}\n{}\n";
        let wanted = [[vec![1.0, 1.0], vec![1.0, 0.0, 2.0]], [vec![1.0], vec![1.0]]];
        assert_eq!(of(rows).unwrap().unwrap().rows, wanted);
        let array = "[\n\n\n{\"rejected_weights\":[1,0,2], \"note\": \"[\"}\n]";
        assert_eq!(of(array).unwrap().unwrap().rows, wanted);
        assert_eq!(of("{\"chosen\":\"the _weights\"}\n{\"completion_weights\":null}").unwrap(), None);
        for (text, says) in [
            ("\n\n\n{\"chosen_weights\":[1]}", "d.jsonl:4: weights of tokens: chosen has 1 weights, the row has 2"),
            ("{\"chosen_weights\":[-1]}", "d.jsonl:1: a weight is negative"),
            ("\n{\"chosen_weights\":\"1\"}", "d.jsonl:2: weights of tokens"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.kind() == Kind::Data && error.to_string().contains(says), "{says}: {error}");
        }
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
