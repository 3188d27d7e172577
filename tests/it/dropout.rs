//! LoRA's dropout: one set of draws per step, whatever computes it; none where nothing is trained.

use crate::bench::{named, norm, rows, Bench, Reports};
use crate::random::Random;
use llama_align::adapter::Lora;
use llama_align::data::{Sample, Sequence};
use llama_align::engine::{Delta, Engine, Form};
use llama_align::train::{Method, TrainConfig, Trainer};
use quant::Type;

const RATE: f32 = 0.3;

fn engine(bench: &Bench, form: Form, dropout: f32) -> Engine {
    let delta = Delta { lora: bench.warm(5), scale: 1.0, trainable: true };
    Engine::with_dropout(bench.model(), bench.trace(), vec![delta], 1, form, dropout).unwrap()
}

/// Log-probs of a forward pass of a step.
fn forward(engine: &mut Engine, step: u64, sequences: &[&Sequence]) -> Vec<f32> {
    engine.set_step(5, step);
    engine.forward(sequences).unwrap().concat()
}

#[test]
fn a_step_has_one_set_of_draws_whatever_computes_it() {
    let (bench, data) = (Bench::open(Type::F32), rows(Method::Sft));
    let sequences: Vec<_> = data.samples.iter().flat_map(Sample::sequences).collect();
    let mut dropping = engine(&bench, Form::Training, RATE);
    let wanted = forward(&mut dropping, 2, &sequences);
    assert_eq!(forward(&mut dropping, 2, &sequences), wanted);
    let size = norm(&wanted, &vec![0.0; wanted.len()]);
    assert!(norm(&forward(&mut dropping, 3, &sequences), &wanted) > 0.01 * size, "another step");
    // Alone, in another order of operations, on another backend: the same draws.
    let alone: Vec<_> = sequences.iter().flat_map(|s| forward(&mut dropping, 2, &[s])).collect();
    assert!(norm(&alone, &wanted) < 1e-5 * size, "{:e}", norm(&alone, &wanted) / size);
    for (form, bound) in [(Form::TrainingOps, 1e-5), (Form::TrainingBf16, 0.02)] {
        let found = forward(&mut engine(&bench, form, RATE), 2, &sequences);
        assert!(norm(&found, &wanted) < bound * size, "{form:?}: {:e}", norm(&found, &wanted) / size);
    }
    // What is measured is the model as it will be used.
    let plain = engine(&bench, Form::Training, 0.0).log_probs(&sequences).unwrap();
    assert_eq!(dropping.log_probs(&sequences).unwrap(), plain);
    assert!(norm(&plain.concat(), &wanted) > 0.01 * size);
    assert!(engine(&bench, Form::Training, RATE).forward(&sequences).is_err(), "no step was begun");
}

/// Gradients of a weighted sum of log-probs against its difference along random directions, with recomputed and with kept
/// blocks: a mask that was another one on the way back would be off by its own size.
#[test]
fn gradients_go_through_what_was_kept() {
    let (bench, data) = (Bench::open(Type::F32), rows(Method::Sft));
    let sequences: Vec<_> = data.samples.iter().flat_map(Sample::sequences).take(3).collect();
    let mut engine = engine(&bench, Form::Training, RATE);
    let mut gradients = Vec::new();
    for recompute in [true, false] {
        engine.set_recompute(recompute);
        engine.zero_gradients();
        engine.set_step(5, 1);
        let ones: Vec<Vec<f32>> = engine.forward(&sequences).unwrap().iter().map(|l| vec![1.0; l.len()]).collect();
        engine.backward(&ones).unwrap();
        gradients.push(engine.trainable().iter().map(|&i| engine.gradient(i).to_vec()).collect::<Vec<_>>());
    }
    assert_eq!(gradients[0], gradients[1]);
    let size = gradients[0].iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    let mut random = Random::of("dropout");
    for _ in 0..4 {
        let direction: Vec<Vec<f32>> = gradients[0].iter().map(|g| random.vector(g.len(), 1.0)).collect();
        let length = direction.iter().flatten().map(|&d| f64::from(d).powi(2)).sum::<f64>().sqrt();
        let along = gradients[0].iter().flatten().zip(direction.iter().flatten());
        let wanted = along.map(|(&g, &d)| f64::from(g) * f64::from(d)).sum::<f64>() / length;
        let mut at = |h: f32| {
            for (i, d) in engine.trainable().into_iter().zip(&direction) {
                engine.parameter_mut(i).iter_mut().zip(d).for_each(|(p, d)| *p += h * d);
            }
            let sum: f64 = forward(&mut engine, 1, &sequences).iter().map(|&l| f64::from(l)).sum();
            for (i, d) in engine.trainable().into_iter().zip(&direction) {
                engine.parameter_mut(i).iter_mut().zip(d).for_each(|(p, d)| *p -= h * d);
            }
            sum
        };
        let h = 1e-4;
        let found = (at(h) - at(-h)) / (2.0 * f64::from(h) * length);
        // A random direction's derivative is the gradient's size over the root of the number of parameters.
        let scale = size / (direction.iter().map(Vec::len).sum::<usize>() as f64).sqrt();
        assert!((found - wanted).abs() < 0.05 * scale, "{found} instead of {wanted}, of size {scale}");
    }
}

fn train(bench: &Bench, config: &TrainConfig, method: Method) -> (Vec<f64>, Lora) {
    let mut engine = engine(bench, Form::Training, config.lora_dropout);
    let (data, mut reports) = (rows(method), Reports::default());
    let mut trainer = Trainer::new(config, &data, &mut engine, &mut reports).unwrap();
    let losses = (0..3).map(|step| trainer.step(&mut engine, step).unwrap().loss).collect();
    (losses, engine.deltas().remove(0).lora)
}

#[test]
fn splitting_a_step_drops_the_same() {
    let bench = Bench::open(Type::F32);
    for method in [Method::Sft, Method::Dpo] {
        let config = |batch_size, grad_accum, lora_dropout| {
            let base = TrainConfig { method, batch_size, grad_accum, lora_dropout, ..TrainConfig::default() };
            TrainConfig { max_steps: 3, learning_rate: 2e-3, seed: 5, threads: 1, ..base }.resolve().unwrap()
        };
        let (whole, singles) = (train(&bench, &config(8, 1, RATE), method), train(&bench, &config(1, 8, RATE), method));
        for (a, b) in whole.0.iter().zip(&singles.0) {
            assert!((a / b - 1.0).abs() <= 1e-6, "{method:?}: losses {a} and {b}");
        }
        for ((name, a), (_, b)) in named(&whole.1).into_iter().zip(named(&singles.1)) {
            let apart = norm(a, b) / norm(a, &vec![0.0; a.len()]);
            assert!(apart <= 1e-6, "{method:?}, {name}: {apart:.1e} of its norm apart");
        }
        assert_ne!(train(&bench, &config(8, 1, 0.0), method).0, whole.0);
    }
}
