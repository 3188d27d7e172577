use super::*;
use crate::data::{Dataset, Report};

/// Log-probs of two rows: of each, two answers under the policy and the reference, and weights, 0 and other numbers among them.
type Answer = ([f32; 4], [f32; 4], [f32; 4]);
const ROWS: [[Answer; 2]; 2] = [
    [
        ([-1.5, -0.25, -3.0, -0.75], [-1.75, -0.5, -2.0, -1.0], [0.5, 0.0, 2.0, 1.0]),
        ([-2.0, -4.5, -0.125, -1.0], [-2.5, -3.0, -0.25, -0.5], [1.0, 0.25, 0.0, 0.0]),
    ],
    [
        ([-0.5, -2.25, -1.0, -1.25], [-0.5, -2.0, -1.5, -1.25], [1.0, 1.0, 0.5, 0.75]),
        ([-3.0, -0.5, -1.5, -2.0], [-2.75, -1.0, -1.5, -1.0], [0.0, 2.0, 0.5, 0.5]),
    ],
];

fn weights() -> TokenWeights {
    let data = Dataset { samples: pairs(), report: Report::default() };
    TokenWeights::from_fn(&data, |row, k, _| ROWS[row][k].2.to_vec())
}

fn sequence() -> Sequence {
    Sequence::new(vec![1, 2, 3, 4, 5, 6], 2)
}

fn pairs() -> Vec<Sample> {
    (1..3).map(|line| Sample::pair(line, sequence(), sequence())).collect()
}

fn references() -> References {
    let mut numbers = Vec::new();
    for (row, answers) in ROWS.iter().enumerate() {
        numbers.extend([row as f64, 2.0]);
        for (_, reference, _) in answers {
            numbers.push(4.0);
            numbers.extend(reference.iter().map(|&l| f64::from(l)));
        }
        numbers.push(0.0);
    }
    References::from_numbers(&numbers).unwrap()
}

/// What a row costs and its slopes, found; `policy` are its sequences' log-probs.
fn found(config: &TrainConfig, samples: &[Sample], row: usize, policy: &[Vec<f32>]) -> (f64, Vec<Vec<f32>>) {
    let (references, weights) = (references(), weights());
    let units = count_units(samples, &[0, 1], &weights, 0.4);
    let logps = RowLogps { row, policy, references: &references, weights: &weights };
    let mut tally = Tally::default();
    let slopes = row_loss(config, &samples[row], &logps, &units, &mut tally).unwrap();
    (tally.loss, slopes)
}

/// Σ w·l of an answer, the same of its reference, and the number of its tokens that count.
fn sums(row: usize, k: usize, logps: &[f64]) -> (f64, f64, f64) {
    let (_, reference, weights) = &ROWS[row][k];
    let of = |l: &dyn Fn(usize) -> f64| (0..4).map(|t| f64::from(weights[t]) * l(t)).sum::<f64>();
    let n = weights.iter().filter(|w| **w != 0.0).count() as f64;
    (of(&|t| logps[t]), of(&|t| f64::from(reference[t])), n)
}

/// A loss of a pair from the log-probs of its tokens.
type Twin = fn([(f64, f64, f64); 2]) -> f64;

fn softplus(x: f64) -> f64 {
    (1.0 + x.exp()).ln()
}

/// Every loss on weighted answers as its paper has it, with sums Σ w·l in the place of sums and the tokens that count in the
/// place of lengths; slopes by central differences of every token.
#[test]
fn losses_of_weighted_answers_are_those_of_their_formulas() {
    let cases: [(&str, f64, Twin); 7] = [
        ("sigmoid", 0.0, |[(w, rw, _), (l, rl, _)]| softplus(-0.1 * (w - rw - l + rl))),
        ("ipo", 0.0, |[(w, rw, n), (l, rl, m)]| ((w - rw) / n - (l - rl) / m - 1.0 / 0.2).powi(2)),
        ("simpo", 0.0, |[(w, _, n), (l, _, m)]| softplus(-(2.0 * (w / n - l / m) - 0.5))),
        ("cpo", 0.0, |[(w, _, n), (l, ..)]| softplus(-0.1 * (w - l)) - w / n),
        ("orpo", 0.0, |[(w, _, n), (l, _, m)]| {
            let odds = |mean: f64| (mean.exp() / (1.0 - mean.exp())).ln();
            0.1 * softplus(-(odds(w / n) - odds(l / m))) - w / n
        }),
        ("sigmoid", 0.3, |[(w, rw, n), (l, rl, _)]| softplus(-0.1 * (w - rw - l + rl)) - 0.3 * w / n),
        ("sigmoid_norm", 0.0, |[(w, rw, n), (l, rl, m)]| softplus(-0.1 * ((w - rw) / n - (l - rl) / m))),
    ];
    for (loss_type, sft_weight, twin) in cases {
        let config =
            TrainConfig { loss_type: loss_type.into(), sft_weight, simpo_gamma: 0.5, ..TrainConfig::default() };
        let config = config.resolve().unwrap();
        for (row, answers) in ROWS.iter().enumerate() {
            let policy = [0, 1].map(|k| answers[k].0.to_vec());
            let wide: Vec<Vec<f64>> = policy.iter().map(|l| l.iter().map(|&l| f64::from(l)).collect()).collect();
            let value = |wide: &[Vec<f64>]| twin([0, 1].map(|k| sums(row, k, &wide[k]))) / 2.0;
            compare(loss_type, found(&config, &pairs(), row, &policy), &wide, &value);
        }
    }
}

/// The same of KTO, both labels, with a baseline of 0.4 and weights of the labels.
#[test]
fn kto_of_weighted_answers_is_its_formula() {
    let config = TrainConfig { method: Method::Kto, desirable_weight: 1.5, ..TrainConfig::default() };
    let config = config.resolve().unwrap();
    for desirable in [true, false] {
        let sample = |line| Sample::Labelled { line, sequence: sequence(), desirable };
        for (row, answers) in ROWS.iter().enumerate() {
            let policy = [answers[0].0.to_vec()];
            let wide = [policy[0].iter().map(|&l| f64::from(l)).collect::<Vec<_>>()];
            let value = |wide: &[Vec<f64>]| {
                let (s, r, _) = sums(row, 0, &wide[0]);
                let z = 0.1 * (s - r - 0.4);
                let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
                (if desirable { 1.5 * (1.0 - sigma(z)) } else { 1.0 - sigma(-z) }) / 2.0
            };
            compare("kto", found(&config, &[sample(1), sample(2)], row, &policy), &wide, &value);
        }
    }
}

fn compare(name: &str, found: (f64, Vec<Vec<f32>>), at: &[Vec<f64>], value: &dyn Fn(&[Vec<f64>]) -> f64) {
    let wanted = value(at);
    assert!((found.0 - wanted).abs() < 1e-12 * wanted.abs().max(1.0), "{name}: {} {wanted}", found.0);
    for k in 0..at.len() {
        for t in 0..4 {
            let moved = |by: f64| {
                let mut moved = at.to_vec();
                moved[k][t] += by;
                value(&moved)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let own = f64::from(found.1[k][t]);
            assert!((own - slope).abs() < 1e-7 * slope.abs().max(1.0), "{name}: answer {k} token {t}: {own} {slope}");
        }
    }
}

/// T15 and T16 of specs `allo_hbat`, 1.11, through the loss that trains: dropped rejected tokens have no slope at all, kept ones all
/// the same, chosen ones its opposite; and which are kept is the answer's own affair, whatever stands before it or beside it.
#[test]
fn a_share_of_the_rejected_tokens_is_chosen_by_the_answer_alone() {
    let long = |n: usize| Sequence::new((0..n as i32 + 4).collect(), n);
    let config = TrainConfig { rejected_share: 0.5, ..TrainConfig::default() }.resolve().unwrap();
    let (references, none) = (references(), TokenWeights::default());
    let mut seen: Vec<Vec<Vec<u32>>> = Vec::new();
    // Prompts of 2 and of 29 tokens, alone and beside an answer of another length.
    for (prompt, beside) in [(2, false), (29, false), (2, true), (29, true)] {
        let mut samples = vec![Sample::pair(1, long(prompt), long(prompt))];
        if beside {
            samples.push(Sample::pair(2, Sequence::new(vec![1; 80], 3), long(40)));
        }
        let units = count_units(&samples, &[0], &none, 0.0);
        let policy = [0, 1].map(|k| ROWS[0][k].0.to_vec());
        let logps = RowLogps { row: 0, policy: &policy, references: &references, weights: &none };
        let slopes = row_loss(&config, &samples[0], &logps, &units, &mut Tally::default()).unwrap();
        // Rejected log-ratios: 0.5, −1.5, 0.125, −0.5.
        let (kept, dropped) = (slopes[1][1], [slopes[1][0], slopes[1][2]]);
        assert!(kept > 0.0 && slopes[1][3] == kept, "{slopes:?}");
        assert_eq!(dropped.map(f32::to_bits), [0, 0], "{slopes:?}");
        assert!(slopes[0].iter().all(|&s| s == -kept), "{slopes:?}");
        seen.push(slopes.iter().map(|s| s.iter().map(|x| x.to_bits()).collect()).collect());
    }
    assert!(seen.iter().all(|slopes| *slopes == seen[0]));
}
