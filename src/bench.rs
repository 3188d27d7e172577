//! How fast a model trains here: repeated optimizer steps on made-up tokens, held against the machine's own peak.
//!
//! **In:** a traced model, a method, a shape. **Out:** rates, seconds by phase, memory. **Invariant:** a step is the
//! trainer's own, with clipping and AdamW; for DPO with its rows' share of the reference pass.

use crate::adapter::{resolve_targets, Linear, Lora};
use crate::data::{Dataset, Report, Sample, Sequence};
use crate::engine::{Delta, Engine, Profile};
use crate::error::{Error, Kind, Result};
use crate::kernel::peak_gflops;
use crate::os::peak_rss_bytes;
use crate::runtime::{Model, Tally};
use crate::trace::Trace;
use crate::train::{Method, Observer, Precision, Recompute, StepReport, TrainConfig, Trainer};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// Steps before the first one that counts.
const WARM_UP: usize = 1;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct BenchParams {
    /// sft or dpo.
    pub method: Method,
    /// Rows of a step.
    pub n_rows: usize,
    /// Tokens of a row: of one sequence (sft), or of both answers of a pair together (dpo).
    pub length: usize,
    /// Steps that count.
    pub n_steps: usize,
    /// Rank of the adapter, on all linear weights of the blocks.
    pub rank: usize,
    /// Threads.
    pub n_threads: usize,
    /// Numbers that products are formed in.
    pub precision: Precision,
    /// Whether blocks' insides are computed again.
    pub recompute: Recompute,
}

/// What was measured. Shares are of the peak of the same numbers on as many threads, in the same run.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Median over the steps.
    pub tokens_per_s: f64,
    /// The slowest step.
    pub tokens_per_s_min: f64,
    /// The fastest step.
    pub tokens_per_s_max: f64,
    /// Median, the reference pass included.
    pub step_seconds: f64,
    /// Seconds of a step that the reference pass took; 0 for sft.
    pub reference_seconds: f64,
    /// Seconds of a step in products with weights and factors.
    pub products_seconds: f64,
    /// In attention.
    pub attention_seconds: f64,
    /// In our other kernels.
    pub other_kernels_seconds: f64,
    /// The rest: the runtime's own ops, waiting for the other threads, the optimizer.
    pub rest_seconds: f64,
    /// Most memory resident, the mapped model included.
    pub peak_rss_bytes: u64,
    /// What small products in the first-level cache reach, in GFLOP/s.
    pub peak_gflops: f64,
    /// Product arithmetic over time in products, as a share of the peak; 0, as all that follows, where devices compute.
    pub share_of_peak_products: f64,
    /// Product arithmetic over the whole step, as a share of the peak.
    pub share_of_peak_step: f64,
    /// Where nodes ran, if devices compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tally: Option<Tally>,
    /// bf16 or f32; auto where devices compute.
    pub precision: Precision,
    /// always or never.
    pub recompute: Recompute,
}

struct Silent;

impl Observer for Silent {
    fn on_step(&mut self, _report: &StepReport) -> Result<bool> {
        Ok(true)
    }
}

/// Measures.
pub fn run(model: &Arc<Model>, trace: &Arc<Trace>, params: &BenchParams) -> Result<BenchReport> {
    let form = params.precision.form_for(model)?;
    let on_cpu = model.devices().is_empty();
    let precision = if on_cpu { params.precision.resolve() } else { params.precision };
    let peak = peak_gflops(precision == Precision::Bf16, params.n_threads);
    let data = rows(model, params)?;
    let lora =
        Lora::init(&resolve_targets("all-linear", &Linear::all(trace))?, params.rank, 2.0 * params.rank as f32, 0);
    let delta = Delta { lora, scale: 1.0, trainable: true };
    let mut engine = Engine::with_form(model, trace, vec![delta], params.n_threads, form)?;
    let config = TrainConfig {
        method: params.method,
        lora_rank: params.rank,
        batch_size: params.n_rows,
        grad_accum: 1,
        max_length: params.length,
        max_steps: WARM_UP + params.n_steps,
        threads: params.n_threads,
        precision,
        device: (!on_cpu).then(|| model.devices().iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(",")),
        ..TrainConfig::default()
    }
    .resolve()?;
    let kept = engine.inner_bytes(config.micro_batch_tokens) as u64;
    // What devices compute crosses to the host and back where it is kept: they compute it again.
    let available = if on_cpu { crate::os::available_bytes() } else { 0 };
    let recompute = params.recompute.resolve(kept, available);
    engine.set_recompute(recompute == Recompute::Always);
    let profile = Arc::new(Profile::default());
    engine.set_profile(profile.clone());
    let begun = Instant::now();
    let mut trainer = Trainer::new(&config, &data, &mut engine, &mut Silent)?;
    // The rows are those of every step, so the pass over them is one step's share.
    let reference_seconds = if params.method == Method::Sft { 0.0 } else { begun.elapsed().as_secs_f64() };
    let reference = profile.seconds();
    for step in 0..WARM_UP {
        trainer.step(&mut engine, step)?;
    }
    profile.reset();
    let mut seconds = Vec::with_capacity(params.n_steps);
    for step in WARM_UP..WARM_UP + params.n_steps {
        seconds.push(trainer.step(&mut engine, step)?.step_seconds + reference_seconds);
    }
    seconds.sort_by(f64::total_cmp);
    let (found, n) = (profile.seconds(), params.n_steps as f64);
    let step_seconds = seconds[seconds.len() / 2];
    let tokens = (params.n_rows * params.length) as f64;
    let products = found.products / n + reference.products;
    let attention = found.attention / n + reference.attention;
    let other = found.other / n + reference.other;
    let gflop = (found.product_flops as f64 / n + reference.product_flops as f64) * 1e-9;
    Ok(BenchReport {
        tokens_per_s: tokens / step_seconds,
        tokens_per_s_min: tokens / seconds[seconds.len() - 1],
        tokens_per_s_max: tokens / seconds[0],
        step_seconds,
        reference_seconds,
        products_seconds: products,
        attention_seconds: attention,
        other_kernels_seconds: other,
        rest_seconds: (step_seconds - products - attention - other).max(0.0),
        peak_rss_bytes: peak_rss_bytes(),
        peak_gflops: peak,
        share_of_peak_products: if on_cpu { gflop / products / peak } else { 0.0 },
        share_of_peak_step: gflop / step_seconds / peak,
        tally: engine.tally().cloned(),
        precision,
        recompute,
    })
}

/// Rows of made-up tokens; every token but a sequence's first has a loss (sft), or the second half of each (dpo).
fn rows(model: &Model, params: &BenchParams) -> Result<Dataset> {
    let least = if params.method == Method::Sft { 2 } else { 8 };
    if params.length < least || params.n_rows == 0 || params.n_steps == 0 {
        let message =
            format!("a shape of {} x {} over {} steps is too small", params.n_rows, params.length, params.n_steps);
        return Err(Error::new(Kind::Argument, message));
    }
    let n_vocab = model.n_vocab().max(1);
    let sequence = |salt: usize, length: usize, prompt_len: usize| {
        let tokens = (0..length).map(|i| ((i * 7919 + salt * 104_729 + 13) % n_vocab) as i32);
        Sequence::new(tokens.collect(), prompt_len)
    };
    let sample = |i: usize| match params.method {
        Method::Sft => Ok(Sample::Completion { line: i + 1, sequence: sequence(i, params.length, 1) }),
        Method::Dpo => {
            let half = params.length / 2;
            let (chosen, mut rejected) = (sequence(2 * i, half, half / 2), sequence(2 * i + 1, half, half / 2));
            rejected.tokens[..half / 2].copy_from_slice(&chosen.tokens[..half / 2]);
            Ok(Sample::pair(i + 1, chosen, rejected))
        }
        Method::Kto | Method::Npo => Err(Error::new(Kind::Argument, "bench measures sft and dpo")),
    };
    let samples = (0..params.n_rows).map(sample).collect::<Result<Vec<_>>>()?;
    Ok(Dataset { samples, report: Report::default() })
}
