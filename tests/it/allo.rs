//! `train --method allo` by the real program: its stages are the runs that one makes by hand, to the bit.

use crate::masks::program::{done, refused, workshop};
use llama_align::adapter::import_changes;
use llama_align::gguf::File;
use llama_align::mask::{Granularity, Mask};
use serde_json::Value;
use std::path::Path;

const ALLO: [&str; 13] = [
    "train",
    "-m",
    "m.gguf",
    "-d",
    "pairs.jsonl",
    "-t",
    "1",
    "--method",
    "allo",
    "--stage-steps",
    "2,1,2",
    "--samples",
    "1",
];
const TRAIN: [&str; 7] = ["train", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn json(dir: &Path, name: &str) -> Value {
    serde_json::from_slice(&bytes(dir, name)).unwrap()
}

#[test]
fn one_command_is_its_stages_by_hand() {
    let shop = workshop();
    let dir = shop.path();
    let held = ["--eval-data", "pairs.jsonl"];
    let choice = ["--mask-ratio", "0.2", "--forget-ratio", "0.1", "--rejected-share", "0.3", "--tokens-share", "0.4"];
    let said = done(dir, &with(&ALLO, &with(&with(&held, &choice), &["-o", "run", "--learning-rate", "1e-3"])));
    for stage in ["warm-up", "forgetting", "learning"] {
        assert!(said.contains(&format!("{stage} ")), "{said}");
    }
    assert!(said.contains("log-prob of chosen answers") && said.contains("run/adapter.gguf"), "{said}");
    done(dir, &with(&TRAIN, &["-o", "warm", "--max-steps", "2", "--learning-rate", "2e-4"]));
    assert!(bytes(dir, "warm/adapter.gguf") == bytes(dir, "run/warm-up/adapter.gguf"));
    for (name, ratio) in [("forgetting-mask", "0.1"), ("learning-mask", "0.2")] {
        let made = format!("{name}.gguf");
        done(dir, &["neurons", "-m", "m.gguf", "--lora", "warm/adapter.gguf", "-o", &made, "--ratio", ratio]);
        assert!(bytes(dir, &made) == bytes(dir, &format!("run/{made}")), "{name}");
    }
    let mask = |name: &str| Mask::read(&dir.join(name)).unwrap();
    assert!(mask("forgetting-mask.gguf").is_within(&mask("learning-mask.gguf")).unwrap());
    let tell = ["token-weights", "-m", "m.gguf", "--lora", "warm/adapter.gguf", "-d", "pairs.jsonl", "-t", "1"];
    done(dir, &with(&tell, &["-o", "token-weights.jsonl", "--share", "0.4"]));
    assert!(bytes(dir, "token-weights.jsonl") == bytes(dir, "run/token-weights.jsonl"));
    let forget = ["--method", "npo", "--max-steps", "1", "--learning-rate", "1e-4", "--warmup-ratio", "0.03"];
    let held_back = ["--mask", "forgetting-mask.gguf", "--token-weights", "token-weights.jsonl", "-o", "forgotten"];
    done(dir, &with(&TRAIN, &with(&forget, &held_back)));
    assert!(bytes(dir, "forgotten/adapter.gguf") == bytes(dir, "run/forgetting/adapter.gguf"));
    let learn = ["--max-steps", "2", "--learning-rate", "1e-3", "--rejected-share", "0.3", "-o", "learned"];
    let from = ["--lora", "forgotten/adapter.gguf", "--mask", "learning-mask.gguf"];
    done(dir, &with(&TRAIN, &with(&learn, &from)));
    assert!(bytes(dir, "learned/adapter.gguf") == bytes(dir, "run/adapter.gguf"));
    summed_up(dir);
}

/// One record of all, against the model that it began with.
fn summed_up(dir: &Path) {
    let record = json(dir, "run/run.json");
    let stages: Vec<Value> =
        ["warm-up", "forgetting", "learning"].map(|s| json(dir, &format!("run/{s}/run.json"))).into();
    let sum = |key: &str| stages.iter().map(|s| s[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((record["steps"].as_u64().unwrap(), record["tokens"].as_u64().unwrap()), (sum("steps"), sum("tokens")));
    assert_eq!((&record["config"]["method"], &record["config"]["mask_ratio"]), (&"allo".into(), &0.2.into()));
    assert_eq!(record["train"]["stages"].as_array().unwrap().len(), 3);
    let of = |key: &str| [&record["before"], &record["after"]].map(|r| r[key].as_f64().unwrap());
    assert_eq!(record["before"]["nll"], stages[0]["before"]["nll"]);
    assert_eq!(record["after"]["nll"], stages[2]["after"]["nll"]);
    // Rewards are against the model that it began with, of which learning alone knows nothing.
    let ([c0, c1], [r0, r1], [_, margin]) = (of("logps/chosen"), of("logps/rejected"), of("rewards/margins"));
    assert!((margin - 0.1 * ((c1 - c0) - (r1 - r0))).abs() < 1e-9, "{margin}");
    assert_ne!(record["after"]["rewards/margins"], stages[2]["after"]["rewards/margins"]);
    let metrics = String::from_utf8(bytes(dir, "run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let steps: Vec<_> = lines.iter().filter(|l| l.get("loss").is_some()).collect();
    let numbers: Vec<_> = steps.iter().map(|l| l["global_step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(
        (&steps[2]["stage"], steps[4]["num_tokens"].as_u64()),
        (&"forgetting".into(), record["tokens"].as_u64())
    );
    assert!(steps[2].get("logps/chosen").is_some());
    let page = String::from_utf8(bytes(dir, "run/report.html")).unwrap();
    assert!(page.contains("ALLO on"), "no page of the whole");
    assert_eq!(bytes(dir, "run/samples.jsonl"), bytes(dir, "run/learning/samples.jsonl"));
    let table = done(dir, &["compare", "run", "run", "--metric", "rewards/margins"]);
    assert!(table.contains("| all  | 2 |"), "{table}");
    // Taken up, it is found to have ended; its plan is known from its directory.
    let before = bytes(dir, "run/run.json");
    done(dir, &["train", "-m", "m.gguf", "-d", "pairs.jsonl", "-o", "run", "--resume", "auto", "-t", "1"]);
    assert!(bytes(dir, "run/run.json") == before);
}

#[test]
fn whole_weights_are_held_singly_and_learning_goes_on_from_what_was_forgotten() {
    let shop = workshop();
    let dir = shop.path();
    let full =
        ["--delta", "full", "--learning-rate", "1e-3", "--mask-ratio", "0.1", "-o", "run", "--eval-split", "0.3"];
    let said = done(dir, &with(&ALLO, &full));
    assert!(said.contains("merge -m m.gguf --change run/change.gguf"), "{said}");
    let base = File::open(&dir.join("m.gguf")).unwrap();
    let changes = |name: &str| import_changes(&File::open(&dir.join(name)).unwrap(), &base).unwrap();
    let masks = ["forgetting", "learning"].map(|s| Mask::read(&dir.join(format!("run/{s}-mask.gguf"))).unwrap());
    assert_eq!((masks[0].granularity(), masks[0].count()), (Granularity::Weight, masks[0].n() / 20));
    assert!(masks[0].is_within(&masks[1]).unwrap());
    let (forgotten, learned) = (changes("run/forgetting/change.gguf"), changes("run/change.gguf"));
    for (found, mask) in [(&forgotten, &masks[0]), (&learned, &masks[1])] {
        let (mut moved, mut strayed) = (0u64, 0u64);
        for change in found {
            let bits = &mask.tensor(&change.weight).unwrap().bits;
            for i in (0..change.values.len()).filter(|&i| change.values[i].to_bits() != 0) {
                (moved, strayed) = (moved + 1, strayed + u64::from(!bits.get(i)));
            }
        }
        assert!(strayed == 0 && moved * 10 > mask.count() * 8, "{moved} moved, {strayed} of them masked out");
    }
    assert!(bytes(dir, "run/change.gguf") == bytes(dir, "run/learning/change.gguf"));
    // By hand: from the changes that forgetting left.
    let learn = ["--delta", "full", "--max-steps", "2", "--learning-rate", "1e-3", "--rejected-share", "0.1"];
    let from = ["--change", "run/forgetting/change.gguf", "--mask", "run/learning-mask.gguf", "--eval-split", "0.3"];
    done(dir, &with(&TRAIN, &with(&with(&learn, &from), &["-o", "learned"])));
    assert!(bytes(dir, "learned/change.gguf") == bytes(dir, "run/change.gguf"));
    done(
        dir,
        &with(&TRAIN, &with(&learn[2..], &["--delta", "full", "--mask", "run/learning-mask.gguf", "-o", "fresh"])),
    );
    assert!(bytes(dir, "fresh/change.gguf") != bytes(dir, "run/change.gguf"));
    let change = ["--change", "run/change.gguf", "-o", "bad"];
    refused(dir, &with(&TRAIN, &change), 2, &["change", "--delta full"]);
    let other = ["train", "-m", "other.gguf", "-d", "pairs.jsonl", "--delta", "full"];
    refused(dir, &with(&other, &change), 78, &["change.gguf", "other.gguf"]);
    let part = ["--delta", "full", "--layers-to-transform", "0"];
    refused(dir, &with(&TRAIN, &with(&part, &change)), 78, &["change.gguf", "blk.1."]);
}

#[test]
fn what_is_not_this_methods_or_not_this_runs_is_refused() {
    let shop = workshop();
    let dir = shop.path();
    let out = ["-o", "run"];
    for (flags, says) in [
        (&["--mask", "m.gguf"][..], "mask"),
        (&["--token-weights", "w.jsonl"], "token-weights"),
        (&["--lora", "m.gguf"], "lora"),
        (&["--granularity", "weight"], "granularity"),
        (&["--forget-ratio", "0.5"], "forget-ratio"),
        (&["--mask-ratio", "1.5"], "mask-ratio"),
        (&["--stage-rates", "1e-3,1e-4"], "stage-rates"),
        (&["--resume", "run/checkpoint-1.gguf"], "--resume"),
        (&["--loss-type", "simpo"], "rejected-share"),
    ] {
        refused(dir, &with(&ALLO, &with(&out, flags)), 2, &[says]);
    }
    for flag in [["--mask-ratio", "0.1"], ["--stage-steps", "1,1,1"], ["--tokens-below", "-1"]] {
        refused(dir, &with(&TRAIN, &with(&out, &flag)), 2, &[flag[0].trim_start_matches('-'), "allo"]);
    }
    std::fs::write(dir.join("grid.toml"), "method = \"allo\"\n[grid]\nseed = [0, 1]\n").unwrap();
    refused(dir, &with(&TRAIN, &with(&out, &["--config", "grid.toml"])), 2, &["grid"]);
    assert!(!dir.join("run").exists());
    let said = done(dir, &with(&ALLO, &with(&out, &["--dry-run"])));
    assert!(["# warm_up", "# forgetting", "# learning"].iter().all(|s| said.contains(s)), "{said}");
    assert!(!dir.join("run").exists());
    done(dir, &with(&ALLO, &out));
    refused(dir, &with(&ALLO, &out), 73, &["run", "--overwrite"]);
    let resume = ["-o", "run", "--resume", "auto"];
    refused(dir, &with(&ALLO, &with(&resume, &["--mask-ratio", "0.3"])), 78, &["mask_ratio"]);
    refused(dir, &with(&ALLO, &with(&resume, &["--learning-rate", "0.1"])), 78, &["learning-rate"]);
    std::fs::copy(dir.join("pairs.jsonl"), dir.join("rows.jsonl")).unwrap();
    let text = std::fs::read_to_string(dir.join("pairs.jsonl")).unwrap();
    std::fs::write(dir.join("rows.jsonl"), text.replace("no", "nay")).unwrap();
    let other: Vec<&str> = ALLO.iter().map(|a| if *a == "pairs.jsonl" { "rows.jsonl" } else { a }).collect();
    refused(dir, &with(&other, &resume), 78, &["data"]);
    // Anew, and nothing of the former run is taken for this one's.
    done(dir, &with(&ALLO, &["-o", "run", "--overwrite", "--mask-ratio", "0.3"]));
    let masks = ["forgetting", "learning"].map(|s| Mask::read(&dir.join(format!("run/{s}-mask.gguf"))).unwrap());
    assert_eq!(masks[1].count(), masks[1].n() * 3 / 10);
    assert!(masks[0].count() * 2 <= masks[1].count() + 1);
}
