//! Tokens, and what is asked of a tokenizer.

use crate::error::Result;

/// A model's vocabulary. Implemented by the runtime's model.
pub trait Tokenize {
    /// The tokens of `text` and nothing else: neither BOS nor EOS is added. With `parse_special` the texts of control
    /// tokens become those tokens; without it they are ordinary text. Tokenizers that put a space before any text
    /// (SentencePiece's dummy prefix) may do so; [`Encoder`](super::Encoder) keeps it out of answers.
    ///
    /// # Errors
    /// Where the runtime cannot tokenise the text.
    fn tokenize(&self, text: &str, parse_special: bool) -> Result<Vec<i32>>;
    /// The token that begins a text.
    fn bos(&self) -> Option<i32>;
    /// The token that ends a text.
    fn eos(&self) -> Option<i32>;
    /// The token that ends a turn of a dialogue.
    fn eot(&self) -> Option<i32>;
    /// Whether this model wants BOS before every text.
    fn adds_bos(&self) -> bool;
    /// The text of one token, lossy where it is only a part of a character; control tokens give their names.
    fn text_of(&self, token: i32) -> String;
}

/// A prompt with its answer. The loss is on `tokens[prompt_len..]`; token `i` is predicted from `tokens[..i]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Prompt and answer.
    pub tokens: Vec<i32>,
    /// Tokens of the prompt: at least 1, less than `tokens.len()`.
    pub prompt_len: usize,
}
