//! Clipping by the global norm, as PyTorch's `clip_grad_norm_` does it.

/// Sum of a tensor's squares, in F64.
pub fn sum_of_squares(gradient: &[f32]) -> f64 {
    gradient.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// Euclidean norm over all tensors, summed in F64 tensor by tensor.
pub fn global_norm<'a>(gradients: impl Iterator<Item = &'a [f32]>) -> f64 {
    gradients.map(sum_of_squares).sum::<f64>().sqrt()
}

/// What gradients are multiplied by so that their norm is at most `max_norm`; 1 if `max_norm` is 0 (no clipping).
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm <= 0.0 {
        return 1.0;
    }
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_gradient_is_cut_and_a_short_one_kept() {
        let norm = global_norm([[3.0f32].as_slice(), &[0.0, 4.0]].into_iter());
        assert_eq!(norm, 5.0);
        assert!((clip_factor(norm, 1.0) - 0.2).abs() < 1e-6);
        assert_eq!((clip_factor(norm, 10.0), clip_factor(norm, 0.0)), (1.0, 1.0));
    }
}
