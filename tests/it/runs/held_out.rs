//! Held-out rows: split off, measured on the way, the best adapter kept, a run that overfits stopped; and the record.

use super::{done, json, pairs, read, run, workshop};
use std::path::Path;

const TRAIN: [&str; 9] = ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-t", "1", "-o", "run"];

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    TRAIN.iter().chain(more).copied().collect()
}

fn evaluations(dir: &Path) -> Vec<(u64, f64)> {
    let text = read(dir, "run/metrics.jsonl");
    let lines = text.lines().map(json).filter(|line| line.get("eval_loss").is_some());
    lines.map(|l| (l["global_step"].as_u64().unwrap(), l["eval_loss"].as_f64().unwrap())).collect()
}

fn kept(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("run/adapters")).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Six rows learned by heart at a high rate: the held-out loss falls or stays for some steps, then rises.
#[test]
fn a_run_that_overfits_is_stopped_and_its_best_adapter_kept() {
    let dir = workshop();
    let dir = dir.path();
    std::fs::write(dir.join("rows.jsonl"), pairs(6, 0)).unwrap();
    std::fs::write(dir.join("held.jsonl"), pairs(8, 40)).unwrap();
    let flags = ["--method", "sft", "--eval-data", "held.jsonl", "--learning-rate", "0.02", "--max-steps", "60"];
    let stop = ["--eval-steps", "2", "--early-stopping-patience", "3", "--keep-adapters", "2"];
    done(dir, &train(&[&flags[..], &stop].concat()));
    let found = evaluations(dir);
    let record = json(&read(dir, "run/run.json"));
    let (last, steps) = (found.last().unwrap().0, record["steps"].as_u64().unwrap());
    assert!(steps < 60 && steps == last && record["stopped_early"] == true, "{found:?}");
    // The best measurement of those on the way, and three after it that were no better.
    let best = found[1..].iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(record["best"]["step"].as_u64(), Some(best.0), "{found:?}");
    assert_eq!((record["best"]["metric"].as_str(), record["best"]["value"].as_f64()), (Some("loss"), Some(best.1)));
    assert_eq!(best.0 + 6, last);
    assert_eq!(record["after"]["loss"].as_f64(), Some(best.1));
    assert_eq!(
        kept(dir),
        ["best.gguf".to_owned(), format!("step-{:06}.gguf", last - 2), format!("step-{last:06}.gguf")]
    );
    let bytes = |name: &str| std::fs::read(dir.join("run").join(name)).unwrap();
    assert!(bytes("adapter.gguf") == bytes("adapters/best.gguf"));
    assert!(bytes("adapter.gguf") != bytes(&format!("adapters/step-{last:06}.gguf")));
    // The adapter gives the measurement it was chosen for.
    let eval = ["eval", "-m", "m.gguf", "--lora", "run/adapter.gguf", "-d", "held.jsonl", "-t", "1", "--json"];
    let nll = json(&done(dir, &eval).out)["nll"].as_f64().unwrap();
    assert!((nll - best.1).abs() < 1e-9, "{nll} {}", best.1);
    // Without patience the same run goes on to its end, and its last adapter is the result.
    done(dir, &train(&[&flags[..], &["--eval-steps", "20", "--overwrite"]].concat()));
    let record = json(&read(dir, "run/run.json"));
    assert_eq!(evaluations(dir).iter().map(|e| e.0).collect::<Vec<_>>(), [0, 20, 40, 60]);
    assert!(record["stopped_early"] == false && record["steps"] == 60 && !dir.join("run/adapters").exists());
}

#[test]
fn equal_runs_leave_equal_bytes_and_no_path() {
    let dir = workshop();
    let dir = dir.path();
    std::fs::write(dir.join("rows.jsonl"), pairs(20, 0)).unwrap();
    let flags = train(&["--eval-split", "0.25", "--max-steps", "3", "--eval-steps", "2"]);
    let mut left = Vec::new();
    for output in ["run", "elsewhere"] {
        let flags: Vec<_> = flags.iter().map(|&f| if f == "run" { output } else { f }).collect();
        done(dir, &flags);
        left.push(["run.json", "metrics.jsonl", "eval-items.jsonl"].map(|name| read(&dir.join(output), name)));
    }
    assert_eq!(left[0], left[1]);
    let record = json(&left[0][0]);
    let [train, held] = ["data", "eval_data"].map(|key| record[key]["rows"].as_u64().unwrap());
    assert_eq!((train, held), (15, 5));
    assert_eq!(left[0][2].lines().count(), 5);
    assert!(!left[0][0].contains(dir.to_str().unwrap()) && !left[0][0].contains("jsonl"));
    assert_eq!(record["config"]["seed"], 0);
    assert_eq!(record["before"]["rewards/margins"], 0.0);
    let (n, tokens) = (record["base"]["parameters"].as_u64().unwrap(), record["tokens"].as_u64().unwrap());
    assert_eq!(record["flops"]["estimated_per_pass"].as_u64(), Some(2 * n * tokens));
    // Forward, backward, the reference and the measurements: several passes over the blocks' share of N.
    let passes = record["flops"]["executed"].as_f64().unwrap() / (2 * n * tokens) as f64;
    assert!((1.0..12.0).contains(&passes), "{passes} passes");
    // A loss of ln 2 at the start, as nothing has moved; norms by block make up the norm.
    for line in left[0][1].lines().map(json) {
        if line["global_step"] == 0 {
            assert!((line["eval_loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-12);
        }
        if let Some(norms) = line["block_grad_norms"].as_array() {
            let sum: f64 = norms.iter().map(|n| n.as_f64().unwrap().powi(2)).sum();
            assert!((sum.sqrt() / line["grad_norm"].as_f64().unwrap() - 1.0).abs() < 1e-12 && norms.len() == 2);
        }
    }
}

/// The first step sees the model as it was measured before it: the same rows have the same rewards by any loss.
#[test]
fn held_out_rewards_are_the_training_ones() {
    let dir = workshop();
    let dir = dir.path();
    std::fs::write(dir.join("rows.jsonl"), pairs(4, 0)).unwrap();
    for loss in ["sigmoid", "simpo", "cpo", "orpo", "ipo"] {
        let rows = ["--eval-data", "rows.jsonl", "--batch-size", "4", "--grad-accum", "1", "--max-steps", "1"];
        done(dir, &train(&[&rows[..], &["--loss-type", loss, "--overwrite", "--samples", "0"]].concat()));
        let lines: Vec<_> = read(dir, "run/metrics.jsonl").lines().map(json).collect();
        for key in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"] {
            let (held, step) = (lines[0][format!("eval_{key}")].as_f64().unwrap(), lines[1][key].as_f64().unwrap());
            assert!((held - step).abs() < 1e-9 * (1.0 + step.abs()), "{loss} {key}: {held}, in training {step}");
        }
        assert_eq!(lines[1]["rewards/chosen"] == 0.0, ["sigmoid", "ipo"].contains(&loss), "{loss}");
    }
}

#[test]
fn flags_that_lack_what_they_need_are_refused() {
    let dir = workshop();
    let dir = dir.path();
    std::fs::write(dir.join("rows.jsonl"), pairs(4, 0)).unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["--eval-split", "0.2", "--eval-data", "rows.jsonl"], "--eval-data"),
        (&["--eval-steps", "2"], "eval-steps"),
        (&["--eval-split", "0.2", "--early-stopping-patience", "2"], "early-stopping-patience"),
        (&["--eval-split", "0.2", "--keep-adapters", "2"], "keep-adapters"),
        (&["--eval-split", "1.5"], "eval-split"),
        (&["--eval-split", "0.3", "--eval-steps", "1", "--metric-for-best-model", "bleu"], "rewards/margins"),
    ];
    for (flags, says) in cases {
        let ran = run(dir, &train(flags));
        assert!(ran.status == 2 && ran.err.contains(says), "{flags:?}: {ran:?}");
        std::fs::remove_dir_all(dir.join("run")).ok();
    }
}
