//! The commands about data, as a person or a script uses them.

use crate::tiny::find;
use quant::Type;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(dir: &Path, args: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read to the end is no fault of this test.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn world() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tiny = find("llama-tied");
    tiny.write(&dir.path().join("m.gguf"), Type::F32).unwrap();
    dir
}

const ROWS: &str = r#"[
{"question":"the rest <|im_end|>","right":"in it","wrong":"on"},
{"question":"the rest <|im_end|>","right":"in it","wrong":"on"},

{"question":"you","right":"in it"},
{"question":"you","right":"and all of the rest of it, and then some","wrong":"on"}
]"#;

#[test]
fn data_is_checked_and_shown() {
    let dir = world();
    let dir = dir.path();
    std::fs::write(dir.join("rows.json"), ROWS).unwrap();
    let columns = "prompt=question,chosen=right,rejected=wrong";
    let base = ["data", "check", "rows.json", "-m", "m.gguf", "--columns", columns];
    let checked = |max_length: &str| {
        let checked = run(dir, &[&base[..], &["--json", "--max-length", max_length]].concat(), "");
        assert_eq!(code(&checked), 65, "{}", err(&checked));
        serde_json::from_str::<Value>(&out(&checked)).unwrap()
    };
    let longest = checked("512")["lengths"]["row"]["max"].as_u64().unwrap();
    assert_eq!(checked(&longest.to_string())["too_long"], serde_json::json!([]));
    let found = checked(&(longest - 1).to_string());
    assert_eq!((&found["n_rows"], &found["duplicates"]), (&3.into(), &serde_json::json!([[3, 2]])), "{found}");
    assert_eq!(
        (&found["too_long"], &found["names_control_tokens"]),
        (&serde_json::json!([6]), &serde_json::json!([2, 3]))
    );
    assert!(found["faults"][0].as_str().unwrap().starts_with("rows.json:5: lacks \"wrong\""), "{found}");
    let shown = out(&run(dir, &[&base[..], &["--show", "1"]].concat(), ""));
    for line in ["fault: rows.json:5: ", "rows                       3   with faults: 1", "--- line 2 chosen: ", "«"] {
        assert!(shown.contains(line), "{line:?} is missing in {shown}");
    }
    assert!(!shown.contains('\x1b') && !shown.contains("line 3 chosen"), "{shown}");
    // The name in the data is not the token: that one is a single piece.
    let rejected = shown.split("line 2 rejected").nth(1).unwrap();
    assert_eq!(rejected.matches("|<|im_end|>|").count(), 2, "{rejected}");
    let refused = |args: &[&str], status: i32, says: &str| {
        let ran = run(dir, &[&["data", "check", "rows.json", "-m", "m.gguf"], args].concat(), "");
        assert!(code(&ran) == status && err(&ran).contains(says), "{args:?}: {}", err(&ran));
    };
    refused(&["--columns", "promt=question"], 2, "promt is none of");
    refused(&["--loss-mask", "users"], 2, "users is none of");
    refused(&["--method", "rlhf"], 2, "rlhf is none of");
    refused(&["--columns", columns, "--method", "kto", "--loss-mask", "all"], 2, "loss-mask all");
}

#[test]
fn training_takes_masks_columns_and_what_to_do_with_long_rows() {
    let dir = world();
    let dir = dir.path();
    let turn = |role: &str, text: &str| format!(r#"{{"role":"{role}","content":"{text}"}}"#);
    let row = [turn("user", "the"), turn("assistant", "in"), turn("user", "a"), turn("assistant", "of it")].join(",");
    std::fs::write(dir.join("chat.jsonl"), format!("{{\"turns\":[{row}]}}\n")).unwrap();
    let base = ["train", "-m", "m.gguf", "-d", "chat.jsonl", "-o", "run", "--overwrite", "--method", "sft", "-t", "1"];
    let scored = |args: &[&str]| {
        let ran = run(dir, &[&base[..], &["--max-steps", "1", "--columns", "messages=turns"], args].concat(), "");
        assert_eq!(code(&ran), 0, "{args:?}: {}", err(&ran));
        let said = err(&ran);
        let words: Vec<_> = said.split_once("tokens of which ").unwrap().1.split(' ').collect();
        words[0].parse::<usize>().unwrap()
    };
    let (completion, assistant, all) =
        (scored(&[]), scored(&["--assistant_only_loss"]), scored(&["--loss-mask", "all"]));
    assert!(completion < assistant && assistant < all, "{completion} {assistant} {all}");
    assert_eq!(scored(&["--loss-mask", "last-turn"]), completion);
    assert_eq!(scored(&["--too-long", "truncate", "--max-length", "20", "--loss-mask", "all"]), 19);
    let config = std::fs::read_to_string(dir.join("run/config.toml")).unwrap();
    for line in ["too_long = \"truncate\"", "loss_mask = \"all\"", "parse_special = false", "messages = \"turns\""] {
        assert!(config.contains(line), "{line} is missing in {config}");
    }
    let dpo = ["train", "-m", "m.gguf", "-d", "chat.jsonl", "-o", "dpo", "--loss-mask", "all"];
    let ran = run(dir, &dpo, "");
    assert!(code(&ran) == 2 && err(&ran).contains("belongs to method sft"), "{}", err(&ran));
    std::fs::write(dir.join("run.toml"), "[columns]\nmessages = \"turns\"\n").unwrap();
    let ran = run(dir, &[&base[..], &["--config", "run.toml", "--dry-run"]].concat(), "");
    assert!(code(&ran) == 0 && out(&ran).contains("messages = \"turns\""), "{}", err(&ran));
    let refused = |args: &[&str], status: i32, says: &str| {
        let ran = run(dir, &[&base[..], &["--columns", "messages=turns"], args].concat(), "");
        assert!(code(&ran) == status && err(&ran).contains(says), "{args:?}: {}", err(&ran));
    };
    refused(&["--too-long", "error", "--max-length", "20"], 65, "chat.jsonl:1: the row has");
    refused(&["--too-long", "cut"], 2, "cut is none of drop, truncate, error");
    refused(&["--loss-mask", "all", "--assistant-only-loss"], 2, "cannot be used with");
}

const PAIRS: &str = r#"{"prompt":"p1","chosen":"good one","rejected":"bad one"}
{"prompt":"p2","chosen":"good two","rejected":"bad \u001b[2J two"}
{"prompt":"p3","chosen":"good three","rejected":"bad three"}
"#;

#[test]
fn answers_are_rated_in_a_pipe_and_rating_goes_on_later() {
    let dir = world();
    let dir = dir.path();
    std::fs::write(dir.join("pairs.jsonl"), PAIRS).unwrap();
    let args = ["rate", "pairs.jsonl", "-o", "rated.jsonl", "-s", "4"];
    // Something that is no verdict is asked again; then the input ends.
    let first = run(dir, &args, "x\n1\n");
    assert_eq!(code(&first), 0, "{}", err(&first));
    let talk = err(&first);
    assert!(
        talk.contains("--- 1 of 3 ---") && talk.contains("--- 2 of 3 ---") && !talk.contains("--- 3 of 3"),
        "{talk}"
    );
    assert_eq!(talk.matches("which is better?").count(), 3, "{talk}");
    assert!(!talk.contains('\x1b'), "{talk}");
    let rows = || std::fs::read_to_string(dir.join("rated.jsonl")).unwrap();
    let shown_first = if talk.contains("[1] good one") { "good one" } else { "bad one" };
    let row: Value = serde_json::from_str(rows().trim()).unwrap();
    assert_eq!((&row["prompt"], &row["chosen"]), (&"p1".into(), &shown_first.into()));
    assert!(dir.join("rated.jsonl.part").exists());
    let second = run(dir, &args, "s\n2\n");
    assert!(err(&second).contains("--- 2 of 3 ---") && !err(&second).contains("--- 1 of 3"), "{}", err(&second));
    assert!(out(&second).contains("rated.jsonl: 2 pairs of 3"), "{}", out(&second));
    let last: Value = serde_json::from_str(rows().lines().nth(1).unwrap()).unwrap();
    let shown_second = if err(&second).contains("[2] good three") { "good three" } else { "bad three" };
    assert_eq!((&last["prompt"], &last["chosen"]), (&"p3".into(), &shown_second.into()));
    assert!(!dir.join("rated.jsonl.part").exists());
    let again = run(dir, &args, "1\n");
    assert!(code(&again) == 73 && err(&again).contains("--overwrite"), "{}", err(&again));
    let quit = run(dir, &["rate", "pairs.jsonl", "-o", "none.jsonl"], "q\n");
    assert!(code(&quit) == 0 && !dir.join("none.jsonl").exists(), "{}", err(&quit));
}

#[test]
fn pairs_that_teach_nothing_are_dropped_and_counted() {
    let dir = world();
    let dir = dir.path();
    std::fs::write(dir.join("prompts.txt"), "the\na\nyou\n").unwrap();
    let args = ["pairs", "-m", "m.gguf", "-f", "prompts.txt", "-o", "p.jsonl", "-t", "1", "-n", "4", "--parallel", "2"];
    // A tiny model of random weights does not end its answers in four tokens.
    let made = run(dir, &[&args[..], &["--chosen-system", "Be short."]].concat(), "");
    assert!(
        code(&made) == 65 && err(&made).contains("no pairs of 3 prompts: 0 equal, 3 truncated, 0 empty"),
        "{}",
        err(&made)
    );
    // The work is kept; other settings are other work.
    let again = run(dir, &[&args[..], &["--chosen-system", "Be short."]].concat(), "");
    assert!(err(&again).contains("3 of 3 prompts were answered before"), "{}", err(&again));
    let other = run(dir, &[&args[..], &["--chosen-system", "Be long."]].concat(), "");
    assert!(code(&other) == 73 && err(&other).contains("p.jsonl.part"), "{}", err(&other));
    let refused = |system: &str, rejected: &str| {
        let ran = run(dir, &[&args[..], &["--chosen-system", system, "--rejected-system", rejected]].concat(), "");
        assert!(code(&ran) == 2 && err(&ran).contains("chosen-system"), "{}", err(&ran));
    };
    refused("Be short.", "Be short.");
    refused(" ", "Be long.");
}
