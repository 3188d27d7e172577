//! Properties T6 and T7 of specs `allo_hbat`, 1.11, on a tiny llama and real steps of every method.

use crate::bench::{named, rows, Bench, Reports, Run};
use llama_align::adapter::Lora;
use llama_align::data::Dataset;
use llama_align::mask::{hold, select, Band, Granularity, Hold, Mask, Order, Table};
use llama_align::optim::OptimizerKind;
use llama_align::train::{Method, TrainConfig, Trainer};
use quant::Type;

fn config(method: Method) -> TrainConfig {
    // Clipping cuts, and decay would move what is held if it could.
    let config =
        TrainConfig { method, learning_rate: 1e-2, max_grad_norm: 0.05, weight_decay: 0.1, ..TrainConfig::default() };
    TrainConfig { max_steps: 4, threads: 1, seed: 3, ..config }.resolve().unwrap()
}

fn train(bench: &Bench, config: &TrainConfig, data: &Dataset, lora: Lora, hold: Option<&Hold>) -> Run {
    let (mut engine, mut reports) = (bench.engine(lora), Reports::default());
    let mut trainer = Trainer::new(config, data, &mut engine, &mut reports).unwrap();
    if let Some(hold) = hold {
        trainer.hold(&engine, hold).unwrap();
    }
    trainer.run(&mut engine, &mut reports).unwrap();
    Run { reports: reports.take(), lora: engine.deltas().remove(0).lora }
}

/// Made of scores that have nothing to do with the model.
fn mask(lora: &Lora, granularity: Granularity, ratio: f64) -> Mask {
    let shapes = lora.shapes();
    let score = |i: usize| ((i * 7919 % 101) as f32 * 0.37).sin().abs();
    let values = shapes.iter().map(|s| (0..s.units(granularity)).map(score).collect()).collect();
    let scores = Table::new(granularity, shapes, values).unwrap();
    select(&scores, Order::Largest, Band::first(ratio)).unwrap()
}

/// B·A of a factor, in F64.
fn product(lora: &Lora, i: usize) -> Vec<f64> {
    let f = &lora.factors[i];
    let of = |row: usize, column: usize| -> f64 {
        (0..f.rank).map(|r| f64::from(f.b[row * f.rank + r]) * f64::from(f.a[r * f.n_in + column])).sum()
    };
    (0..f.n_out).flat_map(|row| (0..f.n_in).map(move |column| (row, column))).map(|(r, c)| of(r, c)).collect()
}

#[test]
fn what_is_masked_out_does_not_change_at_all() {
    let bench = Bench::open(Type::Q8_0);
    for method in [Method::Sft, Method::Dpo, Method::Kto, Method::Npo] {
        let data = rows(method);
        for (granularity, ratio) in [(Granularity::Row, 0.1), (Granularity::Column, 0.2), (Granularity::Tensor, 0.5)] {
            let mut start = bench.fresh(3);
            let mask = mask(&start, granularity, ratio);
            let hold = hold(&mask, &mut start).unwrap();
            let run = train(&bench, &config(method), &data, start.clone(), Some(&hold));
            for ((name, before), (_, after)) in named(&start).into_iter().zip(named(&run.lora)) {
                let free = hold.of(&name).unwrap();
                for i in (0..before.len()).filter(|&i| !free.get(i)) {
                    assert_eq!(before[i].to_bits(), after[i].to_bits(), "{method:?} {granularity:?} {name} {i}");
                }
            }
            let (mut moved, mut n) = (0, 0);
            for (i, tensor) in mask.tensors().iter().enumerate() {
                for (k, change) in product(&run.lora, i).into_iter().enumerate() {
                    let unit = match granularity {
                        Granularity::Row => k / tensor.shape.n_in,
                        Granularity::Column => k % tensor.shape.n_in,
                        _ => 0,
                    };
                    let is_free = tensor.bits.get(unit);
                    assert!(is_free || change == 0.0, "{method:?} {granularity:?} {}: weight {k}", tensor.shape.name);
                    (moved, n) = (moved + u32::from(change != 0.0), n + u32::from(is_free));
                }
            }
            assert!(n > 0 && moved * 10 > n * 9, "{method:?} {granularity:?}: {moved} of {n} free weights moved");
        }
    }
}

#[test]
fn a_mask_of_all_is_none_and_free_rows_begin_as_without_one() {
    let bench = Bench::open(Type::Q8_0);
    for method in [Method::Sft, Method::Dpo, Method::Kto, Method::Npo] {
        let data = rows(method);
        for optim in [OptimizerKind::AdamW, OptimizerKind::Sgd] {
            let config = TrainConfig { optim, ..config(method) };
            let plain = train(&bench, &config, &data, bench.fresh(3), None);
            let mut start = bench.fresh(3);
            let all = hold(&Mask::all(Granularity::Row, &start.shapes()), &mut start).unwrap();
            assert_eq!(all.n_free(), start.factors.iter().map(|f| (f.a.len() + f.b.len()) as u64).sum::<u64>());
            assert!(train(&bench, &config, &data, start, Some(&all)).bits() == plain.bits(), "{method:?} {optim:?}");
            // Gradients of the first step know nothing of the mask, and neither does the norm that they are clipped by.
            let one = TrainConfig { max_steps: 1, ..config };
            let plain = train(&bench, &one, &data, bench.fresh(3), None);
            let mut start = bench.fresh(3);
            let rows = hold(&mask(&start, Granularity::Row, 0.3), &mut start).unwrap();
            let masked = train(&bench, &one, &data, start, Some(&rows));
            assert_eq!(plain.reports[0].grad_norm, masked.reports[0].grad_norm);
            for ((name, plain), (_, masked)) in named(&plain.lora).into_iter().zip(named(&masked.lora)) {
                rows.of(&name).unwrap().runs().flatten().for_each(|i| assert_eq!(plain[i], masked[i], "{name} {i}"));
            }
        }
    }
}

#[test]
fn a_mask_for_other_tensors_is_refused() {
    let bench = Bench::open(Type::F32);
    let data = rows(Method::Dpo);
    let mut part = bench.fresh(3);
    part.factors.truncate(3);
    let hold = hold(&Mask::all(Granularity::Row, &part.shapes()), &mut part).unwrap();
    let mut engine = bench.engine(bench.fresh(3));
    let mut trainer = Trainer::new(&config(Method::Dpo), &data, &mut engine, &mut Reports::default()).unwrap();
    let error = trainer.hold(&engine, &hold).unwrap_err().to_string();
    assert!(error.contains("mask") && error.contains("lora_a"), "{error}");
}
