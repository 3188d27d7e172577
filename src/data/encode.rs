//! From the text of a row to tokens.

use super::dialogue;
use super::sample::{Message, Text};
use super::template::Template;
use super::tokens::{Sequence, Tokenize};
use crate::error::{Error, Kind, Result};
use std::fmt;

/// Before an answer when the tokenizer puts a space before any text: what follows a line break gets no such space.
const ANCHOR: &str = "\n";

/// Tokenises prompts and answers for one model.
///
/// Prompt and answer are tokenised apart and then joined, so that the prompt's tokens are the beginning of every
/// sequence made from it. There is exactly one BOS at the beginning where the model wants one or the template writes
/// one, and none otherwise. As with Hugging Face's tokenizers, names of control tokens inside the data become control
/// tokens.
pub struct Encoder<'a> {
    tokenizer: &'a dyn Tokenize,
    template: Option<&'a Template>,
    apply_template: bool,
    spaced: bool,
}

impl fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Encoder");
        out.field("template", &self.template).field("apply_template", &self.apply_template).finish_non_exhaustive()
    }
}

impl<'a> Encoder<'a> {
    /// An encoder for a model with this tokenizer and, if it is a chat model, this template. `apply_template` is about
    /// string prompts: they become one user message (or the turns of a `\n\nHuman: ...\n\nAssistant:` dialogue), and
    /// the answer the assistant's. Without it, or without a template, the strings are joined as they are. Message lists
    /// always go through the template.
    ///
    /// # Errors
    /// Where the tokenizer fails on a single letter.
    pub fn new(tokenizer: &'a dyn Tokenize, template: Option<&'a Template>, apply_template: bool) -> Result<Self> {
        let letter: String =
            tokenizer.tokenize("a", false)?.into_iter().map(|token| tokenizer.text_of(token)).collect();
        Ok(Self { tokenizer, template, apply_template, spaced: letter.starts_with([' ', '\u{2581}']) })
    }

    /// Tokens of a prompt, ready for an answer to be generated after them.
    ///
    /// # Errors
    /// As [`sequence`](Self::sequence).
    pub fn prompt(&self, prompt: &Text) -> Result<Vec<i32>> {
        let text = match self.dialogue(prompt)? {
            Some((template, messages)) => template.render(&messages, true)?,
            None => plain(prompt)?.to_owned(),
        };
        self.head(&text)
    }

    /// Tokens of a prompt and its answer.
    ///
    /// A dialogue is rendered by the template. The prompt is the rendering of the messages before the answer, with the
    /// beginning of the assistant's turn; the answer is the rest of the whole rendering up to and including the token
    /// that ends the turn. White space that the template writes behind that token is dropped: a model that has ended
    /// its turn generates nothing more. A template that does not write such a token gets it appended. An answer of
    /// plain text ends with EOS.
    ///
    /// # Errors
    /// [`Kind::Data`] for a prompt or an answer without tokens, messages the template refuses, and a template whose
    /// rendering of the whole does not begin with its rendering of the prompt; [`Kind::Mismatch`] for messages where
    /// the model has no template.
    pub fn sequence(&self, prompt: &Text, answer: &Text) -> Result<Sequence> {
        let (mut tokens, answer) = match self.dialogue(prompt)? {
            Some((template, mut messages)) => {
                let head = template.render(&messages, true)?;
                messages.push(assistant(answer)?);
                let whole = template.render(&messages, false)?;
                let Some(rest) = whole.strip_prefix(&head) else {
                    let message =
                        "the chat template writes the answer's turn otherwise than it prompts for it, so the \
                                   answer cannot be told apart from the prompt";
                    return Err(Error::new(Kind::Data, message));
                };
                (self.head(&head)?, self.turn(rest)?)
            }
            None => (self.head(plain(prompt)?)?, self.text(plain(answer)?)?),
        };
        let prompt_len = tokens.len();
        tokens.extend(answer);
        Ok(Sequence { tokens, prompt_len })
    }

    /// The messages of a prompt that goes through the template.
    fn dialogue(&self, prompt: &Text) -> Result<Option<(&'a Template, Vec<Message>)>> {
        match (prompt, self.template) {
            (Text::Messages(messages), Some(template)) => Ok(Some((template, messages.clone()))),
            (Text::Messages(_), None) => {
                let message = "the row is a list of messages, but the model has no chat template";
                Err(Error::new(Kind::Mismatch, message))
            }
            (Text::Plain(text), Some(template)) if self.apply_template => {
                let messages = dialogue::parse(text).unwrap_or_else(|| vec![Message::new("user", text.as_str())]);
                Ok(Some((template, messages)))
            }
            (Text::Plain(_), _) => Ok(None),
        }
    }

    /// Tokens of the rendered prompt, with exactly one BOS where one is due.
    fn head(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = self.tokenizer.tokenize(text, true)?;
        if let Some(bos) = self.tokenizer.bos() {
            let written = tokens.iter().take_while(|&&token| token == bos).count();
            let due = usize::from(written > 0 || self.tokenizer.adds_bos());
            tokens.splice(..written, std::iter::repeat_n(bos, due));
        }
        if tokens.is_empty() {
            return Err(Error::new(Kind::Data, "the prompt has no tokens"));
        }
        Ok(tokens)
    }

    /// Tokens of the rest of a rendered assistant turn, ended as the model ends a turn.
    fn turn(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = self.continuation(text)?;
        let ends = [self.tokenizer.eot(), self.tokenizer.eos()];
        let is_end = |token: &i32| ends.contains(&Some(*token));
        if let Some(end) = tokens.iter().rposition(is_end) {
            let blank = |token: &i32| self.tokenizer.text_of(*token).trim().is_empty();
            if tokens.iter().skip(end + 1).all(blank) {
                tokens.truncate(end + 1);
            }
        }
        if tokens.iter().all(is_end) {
            return Err(Error::new(Kind::Data, "the answer has no tokens"));
        }
        if !tokens.last().is_some_and(is_end) {
            tokens.extend(ends.into_iter().flatten().next());
        }
        Ok(tokens)
    }

    /// Tokens of a plain answer, ended by EOS.
    fn text(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = self.continuation(text)?;
        let eos = self.tokenizer.eos();
        if tokens.iter().all(|token| Some(*token) == eos) {
            return Err(Error::new(Kind::Data, "the answer has no tokens"));
        }
        if tokens.last().copied() != eos {
            tokens.extend(eos);
        }
        Ok(tokens)
    }

    /// Tokens of a text in the middle: no BOS, no dummy space.
    fn continuation(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = self.tokenizer.tokenize(text, true)?;
        if self.spaced {
            let anchor = self.tokenizer.tokenize(ANCHOR, true)?;
            let anchored = self.tokenizer.tokenize(&format!("{ANCHOR}{text}"), true)?;
            if let Some(rest) = anchored.strip_prefix(anchor.as_slice()) {
                tokens = rest.to_vec();
            }
        }
        let bos = self.tokenizer.bos().filter(|bos| Some(*bos) != self.tokenizer.eos());
        let leading = tokens.iter().take_while(|token| Some(**token) == bos).count();
        tokens.drain(..leading);
        Ok(tokens)
    }
}

fn plain(text: &Text) -> Result<&str> {
    match text {
        Text::Plain(text) => Ok(text),
        Text::Messages(_) => Err(Error::new(Kind::Data, "the prompt is a string, but the answer a list of messages")),
    }
}

fn assistant(answer: &Text) -> Result<Message> {
    match answer {
        Text::Plain(text) => Ok(Message::new("assistant", text.trim())),
        Text::Messages(messages) => match messages.as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(Error::new(Kind::Data, "the answer must be exactly one message")),
        },
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
pub(in crate::data) mod tests;
