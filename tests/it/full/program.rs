//! Full training under a mask by the real program: warm-up, mask, run, resume, and the merged model.

use crate::masks::program::{done, refused, workshop};
use llama_align::adapter::{import, import_changes};
use llama_align::gguf::File;
use llama_align::mask::{Granularity, Mask};

const NEURONS: [&str; 11] =
    ["neurons", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "--delta", "full", "-o", "mask.gguf"];
const TRAIN: [&str; 15] = [
    "train",
    "-m",
    "m.gguf",
    "-d",
    "pairs.jsonl",
    "-t",
    "1",
    "--delta",
    "full",
    "--mask",
    "mask.gguf",
    "--learning-rate",
    "1e-3",
    "--max-steps",
    "2",
];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

#[test]
fn what_is_masked_out_is_the_base_byte_for_byte_in_the_model_that_comes_out() {
    let shop = workshop();
    let dir = shop.path();
    done(dir, &with(&NEURONS, &["--granularity", "row", "--ratio", "0.1"]));
    let mask = Mask::read(&dir.join("mask.gguf")).unwrap();
    let run = ["-o", "run", "--save-steps", "1", "--save-total-limit", "0"];
    let said = done(dir, &with(&TRAIN, &run));
    assert!(said.contains("llama-align merge -m m.gguf --change run/change.gguf"), "{said}");
    let first = std::fs::read(dir.join("run/change.gguf")).unwrap();
    done(dir, &with(&TRAIN, &with(&run, &["--resume", "run/checkpoint-1.gguf"])));
    assert!(std::fs::read(dir.join("run/change.gguf")).unwrap() == first, "a resumed run has other bytes");
    let base = File::open(&dir.join("m.gguf")).unwrap();
    let changes = import_changes(&File::open(&dir.join("run/change.gguf")).unwrap(), &base).unwrap();
    for (out, name) in [("keep", "kept.gguf"), ("F32", "f32.gguf")] {
        done(
            dir,
            &["merge", "-m", "m.gguf", "--change", "run/change.gguf", "--outtype", out, "--no-verify", "-o", name],
        );
        let tuned = File::open(&dir.join(name)).unwrap();
        for tensor in base.tensors() {
            let there = tuned.tensor(&tensor.name).unwrap();
            let Some(change) = changes.iter().find(|c| c.weight == tensor.name) else {
                assert!(there.ty == tensor.ty && tuned.data(there) == base.data(tensor), "{}", tensor.name);
                continue;
            };
            let bits = &mask.tensor(&tensor.name).unwrap().bits;
            let mut before = vec![0.0f32; change.values.len()];
            quant::dequantize_row(tensor.ty, base.data(tensor), &mut before).unwrap();
            let mut after = vec![0.0f32; change.values.len()];
            quant::dequantize_row(there.ty, tuned.data(there), &mut after).unwrap();
            let rows = before.chunks(change.n_in).zip(after.chunks(change.n_in)).zip(change.values.chunks(change.n_in));
            for (row, ((before, after), d)) in rows.enumerate() {
                if !bits.get(row) {
                    assert_eq!(before, after, "{name} {} row {row}", tensor.name);
                } else if out == "F32" {
                    before.iter().zip(after).zip(d).for_each(|((b, a), d)| assert_eq!(b + d, *a));
                }
            }
            if out == "keep" {
                let row = tensor.bytes as usize / change.n_out;
                let rows = base.data(tensor).chunks(row).zip(tuned.data(there).chunks(row)).enumerate();
                rows.filter(|(i, _)| !bits.get(*i)).for_each(|(i, (b, t))| assert!(b == t, "{} row {i}", tensor.name));
            }
        }
    }
    // Single weights share their blocks with others: a quantised model says how many of these moved, F32 moves none.
    done(dir, &["neurons", "-m", "m.gguf", "--change", "run/change.gguf", "-o", "single.gguf", "--ratio", "0.05"]);
    let train: Vec<&str> = TRAIN.iter().map(|a| if *a == "mask.gguf" { "single.gguf" } else { a }).collect();
    done(dir, &with(&train, &["-o", "single"]));
    for (out, leaks) in [("keep", true), ("F32", false)] {
        let fold = [
            "merge",
            "-m",
            "m.gguf",
            "--change",
            "single/change.gguf",
            "--outtype",
            out,
            "--no-verify",
            "-o",
            "s.gguf",
        ];
        let said = done(dir, &with(&fold, &["--overwrite"]));
        assert_eq!(said.contains("were to stay what they are"), leaks, "{said}");
    }
    leaks(dir);
    // The merged model is a base for any other command.
    done(dir, &["eval", "-m", "f32.gguf", "-d", "pairs.jsonl", "-t", "1"]);
}

/// An adapter of few ranks moves weights that a mask held: as many as its factors give, and it says so.
fn leaks(dir: &std::path::Path) {
    let extract = ["adapter", "extract", "--base", "m.gguf", "--change", "single/change.gguf", "--rank", "2"];
    let said = done(dir, &with(&extract, &["-o", "small.gguf"]));
    let told = done(dir, &with(&extract, &["-o", "small.gguf", "--overwrite", "--json"]));
    let base = File::open(&dir.join("m.gguf")).unwrap();
    let changes = import_changes(&File::open(&dir.join("single/change.gguf")).unwrap(), &base).unwrap();
    let lora = import(&File::open(&dir.join("small.gguf")).unwrap()).unwrap();
    let (mut moved, mut of, mut largest) = (0u64, 0u64, 0.0f64);
    for change in &changes {
        let factor = lora.factors.iter().find(|f| f.weight == change.weight).unwrap();
        for (i, _) in change.values.iter().enumerate().filter(|(_, d)| **d == 0.0) {
            let (row, column) = (i / change.n_in, i % change.n_in);
            let part = |r: usize| f64::from(factor.b[row * factor.rank + r] * factor.a[r * factor.n_in + column]);
            let size = (f64::from(lora.scale(factor)) * (0..factor.rank).map(part).sum::<f64>()).abs();
            (of, moved, largest) = (of + 1, moved + u64::from(size != 0.0), largest.max(size));
        }
    }
    assert!(moved > 1000 && largest > 0.0);
    let line = said.lines().find(|line| line.contains("leave alone are moved")).unwrap_or_else(|| panic!("{said}"));
    let numbers: Vec<&str> = line.split(' ').collect();
    let found: [u64; 2] = [0, 2].map(|i| numbers[i].parse().unwrap());
    assert!(found[1] == of && found[0].abs_diff(moved) * 1000 <= moved, "{line}: {moved} of {of}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["held_weights"]["moved"], found[0]);
    assert!((told["held_weights"]["largest"].as_f64().unwrap() / largest - 1.0).abs() < 1e-5);
}

#[test]
fn scores_are_changes_or_gradients_of_single_weights() {
    let shop = workshop();
    let dir = shop.path();
    let made = |more: &[&str]| {
        done(dir, &with(&NEURONS, &with(&["--overwrite", "--max-steps", "2", "--ratio", "0.02"], more)));
        Mask::read(&dir.join("mask.gguf")).unwrap()
    };
    let (change, gradient, squares) = (made(&[]), made(&["--score", "gradient"]), made(&["--score", "gradient2"]));
    for mask in [&change, &gradient, &squares] {
        assert_eq!((mask.granularity(), mask.count()), (Granularity::Weight, mask.n() / 50));
    }
    assert_eq!(change.provenance["score"], "|change|");
    assert_eq!(squares.provenance["score"], "sum of gradient²");
    // Both sums rank alike; AdamW's first steps are nearly as long for small gradients as for large ones.
    let both = gradient.intersection(&squares).unwrap().count();
    assert!(both * 10 > gradient.count() * 7, "{both} of {}", gradient.count());
    assert!(gradient != squares && gradient != change);
    // A run is a warm-up as well.
    done(dir, &with(&TRAIN, &["-o", "run"]));
    let again = ["neurons", "-m", "m.gguf", "--change", "run/change.gguf", "-o", "then.gguf", "--ratio", "0.01"];
    done(dir, &again);
    assert!(Mask::read(&dir.join("then.gguf")).unwrap().is_within(&squares).unwrap());
}

#[test]
fn what_full_training_cannot_do_is_refused_by_name() {
    let shop = workshop();
    let dir = shop.path();
    let train = with(&TRAIN[..9], &["-o", "run"]);
    refused(dir, &with(&train, &["--lora-rank", "4"]), 2, &["lora-rank", "full"]);
    refused(dir, &with(&train, &["--delta", "whole"]).into_iter().collect::<Vec<_>>(), 2, &["--delta"]);
    let singly = ["-o", "x.gguf", "--score", "gradient", "--granularity", "weight"];
    refused(dir, &with(&NEURONS[..7], &singly), 2, &["--score", "full"]);
    refused(dir, &with(&NEURONS, &["--score", "size"]), 2, &["--score", "size"]);
    let best = ["--eval-split", "0.3", "--eval-steps", "1", "--load-best-model-at-end"];
    refused(dir, &with(&train, &best), 2, &["load-best-model-at-end", "full"]);
    refused(dir, &["merge", "-m", "m.gguf", "--change", "m.gguf", "-o", "x.gguf"], 65, &["m.gguf", "changes"]);
    done(dir, &with(&train, &["--max-steps", "1", "--learning-rate", "1e-3"]));
    let other = ["merge", "-m", "other.gguf", "--change", "run/change.gguf", "-o", "x.gguf"];
    refused(dir, &other, 78, &["change.gguf", "other.gguf"]);
}
