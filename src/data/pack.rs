//! Short rows that share a budget of tokens.

use std::collections::BTreeMap;

/// Puts rows of these lengths into packs of at most `capacity` each: the longest rows first, each where the least room stays
/// (best-fit decreasing, TRL's `packing_strategy = "bfd"`). A longer row has a pack of its own. Rows keep their order within a
/// pack, and packs that of their first rows; equal lengths give equal packs.
pub fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&row| (std::cmp::Reverse(lengths[row]), row));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    // Packs by the room they have left; of equal ones the oldest is taken.
    let mut with_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for row in longest_first {
        let length = lengths[row];
        let (pack, room) = match with_room.range_mut(length..).next() {
            Some((&room, list)) => {
                let pack = list.remove(0);
                if list.is_empty() {
                    with_room.remove(&room);
                }
                (pack, room)
            }
            None => {
                packs.push(Vec::new());
                (packs.len() - 1, capacity.max(length))
            }
        };
        packs[pack].push(row);
        with_room.entry(room - length).or_default().push(pack);
    }
    packs.iter_mut().for_each(|rows| rows.sort_unstable());
    packs.sort_unstable();
    packs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_rows_fill_what_long_ones_leave() {
        assert_eq!(pack(&[3, 9, 1, 6, 4, 1], 10), [vec![0, 5], vec![1, 2], vec![3, 4]]);
        assert_eq!(pack(&[11, 2], 10), [vec![0], vec![1]]);
        assert!(pack(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_pack_that_holds_it(lengths in proptest::collection::vec(1usize..40, 0..200)) {
            let packs = pack(&lengths, 32);
            let mut rows: Vec<usize> = packs.iter().flatten().copied().collect();
            rows.sort_unstable();
            prop_assert!(rows.iter().copied().eq(0..lengths.len()));
            for rows in &packs {
                let total: usize = rows.iter().map(|&row| lengths[row]).sum();
                prop_assert!(total <= 32 || rows.len() == 1);
            }
            // Best fit never leaves two packs half empty.
            let half = |rows: &&Vec<usize>| rows.iter().map(|&row| lengths[row]).sum::<usize>() <= 16;
            prop_assert!(packs.iter().filter(half).count() <= 1);
        }
    }
}
