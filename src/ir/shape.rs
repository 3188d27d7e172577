//! Sizes that grow with the number of tokens.

/// A size or byte stride `a + b·T`, with `T` the number of tokens on the packed axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sym {
    /// The part that does not depend on the number of tokens.
    pub a: i64,
    /// What every token adds.
    pub b: i64,
}

impl Sym {
    /// A size that does not depend on the number of tokens.
    pub const fn fixed(a: i64) -> Self {
        Self { a, b: 0 }
    }

    /// `b` for every token.
    pub const fn per_token(b: i64) -> Self {
        Self { a: 0, b }
    }

    /// The size at `n_tokens`.
    pub fn at(self, n_tokens: i64) -> i64 {
        self.a + self.b * n_tokens
    }

    /// The line through two observations, or `None` if its slope is no integer.
    pub fn fit(t0: i64, v0: i64, t1: i64, v1: i64) -> Option<Self> {
        let (dt, dv) = (t1 - t0, v1 - v0);
        if dt == 0 || dv % dt != 0 {
            return None;
        }
        let b = dv / dt;
        Some(Self { a: v0 - b * t0, b })
    }

    /// Product, where at most one factor depends on the number of tokens.
    pub fn times(self, other: Self) -> Option<Self> {
        if self.b != 0 && other.b != 0 {
            return None;
        }
        Some(Self { a: self.a * other.a, b: self.a * other.b + self.b * other.a })
    }

    /// True if the size is the same for every number of tokens.
    pub fn is_fixed(self) -> bool {
        self.b == 0
    }
}

/// Byte strides of a contiguous tensor of `ne` whose rows take `row_bytes` and whose elements take `element_bytes`.
/// `None` where two axes both grow with the tokens.
pub fn contiguous(ne: [Sym; 4], element_bytes: i64, row_bytes: Sym) -> Option<[Sym; 4]> {
    let nb1 = row_bytes;
    let nb2 = nb1.times(ne[1])?;
    let nb3 = nb2.times(ne[2])?;
    Some([Sym::fixed(element_bytes), nb1, nb2, nb3])
}

/// Number of elements, `None` where two axes both grow with the tokens.
pub fn n_elements(ne: [Sym; 4]) -> Option<Sym> {
    ne[0].times(ne[1])?.times(ne[2])?.times(ne[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_two_traces_predicts_the_third() {
        let nb = Sym::fit(13, 13 * 2304 + 8, 17, 17 * 2304 + 8).unwrap();
        assert_eq!(nb, Sym { a: 8, b: 2304 });
        assert_eq!(nb.at(29), 29 * 2304 + 8);
        assert_eq!(Sym::fit(13, 169, 17, 289).map(|s| s.at(29) == 29 * 29), Some(false));
        assert_eq!(Sym::fit(13, 1, 17, 2), None);
    }

    #[test]
    fn products_refuse_a_second_token_axis() {
        let t = Sym::per_token(1);
        assert_eq!(t.times(Sym::fixed(64)), Some(Sym::per_token(64)));
        assert_eq!(t.times(t), None);
    }
}
