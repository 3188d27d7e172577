//! What one tensor becomes: the method with everything that has to be known of the whole tensor before its first row.

use super::combine::{add_update, dare, slerp_coefficients, ties, weighted_sum, Dare, Draws};
use super::pass::{Chunk, Pass};
use super::select::kth_largest;
use super::Method;
use crate::adapter::Factor;
use crate::error::{Error, Kind, Result};

/// One adapter's part in one weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update<'a> {
    pub(super) factor: &'a Factor,
    /// The adapter's scale times alpha / r.
    pub(super) scale: f32,
}

/// A rule that can be applied to any rows of the tensor.
#[derive(Debug)]
pub(super) enum Blend<'a> {
    Sum(Vec<f64>),
    Ties { weights: &'a [f64], floors: Vec<u32>, lambda: f64 },
    Dare { weights: &'a [f64], rule: Dare },
    Fold(&'a [Update<'a>]),
}

impl<'a> Blend<'a> {
    /// The rule of `method` for the tensor of a pass; for some methods this goes through the tensor once or twice.
    pub(super) fn new(method: &'a Method, name: &str, pass: &Pass) -> Result<Self> {
        if let Some(coefficients) = method.coefficients() {
            return Ok(Self::Sum(coefficients));
        }
        match method {
            Method::Slerp { t } => {
                let products = products(pass)?;
                if products.iter().any(|p| !p.is_finite()) {
                    return Err(Error::new(Kind::Numeric, "not all values are finite numbers"));
                }
                match slerp_coefficients(*t, products) {
                    Some(coefficients) => Ok(Self::Sum(coefficients.to_vec())),
                    None => Err(Error::new(Kind::Numeric, "opposite directions: no arc between them is the shortest")),
                }
            }
            Method::Ties { weights, density, lambda } => {
                let n = (pass.n_rows * pass.n_per_row) as u64;
                let kept = ((*density * n as f64) as u64).clamp(1, n);
                let floors = (1..=weights.len()).map(|model| floor(pass, model, kept)).collect::<Result<_>>()?;
                Ok(Self::Ties { weights, floors, lambda: *lambda })
            }
            Method::DareLinear { weights, density, lambda, seed } => {
                let draws = (0..weights.len()).map(|model| Draws::new(*seed, model, name)).collect();
                Ok(Self::Dare { weights, rule: Dare { density: *density, lambda: *lambda, draws } })
            }
            Method::Linear { .. } | Method::TaskArithmetic { .. } => {
                Err(Error::new(Kind::Internal, "a sum without coefficients"))
            }
        }
    }

    /// The tensor's values for a chunk of its sources. The base, where there is one, is the first source.
    pub(super) fn apply(&self, chunk: &Chunk, n_per_row: usize) -> Vec<f32> {
        let slices = chunk.slices();
        let mut out = vec![0.0; slices[0].len()];
        match self {
            Self::Sum(coefficients) => weighted_sum(coefficients, &slices, &mut out),
            Self::Ties { weights, floors, lambda } => {
                ties(slices[0], &slices[1..], weights, floors, *lambda, &mut out);
            }
            Self::Dare { weights, rule } => {
                let first = (chunk.first_row * n_per_row) as u64;
                dare(slices[0], &slices[1..], weights, rule, first, &mut out);
            }
            Self::Fold(updates) => {
                out.copy_from_slice(slices[0]);
                for Update { factor, scale } in *updates {
                    add_update(&factor.a, &factor.b, factor.rank, *scale, chunk.first_row, n_per_row, &mut out);
                }
            }
        }
        out
    }
}

/// a·a, a·b and b·b over the whole tensor.
fn products(pass: &Pass) -> Result<[f64; 3]> {
    let mut total = [0.0; 3];
    let work = |chunk: &Chunk| {
        let [a, b] = [&chunk.values[0], &chunk.values[1]];
        let mut sums = [0.0f64; 3];
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (f64::from(a), f64::from(b));
            sums[0] += a * a;
            sums[1] += a * b;
            sums[2] += b * b;
        }
        Ok(sums)
    };
    pass.run(work, |sums| {
        total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
        Ok(())
    })?;
    Ok(total)
}

/// The bits of the magnitude that a model's changes must reach to be among the `kept` largest.
fn floor(pass: &Pass, model: usize, kept: u64) -> Result<u32> {
    kth_largest(kept, |empty| {
        let mut total = empty.clone();
        let work = |chunk: &Chunk| {
            let mut counts = empty.clone();
            let (base, model) = (&chunk.values[0], &chunk.values[model]);
            model.iter().zip(base).for_each(|(x, b)| counts.add(x - b));
            Ok(counts)
        };
        pass.run(work, |counts| {
            total.merge(&counts);
            Ok(())
        })?;
        Ok(total)
    })
}
