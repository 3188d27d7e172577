//! ALLO's stages under `kill -9` and signals: whichever of them it meets, the run that is taken up ends with the bytes of one that
//! never stopped, and no finished stage is made again.

use super::Workshop;
use crate::random::Random;
use std::time::{Duration, Instant};

const INSTANTS: usize = 6;

#[test]
fn a_kill_in_any_stage_loses_nothing() {
    let shop = Workshop::new(12);
    let common = ["--method", "allo", "-t", "1", "--lora-rank", "2", "--batch-size", "2", "--grad-accum", "1"];
    let plan = ["--stage-steps", "6,6,6", "--save-steps", "2", "--eval-data", "held-out.jsonl", "--resume", "auto"];
    let flags = [&common[..], &plan].concat();
    let begun = Instant::now();
    shop.finish("whole", &flags);
    let whole = begun.elapsed();
    let mut random = Random::of("allo");
    let (mut cut, mut skipped) = (0, 0);
    for instant in 0..INSTANTS {
        let run = format!("run-{instant}");
        for _ in 0..2 {
            let mut child = shop.spawn(&run, &flags);
            std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * (random.below(1000) as f64) / 1000.0));
            child.kill().unwrap();
            child.wait().unwrap();
            cut += usize::from(!shop.files(&run).contains_key("run.json"));
        }
        let finished = shop.path(&run).join("warm-up/run.json").exists();
        let ended = shop.run(&run, &flags);
        assert_eq!(ended.status, Some(0), "instant {instant}: {}", ended.err);
        assert_eq!(ended.err.contains("warm-up: the run ended already"), finished, "{}", ended.err);
        skipped += usize::from(finished);
        for part in ["", "/warm-up", "/forgetting", "/learning"] {
            let files = |of: &str| {
                let mut files = shop.files(&format!("{of}{part}"));
                // Its page tells the configuration, and where masks and weights lie in it.
                files.retain(|name, _| part.is_empty() || name != "report.html");
                files
            };
            let (whole, taken) = (files("whole"), files(&run));
            assert_eq!(whole.keys().collect::<Vec<_>>(), taken.keys().collect::<Vec<_>>(), "instant {instant}{part}");
            whole.iter().for_each(|(name, bytes)| assert!(bytes == &taken[name], "instant {instant}{part}: {name}"));
            assert!(whole.contains_key("adapter.gguf") && whole.contains_key("metrics.jsonl"));
        }
    }
    assert!(cut >= INSTANTS / 2, "only {cut} of {} kills came before the end", 2 * INSTANTS);
    assert!(skipped > 0, "no kill came behind the first stage");
}
