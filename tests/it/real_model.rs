//! The program on a real model: SmolLM2-135M-Instruct in Q4_1, whose path the variable `LLAMA_ALIGN_TEST_MODEL` holds.
//! `make test` fetches it and runs these; without it they are not run, and `make test` says so.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn model() -> PathBuf {
    std::env::var_os("LLAMA_ALIGN_TEST_MODEL").expect("LLAMA_ALIGN_TEST_MODEL names a model").into()
}

/// Runs the program; returns what it printed.
fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_llama-align")).args(arguments).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} ended with {:?}: {talk}", output.status.code());
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let text = run(arguments);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const TRAIN: &str = "demo/pairs-train.jsonl";
const HELD_OUT: &str = "demo/pairs-eval.jsonl";

#[test]
#[ignore = "needs a real model: make test"]
fn real_model_is_reproduced_exactly() {
    let report = json(&["check", "-m", text(&model()), "--json"]);
    assert_eq!((&report["architecture"], &report["ok"]), (&"llama".into(), &true.into()), "{report}");
    assert_eq!(report["runtime_form"]["max_abs_diff"], 0.0);
    assert!(report["training_form"]["max_rel_diff"].as_f64().unwrap() < 0.05);
    assert_eq!(report["trainable"].as_array().unwrap().len(), 210);
}

#[test]
#[ignore = "needs a real model: make test"]
fn real_model_learns_and_the_adapter_file_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let (model, out) = (model(), directory.path().join("run"));
    // Forty-eight rows in six steps: so few need a higher rate to show in an answer.
    let train = ["train", "-m", text(&model), "-d", TRAIN, "--eval-data", HELD_OUT, "-o", text(&out)];
    run(&[&train[..], &["--max-steps", "6", "--learning-rate", "1e-3"]].concat());
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    let (before, first, after) = (&lines[0], &lines[1], &lines[7]);
    // At step 0 the policy is the reference.
    assert_eq!((&first["rewards/margins"], &before["eval_rewards/margins"]), (&0.0.into(), &0.0.into()));
    assert!((first["loss"].as_f64().unwrap() - 2f64.ln()).abs() < 1e-12);
    assert!(lines[6]["loss"].as_f64() < first["loss"].as_f64());
    assert!(after["eval_rewards/accuracies"].as_f64() > Some(0.9), "{after}");

    let adapter = out.join("adapter.gguf");
    let again = json(&["eval", "-m", text(&model), "--lora", text(&adapter), "-d", HELD_OUT, "--json"]);
    for key in ["n_pairs", "accuracy", "logps_chosen", "logps_rejected", "rewards/accuracies", "rewards/margins"] {
        let (file, engine) = (again[key].as_f64().unwrap(), after[&format!("eval_{key}")].as_f64().unwrap());
        assert!((file - engine).abs() <= 1e-6 * engine.abs(), "{key}: {file} from the file, {engine} in training");
    }
    let described = json(&["inspect", text(&adapter), "--json"]);
    assert_eq!(described["adapted_weights"].as_array().unwrap().len(), 210);
    let prompt = ["-p", "What is castling in chess?", "-n", "12"];
    let plain = run(&[&["generate", "-m", text(&model)][..], &prompt].concat());
    let adapted = run(&[&["generate", "-m", text(&model), "--lora", text(&adapter)][..], &prompt].concat());
    let silenced = format!("{}:0", text(&adapter));
    let scaled = run(&[&["generate", "-m", text(&model), "--lora-scaled", &silenced][..], &prompt].concat());
    assert!(!plain.trim().is_empty() && plain != adapted, "{plain:?}");
    assert_eq!(plain, scaled);
}
