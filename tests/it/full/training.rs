//! T6 and T7 of specs `allo_hbat`, 1.11, with masks of single weights, on real steps.

use crate::bench::{rows, Bench, Reports};
use llama_align::adapter::{Change, Linear};
use llama_align::engine::{Engine, Form};
use llama_align::mask::{hold_changes, select, Band, Granularity, Hold, Mask, Moved, Order};
use llama_align::train::{DeltaKind, Method, StepReport, TrainConfig, Trainer};
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
    for method in [Method::Sft, Method::Dpo, Method::Kto] {
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
