//! Norms and biases that move beside an adapter, by the real program: files, model, resumption, refusals.

use crate::masks::program::{done, refused, workshop};
use crate::tiny;
use llama_align::adapter::import_changes;
use llama_align::gguf::File;
use quant::Type;
use serde_json::Value;
use std::path::Path;

const TRAIN: [&str; 17] = [
    "train",
    "-m",
    "m.gguf",
    "-d",
    "pairs.jsonl",
    "-t",
    "1",
    "--precision",
    "f32",
    "--lora-rank",
    "2",
    "--learning-rate",
    "0.02",
    "--max-steps",
    "4",
    "--eval-data",
    "pairs.jsonl",
];

fn train(dir: &Path, more: &[&str]) -> String {
    done(dir, &[&TRAIN[..], more].concat())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Log-probs by `eval`.
fn measured(dir: &Path, model: &str, lora: &[&str]) -> Value {
    let eval = ["eval", "-m", model, "-d", "pairs.jsonl", "-t", "1", "--precision", "f32", "--json"];
    json(&done(dir, &[&eval[..], lora].concat()))
}

#[test]
fn the_merged_norms_with_the_adapter_are_what_was_trained_to_the_bit() {
    let shop = workshop();
    let dir = shop.path();
    let run = ["--train-norms", "-o", "run", "--save-steps", "2"];
    let said = train(dir, &run);
    for says in ["--lora does not load them", "merge -m m.gguf --change run/change.gguf", "llama-server -m norms.gguf"]
    {
        assert!(said.contains(says), "{said}");
    }
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let (adapter, change) = (read("run/adapter.gguf"), read("run/change.gguf"));
    let record = json(&String::from_utf8(read("run/run.json")).unwrap());
    assert_eq!(record["change"], Value::from(blake3::hash(&change).to_hex().to_string()));
    let page = String::from_utf8(read("run/report.html")).unwrap();
    assert!(page.contains("llama-server -m norms.gguf --lora adapter.gguf"));

    let base = File::open(&dir.join("m.gguf")).unwrap();
    let changes = import_changes(&File::open(&dir.join("run/change.gguf")).unwrap(), &base).unwrap();
    let norms = base.tensors().iter().filter(|t| t.name.starts_with("blk.") && t.name.ends_with("norm.weight"));
    assert_eq!(changes.len(), norms.count());
    done(dir, &["merge", "-m", "m.gguf", "--change", "run/change.gguf", "--no-verify", "-o", "norms.gguf"]);
    let merged = File::open(&dir.join("norms.gguf")).unwrap();
    let floats = |file: &File, name: &str| -> Vec<f32> {
        let bytes = file.data(file.tensor(name).unwrap());
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    for tensor in base.tensors() {
        match changes.iter().find(|c| c.weight == tensor.name) {
            None => assert!(merged.data(merged.tensor(&tensor.name).unwrap()) == base.data(tensor), "{}", tensor.name),
            Some(change) => {
                assert!(change.values.iter().any(|&v| v != 0.0), "{} did not move", tensor.name);
                let sums: Vec<f32> =
                    floats(&base, &tensor.name).iter().zip(&change.values).map(|(w, d)| w + d).collect();
                assert_eq!(floats(&merged, &tensor.name), sums, "{}", tensor.name);
            }
        }
    }
    done(dir, &["adapter", "rebase", "run/adapter.gguf", "-m", "norms.gguf", "-o", "for-norms.gguf"]);
    let (served, trained) = (measured(dir, "norms.gguf", &["--lora", "for-norms.gguf"]), &record["after"]);
    let without = measured(dir, "m.gguf", &["--lora", "run/adapter.gguf"]);
    for key in ["logps/chosen", "logps/rejected", "nll"] {
        assert!(served[key].is_f64() && served[key] == trained[key], "{key}: {served} {trained}");
        assert_ne!(without[key], trained[key], "the norms do nothing");
    }
    // Both folded into one file: but for rounding the same.
    let both = ["merge", "-m", "m.gguf", "--lora", "run/adapter.gguf", "--change", "run/change.gguf"];
    done(dir, &[&both[..], &["--outtype", "F32", "--no-verify", "-o", "tuned.gguf"]].concat());
    let tuned = measured(dir, "tuned.gguf", &[]);
    for key in ["logps/chosen", "logps/rejected", "nll"] {
        let (a, b) = (tuned[key].as_f64().unwrap(), trained[key].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-4, "{key}: {a} {b}");
    }
    train(dir, &[&run[..], &["--resume", "run/checkpoint-2.gguf"]].concat());
    assert!(read("run/adapter.gguf") == adapter && read("run/change.gguf") == change, "a resumed run has other bytes");
}

#[test]
fn biases_and_the_best_measurement() {
    let shop = workshop();
    let dir = shop.path();
    tiny::find("qwen2").write(&dir.join("m.gguf"), Type::Q8_0).unwrap();
    // At this rate nothing gets better for long.
    let flags: Vec<&str> = TRAIN.iter().map(|a| if *a == "0.02" { "2" } else { a }).collect();
    let best = ["--train-biases", "--eval-steps", "1", "--early-stopping-patience", "1", "-o", "run"];
    done(dir, &[&flags[..], &best].concat());
    let record = json(&std::fs::read_to_string(dir.join("run/run.json")).unwrap());
    assert!(record["best"]["step"].as_u64().unwrap() < record["steps"].as_u64().unwrap(), "{record}");
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    assert!(read("run/adapters/best.change.gguf") == read("run/change.gguf"));
    let base = File::open(&dir.join("m.gguf")).unwrap();
    let changes = import_changes(&File::open(&dir.join("run/change.gguf")).unwrap(), &base).unwrap();
    assert!(!changes.is_empty() && changes.iter().all(|c| c.weight.ends_with(".bias")));
}

#[test]
fn what_moves_no_norms_is_refused_by_name() {
    let shop = workshop();
    let dir = shop.path();
    let refused_for = |more: &[&str], status, says: &[&str]| {
        refused(dir, &[&TRAIN[..], &["-o", "x"], more].concat(), status, says);
    };
    refused_for(&["--train-biases"], 2, &["train-biases", "have none"]);
    refused_for(&["--train-norms", "--mask", "x.gguf"], 2, &["train-norms", "mask"]);
    refused_for(&["--train-norms", "--eval-steps", "1", "--keep-adapters", "1"], 2, &["keep-adapters", "norms"]);
    std::fs::write(dir.join("c.toml"), "train_norms = true\n").unwrap();
    let neurons = ["neurons", "-m", "m.gguf", "-d", "pairs.jsonl", "-o", "y.gguf", "--config", "c.toml"];
    refused(dir, &neurons, 2, &["train-norms"]);
    // With the weights themselves they are in one file, and an adapter of the same weight is one change too many.
    done(
        dir,
        &[
            "train",
            "-m",
            "m.gguf",
            "-d",
            "pairs.jsonl",
            "-t",
            "1",
            "--delta",
            "full",
            "--train-norms",
            "-o",
            "full",
            "--max-steps",
            "1",
            "--learning-rate",
            "1e-3",
        ],
    );
    let base = File::open(&dir.join("m.gguf")).unwrap();
    let changes = import_changes(&File::open(&dir.join("full/change.gguf")).unwrap(), &base).unwrap();
    assert!(changes.iter().any(|c| c.weight.ends_with("norm.weight") && c.values.iter().any(|&v| v != 0.0)));
    train(dir, &["-o", "run"]);
    let both = ["merge", "-m", "m.gguf", "--lora", "run/adapter.gguf", "--change", "full/change.gguf", "-o", "z.gguf"];
    refused(dir, &both, 78, &["blk.0.attn_", "an adapter adapts it"]);
}
