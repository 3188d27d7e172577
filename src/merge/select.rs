//! The k-th largest magnitude of a tensor that is seen piece by piece: two counts, of the high bits and then of the low bits
//! below the high bits that were found. Exact, in memory that does not depend on the tensor.

use super::combine::magnitude;

const LOW_BITS: u32 = 15;
const BINS: usize = 1 << 16;

/// Counts of magnitudes by their high bits, or by their low bits among those with given high bits.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    within: Option<u32>,
    bins: Vec<u64>,
}

impl Counts {
    /// Counts by the high bits.
    pub(super) fn high() -> Self {
        Self { within: None, bins: vec![0; BINS] }
    }

    /// Counts by the low bits of what has these high bits.
    pub(super) fn low(high: u32) -> Self {
        Self { within: Some(high), bins: vec![0; 1 << LOW_BITS] }
    }

    /// Counts a value.
    pub(super) fn add(&mut self, value: f32) {
        let bits = magnitude(value);
        match self.within {
            None => self.bins[(bits >> LOW_BITS) as usize] += 1,
            Some(high) if bits >> LOW_BITS == high => self.bins[(bits & ((1 << LOW_BITS) - 1)) as usize] += 1,
            Some(_) => {}
        }
    }

    /// Takes over the counts of another piece.
    pub(super) fn merge(&mut self, other: &Self) {
        self.bins.iter_mut().zip(&other.bins).for_each(|(a, b)| *a += b);
    }

    /// The bin of the k-th largest (k from 1), and which one of its bin it is.
    fn find(&self, k: u64) -> (u32, u64) {
        let mut left = k;
        for (bin, &n) in self.bins.iter().enumerate().rev() {
            if left <= n {
                return (bin as u32, left);
            }
            left -= n;
        }
        (0, left)
    }
}

/// The bits of the k-th largest magnitude (k from 1). `count` goes through all values with the counts it is given.
pub(super) fn kth_largest<E>(k: u64, mut count: impl FnMut(&Counts) -> Result<Counts, E>) -> Result<u32, E> {
    let (high, k) = count(&Counts::high())?.find(k);
    let (low, _) = count(&Counts::low(high))?.find(k);
    Ok(high << LOW_BITS | low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_sorted_list() {
        let mut values: Vec<f32> = (0..5000).map(|i| ((i * 7919 % 5003) as f32 * 0.013).sin() * 1e-3).collect();
        values.extend([0.0, -0.0, 1e-40, -3.0, 3.0, 3.0, f32::MAX]);
        let mut sorted: Vec<u32> = values.iter().map(|&v| magnitude(v)).collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        for k in [1, 2, 3, 4, 5, 6, 100, 2500, 5006, 5007] {
            let found = kth_largest(k, |counts| -> Result<_, ()> {
                // In two pieces.
                let mut parts = [counts.clone(), counts.clone()];
                values.iter().enumerate().for_each(|(i, &v)| parts[i % 2].add(v));
                let [mut all, other] = parts;
                all.merge(&other);
                Ok(all)
            });
            assert_eq!(found.unwrap(), sorted[k as usize - 1], "k = {k}");
        }
    }
}
