//! Pairs from a person's judgement: two answers are shown without saying which is which, and one is preferred.

use crate::data::{Example, Rows, Text};
use crate::error::{Error, Kind, Result};
use crate::pairs::row_json;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{json, Value};

/// A prompt with two answers, in the order in which they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What was asked.
    pub prompt: Text,
    /// The answers.
    pub answers: [String; 2],
}

/// What a person says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first answer is better.
    First,
    /// The second one is.
    Second,
    /// Neither: the question gives no pair.
    Skip,
}

impl Verdict {
    /// Reads `1`, `2` or `s`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "1" => Some(Verdict::First),
            "2" => Some(Verdict::Second),
            "s" | "skip" => Some(Verdict::Skip),
            _ => None,
        }
    }

    /// What [`parse`](Self::parse) reads.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::First => "1",
            Verdict::Second => "2",
            Verdict::Skip => "s",
        }
    }
}

/// Questions of the pairs of a file. Which answer comes first is drawn, so that nobody sees which one the file prefers.
///
/// # Errors
/// [`Kind::Data`] for rows that are no pairs.
pub fn questions(rows: Rows, seed: u64) -> Result<Vec<Question>> {
    let rows = rows.into_pairs()?;
    let text = |answer: &Text| match answer {
        Text::Plain(text) => text.clone(),
        Text::Messages(messages) => messages.iter().map(|m| m.content.as_str()).collect(),
    };
    let pairs = rows.rows.iter().filter_map(|row| match &row.example {
        Example::Pair { prompt, chosen, rejected } => Some((prompt.clone(), [text(chosen), text(rejected)])),
        _ => None,
    });
    Ok(shuffled(pairs, seed))
}

/// Questions from prompts and their answers, each pair of answers in a drawn order.
pub fn shuffled(pairs: impl Iterator<Item = (Text, [String; 2])>, seed: u64) -> Vec<Question> {
    let mut key = *b"order of answers................";
    key[16..24].copy_from_slice(&seed.to_le_bytes());
    let mut draw = ChaCha8Rng::from_seed(key);
    pairs
        .map(|(prompt, mut answers)| {
            if draw.next_u32() & 1 == 1 {
                answers.reverse();
            }
            Question { prompt, answers }
        })
        .collect()
}

/// The row that a verdict makes of a question.
pub fn rated(question: &Question, verdict: Verdict) -> Option<Value> {
    let [first, second] = &question.answers;
    match verdict {
        Verdict::First => Some(row_json(&question.prompt, first, second)),
        Verdict::Second => Some(row_json(&question.prompt, second, first)),
        Verdict::Skip => None,
    }
}

/// A verdict as a journal keeps it.
pub fn verdict_json(verdict: Verdict) -> Value {
    json!({ "verdict": verdict.name() })
}

/// Reads what [`verdict_json`] wrote.
///
/// # Errors
/// [`Kind::Data`] for anything else.
pub fn verdict_of(item: &Value) -> Result<Verdict> {
    let verdict = item["verdict"].as_str().and_then(Verdict::parse);
    verdict.ok_or_else(|| Error::new(Kind::Data, format!("the journal holds {item}, which is no verdict")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_are_shown_and_the_preferred_answer_is_chosen() {
        let pair = |i: usize| (Text::Plain(format!("p{i}")), ["a".to_owned(), "b".to_owned()]);
        let questions = shuffled((0..200).map(pair), 3);
        assert_eq!(questions, shuffled((0..200).map(pair), 3));
        let swapped = questions.iter().filter(|q| q.answers[0] == "b").count();
        assert!((70..130).contains(&swapped), "{swapped} of 200 are swapped");
        let question = Question { prompt: Text::Plain("p".into()), answers: ["x".into(), "y".into()] };
        assert_eq!(rated(&question, Verdict::Second).unwrap()["chosen"], "y");
        assert_eq!(rated(&question, Verdict::First).unwrap()["rejected"], "y");
        assert_eq!(rated(&question, Verdict::Skip), None);
    }

    #[test]
    fn verdicts_are_read_as_they_are_written() {
        for verdict in [Verdict::First, Verdict::Second, Verdict::Skip] {
            assert_eq!(verdict_of(&verdict_json(verdict)).unwrap(), verdict);
        }
        assert!(Verdict::parse("3").is_none() && Verdict::parse(" SKIP\n") == Some(Verdict::Skip));
        assert!(verdict_of(&json!({})).is_err());
    }
}
