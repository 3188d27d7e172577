//! Models on devices: the flags that choose them, values read out of a decode, and, where there is a GPU, training on it
//! beside the CPU.

#![allow(clippy::print_stdout)] // what was measured on a GPU is shown

use crate::bench::{rows, Bench};
use crate::models::{open, runtime};
use crate::tiny::find;
use llama_align::check::check;
use llama_align::data::{Dataset, Sample, Sequence};
use llama_align::engine::{where_it_ran, BlockValues, Delta, Engine, Form, Layout};
use llama_align::error::{Kind, Result};
use llama_align::runtime::{observe, Device, Model, Offload, Runtime, Tally};
use llama_align::trace::trace;
use llama_align::train::{Method, Observer, Precision, StepReport, TrainConfig, Trainer};
use quant::Type;
use std::sync::Arc;

/// What a device may differ by from the CPU, by weight type: log-probs of a batch and each gradient (the norm of the difference
/// over the CPU's norm), and the loss of any of ten DPO steps (absolute). A device may round the operands of a product to 16
/// bits, and where weights are quantised either side may round activations to 8.
const BOUNDS: [(Type, f64, f64, f64); 5] = [
    (Type::F32, 2e-3, 5e-3, 0.01),
    (Type::F16, 2e-3, 5e-3, 0.01),
    (Type::Q8_0, 2e-2, 5e-2, 0.02),
    (Type::Q4_1, 2e-2, 5e-2, 0.02),
    (Type::Q4_0, 2e-2, 5e-2, 0.02),
];
/// Longest row. Products whose sides are all longer go to shaders that Mesa's software driver compiles for minutes (25.0) or does
/// not survive (22.3).
const N_TOKENS_MAX: usize = 64;

#[test]
fn are_refused_by_name() {
    let gpus = runtime().devices().iter().filter(|d| d.is_gpu()).count();
    let refused = |names: Option<&str>, n: Option<u32>| Offload::parse(&runtime(), names, n).unwrap_err();
    let error = refused(Some("nowhere7"), None);
    assert_eq!(error.kind(), Kind::Argument);
    assert!(
        error.to_string().contains("--device nowhere7") && error.to_string().contains("this runtime has"),
        "{error}"
    );
    assert!(refused(Some(" ,"), None).to_string().contains("no name given"));
    assert!(refused(Some("none"), Some(3)).to_string().contains("-ngl 3"));
    assert_eq!(Offload::parse(&runtime(), None, Some(3)).is_ok(), gpus > 0);
    for (names, n) in [(None, None), (Some("none"), None), (Some("none"), Some(0)), (None, Some(0))] {
        assert!(Offload::parse(&runtime(), names, n).unwrap().devices.is_empty());
    }
    assert!(runtime().devices().iter().any(|d| d.name == "CPU" && !d.is_gpu()), "the CPU is a device, but no GPU");
}

/// What the check of a device rests on, where bits must be equal: each block from the decode's own values gives the next one's.
#[test]
fn are_checked_by_values_that_the_decode_left() {
    for name in ["llama-untied", "gemma2", "phi3"] {
        let opened = open(&find(name), Type::Q8_0).unwrap();
        let trace = Arc::new(trace(&opened.model).unwrap());
        let tokens: Vec<i32> = (0..21).map(|i| (i * 37 + 5) % opened.model.n_vocab() as i32).collect();
        let mut engine = Engine::with_form(&opened.model, &trace, Vec::new(), 1, Form::Runtime).unwrap();
        let results = engine.block_results();
        let value_name = |id| trace.program.get(id).name.clone();
        let observed = observe(&opened.model, &tokens, results.iter().map(|&id| value_name(id)).collect(), 1).unwrap();
        let expected: BlockValues = results.iter().map(|&id| (id, observed.values[&value_name(id)].clone())).collect();
        let found = engine.block_values(&Layout::bare(&tokens), Some(&expected)).unwrap();
        for (id, values) in &expected {
            assert!(found[id] == *values && values.iter().any(|&v| v != 0.0), "{name}: {}", value_name(*id));
        }
        let (sequence, n_vocab) = (Sequence::new(tokens, 1), opened.model.n_vocab());
        let mut seen = 0;
        let mut compare = |_: usize, place: usize, logits: &[f32]| {
            assert!(logits == &observed.logits[(place - 1) * n_vocab..place * n_vocab], "{name}: logits at {place}");
            seen += 1;
        };
        engine.visit_kept_logits(&[&sequence], &mut compare).unwrap();
        assert_eq!(seen, 20);
        // A block that starts from something else ends in something else.
        let mut wrong = expected.clone();
        wrong.get_mut(&results[0]).unwrap().iter_mut().for_each(|v| *v += 0.1);
        let found = engine.block_values(&Layout::bare(&sequence.tokens), Some(&wrong)).unwrap();
        assert!(found[&results[1]] != expected[&results[1]]);
    }
}

/// The runtime that `LLAMA_ALIGN_TEST_RUNTIME` names, a library or its directory, or the one that is built in.
fn chosen() -> Arc<Runtime> {
    match std::env::var("LLAMA_ALIGN_TEST_RUNTIME") {
        #[cfg(feature = "loaded")]
        Ok(path) => Runtime::from_library(std::path::Path::new(&path)).unwrap(),
        _ => runtime(),
    }
}

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.0.push(report.loss);
        Ok(true)
    }
}

fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = found.iter().zip(wanted).map(|(f, w)| square(f - w)).sum();
    (apart / wanted.iter().map(|&w| square(w)).sum::<f64>().max(f64::MIN_POSITIVE)).sqrt()
}

/// Log-probs and gradients of two sequences, the losses of ten steps, and where all of it ran.
struct Run {
    log_probs: Vec<f32>,
    gradients: Vec<(String, Vec<f32>)>,
    losses: Vec<f64>,
    tally: Option<Tally>,
}

fn pairs() -> Dataset {
    let mut data = rows(Method::Dpo);
    data.samples.retain(|sample| match sample {
        Sample::Pair { chosen, rejected, .. } => chosen.tokens.len().max(rejected.tokens.len()) <= N_TOKENS_MAX,
        _ => false,
    });
    assert!(data.samples.len() > 8);
    data
}

fn run(bench: &Bench, model: &Arc<Model>) -> Run {
    let (trace, on_device) = (Arc::new(trace(model).unwrap()), !model.devices().is_empty());
    let form = if on_device { Precision::Auto } else { Precision::F32 }.form_for(model).unwrap();
    assert_eq!(form, if on_device { Form::TrainingOps } else { Form::Training });
    let report = check(model, &trace, 1, form).unwrap();
    assert!(report.ok && report.runtime_form.blocks.is_some() == on_device, "{report:?}");
    let delta = Delta { lora: bench.warm(5), scale: 1.0, trainable: true };
    let mut engine = Engine::with_form(model, &trace, vec![delta], 1, form).unwrap();
    let mut log_probs = Vec::new();
    for (n, salt) in [(37, 3), (61, 11)] {
        let tokens = (0..n).map(|i| (i * 31 + salt) % model.n_vocab() as i32).collect();
        let found = engine.forward(&[&Sequence::new(tokens, n as usize / 3)]).unwrap();
        let weights: Vec<f32> = (0..found[0].len()).map(|i| 0.2 + 0.01 * i as f32).collect();
        engine.backward(&[weights]).unwrap();
        log_probs.extend_from_slice(&found[0]);
    }
    let info = |i: usize| (engine.parameter_info(i).0.to_owned(), engine.gradient(i).to_vec());
    let gradients = engine.trainable().into_iter().map(info).collect();
    let config = TrainConfig {
        method: Method::Dpo,
        batch_size: 4,
        grad_accum: 1,
        learning_rate: 2e-3,
        max_steps: 10,
        threads: 1,
        precision: Precision::F32,
        ..TrainConfig::default()
    };
    engine.zero_gradients();
    let mut losses = Losses::default();
    let (config, data) = (config.resolve().unwrap(), pairs());
    let mut trainer = Trainer::new(&config, &data, &mut engine, &mut losses).unwrap();
    trainer.run(&mut engine, &mut losses).unwrap();
    Run { log_probs, gradients, losses: losses.0, tally: engine.tally().cloned() }
}

/// Trains on a device and on the CPU, and compares; prints what differs and what the device left to the CPU.
fn compare(runtime: &Arc<Runtime>, ty: Type, offload: &Offload, [log_probs, gradients, losses]: [f64; 3]) {
    let bench = Bench::on(runtime, ty);
    let model = Model::open_on(runtime, &bench.model_path(), offload).unwrap();
    let (device, cpu) = (run(&bench, &model), run(&bench, bench.model()));
    let of_log_probs = distance(&device.log_probs, &cpu.log_probs);
    let all =
        device.gradients.iter().zip(&cpu.gradients).map(|(found, wanted)| (distance(&found.1, &wanted.1), &found.0));
    let (of_gradients, place) = all.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    let of_losses = device.losses.iter().zip(&cpu.losses).map(|(d, c)| (d - c).abs()).fold(0.0, f64::max);
    let blocks = offload.n_gpu_layers.map_or("all".to_owned(), |n| n.to_string());
    println!(
        "{}, {blocks} blocks: log-probs {of_log_probs:.1e} of {log_probs:.0e}, gradients {of_gradients:.1e} of {gradients:.0e} \
         ({place}), losses {of_losses:.1e} of {losses:.0e}, {:.3} to {:.3}",
        ty.name(),
        device.losses[0],
        device.losses[9]
    );
    let tally = device.tally.unwrap();
    where_it_ran(model.devices(), &tally).iter().for_each(|line| println!("  {line}"));
    assert!(of_log_probs <= log_probs, "log-probs: {of_log_probs:e}");
    assert!(of_gradients <= gradients, "{place}: {of_gradients:e}");
    assert!(of_losses <= losses, "{:?} {:?}", device.losses, cpu.losses);
    assert!(device.losses[9] < 0.9 * device.losses[0], "{:?}", device.losses);
    let (on_device, back): (u64, u64) = (tally.device.values().sum(), tally.fallen_back.values().sum());
    match offload.n_gpu_layers {
        None => assert!(on_device > 20 * back, "{tally:?}"),
        // The blocks before the last ones have their weights on the CPU.
        Some(_) => assert!(on_device > 0 && tally.beside.contains_key("MUL_MAT"), "{tally:?}"),
    }
}

/// Every type of [`BOUNDS`], or the one that `LLAMA_ALIGN_TEST_TYPE` names; `q8_0:2` moves two of its layers only, the last block
/// and the output.
#[test]
#[ignore = "needs a GPU: tests/hosts/run.sh"]
fn compute_what_the_cpu_computes() {
    let runtime = chosen();
    let devices: Vec<Device> = runtime.devices().into_iter().filter(Device::is_gpu).take(1).collect();
    assert_eq!(devices.len(), 1, "no GPU in {:?}", runtime.devices());
    println!("ggml {}, {}: {}", runtime.version(), devices[0].name, devices[0].description);
    let wanted = std::env::var("LLAMA_ALIGN_TEST_TYPE").ok();
    let (name, n_gpu_layers) = match wanted.as_deref().and_then(|w| w.split_once(':')) {
        Some((name, n)) => (Some(name), Some(n.parse().unwrap())),
        None => (wanted.as_deref(), None),
    };
    let chosen = BOUNDS.iter().filter(|(ty, ..)| name.is_none_or(|name| ty.name() == name));
    let mut n = 0;
    for &(ty, log_probs, gradients, losses) in chosen {
        let offload = Offload { devices: devices.clone(), n_gpu_layers };
        compare(&runtime, ty, &offload, [log_probs, gradients, losses]);
        n += 1;
    }
    assert!(n > 0, "{wanted:?} is no type with bounds");
}
