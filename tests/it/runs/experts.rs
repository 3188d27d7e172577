//! Mixtures of experts by the real program: trained with their experts, served by llama.cpp, folded.

use super::{done, json, pairs, read, run};
use crate::tiny;
use quant::Type;
use std::path::Path;

const TRAIN: [&str; 14] = [
    "train",
    "-m",
    "m.gguf",
    "-d",
    "rows.jsonl",
    "--method",
    "dpo",
    "--lr",
    "1e-2",
    "--batch-size",
    "2",
    "--grad-accum",
    "1",
    "-t",
];

fn loss(dir: &Path, metrics: &str) -> (f64, f64) {
    let losses: Vec<f64> = read(dir, metrics).lines().map(json).filter_map(|line| line["loss"].as_f64()).collect();
    (losses[0], losses[losses.len() - 1])
}

#[test]
fn are_trained_with_their_experts_served_and_folded() {
    for (name, ty) in [("llama-experts", Type::Q8_0), ("qwen2moe", Type::F32), ("gpt-oss", Type::Q4_0)] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        tiny::find(name).write(&dir.join("m.gguf"), ty).unwrap();
        std::fs::write(dir.join("rows.jsonl"), pairs(12, 0)).unwrap();
        let train = |targets: &str, to: &str| {
            let rest = ["1", "--epochs", "3", "--lora-rank", "4", "--lora-targets", targets, "-o", to];
            done(dir, &[&TRAIN[..], &rest].concat())
        };
        train("all-linear", "plain");
        train("all-linear,experts", "all");
        for run in ["plain", "all"] {
            let (first, last) = loss(dir, &format!("{run}/metrics.jsonl"));
            assert!((first - std::f64::consts::LN_2).abs() < 1e-6 && last < 0.6, "{name} {run}: {first} to {last}");
        }
        let adapted = |run: &str| done(dir, &["inspect", &format!("{run}/adapter.gguf"), "--json"]).out;
        let of_experts = |text: &str| text.contains("ffn_down_exps.weight");
        assert!(!of_experts(&adapted("plain")) && of_experts(&adapted("all")), "{name}");
        assert!(!adapted("all").contains("ffn_gate_inp"), "{name}: a router is adapted unasked");
        let lora = ["--lora", "all/adapter.gguf"];
        let accuracy = |flags: &[&str]| {
            let args = [&["eval", "-d", "rows.jsonl", "-t", "1", "--json", "-m"][..], flags].concat();
            json(&done(dir, &args).out)["rewards/accuracies"].as_f64()
        };
        let with_adapter = accuracy(&[&["m.gguf"][..], &lora].concat());
        assert!(with_adapter.is_some_and(|a| a > 0.9), "{name}: {with_adapter:?}");
        // llama.cpp itself loads the factors of experts, and the model that they are folded into.
        done(dir, &[&["generate", "-m", "m.gguf", "-p", "q1", "-n", "4", "-t", "1"][..], &lora].concat());
        let merge = ["merge", "-m", "m.gguf", "--outtype", "Q8_0", "--no-verify", "-o", "folded.gguf"];
        done(dir, &[&merge[..], &lora].concat());
        done(dir, &["check", "-m", "folded.gguf", "-t", "1"]);
    }
}

#[test]
fn are_not_what_masks_and_whole_changes_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    tiny::find("llama-experts").write(&dir.join("m.gguf"), Type::F32).unwrap();
    std::fs::write(dir.join("rows.jsonl"), pairs(4, 0)).unwrap();
    let rest = ["1", "--lora-targets", "experts", "--delta", "full", "-o", "run"];
    let refused = run(dir, &[&TRAIN[..], &rest].concat());
    assert!(refused.status == 69 && refused.err.contains("_exps.weight"), "{}", refused.err);
    done(dir, &["neurons", "-m", "m.gguf", "-d", "rows.jsonl", "-t", "1", "--ratio", "0.5", "-o", "mask.gguf"]);
    let rest = ["1", "--lora-targets", "experts", "--mask", "mask.gguf", "-o", "run"];
    let refused = run(dir, &[&TRAIN[..], &rest].concat());
    assert!(refused.status == 69 && refused.err.contains("cannot be held by a mask"), "{}", refused.err);
    let targets = run(dir, &[&TRAIN[..], &["1", "--lora-targets", "expert", "-o", "run"]].concat());
    assert!(targets.status == 2 && targets.err.contains("ffn_gate_exps"), "{}", targets.err);
}
