//! From pairs to a mask to a run under it, by the real program.

use crate::tiny;
use llama_align::adapter::import;
use llama_align::gguf::{File, Value};
use llama_align::mask::{pool, select_as_released, Granularity, LowRank, Mask};
use quant::Type;
use std::path::Path;
use std::process::Command;

/// Status, stdout, stderr.
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_llama-align")).args(args).current_dir(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let err = text(&output.stderr);
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    (output.status.code().unwrap_or(-1), text(&output.stdout), err)
}

pub(crate) fn done(dir: &Path, args: &[&str]) -> String {
    let (status, out, err) = run(dir, args);
    assert_eq!(status, 0, "{args:?}: {err}");
    out
}

pub(crate) fn refused(dir: &Path, args: &[&str], status: i32, says: &[&str]) {
    let (found, _, err) = run(dir, args);
    assert_eq!(found, status, "{args:?}: {err}");
    says.iter().for_each(|text| assert!(err.contains(text), "{args:?}: {err} does not say {text}"));
}

pub(crate) fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (model, name) in [("llama-tied", "m.gguf"), ("llama-untied", "other.gguf")] {
        tiny::find(model).write(&dir.path().join(name), Type::Q8_0).unwrap();
    }
    let row =
        |i: usize| format!("{{\"prompt\":\"q{i}\",\"chosen\":\"yes {}\",\"rejected\":\"no {}\"}}\n", i * 7 % 13, i % 5);
    std::fs::write(dir.path().join("pairs.jsonl"), (0..8).map(row).collect::<String>()).unwrap();
    dir
}

const NEURONS: [&str; 9] = ["neurons", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "-o", "mask.gguf"];
const TRAIN: [&str; 11] =
    ["train", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "--max-steps", "2", "--mask", "mask.gguf"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

#[test]
fn a_mask_is_made_shown_and_trained_under() {
    let shop = workshop();
    let dir = shop.path();
    let said = done(dir, &with(&NEURONS, &["--ratio", "0.1", "--granularity", "row"]));
    let mask = Mask::read(&dir.join("mask.gguf")).unwrap();
    assert_eq!((mask.granularity(), mask.count()), (Granularity::Row, mask.n() / 10));
    assert!(said.contains(&format!("{} of {} rows", mask.count(), mask.n())), "{said}");
    for key in ["config", "data", "ratio", "rule", "score", "steps"] {
        assert!(mask.provenance.contains_key(key), "{key}");
    }
    // The same again, byte for byte, and not over the first one.
    let again = NEURONS.map(|a| if a == "mask.gguf" { "again.gguf" } else { a });
    done(dir, &with(&again, &["--ratio", "0.1"]));
    let bytes = |name: &str| std::fs::read(dir.join(name)).unwrap();
    assert!(bytes("mask.gguf") == bytes("again.gguf"), "two equal warm-ups make two masks");
    refused(dir, &NEURONS, 73, &["mask.gguf"]);
    shows(dir, &mask);
    // Training.
    done(dir, &with(&TRAIN, &["-o", "run", "--save-steps", "1", "--save-total-limit", "0"]));
    let lora = import(&File::open(&dir.join("run/adapter.gguf")).unwrap()).unwrap();
    for factor in &lora.factors {
        let bits = &mask.tensor(&factor.weight).unwrap().bits;
        for (row, b) in factor.b.chunks(factor.rank).enumerate() {
            assert_eq!(b.iter().any(|&b| b != 0.0), bits.get(row), "{} row {row}", factor.weight);
        }
    }
    let whole = std::fs::read(dir.join("run/adapter.gguf")).unwrap();
    let resume = ["-o", "run", "--save-steps", "1", "--save-total-limit", "0", "--resume", "run/checkpoint-1.gguf"];
    done(dir, &["mask", "random", "mask.gguf", "-o", "random.gguf", "--seed", "4"]);
    let other = TRAIN.map(|a| if a == "mask.gguf" { "random.gguf" } else { a });
    refused(dir, &with(&other, &resume), 78, &["checkpoint", "--mask"]);
    // The run's own configuration names its mask.
    done(dir, &with(&TRAIN[..9], &resume));
    assert!(std::fs::read(dir.join("run/adapter.gguf")).unwrap() == whole, "a resumed run has other bytes");
    done(dir, &with(&TRAIN, &resume));
    assert!(std::fs::read(dir.join("run/adapter.gguf")).unwrap() == whole, "a resumed run has other bytes");
    // The adapter is a warm-up too: its changes are where the mask was.
    done(dir, &["neurons", "-m", "m.gguf", "--lora", "run/adapter.gguf", "-o", "then.gguf", "--ratio", "0.05"]);
    assert!(Mask::read(&dir.join("then.gguf")).unwrap().is_within(&mask).unwrap());
}

fn shows(dir: &Path, mask: &Mask) {
    let text = done(dir, &["inspect", "mask.gguf", "--html", "mask.html"]);
    let free = format!("{} of {} rows", mask.count(), mask.n());
    assert!(text.contains("kind: mask") && text.contains(&free) && text.contains("attn_q: "), "{text}");
    let json: serde_json::Value = serde_json::from_str(&done(dir, &["inspect", "mask.gguf", "--json"])).unwrap();
    assert!(json["free"].as_str().unwrap().starts_with(&free) && json["from"]["ratio"] == "0.1", "{json}");
    let page = std::fs::read_to_string(dir.join("mask.html")).unwrap();
    assert_eq!(page.matches("<rect").count(), mask.tensors().len());
    assert!(page.contains("attn_q") && page.contains("class=\"h7\"") && !page.contains("<script"));
    refused(dir, &["inspect", "m.gguf", "--html", "m.html"], 2, &["m.gguf", "--html"]);
    refused(dir, &["inspect", "mask.gguf", "--html", "mask.gguf"], 73, &["mask.gguf"]);
}

#[test]
fn masks_are_combined() {
    let shop = workshop();
    let dir = shop.path();
    done(dir, &with(&NEURONS, &["--ratio", "0.3", "--max-steps", "1"]));
    done(dir, &["mask", "random", "mask.gguf", "-o", "random.gguf"]);
    done(dir, &["mask", "union", "mask.gguf", "random.gguf", "-o", "union.gguf"]);
    done(dir, &["mask", "intersection", "mask.gguf", "random.gguf", "-o", "both.gguf"]);
    done(dir, &["mask", "difference", "mask.gguf", "random.gguf", "-o", "first.gguf"]);
    done(dir, &["mask", "complement", "mask.gguf", "-o", "rest.gguf"]);
    let count = |name: &str| Mask::read(&dir.join(name)).unwrap().count();
    assert_eq!(count("random.gguf"), count("mask.gguf"));
    assert_eq!(count("union.gguf") + count("both.gguf"), 2 * count("mask.gguf"));
    assert_eq!(count("first.gguf") + count("both.gguf"), count("mask.gguf"));
    assert_eq!(count("rest.gguf") + count("mask.gguf"), Mask::read(&dir.join("mask.gguf")).unwrap().n());
    let random = Mask::read(&dir.join("random.gguf")).unwrap();
    assert_eq!((random.provenance["operation"].as_str(), random.provenance["0.ratio"].as_str()), ("random", "0.3"));
    // Of another model, and what is no mask.
    let other = NEURONS.map(|a| match a {
        "m.gguf" => "other.gguf",
        "mask.gguf" => "others.gguf",
        a => a,
    });
    done(dir, &with(&other, &["--max-steps", "1"]));
    refused(dir, &["mask", "union", "mask.gguf", "others.gguf", "-o", "x.gguf"], 78, &["others.gguf"]);
    refused(dir, &["mask", "complement", "m.gguf", "-o", "x.gguf"], 65, &["m.gguf", "no mask"]);
    refused(dir, &["mask", "union", "mask.gguf", "-o", "x.gguf"], 2, &["MASKS"]);
    refused(dir, &["mask", "complement", "mask.gguf", "-o", "mask.gguf"], 73, &["mask.gguf"]);
    let train = with(&TRAIN[..10], &["others.gguf", "-o", "run"]);
    refused(dir, &train, 78, &["others.gguf", "another model"]);
}

/// Other choices out of one warm-up: bands, the other end, columns, and the release's way.
#[test]
fn other_ends_bands_and_rules_are_chosen() {
    let shop = workshop();
    let dir = shop.path();
    done(dir, &with(&TRAIN[..9], &["-o", "warm", "--learning-rate", "1e-3"]));
    let of = |flags: &[&str]| {
        let neurons = ["neurons", "-m", "m.gguf", "--lora", "warm/adapter.gguf", "-o", "out.gguf", "--overwrite"];
        done(dir, &with(&neurons, flags));
        Mask::read(&dir.join("out.gguf")).unwrap()
    };
    let [first, two, half] = ["0.1", "0.2", "0.5"].map(|ratio| of(&["--ratio", ratio]));
    let band = of(&["--skip", "0.1", "--ratio", "0.1"]);
    assert_eq!((band.count(), band.provenance["rule"].as_str()), (two.count() - first.count(), "largest, skip 0.1"));
    assert!(band.is_within(&two).unwrap() && band.intersection(&first).unwrap().count() == 0);
    let low = of(&["--smallest", "--ratio", "0.5"]);
    assert_eq!((low.count(), low.provenance["rule"].as_str()), (low.n() / 2, "smallest, skip 0"));
    assert!(low.intersection(&half).unwrap().count() == 0, "what moved least is among what moved most");
    // The release takes its threshold from candidates of every tensor: what it chooses is never less.
    let single = of(&["--granularity", "weight", "--ratio", "0.05"]);
    let released = of(&["--granularity", "weight", "--ratio", "0.05", "--as-released"]);
    assert!(single.is_within(&released).unwrap() && released.count() > single.count());
    assert_eq!(released.provenance["rule"], "as released");
    let lora = import(&File::open(&dir.join("warm/adapter.gguf")).unwrap()).unwrap();
    let shapes = lora.shapes();
    let wanted = select_as_released(&LowRank::new(&lora, &shapes), 0.05).unwrap();
    assert!(wanted.tensors() == released.tensors());
    refused(dir, &with(&NEURONS, &["--as-released", "--smallest"]), 2, &["--as-released"]);
    // Columns: their norms are the largest, and a run under them moves A's there alone.
    let columns = of(&["--granularity", "column", "--ratio", "0.3"]);
    assert_eq!((columns.granularity(), columns.count()), (Granularity::Column, columns.n() * 3 / 10));
    let table = pool(&LowRank::new(&lora, &shapes), Granularity::Column).unwrap();
    let (mut lowest, mut highest) = (f32::INFINITY, 0.0f32);
    for (i, shape) in shapes.iter().enumerate() {
        let bits = &columns.tensor(&shape.name).unwrap().bits;
        for (k, &score) in table.values(i).iter().enumerate() {
            (lowest, highest) = if bits.get(k) { (lowest.min(score), highest) } else { (lowest, highest.max(score)) };
        }
    }
    assert!(lowest >= highest && highest > 0.0, "{lowest} {highest}");
    let train: Vec<&str> = TRAIN.iter().map(|a| if *a == "mask.gguf" { "out.gguf" } else { a }).collect();
    done(dir, &with(&train, &["-o", "run"]));
    for factor in import(&File::open(&dir.join("run/adapter.gguf")).unwrap()).unwrap().factors {
        let bits = &columns.tensor(&factor.weight).unwrap().bits;
        for (k, &a) in factor.a.iter().enumerate() {
            assert!(bits.get(k % factor.n_in) || a == 0.0, "{} column {}", factor.weight, k % factor.n_in);
        }
    }
}

#[test]
fn what_is_no_share_and_what_cannot_be_held_is_refused() {
    let shop = workshop();
    let dir = shop.path();
    for flags in [["--ratio", "1.5"], ["--ratio", "nan"], ["--skip", "0.99"]] {
        refused(dir, &with(&NEURONS, &flags), 2, &[flags[0]]);
    }
    refused(dir, &with(&NEURONS, &["--granularity", "block"]), 2, &["block", "column"]);
    refused(dir, &with(&NEURONS, &["--lora", "a.gguf"]), 2, &["--lora"]);
    refused(dir, &["neurons", "-m", "m.gguf", "-o", "x.gguf"], 2, &["--data"]);
    std::fs::write(dir.join("sft.toml"), "method = \"sft\"\n").unwrap();
    refused(dir, &with(&NEURONS, &["--config", "sft.toml"]), 2, &["method", "sft"]);
    done(dir, &with(&NEURONS, &["--granularity", "weight", "--max-steps", "1"]));
    refused(dir, &with(&TRAIN, &["-o", "run"]), 69, &["mask.gguf", "single weights"]);
    done(dir, &["mask", "difference", "mask.gguf", "mask.gguf", "-o", "none.gguf"]);
    let mut writer = llama_align::gguf::Writer::new();
    writer.set("general.type", Value::String("mask".into()));
    writer.write(&dir.join("bad.gguf")).unwrap();
    let bad = with(&TRAIN[..10], &["bad.gguf", "-o", "run"]);
    refused(dir, &bad, 65, &["bad.gguf", "granularity"]);
}
