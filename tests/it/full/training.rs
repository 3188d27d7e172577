//! T6 and T7 of specs `allo_hbat`, 1.11, with masks of single weights, on real steps.

use crate::bench::{rows, Bench, Reports};
use llama_align::adapter::{Change, Linear, RowChange};
use llama_align::engine::{Engine, Form};
use llama_align::mask::{hold_changes, hold_rows, pool, rows_of, select, Band, Granularity, Hold, Mask, Moved, Order};
use llama_align::train::{DeltaKind, Method, Policy, StepReport, TrainConfig, Trainer};
use quant::Type;

fn config(method: Method) -> TrainConfig {
    let config = TrainConfig {
        method,
        delta: DeltaKind::Full,
        weight_decay: 0.1,
        max_grad_norm: 0.05,
        ..TrainConfig::default()
    };
    TrainConfig { max_steps: 3, threads: 1, seed: 3, learning_rate: 1e-3, ..config }.resolve().unwrap()
}

fn zeros(bench: &Bench) -> Vec<Change> {
    Linear::all(bench.trace()).iter().map(Change::zero).collect()
}

fn train(bench: &Bench, config: &TrainConfig, hold: Option<&Hold>) -> (Vec<StepReport>, Vec<Change>) {
    let (data, mut reports) = (rows(config.method), Reports::default());
    let (deltas, changes) = (Vec::new(), zeros(bench));
    let mut engine = Engine::with_changes(bench.model(), bench.trace(), deltas, changes, 1, Form::Training).unwrap();
    let mut trainer = Trainer::new(config, &data, &mut engine, &mut reports).unwrap();
    if let Some(hold) = hold {
        trainer.hold(&engine, hold).unwrap();
    }
    trainer.run(&mut engine, &mut reports).unwrap();
    (reports.take(), engine.changes())
}

#[test]
fn single_weights_are_held_and_a_mask_of_all_is_none() {
    let bench = Bench::open(Type::Q8_0);
    for method in [Method::Sft, Method::Dpo, Method::Kto, Method::Npo] {
        let config = config(method);
        let (reports, warm) = train(&bench, &config, None);
        if method == Method::Dpo {
            // The reference is the policy of step zero to the bit.
            assert_eq!(reports[0].metrics["rewards/margins"], 0.0);
        }
        assert!(reports[2].loss < reports[0].loss, "{method:?} does not learn");
        let shapes: Vec<_> = llama_align::mask::Scores::shapes(&Moved::new(&warm)).to_vec();
        let all = hold_changes(&Mask::all(Granularity::Row, &shapes), &zeros(&bench)).unwrap();
        let (again, same) = train(&bench, &config, Some(&all));
        let losses = |r: &[StepReport]| r.iter().map(|r| r.loss.to_bits()).collect::<Vec<_>>();
        assert!(same == warm && losses(&again) == losses(&reports), "{method:?}: a mask of all is not none");
        let mask = select(&Moved::new(&warm), Order::Largest, Band::first(0.05)).unwrap();
        let (_, masked) = train(&bench, &config, Some(&hold_changes(&mask, &zeros(&bench)).unwrap()));
        let mut moved = 0;
        for (tensor, change) in mask.tensors().iter().zip(&masked) {
            for (i, value) in change.values.iter().enumerate() {
                assert!(tensor.bits.get(i) || value.to_bits() == 0, "{method:?} {} weight {i}", change.weight);
                moved += u64::from(*value != 0.0);
            }
        }
        assert!(moved * 10 > mask.count() * 9, "{method:?}: {moved} of {} moved", mask.count());
    }
}

fn train_rows(
    bench: &Bench,
    config: &TrainConfig,
    rows: &[RowChange],
    holds: bool,
) -> (Vec<StepReport>, Vec<RowChange>) {
    let (data, mut reports) = (crate::bench::rows(config.method), Reports::default());
    let mut engine = Engine::with_rows(bench.model(), bench.trace(), rows, 1, Form::Training).unwrap();
    let mut trainer = Trainer::new(config, &data, &mut engine, &mut reports).unwrap();
    if holds {
        trainer.hold(&engine, &hold_rows(rows)).unwrap();
    }
    trainer.run(&mut engine, &mut reports).unwrap();
    let lora = Policy::adapter(&engine).unwrap();
    // B still says where the rows belong, to the bit: what is none of them has no change.
    let found = lora.factors.iter().map(|f| RowChange::of_factor(f).expect("one-hot")).collect();
    (reports.take(), found)
}

/// The same of rows that alone have parameters: what they leave out is no part of the change; all of them are whole weights without
/// a mask; and what is clipped is the norm of their own gradients.
#[test]
fn rows_that_move_are_a_masked_run_of_whole_weights() {
    let bench = Bench::open(Type::Q8_0);
    for method in [Method::Sft, Method::Dpo, Method::Kto, Method::Npo] {
        // Every step sees all rows, so that losses compare.
        let config = TrainConfig { batch_size: 12, grad_accum: 1, ..config(method) };
        let (reports, warm) = train(&bench, &config, None);
        let mask =
            select(&pool(&Moved::new(&warm), Granularity::Row).unwrap(), Order::Largest, Band::first(0.1)).unwrap();
        let linears = Linear::all(bench.trace());
        let some = rows_of(&mask, &linears).unwrap();
        let (of_some, moved) = train_rows(&bench, &config, &some, true);
        assert!(of_some[2].loss < of_some[0].loss, "{method:?} does not learn");
        assert_eq!(moved.iter().map(|c| c.rows.len() as u64).sum::<u64>(), mask.count());
        for (change, start) in moved.iter().zip(&some) {
            assert_eq!((&change.weight, &change.rows), (&start.weight, &start.rows), "{method:?}");
            let still = change.values.chunks(change.n_in).filter(|row| row.iter().all(|&v| v == 0.0)).count();
            assert!(still * 10 <= change.rows.len(), "{method:?} {}: {still} rows did not move", change.weight);
            let whole = change.to_change();
            let bits = &mask.tensor(&change.weight).unwrap().bits;
            for (row, values) in whole.values.chunks(change.n_in).enumerate().filter(|(row, _)| !bits.get(*row)) {
                assert!(values.iter().all(|v| v.to_bits() == 0), "{method:?} {} row {row}", change.weight);
            }
        }
        // All of them: what holds them holds nothing, and they are whole weights.
        let shapes: Vec<_> = llama_align::mask::Scores::shapes(&Moved::new(&warm)).to_vec();
        let all = rows_of(&Mask::all(Granularity::Row, &shapes), &linears).unwrap();
        let (held, free) = (train_rows(&bench, &config, &all, true), train_rows(&bench, &config, &all, false));
        assert!(held.1 == free.1, "{method:?}: a mask of all is not none");
        for (rows, whole) in held.0.iter().zip(&reports) {
            assert!((rows.loss / whole.loss - 1.0).abs() < 1e-4, "{method:?}: {} {}", rows.loss, whole.loss);
        }
        assert!((held.0[0].grad_norm / reports[0].grad_norm - 1.0).abs() < 1e-4, "{method:?}");
        // Where others are held back, whole weights are clipped by the norm of all gradients, rows by that of their own.
        let (deltas, zero) = (Vec::new(), zeros(&bench));
        let mut engine = Engine::with_changes(bench.model(), bench.trace(), deltas, zero, 1, Form::Training).unwrap();
        let data = crate::bench::rows(method);
        let mut trainer = Trainer::new(&config, &data, &mut engine, &mut Reports::default()).unwrap();
        trainer.accumulate(&mut engine, 0).unwrap();
        let square = |values: &[f32]| values.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
        let own: f64 = (0..warm.len())
            .map(|i| {
                let bits = &mask.tensor(&warm[i].weight).unwrap().bits;
                let rows = Policy::gradient(&engine, i).chunks(warm[i].n_in).enumerate();
                rows.filter(|(row, _)| bits.get(*row)).map(|(_, g)| square(g)).sum::<f64>()
            })
            .sum();
        let norm = of_some[0].grad_norm;
        assert!((norm / own.sqrt() - 1.0).abs() < 1e-4, "{method:?}: {norm} {}", own.sqrt());
        assert!(norm < 0.95 * reports[0].grad_norm, "{method:?}: {norm} of {}", reports[0].grad_norm);
    }
}

#[test]
fn rows_and_columns_of_whole_weights_are_their_weights() {
    let bench = Bench::open(Type::F32);
    let changes = zeros(&bench);
    let moved = Moved::new(&changes);
    let shapes = llama_align::mask::Scores::shapes(&moved).to_vec();
    for granularity in [Granularity::Row, Granularity::Column, Granularity::Tensor] {
        let all = Mask::all(granularity, &shapes);
        let random = all.random_like(1);
        let first = |t: &llama_align::mask::TensorMask| t.weights(granularity);
        let n: usize = random.tensors().iter().map(|t| first(t).count()).sum();
        assert_eq!(n as u64, random.n_weights());
        let half = Mask::new(
            granularity,
            all.tensors()
                .iter()
                .map(|t| {
                    let mut bits = llama_align::mask::Bits::none(t.bits.len());
                    (0..t.bits.len()).step_by(2).for_each(|i| bits.set(i));
                    llama_align::mask::TensorMask { shape: t.shape.clone(), bits }
                })
                .collect(),
        );
        for tensor in half.tensors() {
            let weights = tensor.weights(granularity);
            for k in 0..weights.len() {
                let unit = match granularity {
                    Granularity::Row => k / tensor.shape.n_in,
                    Granularity::Column => k % tensor.shape.n_in,
                    _ => 0,
                };
                assert_eq!(weights.get(k), unit % 2 == 0, "{granularity:?} {k}");
            }
        }
    }
}
