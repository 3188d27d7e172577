//! What one tensor becomes: the method with everything that has to be known of the whole tensor before its first row.

use super::combine::{add_update, gram, slerp_coefficients, stock_coefficients, weighted_sum};
use super::method::{TaskVectors, Thinning, Vectors};
use super::pass::{Chunk, Pass, LOOK_VALUES};
use super::select::kth_largest;
use super::task::{add_task_vectors, Cut, Draws};
use super::Method;
use crate::adapter::{Change, Factor};
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
    /// The same sum everywhere.
    Sum(Vec<f64>),
    /// A sum of its own in every row, by this rule.
    RowSums(RowRule),
    /// A sum of its own in every column: the coefficients of every source.
    ColumnSums(Vec<Vec<f64>>),
    Task {
        task: &'a TaskVectors,
        cuts: Vec<Cut>,
    },
    Fold(&'a [Update<'a>]),
    Change(&'a Change),
}

/// How a row's coefficients follow from its values.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowRule {
    Turn { t: f64, has_base: bool },
    Stock,
}

impl<'a> Blend<'a> {
    /// The rule of `method` for the tensor of a pass; for some methods this goes through the tensor once or twice.
    pub(super) fn new(method: &'a Method, name: &str, pass: &Pass) -> Result<Self> {
        if let Some(coefficients) = method.coefficients() {
            return Ok(Self::Sum(coefficients));
        }
        match method {
            Method::Slerp { t } => {
                let products = finite(&products(pass, false)?)?;
                let none = || Error::new(Kind::Numeric, "opposite directions: no arc between them is the shortest");
                Ok(Self::Sum(slerp_coefficients(*t, products).ok_or_else(none)?.to_vec()))
            }
            Method::NuSlerp { weights, of } => {
                let (t, has_base) = (weights[1] / (weights[0] + weights[1]), pass.sources.len() > 2);
                match of {
                    Vectors::Whole => Ok(Self::Sum(turned(t, &products(pass, has_base)?, has_base)?)),
                    Vectors::Rows => Ok(Self::RowSums(RowRule::Turn { t, has_base })),
                    // A vector is one direction, as in mergekit, not a matrix of one row.
                    Vectors::Columns if pass.n_rows == 1 => Ok(Self::RowSums(RowRule::Turn { t, has_base })),
                    Vectors::Columns => columns(pass, t, has_base),
                }
            }
            Method::ModelStock { filter_wise: true } => Ok(Self::RowSums(RowRule::Stock)),
            Method::ModelStock { .. } => {
                Ok(Self::Sum(stock_coefficients(&products(pass, true)?, pass.sources.len() - 1)))
            }
            Method::TaskVectors(task) => {
                let cuts = (0..task.weights.len()).map(|model| cut(pass, &task.thinning, model, name));
                Ok(Self::Task { task, cuts: cuts.collect::<Result<_>>()? })
            }
            Method::Linear { .. } | Method::Passthrough { .. } => {
                Err(Error::new(Kind::Internal, "a sum without coefficients"))
            }
        }
    }

    /// Forms the tensor's values for a chunk of its sources. The base, where there is one, is the first source.
    pub(super) fn apply(&self, chunk: &mut Chunk, n_per_row: usize) -> Result<()> {
        let mut out = std::mem::take(&mut chunk.target);
        let slices = chunk.slices();
        out.resize(slices[0].len(), 0.0);
        match self {
            Self::Sum(coefficients) => weighted_sum(coefficients, &slices, &mut out),
            Self::RowSums(rule) => {
                for (row, out) in out.chunks_exact_mut(n_per_row).enumerate() {
                    let rows: Vec<&[f32]> = slices.iter().map(|s| &s[row * n_per_row..(row + 1) * n_per_row]).collect();
                    let coefficients = rule.coefficients(&rows);
                    let named = |e: Error| e.during(format!("row {}", chunk.first_row + row));
                    weighted_sum(&coefficients.map_err(named)?, &rows, out);
                }
            }
            Self::ColumnSums(coefficients) => {
                for (i, o) in out.iter_mut().enumerate() {
                    let terms = slices.iter().zip(coefficients).map(|(s, c)| c[i % n_per_row] * f64::from(s[i]));
                    *o = terms.sum::<f64>() as f32;
                }
            }
            Self::Task { task, cuts } => {
                let place = (n_per_row, (chunk.first_row * n_per_row) as u64);
                add_task_vectors(slices[0], &slices[1..], task, cuts, place, &mut out);
            }
            Self::Change(change) => {
                let first = chunk.first_row * n_per_row;
                let values = change.values[first..].iter().zip(slices[0]);
                out.iter_mut().zip(values).for_each(|(o, (d, w))| *o = w + d);
            }
            Self::Fold(updates) => {
                out.copy_from_slice(slices[0]);
                for Update { factor, scale } in *updates {
                    // Rows of one expert after another, each with factors of its own.
                    let (n_out, n_a) = (factor.n_out, factor.n_in * factor.rank);
                    let (mut row, mut rest) = (chunk.first_row, out.as_mut_slice());
                    while !rest.is_empty() {
                        let expert = row / n_out;
                        let n_rows = ((expert + 1) * n_out - row).min(rest.len() / n_per_row);
                        let (own, others) = rest.split_at_mut(n_rows * n_per_row);
                        let a = &factor.a[expert * n_a..(expert + 1) * n_a];
                        add_update(a, &factor.b, factor.rank, *scale, row, n_per_row, own);
                        (row, rest) = (row + n_rows, others);
                    }
                }
            }
        }
        chunk.target = out;
        Ok(())
    }
}

impl RowRule {
    fn coefficients(self, rows: &[&[f32]]) -> Result<Vec<f64>> {
        match self {
            Self::Turn { t, has_base: true } => turned(t, &gram(Some(rows[0]), &rows[1..]), true),
            Self::Turn { t, .. } => turned(t, &gram(None, rows), false),
            Self::Stock => Ok(stock_coefficients(&gram(Some(rows[0]), &rows[1..]), rows.len() - 1)),
        }
    }
}

fn finite(products: &[f64]) -> Result<[f64; 3]> {
    let [aa, ab, bb] = *products else { return Err(Error::new(Kind::Internal, "two models have three products")) };
    if (aa + ab + bb).is_finite() {
        Ok([aa, ab, bb])
    } else {
        Err(Error::new(Kind::Numeric, "not all values are finite numbers"))
    }
}

/// The coefficients of a way `t` from one model to another; with a base before them where their changes from it are turned.
/// Between opposite directions, as between equal ones, the way is straight.
fn turned(t: f64, products: &[f64], has_base: bool) -> Result<Vec<f64>> {
    let [a, b] = slerp_coefficients(t, finite(products)?).unwrap_or([1.0 - t, t]);
    Ok(if has_base { vec![1.0 - a - b, a, b] } else { vec![a, b] })
}

/// The products of all pairs of sources over the whole tensor, or of their changes from the first.
fn products(pass: &Pass, has_base: bool) -> Result<Vec<f64>> {
    let mut total: Vec<f64> = Vec::new();
    let work = |chunk: &mut Chunk| {
        let slices = chunk.slices();
        Ok(if has_base { gram(Some(slices[0]), &slices[1..]) } else { gram(None, &slices) })
    };
    pass.run(LOOK_VALUES, work, |sums| {
        total.resize(sums.len(), 0.0);
        total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
        Ok(())
    })?;
    Ok(total)
}

/// A turn of its own for every column.
fn columns<'a>(pass: &Pass, t: f64, has_base: bool) -> Result<Blend<'a>> {
    let n = pass.n_per_row;
    let mut totals = vec![[0.0f64; 3]; n];
    let work = |chunk: &mut Chunk| {
        let slices = chunk.slices();
        let (models, mut sums) = (&slices[usize::from(has_base)..], vec![[0.0f64; 3]; n]);
        for i in 0..slices[0].len() {
            let base = if has_base { f64::from(slices[0][i]) } else { 0.0 };
            let (a, b) = (f64::from(models[0][i]) - base, f64::from(models[1][i]) - base);
            let sum = &mut sums[i % n];
            *sum = [sum[0] + a * a, sum[1] + a * b, sum[2] + b * b];
        }
        Ok(sums)
    };
    pass.run(LOOK_VALUES, work, |sums| {
        totals.iter_mut().zip(sums).for_each(|(t, s)| (0..3).for_each(|k| t[k] += s[k]));
        Ok(())
    })?;
    let turn =
        |(i, products): (usize, &[f64; 3])| turned(t, products, has_base).map_err(|e| e.during(format!("column {i}")));
    let turns = totals.iter().enumerate().map(turn).collect::<Result<Vec<_>>>()?;
    let of_source = |source: usize| turns.iter().map(|c| c[source]).collect();
    Ok(Blend::ColumnSums((0..pass.sources.len()).map(of_source).collect()))
}

/// What is left of one model's changes of this tensor.
fn cut(pass: &Pass, thinning: &Thinning, model: usize, name: &str) -> Result<Cut> {
    let n = (pass.n_rows * pass.n_per_row) as u64;
    // What rounds to nothing still means the largest.
    let count = |share: f64| ((share * n as f64) as u64).min(n);
    Ok(match thinning {
        Thinning::None => Cut::All,
        Thinning::Largest { density } | Thinning::WithoutOutliers { density, .. } if density[model] == 1.0 => Cut::All,
        Thinning::Largest { density } => {
            Cut::Between { floor: magnitude_of(pass, model, count(density[model]).max(1))?, ceiling: u32::MAX }
        }
        Thinning::WithoutOutliers { density, gamma } => {
            let outliers = count(gamma[model]);
            let ceiling = if outliers == 0 { u32::MAX } else { magnitude_of(pass, model, outliers)? };
            let last = (outliers + count(density[model]).max(1)).min(n);
            Cut::Between { floor: magnitude_of(pass, model, last)?, ceiling }
        }
        Thinning::Random { density, rescale, seed } => {
            Cut::Random { density: density[model], rescale: *rescale, draws: Draws::new(*seed, model, name) }
        }
        Thinning::ByRank { density, .. } if density[model] == 1.0 => Cut::All,
        Thinning::ByRank { density, epsilon, rescale, seed } => Cut::ByRank {
            density: density[model],
            epsilon: epsilon[model],
            rescale: *rescale,
            draws: Draws::new(*seed, model, name),
        },
    })
}

/// The bits of the magnitude of the `k`-th largest of a model's changes.
fn magnitude_of(pass: &Pass, model: usize, k: u64) -> Result<u32> {
    kth_largest(k, |empty| {
        let mut total = empty.clone();
        let work = |chunk: &mut Chunk| {
            let mut counts = empty.clone();
            let (base, model) = (&chunk.values[0], &chunk.values[model + 1]);
            model.iter().zip(base).for_each(|(x, b)| counts.add(x - b));
            Ok(counts)
        };
        pass.run(LOOK_VALUES, work, |counts| {
            total.merge(&counts);
            Ok(())
        })?;
        Ok(total)
    })
}
