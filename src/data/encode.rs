//! From the text of a row to tokens.

use super::dataset::EncodeOptions;
use super::dialogue;
use super::mask::LossMask;
use super::sample::{Message, Text};
use super::special::{self, Names};
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
/// one, and none otherwise. Names of control tokens inside the data stay text, unless
/// [`parse_special`](EncodeOptions::parse_special) says otherwise.
pub struct Encoder<'a> {
    tokenizer: &'a dyn Tokenize,
    template: Option<&'a Template>,
    apply_template: bool,
    parse_special: bool,
    mask: LossMask,
    spaced: bool,
}

impl fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Encoder");
        out.field("template", &self.template).field("apply_template", &self.apply_template).finish_non_exhaustive()
    }
}

impl<'a> Encoder<'a> {
    /// An encoder for a model with this tokenizer and, if it is a chat model, this template.
    /// [`apply_template`](EncodeOptions::apply_template) is about string prompts: they become one user message (or the
    /// turns of a `\n\nHuman: ...\n\nAssistant:` dialogue), and the answer the assistant's. Without it, or without a
    /// template, the strings are joined as they are. Message lists always go through the template.
    ///
    /// # Errors
    /// Where the tokenizer fails on a single letter.
    pub fn new(tokenizer: &'a dyn Tokenize, template: Option<&'a Template>, options: &EncodeOptions) -> Result<Self> {
        let EncodeOptions { apply_template, parse_special, mask, .. } = *options;
        let letter: String =
            tokenizer.tokenize("a", false)?.into_iter().map(|token| tokenizer.text_of(token)).collect();
        let spaced = letter.starts_with([' ', '\u{2581}']);
        Ok(Self { tokenizer, template, apply_template, parse_special, mask, spaced })
    }

    /// Tokens of a prompt, ready for an answer to be generated after them.
    ///
    /// # Errors
    /// As [`sequence`](Self::sequence).
    pub fn prompt(&self, prompt: &Text) -> Result<Vec<i32>> {
        match self.dialogue(prompt)? {
            Some((template, messages)) => {
                let (texts, names) = self.render(template, &messages, &[(messages.len(), true)])?;
                self.head(texts.first().map_or("", String::as_str), names)
            }
            None => self.plain_head(plain(prompt)?),
        }
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
        let mut sequence = match self.dialogue(prompt)? {
            Some((template, messages)) => self.turns(template, messages, assistant(answer)?)?,
            None => {
                let mut tokens = self.plain_head(plain(prompt)?)?;
                let prompt_len = tokens.len();
                tokens.extend(self.plain_answer(plain(answer)?)?);
                Sequence::new(tokens, prompt_len)
            }
        };
        if self.mask == LossMask::All {
            sequence.prompt_len = 1;
        }
        Ok(sequence)
    }

    /// Tokens of a text that is all to be learned, from its second token to EOS.
    ///
    /// # Errors
    /// [`Kind::Data`] for a text without tokens.
    pub fn text(&self, text: &str) -> Result<Sequence> {
        let mut tokens = self.plain_head(text)?;
        let eos = self.tokenizer.eos();
        if tokens.last().copied() != eos {
            tokens.extend(eos);
        }
        if tokens.len() < 2 {
            return Err(Error::new(Kind::Data, "the text has one token, so there is nothing to predict"));
        }
        Ok(Sequence::new(tokens, 1))
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

    fn render(
        &self,
        template: &Template,
        messages: &[Message],
        beginnings: &[(usize, bool)],
    ) -> Result<(Vec<String>, Names)> {
        let controls = (!self.parse_special).then(|| self.tokenizer.controls());
        special::render(controls, template, messages, beginnings)
    }

    /// A dialogue whose turns of the assistant, or the last of them alone, have a loss.
    fn turns(&self, template: &Template, mut messages: Vec<Message>, answer: Message) -> Result<Sequence> {
        let last = messages.len();
        let is_scored = |i: &usize| self.mask == LossMask::Assistant && messages[*i].role == "assistant";
        let mut beginnings: Vec<_> = (1..last).filter(is_scored).chain([last]).map(|i| (i, true)).collect();
        messages.push(answer);
        beginnings.push((messages.len(), false));
        let (mut texts, names) = self.render(template, &messages, &beginnings)?;
        let whole = texts.pop().unwrap_or_default();
        let cut = |text: &String| if whole.starts_with(text.as_str()) { Ok(text.len()) } else { Err(told_apart()) };
        let mut cuts = texts.iter().map(cut).collect::<Result<Vec<_>>>()?;
        let first = cuts.first().copied().unwrap_or(0);
        cuts.push(whole.len());
        let mut tokens = self.head(whole.get(..first).unwrap_or_default(), names)?;
        let mut sequence = Sequence::new(Vec::new(), tokens.len());
        for (k, piece) in cuts.windows(2).enumerate() {
            let (&[from, to], is_last) = (piece, k + 2 == cuts.len()) else { continue };
            let piece = whole.get(from..to).ok_or_else(told_apart)?;
            if is_last {
                tokens.extend(self.last_turn(piece, names)?);
            } else {
                let turn = self.continuation(piece, names)?;
                let end = turn.iter().position(|token| self.is_end(*token)).ok_or_else(no_end)?;
                sequence.unscored.push(tokens.len() + end + 1..tokens.len() + turn.len());
                tokens.extend(turn);
            }
        }
        sequence.unscored.retain(|range| !range.is_empty());
        Ok(Sequence { tokens, ..sequence })
    }

    fn is_end(&self, token: i32) -> bool {
        [self.tokenizer.eot(), self.tokenizer.eos()].contains(&Some(token))
    }

    /// Tokens of a beginning, with exactly one BOS where one is due.
    fn head(&self, text: &str, names: Names) -> Result<Vec<i32>> {
        let mut tokens = special::tokenize(self.tokenizer, text, names)?;
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

    /// What the names of control tokens in text without markup are.
    fn plain_names(&self) -> Names {
        if self.parse_special {
            Names::Tokens
        } else {
            Names::Text
        }
    }

    /// Tokens of a text that begins a sequence; the name of BOS that some files write before it is not repeated.
    fn plain_head(&self, text: &str) -> Result<Vec<i32>> {
        let bos = self.tokenizer.bos().map(|token| self.tokenizer.text_of(token)).filter(|name| !name.is_empty());
        let text = bos.as_deref().map_or(text, |name| text.trim_start_matches(name));
        if text.is_empty() {
            return Err(Error::new(Kind::Data, "the prompt has no tokens"));
        }
        self.head(text, self.plain_names())
    }

    /// Tokens of the rest of a rendered assistant turn, ended as the model ends a turn.
    fn last_turn(&self, text: &str, names: Names) -> Result<Vec<i32>> {
        let mut tokens = self.continuation(text, names)?;
        if let Some(end) = tokens.iter().rposition(|token| self.is_end(*token)) {
            let blank = |token: &i32| self.tokenizer.text_of(*token).trim().is_empty();
            if tokens.iter().skip(end + 1).all(blank) {
                tokens.truncate(end + 1);
            }
        }
        if tokens.iter().all(|token| self.is_end(*token)) {
            return Err(Error::new(Kind::Data, "the answer has no tokens"));
        }
        if !tokens.last().is_some_and(|token| self.is_end(*token)) {
            tokens.extend([self.tokenizer.eot(), self.tokenizer.eos()].into_iter().flatten().next());
        }
        Ok(tokens)
    }

    /// Tokens of a plain answer, ended by EOS once: the name of EOS that some files write behind it is not repeated.
    fn plain_answer(&self, text: &str) -> Result<Vec<i32>> {
        let eos = self.tokenizer.eos();
        let name = eos.map(|token| self.tokenizer.text_of(token)).filter(|name| !name.is_empty());
        let text = name.as_deref().and_then(|name| text.strip_suffix(name)).unwrap_or(text);
        let mut tokens = self.continuation(text, self.plain_names())?;
        if tokens.iter().all(|token| Some(*token) == eos) {
            return Err(Error::new(Kind::Data, "the answer has no tokens"));
        }
        if tokens.last().copied() != eos {
            tokens.extend(eos);
        }
        Ok(tokens)
    }

    /// Tokens of a text in the middle: no BOS, no dummy space.
    fn continuation(&self, text: &str, names: Names) -> Result<Vec<i32>> {
        let tokenize = |text: &str| special::tokenize(self.tokenizer, text, names);
        let mut tokens = tokenize(text)?;
        if self.spaced {
            let (anchor, anchored) = (tokenize(ANCHOR)?, tokenize(&format!("{ANCHOR}{text}"))?);
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

fn told_apart() -> Error {
    let message =
        "the chat template writes the answer's turn otherwise than it prompts for it, so the answer cannot be \
                   told apart from the prompt";
    Error::new(Kind::Data, message)
}

fn no_end() -> Error {
    let message = "the chat template ends an earlier turn of the assistant with no end-of-turn token, so that turn \
                   cannot have a loss: choose the loss mask completion";
    Error::new(Kind::Data, message)
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
