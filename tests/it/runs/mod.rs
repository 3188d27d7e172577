//! What runs leave behind, by the real program: records, measurements on the way, comparisons, the page.

mod experts;
mod grid;
mod held_out;
mod page;
mod tasks;

use crate::tiny;
use quant::Type;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a run of the program ended.
#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

/// Runs the program in a directory.
fn run(dir: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    let output = command.args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The same, which must succeed.
fn done(dir: &Path, args: &[&str]) -> Ran {
    let ran = run(dir, args);
    assert_eq!(ran.status, 0, "{args:?}: {}", ran.err);
    ran
}

/// A directory with a tiny model `m.gguf`.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny::find("llama-tied").write(&dir.path().join("m.gguf"), Type::Q8_0).unwrap();
    dir
}

/// Pairs about numbers: the chosen answer counts up, the rejected one down.
fn pairs(n: usize, from: usize) -> String {
    let pair = |i: usize| {
        let (a, b) = (i * 7 % 90, i * 11 % 90);
        format!("{{\"prompt\":\"q{i} {a}?\",\"chosen\":\"{a} up {b}\",\"rejected\":\"{b} down {a} no\"}}\n")
    };
    (from..from + n).map(pair).collect()
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
