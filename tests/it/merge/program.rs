//! The command: what it prints, what it refuses, and what it leaves behind.

use super::{Bench, Content};
use llama_align::gguf::File;
use quant::Type;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn run(dir: &Path, line: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    command.args(line.split_whitespace()).current_dir(dir);
    // On a busy machine two threads of ggml wait for each other for minutes.
    if line.starts_with("merge") {
        command.args(["-t", "1"]);
    }
    finish(command, line)
}

fn finish(mut command: Command, line: &str) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    let status = output.status.code().unwrap_or_else(|| panic!("{line}: ended by a signal: {err}"));
    assert!(!err.contains("panicked"), "{line}: {err}");
    Ran { status, out, err }
}

/// Two models, an adapter, and a copy of the first under two more names.
fn workshop() -> Bench {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::Q8_0, "a.gguf");
    bench.varied("a.gguf", "b.gguf", |i, v| v + (i as f32).sin() * 0.02);
    bench.adapter("a.gguf", "adapter.gguf", 4, 8.0, 1e-3);
    std::os::unix::fs::symlink("a.gguf", bench.path("link.gguf")).unwrap();
    bench
}

#[test]
fn merging_and_folding_print_their_evidence() {
    let bench = workshop();
    let dir = bench.dir.path();
    let ran = run(dir, "merge -m a.gguf -m b.gguf --weight 0.25 --weight 0.75 -o out.gguf --outtype auto");
    assert_eq!(ran.status, 0, "{}", ran.err);
    for text in ["survive storage least", "cosine", "raised", "tokenizer and chat template from a.gguf", "in out.gguf"]
    {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
    for text in ["serve it: llama-server -m out.gguf", "FROM ./out.gguf", "TEMPLATE"] {
        assert!(ran.err.contains(text), "{text}: {}", ran.err);
    }
    // Each of the three models has a likelihood and three answers.
    let named = |name: &str| ran.out.lines().filter(|line| line.starts_with(&format!("  {name} "))).count();
    assert_eq!([named("a.gguf"), named("b.gguf"), named("out.gguf")], [4, 4, 4], "{}", ran.out);
    let before = bench.files();
    let ran = run(dir, "merge -m a.gguf --lora-scaled adapter.gguf:0.5 --lora adapter.gguf --dry-run");
    assert_eq!(ran.status, 0, "{}", ran.err);
    let n = File::open(&bench.path("a.gguf")).unwrap().tensors().len();
    let named = |l: &&str| !l.starts_with(' ') && l.split(' ').next().is_some_and(|name| name.ends_with(".weight"));
    let lines = ran.out.lines().filter(named);
    assert_eq!(lines.count(), n, "{}", ran.out);
    assert!(
        ran.out.contains("--outtype auto raises them") && ran.out.contains("bytes would be written"),
        "{}",
        ran.out
    );
    assert_eq!(bench.files(), before, "a dry run makes nothing");
    let ran = run(dir, "merge -m a.gguf --lora adapter.gguf -o folded.gguf --outtype F16 --json --report told.json --modelfile Modelfile");
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["method"], &json["output"]), (&"fold".into(), &"folded.gguf".into()));
    assert!(json["fidelity"]["cosine"].as_f64().unwrap() > 0.9 && json["tensors"].as_array().unwrap().len() == n);
    let bytes = std::fs::metadata(bench.path("folded.gguf")).unwrap().len();
    assert_eq!(json["bytes"], bytes);
    let models = json["evidence"]["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|m| m["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.gguf", "a.gguf + adapter.gguf", "folded.gguf"]);
    assert!(models[2]["kl"].as_f64().unwrap() < 1e-3 && models[1]["kl"].is_null(), "{models:?}");
    let told: Value = serde_json::from_str(&std::fs::read_to_string(bench.path("told.json")).unwrap()).unwrap();
    assert_eq!(told, json);
    assert!(std::fs::read_to_string(bench.path("Modelfile")).unwrap().starts_with("FROM ./folded.gguf\n"));
    // The folded model is a model.
    assert_eq!(run(dir, "generate -m folded.gguf -p hi -n 2").status, 0);
    for line in [
        "merge -m a.gguf -m b.gguf --method slerp --slerp-t 0.3 -o s.gguf",
        "merge -m b.gguf --base a.gguf --method task_arithmetic --weight -0.5 -o n.gguf",
        "merge -m b.gguf -m a.gguf --base a.gguf --method ties --density 0.2 --lambda 0.9 -o t.gguf",
        "merge -m b.gguf --base a.gguf --method dare_linear --density 0.5 --seed 3 -o d.gguf --outtype q5_1",
    ] {
        let ran = run(dir, &format!("{line} --no-verify"));
        assert!(ran.status == 0 && !ran.out.contains("NLL"), "{line}: {}", ran.err);
    }
}

#[test]
fn recipes_are_cooked_and_what_they_cannot_mean_is_refused() {
    let bench = workshop();
    let dir = bench.dir.path();
    let recipe = "merge_method: slerp\nbase_model: a.gguf\nmodels:\n- model: a.gguf\n- model: b.gguf\n\
                  parameters:\n  t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]\ndtype: float16\n";
    std::fs::write(bench.path("r.yml"), recipe).unwrap();
    let ran = run(dir, "merge r.yml -o out.gguf");
    assert!(ran.status == 0 && ran.out.contains("in out.gguf"), "{} {}", ran.out, ran.err);
    let ty = |file: &str| File::open(&bench.path(file)).unwrap().tensor("blk.0.attn_q.weight").unwrap().ty;
    assert_eq!(ty("out.gguf"), Type::F16);
    let ran = run(dir, "merge r.yml -o kept.gguf --outtype keep --split-max-size 1M --json");
    assert_eq!((ran.status, ty("kept.gguf")), (0, Type::Q8_0), "{}", ran.err);
    let before = bench.files();
    let ran = run(dir, "merge r.yml --dry-run");
    assert!(ran.status == 0 && bench.files() == before && ran.out.contains("bytes would be written"), "{}", ran.err);
    std::fs::write(bench.path("lora.yml"), recipe.replace("model: b.gguf", "model: b.gguf+adapter.gguf")).unwrap();
    std::fs::write(bench.path("typo.yml"), recipe.replace("filter", "fliter")).unwrap();
    std::fs::write(bench.path("long.yml"), format!("{recipe}# {}", "x".repeat(1 << 20))).unwrap();
    let slices = "- sources: [{model: a.gguf}]\n".repeat(20_000);
    std::fs::write(bench.path("deep.yml"), format!("merge_method: passthrough\nslices:\n{slices}")).unwrap();
    let before = bench.files();
    for (line, status, says) in [
        ("merge lora.yml -o x.gguf", 69, "fold it into its model first"),
        ("merge typo.yml -o x.gguf", 2, "typo.yml"),
        ("merge missing.yml -o x.gguf", 66, "missing.yml"),
        ("merge r.yml -m a.gguf -o x.gguf", 2, "cannot be used with"),
        ("merge r.yml --method ties -o x.gguf", 2, "cannot be used with"),
        ("merge r.yml", 2, "--output"),
        ("merge long.yml -o x.gguf", 2, "long.yml: no recipe: longer than a megabyte"),
        ("merge a.gguf -o x.gguf", 2, "a.gguf: no recipe: not UTF-8"),
        ("merge deep.yml -o x.gguf", 2, "slices[256] would be more than 512 blocks"),
    ] {
        let ran = run(dir, line);
        assert!(ran.status == status && ran.err.contains(says), "{line}: {} {}", ran.status, ran.err);
        assert_eq!(bench.files(), before, "{line}");
    }
}

#[test]
fn flags_that_mean_nothing_are_usage_errors() {
    let bench = workshop();
    let before = bench.files();
    let two = "merge -m a.gguf -m b.gguf -o out.gguf";
    for (line, says) in [
        ("merge -m a.gguf -o out.gguf".to_owned(), "another -m"),
        ("merge -o out.gguf".to_owned(), "--model"),
        ("merge -m a.gguf -m b.gguf".to_owned(), "--output"),
        (format!("{two} --method karcher"), "karcher"),
        (format!("{two} --weight 1"), "1 weights for 2 models"),
        (format!("{two} --weight 1 --weight -1"), "add up to 0"),
        (format!("{two} --weight nan --weight 1"), "weight NaN"),
        (format!("{two} --slerp-t 0.5"), "takes no --slerp-t"),
        (format!("{two} --density 0.5"), "takes no --density"),
        (format!("{two} --seed 1"), "takes no --seed"),
        (format!("{two} --base a.gguf"), "takes no base"),
        (format!("{two} --method slerp"), "needs --slerp-t"),
        (format!("{two} --method slerp --slerp-t 2"), "t 2:"),
        (format!("{two} --method slerp --slerp-t 0.5 --weight 1"), "takes no --weight"),
        (format!("{two} --method ties --base a.gguf"), "needs --density"),
        (format!("{two} --method ties --density 0.5"), "needs a base"),
        (format!("{two} --method dare_linear --base a.gguf --density 0"), "density 0"),
        (format!("{two} --outtype q9"), "--outtype q9"),
        (format!("{two} --min-cosine 0.5"), "--outtype auto"),
        (format!("{two} --tensor-type attn_q"), "PATTERN=TYPE"),
        (format!("{two} --tensor-type nothing=q8_0"), "no tensor has such a name"),
        (format!("{two} --split-max-size 3K"), "--split-max-size 3K"),
        (format!("{two} --split-max-size 0M"), "--split-max-size 0M"),
        (format!("{two} --method model_stock --base a.gguf --weight 1"), "takes no --weight"),
        (format!("{two} --method della --base a.gguf --density 0.5 --epsilon 0.6"), "epsilon 0.6"),
        (format!("{two} --outtype auto --min-cosine 2"), "--min-cosine 2"),
        (format!("{two} --outtype auto --min-gain nan"), "--min-gain NaN"),
        (format!("{two} --min-gain 0.5"), "--outtype auto"),
        (format!("{two} --outtype auto --min-gain 0.5 --min-cosine 0.5"), "--min-gain"),
        (format!("{two} --lora adapter.gguf"), "one -m"),
        ("merge -m a.gguf --lora adapter.gguf --weight 1 -o out.gguf".to_owned(), "--lora takes no"),
        ("merge -m a.gguf --lora-scaled adapter.gguf:x -o out.gguf".to_owned(), "FILE:SCALE"),
    ] {
        let ran = run(bench.dir.path(), &line);
        assert!(ran.status == 2 && ran.err.contains(says), "{line}: {} {}", ran.status, ran.err);
    }
    assert_eq!(bench.files(), before);
}

#[test]
fn an_output_is_new_or_asked_for_and_never_an_input() {
    let bench = workshop();
    let dir = bench.dir.path();
    let bytes = |name: &str| std::fs::read(bench.path(name)).unwrap();
    let recipe = "merge_method: linear\nmodels: [{model: a.gguf}, {model: b.gguf}]\nparameters: {weight: 1}\n";
    std::fs::write(bench.path("r.yml"), recipe).unwrap();
    std::os::unix::fs::symlink("missing.gguf", bench.path("nowhere.gguf")).unwrap();
    let (a, b, adapter) = (bytes("a.gguf"), bytes("b.gguf"), bytes("adapter.gguf"));
    for (line, says) in [
        ("merge -m a.gguf -m b.gguf -o a.gguf --overwrite", "one of the inputs"),
        ("merge -m a.gguf -m b.gguf -o link.gguf --overwrite", "one of the inputs"),
        ("merge -m a.gguf --lora adapter.gguf -o adapter.gguf --overwrite", "one of the inputs"),
        ("merge -m a.gguf -m a.gguf -o b.gguf", "exists already"),
        ("merge -m a.gguf -m b.gguf -o missing/out.gguf", "directory does not exist"),
        ("merge -m a.gguf -m b.gguf -o a.gguf/out.gguf", "directory does not exist"),
        ("merge -m a.gguf -m b.gguf -o . --overwrite", "is no file"),
        ("merge -m a.gguf -m b.gguf -o new/", "names a directory"),
        ("merge -m a.gguf -m b.gguf -o nowhere.gguf", "exists already"),
        ("merge -m a.gguf -m b.gguf -o c.gguf --report c.gguf", "named twice"),
        ("merge -m a.gguf -m b.gguf -o c.gguf --report ./c.gguf", "named twice"),
        ("merge r.yml -o r.yml --overwrite", "one of the inputs"),
        ("merge r.yml -o c.gguf --report ./r.yml --overwrite", "one of the inputs"),
        ("merge -m a.gguf --lora adapter.gguf -o c.gguf --modelfile link.gguf --overwrite", "one of the inputs"),
        ("merge -m a.gguf -m b.gguf -o c.gguf --report a.gguf --overwrite", "one of the inputs"),
        ("merge -m a.gguf -m a.gguf -o c.gguf --report b.gguf --overwrite", "exists already"),
        ("merge -m a.gguf -m b.gguf -o c.gguf --modelfile missing/Modelfile", "directory does not exist"),
    ] {
        let before = bench.files();
        let ran = run(dir, line);
        assert!(ran.status == 73 && ran.err.contains(says), "{line}: {} {}", ran.status, ran.err);
        assert_eq!(bench.files(), before, "{line}");
    }
    assert!(bytes("a.gguf") == a && bytes("b.gguf") == b && bytes("adapter.gguf") == adapter);
    assert!(bytes("r.yml") == recipe.as_bytes());
    assert_eq!(run(dir, "merge -m a.gguf -m a.gguf -o b.gguf --overwrite --no-verify").status, 0);
    assert!(bytes("b.gguf") != b);
    // Through a link the link is replaced, and nothing that it leads to.
    assert_eq!(run(dir, "merge -m a.gguf -m a.gguf -o nowhere.gguf --overwrite --no-verify").status, 0);
    assert!(!bench.path("missing.gguf").exists() && bytes("nowhere.gguf").len() > 1000);
    assert_eq!(run(dir, "merge -m a.gguf -m missing.gguf -o out.gguf").status, 66);
}

/// Names that are no text, and more threads than any machine has.
#[test]
fn odd_arguments_are_refused_or_harmless() {
    use std::os::unix::ffi::OsStrExt;
    let bench = workshop();
    let name = std::ffi::OsStr::from_bytes(b"\xff.gguf");
    std::fs::copy(bench.path("a.gguf"), bench.dir.path().join(name)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    command.args(["merge", "-o", "out.gguf", "-m"]).arg(name).current_dir(bench.dir.path());
    let ran = finish(command, "a name that is no text");
    assert!(ran.status == 2 && ran.err.contains("not UTF-8"), "{} {}", ran.status, ran.err);
    let threads = |n: &str, out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
        let line = ["merge", "-m", "a.gguf", "-m", "b.gguf", "--no-verify", "-t", n, "-o", out];
        assert_eq!(
            finish(
                {
                    command.args(line).current_dir(bench.dir.path());
                    command
                },
                out
            )
            .status,
            0
        );
        std::fs::read(bench.path(out)).unwrap()
    };
    assert!(threads("1", "one.gguf") == threads("1000000", "many.gguf"));
}

/// A name or a template of a stranger's model reaches the terminal as a text.
#[test]
fn nothing_of_a_file_commands_the_terminal() {
    let bench = workshop();
    let hostile = "\u{1b}]0;owned\u{7}{{ messages }}";
    bench.edited("a.gguf", "evil.gguf", |content| {
        content.set("tokenizer.chat_template", llama_align::gguf::Value::String(hostile.into()));
        content.set("general.name", llama_align::gguf::Value::String(hostile.into()));
    });
    for line in ["merge -m evil.gguf -m b.gguf -o out.gguf", "merge -m b.gguf -m evil.gguf -o more.gguf --no-verify"] {
        let ran = run(bench.dir.path(), line);
        let commands = |text: &str| text.contains(|c: char| c.is_control() && c != '\n');
        assert!(ran.status == 0 && !commands(&ran.out) && !commands(&ran.err), "{line}: {:?} {:?}", ran.out, ran.err);
    }
}

/// Models of 24 and of 96 MB: what is resident at most, mapped files included, does not follow their size.
#[test]
fn memory_does_not_grow_with_the_models() {
    let bench = Bench::new();
    let values: Vec<u8> =
        (0..1024 * 2048u32).flat_map(|i| half::f16::from_f32((i % 999) as f32 * 1e-3).to_le_bytes()).collect();
    let peak = |n: usize| {
        let mut content = Content::bare();
        let tensor = |i| (format!("blk.{i}.ffn_up.weight"), Type::F16, vec![1024, 2048], values.clone());
        content.tensors.extend((0..n).map(tensor));
        content.write(&bench.path("a.gguf"));
        content.tensors.iter_mut().for_each(|t| t.3.rotate_left(2));
        content.write(&bench.path("b.gguf"));
        let line = "merge -m a.gguf -m b.gguf -o out.gguf --outtype Q8_0 --overwrite --json --no-verify";
        // Through a shell of its own: a process inherits the peak of the one it was forked from, and this one is large.
        let mut command = Command::new("sh");
        let script = format!("{} {line}; exit $?", env!("CARGO_BIN_EXE_llama-align"));
        command.args(["-c", &script]).current_dir(bench.dir.path());
        let ran = finish(command, line);
        let json: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
        assert_eq!((&json["copied"], json["tensors"].as_array().unwrap().len()), (&0.into(), n));
        json["peak_rss_bytes"].as_u64().unwrap()
    };
    let (small, large) = (peak(6), peak(24));
    assert!(small > 0 && large < small + (12 << 20), "{small} and {large} bytes");
}

/// A limit on the size of files stands for a full disk.
#[test]
fn a_full_disk_leaves_nothing() {
    let bench = workshop();
    let before = bench.files();
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_llama-align");
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {program} merge -m a.gguf -m b.gguf -o out.gguf");
    command.args(["-c", &script]).current_dir(bench.dir.path());
    let ran = finish(command, &script);
    assert!(ran.status == 74 && ran.err.contains("out.gguf: cannot write"), "{} {}", ran.status, ran.err);
    assert_eq!(bench.files(), before);
}
