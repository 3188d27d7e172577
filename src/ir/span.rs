//! Which keys a query may see, fitted to the content of the runtime's mask.

/// The span of keys open to a query, in positions within its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Keys at or before the query.
    Causal,
    /// Keys at or before the query, fewer than `w` positions back.
    Window(usize),
    /// Keys at or before the query in the same chunk of `c` positions.
    Chunk(usize),
    /// Keys fewer than `w` positions away on either side.
    Symmetric(usize),
    /// Every key of the sequence.
    Full,
}

/// What an attention mask holds: `-inf` where closed, 0 or the ALiBi distance where open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskRule {
    /// Which keys are open.
    pub span: Span,
    /// Open entries hold `-|i - j|`, which the runtime multiplies by the head's slope.
    pub alibi: bool,
}

impl Span {
    /// True if the key at position `key` is open to the query at position `query` of the same sequence.
    pub fn open(self, query: usize, key: usize) -> bool {
        match self {
            Span::Causal => key <= query,
            Span::Window(w) => key <= query && query - key < w,
            Span::Chunk(c) => key <= query && key / c == query / c,
            Span::Symmetric(w) => key.abs_diff(query) < w,
            Span::Full => true,
        }
    }
}

impl MaskRule {
    /// The additive mask entry for a query and a key of the same sequence.
    pub fn entry(self, query: usize, key: usize) -> f32 {
        if !self.span.open(query, key) {
            f32::NEG_INFINITY
        } else if self.alibi {
            -(query.abs_diff(key) as f32)
        } else {
            0.0
        }
    }

    /// Finds the rule that reproduces `mask` exactly (`mask[q * n_keys + k]`, positions starting at 0), or `None`.
    ///
    /// The last query decides the candidate: with `n` positions it sees `n` keys if causal, fewer with a window or chunk.
    pub fn fit(mask: &[f32], n_keys: usize, n_queries: usize) -> Option<Self> {
        let last = n_queries.checked_sub(1)?;
        // A cache that holds fewer keys than there are queries, or a mask without a row for each, fits nothing.
        if n_keys < n_queries || mask.len() < n_keys.checked_mul(n_queries)? {
            return None;
        }
        let at = |q: usize, k: usize| mask[q * n_keys + k];
        let open_last = (0..n_queries).filter(|&k| at(last, k).is_finite()).count();
        let open_first = (0..n_queries).filter(|&k| at(0, k).is_finite()).count();
        let alibi = (0..n_queries).any(|k| at(last, k).is_finite() && at(last, k) != 0.0);
        let first_open = (0..n_queries).find(|&k| at(last, k).is_finite())?;
        let reproduces = |span: Span| {
            let rule = Self { span, alibi };
            let expected = |q, k| if k < n_queries { rule.entry(q, k) } else { f32::NEG_INFINITY };
            (0..n_queries).all(|q| (0..n_keys).all(|k| at(q, k) == expected(q, k))).then_some(rule)
        };
        reproduces(Span::Causal)
            .or_else(|| reproduces(Span::Full))
            .or_else(|| reproduces(Span::Window(open_last.max(1))))
            .or_else(|| reproduces(Span::Chunk(first_open.max(1))))
            .or_else(|| reproduces(Span::Symmetric(open_first.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(rule: MaskRule, n: usize, n_keys: usize) -> Vec<f32> {
        (0..n)
            .flat_map(|q| (0..n_keys).map(move |k| if k < n { rule.entry(q, k) } else { f32::NEG_INFINITY }))
            .collect()
    }

    #[test]
    fn every_rule_is_recovered_from_its_own_mask() {
        let spans = [Span::Causal, Span::Full, Span::Window(7), Span::Chunk(16), Span::Symmetric(5)];
        for (span, alibi) in spans.into_iter().flat_map(|s| [(s, false), (s, true)]) {
            let rule = MaskRule { span, alibi };
            assert_eq!(MaskRule::fit(&render(rule, 29, 64), 64, 29), Some(rule));
        }
    }

    #[test]
    fn a_mask_that_fits_no_rule_is_refused() {
        let mut mask = render(MaskRule { span: Span::Causal, alibi: false }, 9, 9);
        mask[4 * 9 + 2] = -1.0;
        assert_eq!(MaskRule::fit(&mask, 9, 9), None);
        assert_eq!(MaskRule::fit(&mask, 9, 10), None, "a row too few");
        assert_eq!(MaskRule::fit(&mask[..54], 6, 9), None, "fewer keys than queries");
    }
}
