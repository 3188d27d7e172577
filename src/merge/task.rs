//! Sums of changes from a base, thinned first: task arithmetic and its relatives, piece by piece.

use super::combine::magnitude;
use super::method::TaskVectors;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An endless row of draws for one tensor of one model, one per element, that can be entered anywhere, so that pieces may be
/// worked on in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Which of one model's changes of one tensor are left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// All.
    All,
    /// Those whose [`magnitude`] is at least `floor` and below `ceiling`.
    Between {
        /// The smallest that is kept.
        floor: u32,
        /// The smallest that is too large; above all numbers where nothing is.
        ceiling: u32,
    },
    /// Those drawn with probability `density`.
    Random {
        /// Probability.
        density: f64,
        /// Whether what is kept is divided by it.
        rescale: bool,
        /// What decides.
        draws: Draws,
    },
    /// Those drawn with a probability from `density − epsilon` to `density + epsilon`, by rank of the magnitude in the row.
    ByRank {
        /// Mean probability.
        density: f64,
        /// Half its range.
        epsilon: f64,
        /// Whether what is kept is divided by its probability.
        rescale: bool,
        /// What decides.
        draws: Draws,
    },
}

impl Cut {
    /// Thins the changes of whole rows, of which the first begins at element `first` of the tensor.
    pub fn apply(&self, changes: &mut [f64], n_per_row: usize, first: u64) {
        match self {
            Self::All => {}
            Self::Between { floor, ceiling } => {
                let kept = *floor..*ceiling;
                changes.iter_mut().filter(|c| !kept.contains(&magnitude(**c as f32))).for_each(|c| *c = 0.0);
            }
            Self::Random { density, rescale, draws } => {
                let (mut draw, divisor) = (draws.from(first), if *rescale { *density } else { 1.0 });
                changes.iter_mut().for_each(|c| *c = if draw() < *density { *c / divisor } else { 0.0 });
            }
            Self::ByRank { density, epsilon, rescale, draws } => {
                let mut draw = draws.from(first);
                let mut order: Vec<usize> = Vec::with_capacity(n_per_row);
                let mut rank = vec![0usize; n_per_row];
                for row in changes.chunks_exact_mut(n_per_row) {
                    order.clear();
                    order.extend(0..n_per_row);
                    // Equal ones in their order: the sort is stable.
                    order.sort_by(|&i, &j| row[i].abs().total_cmp(&row[j].abs()));
                    order.iter().enumerate().for_each(|(r, &i)| rank[i] = r);
                    let step = 2.0 * epsilon / (n_per_row.max(2) - 1) as f64;
                    let least = if n_per_row > 1 { density - epsilon } else { *density };
                    for (c, &r) in row.iter_mut().zip(&rank) {
                        let probability = least + step * r as f64;
                        let divisor = if *rescale { probability } else { 1.0 };
                        *c = if draw() < probability { *c / divisor } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// The base and the sum of the models' changes, each thinned by its cut: for whole rows of a tensor, of which the first begins
/// at element `first`. With `elect` only changes that agree with the sign of the weighted sum take part; a sum of exactly zero
/// elects nothing.
pub fn add_task_vectors(
    base: &[f32],
    models: &[&[f32]],
    task: &TaskVectors,
    cuts: &[Cut],
    place: (usize, u64),
    out: &mut [f32],
) {
    let (n_per_row, first) = place;
    let thinned = models.iter().zip(&task.weights).zip(cuts).map(|((model, weight), cut)| {
        let mut changes: Vec<f64> = model.iter().zip(base).map(|(&x, &b)| f64::from(x - b)).collect();
        cut.apply(&mut changes, n_per_row, first);
        changes.iter_mut().for_each(|c| *c *= weight);
        changes
    });
    let thinned: Vec<Vec<f64>> = thinned.collect();
    let total: f64 = task.weights.iter().sum();
    for (i, (o, &b)) in out.iter_mut().zip(base).enumerate() {
        let all: f64 = thinned.iter().map(|changes| changes[i]).sum();
        let (mut sum, mut weight) = (all, total);
        if task.elect {
            (sum, weight) = (0.0, 0.0);
            for (changes, w) in thinned.iter().zip(&task.weights) {
                if changes[i] * all > 0.0 {
                    sum += changes[i];
                    weight += w;
                }
            }
        }
        let change = if task.normalize {
            if weight == 0.0 {
                0.0
            } else {
                sum / weight
            }
        } else {
            sum
        };
        *o = if change == 0.0 { b } else { (f64::from(b) + task.lambda * change) as f32 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn larger_changes_are_kept_more_often_and_the_mean_stays() {
        let (n_rows, n) = (4000, 5);
        let cut = Cut::ByRank { density: 0.5, epsilon: 0.4, rescale: true, draws: Draws::new(1, 0, "t") };
        let row = [3.0, -1.0, 5.0, 2.0, -4.0];
        let mut changes: Vec<f64> = (0..n_rows).flat_map(|_| row).collect();
        cut.apply(&mut changes, n, 0);
        // Ranks 2, 0, 4, 1, 3 of five: 0.1 to 0.9 in steps of 0.2.
        for (i, probability) in [0.5, 0.1, 0.9, 0.3, 0.7].into_iter().enumerate() {
            let column: Vec<f64> = changes.chunks_exact(n).map(|r| r[i]).collect();
            let kept = column.iter().filter(|c| **c != 0.0).count() as f64 / n_rows as f64;
            let mean = column.iter().sum::<f64>() / n_rows as f64;
            assert!((kept - probability).abs() < 0.03, "{i}: {kept}");
            assert!((mean / row[i] - 1.0).abs() < 0.2, "{i}: {mean}");
        }
        // Pieces of the tensor are thinned as the whole.
        let mut part: Vec<f64> = (0..10).flat_map(|_| row).collect();
        cut.apply(&mut part, n, 1000);
        assert_eq!(part, changes[1000..1050]);
    }

    #[test]
    fn outliers_and_small_changes_go() {
        let mut changes = [1.0, -8.0, 3.0, -2.0];
        Cut::Between { floor: magnitude(2.0), ceiling: magnitude(8.0) }.apply(&mut changes, 4, 0);
        assert_eq!(changes, [0.0, 0.0, 3.0, -2.0]);
    }
}
