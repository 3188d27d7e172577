//! A grid of runs, taken up where it was left; runs side by side.

use super::{done, json, pairs, read, run, workshop};
use std::path::Path;

const GRID: &str = "max_steps = 4\nlearning_rate = 0.005\neval_split = 0.25\nthreads = 1\nlora_rank = 4\n[grid]\n\
                    loss_type = [\"sigmoid\", \"hinge\"]\nseed = [0, 1]\n";
const TRAIN: [&str; 11] =
    ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", "grid", "--config", "grid.toml", "--samples", "0"];
const CELLS: [&str; 4] =
    ["loss_type=sigmoid,seed=0", "loss_type=sigmoid,seed=1", "loss_type=hinge,seed=0", "loss_type=hinge,seed=1"];

fn values(dir: &Path, cell: &str, key: &str) -> Vec<f64> {
    let items = read(dir, &format!("grid/{cell}/eval-items.jsonl"));
    items.lines().map(|line| json(line)[key].as_f64().unwrap()).collect()
}

#[test]
fn a_grid_skips_what_is_finished_and_its_runs_compare() {
    let dir = workshop();
    let dir = dir.path();
    std::fs::write(dir.join("rows.jsonl"), pairs(24, 0)).unwrap();
    std::fs::write(dir.join("grid.toml"), GRID).unwrap();
    done(dir, &TRAIN);
    let bytes = |cell: &str| std::fs::read(dir.join("grid").join(cell).join("adapter.gguf")).unwrap();
    let all = CELLS.map(bytes);
    assert!(all.iter().enumerate().all(|(i, a)| all[..i].iter().all(|b| a != b)), "two cells made the same adapter");
    // One interrupted, one finished and marked, so that a second run of it would show.
    let second = dir.join("grid").join(CELLS[1]);
    std::fs::remove_file(second.join("run.json")).unwrap();
    std::fs::write(second.join("adapter.gguf"), "half").unwrap();
    std::fs::write(dir.join("grid").join(CELLS[0]).join("adapter.gguf"), "mine").unwrap();
    let ran = done(dir, &TRAIN);
    assert_eq!(ran.err.matches("finished already").count(), 3, "{}", ran.err);
    assert!(bytes(CELLS[1]) == all[1] && bytes(CELLS[0]) == b"mine");
    // What is not this cell's run is no result of it.
    let ran = run(dir, &[&TRAIN[..], &["--max-steps", "5"]].concat());
    assert!(ran.status == 73 && ran.err.contains("max_steps") && ran.err.contains(CELLS[0]), "{ran:?}");
    let ran = run(dir, &[&TRAIN[..], &["--seed", "5"]].concat());
    assert!(ran.status == 2 && ran.err.contains("--seed") && ran.err.contains("grid"), "{ran:?}");
    compares(dir);
}

fn compares(dir: &Path) {
    let runs = CELLS.map(|cell| format!("grid/{cell}"));
    let compare: Vec<&str> = ["compare"].into_iter().chain(runs.iter().map(String::as_str)).collect();
    let margins = ["--metric", "rewards/margins", "--baseline"];
    // Every seed has the same rows held out: two runs each, compared item by item after the mean over seeds.
    let ran = done(dir, &[&compare[..], &margins, &["loss_type=hinge", "--json"]].concat());
    let found = json(&ran.out);
    let group = &found["groups"][0];
    let own =
        |cell: &str| json(&read(dir, &format!("grid/{cell}/run.json")))["after"]["rewards/margins"].as_f64().unwrap();
    let (a, b) = (own(CELLS[0]), own(CELLS[1]));
    let cell = &group["cells"]["rewards/margins"];
    assert_eq!(group["name"], "loss_type=sigmoid");
    assert!((cell["mean"].as_f64().unwrap() - (a + b) / 2.0).abs() < 1e-12);
    assert!((cell["sd"].as_f64().unwrap() - (a - b).abs() / 2f64.sqrt()).abs() < 1e-12);
    let over_seeds = |cells: [&str; 2]| -> Vec<f64> {
        let [a, b] = cells.map(|cell| values(dir, cell, "rewards/margins"));
        a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect()
    };
    let (ours, theirs) = (over_seeds([CELLS[0], CELLS[1]]), over_seeds([CELLS[2], CELLS[3]]));
    let wanted = ours.iter().zip(&theirs).map(|(a, b)| a - b).sum::<f64>() / ours.len() as f64;
    let change = &cell["change"];
    assert!((change["difference"].as_f64().unwrap() - wanted).abs() < 1e-12, "{change} {wanted}");
    assert!(change["low"].as_f64().unwrap() <= wanted && wanted <= change["high"].as_f64().unwrap());
    let same = |name: &str| CELLS.map(|cell| read(dir, &format!("grid/{cell}/{name}")));
    let lines = same("eval-items.jsonl").map(|text| text.lines().map(|l| json(l)["line"].clone()).collect::<Vec<_>>());
    assert!(lines.iter().all(|of| *of == lines[0]) && lines[0].len() == 6, "{lines:?}");
    // The same from the items of another task.
    let ran =
        done(dir, &[&compare[..], &["--items", "eval-items.jsonl"], &margins, &["loss_type=hinge", "--json"]].concat());
    let again = json(&ran.out)["groups"][0]["cells"]["rewards/margins"]["mean"].as_f64().unwrap();
    assert!((again - (a + b) / 2.0).abs() < 1e-9, "{again}");
    // One seed each: the same held-out rows, item by item.
    let pair = [compare[1], compare[3]];
    let ran = done(dir, &[&["compare"], &pair[..], &margins, &[CELLS[0], "--json"]].concat());
    let change = json(&ran.out)["groups"][1]["cells"]["rewards/margins"]["change"].clone();
    let (ours, theirs) = (values(dir, CELLS[2], "rewards/margins"), values(dir, CELLS[0], "rewards/margins"));
    let wanted = ours.iter().zip(&theirs).map(|(a, b)| a - b).sum::<f64>() / ours.len() as f64;
    assert!((change["difference"].as_f64().unwrap() - wanted).abs() < 1e-12, "{change}");
    assert!(change["low"].as_f64().unwrap() <= wanted && wanted <= change["high"].as_f64().unwrap());
    for (format, says) in [
        ("md", "| loss_type=sigmoid (baseline) |"),
        ("csv", "loss_type=hinge,1,rewards/margins,"),
        ("latex", "loss\\_type=hinge & 1 & "),
    ] {
        let ran = done(dir, &[&["compare"], &pair[..], &margins, &["loss_type=sigmoid", "--format", format]].concat());
        assert!(ran.out.contains(says), "{format}: {}", ran.out);
    }
    let refusals: [(&[&str], i32, &str); 4] = [
        (&["--baseline", "ppo"], 2, "loss_type=hinge"),
        (&["--metric", "bleu"], 2, "rewards/margins"),
        (&["--items", "nothing.jsonl"], 66, "nothing.jsonl"),
        (&["grid"], 66, "grid/run.json"),
    ];
    for (flags, status, says) in refusals {
        let ran = run(dir, &[&compare[..], flags].concat());
        assert!(ran.status == status && ran.err.contains(says), "{flags:?}: {ran:?}");
    }
}
