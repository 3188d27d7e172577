//! A tokenised data set.

use super::encode::Encoder;
use super::mask::{LossMask, TooLong};
use super::rows::Rows;
use super::sample::{Example, Row};
use super::template::Template;
use super::tokens::{Sequence, Tokenize};
use crate::error::{Context, Error, Kind, Result};
use std::collections::BTreeSet;

/// How rows become tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Whether string prompts go through the model's chat template, if it has one (default: yes). See [`Encoder::new`].
    pub apply_template: bool,
    /// Longest sequence, prompt and answer together, in tokens (default 1024).
    pub max_length: usize,
    /// What becomes of longer ones (default: left out and counted).
    pub too_long: TooLong,
    /// Which tokens have a loss (default: the completion).
    pub mask: LossMask,
    /// Whether names of control tokens inside the data become those tokens, as with Hugging Face's tokenizers (default:
    /// no, they stay text). For rows that were rendered by a template already.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            apply_template: true,
            max_length: 1024,
            too_long: TooLong::Drop,
            mask: LossMask::Completion,
            parse_special: false,
        }
    }
}

/// One tokenised row, with its line in the source file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sample {
    /// An answer to imitate.
    Completion {
        /// Line of the source, from 1.
        line: usize,
        /// Prompt and answer.
        sequence: Sequence,
    },
    /// A better and a worse answer; the first `prompt_len` tokens of both are the same.
    Pair {
        /// Line of the source, from 1.
        line: usize,
        /// Prompt and better answer.
        chosen: Sequence,
        /// Prompt and worse answer.
        rejected: Sequence,
    },
    /// An answer with a verdict.
    Labelled {
        /// Line of the source, from 1.
        line: usize,
        /// Prompt and answer.
        sequence: Sequence,
        /// Whether the answer is good.
        desirable: bool,
    },
}

impl Sample {
    /// A pair; what its prompts have in common is shared.
    pub fn pair(line: usize, chosen: Sequence, mut rejected: Sequence) -> Self {
        let common = chosen.tokens.iter().zip(&rejected.tokens).take_while(|(a, b)| a == b).count();
        rejected.shared = common.min(chosen.prompt_len).min(rejected.prompt_len);
        Self::Pair { line, chosen, rejected }
    }

    /// Line of the source file, from 1.
    pub fn line(&self) -> usize {
        match self {
            Sample::Completion { line, .. } | Sample::Pair { line, .. } | Sample::Labelled { line, .. } => *line,
        }
    }

    /// Its sequences: two for a pair, the chosen one first, otherwise one.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        let (first, second) = match self {
            Sample::Completion { sequence, .. } | Sample::Labelled { sequence, .. } => (sequence, None),
            Sample::Pair { chosen, rejected, .. } => (chosen, Some(rejected)),
        };
        std::iter::once(first).chain(second)
    }

    /// Tokens of its longest sequence.
    pub fn n_tokens_max(&self) -> usize {
        self.sequences().map(|s| s.tokens.len()).max().unwrap_or(0)
    }

    /// Cuts its sequences; `false` where nothing that has a loss, or no difference between two answers, is left.
    fn truncate(&mut self, length: usize) -> bool {
        match self {
            Sample::Completion { sequence, .. } | Sample::Labelled { sequence, .. } => sequence.truncate(length),
            Sample::Pair { chosen, rejected, .. } => {
                chosen.truncate(length) && rejected.truncate(length) && chosen.tokens != rejected.tokens
            }
        }
    }
}

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows that were read.
    pub rows: usize,
    /// Rows left out because a sequence of theirs is longer than the limit, and could or should not be cut.
    pub dropped_too_long: usize,
    /// Rows that were cut to the limit.
    pub truncated: usize,
    /// Tokens of the longest sequence, as they were before anything was left out or cut.
    pub longest: usize,
    /// Tokens of all sequences that were kept; a pair's prompt counts twice.
    pub tokens: usize,
    /// Of these, the ones with a loss.
    pub answer_tokens: usize,
}

/// Tokenised rows in the order of their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// The rows that were kept.
    pub samples: Vec<Sample>,
    /// Counts.
    pub report: Report,
}

impl Dataset {
    /// A fingerprint of the rows as they are trained on: tokens, boundaries, verdicts, lines. The file's name and layout do
    /// not matter, template and tokenizer do.
    pub fn digest(&self) -> String {
        struct Blake(blake3::Hasher);
        impl std::hash::Hasher for Blake {
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }
            fn finish(&self) -> u64 {
                0
            }
        }
        let mut hasher = Blake(blake3::Hasher::new());
        std::hash::Hash::hash(&self.samples, &mut hasher);
        hasher.0.finalize().to_hex().to_string()
    }

    /// Tokenises all rows with a model's tokenizer and template.
    ///
    /// # Errors
    /// Those of [`Encoder::sequence`], named by file and line; [`Kind::Data`] where no row is left, or one is too long
    /// and that is an error; [`Kind::Argument`] for a `max_length` below 2, and for a mask that the rows cannot have.
    pub fn encode(
        rows: &Rows,
        tokenizer: &dyn Tokenize,
        template: Option<&Template>,
        options: &EncodeOptions,
    ) -> Result<Self> {
        let max_length = options.max_length;
        if max_length < 2 {
            let message = format!("max_length is {max_length}, but a prompt and an answer take at least 2 tokens");
            return Err(Error::new(Kind::Argument, message));
        }
        let encoder = Encoder::new(tokenizer, template, options)?;
        let mut samples = Vec::with_capacity(rows.rows.len());
        let mut report = Report { rows: rows.rows.len(), ..Report::default() };
        for row in &rows.rows {
            let place = || format!("{}:{}", rows.source, row.line);
            let mut sample = sample(&encoder, row, options.mask).during(place)?;
            let longest = sample.n_tokens_max();
            report.longest = report.longest.max(longest);
            if longest > max_length {
                if options.too_long == TooLong::Error {
                    let message =
                        format!("{}: the row has {longest} tokens, at most {max_length} are allowed", place());
                    return Err(Error::new(Kind::Data, message));
                }
                if options.too_long == TooLong::Drop || !sample.truncate(max_length) {
                    report.dropped_too_long += 1;
                    continue;
                }
                report.truncated += 1;
            }
            for sequence in sample.sequences() {
                report.tokens += sequence.tokens.len();
                report.answer_tokens += sequence.n_scored();
            }
            samples.push(sample);
        }
        if samples.is_empty() {
            let Report { rows: n, longest, .. } = report;
            let message = format!(
                "{}: no row fits: {n} rows, none of at most {max_length} tokens (the longest has {longest})",
                rows.source
            );
            return Err(Error::new(Kind::Data, message));
        }
        Ok(Self { samples, report })
    }

    /// The rows but those of these lines; the counts are those of what is left.
    ///
    /// # Errors
    /// [`Kind::Data`] for a line that no row has, and where no row is left.
    pub fn without(&self, lines: &[u64]) -> Result<Self> {
        let withdrawn: BTreeSet<u64> = lines.iter().copied().collect();
        let known: BTreeSet<u64> = self.samples.iter().map(|s| s.line() as u64).collect();
        if let Some(line) = withdrawn.difference(&known).next() {
            return Err(Error::new(Kind::Data, format!("no row has the id {line}")));
        }
        let is_kept = |sample: &&Sample| !withdrawn.contains(&(sample.line() as u64));
        let samples: Vec<_> = self.samples.iter().filter(is_kept).cloned().collect();
        if samples.is_empty() {
            return Err(Error::new(Kind::Data, "no row is left"));
        }
        let mut report = Report { rows: self.report.rows - withdrawn.len(), ..self.report };
        let count = |of: fn(&Sequence) -> usize| samples.iter().flat_map(Sample::sequences).map(of).sum();
        report.tokens = count(|s| s.tokens.len());
        report.answer_tokens = count(|s| s.tokens.len() - s.prompt_len);
        Ok(Self { samples, report })
    }
}

/// Tokenises one row.
///
/// # Errors
/// Those of [`Encoder::sequence`]; [`Kind::Data`] for answers of equal tokens; [`Kind::Argument`] for a mask that a pair or
/// a labelled row cannot have.
pub(super) fn sample(encoder: &Encoder<'_>, row: &Row, mask: LossMask) -> Result<Sample> {
    let line = row.line;
    if mask != LossMask::Completion && matches!(row.example, Example::Pair { .. } | Example::Labelled { .. }) {
        let message = format!("loss-mask {}: pairs and labelled rows have their loss on the completion", mask.name());
        return Err(Error::new(Kind::Argument, message));
    }
    Ok(match &row.example {
        Example::Completion { prompt, completion } => {
            Sample::Completion { line, sequence: encoder.sequence(prompt, completion)? }
        }
        Example::Text { text } => Sample::Completion { line, sequence: encoder.text(text)? },
        Example::Pair { prompt, chosen, rejected } => {
            let (chosen, rejected) = (encoder.sequence(prompt, chosen)?, encoder.sequence(prompt, rejected)?);
            if chosen == rejected {
                return Err(Error::new(Kind::Data, "the chosen and the rejected answer have the same tokens"));
            }
            Sample::pair(line, chosen, rejected)
        }
        Example::Labelled { prompt, completion, label } => {
            Sample::Labelled { line, sequence: encoder.sequence(prompt, completion)?, desirable: *label }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::{decode, Bytes};
    use super::*;
    use crate::data::{Form, Text};

    const TOKENIZER: Bytes = Bytes { adds_bos: true, spaced: false };

    fn rows(pairs: &[(&str, &str, &str)]) -> Rows {
        let text = |s: &&str| Text::Plain((*s).to_owned());
        let example =
            |(p, c, r): &(&str, &str, &str)| Example::Pair { prompt: text(p), chosen: text(c), rejected: text(r) };
        let rows = pairs.iter().enumerate().map(|(i, pair)| Row { line: 10 * i + 1, example: example(pair) }).collect();
        Rows { source: "f".into(), form: Form::Pair, rows }
    }

    fn options(max_length: usize) -> EncodeOptions {
        EncodeOptions { max_length, ..EncodeOptions::default() }
    }

    #[test]
    fn long_rows_are_left_out_and_counted() {
        // BOS, prompt, answer, EOS: 5 and 6 tokens; 5 and 8.
        let rows = rows(&[("ab", "x", "yz"), ("ab", "x", "long")]);
        let set = Dataset::encode(&rows, &TOKENIZER, None, &options(6)).unwrap();
        let report = Report { rows: 2, dropped_too_long: 1, truncated: 0, longest: 8, tokens: 11, answer_tokens: 5 };
        assert_eq!(set.report, report);
        assert_eq!(set.samples.len(), 1);
        assert_eq!(set.samples[0].line(), 1);
        let texts: Vec<_> = set.samples[0].sequences().map(|s| (decode(&s.tokens), s.prompt_len)).collect();
        assert_eq!(texts, [("<s>abx</s>".to_owned(), 3), ("<s>abyz</s>".to_owned(), 3)]);
        assert_eq!(Dataset::encode(&rows, &TOKENIZER, None, &options(8)).unwrap().samples.len(), 2);
        assert_eq!(Dataset::encode(&rows, &TOKENIZER, None, &options(4)).unwrap_err().kind(), Kind::Data);
        assert_eq!(Dataset::encode(&rows, &TOKENIZER, None, &options(1)).unwrap_err().kind(), Kind::Argument);
    }

    #[test]
    fn long_rows_are_cut_or_refused_where_that_is_asked_for() {
        let rows = rows(&[("ab", "x", "long"), ("abcd", "x", "y"), ("ab", "long", "lost")]);
        let with = |too_long| EncodeOptions { too_long, ..options(5) };
        let set = Dataset::encode(&rows, &TOKENIZER, None, &with(TooLong::Truncate)).unwrap();
        // The second row has no answer left, and the answers of the third are equal where they are cut.
        let report = Report { rows: 3, dropped_too_long: 2, truncated: 1, longest: 8, tokens: 10, answer_tokens: 4 };
        assert_eq!(set.report, report);
        let texts: Vec<_> = set.samples[0].sequences().map(|s| decode(&s.tokens)).collect();
        assert_eq!(texts, ["<s>abx</s>", "<s>ablo"]);
        let error = Dataset::encode(&rows, &TOKENIZER, None, &with(TooLong::Error)).unwrap_err();
        assert_eq!(error.to_string(), "f:1: the row has 8 tokens, at most 5 are allowed");
    }

    #[test]
    fn only_completions_choose_their_mask() {
        let options = EncodeOptions { mask: LossMask::All, ..options(9) };
        let pairs = rows(&[("a", "x", "y")]);
        let error = Dataset::encode(&pairs, &TOKENIZER, None, &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Argument);
        let set = Dataset::encode(&pairs.into_completions().unwrap(), &TOKENIZER, None, &options).unwrap();
        assert_eq!(set.report.answer_tokens, 3, "all of <s>ax</s> but its first token");
    }

    #[test]
    fn faults_name_file_and_line() {
        let rows = rows(&[("a", "x", "y"), ("a", "x", "x</s>")]);
        let error = Dataset::encode(&rows, &TOKENIZER, None, &options(9)).unwrap_err();
        assert_eq!(error.to_string(), "f:11: the chosen and the rejected answer have the same tokens");
    }

    #[test]
    fn rows_are_withdrawn_by_their_line() {
        let set = Dataset::encode(
            &rows(&[("ab", "x", "y"), ("c", "long", "y"), ("d", "x", "z")]),
            &TOKENIZER,
            None,
            &options(9),
        )
        .unwrap();
        let lines = |set: &Dataset| set.samples.iter().map(Sample::line).collect::<Vec<_>>();
        assert_eq!(lines(&set), [1, 11, 21]);
        let rest = set.without(&[11, 11]).unwrap();
        let as_given =
            Dataset::encode(&rows(&[("ab", "x", "y"), ("d", "x", "z")]), &TOKENIZER, None, &options(9)).unwrap();
        assert_eq!(lines(&rest), [1, 21]);
        assert_eq!(rest.report.tokens, as_given.report.tokens);
        assert_eq!(rest.report.answer_tokens, as_given.report.answer_tokens);
        assert_eq!(set.without(&[]).unwrap(), set);
        assert_eq!(rest.without(&[11]).unwrap_err().to_string(), "no row has the id 11");
        assert_eq!(set.without(&[1, 11, 21]).unwrap_err().to_string(), "no row is left");
    }

    #[test]
    fn labels_and_completions_survive() {
        let labelled = rows(&[("a", "x", "y")]).into_labelled().unwrap();
        let set = Dataset::encode(&labelled, &TOKENIZER, None, &options(9)).unwrap();
        let verdicts: Vec<_> = set
            .samples
            .iter()
            .map(|s| match s {
                Sample::Labelled { line, sequence, desirable } => (*line, decode(&sequence.tokens), *desirable),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(verdicts, [(1, "<s>ax</s>".to_owned(), true), (1, "<s>ay</s>".to_owned(), false)]);
        let sft = rows(&[("a", "x", "y")]).into_completions().unwrap();
        let set = Dataset::encode(&sft, &TOKENIZER, None, &options(9)).unwrap();
        assert!(
            matches!(&set.samples[0], Sample::Completion { sequence, .. } if decode(&sequence.tokens) == "<s>ax</s>")
        );
    }
}
