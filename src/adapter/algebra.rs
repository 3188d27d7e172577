//! Arithmetic of adapters: sums, exactly, and smaller ranks, as near as a rank allows.

use super::low_rank::LowRank;
use super::{Factor, Lora};
use crate::error::{Context, Error, Kind, Result};

/// How much of an update is kept: the smallest rank that keeps the energy, and no more than the rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Largest rank.
    pub rank: usize,
    /// Share of the update's squared Frobenius norm, up to 1.
    pub energy: f64,
}

impl Limit {
    /// Checks the bounds.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 || self.rank > RANK_MAX {
            return Err(Error::new(Kind::Argument, format!("--rank {}: outside 1 to {RANK_MAX}", self.rank)));
        }
        if !(self.energy > 0.0 && self.energy <= 1.0) {
            return Err(Error::new(Kind::Argument, format!("--energy {}: outside 0 to 1, or 0", self.energy)));
        }
        Ok(())
    }
}

/// Largest rank that is computed.
pub const RANK_MAX: usize = 4096;

/// What became of one weight's update.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Name of the weight.
    pub weight: String,
    /// Its rank now.
    pub rank: usize,
    /// Share of the update's squared norm that is kept.
    pub energy: f64,
    /// Norm of the whole update.
    pub norm: f64,
}

impl Lora {
    /// Factors that are not multiplied by anything: alpha equals the rank, or is 0 where ranks differ.
    pub(crate) fn plain(factors: Vec<Factor>) -> Self {
        let rank = factors.first().map_or(0, |f| f.rank);
        let alpha = if factors.iter().all(|f| f.rank == rank) { rank as f32 } else { 0.0 };
        Self { alpha, factors }
    }

    /// Σ scale · adapter. Nothing is approximated: the ranks are put beside each other, and each B is multiplied by its
    /// adapter's scale times alpha / r, which rounds once.
    ///
    /// # Errors
    /// If shapes of a weight differ, or a product is no finite number.
    pub fn sum(terms: &[(&Self, f32)]) -> Result<Self> {
        let mut names: Vec<&str> = terms.iter().flat_map(|(l, _)| &l.factors).map(|f| f.weight.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let factors = names.into_iter().map(|name| concatenated(name, terms)).collect::<Result<Vec<_>>>()?;
        if factors.is_empty() {
            return Err(Error::new(Kind::Argument, "no adapter to add"));
        }
        Ok(Self::plain(factors))
    }

    /// The same update with each weight's part multiplied by its own number, which is folded into B and rounds once.
    ///
    /// # Errors
    /// If a product is no finite number.
    pub fn scaled_by(&self, scale: &dyn Fn(&str) -> f64) -> Result<Self> {
        let mut scaled = self.clone();
        for factor in &mut scaled.factors {
            let by = scale(&factor.weight);
            factor.b.iter_mut().for_each(|b| *b = (f64::from(*b) * by) as f32);
            if factor.b.iter().any(|b| !b.is_finite()) {
                let message = format!("weight {}: times {by}, its factor is no finite number", factor.weight);
                return Err(Error::new(Kind::Numeric, message));
            }
        }
        Ok(scaled)
    }

    /// The nearest update of a smaller rank, weight by weight (Eckart and Young 1936), from the factors alone.
    ///
    /// # Errors
    /// If values are not finite, or an iteration does not converge.
    pub fn truncated(&self, limit: Limit) -> Result<(Self, Vec<Kept>)> {
        limit.validate()?;
        let (mut factors, mut kept) = (Vec::new(), Vec::new());
        for factor in &self.factors {
            let near = || {
                let all = LowRank::of_product(factor, self.scale(factor))?;
                let norm = all.norm();
                all.factor(&factor.weight, limit, norm)
            };
            let (factor, share) = near().during(|| format!("weight {}", factor.weight))?;
            factors.push(factor);
            kept.push(share);
        }
        Ok((Self::plain(factors), kept))
    }
}

/// The factors of one weight side by side: A below A, B beside B.
fn concatenated(name: &str, terms: &[(&Lora, f32)]) -> Result<Factor> {
    let parts: Vec<(&Factor, f32)> = terms
        .iter()
        .filter_map(|(lora, scale)| {
            let factor = lora.factors.iter().find(|f| f.weight == name)?;
            Some((factor, scale * lora.scale(factor)))
        })
        .collect();
    let Some(&(first, _)) = parts.first() else { return Err(Error::new(Kind::Internal, "a weight of no adapter")) };
    let (n_in, n_out, n_experts) = (first.n_in, first.n_out, first.n_experts);
    let shape = |f: &Factor| [f.n_in, f.n_out, f.n_experts];
    if let Some((other, _)) = parts.iter().find(|(f, _)| shape(f) != shape(first)) {
        let shown = |f: &Factor| format!("{:?}", &shape(f)[..if f.n_experts == 1 { 2 } else { 3 }]);
        let shapes = format!("{} and {}", shown(first), shown(other));
        return Err(Error::new(Kind::Mismatch, format!("weight {name} is {shapes} in two adapters")));
    }
    let rank = parts.iter().map(|(f, _)| f.rank).sum();
    let of_expert = |f: &Factor, expert: usize| expert * n_in * f.rank..(expert + 1) * n_in * f.rank;
    let all = (0..n_experts).flat_map(|expert| parts.iter().map(move |(f, _)| (f, expert)));
    let a = all.flat_map(|(f, expert)| f.a[of_expert(f, expert)].iter().copied()).collect();
    let mut b = Vec::with_capacity(n_out * n_experts * rank);
    for row in 0..n_out * n_experts {
        for (factor, scale) in &parts {
            b.extend(factor.b[row * factor.rank..(row + 1) * factor.rank].iter().map(|x| scale * x));
        }
    }
    if b.iter().any(|x| !x.is_finite()) {
        return Err(Error::new(Kind::Numeric, format!("weight {name}: scaled, its factor is no finite number")));
    }
    Ok(Factor { weight: name.to_owned(), rank, n_in, n_out, n_experts, a, b, alpha: None })
}
