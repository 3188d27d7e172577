//! How sequences lie on the packed token axis.

use crate::error::{Error, Kind, Result};

/// Every sequence starts at a multiple of this, so that its bits do not depend on its neighbours (measured: tracing 4).
pub const SEQUENCE_ALIGNMENT: usize = 64;

/// One sequence on the packed axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First token's place.
    pub start: usize,
    /// Tokens.
    pub len: usize,
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
            let Some(&pad) = tokens.first() else {
                return Err(Error::new(Kind::Argument, "an empty sequence cannot be packed"));
            };
            let start = layout.tokens.len();
            layout.spans.push(Span { start, len: tokens.len() });
            layout.tokens.extend_from_slice(tokens);
            layout.tokens.resize(layout.tokens.len().next_multiple_of(SEQUENCE_ALIGNMENT), pad);
        }
        if layout.spans.is_empty() {
            return Err(Error::new(Kind::Argument, "no sequence to pack"));
        }
        Ok(layout)
    }

    /// One sequence without padding, for comparing with a decode of the same length.
    pub fn bare(tokens: &[i32]) -> Self {
        Self { spans: vec![Span { start: 0, len: tokens.len() }], tokens: tokens.to_vec() }
    }

    /// Tokens that a batch of these lengths takes on the packed axis.
    pub fn padded(lengths: impl Iterator<Item = usize>) -> usize {
        lengths.map(|n| n.next_multiple_of(SEQUENCE_ALIGNMENT)).sum()
    }

    /// Length of the packed axis.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The sequences, in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// First place and length of every sequence with the padding behind it: together the whole axis.
    pub fn extents(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let ends = self.spans.iter().skip(1).map(|s| s.start).chain([self.tokens.len()]);
        self.spans.iter().zip(ends).map(|(span, end)| (span.start, end - span.start))
    }

    /// Token ids on the packed axis.
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Positions on the packed axis, restarting with each sequence; 0 for padding.
    pub fn positions(&self) -> Vec<i32> {
        let mut positions = vec![0; self.tokens.len()];
        for span in &self.spans {
            for i in 0..span.len {
                positions[span.start + i] = i as i32;
            }
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_start_aligned_and_positions_restart() {
        let (a, b) = (vec![7; 37], vec![9; 64]);
        let layout = Layout::new([a.as_slice(), b.as_slice()]).unwrap();
        assert_eq!(layout.spans(), [Span { start: 0, len: 37 }, Span { start: 64, len: 64 }]);
        assert_eq!((layout.n_tokens(), layout.tokens()[37], layout.tokens()[127]), (128, 7, 9));
        let positions = layout.positions();
        assert_eq!((positions[36], positions[37], positions[64], positions[127]), (36, 0, 0, 63));
        assert_eq!(layout.extents().collect::<Vec<_>>(), [(0, 64), (64, 64)]);
        assert!(Layout::new([[].as_slice()]).is_err());
    }
}
