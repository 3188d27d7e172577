//! Data that a model makes of itself: its right and wrong answers, and a rewriter's view of its tokens.

use crate::masks::program::{done, refused, workshop};
use serde_json::{json, Value};
use std::path::Path;

const SAMPLE: [&str; 13] =
    ["sample", "-m", "m.gguf", "-d", "q.jsonl", "-t", "1", "-n", "6", "--samples", "6", "-o", "pairs2.jsonl"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

fn lines(dir: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn questions(dir: &Path, known: [&str; 2]) {
    let row = |(i, known): (usize, &&str)| format!("{}\n", json!({ "question": format!("q{i}"), "answer": known }));
    std::fs::write(dir.join("q.jsonl"), known.iter().enumerate().map(row).collect::<String>()).unwrap();
}

#[test]
fn own_answers_are_judged_and_become_pairs_and_what_is_to_be_forgotten() {
    let shop = workshop();
    let dir = shop.path();
    questions(dir, ["nothing says so", "nor this"]);
    // All wrong: there is something to forget, and no pair.
    refused(dir, &with(&SAMPLE, &["--forget", "wrong.jsonl"]), 65, &["q.jsonl", "no question has a right and a wrong"]);
    let wrong = lines(dir, "wrong.jsonl");
    assert!(wrong.len() > 4 && wrong.iter().all(|row| row["chosen"] != row["rejected"]), "{wrong:?}");
    assert!(!dir.join("pairs2.jsonl").exists());
    let of = |i: usize| wrong.iter().filter(|row| row["prompt"] == format!("q{i}")).collect::<Vec<_>>();
    // The same draws again, and one of the answers is right.
    let plain = |text: &str| !text.chars().any(|c| c.is_ascii_digit());
    let right = of(0).iter().filter_map(|row| row["rejected"].as_str()).find(|text| plain(text)).unwrap().to_owned();
    questions(dir, [&right, "nor this"]);
    refused(dir, &SAMPLE, 73, &["pairs2.jsonl.part", "--overwrite"]);
    let said = done(dir, &with(&SAMPLE, &["--overwrite", "--pairs-per-question", "2"]));
    assert!(said.contains("2 pairs of 2 questions"), "{said}");
    let pairs = lines(dir, "pairs2.jsonl");
    assert!(pairs.len() == 2 && pairs.iter().all(|row| row["chosen"] == right && row["prompt"] == "q0"), "{pairs:?}");
    let others: Vec<_> = of(0).iter().map(|row| row["rejected"].clone()).filter(|r| *r != right).collect();
    assert!(pairs.iter().all(|row| others.contains(&row["rejected"])) && pairs[0] != pairs[1]);
    let first = std::fs::read(dir.join("pairs2.jsonl")).unwrap();
    done(dir, &with(&SAMPLE, &["--overwrite", "--pairs-per-question", "2", "--forget", "again.jsonl"]));
    assert!(std::fs::read(dir.join("pairs2.jsonl")).unwrap() == first, "two equal draws differ");
    assert_eq!(lines(dir, "again.jsonl").len(), wrong.len() - 1);
    // Both files are what the methods take.
    let train = ["train", "-m", "m.gguf", "-t", "1", "--max-steps", "1", "--samples", "0"];
    done(dir, &with(&train, &["-d", "pairs2.jsonl", "-o", "dpo"]));
    done(dir, &with(&train, &["-d", "again.jsonl", "--method", "npo", "-o", "npo"]));
    refused(dir, &with(&SAMPLE, &["--overwrite", "--samples", "1"]), 2, &["--samples"]);
    refused(dir, &with(&SAMPLE[..3], &["-d", "none.jsonl", "-o", "x.jsonl"]), 66, &["none.jsonl"]);
}

#[test]
fn a_rewriter_is_taught_and_tells_tokens_apart() {
    let shop = workshop();
    let dir = shop.path();
    let tell = ["token-weights", "-d", "pairs.jsonl"];
    std::fs::write(dir.join("mended.jsonl"), "{\"line\": 2, \"rewrite\": \"yes, mended\"}\n").unwrap();
    let said = done(dir, &with(&tell, &["--rewriter-data", "lessons.jsonl", "--rewrites", "mended.jsonl"]));
    assert!(said.contains("8 wrong answers of which 1 were mended"), "{said}");
    let lessons = lines(dir, "lessons.jsonl");
    assert!(lessons.len() > 8 && lessons.iter().any(|row| row["completion"] == "yes, mended"));
    refused(dir, &with(&tell, &["--rewriter-data", "lessons.jsonl"]), 73, &["lessons.jsonl"]);
    let train = ["train", "-m", "m.gguf", "-t", "1", "--max-steps", "2", "--samples", "0", "--max-length", "1024"];
    done(dir, &with(&train, &["-d", "lessons.jsonl", "--method", "sft", "-o", "rewriter"]));
    let label =
        with(&tell, &["-m", "m.gguf", "-t", "1", "--rewriter", "rewriter/adapter.gguf", "--max-length", "1024"]);
    let said = done(dir, &with(&label, &["-o", "w.jsonl", "--html", "w.html"]));
    assert!(said.contains("tokens of the rejected answers have a weight"), "{said}");
    let page = std::fs::read_to_string(dir.join("w.html")).unwrap();
    assert!(page.contains("Copy probability") && page.contains("copied with 0.") && !page.contains("og-ratio"));
    done(dir, &with(&label, &["-o", "released.jsonl", "--weigh", "released"]));
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    for (row, released) in lines(dir, "w.jsonl").iter().zip(lines(dir, "released.jsonl")) {
        let copied = numbers(&row["copied"]["rejected"]);
        assert!(!copied.is_empty() && copied.iter().all(|q| (0.0..=1.0).contains(q)), "{row}");
        let wanted: Vec<f64> = copied.iter().map(|&q| f64::from(u8::from(q < 0.5))).collect();
        assert_eq!(numbers(&row["rejected"]), wanted);
        assert_eq!(numbers(&released["rejected"]), copied);
    }
    // T19: a number for every token with a loss, or training would refuse the file.
    let npo = ["-d", "pairs.jsonl", "--method", "npo", "--token-weights", "w.jsonl", "-o", "forgotten"];
    done(dir, &with(&train, &npo));
    refused(dir, &with(&label, &["-o", "x.jsonl", "--weigh", "much"]), 2, &["--weigh", "rlmec"]);
    refused(dir, &with(&label, &["-o", "x.jsonl", "--share", "0.1"]), 2, &["--share"]);
    // Another model may stand on either side, if its tokens are the same.
    let after = with(&tell, &["-m", "m.gguf", "-t", "1", "--after", "other.gguf", "-o", "after.jsonl"]);
    done(dir, &after);
    let ratios = numbers(&lines(dir, "after.jsonl")[0]["log_ratios"]["rejected"]);
    assert!(ratios.iter().any(|&r| r != 0.0), "{ratios:?}");
}
