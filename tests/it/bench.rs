//! A tiny llama with rows to train it on, and a run that is recorded.

use crate::tiny;
use llama_align::adapter::{Linear, Lora};
use llama_align::data::{Dataset, Report, Sample, Sequence};
use llama_align::engine::{Delta, Engine, Form};
use llama_align::error::Result;
use llama_align::runtime::{Model, Runtime};
use llama_align::trace::{trace, Trace};
use llama_align::train::{Method, Observer, StepReport, TrainConfig, Trainer};
use quant::Type;
use std::path::PathBuf;
use std::sync::Arc;

/// Rank and alpha of all runs.
const RANK: usize = 4;
pub(crate) const ALPHA: f32 = 8.0;
/// Rows of a data set: no multiple of the rows of a step, so that an epoch's last step is smaller.
pub(crate) const ROWS: usize = 12;

/// An open model. The file lives as long as this does.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
    model: Arc<Model>,
    trace: Arc<Trace>,
}

/// What a run left.
pub(crate) struct Run {
    pub(crate) reports: Vec<StepReport>,
    pub(crate) lora: Lora,
}

impl Bench {
    /// Grouped queries and an output matrix of its own; matrices of type `weights`.
    pub(crate) fn open(weights: Type) -> Self {
        Self::on(&Runtime::linked().unwrap(), weights)
    }

    /// The same on a given llama.cpp.
    pub(crate) fn on(runtime: &Arc<Runtime>, weights: Type) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        tiny::find("llama-untied").write(&path, weights).unwrap();
        let model = Model::open(runtime, &path).unwrap();
        let trace = Arc::new(trace(&model).unwrap());
        Self { directory, model, trace }
    }

    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub(crate) fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    pub(crate) fn model_path(&self) -> PathBuf {
        self.directory.path().join("model.gguf")
    }

    /// Fresh factors for every linear weight: B is zero.
    pub(crate) fn fresh(&self, seed: u64) -> Lora {
        Lora::init(&Linear::all(&self.trace), RANK, ALPHA, seed)
    }

    /// Factors as if trained before: B is not zero, so that A has a gradient from the first step on, and the reference is
    /// not the bare model.
    pub(crate) fn warm(&self, seed: u64) -> Lora {
        let mut lora = self.fresh(seed);
        for (i, factor) in lora.factors.iter_mut().enumerate() {
            let mut draw = Draw(i as u64);
            factor.b.iter_mut().for_each(|b| *b = (draw.below(2001) as f32 - 1000.0) / 10_000.0);
        }
        lora
    }

    /// One thread: tests run beside each other.
    pub(crate) fn engine(&self, lora: Lora) -> Engine {
        Engine::new(&self.model, &self.trace, vec![Delta { lora, scale: 1.0, trainable: true }], 1).unwrap()
    }

    /// The same in another form.
    pub(crate) fn engine_in(&self, lora: Lora, form: Form) -> Engine {
        let deltas = vec![Delta { lora, scale: 1.0, trainable: true }];
        Engine::with_form(&self.model, &self.trace, deltas, 1, form).unwrap()
    }

    /// Trains from `lora` to the end.
    pub(crate) fn train(&self, config: &TrainConfig, data: &Dataset, lora: Lora) -> Run {
        let mut engine = self.engine(lora);
        let mut reports = Reports::default();
        let mut trainer = Trainer::new(config, data, &mut engine, &mut reports).unwrap();
        trainer.run(&mut engine, &mut reports).unwrap();
        Run { reports: reports.0, lora: engine.deltas().remove(0).lora }
    }
}

impl Run {
    /// Bits of everything that a run may not leave to chance.
    pub(crate) fn bits(&self) -> (Vec<u64>, Vec<u32>) {
        let measures =
            self.reports.iter().flat_map(|r| [r.loss, r.grad_norm].into_iter().chain(r.metrics.values().copied()));
        let factors = named(&self.lora).into_iter().flat_map(|(_, values)| values.iter().map(|v| v.to_bits()));
        (measures.map(f64::to_bits).collect(), factors.collect())
    }
}

/// Names, as in the adapter file, and values of all factors.
pub(crate) fn named(lora: &Lora) -> Vec<(String, &[f32])> {
    let name = |weight: &str, which: char| format!("{weight}.lora_{which}");
    let factors = lora.factors.iter();
    factors.flat_map(|f| [(name(&f.weight, 'a'), f.a.as_slice()), (name(&f.weight, 'b'), f.b.as_slice())]).collect()
}

/// ‖a − b‖, in F64.
pub(crate) fn norm(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

#[derive(Default)]
pub(crate) struct Reports(Vec<StepReport>);

impl Reports {
    pub(crate) fn take(self) -> Vec<StepReport> {
        self.0
    }
}

impl Observer for Reports {
    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.0.push(report.clone());
        Ok(true)
    }
}

/// Numbers without meaning, the same everywhere (Knuth's MMIX generator, upper bits).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Tokens of text; the vocabulary's last four are markers.
    fn tokens(&mut self, n: usize) -> Vec<i32> {
        (0..n).map(|_| self.below(284) as i32).collect()
    }
}

/// Rows of random tokens that suit a method: prompts of 3 to 13 tokens, answers of 2 to 21, and one answer so long that its
/// sequence takes two units of alignment on the packed axis.
pub(crate) fn rows(method: Method) -> Dataset {
    let mut draw = Draw(1);
    let samples = (0..ROWS)
        .map(|i| {
            let line = i + 1;
            let prompt_len = 3 + (i * 5) % 11;
            let prompt = draw.tokens(prompt_len);
            let mut answer = |n: usize| {
                let tokens = prompt.iter().copied().chain(draw.tokens(n)).collect();
                Sequence::new(tokens, prompt_len)
            };
            let (first, second) = (answer(if i == 4 { 70 } else { 2 + (i * 7) % 20 }), answer(2 + (i * 11) % 17));
            match method {
                Method::Sft => Sample::Completion { line, sequence: first },
                Method::Dpo | Method::Npo => Sample::pair(line, first, second),
                Method::Kto => Sample::Labelled { line, sequence: first, desirable: i % 3 != 0 },
            }
        })
        .collect();
    Dataset { samples, report: Report::default() }
}
