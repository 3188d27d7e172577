//! Scores of gradients against sums that are formed here, from one pass of an engine for every step: masks hold what these sums
//! are largest of. Those of factors follow from the weights' own: at B = 0, dB = s·G·Aᵀ.

use super::program::{done, refused, workshop};
use llama_align::adapter::{Change, Linear, Lora};
use llama_align::data::{order, read_all, Dataset, EncodeOptions, Sequence};
use llama_align::engine::{Engine, Form};
use llama_align::mask::{Granularity, Mask};
use llama_align::runtime::{Model, Runtime};
use llama_align::trace::trace;
use llama_align::train::{Method, Policy, TrainConfig};
use std::path::Path;
use std::sync::Arc;

const NEURONS: [&str; 15] = [
    "neurons",
    "-m",
    "m.gguf",
    "-d",
    "pairs.jsonl",
    "-t",
    "1",
    "--config",
    "warm.toml",
    "--max-steps",
    "3",
    "--overwrite",
    "-o",
    "mask.gguf",
    "--ratio",
];
/// Rows of a step: the last of the three steps has two.
const PER_STEP: usize = 3;

/// Gradients G of whole weights, \[n_in, n_out\] of every weight, at the model itself: of every step of one pass over the pairs.
fn gradients(dir: &Path) -> (Vec<Linear>, Vec<Vec<Vec<f32>>>) {
    let model = Model::open(&Runtime::linked().unwrap(), &dir.join("m.gguf")).unwrap();
    let trace = Arc::new(trace(&model).unwrap());
    let rows = Method::Dpo.rows(read_all(&dir.join("pairs.jsonl")).unwrap()).unwrap();
    let options = EncodeOptions { max_length: model.n_ctx_train().min(1024), ..EncodeOptions::default() };
    let data = Dataset::encode(&rows, model.as_ref(), model.template().unwrap().as_ref(), &options).unwrap();
    let linears = Linear::all(&trace);
    let zero = linears.iter().map(Change::zero).collect();
    let mut engine = Engine::with_changes(&model, &trace, Vec::new(), zero, 1, Form::Training).unwrap();
    let all = order(data.samples.len() as u32, TrainConfig::default().seed, 0);
    let mut steps = Vec::new();
    for rows in all.chunks(PER_STEP) {
        let sequences: Vec<&Sequence> = rows.iter().flat_map(|&r| data.samples[r as usize].sequences()).collect();
        engine.zero_gradients();
        Engine::forward(&mut engine, &sequences).unwrap();
        // −ln σ(βΔ) at Δ = 0: half of β for every token, over the pairs of the step.
        let slope = |k: usize| [-0.05, 0.05][k % 2] / rows.len() as f32;
        let slopes: Vec<Vec<f32>> = sequences.iter().enumerate().map(|(k, s)| vec![slope(k); s.n_scored()]).collect();
        Engine::backward(&mut engine, &slopes).unwrap();
        steps.push((0..linears.len()).map(|i| Policy::gradient(&engine, i).to_vec()).collect());
    }
    (linears, steps)
}

/// Sums over the steps of |g|, or g², of the parts of every weight that `parts` makes of a gradient.
fn sums(steps: &[Vec<Vec<f32>>], power: i32, parts: &dyn Fn(usize, &[f32]) -> Vec<f64>) -> Vec<Vec<f64>> {
    let n = steps[0].len();
    let of = |i: usize| {
        let mut sum: Vec<f64> = Vec::new();
        for step in steps {
            let parts = parts(i, &step[i]);
            sum.resize(parts.len(), 0.0);
            sum.iter_mut().zip(parts).for_each(|(s, g)| *s += g.abs().powi(power));
        }
        sum
    };
    (0..n).map(of).collect()
}

/// Whether a mask holds what has the highest scores, a rounding apart.
fn holds(mask: &Mask, linears: &[Linear], scores: &[Vec<f64>]) -> bool {
    let (mut lowest, mut highest) = (f64::INFINITY, 0.0f64);
    for (linear, scores) in linears.iter().zip(scores) {
        let tensor = mask.tensor(&linear.name);
        assert!(tensor.is_none_or(|t| t.bits.len() == scores.len()), "{}", linear.name);
        for (i, &score) in scores.iter().enumerate() {
            match tensor.is_some_and(|t| t.bits.get(i)) {
                true => lowest = lowest.min(score),
                false => highest = highest.max(score),
            }
        }
    }
    lowest >= highest * (1.0 - 1e-3)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn masks_of_gradients_hold_what_their_sums_are_largest_of() {
    let shop = workshop();
    let dir = shop.path();
    std::fs::write(dir.join("warm.toml"), "batch_size = 3\ngrad_accum = 1\nprecision = \"f32\"\n").unwrap();
    let (linears, steps) = gradients(dir);
    assert_eq!(steps.len(), 3);
    let made = |ratio: &str, flags: &[&str]| {
        done(dir, &[&NEURONS[..], &[ratio], flags].concat());
        Mask::read(&dir.join("mask.gguf")).unwrap()
    };
    let singly = |_: usize, g: &[f32]| g.iter().map(|&g| f64::from(g)).collect::<Vec<_>>();
    let lora = Lora::init(&linears, 16, 32.0, TrainConfig::default().seed);
    // s·G·Aᵀ of every row of B, as its norm.
    let seen = |i: usize, g: &[f32]| {
        let factor = &lora.factors[i];
        let dot = |row: &[f32], a: &[f32]| row.iter().zip(a).map(|(g, a)| f64::from(g * a)).sum::<f64>();
        let of = |row: &[f32]| norm(factor.a.chunks(factor.n_in).map(|a| 2.0 * dot(row, a)));
        g.chunks(factor.n_in).map(of).collect::<Vec<_>>()
    };
    for (score, power) in [("gradient", 1), ("gradient2", 2)] {
        let flags = |more: &[&'static str]| [&["--score", score][..], more].concat();
        let whole = made("0.02", &flags(&["--delta", "full"]));
        let of_weights = sums(&steps, power, &singly);
        assert_eq!((whole.granularity(), whole.count()), (Granularity::Weight, whole.n() / 50));
        assert!(holds(&whole, &linears, &of_weights), "{score}: weights");
        // What cancels over the steps would be another choice, and so are the other power's sums.
        let other = sums(&steps, 3 - power, &singly);
        assert!(!holds(&whole, &linears, &other), "{score}: the powers are not told apart");
        let rows = made("0.1", &flags(&["--delta", "full", "--granularity", "row"]));
        let pooled: Vec<Vec<f64>> = linears
            .iter()
            .zip(&of_weights)
            .map(|(l, sums)| sums.chunks(l.n_in).map(|row| norm(row.iter().copied())).collect())
            .collect();
        assert!(holds(&rows, &linears, &pooled), "{score}: rows of whole weights");
        let factors = made("0.1", &flags(&[]));
        let by_factors = sums(&steps, power, &seen);
        assert_eq!((factors.granularity(), factors.count()), (Granularity::Row, factors.n() / 10));
        assert!(holds(&factors, &linears, &by_factors), "{score}: rows of factors");
        assert!(!holds(&rows, &linears, &by_factors) && factors.provenance["score"].starts_with("rows of B: sum of"));
        // Of these rows the better half, by what their own gradients say.
        std::fs::rename(dir.join("mask.gguf"), dir.join("rows.gguf")).unwrap();
        let within = ["--delta", "rows", "--mask", "rows.gguf"];
        let fewer = made("0.05", &[&flags(&[])[..], &within].concat());
        assert!(fewer.is_within(&factors).unwrap() && fewer.count() > 10);
        let (mut own, mut lacking) = (pooled.clone(), 0);
        for (linear, scores) in linears.iter().zip(&mut own) {
            let bits = factors.tensor(&linear.name).map(|t| t.bits.clone());
            for (row, score) in scores.iter_mut().enumerate() {
                if !bits.as_ref().is_some_and(|bits| bits.get(row)) {
                    (*score, lacking) = (0.0, lacking + 1);
                }
            }
        }
        assert!(lacking > 0 && holds(&fewer, &linears, &own), "{score}: rows among rows");
        refused(dir, &[&NEURONS[..], &["0.5"], &flags(&[]), &within].concat(), 2, &["--ratio", "rows.gguf"]);
    }
    let weights = ["0.1", "--score", "gradient", "--granularity", "weight"];
    refused(dir, &[&NEURONS[..], &weights].concat(), 2, &["--granularity weight", "--delta full"]);
    let columns = ["0.1", "--score", "gradient", "--granularity", "column"];
    refused(dir, &[&NEURONS[..], &columns].concat(), 2, &["--granularity column", "B is 0"]);
    refused(dir, &[&NEURONS[..], &["0.1", "--mask", "rows.gguf"]].concat(), 2, &["--delta rows"]);
    // A warm-up of the rows moves them, too.
    let moved = made("0.05", &["--delta", "rows", "--mask", "rows.gguf"]);
    assert!(moved.is_within(&Mask::read(&dir.join("rows.gguf")).unwrap()).unwrap());
}
