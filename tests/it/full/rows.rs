//! Rows that move, by the real program: what a mask does not name keeps its bits, an exact adapter and the changes are one model,
//! and a run that is taken up ends with the same bytes.

use crate::masks::program::{done, refused, workshop};
use llama_align::adapter::{import, import_changes, RowChange};
use llama_align::gguf::File;
use llama_align::mask::Mask;
use serde_json::Value;
use std::path::Path;

const TRAIN: [&str; 13] = [
    "train",
    "-m",
    "m.gguf",
    "-d",
    "pairs.jsonl",
    "-t",
    "1",
    "--delta",
    "rows",
    "--learning-rate",
    "1e-3",
    "--max-steps",
    "3",
];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

fn measured(dir: &Path, flags: &[&str]) -> Value {
    let said = done(dir, &with(&["eval", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "--json"], flags));
    serde_json::from_str(&said).unwrap()
}

#[test]
fn rows_of_a_mask_move_and_leave_as_an_exact_adapter() {
    let shop = workshop();
    let dir = shop.path();
    done(dir, &["neurons", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "-o", "mask.gguf", "--ratio", "0.03"]);
    let run = ["--mask", "mask.gguf", "-o", "run", "--save-steps", "1", "--save-total-limit", "0"];
    let said = done(dir, &with(&TRAIN, &run));
    assert!(
        said.contains("merge -m m.gguf --change run/change.gguf") && said.contains("--lora run/adapter.gguf"),
        "{said}"
    );
    let bytes = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let whole = (bytes("run/change.gguf"), bytes("run/adapter.gguf"));
    done(dir, &with(&TRAIN, &with(&run, &["--resume", "run/checkpoint-2.gguf"])));
    assert!((bytes("run/change.gguf"), bytes("run/adapter.gguf")) == whole, "a resumed run has other bytes");
    let (mask, base) = (Mask::read(&dir.join("mask.gguf")).unwrap(), File::open(&dir.join("m.gguf")).unwrap());
    let file = File::open(&dir.join("run/change.gguf")).unwrap();
    let changes = import_changes(&file, &base).unwrap();
    let mut moved = 0;
    for change in &changes {
        let bits = &mask.tensor(&change.weight).unwrap().bits;
        for (row, values) in change.values.chunks(change.n_in).enumerate() {
            assert!(bits.get(row) || values.iter().all(|v| v.to_bits() == 0), "{} row {row}", change.weight);
            moved += u64::from(values.iter().any(|&v| v != 0.0));
        }
    }
    assert!(moved * 10 > mask.count() * 9, "{moved} of {} rows moved", mask.count());
    // The file holds the rows and no others.
    let held: usize = file.tensors().iter().filter(|t| t.name.ends_with(".change")).map(|t| t.bytes as usize).sum();
    let n_in = |name: &str| mask.tensor(name).unwrap().shape.n_in;
    let rows = |name: &str| mask.tensor(name).unwrap().bits.count();
    assert_eq!(held, changes.iter().map(|c| 4 * n_in(&c.weight) * rows(&c.weight)).sum::<usize>());
    let lora = import(&File::open(&dir.join("run/adapter.gguf")).unwrap()).unwrap();
    for factor in &lora.factors {
        let rows = RowChange::of_factor(factor).expect("one-hot");
        assert_eq!(lora.scale(factor), 1.0);
        let own = changes.iter().find(|c| c.weight == factor.weight).unwrap();
        assert_eq!(rows.to_change().values, own.values);
    }
    // One model, whichever way it is run: as changes, as an adapter, merged.
    done(
        dir,
        &["merge", "-m", "m.gguf", "--change", "run/change.gguf", "--outtype", "F32", "--no-verify", "-o", "f.gguf"],
    );
    let of = |value: &Value| value["logps/chosen"].as_f64().unwrap();
    let [start, change, adapter] = [&[][..], &["--change", "run/change.gguf"], &["--lora", "run/adapter.gguf"]]
        .map(|flags| of(&measured(dir, &with(flags, &["--precision", "f32"]))));
    let merged = done(dir, &["eval", "-m", "f.gguf", "-d", "pairs.jsonl", "-t", "1", "--json", "--precision", "f32"]);
    let merged = of(&serde_json::from_str(&merged).unwrap());
    assert!((change - start).abs() > 1e-3, "nothing was learned: {start} {change}");
    for other in [adapter, merged] {
        assert!((change - other).abs() < 1e-3 * (change - start).abs(), "{start} {change} {other}");
    }
    // A smaller rank keeps less, and says how much.
    let extract = ["adapter", "extract", "--base", "m.gguf", "--change", "run/change.gguf", "-o", "small.gguf"];
    let said = done(dir, &with(&extract, &["--rank", "1"]));
    assert!(said.contains("of the energy kept") && !said.contains(" 1.0000 of the energy kept"), "{said}");
    // Rows without a change have none in any rank, to the bit.
    assert!(!said.contains("leave alone"), "{said}");
    let said = done(dir, &with(&extract, &["--rank", "32", "--overwrite"]));
    assert!(said.contains(" 1.0000 of the energy kept"), "{said}");
    // It goes on, within the same rows and not beyond them.
    done(dir, &with(&TRAIN, &["--mask", "mask.gguf", "--change", "run/change.gguf", "-o", "on"]));
    assert!(bytes("on/change.gguf") != whole.0);
    done(dir, &["mask", "random", "mask.gguf", "-o", "random.gguf", "--seed", "3"]);
    let strays = ["--mask", "random.gguf", "--change", "run/change.gguf", "-o", "bad"];
    refused(dir, &with(&TRAIN, &strays), 78, &["change.gguf", "changed already"]);
}

#[test]
fn rows_without_a_mask_of_rows_are_refused() {
    let shop = workshop();
    let dir = shop.path();
    refused(dir, &with(&TRAIN, &["-o", "run"]), 2, &["delta", "--mask"]);
    let neurons = ["neurons", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "--max-steps", "1", "-o", "mask.gguf"];
    done(dir, &with(&neurons, &["--granularity", "weight"]));
    refused(dir, &with(&TRAIN, &["-o", "run", "--mask", "mask.gguf"]), 69, &["mask.gguf", "weights"]);
    refused(dir, &with(&TRAIN, &["-o", "run", "--mask", "mask.gguf", "--lora-rank", "4"]), 2, &["lora-rank", "rows"]);
    refused(dir, &with(&neurons, &["--delta", "rows", "--overwrite"]), 2, &["delta", "rows"]);
    // All rows: more numbers in factors than in the weights.
    done(dir, &with(&neurons, &["--granularity", "tensor", "--ratio", "0.5", "--overwrite"]));
    let said = done(dir, &with(&TRAIN, &["-o", "run", "--mask", "mask.gguf"]));
    assert!(said.contains("too many rows") && !dir.join("run/adapter.gguf").exists(), "{said}");
    // In one command: rows that a warm-up of factors finds.
    let allo = ["--method", "allo", "--stage-steps", "2,1,2", "--mask-ratio", "0.2", "--samples", "0", "-o", "allo"];
    done(dir, &with(&TRAIN[..11], &allo));
    let mask = Mask::read(&dir.join("allo/learning-mask.gguf")).unwrap();
    let base = File::open(&dir.join("m.gguf")).unwrap();
    for change in import_changes(&File::open(&dir.join("allo/change.gguf")).unwrap(), &base).unwrap() {
        let bits = &mask.tensor(&change.weight).unwrap().bits;
        let strays = change
            .values
            .chunks(change.n_in)
            .enumerate()
            .filter(|(row, v)| !bits.get(*row) && v.iter().any(|&v| v != 0.0));
        assert_eq!(strays.count(), 0, "{}", change.weight);
    }
    assert!(dir.join("allo/warm-up/adapter.gguf").exists());
}
