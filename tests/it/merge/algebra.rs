//! Sums, scales, truncations and extractions of adapters: what llama.cpp computes with them, and what they say of themselves.

use super::fold::{distance, DECODE_BOUND, ENGINE_BOUND};
use super::program::run;
use super::{values, Bench};
use crate::models::runtime;
use llama_align::adapter::{import, Limit, Lora};
use llama_align::error::Kind;
use llama_align::gguf::{base_hash, Array, File, Value};
use llama_align::merge::{extract, OutType};
use quant::Type;

impl Bench {
    fn lora(&self, name: &str) -> Lora {
        import(&File::open(&self.path(name)).unwrap()).unwrap()
    }

    /// Runs `llama-align adapter …`.
    fn adapt(&self, line: &str) -> super::program::Ran {
        let ran = run(self.dir.path(), &format!("adapter {line}"));
        assert_eq!(ran.status, 0, "{line}: {}", ran.err);
        ran
    }

    /// llama.cpp and our engine compute the same with both lists of adapters.
    fn same(&self, base: &str, found: &[(&str, f32)], wanted: &[(&str, f32)]) {
        let error = distance(&self.computed(base, found), &self.computed(base, wanted));
        assert!(error < ENGINE_BOUND, "engine: {found:?} {error:e}");
        let wanted = self.logits(base, wanted);
        let error = distance(&self.logits(base, found), &wanted);
        assert!(error < DECODE_BOUND, "llama.cpp: {found:?} {error:e}");
        assert!(distance(&self.logits(base, &[]), &wanted) > 0.05, "the adapters change nothing");
    }
}

/// B·A times its strength, in F64.
fn product(lora: &Lora, name: &str) -> Vec<f64> {
    let f = lora.factors.iter().find(|f| f.weight == name).unwrap();
    let scale = f64::from(lora.scale(f));
    let term = |o: usize, i: usize, k: usize| f64::from(f.b[o * f.rank + k]) * f64::from(f.a[k * f.n_in + i]);
    let all = (0..f.n_out).flat_map(|o| (0..f.n_in).map(move |i| (o, i)));
    all.map(|(o, i)| scale * (0..f.rank).map(|k| term(o, i, k)).sum::<f64>()).collect()
}

#[test]
fn sums_and_multiples_are_what_llama_cpp_computes_with_the_parts() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "base.gguf");
    bench.adapter("base.gguf", "one.gguf", 4, 8.0, 0.2);
    // Without an alpha, and of another rank.
    bench.adapter("base.gguf", "two.gguf", 3, 0.0, 0.2);
    bench.edited("two.gguf", "part.gguf", |content| content.tensors.retain(|t| t.0.starts_with("blk.1.")));
    bench.adapt("add one.gguf:0.5 two.gguf:-0.75 part.gguf -o sum.gguf");
    bench.same("base.gguf", &[("sum.gguf", 1.0)], &[("one.gguf", 0.5), ("two.gguf", -0.75), ("part.gguf", 1.0)]);
    let sum = bench.lora("sum.gguf");
    let ranks =
        |block: &str| sum.factors.iter().filter(|f| f.weight.starts_with(block)).map(|f| f.rank).collect::<Vec<_>>();
    assert!(ranks("blk.0.").iter().all(|&r| r == 7) && ranks("blk.1.").iter().all(|&r| r == 10) && sum.alpha == 0.0);
    bench.adapt("scale one.gguf --by -2.5 -o scaled.gguf");
    bench.same("base.gguf", &[("scaled.gguf", 1.0)], &[("one.gguf", -2.5)]);
    let scaled = File::open(&bench.path("scaled.gguf")).unwrap();
    assert_eq!(scaled.get("llama_align.method"), Some(&Value::String("dpo".into())));
    assert_eq!(bench.lora("scaled.gguf").alpha, 4.0);
    // Equal inputs, equal bytes; an adapter less itself is nothing.
    bench.adapt("concat one.gguf:0.5 two.gguf:-0.75 part.gguf -o again.gguf");
    let bytes = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(bytes("sum.gguf") == bytes("again.gguf"));
    bench.adapt("add one.gguf one.gguf:-1 -o nothing.gguf");
    let [found, base] = [bench.computed("base.gguf", &[("nothing.gguf", 1.0)]), bench.computed("base.gguf", &[])];
    assert!(distance(&found, &base) < ENGINE_BOUND);
    bench.adapt("truncate nothing.gguf --rank 3 -o none.gguf");
    assert!(bench.lora("none.gguf").factors.iter().all(|f| f.rank == 1 && f.b.iter().all(|&b| b == 0.0)));
}

#[test]
fn a_truncation_keeps_the_share_that_it_reports() {
    let bench = Bench::new();
    bench.tiny("qwen2", Type::F32, "base.gguf");
    bench.adapter("base.gguf", "one.gguf", 6, 8.0, 0.2);
    bench.adapter("base.gguf", "two.gguf", 6, 8.0, 0.2);
    bench.adapt("add one.gguf two.gguf -o sum.gguf");
    bench.adapt("truncate sum.gguf --rank 12 -o whole.gguf");
    bench.same("base.gguf", &[("whole.gguf", 1.0)], &[("sum.gguf", 1.0)]);
    // A sum with itself needs only half of its ranks.
    bench.adapt("add one.gguf one.gguf -o twice.gguf");
    bench.adapt("truncate twice.gguf --energy 1 -o once.gguf");
    bench.same("base.gguf", &[("once.gguf", 1.0)], &[("one.gguf", 2.0)]);
    assert!(bench.lora("once.gguf").factors.iter().all(|f| f.rank == 6));
    let sum = bench.lora("sum.gguf");
    let (short, kept) = sum.truncated(Limit { rank: 4, energy: 1.0 }).unwrap();
    let (thin, enough) = sum.truncated(Limit { rank: 12, energy: 0.8 }).unwrap();
    assert!(enough.iter().all(|k| k.energy >= 0.8 && k.rank < 12));
    for (lora, kept) in [(&short, &kept), (&thin, &enough)] {
        for kept in kept {
            let (whole, found) = (product(&sum, &kept.weight), product(lora, &kept.weight));
            let norm: f64 = whole.iter().map(|x| x * x).sum();
            let lost: f64 = whole.iter().zip(&found).map(|(x, y)| (x - y) * (x - y)).sum();
            assert!((lost / norm - (1.0 - kept.energy)).abs() < 1e-5, "{kept:?} {}", lost / norm);
            assert!((kept.norm - norm.sqrt()).abs() < 1e-5 * kept.norm);
        }
    }
    let ran = bench.adapt("truncate sum.gguf --energy 0.8 --json -o thin.gguf");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(json["energy"].as_f64().unwrap() >= 0.8 && json["weights"].as_array().unwrap().len() == enough.len());
}

#[test]
fn an_extraction_leads_from_one_model_to_the_other() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "base.gguf");
    bench.adapter("base.gguf", "adapter.gguf", 4, 8.0, 0.2);
    bench.fold("base.gguf", &[("adapter.gguf", 1.0)], OutType::Keep, "tuned.gguf").unwrap();
    bench.adapt("extract -m tuned.gguf --base base.gguf --rank 4 -o found.gguf");
    bench.same("base.gguf", &[("found.gguf", 1.0)], &[("adapter.gguf", 1.0)]);
    let found = File::open(&bench.path("found.gguf")).unwrap();
    let base = File::open(&bench.path("base.gguf")).unwrap();
    assert_eq!(found.get("llama_align.base_hash"), Some(&Value::String(base_hash(&base))));
    // A norm that moved is not in it, and is told.
    bench.edited("tuned.gguf", "normed.gguf", |content| {
        let norm = content.tensors.iter_mut().find(|t| t.0 == "blk.1.ffn_norm.weight").unwrap();
        norm.3[..4].copy_from_slice(&9f32.to_le_bytes());
    });
    let ran = bench.adapt("extract -m normed.gguf --base base.gguf --energy 0.7 -o short.gguf");
    assert!(ran.out.contains("not in the adapter: blk.1.ffn_norm.weight"), "{}", ran.out);
    // What it says to keep is what it keeps.
    let tuned = File::open(&bench.path("tuned.gguf")).unwrap();
    for limit in [Limit { rank: 2, energy: 1.0 }, Limit { rank: 64, energy: 0.7 }] {
        let found = extract(&runtime(), &base, &tuned, limit, 0, &mut |_| {}).unwrap();
        assert!(found.left_out.is_empty() && found.kept.len() == 14 && found.energy() < 0.99);
        for kept in &found.kept {
            let change: Vec<f64> = values(&tuned, &kept.weight)
                .iter()
                .zip(values(&base, &kept.weight))
                .map(|(x, y)| f64::from(*x) - f64::from(y))
                .collect();
            let (norm, carried) = (change.iter().map(|x| x * x).sum::<f64>(), product(&found.lora, &kept.weight));
            let lost: f64 = change.iter().zip(&carried).map(|(x, y)| (x - y) * (x - y)).sum();
            assert!((lost / norm - (1.0 - kept.energy)).abs() < 1e-4, "{kept:?} {}", lost / norm);
            assert!(limit.energy == 1.0 || kept.energy >= 0.7, "{kept:?}");
        }
        let again = extract(&runtime(), &base, &tuned, limit, 0, &mut |_| {}).unwrap();
        assert_eq!(again.lora, found.lora);
    }
}

#[test]
fn an_adapter_is_said_to_be_for_another_quantisation() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "base.gguf");
    bench.tiny("llama-tied", Type::Q8_0, "q8.gguf");
    bench.tiny("qwen2", Type::F32, "qwen2.gguf");
    bench.adapter("base.gguf", "adapter.gguf", 4, 8.0, 0.2);
    let refused = bench.fold("q8.gguf", &[("adapter.gguf", 1.0)], OutType::Keep, "out.gguf").unwrap_err();
    assert!(refused.to_string().contains("fingerprint"), "{refused}");
    bench.adapt("rebase adapter.gguf -m q8.gguf -o for-q8.gguf");
    bench.fold("q8.gguf", &[("for-q8.gguf", 1.0)], OutType::Keep, "out.gguf").unwrap();
    assert_eq!(bench.lora("for-q8.gguf"), Lora { alpha: 8.0, ..bench.lora("adapter.gguf") });
    let ran = run(bench.dir.path(), "adapter rebase adapter.gguf -m qwen2.gguf -o no.gguf");
    assert!(ran.status == 78 && ran.err.contains("architecture llama"), "{}", ran.err);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "base.gguf");
    bench.varied("base.gguf", "other.gguf", |i, v| if i == 0 { v + 1.0 } else { v });
    bench.tiny("qwen2", Type::F32, "qwen2.gguf");
    bench.adapter("base.gguf", "one.gguf", 4, 8.0, 0.2);
    bench.adapter("other.gguf", "two.gguf", 4, 8.0, 0.2);
    bench.edited("one.gguf", "wide.gguf", |content| {
        content.keys.retain(|(key, _)| key != "llama_align.base_hash");
        content.tensors.retain(|t| t.0.starts_with("blk.0.attn_q.weight"));
        (content.tensors[0].2, content.tensors[0].3) = (vec![128, 4], vec![0; 2048]);
    });
    let tokens = Value::Array(Array::U32(vec![1]));
    bench.edited("one.gguf", "alora.gguf", |content| content.set("adapter.alora.invocation_tokens", tokens));
    std::fs::copy(bench.path("base.gguf"), bench.path("copy.gguf")).unwrap();
    bench.edited("base.gguf", "nan.gguf", |content| {
        let tensor = content.tensors.iter_mut().find(|t| t.0 == "blk.0.attn_q.weight").unwrap();
        tensor.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let before = bench.files();
    for (line, status, says) in [
        ("add one.gguf two.gguf -o out.gguf", 78, "two.gguf: made for another base than one.gguf"),
        ("add one.gguf wide.gguf -o out.gguf", 78, "blk.0.attn_q.weight"),
        ("add one.gguf:nan -o out.gguf", 2, "one.gguf:nan"),
        ("add missing.gguf -o out.gguf", 66, "missing.gguf"),
        ("add base.gguf -o out.gguf", 65, "general.type"),
        ("add alora.gguf -o out.gguf", 69, "aLoRA"),
        ("add one.gguf -o one.gguf --overwrite", 73, "one of the inputs"),
        ("add one.gguf -o two.gguf", 73, "--overwrite"),
        ("add one.gguf -o missing/out.gguf", 73, "directory"),
        ("add -o out.gguf", 2, "ADAPTERS"),
        ("scale one.gguf --by inf -o out.gguf", 2, "--by inf"),
        ("truncate one.gguf -o out.gguf", 2, "--rank, --energy"),
        ("truncate one.gguf --rank 0 -o out.gguf", 2, "--rank 0"),
        ("truncate one.gguf --energy 1.5 -o out.gguf", 2, "--energy 1.5"),
        ("truncate one.gguf --energy nan -o out.gguf", 2, "--energy NaN"),
        ("extract -m copy.gguf --base base.gguf --rank 2 -o out.gguf", 78, "differs"),
        ("extract -m qwen2.gguf --base base.gguf --rank 2 -o out.gguf", 78, "architecture"),
        ("extract -m nan.gguf --base base.gguf --rank 2 -o out.gguf", 76, "blk.0.attn_q.weight"),
        ("extract -m two.gguf --base base.gguf --rank 2 -o out.gguf", 78, "an adapter, not a model"),
    ] {
        let ran = run(bench.dir.path(), &format!("adapter {line}"));
        assert!(ran.status == status && ran.err.contains(says), "{line}: {} {}", ran.status, ran.err);
    }
    assert_eq!(bench.files(), before);
    // Too large for 32 bits.
    let one = bench.lora("one.gguf");
    let error = Lora::sum(&[(&one, f32::MAX)]).unwrap_err();
    assert!(error.kind() == Kind::Numeric && error.to_string().contains("blk."), "{error}");
    assert_eq!(Lora::sum(&[]).unwrap_err().kind(), Kind::Argument);
}
