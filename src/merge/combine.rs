//! The arithmetic of merging, on slices in F32: sums are formed in F64 and rounded once.

use crate::kernel::{product_of_changes, sum_of_two};

/// Σ c·x over the slices. Coefficients that add up to 1 leave equal slices as they are.
pub fn weighted_sum(coefficients: &[f64], slices: &[&[f32]], out: &mut [f32]) {
    match (coefficients, slices) {
        ([c0, c1], [x0, x1]) => sum_of_two([*c0, *c1], x0, x1, out),
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

/// The coefficients of a model stock (Jang et al. 2024, arXiv 2403.19522, equation 7) from the products of the changes, as
/// [`gram`] gives them: 1 − t of the base, and t / N of each of N models, where t = N·c / (1 + (N − 1)·c) and c is the mean
/// cosine between changes. A mean cosine below 0 counts as 0: the base stays as it is; so does a model that does not differ.
pub fn stock_coefficients(products: &[f64], n_models: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| products[i * n_models - i * (i + 1) / 2 + j];
    let pairs = (0..n_models).flat_map(|i| (i + 1..n_models).map(move |j| (i, j)));
    let cosine = |(i, j): (usize, usize)| {
        let size = (at(i, i) * at(j, j)).sqrt();
        if size > 0.0 {
            at(i, j) / size
        } else {
            0.0
        }
    };
    let n = n_models as f64;
    let mean = (pairs.map(cosine).sum::<f64>() / (n * (n - 1.0) / 2.0)).clamp(0.0, 1.0);
    let t = n * mean / (1.0 + (n - 1.0) * mean);
    std::iter::once(1.0 - t).chain((0..n_models).map(|_| t / n)).collect()
}

/// The products of all pairs of slices, or of their differences from a base: (0, 0), (0, 1), …, (1, 1), ….
pub fn gram(base: Option<&[f32]>, models: &[&[f32]]) -> Vec<f64> {
    let mut sums = Vec::with_capacity(models.len() * (models.len() + 1) / 2);
    for (i, x) in models.iter().enumerate() {
        sums.extend(models[i..].iter().map(|y| product_of_changes(base.unwrap_or(&[]), x, y)));
    }
    sums
}

/// The magnitude of a number as an integer of the same order.
pub fn magnitude(value: f32) -> u32 {
    value.abs().to_bits()
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
    fn products_by_hand() {
        let (b, x, y): (Vec<f32>, Vec<f32>, Vec<f32>) =
            ((0..11).map(|i| i as f32).collect(), (0..11).map(|i| i as f32 + 2.0).collect(), vec![1.0; 11]);
        // Of differences: 11 · 2², 2 · Σ (1 − i), Σ (1 − i)².
        assert_eq!(gram(Some(&b), &[&x, &y]), [44.0, -88.0, 286.0]);
        assert_eq!(gram(None, &[&y]), [11.0]);
    }

    #[test]
    fn a_stock_lies_between_base_and_mean() {
        // Two models: right angles leave the base, 60 degrees go two thirds of the way, one direction all of it.
        for (cosine, t) in [(0.0, 0.0), (0.5, 2.0 / 3.0), (1.0, 1.0), (-0.5, 0.0)] {
            let found = stock_coefficients(&[4.0, 6.0 * cosine, 9.0], 2);
            let right = found.iter().zip([1.0 - t, t / 2.0, t / 2.0]).all(|(f, w)| (f - w).abs() < 1e-12);
            assert!(right, "{cosine}: {found:?}");
        }
        // Three: cosines 1, 0 and 0.5 have the mean 0.5, and t = 1.5 / 2.
        let found = stock_coefficients(&[1.0, 1.0, 0.0, 1.0, 0.5, 1.0], 3);
        assert!(found.iter().zip([0.25, 0.25, 0.25, 0.25]).all(|(f, w)| (f - w).abs() < 1e-12), "{found:?}");
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
