//! Golden vectors G1 and G2 of specs `allo_hbat`, 1.12, and the properties T1 to T5.

use super::super::{pool, select_as_released, Granularity, Shape, Table};
use super::*;

fn table(tensors: &[&[f32]]) -> Table {
    let shape = |(i, v): (usize, &&[f32])| Shape { name: format!("blk.{i}.w"), n_in: v.len(), n_out: 1 };
    let shapes = tensors.iter().enumerate().map(shape).collect();
    Table::new(Granularity::Weight, shapes, tensors.iter().map(|t| t.to_vec()).collect()).unwrap()
}

fn places(mask: &Mask) -> Vec<(usize, usize)> {
    let of = |(i, t): (usize, &TensorMask)| t.bits.runs().flatten().map(move |k| (i, k)).collect::<Vec<_>>();
    mask.tensors().iter().enumerate().flat_map(of).collect()
}

/// Scores with many ties, zeros and subnormals.
fn uneven() -> Table {
    let value = |i: usize| match i % 7 {
        0 => 0.0,
        1 => 0.25,
        2 => 1e-40,
        _ => ((i * 7919 % 5003) as f32 * 0.013).sin().abs() * 1e-3,
    };
    let all: Vec<f32> = (0..1003).map(value).collect();
    table(&[&all[..400], &all[400..401], &all[401..]])
}

#[test]
fn g1_three_of_ten() {
    let scores = table(&[&[0.1, 0.5, 0.3, 0.05], &[0.2, 0.4, 0.45, 0.0, 0.01, 0.6]]);
    let wanted = [(0, 1), (1, 2), (1, 5)];
    assert_eq!(places(&select(&scores, Order::Largest, Band::first(0.3)).unwrap()), wanted);
    assert_eq!(places(&select_as_released(&scores, 0.3).unwrap()), wanted);
}

const G2: [&[f32]; 2] =
    [&[9.0, 8.0, 7.0, 6.0, 5.0], &[4.0, 3.5, 3.0, 2.5, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0]];

#[test]
fn g2_four_are_wanted_and_the_release_takes_seven() {
    let scores = table(&G2);
    let clean = select(&scores, Order::Largest, Band::first(0.2)).unwrap();
    assert_eq!(places(&clean), [(0, 0), (0, 1), (0, 2), (0, 3)]);
    let released = select_as_released(&scores, 0.2).unwrap();
    assert_eq!(places(&released), [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1)]);
}

/// T1, T5 and the rule for ties: the ranks of a sorted list.
#[test]
fn a_band_holds_the_ranks_of_the_sorted_list() {
    let scores = uneven();
    let flat: Vec<(usize, usize, f32)> = (0..3)
        .flat_map(|i| scores.values(i).iter().enumerate().map(move |(k, &v)| (i, k, v)).collect::<Vec<_>>())
        .collect();
    for order in [Order::Largest, Order::Smallest] {
        let mut sorted = flat.clone();
        sorted.sort_by(|a, b| match order {
            Order::Largest => b.2.total_cmp(&a.2),
            Order::Smallest => a.2.total_cmp(&b.2),
        });
        for (from, to) in [(0.0, 0.05), (0.0, 0.5), (0.05, 0.1), (0.1, 0.7), (0.3, 0.3), (0.9, 1.0), (0.0, 1.0)] {
            let (low, high) = (count(1003, from) as usize, count(1003, to) as usize);
            let mut wanted: Vec<_> = sorted[low..high].iter().map(|(i, k, _)| (*i, *k)).collect();
            wanted.sort_unstable();
            assert_eq!(places(&select(&scores, order, Band { from, to }).unwrap()), wanted, "{order:?} {from} {to}");
        }
    }
}

/// T3 and T4.
#[test]
fn masks_are_nested_and_the_scale_of_scores_does_not_matter() {
    let scores = uneven();
    let mask = |scores: &Table, r| select(scores, Order::Largest, Band::first(r)).unwrap();
    let doubled: Vec<Vec<f32>> = (0..3).map(|i| scores.values(i).iter().map(|v| v * 2.0).collect()).collect();
    let doubled = table(&doubled.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut last = mask(&scores, 0.0);
    assert_eq!(last.count(), 0);
    for r in [0.01, 0.05, 0.3, 0.9, 1.0] {
        let next = mask(&scores, r);
        assert!(last.is_within(&next).unwrap() && !next.is_within(&last).unwrap(), "{r}");
        assert_eq!(next.count(), count(1003, r));
        assert_eq!(places(&mask(&doubled, r)), places(&next));
        last = next;
    }
}

#[test]
fn shares_are_decimals() {
    assert_eq!([count(100, 0.29), count(1003, 0.05), count(10, 0.3), count(7, 1.0)], [29, 50, 3, 7]);
}

#[test]
fn what_is_no_score_or_no_share_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let error = select(&table(&[&[1.0, bad]]), Order::Largest, Band::first(0.5)).unwrap_err();
        assert!(error.kind() == Kind::Numeric && error.to_string().contains("blk.0.w"), "{error}");
    }
    for (from, to) in [(-0.1, 0.5), (0.5, 0.4), (0.0, 1.1), (f64::NAN, 0.5)] {
        assert_eq!(select(&uneven(), Order::Largest, Band { from, to }).unwrap_err().kind(), Kind::Argument);
    }
}

#[test]
fn rows_and_columns_are_ranked_by_their_norms_and_tensors_by_their_means() {
    let shapes = vec![Shape { name: "w".into(), n_in: 3, n_out: 2 }];
    let scores = Table::new(Granularity::Weight, shapes, vec![vec![3.0, 0.0, 4.0, 4.0, 0.0, 3.0]]).unwrap();
    let pooled = |granularity| pool(&scores, granularity).unwrap().values(0).to_vec();
    assert_eq!(pooled(Granularity::Row), [5.0, 5.0]);
    assert_eq!(pooled(Granularity::Column), [5.0, 0.0, 5.0]);
    assert_eq!(pooled(Granularity::Tensor), [14.0 / 6.0]);
    let mask = select(&pool(&scores, Granularity::Column).unwrap(), Order::Largest, Band::first(0.4)).unwrap();
    assert_eq!((places(&mask), mask.n_weights()), (vec![(0, 0)], 2));
}
