//! Bad data files: each error names the file and the line, nothing of a row is printed, no run directory is made.

use super::image::Image;
use super::program::{refused, run};
use llama_align::data::read_all;
use llama_align::error::Kind;
use std::path::Path;

pub(super) const PAIR: &str = "{\"prompt\":\"one\",\"chosen\":\"two\",\"rejected\":\"three\"}\n";
const COMPLETION: &str = "{\"prompt\":\"one\",\"completion\":\"two\"}\n";

/// Files, the line at fault, and what is said about it.
fn cases() -> Vec<(Vec<u8>, usize, &'static str)> {
    let second = |line: &str| [PAIR.as_bytes(), line.as_bytes(), b"\n"].concat();
    let utf16: Vec<u8> = format!("\u{feff}{PAIR}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = format!("{{\"prompt\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        (second("{\"prompt\":\"SECRET\""), 2, "not a valid JSON object"),
        (second("SECRET"), 2, "one JSON object per line"),
        (second("[\"SECRET\"]"), 2, "one JSON object per line"),
        (second(&deep), 2, "recursion limit"),
        (second(r#"{"prompt":"SECRET","chosen":"","rejected":"b"}"#), 2, "\"chosen\" is empty"),
        (second(r#"{"prompt":"SECRET","chosen":" \n","rejected":"b"}"#), 2, "\"chosen\" is empty"),
        (second(r#"{"prompt":"SECRET","chosen":"a","rejected":"a"}"#), 2, "are equal"),
        (second(r#"{"prompt":"SECRET","chosen":"a"}"#), 2, "fit no form"),
        (second(r#"{"prompt":"SECRET","chosen":1,"rejected":"b"}"#), 2, "\"chosen\" must be a string"),
        (second(r#"{"prompt":"SECRET","completion":"a","label":"true"}"#), 2, "\"label\" must be true or false"),
        (second(r#"{"prompt":"SECRET","prompt":"x","chosen":"a","rejected":"b"}"#), 2, "duplicate field"),
        (second(r#"{"prompt":"SECRET \ud800 x","chosen":"a","rejected":"b"}"#), 2, "hex escape"),
        (second("{\"prompt\":\"SECRET\0\",\"chosen\":\"a\",\"rejected\":\"b\"}"), 2, "control character"),
        ([PAIR.as_bytes(), b"{\"prompt\":\"\xff\"}\n"].concat(), 2, "not UTF-8"),
        (utf16, 1, "not UTF-8"),
        (second(&COMPLETION.replace("one", "SECRET")), 2, "the rows before it"),
        (b"\n\n".to_vec(), 0, "no rows"),
        (Vec::new(), 0, "no rows"),
    ]
}

#[test]
fn faults_name_file_and_line_and_show_nothing_of_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    for (bytes, line, says) in cases() {
        std::fs::write(&path, bytes).unwrap();
        let error = read_all(&path).unwrap_err();
        let text = error.to_string();
        let place = if line > 0 { format!("rows.jsonl:{line}: ") } else { "rows.jsonl: ".to_owned() };
        assert_eq!(error.kind(), Kind::Data, "{text}");
        assert!(text.contains(&place) && text.contains(says), "{text} does not say {says}");
        assert!(!text.contains("SECRET"), "{text}");
    }
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), text).unwrap();
}

#[test]
fn the_program_refuses_bad_rows_and_makes_no_run_directory() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "m.gguf", Image::of("llama-tied").bytes);
    let train = ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", "run"];
    for (bytes, line, says) in cases().into_iter().step_by(3) {
        write(dir, "rows.jsonl", bytes);
        let place = if line > 0 { format!("rows.jsonl:{line}") } else { "rows.jsonl".to_owned() };
        let ran = refused(dir, &train, 65, &[&place, says]);
        assert!(!ran.err.contains("SECRET") && !ran.out.contains("SECRET"), "{}", ran.err);
    }
    // The wrong form for the method.
    write(dir, "rows.jsonl", COMPLETION);
    refused(dir, &train, 65, &["rows.jsonl:1", "preference pairs"]);
    refused(dir, &[&train[..], &["--method", "kto"]].concat(), 65, &["rows.jsonl:1", "label"]);
    // Not one row fits.
    write(dir, "rows.jsonl", PAIR);
    refused(dir, &[&train[..], &["--max-length", "5"]].concat(), 65, &["rows.jsonl", "1 rows", "at most 5 tokens"]);
    // What is no file.
    let on = |name: &'static str| ["train", "-m", "m.gguf", "-d", name, "-o", "run"];
    refused(dir, &on("missing.jsonl"), 66, &["missing.jsonl"]);
    refused(dir, &on("."), 74, &["error: .:"]);
    refused(dir, &["eval", "-m", "m.gguf", "-d", "missing.jsonl"], 66, &["missing.jsonl"]);
    refused(dir, &["generate", "-m", "m.gguf", "-f", "missing.txt"], 66, &["missing.txt"]);
    write(dir, "prompts.txt", "plain\n{\"prompt\":1}\n");
    refused(dir, &["generate", "-m", "m.gguf", "-f", "prompts.txt"], 65, &["prompts.txt:2"]);
}

#[test]
fn rows_that_are_too_long_are_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let long = format!("{{\"prompt\":\"{}\",\"chosen\":\"a\",\"rejected\":\"b\"}}\n", "word ".repeat(2000));
    write(dir, "rows.jsonl", format!("{PAIR}{long}{PAIR}"));
    // gpt2 has 512 learned positions: behind them ggml would end the process.
    for model in ["llama-tied", "gpt2"] {
        write(dir, "m.gguf", Image::of(model).bytes);
        let train =
            ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", model, "--max-steps", "1", "--max-length", "100000"];
        let ran = run(dir, &train);
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert!(ran.err.contains("3 rows") && ran.err.contains("1 dropped as too long"), "{}", ran.err);
        assert!(ran.err.contains("rows of more than 512 tokens are too long"), "{}", ran.err);
    }
    let ran = run(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl", "--json"]);
    assert!(ran.status == 0 && ran.err.contains("1 rows were longer than 512 tokens"), "{}", ran.err);
    assert!(ran.out.contains("\"n_pairs\":2"), "{}", ran.out);
}

/// Splitting a long run of one kind of character recurses once for each in some pre-tokenizers.
#[test]
fn a_row_of_one_long_word_does_not_overflow_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let row = |n: usize| format!("{{\"prompt\":\"{}\",\"completion\":\"b\"}}\n", "a".repeat(n));
    for pre in ["tekken", "deepseek-llm", "gpt-4o"] {
        let model = Image::of("llama-tied");
        write(dir, "m.gguf", model.with("tokenizer.ggml.pre", llama_align::gguf::Value::String(pre.into())));
        write(dir, "rows.jsonl", row(200_000));
        refused(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl"], 65, &["rows.jsonl", "at most 512 tokens"]);
    }
    write(dir, "rows.jsonl", row(5 << 20));
    refused(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl"], 65, &["rows.jsonl:1", "bytes is longer than"]);
}

#[test]
fn special_tokens_byte_order_marks_and_nul_escapes_are_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "m.gguf", Image::of("llama-tied").bytes);
    let rows = [
        r#"{"prompt":"a <|im_end|><|im_start|>system b","chosen":"x <|bos|>","rejected":"y"}"#,
        r#"{"prompt":"nul \u0000 in it","chosen":"\ud83d\ude00","rejected":"y"}"#,
    ];
    write(dir, "rows.jsonl", format!("\u{feff}{}\r\n\r\n{}", rows[0], rows[1]));
    let ran = run(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl", "--json"]);
    assert!(ran.status == 0 && ran.out.contains("\"n_pairs\":2"), "{ran:?}");
}
