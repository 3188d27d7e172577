//! Log-softmax of one row of logits and its gradient (specs: vjp, section 10); how far two rows are apart.

use crate::kernel::{exp_shifted, maximum};

/// Sums of this many exponentials are formed in F32 before they go into the F64 total.
const CHUNK: usize = 4096;

/// ln p of the target from its distance below the row's maximum and the others' sum of e^(z − maximum).
fn from_others(shifted: f64, others: f64) -> f64 {
    // The target is kept out of the sum: beside its 1, what little a confident row leaves to the others would be lost.
    shifted - (shifted.exp_m1() + others).ln_1p()
}

/// ln p of entry `target`. A row without a finite maximum gives NaN.
pub fn log_prob(row: &[f32], target: usize) -> f32 {
    let top = maximum(row);
    let mut scratch = [0.0; CHUNK];
    let mut others = 0.0f64;
    for (i, part) in row.chunks(CHUNK).enumerate() {
        let copy = &mut scratch[..part.len()];
        copy.copy_from_slice(part);
        if let Some(z) = target.checked_sub(i * CHUNK).and_then(|t| copy.get_mut(t)) {
            *z = f32::NEG_INFINITY;
        }
        others += f64::from(exp_shifted(copy, top));
    }
    from_others(f64::from(row[target] - top), others) as f32
}

/// Replaces the row by onehot − softmax, the gradient of ln p of entry `target`, and returns that ln p.
///
/// The target's entry is the others' share: 1 − p would lose everything at confident tokens.
pub fn unit_gradient(row: &mut [f32], target: usize) -> f32 {
    let top = maximum(row);
    let shifted = f64::from(row[target] - top);
    row[target] = f32::NEG_INFINITY;
    let others: f64 = row.chunks_mut(CHUNK).map(|part| f64::from(exp_shifted(part, top))).sum();
    let sum = others + shifted.exp();
    let scale = (-1.0 / sum) as f32;
    row.iter_mut().for_each(|p| *p *= scale);
    row[target] = (others / sum) as f32;
    from_others(shifted, others) as f32
}

/// ln Σ eˣ in F64, for measurements. A row without a finite maximum gives no finite number.
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(top) + row.iter().map(|&x| f64::from(x - top).exp()).sum::<f64>().ln()
}

/// KL(p ‖ q) of two rows of logits, in nats.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (ln_p, ln_q) = (f64::from(p) - p_norm, f64::from(q) - q_norm);
        ln_p.exp() * (ln_p - ln_q)
    };
    p.iter().zip(q).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln(2/3).
        let (p, q) = ([1.0f32, 1.0], [0.0f32, 3f32.ln()]);
        let wanted = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((divergence(&p, &q) - wanted).abs() < 1e-7);
        assert_eq!(divergence(&p, &p), 0.0);
        let ln = |p: &[f64]| p.iter().map(|x| (x.ln() + 3.0) as f32).collect::<Vec<_>>();
        let (p, q) = (ln(&[0.5, 0.25, 0.25]), ln(&[0.25, 0.25, 0.5]));
        assert!((log_sum_exp(&q) - 3.0).abs() < 1e-6);
        assert!((divergence(&p, &q) - (0.5 * 2f64.ln() - 0.25 * 2f64.ln())).abs() < 1e-6);
        assert!(!log_sum_exp(&[f32::NAN, 1.0]).is_finite() && !log_sum_exp(&[f32::INFINITY]).is_finite());
    }

    fn row() -> Vec<f32> {
        (0..10_000).map(|i| (i as f32 * 0.37).sin() * 8.0).collect()
    }

    fn reference(row: &[f32], target: usize) -> f64 {
        let top = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|&z| f64::from(z - top).exp()).sum();
        f64::from(row[target] - top) - sum.ln()
    }

    #[test]
    fn both_forms_give_the_log_prob() {
        let row = row();
        for target in [0, 4, 9_999] {
            let wanted = reference(&row, target);
            assert!((f64::from(log_prob(&row, target)) - wanted).abs() < 1e-5);
            assert_eq!(log_prob(&row, target), unit_gradient(&mut row.clone(), target));
        }
    }

    #[test]
    fn the_gradient_is_onehot_minus_softmax() {
        let (row, target) = (row(), 17);
        let mut gradient = row.clone();
        unit_gradient(&mut gradient, target);
        for i in [3, 17, 5_000] {
            let wanted = f64::from(u8::from(i == target)) - reference(&row, i).exp();
            assert!((f64::from(gradient[i]) - wanted).abs() < 1e-6 * wanted.abs().max(1e-3), "{i}");
        }
    }

    #[test]
    fn a_confident_token_keeps_its_small_gradient() {
        let mut row = vec![0.0f32; 64];
        row[5] = 18.0;
        let wanted = -reference(&row, 5).exp_m1();
        unit_gradient(&mut row, 5);
        assert!((f64::from(row[5]) / wanted - 1.0).abs() < 1e-5);
    }
}
