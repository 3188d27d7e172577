//! The simplex method of Nelder and Mead (1965) with the coefficients of Gao and Han (2012), which depend on the dimension.

use crate::error::Result;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Evaluations at most.
    pub(super) evaluations: usize,
    /// The simplex is small enough when all its values lie this near to each other.
    pub(super) spread: f64,
}

/// The best point found, from `start` on with a simplex whose edges are `step` long.
pub(super) fn minimise(
    start: &[f64],
    step: f64,
    limits: Limits,
    value: &mut dyn FnMut(&[f64]) -> Result<f64>,
) -> Result<Vec<f64>> {
    let n = start.len();
    if n == 0 {
        return Ok(Vec::new());
    }
    let (expand, contract, shrink) = (1.0 + 2.0 / n as f64, 0.75 - 0.5 / n as f64, (1.0 - 1.0 / n as f64).max(0.5));
    let mut left = limits.evaluations;
    let mut simplex: Vec<(f64, Vec<f64>)> = Vec::with_capacity(n + 1);
    for corner in 0..=n {
        let mut point = start.to_vec();
        if corner > 0 {
            point[corner - 1] += step;
        }
        simplex.push((value(&point)?, point));
        left = left.saturating_sub(1);
    }
    loop {
        // Equal values keep their order, so that equal inputs take equal ways.
        simplex.sort_by(|a, b| a.0.total_cmp(&b.0));
        if left == 0 || simplex[n].0 - simplex[0].0 <= limits.spread {
            return Ok(simplex.swap_remove(0).1);
        }
        let centre: Vec<f64> = (0..n).map(|i| simplex[..n].iter().map(|p| p.1[i]).sum::<f64>() / n as f64).collect();
        let worst = simplex[n].clone();
        let mut try_at = |by: f64| -> Result<(f64, Vec<f64>)> {
            let point: Vec<f64> = centre.iter().zip(&worst.1).map(|(c, w)| c + by * (c - w)).collect();
            left = left.saturating_sub(1);
            Ok((value(&point)?, point))
        };
        let reflected = try_at(1.0)?;
        let better = if reflected.0 < simplex[0].0 {
            let expanded = try_at(expand)?;
            Some(if expanded.0 < reflected.0 { expanded } else { reflected })
        } else if reflected.0 < simplex[n - 1].0 {
            Some(reflected)
        } else {
            let inside = reflected.0 >= worst.0;
            let contracted = try_at(if inside { -contract } else { contract })?;
            (contracted.0 < reflected.0.min(worst.0)).then_some(contracted)
        };
        match better {
            Some(point) => simplex[n] = point,
            None => {
                let best = simplex[0].1.clone();
                for (found, point) in &mut simplex[1..] {
                    point.iter_mut().zip(&best).for_each(|(p, b)| *p = b + shrink * (*p - b));
                    *found = value(point)?;
                    left = left.saturating_sub(1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_the_bottom_of_a_bent_valley_within_its_budget() {
        let mut n = 0;
        let mut value = |x: &[f64]| {
            n += 1;
            Ok((1.0 - x[0]).powi(2) + 100.0 * (x[1] - x[0] * x[0]).powi(2))
        };
        let limits = Limits { evaluations: 400, spread: 1e-14 };
        let found = minimise(&[-1.2, 1.0], 0.5, limits, &mut value).unwrap();
        assert!(found.iter().all(|x| (x - 1.0).abs() < 1e-4) && n <= 403, "{found:?} after {n}");
        assert!(minimise(&[], 1.0, limits, &mut |_| Ok(0.0)).unwrap().is_empty());
        let few = minimise(&[5.0], 1.0, Limits { evaluations: 2, spread: 0.0 }, &mut |x| Ok(x[0] * x[0])).unwrap();
        assert_eq!(few, [5.0]);
    }
}
