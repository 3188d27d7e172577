//! Singular values of updates, without forming the update where its factors are known, and by random projection where it is
//! a matrix (Halko, Martinsson and Tropp 2011, SIAM Review 53, algorithms 4.4 and 5.1).

use super::{Factor, Kept, Limit};
use crate::error::{Error, Kind, Result};
use nalgebra::{DMatrix, DVector, SVD};
use rand_chacha::rand_core::Rng;
use rand_chacha::ChaCha8Rng;

/// Columns of the projection beyond the rank that is wanted.
const OVERSAMPLING: usize = 8;
/// Passes that sharpen the projection; each goes through the matrix twice.
const POWER_ITERATIONS: usize = 2;
/// Sweeps of the small decomposition at most.
const SWEEPS_MAX: usize = 10_000;

/// u · diag(values) · vᵀ, u \[n_out, k\], v \[n_in, k\], both orthonormal; values fall.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    u: DMatrix<f64>,
    values: Vec<f64>,
    v: DMatrix<f64>,
    /// Values below this are rounding errors.
    noise: f64,
}

/// Rounding errors of products of factors in F64, and of those in F32, relative to their norms.
const NOISE_F64: f64 = 1e-13;
const NOISE_F32: f64 = 1e-9;

impl LowRank {
    /// Of scale · B·A: QR of both factors, then the product of the two small triangles.
    pub(crate) fn of_product(factor: &Factor, scale: f32) -> Result<Self> {
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        factor.of_one_matrix("cannot be truncated")?;
        finite(factor.a.iter().chain(&factor.b))?;
        let b = DMatrix::from_row_slice(factor.n_out, factor.rank, &wide(&factor.b));
        let a = DMatrix::from_column_slice(factor.n_in, factor.rank, &wide(&factor.a));
        let (b, a) = (b.qr(), a.qr());
        let (left, right) = (b.r() * f64::from(scale), a.r().transpose());
        let noise = NOISE_F64 * left.norm() * right.norm();
        let (u, values, v) = small(left * right)?;
        let noise = noise.max(NOISE_F32 * values.first().unwrap_or(&0.0));
        Ok(Self { u: b.q() * u, values, v: a.q() * v, noise })
    }

    /// Of the matrix whose rows of `n_in` values lie one after another, up to this rank.
    pub(crate) fn of_matrix(rows: Vec<f32>, n_in: usize, rank: usize, rng: &mut ChaCha8Rng) -> Result<Self> {
        finite(rows.iter())?;
        let n_out = rows.len() / n_in;
        let width = (rank + OVERSAMPLING).min(n_in).min(n_out);
        // Rows in memory are columns here: this is the transposed matrix.
        let transposed = DMatrix::from_vec(n_in, n_out, rows);
        let mut range = orthonormal(&(&transposed * DMatrix::from_fn(n_out, width, |_, _| normal(rng))));
        for _ in 0..POWER_ITERATIONS {
            let other = orthonormal(&(range.transpose() * &transposed).transpose());
            range = orthonormal(&(&transposed * other));
        }
        // range · (rangeᵀ · transposed), whose second factor is decomposed.
        let inner = (range.transpose() * &transposed).transpose().cast::<f64>().qr();
        let (v, values, u) = small(inner.r().transpose())?;
        let noise = NOISE_F32 * values.first().unwrap_or(&0.0);
        Ok(Self { u: inner.q() * u, values, v: range.cast::<f64>() * v, noise })
    }

    /// The Frobenius norm.
    pub(crate) fn norm(&self) -> f64 {
        self.values.iter().map(|s| s * s).sum::<f64>().sqrt()
    }

    /// The factors within a limit, and how much of an update of this norm they keep. Both factors get the root of each
    /// singular value. An update of nothing keeps one row of zeros.
    pub(crate) fn factor(&self, weight: &str, limit: Limit, norm: f64) -> Result<(Factor, Kept)> {
        let total = norm * norm;
        let (mut rank, mut sum) = (0, 0.0);
        for s in self.values.iter().take(limit.rank) {
            if *s <= self.noise || (rank > 0 && sum >= limit.energy * total) {
                break;
            }
            (rank, sum) = (rank + 1, sum + s * s);
        }
        let energy = if norm > self.noise { (sum / total).min(1.0) } else { 1.0 };
        let roots: Vec<f64> = self.values.iter().map(|s| if rank > 0 { s.sqrt() } else { 0.0 }).collect();
        let (n_in, n_out, rank) = (self.v.nrows(), self.u.nrows(), rank.max(1));
        let a = (0..rank).flat_map(|k| self.v.column(k).iter().map(|x| (x * roots[k]) as f32).collect::<Vec<_>>());
        let a: Vec<f32> = a.collect();
        let mut b = Vec::with_capacity(n_out * rank);
        for row in 0..n_out {
            b.extend((0..rank).map(|k| (self.u[(row, k)] * roots[k]) as f32));
        }
        finite(a.iter().chain(&b))?;
        let kept = Kept { weight: weight.to_owned(), rank, energy, norm };
        Ok((Factor { weight: weight.to_owned(), rank, n_in, n_out, n_experts: 1, a, b, alpha: None }, kept))
    }
}

fn finite<'a>(mut values: impl Iterator<Item = &'a f32>) -> Result<()> {
    match values.all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(Error::new(Kind::Numeric, "not all values are finite numbers")),
    }
}

/// The decomposition of a small square matrix, singular values falling: u, values, v.
fn small(matrix: DMatrix<f64>) -> Result<(DMatrix<f64>, Vec<f64>, DMatrix<f64>)> {
    let failed = || Error::new(Kind::Numeric, "the singular values do not converge");
    let svd = SVD::try_new(matrix, true, true, f64::EPSILON, SWEEPS_MAX).ok_or_else(failed)?;
    let values: &DVector<f64> = &svd.singular_values;
    let (Some(u), Some(v_t)) = (svd.u, svd.v_t) else { return Err(failed()) };
    Ok((u, values.iter().copied().collect(), v_t.transpose()))
}

/// An orthonormal basis of the columns.
fn orthonormal(columns: &DMatrix<f32>) -> DMatrix<f32> {
    columns.clone().cast::<f64>().qr().q().cast::<f32>()
}

/// A draw of the standard normal distribution (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let mut uniform = || (f64::from(rng.next_u32()) + 0.5) / (1u64 << 32) as f64;
    let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
    (radius * angle.cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    /// Σ s·u·vᵀ in row order.
    fn dense(low: &LowRank) -> Vec<f64> {
        let (n_out, n_in) = (low.u.nrows(), low.v.nrows());
        let term = |o: usize, i: usize, k: usize| low.values[k] * low.u[(o, k)] * low.v[(i, k)];
        let all = (0..n_out).flat_map(|o| (0..n_in).map(move |i| (o, i)));
        all.map(|(o, i)| (0..low.values.len()).map(|k| term(o, i, k)).sum()).collect()
    }

    fn product(f: &Factor) -> Vec<f64> {
        let all = (0..f.n_out).flat_map(|o| (0..f.n_in).map(move |i| (o, i)));
        let term = |o: usize, i: usize, k: usize| f64::from(f.b[o * f.rank + k]) * f64::from(f.a[k * f.n_in + i]);
        all.map(|(o, i)| (0..f.rank).map(|k| term(o, i, k)).sum()).collect()
    }

    fn factor(rank: usize, n_in: usize, n_out: usize) -> Factor {
        let mut rng = ChaCha8Rng::from_seed([7; 32]);
        let (a, b) =
            ((0..n_in * rank).map(|_| normal(&mut rng)).collect(), (0..n_out * rank).map(|_| normal(&mut rng)));
        let b = b.collect();
        Factor { weight: "w".into(), rank, n_in, n_out, n_experts: 1, a, b, alpha: None }
    }

    fn distance(x: &[f64], y: &[f64]) -> f64 {
        let norm = |z: &mut dyn Iterator<Item = f64>| z.map(|v| v * v).sum::<f64>().sqrt();
        norm(&mut x.iter().zip(y).map(|(a, b)| a - b)) / norm(&mut y.iter().copied())
    }

    #[test]
    fn both_ways_lead_to_the_matrix_and_its_singular_values() {
        // Also where the rank exceeds a side.
        for (rank, n_in, n_out) in [(3, 20, 11), (4, 9, 30), (16, 6, 40), (16, 40, 6)] {
            let f = factor(rank, n_in, n_out);
            let wanted = product(&f);
            let exact = LowRank::of_product(&f, 1.0).unwrap();
            assert!(distance(&dense(&exact), &wanted) < 1e-12);
            assert!(exact.values.windows(2).all(|w| w[0] >= w[1]));
            let rows = wanted.iter().map(|&x| x as f32).collect();
            let mut rng = ChaCha8Rng::from_seed([1; 32]);
            let random = LowRank::of_matrix(rows, n_in, rank, &mut rng).unwrap();
            assert!(distance(&dense(&random), &wanted) < 1e-5);
            for (x, y) in random.values.iter().zip(&exact.values).take(rank.min(n_in).min(n_out)) {
                assert!((x - y).abs() < 1e-4 * exact.values[0], "{x} {y}");
            }
            let norm = wanted.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((exact.norm() - norm).abs() < 1e-9 * norm);
        }
    }

    #[test]
    fn what_is_kept_is_the_share_of_the_largest_values() {
        let f = factor(6, 30, 20);
        let low = LowRank::of_product(&f, 0.5).unwrap();
        let all: f64 = low.values.iter().map(|s| s * s).sum();
        let share = |k: usize| low.values[..k].iter().map(|s| s * s).sum::<f64>() / all;
        let (two, kept) = low.factor("w", Limit { rank: 2, energy: 1.0 }, low.norm()).unwrap();
        assert!((two.rank, kept.rank) == (2, 2) && (kept.energy - share(2)).abs() < 1e-12);
        // The error is what was left out.
        let half: Vec<f64> = product(&f).iter().map(|x| 0.5 * x).collect();
        assert!((distance(&product(&two), &half) - (1.0 - share(2)).sqrt()).abs() < 1e-5);
        for energy in [0.1, 0.5, 0.8, 0.95, 1.0] {
            let (_, kept) = low.factor("w", Limit { rank: 99, energy }, low.norm()).unwrap();
            let least = (1..=6).find(|&k| share(k) >= energy - 1e-12).unwrap_or(6);
            assert_eq!(kept.rank, least, "{energy}");
        }
        let nothing = Factor { b: vec![0.0; 120], ..f };
        let low = LowRank::of_product(&nothing, 1.0).unwrap();
        let (zero, kept) = low.factor("w", Limit { rank: 2, energy: 0.5 }, 0.0).unwrap();
        assert!(zero.rank == 1 && kept.energy == 1.0 && product(&zero).iter().all(|&x| x == 0.0));
        let broken = Factor { a: vec![f32::NAN; 180], ..nothing };
        assert_eq!(LowRank::of_product(&broken, 1.0).unwrap_err().kind(), Kind::Numeric);
    }
}
