//! What a file of rows comes to with one model: every fault with its line, counts, lengths.

use super::columns::Columns;
use super::dataset::{sample, EncodeOptions, Sample};
use super::encode::Encoder;
use super::jsonl::Reader;
use super::rows::Rows;
use super::sample::{Example, Row, Text};
use super::template::Template;
use super::tokens::{Sequence, Tokenize};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The least.
    pub min: usize,
    /// Half of all have at most this many.
    pub median: usize,
    /// 95 of 100 have at most this many.
    pub p95: usize,
    /// The most.
    pub max: usize,
}

impl Lengths {
    /// Of at least one number.
    fn of(mut numbers: Vec<usize>) -> Self {
        numbers.sort_unstable();
        let at = |share: usize| {
            let rank = (numbers.len() * share).div_ceil(100).max(1);
            numbers.get(rank - 1).copied().unwrap_or_default()
        };
        Self { min: at(0), median: at(50), p95: at(95), max: at(100) }
    }
}

/// What a file comes to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DataCheck {
    /// The file.
    pub source: String,
    /// The form of its rows; `None` where no row could be read.
    pub form: Option<String>,
    /// Rows that can be used, those that are too long included.
    pub n_rows: usize,
    /// Rows that cannot be used: FILE:LINE and the reason, in the file's order.
    pub faults: Vec<String>,
    /// Rows that are equal to an earlier one, each with that one's line.
    pub duplicates: Vec<(usize, usize)>,
    /// Rows whose prompt an earlier row has with other answers.
    pub n_repeated_prompts: usize,
    /// Lines of rows that are longer than allowed.
    pub too_long: Vec<usize>,
    /// Longest row that is allowed.
    pub max_length: usize,
    /// Tokens of all rows.
    pub n_tokens: usize,
    /// Of these, the ones with a loss.
    pub n_scored: usize,
    /// Tokens per row: of prompts, of each kind of answer, of the longest sequence.
    pub lengths: BTreeMap<String, Lengths>,
    /// Lines of rows that hold names of control tokens, which stay text unless that is wanted otherwise: many of them hint
    /// at rows that were rendered by a template already.
    pub names_control_tokens: Vec<usize>,
}

/// Reads and tokenises a file, and goes on behind faults. `convert` makes rows what a method trains on. The samples are
/// those of all rows without a fault, uncut.
///
/// # Errors
/// Where the file cannot be read, and those of `convert`; faults of rows are part of the result.
pub fn check(
    path: &Path,
    columns: &Columns,
    convert: &dyn Fn(Rows) -> Result<Rows>,
    tokenizer: &dyn Tokenize,
    template: Option<&Template>,
    options: &EncodeOptions,
) -> Result<(DataCheck, Vec<Sample>)> {
    let mut reader = Reader::open(path)?.with_columns(columns.clone());
    let mut found =
        DataCheck { source: reader.source().to_owned(), max_length: options.max_length, ..DataCheck::default() };
    let mut faults: Vec<(usize, String)> = Vec::new();
    let mut rows = Vec::new();
    while let Some(row) = reader.next() {
        match row {
            Ok(row) => rows.push(row),
            Err(e) if e.kind() == Kind::Data => faults.push((reader.line(), e.to_string())),
            Err(e) => return Err(e),
        }
    }
    found.form = reader.form().map(|form| form.to_string());
    if let (false, Some(form)) = (rows.is_empty(), reader.form()) {
        repetitions(&rows, &mut found);
        let named = |row: &&Row| texts(&row.example).iter().any(|text| tokenizer.controls().named_in(text));
        found.names_control_tokens = rows.iter().filter(named).map(|row| row.line).collect();
        rows = convert(Rows { source: found.source.clone(), form, rows })?.rows;
    }
    let encoder = Encoder::new(tokenizer, template, options)?;
    let mut samples = Vec::with_capacity(rows.len());
    for row in &rows {
        match sample(&encoder, row, options.mask) {
            Ok(sample) => samples.push(sample),
            Err(e) if e.kind() == Kind::Data => {
                faults.push((row.line, format!("{}:{}: {e}", found.source, row.line)));
            }
            Err(e) => return Err(e.during(format!("{}:{}", found.source, row.line))),
        }
    }
    if samples.is_empty() && faults.is_empty() {
        return Err(Error::new(Kind::Data, format!("{}: no rows", found.source)));
    }
    faults.sort_by_key(|(line, _)| *line);
    found.faults = faults.into_iter().map(|(_, fault)| fault).collect();
    measure(&samples, &mut found);
    Ok((found, samples))
}

fn texts(example: &Example) -> Vec<&str> {
    let parts: Vec<&Text> = match example {
        Example::Text { text } => return vec![text],
        Example::Completion { prompt, completion } | Example::Labelled { prompt, completion, .. } => {
            vec![prompt, completion]
        }
        Example::Pair { prompt, chosen, rejected } => vec![prompt, chosen, rejected],
    };
    parts
        .into_iter()
        .flat_map(|text| match text {
            Text::Plain(text) => vec![text.as_str()],
            Text::Messages(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
        })
        .collect()
}

/// Finds rows and prompts that come again.
fn repetitions(rows: &[Row], found: &mut DataCheck) {
    let (mut seen, mut prompts) = (HashMap::new(), HashMap::new());
    for row in rows {
        if let Some(first) = seen.insert(format!("{:?}", row.example), row.line) {
            found.duplicates.push((row.line, first));
            continue;
        }
        let prompt = match &row.example {
            Example::Text { .. } => continue,
            Example::Completion { prompt, .. } | Example::Labelled { prompt, .. } | Example::Pair { prompt, .. } => {
                prompt
            }
        };
        found.n_repeated_prompts += usize::from(prompts.insert(format!("{prompt:?}"), row.line).is_some());
    }
}

fn measure(samples: &[Sample], found: &mut DataCheck) {
    let mut lengths: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let answer = |s: &Sequence| s.tokens.len() - s.prompt_len;
    for sample in samples {
        let mut add = |name, n| lengths.entry(name).or_default().push(n);
        match sample {
            Sample::Pair { chosen, rejected, .. } => {
                add("prompt", chosen.prompt_len);
                add("chosen", answer(chosen));
                add("rejected", answer(rejected));
            }
            Sample::Completion { sequence, .. } | Sample::Labelled { sequence, .. } => {
                add("prompt", sequence.prompt_len);
                add("completion", answer(sequence));
            }
        }
        add("row", sample.n_tokens_max());
        if sample.n_tokens_max() > found.max_length {
            found.too_long.push(sample.line());
        }
        for sequence in sample.sequences() {
            found.n_tokens += sequence.tokens.len();
            found.n_scored += sequence.n_scored();
        }
    }
    found.n_rows = samples.len();
    found.lengths = lengths.into_iter().map(|(name, numbers)| (name.to_owned(), Lengths::of(numbers))).collect();
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::Bytes;
    use super::*;

    #[test]
    fn ranks_are_of_the_nearest_number() {
        assert_eq!(Lengths::of(vec![7]), Lengths { min: 7, median: 7, p95: 7, max: 7 });
        let lengths = Lengths::of((1..=100).rev().collect());
        assert_eq!(lengths, Lengths { min: 1, median: 50, p95: 95, max: 100 });
    }

    #[test]
    fn everything_is_counted_and_every_fault_has_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let rows = [
            r#"{"prompt":"ab","chosen":"x","rejected":"yz"}"#,
            r#"{"prompt":"ab","chosen":"x","rejected":"yz"}"#,
            r#"{"prompt":"ab","chosen":"w","rejected":"long </s> text"}"#,
            r#"{"prompt":"ab","chosen":"x","rejected":"x</s>"}"#,
            r#"{"prompt":"","chosen":"x","rejected":"y"}"#,
            "{",
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        let tokenizer = Bytes { adds_bos: true, spaced: false };
        let options = EncodeOptions { max_length: 8, ..EncodeOptions::default() };
        let run = |convert: &dyn Fn(Rows) -> Result<Rows>| {
            check(&path, &Columns::default(), convert, &tokenizer, None, &options)
        };
        let (found, samples) = run(&|rows| Ok(rows)).unwrap();
        assert_eq!((found.n_rows, samples.len()), (3, 3));
        assert_eq!(found.form.as_deref(), Some("{prompt, chosen, rejected}"));
        let places: Vec<_> = found.faults.iter().map(|f| f.split(':').nth(1).unwrap()).collect();
        assert_eq!(places, ["4", "5", "6"], "{:?}", found.faults);
        assert_eq!((&found.duplicates, found.n_repeated_prompts), (&vec![(2, 1)], 2));
        assert_eq!((&found.too_long, &found.names_control_tokens), (&vec![3], &vec![3, 4]));
        assert_eq!(found.lengths["prompt"], Lengths { min: 3, median: 3, p95: 3, max: 3 });
        assert_eq!(found.lengths["rejected"], Lengths { min: 3, median: 3, p95: 15, max: 15 });
        assert_eq!((found.n_tokens, found.n_scored), (2 * 11 + 23, 2 * 5 + 17));
        let (found, samples) = run(&Rows::into_completions).unwrap();
        assert!(samples.len() == 4 && found.lengths.contains_key("completion"), "{found:?}");
    }
}
