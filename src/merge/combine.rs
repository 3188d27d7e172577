//! The arithmetic of merging, on slices in F32: sums are formed in F64 and rounded once.

use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Σ c·x over the slices. Coefficients that add up to 1 leave equal slices as they are.
pub fn weighted_sum(coefficients: &[f64], slices: &[&[f32]], out: &mut [f32]) {
    match (coefficients, slices) {
        ([c0, c1], [x0, x1]) => {
            for ((o, &a), &b) in out.iter_mut().zip(*x0).zip(*x1) {
                *o = (c0 * f64::from(a) + c1 * f64::from(b)) as f32;
            }
        }
        _ => {
            for (i, o) in out.iter_mut().enumerate() {
                *o = coefficients.iter().zip(slices).map(|(c, x)| c * f64::from(x[i])).sum::<f64>() as f32;
            }
        }
    }
}

/// The two coefficients of spherical interpolation (Shoemake 1985) at `t`, from the products of the whole tensors:
/// `[a·a, a·b, b·b]`. The angle is that between the directions; the tensors keep their lengths. `None` where there is no
/// one shortest arc: the directions are opposite.
pub fn slerp_coefficients(t: f64, products: [f64; 3]) -> Option<[f64; 2]> {
    let [aa, ab, bb] = products;
    let size = (aa * bb).sqrt();
    if size == 0.0 {
        return Some([1.0 - t, t]);
    }
    let cosine = (ab / size).clamp(-1.0, 1.0);
    let (angle, sine) = (cosine.acos(), (1.0 - cosine * cosine).sqrt());
    if sine > 1e-6 {
        return Some([((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine]);
    }
    (cosine > 0.0).then_some([1.0 - t, t])
}

/// TIES (Yadav et al. 2023, arXiv 2306.01708) for one piece: of each model's change from the base only what reaches its
/// floor takes part; the sign of the weighted sum is elected; the weighted mean of the changes that agree with it, times
/// lambda, is added to the base. A sum of exactly zero elects nothing.
///
/// `floors` are the bits of magnitudes, as [`magnitude`] gives them.
pub fn ties(base: &[f32], models: &[&[f32]], weights: &[f64], floors: &[u32], lambda: f64, out: &mut [f32]) {
    for (i, (o, &b)) in out.iter_mut().zip(base).enumerate() {
        let kept = |model: usize| {
            let change = models[model][i] - b;
            if magnitude(change) >= floors[model] {
                weights[model] * f64::from(change)
            } else {
                0.0
            }
        };
        let elected: f64 = (0..models.len()).map(kept).sum();
        let (mut sum, mut weight) = (0.0, 0.0);
        for (model, w) in weights.iter().enumerate() {
            let change = kept(model);
            if change * elected > 0.0 {
                sum += change;
                weight += w;
            }
        }
        *o = if weight > 0.0 { (f64::from(b) + lambda * sum / weight) as f32 } else { b };
    }
}

/// The magnitude of a number as an integer of the same order.
pub fn magnitude(value: f32) -> u32 {
    value.abs().to_bits()
}

/// Which changes DARE keeps (Yu et al. 2024, arXiv 2311.03099): an endless row of draws, one per element, that can be entered
/// anywhere, so that pieces may be worked on in any order.
#[derive(Clone, Copy, Debug)]
pub struct Draws([u8; 32]);

impl Draws {
    /// The draws of one tensor of one model.
    pub fn new(seed: u64, model: usize, tensor: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(b"dare");
        hasher.update(&(model as u64).to_le_bytes());
        hasher.update(tensor.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Numbers in [0, 1), from the one that belongs to element `first` on.
    pub fn from(&self, first: u64) -> impl FnMut() -> f64 {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_word_pos(u128::from(first));
        move || f64::from(rng.next_u32()) / (1u64 << 32) as f64
    }
}

/// DARE's sum for one piece that begins at element `first`: each change is kept with probability `density` and then divided by
/// it; the weighted sum, times lambda, is added to the base.
pub fn dare(base: &[f32], models: &[&[f32]], weights: &[f64], rule: &Dare, first: u64, out: &mut [f32]) {
    let mut sums = vec![0.0f64; base.len()];
    for ((model, weight), draws) in models.iter().zip(weights).zip(&rule.draws) {
        let mut draw = draws.from(first);
        for ((sum, &x), &b) in sums.iter_mut().zip(*model).zip(base) {
            if draw() < rule.density {
                *sum += weight * f64::from(x - b) / rule.density;
            }
        }
    }
    for ((o, &b), sum) in out.iter_mut().zip(base).zip(sums) {
        *o = (f64::from(b) + rule.lambda * sum) as f32;
    }
}

/// How much DARE keeps, and what decides it.
#[derive(Clone, Debug)]
pub struct Dare {
    /// Share of changes that are kept.
    pub density: f64,
    /// Factor of the sum.
    pub lambda: f64,
    /// The draws of each model.
    pub draws: Vec<Draws>,
}

/// An adapter's update of one weight: `rows` × n_in numbers of `scale · B·A`, added to `out`, whose first row is row `first`.
///
/// a: [n_in, r], b: [r, n_out]
pub fn add_update(a: &[f32], b: &[f32], rank: usize, scale: f32, first: usize, n_in: usize, out: &mut [f32]) {
    let mut update = vec![0.0f32; n_in];
    for (row, out) in out.chunks_exact_mut(n_in).enumerate() {
        update.fill(0.0);
        let coefficients = &b[(first + row) * rank..(first + row + 1) * rank];
        for (&c, a) in coefficients.iter().zip(a.chunks_exact(n_in)) {
            update.iter_mut().zip(a).for_each(|(u, &x)| *u += c * x);
        }
        out.iter_mut().zip(&update).for_each(|(o, u)| *o += scale * u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_equal_slices_and_do_not_care_for_order() {
        let x: Vec<f32> = (0..99).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
        let y: Vec<f32> = (0..99).map(|i| (i as f32 * 0.71).cos()).collect();
        let sum = |c: &[f64], s: &[&[f32]]| {
            let mut out = vec![0.0; 99];
            weighted_sum(c, s, &mut out);
            out
        };
        assert_eq!(sum(&[0.3, 0.7], &[&x, &x]), x);
        assert_eq!(sum(&[0.3, 0.7], &[&x, &y]), sum(&[0.7, 0.3], &[&y, &x]));
        assert_eq!(sum(&[0.3, 0.7], &[&x, &y]), sum(&[0.3, 0.7, 0.0], &[&x, &y, &x]));
    }

    #[test]
    fn draws_can_be_entered_anywhere() {
        let draws = Draws::new(3, 0, "blk.0.attn_q.weight");
        let (mut all, mut part) = (draws.from(0), draws.from(777));
        (0..777).for_each(|_| {
            all();
        });
        assert!((0..100).all(|_| all() == part()));
        assert_ne!(Draws::new(3, 1, "t").from(0)(), Draws::new(3, 0, "t").from(0)());
    }

    #[test]
    fn an_update_is_the_product_of_its_factors() {
        // a: two rows of three; b: three outputs of two.
        let (a, b) = ([1.0, 2.0, 3.0, -1.0, 0.5, 0.0], [1.0, 0.0, 2.0, 1.0, 0.0, -2.0]);
        let mut out = vec![10.0; 6];
        add_update(&a, &b, 2, 0.5, 1, 3, &mut out);
        assert_eq!(out, [10.5, 12.25, 13.0, 11.0, 9.5, 10.0]);
    }
}
