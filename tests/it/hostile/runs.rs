//! Runs that end badly: output that cannot be written, losses that explode, templates that never end, adapters of
//! another base, prompts that do not fit.

use super::adapters;
use super::image::Image;
use super::program::{files, refused, run};
use super::rows::PAIR;
use llama_align::gguf::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const TRAIN: [&str; 7] = ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", "run"];

fn workshop(dir: &Path, model: &[u8]) {
    std::fs::write(dir.join("m.gguf"), model).unwrap();
    std::fs::write(dir.join("rows.jsonl"), PAIR.repeat(4)).unwrap();
}

fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    TRAIN.iter().chain(more).copied().collect()
}

#[test]
fn an_existing_run_is_untouched_without_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir, &Image::of("llama-tied").bytes);
    std::fs::create_dir(dir.join("run")).unwrap();
    std::fs::write(dir.join("run/adapter.gguf"), "mine").unwrap();
    std::fs::write(dir.join("run/notes.txt"), "mine").unwrap();
    refused(dir, &TRAIN, 73, &["run", "--overwrite"]);
    assert_eq!(std::fs::read(dir.join("run/adapter.gguf")).unwrap(), b"mine");
    let ran = run(dir, &train(&["--overwrite", "--max-steps", "1"]));
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert_eq!(std::fs::read(dir.join("run/notes.txt")).unwrap(), b"mine");
    assert!(std::fs::metadata(dir.join("run/adapter.gguf")).unwrap().len() > 1000);
}

#[test]
fn an_output_that_cannot_be_made_is_an_output_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir, &Image::of("llama-tied").bytes);
    let on = |output: &'static str, more: &[&'static str]| [&TRAIN[..5], &["-o", output], more].concat();
    // A file where a directory should be, and below a file.
    refused(dir, &on("rows.jsonl", &[]), 73, &["rows.jsonl"]);
    refused(dir, &on("rows.jsonl", &["--overwrite"]), 73, &["rows.jsonl"]);
    refused(dir, &on("rows.jsonl/run", &[]), 73, &["rows.jsonl/run"]);
    refused(dir, &on("/proc/nothing/run", &[]), 73, &["/proc/nothing/run"]);
    // Missing parents are made.
    let ran = run(dir, &on("a/b/run", &["--max-steps", "1"]));
    assert!(ran.status == 0 && dir.join("a/b/run/adapter.gguf").exists(), "{}", ran.err);
}

/// A full disk, where the tests may mount one of 64 KiB; elsewhere there is nothing to test.
#[test]
fn a_full_disk_leaves_no_half_written_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    workshop(dir, &Image::of("llama-tied").bytes);
    let disk = dir.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return;
    }
    let ran = std::panic::catch_unwind(|| {
        run(dir, &[&TRAIN[..5], &["-o", "disk/run", "--lora-rank", "64", "--max-steps", "1"]].concat())
    });
    let left = files(&disk);
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    assert!(unmounted.success());
    let ran = ran.unwrap();
    assert_eq!(ran.status, 74, "{}", ran.err);
    assert!(ran.err.contains("disk/run/adapter.gguf"), "{}", ran.err);
    assert!(
        left.iter().all(|f| f.ends_with("run") || f.ends_with("config.toml") || f.ends_with("metrics.jsonl")),
        "{left:?}"
    );
}

/// A NaN where no probe of the self-check looks: the embedding of the letter Z. Training finds it, names step and lines,
/// and leaves no adapter.
#[test]
fn a_loss_that_is_no_number_stops_the_run_and_exports_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bytes = Image::of("llama-untied").edited(|content| {
        // A row is two blocks of 34 bytes, each begins with its scale in 16 bits.
        let row = usize::from(b'Z') * 68;
        content.tensor("token_embd.weight").3[row..row + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    });
    workshop(dir, &bytes);
    let row = |prompt: &str| format!("{{\"prompt\":\"{prompt}\",\"chosen\":\"two\",\"rejected\":\"three\"}}\n");
    std::fs::write(dir.join("rows.jsonl"), row("one") + &row("Z") + &row("three")).unwrap();
    for method in ["sft", "dpo", "kto"] {
        let ran = run(
            dir,
            &train(&["--overwrite", "--method", method, "--batch-size", "1", "--grad-accum", "1", "--epochs", "2"]),
        );
        assert_eq!(ran.status, 76, "{method}: {}", ran.err);
        for text in ["error: step ", "lines ", "2", "the step was not applied"] {
            assert!(ran.err.contains(text), "{method}: {}", ran.err);
        }
        assert!(!dir.join("run/adapter.gguf").exists(), "{method}");
    }
    let log = std::fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    assert!(!log.contains("null") && !log.contains("NaN"), "{log}");
}

#[test]
fn a_template_that_is_hostile_or_missing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = Image::of("llama-tied");
    let with = |template: &str| model.with("tokenizer.chat_template", Value::String(template.into()));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let cases: [(&str, i32); 12] = [
        ("{% for i in range(1000000000) %}x{% endfor %}", 65),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", 65),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", 65),
        ("{{ raise_exception('no') }}", 65),
        ("{{ messages | frobnicate }}", 65),
        ("{% if %}", 65),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", 65),
        ("{% include '/etc/passwd' %}", 65),
        ("{{ [1] | tojson(indent=999999999) }}", 65),
        ("{{ 'x' * 9999999999 }}", 65),
        ("constant", 65),
        (&nested, 65),
    ];
    for (template, status) in cases {
        workshop(dir, &with(template));
        let says = if template == "constant" { "answer" } else { "template" };
        refused(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl"], status, &[says]);
    }
    // Messages need a template.
    workshop(dir, &model.without("tokenizer.chat_template"));
    let row = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    std::fs::write(dir.join("rows.jsonl"), row).unwrap();
    refused(dir, &train(&["--method", "sft"]), 78, &["rows.jsonl:1", "no chat template"]);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let base = Image::of(adapters::BASE);
    workshop(dir, &base.edited(|content| content.tensor("output_norm.weight").3[0] ^= 1));
    std::fs::write(dir.join("a.gguf"), adapters::good(&base)).unwrap();
    std::fs::write(dir.join("q.gguf"), Image::of("qwen2").bytes).unwrap();
    refused(
        dir,
        &["generate", "-m", "m.gguf", "-p", "hi", "--lora", "a.gguf"],
        78,
        &["a.gguf", "m.gguf", "fingerprint"],
    );
    refused(dir, &["eval", "-m", "m.gguf", "-d", "rows.jsonl", "--lora", "a.gguf"], 78, &["a.gguf", "fingerprint"]);
    refused(
        dir,
        &["eval", "-m", "q.gguf", "-d", "rows.jsonl", "--lora", "a.gguf"],
        78,
        &["a.gguf", "architecture llama"],
    );
    refused(dir, &["generate", "-m", "m.gguf", "-p", "hi", "--lora", "missing.gguf"], 66, &["missing.gguf"]);
}

/// Learned positions end where the context does: one token more would be an assertion on a thread of ggml.
#[test]
fn prompts_fit_the_context_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for model in ["gpt2", "llama-tied"] {
        workshop(dir, &Image::of(model).bytes);
        let generate = |prompt: &str, n: &str| {
            run(dir, &["generate", "-m", "m.gguf", "--no-template", "-p", prompt, "-n", n, "--json"])
        };
        let long = generate(&"q".repeat(513), "1");
        assert!(long.status == 2 && long.err.contains("513 tokens") && long.err.contains("512"), "{long:?}");
        for n in ["1", "600", "4294967301", "18446744073709551615"] {
            let full = generate(&"q".repeat(500), n);
            assert!(full.status == 0 && full.out.contains("completion"), "{full:?}");
        }
        let none = generate("", "1");
        assert!(none.status == 2 && none.err.contains("no tokens"), "{none:?}");
        assert_eq!(generate("q", "0").status, 0);
    }
}

#[test]
fn a_closed_stdout_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    workshop(dir.path(), &Image::of("llama-tied").bytes);
    for args in [&["inspect", "m.gguf"][..], &["check", "-m", "m.gguf"], &["train", "--help"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
        let mut child =
            command.args(args).current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}
