//! How much of a wanted change survives being stored: a small change of a quantised weight vanishes below half a step.

use crate::kernel::change_sums;

/// Sums over the elements of a tensor, from which the figures follow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fidelity {
    wanted: f64,
    realised: f64,
    product: f64,
    error: f64,
    n: u64,
    leaked: u64,
}

impl Fidelity {
    /// Counts a piece: what the weights were, what they should be, and what was stored.
    pub fn add(&mut self, before: &[f32], target: &[f32], stored: &[f32]) {
        let [wanted, realised, product, error] = change_sums(before, target, stored);
        self.wanted += wanted;
        self.realised += realised;
        self.product += product;
        self.error += error;
        self.n += before.len() as u64;
        let kept = before.iter().zip(target).zip(stored).filter(|((b, t), _)| b == t);
        self.leaked += kept.filter(|((b, _), s)| b != s).count() as u64;
    }

    /// False where a value was no finite number, or changes are too large for their squares.
    pub(super) fn is_finite(&self) -> bool {
        (self.wanted + self.realised + self.error).is_finite()
    }

    /// Takes over the sums of the next piece.
    pub fn merge(&mut self, next: &Self) {
        self.wanted += next.wanted;
        self.realised += next.realised;
        self.product += next.product;
        self.error += next.error;
        self.n += next.n;
        self.leaked += next.leaked;
    }

    /// Cosine of the wanted and the realised change; 0 where nothing of it was realised, `None` where none was wanted.
    pub fn cosine(&self) -> Option<f64> {
        let size = (self.wanted * self.realised).sqrt();
        (self.wanted > 0.0).then(|| if size > 0.0 { (self.product / size).clamp(-1.0, 1.0) } else { 0.0 })
    }

    /// Length of the realised change over that of the wanted one; `None` where none was wanted.
    pub fn norm_ratio(&self) -> Option<f64> {
        (self.wanted > 0.0).then(|| (self.realised / self.wanted).sqrt())
    }

    /// The realised change along the wanted one, over the wanted one: 1 where all of it arrived, however much noise came with
    /// it; `None` where none was wanted.
    pub fn gain(&self) -> Option<f64> {
        (self.wanted > 0.0).then(|| self.product / self.wanted)
    }

    /// Elements that were to stay what they are and did not: storage moves the neighbours of what changes.
    pub fn leaked(&self) -> u64 {
        self.leaked
    }

    /// Root of the mean square of the difference, per element.
    pub fn rmse(&self) -> f64 {
        (self.error / self.n.max(1) as f64).sqrt()
    }

    /// Root of the mean square of the wanted change, per element.
    pub fn wanted_rms(&self) -> f64 {
        (self.wanted / self.n.max(1) as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let mut fidelity = Fidelity::default();
        // Wanted (3, 4), realised (3, 0).
        fidelity.add(&[1.0, 1.0], &[4.0, 5.0], &[4.0, 1.0]);
        assert_eq!((fidelity.cosine(), fidelity.norm_ratio(), fidelity.rmse()), (Some(0.6), Some(0.6), 8f64.sqrt()));
        assert_eq!(fidelity.gain(), Some(9.0 / 25.0));
        let mut exact = Fidelity::default();
        exact.add(&[1.0], &[2.0], &[2.0]);
        assert_eq!((exact.cosine(), exact.norm_ratio(), exact.rmse()), (Some(1.0), Some(1.0), 0.0));
        let mut lost = Fidelity::default();
        lost.add(&[1.0], &[1.5], &[1.0]);
        assert_eq!((lost.cosine(), lost.norm_ratio(), lost.rmse()), (Some(0.0), Some(0.0), 0.5));
        let mut none = Fidelity::default();
        none.add(&[1.0], &[1.0], &[1.25]);
        assert_eq!((none.cosine(), none.norm_ratio(), none.leaked()), (None, None, 1));
        let mut part = Fidelity::default();
        part.add(&[1.0, 2.0, 3.0], &[1.0, 2.5, 3.0], &[1.0, 2.5, 3.25]);
        part.merge(&none);
        assert_eq!(part.leaked(), 2);
        exact.merge(&lost);
        assert_eq!(exact.wanted_rms(), (1.25f64 / 2.0).sqrt());
    }
}
