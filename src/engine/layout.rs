//! How sequences lie on the packed token axis.

use crate::data::Sequence;
use crate::error::{Error, Kind, Result};

/// Every sequence starts at a multiple of this, so that its bits do not depend on its neighbours (measured: tracing 4).
pub const SEQUENCE_ALIGNMENT: usize = 64;

/// One sequence on the packed axis. Its first `shared` tokens may be those of the sequence before it: they lie there, and are
/// computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First token's place.
    pub start: usize,
    /// Tokens, the shared ones among them.
    pub len: usize,
    /// Leading tokens that belong to the sequence before it.
    pub shared: usize,
    /// Place of the first token behind the shared ones; where nothing is shared, `start`.
    pub rest: usize,
}

impl Span {
    /// A sequence that shares nothing.
    pub fn alone(start: usize, len: usize) -> Self {
        Self { start, len, shared: 0, rest: start }
    }

    /// Place of token `i`.
    pub fn place(&self, i: usize) -> usize {
        if i < self.shared {
            self.start + i
        } else {
            self.rest + i - self.shared
        }
    }

    /// Place behind its last token.
    pub fn end(&self) -> usize {
        self.rest + self.len - self.shared
    }
}

/// Sequences side by side on one token axis, padded; tokens that pad attend to themselves only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    spans: Vec<Span>,
    tokens: Vec<i32>,
}

impl Layout {
    /// Places sequences one after another, each at the next multiple of [`SEQUENCE_ALIGNMENT`].
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [i32]>) -> Result<Self> {
        let mut layout = Self::default();
        for tokens in sequences {
            layout.place(tokens, 0)?;
        }
        layout.checked()
    }

    /// The same; a sequence that has [`Sequence::shared`] tokens with the one before it continues that one's, where this takes
    /// less room.
    pub fn of(sequences: &[&Sequence]) -> Result<Self> {
        let mut layout = Self::default();
        for (i, sequence) in sequences.iter().enumerate() {
            let before = i.checked_sub(1).map(|i| sequences[i]);
            let shared = before.map_or(0, |b| shared(b, sequence));
            layout.place(&sequence.tokens, shared)?;
        }
        layout.checked()
    }

    fn place(&mut self, tokens: &[i32], shared: usize) -> Result<()> {
        let Some(&pad) = tokens.first() else {
            return Err(Error::new(Kind::Argument, "an empty sequence cannot be packed"));
        };
        let span = match self.spans.last() {
            Some(before) if shared > 0 => {
                self.tokens.truncate(before.end());
                Span { start: before.start, len: tokens.len(), shared, rest: before.end() }
            }
            _ => Span::alone(self.tokens.len(), tokens.len()),
        };
        self.spans.push(span);
        self.tokens.extend_from_slice(&tokens[span.shared..]);
        self.tokens.resize(self.tokens.len().next_multiple_of(SEQUENCE_ALIGNMENT), pad);
        Ok(())
    }

    fn checked(self) -> Result<Self> {
        match self.spans.is_empty() {
            true => Err(Error::new(Kind::Argument, "no sequence to pack")),
            false => Ok(self),
        }
    }

    /// One sequence without padding, for comparing with a decode of the same length.
    pub fn bare(tokens: &[i32]) -> Self {
        Self { spans: vec![Span::alone(0, tokens.len())], tokens: tokens.to_vec() }
    }

    /// Tokens that [`Self::of`] takes on the packed axis.
    pub fn padded<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> usize {
        let (mut all, mut before) = (0, None);
        for sequence in sequences {
            let len = sequence.tokens.len();
            match before.map_or(0, |b| shared(b, sequence)) {
                0 => all += len.next_multiple_of(SEQUENCE_ALIGNMENT),
                shared => all += joined(before, len - shared) - before.map_or(0, alone),
            }
            before = Some(sequence);
        }
        all
    }

    /// Length of the packed axis.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The sequences, in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Sequences that share tokens, together, in order; most are alone.
    pub fn groups(&self) -> impl Iterator<Item = &[Span]> + '_ {
        self.spans.chunk_by(|_, next| next.shared > 0)
    }

    /// First place and length of every group with the padding behind it: together the whole axis.
    pub fn extents(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let ends = self.groups().skip(1).map(|g| g[0].start).chain([self.tokens.len()]);
        self.groups().zip(ends).map(|(group, end)| (group[0].start, end - group[0].start))
    }

    /// Token ids on the packed axis.
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Positions on the packed axis, restarting with each sequence; 0 for padding.
    pub fn positions(&self) -> Vec<i32> {
        let mut positions = vec![0; self.tokens.len()];
        for span in &self.spans {
            for i in span.shared..span.len {
                positions[span.place(i)] = i as i32;
            }
        }
        positions
    }
}

/// Places that a sequence takes alone.
fn alone(sequence: &Sequence) -> usize {
    sequence.tokens.len().next_multiple_of(SEQUENCE_ALIGNMENT)
}

/// Places that a sequence and `more` tokens behind it take.
fn joined(before: Option<&Sequence>, more: usize) -> usize {
    (before.map_or(0, |b| b.tokens.len()) + more).next_multiple_of(SEQUENCE_ALIGNMENT)
}

/// Tokens that `next` takes from `before`: all that it says it shares, if they are there, it is no third one, and room is won.
fn shared(before: &Sequence, next: &Sequence) -> usize {
    let shared = next.shared;
    let is_there =
        before.shared == 0 && shared < next.tokens.len() && before.tokens.get(..shared) == next.tokens.get(..shared);
    let wins = || joined(Some(before), next.tokens.len() - shared) < alone(before) + alone(next);
    if shared > 0 && is_there && wins() {
        shared
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_start_aligned_and_positions_restart() {
        let (a, b) = (vec![7; 37], vec![9; 64]);
        let layout = Layout::new([a.as_slice(), b.as_slice()]).unwrap();
        assert_eq!(layout.spans(), [Span::alone(0, 37), Span::alone(64, 64)]);
        assert_eq!((layout.n_tokens(), layout.tokens()[37], layout.tokens()[127]), (128, 7, 9));
        let positions = layout.positions();
        assert_eq!((positions[36], positions[37], positions[64], positions[127]), (36, 0, 0, 63));
        assert_eq!(layout.extents().collect::<Vec<_>>(), [(0, 64), (64, 64)]);
        assert!(Layout::new([[].as_slice()]).is_err());
    }

    fn sequence(prompt: &[i32], answer: &[i32], shared: usize) -> Sequence {
        Sequence { shared, ..Sequence::new([prompt, answer].concat(), prompt.len()) }
    }

    #[test]
    fn a_shared_prompt_lies_there_once() {
        let prompt: Vec<i32> = (0..60).collect();
        let (a, b) = (sequence(&prompt, &[101, 102, 103], 0), sequence(&prompt, &[201, 202], 60));
        let other = sequence(&prompt, &[301; 9], 0);
        let layout = Layout::of(&[&other, &a, &b, &other]).unwrap();
        // 63 + 2 tokens take two units instead of one each, so nothing is won.
        assert_eq!(layout.n_tokens(), 128 + 64 + 64 + 128);
        assert_eq!(Layout::padded([&other, &a, &b, &other]), layout.n_tokens());

        let a = sequence(&prompt, &[101; 6], 0);
        let b = sequence(&prompt, &[201; 10], 60);
        let layout = Layout::of(&[&other, &a, &b, &other]).unwrap();
        let span = layout.spans()[2];
        assert_eq!(span, Span { start: 128, len: 70, shared: 60, rest: 194 });
        assert_eq!((span.place(59), span.place(60), span.end()), (187, 194, 204));
        assert_eq!((layout.tokens()[193], layout.tokens()[194], layout.tokens()[204]), (101, 201, 0));
        assert_eq!((layout.positions()[193], layout.positions()[194], layout.positions()[204]), (65, 60, 0));
        assert_eq!(layout.extents().collect::<Vec<_>>(), [(0, 128), (128, 128), (256, 128)]);
        assert_eq!(Layout::padded([&other, &a, &b, &other]), layout.n_tokens());
        assert_eq!(Layout::of(&[&other, &b]).unwrap().spans()[1].shared, 60, "tokens decide, not what is a pair");
        let wrong = Sequence { shared: 61, ..b.clone() };
        assert_eq!(Layout::of(&[&a, &wrong]).unwrap().spans()[1].shared, 0, "token 60 differs");
        assert_eq!(Layout::of(&[&a, &b, &b]).unwrap().spans()[2].shared, 0, "two at most");
    }
}
