//! `kill -9` at seeded instants: whatever was lost, the run that is taken up ends with the bytes of one that never stopped.

use super::Workshop;
use crate::random::Random;
use std::time::{Duration, Instant};

/// Instants of one loss; there are five.
const INSTANTS: usize = 8;

/// Runs to the end, then again and again with a kill somewhere on the way, and one more somewhere in the second attempt.
fn killed_runs_end_as_whole_ones(loss: &[&str]) {
    let shop = Workshop::new(12);
    let common = ["-t", "1", "--lora-rank", "2", "--batch-size", "2", "--grad-accum", "1", "--epochs", "4"];
    let saved = ["--save-steps", "2", "--eval-data", "held-out.jsonl", "--resume", "auto"];
    let flags = [&common[..], &saved, loss].concat();
    let begun = Instant::now();
    shop.finish("whole", &flags);
    let whole = begun.elapsed();
    let mut random = Random::of(&loss.join(" "));
    let (mut cut, mut taken_up) = (0, 0);
    for instant in 0..INSTANTS {
        let run = format!("run-{instant}");
        for _ in 0..2 {
            let mut child = shop.spawn(&run, &flags);
            let wait = whole.as_secs_f64() * (random.below(1000) as f64) / 1000.0;
            std::thread::sleep(Duration::from_secs_f64(wait));
            child.kill().unwrap();
            child.wait().unwrap();
            cut += usize::from(!shop.files(&run).contains_key("run.json"));
        }
        let files = shop.files(&run);
        let from_checkpoint =
            !files.contains_key("run.json") && files.keys().any(|name| name.starts_with("checkpoint-"));
        let ended = shop.run(&run, &flags);
        assert_eq!(ended.status, Some(0), "{loss:?}, instant {instant}: {}", ended.err);
        assert_eq!(ended.err.contains("the run goes on after step"), from_checkpoint, "{}", ended.err);
        taken_up += usize::from(from_checkpoint);
        shop.assert_same("whole", &run, &format!("{loss:?}, instant {instant}"));
    }
    // The instants are drawn over the whole run, of which most comes before the record is there.
    assert!(cut >= INSTANTS / 2, "only {cut} of {} kills came before the end", 2 * INSTANTS);
    assert!(taken_up > 0, "no kill came between a checkpoint and the end");
}

#[test]
fn dpo() {
    killed_runs_end_as_whole_ones(&[
        "--loss-type",
        "sigmoid",
        "--lr-scheduler-type",
        "cosine_with_min_lr",
        "--eval-steps",
        "3",
    ]);
}

#[test]
fn a_mixture_with_sgd() {
    killed_runs_end_as_whole_ones(&[
        "--loss-type",
        "simpo,sft",
        "--loss-weights",
        "0.7,0.3",
        "--optim",
        "sgd",
        "--learning-rate",
        "0.01",
    ]);
}

#[test]
fn orpo_with_the_best_adapter_as_the_result() {
    let best = ["--eval-steps", "2", "--load-best-model-at-end", "--learning-rate", "0.05", "--keep-adapters", "2"];
    killed_runs_end_as_whole_ones(&[&["--loss-type", "orpo", "--weight-decay", "0.1"], &best[..]].concat());
}

#[test]
fn kto() {
    killed_runs_end_as_whole_ones(&["--method", "kto", "--lora-dropout", "0.2"]);
}

#[test]
fn sft() {
    killed_runs_end_as_whole_ones(&["--method", "sft", "--precision", "f32", "--warmup-steps", "3", "--train-norms"]);
}
