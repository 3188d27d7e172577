//! Pairs from a style that one can describe: answers with and without an instruction.
//!
//! The model answers every prompt twice, once told by a system message what a good answer is. What it says when told is
//! chosen over what it says otherwise, and the pair is written without the instruction, so that training makes a habit of
//! what had to be asked for (context distillation: Askell et al. 2021, arXiv 2112.00861, section 2.2; as preference pairs:
//! RLCD, Yang et al. 2023, arXiv 2307.12950).

use crate::data::{EncodeOptions, Encoder, Message, Template, Text};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::{generate, Answer, GenerateParams};
use crate::runtime::{Adapter, Model};
use serde_json::{json, Value};
use std::sync::Arc;

/// How pairs are made.
#[derive(Clone, Debug)]
pub struct PairsParams {
    /// What the chosen answer was told.
    pub chosen_system: String,
    /// What the rejected answer was told; `None`: nothing.
    pub rejected_system: Option<String>,
    /// How answers are generated.
    pub generate: GenerateParams,
}

/// What became of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Two answers.
    Pair {
        /// The answer that was told how to be.
        chosen: String,
        /// The other one.
        rejected: String,
    },
    /// Both answers are the same, white space around them aside: there is nothing to prefer.
    Equal,
    /// An answer was cut at the limit, so the pair would teach to stop in the middle, or that stopping is bad.
    Truncated,
    /// An answer says nothing.
    Empty,
}

impl Outcome {
    /// Its name where a prompt gave no pair.
    pub fn dropped(&self) -> Option<&'static str> {
        match self {
            Outcome::Pair { .. } => None,
            Outcome::Equal => Some("equal"),
            Outcome::Truncated => Some("truncated"),
            Outcome::Empty => Some("empty"),
        }
    }

    fn of(chosen: &Answer, rejected: &Answer) -> Self {
        let (c, r) = (chosen.text.trim(), rejected.text.trim());
        if c.is_empty() || r.is_empty() {
            Outcome::Empty
        } else if !(chosen.ended && rejected.ended) {
            Outcome::Truncated
        } else if c == r {
            Outcome::Equal
        } else {
            Outcome::Pair { chosen: c.to_owned(), rejected: r.to_owned() }
        }
    }
}

/// Makes pairs with one model.
#[derive(Debug)]
pub struct PairMaker<'a> {
    model: &'a Arc<Model>,
    adapters: &'a [(Arc<Adapter>, f32)],
    template: Template,
    params: PairsParams,
}

impl<'a> PairMaker<'a> {
    /// # Errors
    /// [`Kind::Mismatch`] for a model without a chat template; [`Kind::Argument`] where both instructions are the same.
    pub fn new(model: &'a Arc<Model>, adapters: &'a [(Arc<Adapter>, f32)], params: PairsParams) -> Result<Self> {
        let template = model.template()?.ok_or_else(|| {
            let message = format!("{}: the model has no chat template to tell it something", model.path().display());
            Error::new(Kind::Mismatch, message)
        })?;
        let same = params.rejected_system.as_deref().unwrap_or_default() == params.chosen_system;
        if params.chosen_system.trim().is_empty() || same {
            let message = "chosen-system: it must say something, and something else than rejected-system";
            return Err(Error::new(Kind::Argument, message));
        }
        Ok(Self { model, adapters, template, params })
    }

    /// Answers prompts, strings or dialogues that end with the user's turn; the outcomes are in their order. Greedy answers
    /// are the same in any group of `n_parallel` prompts but for the last bits of logits; `first` is the place of the first
    /// prompt in the whole list and moves the seed with it, so that a list may be worked off in parts.
    ///
    /// # Errors
    /// Those of [`Encoder::prompt`] and [`generate`], with the prompt's place from `first` on.
    pub fn answer(&self, prompts: &[Text], first: usize) -> Result<Vec<Outcome>> {
        let encoder = Encoder::new(self.model.as_ref(), Some(&self.template), &EncodeOptions::default())?;
        let tell = |system: Option<&str>| -> Result<Vec<Answer>> {
            let mut told = Vec::with_capacity(prompts.len());
            for (i, prompt) in prompts.iter().enumerate() {
                let tokens = match system {
                    Some(system) => self.told(prompt, system).and_then(|messages| encoder.prompt(&messages)),
                    None => encoder.prompt(prompt),
                };
                told.push(tokens.during(|| format!("prompt {}", first + i + 1))?);
            }
            let mut params = self.params.generate;
            params.sampler.seed = params.sampler.seed.wrapping_add(first as u32);
            generate(self.model, self.adapters, &told, &params)
        };
        let chosen = tell(Some(&self.params.chosen_system))?;
        let rejected = tell(self.params.rejected_system.as_deref())?;
        Ok(chosen.iter().zip(&rejected).map(|(c, r)| Outcome::of(c, r)).collect())
    }

    /// A prompt with a system message; before the first message where the template has no place for one.
    fn told(&self, prompt: &Text, system: &str) -> Result<Text> {
        let messages = match prompt {
            Text::Plain(text) => vec![Message::new("user", text.as_str())],
            Text::Messages(messages) => messages.clone(),
        };
        let mut with_system = vec![Message::new("system", system)];
        with_system.extend(messages.iter().filter(|m| m.role != "system").cloned());
        match self.template.render(&with_system, true) {
            Ok(text) if text.contains(system.trim()) => Ok(Text::Messages(with_system)),
            _ => {
                let mut messages = messages;
                let first = messages.first_mut().ok_or_else(|| Error::new(Kind::Data, "the prompt has no messages"))?;
                first.content = format!("{system}\n\n{}", first.content);
                Ok(Text::Messages(messages))
            }
        }
    }
}

/// A prompt as a row of a file has it: a string, or a list of messages.
pub fn prompt_json(prompt: &Text) -> Value {
    match prompt {
        Text::Plain(text) => json!(text),
        Text::Messages(messages) => messages.iter().map(|m| json!({ "role": m.role, "content": m.content })).collect(),
    }
}

/// The row of a pair: answers are of the prompt's kind.
pub fn row_json(prompt: &Text, chosen: &str, rejected: &str) -> Value {
    let answer = |text: &str| match prompt {
        Text::Plain(_) => json!(text),
        Text::Messages(_) => json!([{ "role": "assistant", "content": text }]),
    };
    json!({ "prompt": prompt_json(prompt), "chosen": answer(chosen), "rejected": answer(rejected) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_different_whole_answers_are_a_pair() {
        let answer = |text: &str, ended| Answer { text: text.into(), tokens: Vec::new(), ended };
        let of = |c: (&str, bool), r: (&str, bool)| Outcome::of(&answer(c.0, c.1), &answer(r.0, r.1));
        let pair = Outcome::Pair { chosen: "a".into(), rejected: "b".into() };
        assert_eq!(of((" a", true), ("b\n", true)), pair);
        assert_eq!(of((" a", true), ("a", true)), Outcome::Equal);
        assert_eq!(of(("a", false), ("b", true)), Outcome::Truncated);
        assert_eq!(of(("a", true), ("b", false)), Outcome::Truncated);
        assert_eq!(of(("", true), ("b", false)), Outcome::Empty);
    }

    #[test]
    fn answers_are_written_as_the_prompt_is() {
        let row = row_json(&Text::Plain("p".into()), "a", "b");
        assert_eq!(row.to_string(), r#"{"prompt":"p","chosen":"a","rejected":"b"}"#);
        let row = row_json(&Text::Messages(vec![Message::new("user", "p")]), "a", "b");
        assert_eq!(row["prompt"][0]["content"], "p");
        assert_eq!(row["rejected"][0], json!({ "role": "assistant", "content": "b" }));
    }
}
