//! Tokens, and what is asked of a tokenizer.

use super::special::Controls;
use crate::error::Result;
use std::ops::Range;

/// A model's vocabulary. Implemented by the runtime's model.
pub trait Tokenize {
    /// The tokens of `text` and nothing else: neither BOS nor EOS is added. With `parse_special` the texts of control
    /// tokens become those tokens; without it they are ordinary text. Tokenizers that put a space before any text
    /// (SentencePiece's dummy prefix) may do so; [`Encoder`](super::Encoder) keeps it out of answers.
    ///
    /// # Errors
    /// Where the runtime cannot tokenise the text.
    fn tokenize(&self, text: &str, parse_special: bool) -> Result<Vec<i32>>;
    /// The names of all control tokens.
    fn controls(&self) -> &Controls;
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

/// A prompt with its answer. Token `i` is predicted from `tokens[..i]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Prompt and answer.
    pub tokens: Vec<i32>,
    /// Tokens before the first one with a loss: at least 1, less than `tokens.len()`.
    pub prompt_len: usize,
    /// Tokens behind `prompt_len` that have no loss: places in order, apart from each other, not all of them.
    pub unscored: Vec<Range<usize>>,
    /// Leading tokens that are also those of the sequence before it, at most `prompt_len`: a pair's prompt, for the second
    /// answer. They are computed once. 0: nothing is shared.
    pub shared: usize,
}

impl Sequence {
    /// A sequence whose loss is on everything behind the prompt.
    pub fn new(tokens: Vec<i32>, prompt_len: usize) -> Self {
        Self { tokens, prompt_len, unscored: Vec::new(), shared: 0 }
    }

    /// Places of the tokens that have a loss.
    pub fn scored(&self) -> impl Iterator<Item = usize> + '_ {
        let mut unscored = self.unscored.as_slice();
        (self.prompt_len..self.tokens.len()).filter(move |place| {
            while let Some((_, rest)) = unscored.split_first().filter(|(range, _)| range.end <= *place) {
                unscored = rest;
            }
            unscored.first().is_none_or(|range| *place < range.start)
        })
    }

    /// Number of tokens that have a loss.
    pub fn n_scored(&self) -> usize {
        let behind = self.tokens.len().saturating_sub(self.prompt_len);
        behind - self.unscored.iter().map(Range::len).sum::<usize>()
    }

    /// Cuts behind the first `length` tokens; `false` where nothing that has a loss is left.
    pub(super) fn truncate(&mut self, length: usize) -> bool {
        self.tokens.truncate(length);
        let n = self.tokens.len();
        self.unscored.retain_mut(|range| {
            range.end = range.end.min(n);
            range.start < range.end
        });
        n > self.prompt_len && self.n_scored() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_without_a_loss_are_passed_over_and_cut_with_the_rest() {
        let sequence = Sequence { unscored: vec![4..5, 7..9], ..Sequence::new((0..10).collect(), 2) };
        assert_eq!(sequence.scored().collect::<Vec<_>>(), [2, 3, 5, 6, 9]);
        assert_eq!(sequence.n_scored(), 5);
        for length in 0..=10 {
            let mut cut = sequence.clone();
            let left = cut.truncate(length);
            let scored: Vec<_> = cut.scored().collect();
            assert_eq!(scored, sequence.scored().filter(|&i| i < length).collect::<Vec<_>>());
            assert_eq!((cut.n_scored(), left), (scored.len(), !scored.is_empty()), "{length}");
        }
    }
}
