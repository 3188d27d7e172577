//! Adapters folded into their base: what llama.cpp computes with the result, and how much of the change it holds.

use super::{options, values, Bench};
use crate::models::{each, runtime};
use crate::oracle::Array;
use crate::random::Random;
use llama_align::adapter::{export, import, Factor, Lineage, Lora};
use llama_align::data::Sequence;
use llama_align::engine::{Delta, Engine};
use llama_align::error::Result;
use llama_align::gguf::{base_hash, File};
use llama_align::merge::{fold, Bound, OutType, Report};
use llama_align::runtime::{Adapter, Context, Model};
use llama_align::trace::trace;
use quant::Type;
use std::path::PathBuf;
use std::sync::Arc;

const TOKENS: usize = 48;

impl Bench {
    /// An adapter on the linear weights of the blocks of a model here; B is as large as `size` says.
    pub(crate) fn adapter(&self, base: &str, name: &str, rank: usize, alpha: f32, size: f32) -> PathBuf {
        let file = File::open(&self.path(base)).unwrap();
        let matrices =
            file.tensors().iter().filter(|t| t.name.starts_with("blk.") && t.name.ends_with(".weight") && t.ne[1] > 1);
        let mut random = Random::of(name);
        let factors = matrices.map(|t| {
            let [n_in, n_out, n_experts, _] = t.ne.map(|n| n as usize);
            let a = random.vector(n_in * rank * n_experts, 1.0 / (n_in as f32).sqrt());
            let b = random.vector(n_out * rank * n_experts, size);
            Factor { weight: t.name.clone(), rank, n_in, n_out, n_experts, a, b, alpha: None }
        });
        let lora = Lora { alpha, factors: factors.collect() };
        let lineage = Lineage {
            architecture: file.architecture().unwrap().to_owned(),
            base_name: None,
            base_hash: Some(base_hash(&file)),
            method: "dpo".into(),
        };
        export(&lora, &lineage, &self.path(name)).unwrap();
        self.path(name)
    }

    pub(super) fn fold(&self, base: &str, adapters: &[(&str, f32)], out: OutType, to: &str) -> Result<Report> {
        let names = adapters.iter().map(|(name, _)| *name).chain([base]);
        let before: Vec<_> = names.clone().map(|name| std::fs::read(self.path(name)).unwrap()).collect();
        let base = File::open(&self.path(base))?;
        let files: Vec<(File, f32)> =
            adapters.iter().map(|(name, scale)| Ok((File::open(&self.path(name))?, *scale))).collect::<Result<_>>()?;
        let adapters: Vec<(&File, f32)> = files.iter().map(|(file, scale)| (file, *scale)).collect();
        let output = self.path(to);
        let report = fold(&runtime(), &base, &adapters, &options(out), Some(&output), &mut |_| {});
        let after: Vec<_> = names.map(|name| std::fs::read(self.path(name)).unwrap()).collect();
        assert!(before == after, "an input changed");
        report
    }

    /// All logits of a text by llama.cpp.
    pub(super) fn logits(&self, model: &str, adapters: &[(&str, f32)]) -> Vec<f32> {
        let model = Model::open(&runtime(), &self.path(model)).unwrap();
        let open = |name: &str| Adapter::open(&model, &self.path(name)).unwrap();
        let adapters: Vec<_> = adapters.iter().map(|(name, scale)| (open(name), *scale)).collect();
        let mut context = Context::new(&model, TOKENS, 1, 1).unwrap();
        context.set_adapters(&adapters).unwrap();
        let batch: Vec<_> = (0..TOKENS).map(|i| ((i * 7919 % model.n_vocab()) as i32, i, 0)).collect();
        context.decode(&batch, |_| true).unwrap();
        (0..TOKENS).flat_map(|i| context.logits(i).unwrap().to_vec()).collect()
    }

    /// The same by our engine, all of it in F32.
    pub(super) fn computed(&self, model: &str, adapters: &[(&str, f32)]) -> Vec<f32> {
        let model = Model::open(&runtime(), &self.path(model)).unwrap();
        let trace = Arc::new(trace(&model).unwrap());
        let delta = |&(name, scale): &(&str, f32)| {
            let lora = import(&File::open(&self.path(name)).unwrap()).unwrap();
            Delta { lora, scale, trainable: false }
        };
        let mut engine = Engine::new(&model, &trace, adapters.iter().map(delta).collect(), 1).unwrap();
        let tokens = (0..TOKENS).map(|i| (i * 7919 % model.n_vocab()) as i32).collect();
        let mut out = Vec::new();
        let sequence = Sequence::new(tokens, 1);
        engine.visit_logits(&[&sequence], &mut |_, _, logits| out.extend_from_slice(logits)).unwrap();
        out
    }
}

/// The distance over the norm of the wanted.
pub(super) fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    let wanted = Array::new([wanted.len(), 1, 1, 1], wanted.iter().map(|&x| x.into()).collect());
    wanted.distance(found)
}

/// Everything in F32: only the order of sums differs.
pub(super) const ENGINE_BOUND: f64 = 1e-5;
/// llama.cpp rounds queries, keys and values to 16 bits and adds attention up in 16 bits: last bits of sums flip some of
/// these roundings.
pub(super) const DECODE_BOUND: f64 = 1e-3;
/// Weights rounded to 8 bits, and activations to 8 bits where they meet these.
const Q8_0_BOUND: f64 = 0.03;
/// The same where a rounding may also choose another expert for a token (0.06 here).
const Q8_0_EXPERTS_BOUND: f64 = 0.12;

#[test]
fn llama_cpp_computes_the_same_with_the_folded_model_as_with_base_and_adapter() {
    let names = [
        "llama-untied",
        "llama-biases",
        "qwen2",
        "qwen3",
        "gemma2",
        "phi3",
        "gpt2",
        "bloom",
        "stablelm",
        "falcon",
        "llama-experts",
        "gpt-oss",
    ];
    each(
        &names,
        |name| name.to_string(),
        |name| {
            let bench = Bench::new();
            bench.tiny(name, Type::F32, "base.gguf");
            bench.adapter("base.gguf", "adapter.gguf", 4, 8.0, 0.2);
            let adapters = [("adapter.gguf", 1.0)];
            let report = bench.fold("base.gguf", &adapters, OutType::Keep, "f32.gguf").unwrap();
            assert!(report.overall().cosine().unwrap() > 1.0 - 1e-9);
            let (folded, wanted) = (bench.computed("f32.gguf", &[]), bench.computed("base.gguf", &adapters));
            let error = distance(&folded, &wanted);
            assert!(error < ENGINE_BOUND, "engine: {error:e}");
            let wanted = bench.logits("base.gguf", &adapters);
            let error = distance(&bench.logits("f32.gguf", &[]), &wanted);
            assert!(error < DECODE_BOUND, "llama.cpp: {error:e}");
            bench.fold("base.gguf", &adapters, OutType::Named(Type::Q8_0), "q8.gguf").unwrap();
            let error = distance(&bench.logits("q8.gguf", &[]), &wanted);
            let is_moe = crate::tiny::find(name).is_moe();
            let bound = if is_moe { Q8_0_EXPERTS_BOUND } else { Q8_0_BOUND };
            assert!(error < bound, "q8_0: {error:e}");
            let change = distance(&bench.logits("base.gguf", &[]), &wanted);
            assert!(change > 0.1, "the adapter changes {change:e}");
        },
    );
}

#[test]
fn several_adapters_with_scales_add_up_and_an_alpha_of_zero_is_none() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "base.gguf");
    bench.adapter("base.gguf", "one.gguf", 4, 8.0, 0.2);
    bench.adapter("base.gguf", "two.gguf", 2, 0.0, 0.2);
    let adapters = [("one.gguf", 0.5), ("two.gguf", -0.75)];
    bench.fold("base.gguf", &adapters, OutType::Keep, "out.gguf").unwrap();
    let error = distance(&bench.computed("out.gguf", &[]), &bench.computed("base.gguf", &adapters));
    assert!(error < ENGINE_BOUND, "{error:e}");
    let error = distance(&bench.logits("out.gguf", &[]), &bench.logits("base.gguf", &adapters));
    assert!(error < DECODE_BOUND, "{error:e}");
    // What was folded into is another model: an adapter of the base is not one of it.
    bench.fold("base.gguf", &adapters[..1], OutType::Keep, "half.gguf").unwrap();
    let again = bench.fold("half.gguf", &adapters[1..], OutType::Keep, "other.gguf").unwrap_err();
    assert!(again.to_string().contains("fingerprint"), "{again}");
}

#[test]
fn a_scale_of_zero_folds_nothing() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::Q4_1, "base.gguf");
    bench.adapter("base.gguf", "adapter.gguf", 4, 8.0, 0.2);
    let report = bench.fold("base.gguf", &[("adapter.gguf", 0.0)], OutType::Named(Type::F16), "out.gguf").unwrap();
    assert_eq!(report.copied(), report.tensors.len());
    let [out, base] = ["out.gguf", "base.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
    assert_eq!(base_hash(&out), base_hash(&base));
}

/// W + scale·alpha/r·B·A in F64, from the files' numbers by the readable decoders.
fn targets(bench: &Bench, base: &str, adapter: &str, scale: f64) -> Vec<(String, Vec<f64>, Vec<f64>)> {
    let base = File::open(&bench.path(base)).unwrap();
    let lora = import(&File::open(&bench.path(adapter)).unwrap()).unwrap();
    let factors = lora.factors.iter().map(|f| {
        let before: Vec<f64> = values(&base, &f.weight).into_iter().map(f64::from).collect();
        let scale = scale * f64::from(lora.alpha) / f.rank as f64;
        let update = |i: usize| {
            let (row, column) = (i / f.n_in, i % f.n_in);
            let product = |r: usize| f64::from(f.b[row * f.rank + r]) * f64::from(f.a[r * f.n_in + column]);
            scale * (0..f.rank).map(product).sum::<f64>()
        };
        let wanted = (0..before.len()).map(update).collect();
        (f.weight.clone(), before, wanted)
    });
    factors.collect()
}

#[test]
fn fidelity_is_that_of_an_independent_computation_and_untouched_tensors_are_copies() {
    for (from, out, to) in [
        (Type::Q4_1, OutType::Keep, Type::Q4_1),
        (Type::Q8_0, OutType::Keep, Type::Q8_0),
        (Type::Q4_0, OutType::Named(Type::Q8_0), Type::Q8_0),
        (Type::Q4_1, OutType::Named(Type::F16), Type::F16),
    ] {
        let bench = Bench::new();
        bench.tiny("qwen2", from, "base.gguf");
        bench.adapter("base.gguf", "adapter.gguf", 4, 8.0, 0.01);
        let report = bench.fold("base.gguf", &[("adapter.gguf", 0.5)], out, "out.gguf").unwrap();
        let [file, base] = ["out.gguf", "base.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
        let targets = targets(&bench, "base.gguf", "adapter.gguf", 0.5);
        for (name, before, wanted) in &targets {
            let tensor = report.tensors.iter().find(|t| t.name == *name).unwrap();
            assert_eq!((tensor.from, tensor.to, file.tensor(name).unwrap().ty), (from, to, to));
            let stored = values(&file, name);
            let realised: Vec<f64> = stored.iter().zip(before).map(|(s, b)| f64::from(*s) - b).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            let (ww, rr, wr) = (dot(wanted, wanted), dot(&realised, &realised), dot(wanted, &realised));
            let rmse = ((ww + rr - 2.0 * wr) / ww.abs().max(1e-300) * ww / wanted.len() as f64).sqrt();
            let fidelity = tensor.fidelity.unwrap();
            for (what, found, exact) in [
                ("cosine", fidelity.cosine().unwrap(), wr / (ww * rr).sqrt()),
                ("norm ratio", fidelity.norm_ratio().unwrap(), (rr / ww).sqrt()),
                ("gain", fidelity.gain().unwrap(), wr / ww),
                ("RMSE", fidelity.rmse(), rmse),
            ] {
                assert!((found - exact).abs() < 1e-4 * exact.abs() + 1e-9, "{name} {what}: {found}, not {exact}");
            }
        }
        for tensor in base.tensors().iter().filter(|t| targets.iter().all(|(name, ..)| *name != t.name)) {
            let found = file.tensor(&tensor.name).unwrap();
            assert!(found.ty == tensor.ty && file.data(found) == base.data(tensor), "{}", tensor.name);
        }
    }
}

#[test]
fn auto_raises_what_would_lose_its_change_and_nothing_else() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::Q4_0, "base.gguf");
    // A change of half a step at most is lost in four bits; one of many steps is not.
    bench.adapter("base.gguf", "small.gguf", 4, 8.0, 1e-3);
    bench.adapter("base.gguf", "large.gguf", 4, 8.0, 1.0);
    let bound = Bound::Cosine(0.9);
    let auto = OutType::Auto(bound);
    let small = bench.fold("base.gguf", &[("small.gguf", 1.0)], auto, "small-out.gguf").unwrap();
    let kept = bench.fold("base.gguf", &[("small.gguf", 1.0)], OutType::Keep, "small-kept.gguf").unwrap();
    let touched = |r: &Report| r.tensors.iter().filter(|t| !t.copied).count();
    assert!(kept.below(bound) == touched(&kept) && touched(&kept) == 14, "{:?}", kept.overall());
    assert_eq!((small.raised(), small.below(bound)), (14, 0), "{:?}", small.overall());
    let large = bench.fold("base.gguf", &[("large.gguf", 1.0)], auto, "large-out.gguf").unwrap();
    assert_eq!((large.raised(), large.below(bound)), (0, 0), "{:?}", large.overall());
    // What was raised is stored as said, and the worst come first.
    let out = File::open(&bench.path("small-out.gguf")).unwrap();
    assert!(small.tensors.iter().all(|t| out.tensor(&t.name).unwrap().ty == t.to));
    let worst = kept.worst(10);
    assert!(worst.len() == 10 && worst.windows(2).all(|w| w[0].cosine() <= w[1].cosine()));
    // The bound is what decides.
    let never =
        bench.fold("base.gguf", &[("small.gguf", 1.0)], OutType::Auto(Bound::Cosine(0.0)), "never.gguf").unwrap();
    assert_eq!(never.raised(), 0);
    Model::open(&runtime(), &bench.path("small-out.gguf")).unwrap();
    // Eight bits hold a small change and add noise: that is enough for a bound on the gain, not for one on the cosine.
    let gain = Bound::Gain(0.9);
    let report = bench.fold("base.gguf", &[("small.gguf", 1.0)], OutType::Auto(gain), "gain.gguf").unwrap();
    let types = |ty: Type| report.tensors.iter().filter(|t| !t.copied && t.to == ty).count();
    assert!(types(Type::Q8_0) > 0 && report.below(gain) == 0 && report.raised() == 14, "{:?}", report.overall());
}

#[test]
fn adapters_that_no_matrix_can_hold_are_refused_by_name() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "base.gguf");
    bench.tiny("qwen2", Type::F32, "qwen2.gguf");
    bench.varied("base.gguf", "other.gguf", |i, v| if i == 0 { v + 1.0 } else { v });
    bench.adapter("base.gguf", "good.gguf", 4, 8.0, 0.1);
    let renamed = |to: &str, name: &str| {
        bench.edited("good.gguf", name, |content| {
            content.tensors.retain(|t| t.0.starts_with("blk.0.attn_q.weight"));
            content.tensors.iter_mut().for_each(|t| t.0 = t.0.replace("blk.0.attn_q.weight", to));
        })
    };
    renamed("token_embd.weight", "embd.gguf");
    renamed("blk.0.attn_norm.weight", "norm.gguf");
    renamed("blk.7.attn_q.weight", "missing.gguf");
    bench.edited("good.gguf", "shape.gguf", |content| {
        content.tensors.retain(|t| t.0.starts_with("blk.0.attn_q.weight"));
        (content.tensors[0].2, content.tensors[0].3) = (vec![128, 4], vec![0; 2048]);
    });
    let tokens = llama_align::gguf::Value::Array(llama_align::gguf::Array::U32(vec![1]));
    bench.edited("good.gguf", "alora.gguf", |content| content.set("adapter.alora.invocation_tokens", tokens));
    let before = bench.files();
    for (base, adapter, says) in [
        ("base.gguf", "embd.gguf", "token_embd.weight"),
        ("base.gguf", "norm.gguf", "blk.0.attn_norm.weight"),
        ("base.gguf", "missing.gguf", "blk.7.attn_q.weight"),
        ("base.gguf", "shape.gguf", "blk.0.attn_q.weight"),
        ("base.gguf", "alora.gguf", "aLoRA"),
        ("other.gguf", "good.gguf", "fingerprint"),
        ("qwen2.gguf", "good.gguf", "architecture llama"),
        ("base.gguf", "base.gguf", "general.type"),
        ("good.gguf", "good.gguf", "an adapter, not a model"),
    ] {
        let error = bench.fold(base, &[(adapter, 1.0)], OutType::Keep, "out.gguf").unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says) && text.contains(adapter), "{base} {adapter}: {text}");
    }
    assert_eq!(bench.files(), before);
}
