//! What a run must keep to, whatever its rows: splitting, the reference, repetition, limits, numbers that are none.

use crate::bench::{named, norm, rows, Bench, Reports};
use llama_align::data::{Dataset, Sample, Sequence};
use llama_align::engine::{Engine, Layout};
use llama_align::error::{Kind, Result};
use llama_align::evaluate::between;
use llama_align::optim::OptimizerKind;
use llama_align::train::{Method, Observer, Policy, StepReport, TrainConfig, Trainer};
use quant::Type;

const METHODS: [Method; 3] = [Method::Sft, Method::Dpo, Method::Kto];

fn config(method: Method, batch_size: usize, grad_accum: usize) -> TrainConfig {
    let config = TrainConfig {
        method,
        batch_size,
        grad_accum,
        learning_rate: 2e-3,
        seed: 5,
        threads: 1,
        ..TrainConfig::default()
    };
    TrainConfig { max_steps: 4, ..config }.resolve().unwrap()
}

/// Sums are formed in another order, and AdamW's first steps are as long for a small gradient as for a large one; measured
/// over all methods: losses 1e-7, factors 3e-7 of their norm.
#[test]
fn packed_rows_make_the_step_that_they_make_alone() {
    let bench = Bench::open(Type::F32);
    let data = rows(Method::Sft);
    let n = data.samples.len();
    let alone = TrainConfig { max_steps: 2, ..config(Method::Sft, n, 1) };
    let packed = TrainConfig { packing: true, max_length: 256, ..alone.clone() };
    let packs = packed.packs(&data.samples);
    assert!(packs.len() < n && packs.iter().any(|rows| rows.len() > 1), "{packs:?}");
    let [alone, together] = [alone, packed.clone()].map(|config| bench.train(&config, &data, bench.warm(5)));
    for (a, b) in alone.reports.iter().zip(&together.reports) {
        assert!((a.loss / b.loss - 1.0).abs() <= 1e-6, "step {}: losses {} and {}", a.step, a.loss, b.loss);
        assert_eq!((a.step, a.epoch, a.num_tokens), (b.step, b.epoch, b.num_tokens));
    }
    // An epoch has as many steps as there are packs, and sees every row once.
    let epoch = TrainConfig { max_steps: 0, epochs: 1.0, batch_size: 1, grad_accum: 1, ..packed };
    let run = bench.train(&epoch, &data, bench.warm(5));
    let tokens: usize = data.samples.iter().flat_map(|s| s.sequences().map(|q| q.tokens.len())).sum();
    assert_eq!((run.reports.len(), run.reports[packs.len() - 1].num_tokens), (packs.len(), tokens));
}

/// Two steps stand for the run: what is counted is what the run will take on the axis, and nothing but those two was run.
#[test]
fn a_forecast_counts_what_the_run_will_take() {
    let bench = Bench::open(Type::Q8_0);
    for method in METHODS {
        let (data, held_out) = (rows(method), rows(method));
        let once: usize = data.samples.iter().map(|s| Layout::padded(s.sequences())).sum();
        let config = TrainConfig { epochs: 2.0, max_steps: 0, eval_steps: 3, eval_split: 0.5, ..config(method, 1, 1) }
            .resolve()
            .unwrap();
        let mut engine = bench.engine(bench.warm(5));
        let found = Trainer::forecast(&config, &data, Some(&held_out), &mut engine).unwrap();
        let n_steps = 2 * data.samples.len();
        let passes = if method == Method::Kto { 2 } else { 1 };
        let reference = if method == Method::Sft { 0 } else { once * passes };
        let measured = once * passes * (1 + n_steps.div_ceil(3));
        assert_eq!((found.n_steps, found.step_tokens, found.forward_tokens), (n_steps, 2 * once, reference + measured));
        let parts =
            2.0 * once as f64 / found.step_tokens_per_s + (reference + measured) as f64 / found.forward_tokens_per_s;
        assert!((found.seconds / parts - 1.0).abs() < 1e-9 && found.seconds > 0.0, "{found:?}");
        assert!(found.peak_rss_bytes as usize > engine.peak_bytes(), "{found:?}");

        let bare = Trainer::forecast(&TrainConfig { eval_steps: 0, ..config }, &data, None, &mut engine).unwrap();
        assert_eq!((bare.forward_tokens, bare.step_tokens), (reference, 2 * once));
        assert_eq!(bare.forward_tokens_per_s == 0.0, method == Method::Sft);
    }
}

#[test]
fn splitting_a_step_changes_nothing_but_rounding() {
    let bench = Bench::open(Type::F32);
    for method in METHODS {
        let data = rows(method);
        let [whole, halves, singles] =
            [(8, 1), (2, 4), (1, 8)].map(|(b, g)| bench.train(&config(method, b, g), &data, bench.warm(5)));
        for split in [halves, singles] {
            for (a, b) in whole.reports.iter().zip(&split.reports) {
                let apart = (a.loss / b.loss - 1.0).abs();
                assert!(apart <= 1e-6, "{method:?}, step {}: losses {} and {}", a.step, a.loss, b.loss);
                assert_eq!((a.step, a.epoch, a.num_tokens), (b.step, b.epoch, b.num_tokens));
            }
            for ((name, a), (_, b)) in named(&whole.lora).into_iter().zip(named(&split.lora)) {
                let apart = norm(a, b) / norm(a, &vec![0.0; a.len()]);
                assert!(apart <= 1e-6, "{method:?}, {name}: {apart:.1e} of its norm apart");
            }
        }
    }
}

/// The reference pass goes through the rows in the file's order, a step in its own: other neighbours on the packed axis,
/// other lengths of it. Log-ratios are compared with 0 exactly, on weights as they are used.
#[test]
fn the_reference_is_the_policy_of_step_zero_to_the_bit() {
    for weights in [Type::F32, Type::Q8_0, Type::Q4_0] {
        let bench = Bench::open(weights);
        for (batch_size, grad_accum, micro_batch_tokens) in [(1, 8, 1024), (8, 1, 1024), (3, 2, 256), (8, 1, 64)] {
            for method in [Method::Dpo, Method::Kto] {
                let config = TrainConfig { micro_batch_tokens, ..config(method, batch_size, grad_accum) };
                let (data, mut engine) = (rows(method), bench.engine(bench.warm(5)));
                let first = Trainer::new(&config, &data, &mut engine, &mut Reports::default())
                    .unwrap()
                    .step(&mut engine, 0)
                    .unwrap();
                let what = format!("{} {method:?} {batch_size}x{grad_accum}, {micro_batch_tokens}", weights.name());
                for key in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "kl"] {
                    assert_eq!(first.metrics.get(key).copied().unwrap_or(0.0), 0.0, "{what}: {key}");
                }
                let wanted = if method == Method::Dpo { std::f64::consts::LN_2 } else { 0.5 };
                // The mean is a sum of at most 8 terms, each rounded.
                assert!((first.loss - wanted).abs() <= 8.0 * f64::EPSILON, "{what}: loss {}", first.loss);
                assert!(first.grad_norm > 1e-3, "{what}: nothing to learn");
            }
        }
    }
}

/// With SGD a step is the gradient times the rate: under LoRA+ A moves as at its rate, and B as at four times that.
#[test]
fn lora_plus_is_another_rate_for_b() {
    let bench = Bench::open(Type::F32);
    let run = |learning_rate, loraplus_lr_ratio| {
        let base = config(Method::Dpo, 4, 2);
        let sgd = TrainConfig { optim: OptimizerKind::Sgd, warmup_ratio: 0.0, max_steps: 1, ..base };
        bench.train(&TrainConfig { learning_rate, loraplus_lr_ratio, ..sgd }, &rows(Method::Dpo), bench.warm(5)).lora
    };
    let (plus, slow, fast) = (run(0.25, 4.0), run(0.25, 1.0), run(1.0, 1.0));
    for ((plus, slow), fast) in plus.factors.iter().zip(&slow.factors).zip(&fast.factors) {
        assert!(plus.a == slow.a && plus.b == fast.b && slow.b != fast.b, "{}", plus.weight);
    }
}

#[test]
fn equal_seeds_give_equal_bits_and_others_do_not() {
    let bench = Bench::open(Type::Q8_0);
    for method in METHODS {
        let data = rows(method);
        let bits = |seed| bench.train(&TrainConfig { seed, ..config(method, 4, 2) }, &data, bench.fresh(seed)).bits();
        let (first, again, other) = (bits(5), bits(5), bits(6));
        assert!(first == again, "{method:?}: two runs differ");
        assert!(first.0 != other.0 && first.1 != other.1, "{method:?}: the seed changes nothing");
        // The order alone, from the same factors.
        let ordered = |seed| bench.train(&TrainConfig { seed, ..config(method, 4, 2) }, &data, bench.fresh(5)).bits();
        assert!(ordered(6) != first, "{method:?}: the seed does not change the order");
    }
}

/// All tokens are scored by moving the boundary to the front; of these log-probs the loss may use the answer's only.
#[test]
fn prompt_tokens_have_no_loss() {
    let bench = Bench::open(Type::F32);
    let data = rows(Method::Sft);
    let config = config(Method::Sft, 12, 1);
    let mut engine = bench.engine(bench.warm(5));
    let (mut prompts, mut answers) = (Vec::new(), Vec::new());
    for sequence in data.samples.iter().flat_map(Sample::sequences) {
        let all = Sequence { prompt_len: 1, ..sequence.clone() };
        let logps = engine.log_probs(&[&all]).unwrap().remove(0);
        let (prompt, answer) = logps.split_at(sequence.prompt_len - 1);
        prompts.extend(prompt.iter().map(|&l| f64::from(l)));
        answers.extend(answer.iter().map(|&l| f64::from(l)));
    }
    let found =
        Trainer::new(&config, &data, &mut engine, &mut Reports::default()).unwrap().step(&mut engine, 0).unwrap().loss;
    let wanted = -answers.iter().sum::<f64>() / answers.len() as f64;
    assert!((found / wanted - 1.0).abs() < 1e-12, "{found}, expected {wanted}");
    let with_prompts = wanted * answers.len() as f64 - prompts.iter().sum::<f64>();
    let with_prompts = with_prompts / (answers.len() + prompts.len()) as f64;
    assert!((found - with_prompts).abs() > 1e-3, "the rows cannot tell the two apart");
}

/// A policy whose log-probs are its one parameter, and which spoils a value at one call of `forward` or `backward`.
#[derive(Default)]
struct Stub {
    value: [f32; 1],
    gradient: [f32; 1],
    n_forward: usize,
    n_backward: usize,
    spoil_forward: Option<(usize, f32)>,
    spoil_backward: Option<(usize, f32)>,
}

impl Policy for Stub {
    fn log_probs(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        Ok(sequences.iter().map(|s| vec![self.value[0]; s.tokens.len() - s.prompt_len]).collect())
    }

    fn forward(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        self.n_forward += 1;
        let mut logps = self.log_probs(sequences)?;
        if let Some((_, value)) = self.spoil_forward.filter(|(n, _)| *n == self.n_forward) {
            logps[0][0] = value;
        }
        Ok(logps)
    }

    fn backward(&mut self, gradients: &[Vec<f32>]) -> Result<()> {
        self.n_backward += 1;
        self.gradient[0] += gradients.iter().flatten().sum::<f32>();
        if let Some((_, value)) = self.spoil_backward.filter(|(n, _)| *n == self.n_backward) {
            self.gradient[0] = value;
        }
        Ok(())
    }

    fn lengths(&self) -> Vec<usize> {
        vec![1]
    }

    fn tensor(&mut self, _: usize) -> (&mut [f32], &[f32]) {
        (&mut self.value, &self.gradient)
    }

    fn gradient(&self, _: usize) -> &[f32] {
        &self.gradient
    }

    fn zero_gradients(&mut self) {
        self.gradient = [0.0];
    }
}

/// Stops after some steps, and remembers the last one.
struct Until(usize, Option<StepReport>);

impl Observer for Until {
    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.1 = Some(report.clone());
        Ok(report.step < self.0)
    }
}

/// Steps that a run makes and the step that it expected to be its last.
fn n_steps(config: &TrainConfig, patience: usize) -> (usize, usize) {
    let data = rows(config.method);
    let mut until = Until(patience, None);
    let mut stub = Stub::default();
    Trainer::new(config, &data, &mut stub, &mut until).unwrap().run(&mut stub, &mut until).unwrap();
    let last = until.1.unwrap();
    assert_eq!(stub.n_backward, stub.n_forward);
    (last.step, last.n_steps)
}

#[test]
fn runs_end_by_max_steps_epochs_or_the_observer() {
    // 12 rows are an epoch of two steps: 8 rows, then 4.
    let by = |max_steps, epochs| TrainConfig { max_steps, epochs, ..config(Method::Sft, 4, 2) };
    assert_eq!(n_steps(&by(3, 100.0), 99), (3, 3));
    assert_eq!(n_steps(&by(7, 1.0), 99), (7, 7));
    assert_eq!(n_steps(&by(0, 1.0), 99), (2, 2));
    assert_eq!(n_steps(&by(0, 2.5), 99), (5, 5));
    assert_eq!(n_steps(&by(0, 0.1), 99), (1, 1));
    assert_eq!(n_steps(&by(7, 1.0), 2), (2, 7));
}

#[test]
fn every_row_comes_once_per_epoch() {
    let data = rows(Method::Sft);
    let config = TrainConfig { max_steps: 4, ..config(Method::Sft, 3, 2) };
    let mut stub = Stub::default();
    let mut trainer = Trainer::new(&config, &data, &mut stub, &mut Reports::default()).unwrap();
    let tokens: usize = data.samples.iter().flat_map(Sample::sequences).map(|s| s.tokens.len()).sum();
    let seen: Vec<_> = (0..4).map(|k| trainer.step(&mut stub, k).unwrap()).map(|r| (r.epoch, r.num_tokens)).collect();
    assert_eq!((seen[1], seen[3]), ((1.0, tokens), (2.0, 2 * tokens)));
}

/// The message of a run that a stub spoils, and whether the parameter is what it was before the spoiled step.
fn spoiled(method: Method, stub: Stub) -> (String, bool) {
    let (data, mut stub, config) = (rows(method), stub, config(method, 2, 4));
    let mut trainer = Trainer::new(&config, &data, &mut stub, &mut Reports::default()).unwrap();
    for step in 0..config.max_steps {
        let before = stub.value;
        if let Err(error) = trainer.step(&mut stub, step) {
            assert_eq!(error.kind(), Kind::Numeric);
            return (error.to_string(), stub.value == before);
        }
    }
    panic!("{method:?}: the spoiled step went through");
}

/// Lines of some rows of a step, as an error lists them.
fn lines(data: &Dataset, step: usize, part: std::ops::Range<usize>) -> String {
    let order = llama_align::data::order(data.samples.len() as u32, 5, 0);
    let lines: Vec<_> = order[step * 8..][part].iter().map(|&r| data.samples[r as usize].line().to_string()).collect();
    lines.join(", ")
}

#[test]
fn numbers_that_are_none_stop_the_run_with_step_and_rows() {
    for method in METHODS {
        let data = rows(method);
        for (value, what) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "inf")] {
            // A log-prob of -inf costs SFT infinity; DPO and KTO may find it worth a finite loss.
            if what == "inf" && method != Method::Sft {
                continue;
            }
            // The sixth micro-batch of two rows: the second of step 2.
            let (message, kept) = spoiled(method, Stub { spoil_forward: Some((6, value)), ..Stub::default() });
            let wanted = format!("step 2: the loss is {what}, rows of lines {}; ", lines(&data, 1, 2..4));
            assert!(message.starts_with(&wanted) && kept, "{method:?}: {message}");
        }
        let (message, kept) = spoiled(method, Stub { spoil_backward: Some((3, f32::INFINITY)), ..Stub::default() });
        let wanted = format!("step 1: the gradient's norm is inf, rows of lines {}; ", lines(&data, 0, 0..8));
        assert!(message.starts_with(&wanted) && kept, "{method:?}: {message}");
    }
}

/// KL and agreement by hand: softmax in f64 over logits of the whole row, at places on both sides of the windows' border.
#[test]
fn divergence_is_the_mean_over_tokens_of_the_whole_vocabulary() {
    let bench = Bench::open(Type::Q8_0);
    let n_vocab = bench.model().n_vocab();
    let tokens = (0..200).map(|i| ((i * 7919 + 13) % n_vocab) as i32).collect();
    let sequence = Sequence::new(tokens, 20);
    let mut base = Engine::new(bench.model(), bench.trace(), Vec::new(), 1).unwrap();
    let mut now = bench.engine(bench.warm(5));
    let found = between(&mut now, &mut base, &sequence).unwrap();
    let logits = |engine: &mut Engine| {
        let mut rows: Vec<Vec<f64>> = Vec::new();
        let mut take = |_: usize, _: usize, row: &[f32]| rows.push(row.iter().map(|&x| f64::from(x)).collect());
        engine.visit_logits(&[&sequence], &mut take).unwrap();
        rows
    };
    let (base, now) = (logits(&mut base), logits(&mut now));
    assert_eq!((base.len(), now.len()), (180, 180));
    let log_softmax = |row: &[f64]| {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x - sum.ln()).collect::<Vec<_>>()
    };
    let (mut kl, mut same) = (0.0, 0);
    for (p, q) in now.iter().zip(&base) {
        let (p, q) = (log_softmax(p), log_softmax(q));
        kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>() / 180.0;
        let best = |row: &[f64]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b]));
        same += usize::from(best(&p) == best(&q));
    }
    assert!(kl > 1e-4 && (found.kl - kl).abs() < 1e-4 * kl, "{} {kl}", found.kl);
    assert!((1..180).contains(&same) && (found.top1_agreement - same as f64 / 180.0).abs() < 1e-12, "{same}");
}
