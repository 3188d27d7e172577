//! The order of an epoch.

use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Which draw this is: no other use of the same seed sees these random numbers.
const PURPOSE: &[u8; 16] = b"data order/epoch";

/// A permutation of `0..n`, uniform over all of them and the same on every machine: Fisher-Yates over ChaCha8, keyed by
/// seed, purpose and epoch. 0 is an ordinary seed. An epoch's order does not depend on the epochs before it, so a run
/// can be taken up anywhere.
pub fn order(n: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16..].copy_from_slice(PURPOSE);
    let mut rng = ChaCha8Rng::from_seed(key);
    let mut order: Vec<u32> = (0..n).collect();
    for last in (1..n).rev() {
        let pick = below(&mut rng, last + 1);
        order.swap(last as usize, pick as usize);
    }
    order
}

/// Uniform in `0..bound`, by rejecting the remainder of the 32-bit range that `bound` does not divide.
pub(crate) fn below(rng: &mut impl Rng, bound: u32) -> u32 {
    let reject_from = u32::MAX - (u32::MAX % bound + 1) % bound;
    loop {
        let draw = rng.next_u32();
        if draw <= reject_from {
            return draw % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_permutation_and_depends_on_seed_and_epoch() {
        let first = order(1000, 0, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..1000));
        assert_eq!(first, order(1000, 0, 0));
        assert_ne!(first, order(1000, 1, 0));
        assert_ne!(first, order(1000, 0, 1));
        assert_ne!(first, sorted);
        assert!(order(0, 0, 0).is_empty());
        assert_eq!(order(1, 9, 9), [0]);
    }

    #[test]
    fn the_order_never_changes_between_versions() {
        assert_eq!(order(10, 42, 3), [6, 5, 2, 9, 4, 1, 7, 0, 8, 3]);
    }

    #[test]
    fn every_permutation_of_three_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(order(3, seed, 0)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Expected 1000 each, standard deviation 29.
        assert!(counts.values().all(|&n| (870..1130).contains(&n)), "{counts:?}");
    }

    #[test]
    fn draws_stay_below_their_bound() {
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        for bound in [1, 2, 3, 7, 1 << 31, (1 << 31) + 1, u32::MAX] {
            assert!((0..100).all(|_| below(&mut rng, bound) < bound));
        }
    }
}
