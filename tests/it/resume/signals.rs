//! Ctrl-C: the first one leaves a checkpoint and status 130, the second one leaves at once.

use super::{Ended, Workshop};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_first_signal_leaves_a_checkpoint_from_which_the_run_ends_as_if_nothing_had_been() {
    let shop = Workshop::new(12);
    let flags =
        ["-t", "1", "--lora-rank", "2", "--max-steps", "400", "--save-steps", "0", "--eval-data", "held-out.jsonl"];
    shop.finish("whole", &flags);
    for name in ["INT", "TERM"] {
        let run = format!("run-{name}");
        let child = shop.spawn(&run, &flags);
        wait_until("the tenth step", || shop.metrics_lines(&run) > 10);
        signal(&child, name);
        let Ended { status, err } = shop.end(child);
        assert_eq!(status, Some(130), "{err}");
        assert!(err.contains("stopped") && err.contains("--resume auto"), "{err}");
        let files = shop.files(&run);
        let checkpoint = files.keys().find(|n| n.starts_with("checkpoint-")).expect("a checkpoint");
        let step: usize = checkpoint["checkpoint-".len()..].strip_suffix(".gguf").unwrap().parse().unwrap();
        // One line is the evaluation before the run.
        assert_eq!(shop.metrics_lines(&run), step + 1);
        assert!(!files.contains_key("adapter.gguf") && (10..400).contains(&step));
        shop.finish(&run, &["--resume", "auto"]);
        std::fs::remove_file(shop.path(&run).join(format!("checkpoint-{step}.gguf"))).unwrap();
        shop.assert_same("whole", &run, name);
    }
}

#[test]
fn the_second_signal_leaves_at_once() {
    // The reference pass over these takes a second, and a first signal waits for its end.
    let shop = Workshop::new(4000);
    let child = shop.spawn("run", &["-t", "1", "--lora-rank", "2"]);
    let said = |text: &str| std::fs::read_to_string(shop.path("stderr")).is_ok_and(|err| err.contains(text));
    wait_until("the reference pass", || said("reference log-probs"));
    signal(&child, "INT");
    wait_until("an answer", || said("interrupted"));
    let begun = Instant::now();
    signal(&child, "INT");
    let Ended { status, err } = shop.end(child);
    assert_eq!(status, Some(130), "{err}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(shop.files("run").keys().all(|name| name == "metrics.jsonl"), "{:?}", shop.files("run").keys());
    // Nothing was lost but time: the same directory is taken for the run's beginning.
    shop.finish("run", &["-t", "1", "--lora-rank", "2", "--max-steps", "2", "--resume", "auto"]);
}
