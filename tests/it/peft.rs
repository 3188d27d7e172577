//! PEFT's adapters, as `tests/golden/adapters.py` had PEFT save them, and what transformers and PEFT make of a text with them.

use crate::models::{open, Opened};
use crate::tiny::find;
use llama_align::adapter::{export, import, peft, Lineage, Lora};
use llama_align::data::Sequence;
use llama_align::engine::{Delta, Engine, Form};
use llama_align::error::Kind;
use llama_align::gguf::File;
use llama_align::trace::trace;
use quant::Type;
use safetensors::SafeTensors;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Architectures, and the tiny models of the tests that stand for them.
const MODELS: [(&str, &str); 5] =
    [("llama", "llama-untied"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma2", "gemma2"), ("gemma3", "gemma3")];

/// Two programs' F32, in nats per token. Measured: see the test's failure when it is made stricter.
const BOUND: f64 = 2e-5;

fn golden(arch: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft").join(arch)
}

fn opened(tiny: &str) -> Opened {
    open(&find(tiny), Type::F32).unwrap()
}

#[test]
#[ignore = "writes target/golden-peft/ for tests/golden/adapters.py"]
fn write_models() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/golden-peft");
    std::fs::create_dir_all(&directory).unwrap();
    for (arch, tiny) in MODELS {
        find(tiny).write(&directory.join(format!("{arch}.gguf")), Type::F32).unwrap();
    }
}

#[test]
fn an_adapter_of_peft_computes_what_it_computes_there() {
    for (arch, tiny) in MODELS {
        let opened = opened(tiny);
        let recorded: Value =
            serde_json::from_str(&std::fs::read_to_string(golden(arch).join("logps.json")).unwrap()).unwrap();
        let numbers =
            |key: &str| -> Vec<f64> { recorded[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        let tokens: Vec<i32> = numbers("tokens").iter().map(|&t| t as i32).collect();
        let sequence = Sequence::new(tokens, 1);
        let lora = peft::read(&golden(arch), &opened.file).unwrap();
        let trace = Arc::new(trace(&opened.model).unwrap());
        let worst = |deltas: Vec<Delta>, key: &str| {
            let mut engine = Engine::with_form(&opened.model, &trace, deltas, 1, Form::Training).unwrap();
            let found = engine.log_probs(&[&sequence]).unwrap().concat();
            let wanted = numbers(key);
            assert_eq!(found.len(), wanted.len());
            found.iter().zip(&wanted).map(|(f, w)| (f64::from(*f) - w).abs()).fold(0.0, f64::max)
        };
        let (before, after) =
            (worst(Vec::new(), "before"), worst(vec![Delta { lora, scale: 1.0, trainable: false }], "after"));
        assert!(before < BOUND, "{arch}, the model itself: {before:e}");
        assert!(after < BOUND, "{arch}, with the adapter: {after:e}");
        let changes = numbers("before").iter().zip(numbers("after")).map(|(b, a)| (b - a).abs()).sum::<f64>() / 19.0;
        assert!(changes > 0.3, "{arch}: the adapter changes next to nothing, {changes}");
    }
}

/// Names, shapes and values of a file of factors; B times its module's scale, as PEFT reads the configuration beside it.
fn saved(directory: &Path, lora: &Lora) -> Vec<(String, Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(directory.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .iter()
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
            let layer = name.split('.').nth(4).unwrap();
            let scale = match name.ends_with("lora_B.weight") {
                false => 1.0,
                true => {
                    let short = [
                        ("q_proj", "attn_q"),
                        ("k_proj", "attn_k"),
                        ("v_proj", "attn_v"),
                        ("o_proj", "attn_output"),
                        ("gate_proj", "ffn_gate"),
                        ("up_proj", "ffn_up"),
                        ("down_proj", "ffn_down"),
                    ];
                    let (_, weight) = short.iter().find(|(peft, _)| name.contains(peft)).unwrap();
                    let weight = format!("blk.{layer}.{weight}.weight");
                    f64::from(lora.scale(lora.factors.iter().find(|f| f.weight == weight).unwrap()))
                }
            };
            (name.to_owned(), view.shape().to_vec(), values.map(|v| v * scale).collect())
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Into GGUF, and out again: the same modules, A to the bit, and B times its scale but for rounding, since a GGUF has one alpha.
#[test]
fn what_goes_in_comes_out() {
    for (arch, tiny) in MODELS {
        let opened = opened(tiny);
        let directory = tempfile::tempdir().unwrap();
        let first = peft::read(&golden(arch), &opened.file).unwrap();
        let path = directory.path().join("adapter.gguf");
        export(&first, &Lineage::of_base(&opened.file, "peft").unwrap(), &path).unwrap();
        let there = import(&File::open(&path).unwrap()).unwrap();
        peft::write(&there, &opened.file, Some("org/base"), directory.path()).unwrap();
        let back = peft::read(directory.path(), &opened.file).unwrap();
        let (wanted, found) = (saved(&golden(arch), &first), saved(directory.path(), &back));
        assert_eq!(wanted.len(), found.len());
        for (wanted, found) in wanted.iter().zip(&found) {
            assert_eq!((&wanted.0, &wanted.1), (&found.0, &found.1));
            let exact = wanted.0.ends_with("lora_A.weight");
            let close = |a: f64, b: f64| a == b || (!exact && (a / b - 1.0).abs() < 3e-7);
            assert!(wanted.2.iter().zip(&found.2).all(|(&a, &b)| close(a, b)), "{arch}: {}", wanted.0);
        }
        let config: Value =
            serde_json::from_str(&std::fs::read_to_string(directory.path().join("adapter_config.json")).unwrap())
                .unwrap();
        assert_eq!((&config["base_model_name_or_path"], &config["bias"]), (&json!("org/base"), &json!("none")));
        let targets = config["target_modules"].as_array().unwrap();
        // Gemma 2's adapter is for one of two blocks, so its modules are named in full.
        let wanted = if arch == "gemma2" { json!("model.layers.1.mlp.down_proj") } else { json!("q_proj") };
        assert!(targets.contains(&wanted), "{arch}: {targets:?}");
    }
}

fn program(directory: &Path, line: &str) -> (Option<i32>, String) {
    let ran =
        Command::new(env!("CARGO_BIN_EXE_llama-align")).args(line.split(' ')).current_dir(directory).output().unwrap();
    (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
}

#[test]
fn the_program_brings_adapters_in_and_out_and_refuses_by_name() {
    let (directory, peft) = (tempfile::tempdir().unwrap(), golden("llama").display().to_string());
    let at = directory.path();
    for (tiny, name) in [("llama-untied", "m.gguf"), ("llama-multiquery", "other.gguf"), ("phi3", "phi3.gguf")] {
        find(tiny).write(&at.join(name), Type::Q8_0).unwrap();
    }
    let says = |line: &str, status: i32, text: &str| {
        let (found, err) = program(at, line);
        assert!(found == Some(status) && err.contains(text), "{line}: {found:?} {err}");
    };
    says(&format!("adapter import {peft} -m m.gguf -o a.gguf"), 0, "8 weights of ranks 2 to 4");
    says(&format!("adapter import {peft} -m m.gguf -o a.gguf"), 73, "--overwrite");
    says("adapter export a.gguf -m m.gguf -o out --base-model org/base", 0, "8 weights in out");
    says("adapter export a.gguf -m m.gguf -o out", 73, "out: exists and is not empty");
    says("adapter export a.gguf -m m.gguf -o out --overwrite", 0, "8 weights");
    says("adapter import out -m m.gguf -o b.gguf", 0, "8 weights");
    says(&format!("adapter import {peft} -m other.gguf -o c.gguf"), 78, "model.layers.0.self_attn");
    says(&format!("adapter import {peft} -m phi3.gguf -o c.gguf"), 69, "architecture phi3");
    says("adapter import nowhere -m m.gguf -o c.gguf", 66, "nowhere/adapter_config.json");
    says("adapter export a.gguf -m other.gguf -o elsewhere", 78, "a.gguf");
    // Names that GGUF has no place for, damage, another kind of adapter: nothing is written.
    let broken = |change: &dyn Fn(&Path)| {
        std::fs::remove_dir_all(at.join("broken")).ok();
        std::fs::create_dir(at.join("broken")).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(golden("llama").join(file), at.join("broken").join(file)).unwrap();
        }
        change(&at.join("broken"));
    };
    let replaced = |file: &'static str, from: &'static str, to: &'static str| {
        move |path: &Path| {
            let bytes = std::fs::read(path.join(file)).unwrap();
            let text: String = bytes.iter().map(|&b| char::from(b)).collect();
            assert!(text.contains(from) && from.len() == to.len());
            let changed: Vec<u8> = text.replace(from, to).chars().map(|c| c as u8).collect();
            std::fs::write(path.join(file), changed).unwrap();
        }
    };
    let weights = "adapter_model.safetensors";
    for (change, status, text) in [
        (&replaced(weights, "v_proj.lora_A", "v_prox.lora_A") as &dyn Fn(&Path), 69, "v_prox.lora_A.weight"),
        (&replaced(weights, "0.self_attn.v_proj.lora_A", "7.self_attn.v_proj.lora_A"), 65, "one of its two factors"),
        (&replaced("adapter_config.json", "\"use_dora\": false", "\"use_dora\": 12345"), 69, "use_dora"),
        (&replaced("adapter_config.json", "\"r\": 4", "\"r\": 5"), 65, "has rank 5"),
        (&|path: &Path| std::fs::write(path.join(weights), b"short").unwrap(), 65, weights),
    ] {
        broken(change);
        says("adapter import broken -m m.gguf -o c.gguf", status, text);
        assert!(!at.join("c.gguf").exists());
    }
    let base = File::open(&at.join("m.gguf")).unwrap();
    let odd = Lora::init(&[llama_align::adapter::Linear::new("output.weight", 64, 288)], 2, 4.0, 1);
    assert_eq!(peft::write(&odd, &base, None, at).unwrap_err().kind(), Kind::Unsupported);
    assert!(!at.join("adapter_config.json").exists());
}
