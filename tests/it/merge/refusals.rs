//! Models that do not belong together, and values that no file may hold: named, and nothing is left behind.

use super::{keep, linear, options, Bench, Content};
use llama_align::error::Kind;
use llama_align::gguf::{Array, File, Value};
use llama_align::merge::{Method, OutType};
use quant::Type;

/// What makes the second model another one.
type Edit = Box<dyn FnOnce(&mut Content)>;

fn tokens(content: &mut Content, edit: impl FnOnce(&mut Vec<String>)) {
    let tokens = content.keys.iter_mut().find(|(k, _)| k == "tokenizer.ggml.tokens");
    let Some((_, Value::Array(Array::String(tokens)))) = tokens else { panic!("no tokens") };
    edit(tokens);
}

#[test]
fn what_does_not_belong_together_is_named() {
    let bench = Bench::new();
    bench.tiny("llama-factors", Type::F32, "a.gguf");
    bench.tiny("qwen2", Type::F32, "qwen2.gguf");
    let number = |key: &'static str, value: Value| move |c: &mut Content| c.set(key, value);
    let cases: Vec<(&str, Edit)> = vec![
        ("llama.rope.freq_base", Box::new(number("llama.rope.freq_base", Value::F32(5e5)))),
        ("llama.block_count", Box::new(number("llama.block_count", Value::U32(3)))),
        ("llama.attention.head_count", Box::new(number("llama.attention.head_count", Value::U32(8)))),
        ("llama.rope.scaling.factor", Box::new(number("llama.rope.scaling.factor", Value::F32(2.0)))),
        ("tokenizer.ggml.pre", Box::new(number("tokenizer.ggml.pre", Value::String("llama-bpe".into())))),
        ("tokenizer.ggml.tokens", Box::new(|c| tokens(c, |t| t.swap(260, 261)))),
        ("at 260", Box::new(|c| tokens(c, |t| t[260] = "other".into()))),
        ("tokenizer.ggml.merges", Box::new(|c| c.keys.retain(|(k, _)| k != "tokenizer.ggml.merges"))),
        ("blk.1.ffn_up.weight is missing", Box::new(|c| c.tensors.retain(|t| t.0 != "blk.1.ffn_up.weight"))),
        (
            "blk.1.more.weight is missing in the other",
            Box::new(|c| {
                let mut more = c.tensors[3].clone();
                more.0 = "blk.1.more.weight".into();
                c.tensors.push(more);
            }),
        ),
        (
            "tensor blk.1.ffn_up.weight is",
            Box::new(|c| {
                let up = c.tensors.iter_mut().find(|t| t.0 == "blk.1.ffn_up.weight").unwrap();
                up.2.reverse();
            }),
        ),
        (
            "rope_freqs.weight holds other constants",
            Box::new(|c| {
                c.tensors.iter_mut().find(|t| t.0 == "rope_freqs.weight").unwrap().3[3] ^= 1;
            }),
        ),
    ];
    for (says, edit) in cases {
        bench.edited("a.gguf", "b.gguf", edit);
        for (models, base) in [(vec!["a.gguf", "b.gguf"], None), (vec!["a.gguf"], Some("b.gguf"))] {
            let method = match base {
                None => linear(&[1.0, 1.0]),
                Some(_) => Method::task_arithmetic(&[1.0], 1.0),
            };
            let error = bench.merge(&models, base, &method, &keep(), "out.gguf").unwrap_err();
            let text = error.to_string();
            assert!(error.kind() == Kind::Mismatch && text.contains(says) && text.contains("b.gguf"), "{says}: {text}");
        }
        assert_eq!(bench.files(), ["a.gguf", "b.gguf", "qwen2.gguf"]);
    }
    let error = bench.merge(&["a.gguf", "qwen2.gguf"], None, &linear(&[1.0, 1.0]), &keep(), "out.gguf").unwrap_err();
    assert!(error.kind() == Kind::Mismatch && error.to_string().contains("architecture qwen2"), "{error}");
}

#[test]
fn what_differs_without_harm_is_noted_and_the_first_models_is_kept() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "a.gguf");
    bench.edited("a.gguf", "b.gguf", |content| {
        content.set("tokenizer.chat_template", Value::String("{{ messages }}".into()));
        content.set("tokenizer.ggml.eos_token_id", Value::U32(7));
        content.set("general.name", Value::String("B".into()));
    });
    let report = bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &keep(), "out.gguf").unwrap();
    assert_eq!(report.notes.len(), 2, "{:?}", report.notes);
    for key in ["tokenizer.chat_template", "tokenizer.ggml.eos_token_id"] {
        assert!(report.notes.iter().any(|n| n.contains(key) && n.contains("b.gguf")), "{:?}", report.notes);
        let [a, out] = ["a.gguf", "out.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
        assert_eq!(a.get(key), out.get(key));
    }
    assert!(report.has_template && report.keys_from.ends_with("a.gguf"));
}

#[test]
fn values_that_no_file_may_hold_name_their_tensor() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "a.gguf");
    let name = "blk.1.ffn_down.weight";
    let with = |value: f32| {
        bench.edited("a.gguf", "b.gguf", |content| {
            content.tensors.iter_mut().find(|t| t.0 == name).unwrap().3[40..44].copy_from_slice(&value.to_le_bytes());
        })
    };
    let named = |ty| options(OutType::Named(ty));
    let slerp = Method::Slerp { t: 0.5 };
    for (value, method, options) in [
        (f32::NAN, linear(&[1.0, 1.0]), keep()),
        (f32::INFINITY, linear(&[1.0, 1.0]), named(Type::IQ4_NL)),
        (f32::NAN, linear(&[1.0, 1.0]), named(Type::Q4_0)),
        (f32::NAN, slerp, keep()),
        // Finite, but not in 16 bits.
        (1e30, linear(&[1.0, 1.0]), named(Type::F16)),
        (1e30, linear(&[1.0, 1.0]), named(Type::Q8_0)),
    ] {
        with(value);
        let error = bench.merge(&["a.gguf", "b.gguf"], None, &method, &options, "out.gguf").unwrap_err();
        assert!(error.kind() == Kind::Numeric && error.to_string().contains(name), "{value}: {error}");
        // What was finite until it was stored is nobody's fault.
        assert_eq!(error.to_string().contains("b.gguf"), !value.is_finite(), "{value}: {error}");
        assert_eq!(bench.files(), ["a.gguf", "b.gguf"]);
    }
}

/// A tensor outside its file is refused by the reader; no merge gets that far.
#[test]
fn a_tensor_outside_its_file_never_reaches_an_output() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::Q8_0, "a.gguf");
    let bytes = std::fs::read(bench.path("a.gguf")).unwrap();
    std::fs::write(bench.path("b.gguf"), &bytes[..bytes.len() - 4096]).unwrap();
    for models in [["a.gguf", "b.gguf"], ["b.gguf", "a.gguf"]] {
        let error = bench.merge(&models, None, &linear(&[1.0, 1.0]), &keep(), "out.gguf").unwrap_err();
        assert!(error.kind() == Kind::Format && error.to_string().contains("outside the file"), "{error}");
    }
    assert_eq!(bench.files(), ["a.gguf", "b.gguf"]);
}
