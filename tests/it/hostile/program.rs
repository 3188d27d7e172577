//! The real program: runs it, and asserts how it ends.

use super::image::Image;
use super::{adapters, models};
use llama_align::error::Kind;
use llama_align::gguf::{Array, Value};
use quant::Type;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No run of these tests takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) status: i32,
    pub(super) out: String,
    pub(super) err: String,
}

/// Runs the program in a directory.
///
/// # Panics
/// If it ends by a signal, by a panic, or not at all.
pub(super) fn run(dir: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(Box::new(child.stdout.take().unwrap()));
    let err = reader(Box::new(child.stderr.take().unwrap()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    let code = status.code().unwrap_or_else(|| panic!("{args:?}: signal {:?}: {err}", status.signal()));
    assert!((0..=123).contains(&code), "{args:?}: status {code}: {err}");
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    Ran { status: code, out, err }
}

/// Runs the program and expects a refusal that says all of `says` on stderr, and no new file.
pub(super) fn refused(dir: &Path, args: &[&str], status: i32, says: &[&str]) -> Ran {
    let before = files(dir);
    let ran = run(dir, args);
    assert_eq!(ran.status, status, "{args:?}: {}", ran.err);
    for text in says {
        assert!(ran.err.contains(text), "{args:?}: {:?} does not say {text:?}", ran.err);
    }
    assert_eq!(files(dir), before, "{args:?} left files behind");
    ran
}

/// Every file and directory below `dir`.
pub(super) fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(next) = rest.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path.clone());
            }
            found.insert(path.display().to_string());
        }
    }
    found
}

/// The commands that read a model, as they are given to a file called `bad.gguf`.
const READERS: [&[&str]; 7] = [
    &["check", "-m", "bad.gguf"],
    &["train", "-m", "bad.gguf", "-d", "rows.jsonl", "-o", "run"],
    &["eval", "-m", "bad.gguf", "-d", "rows.jsonl"],
    &["generate", "-m", "bad.gguf", "-p", "hi"],
    &["merge", "-m", "bad.gguf", "-m", "bad.gguf", "-o", "out.gguf"],
    &["adapter", "extract", "-m", "bad.gguf", "--base", "bad.gguf", "--rank", "1", "-o", "out.gguf"],
    &["adapter", "rebase", "good-adapter.gguf", "-m", "bad.gguf", "-o", "out.gguf"],
];

#[test]
fn bad_models_are_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), super::rows::PAIR).unwrap();
    std::fs::write(dir.path().join("good-adapter.gguf"), adapters::good(&Image::of(adapters::BASE))).unwrap();
    for (i, case) in models::cases().iter().enumerate() {
        std::fs::write(dir.path().join("bad.gguf"), &case.bytes).unwrap();
        let status = i32::from(case.kind.exit_code());
        refused(dir.path(), READERS[i % READERS.len()], status, &["bad.gguf", &case.says]);
        // What is wrong with the format itself is for `inspect` to refuse as well; the rest it may show.
        run(dir.path(), &["inspect", "bad.gguf"]);
    }
    let truncated = Image::of("llama-tied").bytes[..1000].to_vec();
    std::fs::write(dir.path().join("bad.gguf"), truncated).unwrap();
    refused(dir.path(), &["inspect", "bad.gguf"], 65, &["bad.gguf", "offset"]);
}

/// Files that no rule of ours is about: llama.cpp's loader refuses them, or an assertion of its graph does.
#[test]
fn what_llama_cpp_refuses_is_an_error_too() {
    let dir = tempfile::tempdir().unwrap();
    let model = Image::of("llama-tied");
    let phi = Image::of("phi2");
    let arcee = Image::of("arcee");
    let gpt2 = Image::of("gpt2");
    let turned = |name: &str| {
        model.edited(|content| {
            let tensor = content.tensor(name);
            tensor.2.reverse();
        })
    };
    let dropped = |name: &str| model.edited(|content| content.tensors.retain(|t| t.0 != name));
    let cases = [
        ("no embedding", dropped("token_embd.weight"), "token_embd.weight"),
        ("no norm in a block", dropped("blk.1.ffn_norm.weight"), "blk.1.ffn_norm.weight"),
        ("a block more than there are", model.with("llama.block_count", Value::U32(3)), "blk.2."),
        ("a transposed matrix", turned("blk.0.ffn_down.weight"), "blk.0.ffn_down.weight"),
        ("another width", model.with("llama.embedding_length", Value::U32(128)), "token_embd.weight"),
        ("more heads than the width holds", model.with("llama.attention.head_count", Value::U32(128)), "llama"),
        ("heads that do not divide the width", model.with("llama.attention.head_count", Value::U32(12)), "llama"),
        ("three tokens fewer than rows", fewer_tokens(&model), "token_embd.weight"),
        (
            "a list for two of three blocks",
            model.with("llama.attention.head_count", Value::Array(Array::U32(vec![4, 4, 4]))),
            "head_count",
        ),
        ("an architecture of nobody", model.with("general.architecture", Value::String("zzz".into())), "zzz"),
        ("an unknown pre-tokenizer", model.with("tokenizer.ggml.pre", Value::String("zzz".into())), "zzz"),
        // Assertions of llama.cpp's own graph.
        ("half of a head turned", arcee.with("arcee.rope.dimension_count", Value::U32(8)), "GGML_ASSERT"),
        ("keys wider than values", arcee.with("arcee.attention.value_length", Value::U32(8)), "bad.gguf"),
        ("a RoPE for no rotation", phi.with("phi2.rope.dimension_count", Value::U32(17)), "phi2.rope.dimension_count"),
        ("no room for the probes", shorter(&gpt2, 16), "16 tokens"),
        ("less room than the probes need", shorter(&gpt2, 100), "100 tokens"),
    ];
    for (what, bytes, says) in cases {
        std::fs::write(dir.path().join("bad.gguf"), bytes).unwrap();
        let ran = run(dir.path(), READERS[0]);
        let refused = [Kind::Format, Kind::Unsupported].map(|k| i32::from(k.exit_code())).contains(&ran.status);
        assert!(refused && ran.err.contains("bad.gguf") && ran.err.contains(says), "{what}: {ran:?}");
    }
}

fn fewer_tokens(model: &Image) -> Vec<u8> {
    model.edited(|content| {
        content.texts("tokenizer.ggml.tokens").truncate(285);
        content.keys.retain(|(key, _)| !key.ends_with("_token_id") && key != "tokenizer.ggml.token_type");
    })
}

/// A model with learned positions for `n` tokens.
fn shorter(model: &Image, n: u64) -> Vec<u8> {
    model.edited(|content| {
        content.set("gpt2.context_length", Value::U32(n as u32));
        let table = content.tensor("position_embd.weight");
        table.2[1] = n;
        table.3.truncate(64 * 4 * n as usize);
    })
}

/// NaN and infinity in the weights: the check compares them with the runtime's, finds nothing equal, and stops.
#[test]
fn weights_that_are_no_numbers_stop_every_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), super::rows::PAIR).unwrap();
    for value in [f32::NAN, f32::INFINITY] {
        let bytes = Image::of("llama-tied").edited(|content| {
            let norm = content.tensor("blk.0.attn_norm.weight");
            assert_eq!(norm.1, Type::F32);
            norm.3[..4].copy_from_slice(&value.to_le_bytes());
        });
        std::fs::write(dir.path().join("bad.gguf"), bytes).unwrap();
        for command in &READERS[1..3] {
            refused(dir.path(), command, 79, &["bad.gguf", "does not reproduce"]);
        }
    }
}

#[test]
fn bad_adapters_are_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), super::rows::PAIR).unwrap();
    let base = Image::of(adapters::BASE);
    std::fs::write(dir.path().join("base.gguf"), &base.bytes).unwrap();
    let commands: [&[&str]; 5] = [
        &["eval", "-m", "base.gguf", "-d", "rows.jsonl", "--lora", "bad.gguf"],
        &["generate", "-m", "base.gguf", "-p", "hi", "-n", "1", "--lora", "bad.gguf"],
        &["generate", "-m", "base.gguf", "-p", "hi", "-n", "1", "--lora-scaled", "bad.gguf:0.5"],
        &["merge", "-m", "base.gguf", "--lora", "bad.gguf", "-o", "out.gguf"],
        &["adapter", "rebase", "bad.gguf", "-m", "base.gguf", "-o", "out.gguf"],
    ];
    for (i, case) in adapters::cases(&base).iter().enumerate() {
        std::fs::write(dir.path().join("bad.gguf"), &case.bytes).unwrap();
        let status = i32::from(case.kind.exit_code());
        refused(dir.path(), commands[i % commands.len()], status, &["bad.gguf", &case.says]);
        run(dir.path(), &["inspect", "bad.gguf"]);
    }
    // A model where an adapter is expected, and the other way round.
    std::fs::write(dir.path().join("good.gguf"), adapters::good(&base)).unwrap();
    refused(dir.path(), &["generate", "-m", "base.gguf", "-p", "hi", "--lora", "base.gguf"], 65, &["general.type"]);
    refused(dir.path(), &["check", "-m", "good.gguf"], 78, &["good.gguf", "an adapter, not a model"]);
    let ran = run(dir.path(), &["generate", "-m", "base.gguf", "-p", "hi", "-n", "2", "--lora", "good.gguf"]);
    assert_eq!(ran.status, 0, "{}", ran.err);
}
