//! The command line: ranges, contradictions, spellings, and help that names its defaults.

use super::image::Image;
use super::program::{refused, run};
use super::rows::PAIR;
use std::path::Path;

const TRAIN: [&str; 7] = ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", "run"];

fn workshop(dir: &Path) {
    std::fs::write(dir.join("m.gguf"), Image::of("llama-tied").bytes).unwrap();
    std::fs::write(dir.join("rows.jsonl"), PAIR).unwrap();
}

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    TRAIN.iter().chain(more).copied().collect()
}

#[test]
fn values_out_of_range_are_usage_errors_that_name_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir);
    let cases: [(&str, &[&str]); 15] = [
        ("learning-rate", &["nan", "inf", "-1", "11", "x"]),
        ("lora-rank", &["0", "4097", "-1", "99999999999999999999"]),
        ("lora-alpha", &["nan", "-3", "0", "1e9"]),
        ("beta", &["nan", "0", "-0.1", "1e9"]),
        ("epochs", &["nan", "0", "-1", "1e9"]),
        ("batch-size", &["0", "65537"]),
        ("grad-accum", &["0", "65537"]),
        ("max-length", &["0", "9999999"]),
        ("max-steps", &["-1", "x"]),
        ("threads", &["-1", "x"]),
        ("seed", &["-1", "x"]),
        ("method", &["rlhf", ""]),
        ("lora-targets", &["", "nothing", "attn_q,zzz"]),
        ("config", &["rows.jsonl"]),
        ("unknown-flag", &["1"]),
    ];
    for (flag, values) in cases {
        for value in values {
            let argument = format!("--{flag}={value}");
            let says = if flag == "config" { "rows.jsonl" } else { flag };
            refused(dir, &train(&[&argument]), 2, &[says]);
        }
    }
    refused(dir, &train(&["--epochs", "1", "--max-steps", "1"]), 2, &["--epochs", "--max-steps"]);
    refused(dir, &train(&["--config", "missing.toml"]), 66, &["missing.toml"]);
    let generate = ["generate", "-m", "m.gguf", "-p", "hi"];
    let values = [
        "--temp=nan",
        "--temp=-1",
        "--temp=inf",
        "--top-p=2",
        "--top-p=nan",
        "--min-p=-1",
        "--predict=-1",
        "--seed=-1",
    ];
    for argument in values {
        let flag = argument.split_once('=').unwrap().0;
        refused(dir, &[&generate[..], &[argument]].concat(), 2, &[flag]);
    }
    for scaled in ["a.gguf", "a.gguf:", "a.gguf:x", "a.gguf:nan", "a.gguf:inf", ":"] {
        refused(dir, &[&generate[..], &["--lora-scaled", scaled]].concat(), 2, &["--lora-scaled", scaled]);
    }
    refused(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl", "--beta=nan"], 2, &["--beta"]);
    refused(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl", "--max-length=1"], 2, &["max_length"]);
    refused(dir, &["generate", "-m", "m.gguf"], 2, &["-p TEXT"]);
    refused(dir, &["check", "-m", "missing.gguf"], 66, &["missing.gguf"]);
    refused(dir, &["inspect", "missing.gguf"], 66, &["missing.gguf"]);
    refused(dir, &["inspect", "."], 66, &["config.toml", "run directory"]);
    refused(dir, &[], 2, &["Usage"]);
    refused(dir, &["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn a_configuration_is_checked_and_flags_win_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir);
    let config = |text: &str| std::fs::write(dir.join("c.toml"), text).unwrap();
    let with = train(&["--config", "c.toml", "--dry-run"]);
    for (text, says) in [
        ("beta = 0.2\nbatchsize = 3\n", "batchsize"),
        ("lora_rank = \"x\"\n", "lora_rank"),
        ("beta = nan\n", "beta"),
        ("lora_rank = -1\n", "lora_rank"),
        ("method = \"rlhf\"\n", "method"),
        ("= =", "c.toml"),
    ] {
        config(text);
        refused(dir, &with, 2, &[says]);
    }
    config("lora_rank = 2\nbeta = 0.3\nmax_steps = 7\n");
    let ran = run(dir, &[&with[..], &["--lora_rank", "5", "--epochs=2"]].concat());
    assert_eq!(ran.status, 0, "{}", ran.err);
    for line in ["lora_rank = 5", "beta = 0.3", "max_steps = 0", "epochs = 2.0"] {
        assert!(ran.out.lines().any(|l| l == line), "{line}: {}", ran.out);
    }
    assert!(ran.out.lines().any(|l| l.starts_with("# ") && l.contains("steps: 0:00:")), "{}", ran.out);
    assert!(ran.out.parse::<toml::Table>().is_ok(), "{}", ran.out);
    assert!(!dir.join("run").exists(), "a dry run makes nothing");

    let memory = |given: &str| run(dir, &[&with[..], &["--memory", given]].concat());
    assert!(memory("4G").out.contains("recompute = \"never\""), "{}", memory("4G").out);
    let refusal = memory("1M");
    assert!(
        refusal.status == 2 && refusal.err.contains("MiB beside the mapped model, 0 are allowed"),
        "{}",
        refusal.err
    );
    let never = run(dir, &[&with[..], &["--memory=1M", "--recompute=never"]].concat());
    assert!(never.status == 2 && never.err.contains("with recompute = never"), "{}", never.err);
    refused(dir, &[&with[..], &["--memory=much"]].concat(), 2, &["--memory much", "2G"]);
}

#[test]
fn trl_spellings_reach_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir);
    let flags = [
        "--dry_run",
        "--learning_rate=3e-4",
        "--per_device_train_batch_size",
        "2",
        "--gradient_accumulation_steps=3",
        "--num_train_epochs=1.5",
        "--lora_r",
        "8",
        "--lora_alpha=4",
        "--lora_target_modules=q_proj",
        "--max_seq_length=100",
    ];
    let ran = run(dir, &train(&flags));
    assert_eq!(ran.status, 0, "{}", ran.err);
    let lines = [
        "learning_rate = 0.0003",
        "batch_size = 2",
        "grad_accum = 3",
        "epochs = 1.5",
        "lora_rank = 8",
        "lora_alpha = 4.0",
        "lora_targets = \"q_proj\"",
        "max_length = 100",
    ];
    for line in lines {
        assert!(ran.out.lines().any(|l| l == line), "{line}: {}", ran.out);
    }
}

/// ggml's threads spin while they wait: as many as were asked for would take minutes, or end the process.
#[test]
fn any_number_of_threads_works() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir);
    for threads in ["0", "64", "1000000"] {
        let ran = run(dir, &["check", "-m", "m.gguf", "-t", threads]);
        assert_eq!(ran.status, 0, "{threads} threads: {}", ran.err);
    }
    let ran = run(dir, &train(&["--max-steps", "1", "--threads", "1000000"]));
    assert_eq!(ran.status, 0, "{}", ran.err);
}

#[test]
fn every_flag_of_train_prints_its_default() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(dir.path(), &["train", "--help"]);
    assert_eq!(ran.status, 0);
    // Flags without a default: files, switches, and what stands for another flag.
    let without = [
        "--model",
        "--data",
        "--output",
        "--config",
        "--max-steps",
        "--eval-data",
        "--overwrite",
        "--dry-run",
        "--list-devices",
        "--load-best-model-at-end",
        "--use-rslora",
        "--train-norms",
        "--train-biases",
        "--lora",
        "--change",
        "--mask",
        "--token-weights",
        "--resume",
        "--resume-inexact",
        "--assistant-only-loss",
        "--columns",
        "--parse-special",
        "--packing",
        "--help",
    ];
    let mut seen = 0;
    let mut lines = ran.out.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(flag) =
            line.split_whitespace().find(|word| word.starts_with("--")).filter(|_| line.trim_start().starts_with('-'))
        else {
            continue;
        };
        let mut text = line.to_owned();
        while lines.peek().is_some_and(|next| !next.trim_start().starts_with('-')) {
            text.push_str(lines.next().unwrap_or_default());
        }
        seen += 1;
        assert!(without.contains(&flag) || text.contains("[default: "), "{text}");
    }
    assert!(seen >= 20, "{seen} flags in {}", ran.out);
}

/// Whatever else a command needs, it lists the devices and ends.
#[test]
fn every_command_with_devices_lists_them() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["check", "train", "eval", "generate", "bench", "pairs", "sample", "rate"] {
        let ran = run(dir.path(), &[command, "--list-devices"]);
        assert!(ran.status == 0 && ran.out.contains("Available devices"), "{command}: {ran:?}");
    }
    for command in ["merge", "neurons", "hma"] {
        assert_eq!(run(dir.path(), &[command, "--list-devices"]).status, 2, "{command}");
    }
}
