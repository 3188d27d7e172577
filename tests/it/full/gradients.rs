//! D = s·B·A is the adapter's update itself: log-probs are the adapter's, and by the chain rule the adapter's gradients are
//! dB = s·dD·Aᵀ and dA = s·Bᵀ·dD. The adapter's are held against the oracle elsewhere.

use crate::bench::{rows, Bench, ALPHA};
use llama_align::adapter::{Change, Factor, Lora};
use llama_align::data::Sequence;
use llama_align::engine::{Engine, Form};
use llama_align::train::Method;
use quant::Type;

/// Over the norm; F32 sums in other orders leave 1e-6.
const LIMIT: f64 = 2e-5;

fn change(factor: &Factor, scale: f64) -> Change {
    let Factor { weight, rank, n_in, n_out, a, b, .. } = factor;
    let of = |k: usize| {
        let (row, column) = (k / n_in, k % n_in);
        (0..*rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * n_in + column])).sum::<f64>() * scale
    };
    let values = (0..n_in * n_out).map(|k| of(k) as f32).collect();
    Change { weight: weight.clone(), n_in: *n_in, n_out: *n_out, values }
}

fn apart(found: &[f64], wanted: &[f32]) -> f64 {
    let norm: f64 = wanted.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    let off: f64 = found.iter().zip(wanted).map(|(f, &w)| (f - f64::from(w)).powi(2)).sum::<f64>().sqrt();
    assert!(found.len() == wanted.len() && norm > 0.0);
    off / norm
}

/// dB and dA from dD.
fn chained(factor: &Factor, gradient: &[f32], scale: f64) -> [Vec<f64>; 2] {
    let Factor { rank, n_in, n_out, a, b, .. } = factor;
    let (mut da, mut db) = (vec![0.0; n_in * rank], vec![0.0; n_out * rank]);
    for row in 0..*n_out {
        for column in 0..*n_in {
            let g = scale * f64::from(gradient[row * n_in + column]);
            for r in 0..*rank {
                db[row * rank + r] += g * f64::from(a[r * n_in + column]);
                da[r * n_in + column] += g * f64::from(b[row * rank + r]);
            }
        }
    }
    [da, db]
}

fn holds(weights: Type, form: Form, limit: f64) {
    let bench = Bench::open(weights);
    let lora: Lora = bench.warm(5);
    let scale = f64::from(ALPHA) / lora.factors[0].rank as f64;
    let changes: Vec<Change> = lora.factors.iter().map(|f| change(f, scale)).collect();
    let data = rows(Method::Dpo);
    let batch: Vec<&Sequence> = data.samples.iter().flat_map(|s| s.sequences()).collect();
    let mut with_factors = bench.engine_in(lora.clone(), form);
    let mut whole = Engine::with_changes(bench.model(), bench.trace(), Vec::new(), changes.clone(), 1, form).unwrap();
    assert_eq!(whole.changes(), changes);
    let (wanted, found) = (with_factors.forward(&batch).unwrap(), whole.forward(&batch).unwrap());
    let found_64: Vec<f64> = found.concat().iter().map(|&f| f64::from(f)).collect();
    assert!(apart(&found_64, &wanted.concat()) < limit, "{form:?}: log-probs");
    let slopes: Vec<Vec<f32>> =
        found.iter().enumerate().map(|(i, l)| (0..l.len()).map(|k| ((i * 7 + k * 3) as f32).sin()).collect()).collect();
    with_factors.zero_gradients();
    whole.zero_gradients();
    with_factors.backward(&slopes).unwrap();
    whole.backward(&slopes).unwrap();
    for (i, factor) in lora.factors.iter().enumerate() {
        let (name, _) = whole.parameter_info(i);
        assert_eq!(name, format!("{}.change", factor.weight));
        let [da, db] = chained(factor, whole.gradient(i), scale);
        for (half, found) in [(0, da), (1, db)] {
            let off = apart(&found, with_factors.gradient(2 * i + half));
            assert!(off < limit, "{form:?} {} {half}: {off:e}", factor.weight);
        }
    }
}

#[test]
fn a_whole_change_is_its_factors_and_so_are_its_gradients() {
    holds(Type::F32, Form::Training, LIMIT);
    holds(Type::Q8_0, Form::Training, LIMIT);
    holds(Type::Q8_0, Form::TrainingOps, LIMIT);
    // Factors and their product are rounded to 8 bits at different places.
    holds(Type::Q8_0, Form::TrainingBf16, 2e-2);
}

#[test]
fn without_a_change_the_model_is_the_base_to_the_bit() {
    let bench = Bench::open(Type::Q8_0);
    let zero = |f: &Factor| Change { values: vec![0.0; f.n_in * f.n_out], ..change(f, 0.0) };
    let changes = bench.fresh(1).factors.iter().map(zero).collect();
    let data = rows(Method::Dpo);
    let batch: Vec<&Sequence> = data.samples.iter().flat_map(|s| s.sequences()).collect();
    let mut base = Engine::new(bench.model(), bench.trace(), Vec::new(), 1).unwrap();
    let mut whole = Engine::with_changes(bench.model(), bench.trace(), Vec::new(), changes, 1, Form::Training).unwrap();
    assert_eq!(base.log_probs(&batch).unwrap(), whole.log_probs(&batch).unwrap());
}

#[test]
fn a_change_that_does_not_fit_is_refused_by_name() {
    let bench = Bench::open(Type::F32);
    let fits = change(&bench.fresh(1).factors[0], 1.0);
    for bad in [
        vec![Change { weight: "blk.9.attn_q.weight".into(), ..fits.clone() }],
        vec![Change { n_in: fits.n_in / 2, ..fits.clone() }],
        vec![Change { values: vec![0.0; 3], ..fits.clone() }],
        vec![fits.clone(), fits.clone()],
    ] {
        let name = bad[0].weight.clone();
        let found = Engine::with_changes(bench.model(), bench.trace(), Vec::new(), bad, 1, Form::Training);
        assert!(found.unwrap_err().to_string().contains(&name));
    }
}
