//! A host with a llama.cpp of its own, linked statically, stripped: `c_examples/05_plugin.cpp` trains the model that it has open.

use super::examples::{library, on_one_core, text, Built};
use super::header::root;
use crate::tiny;
use quant::Type;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the build of llama.cpp left its headers and static libraries.
pub(super) fn llama_cpp() -> PathBuf {
    let build = Path::new(env!("CARGO_BIN_EXE_llama-align")).parent().unwrap().join("build");
    let folders = std::fs::read_dir(&build).unwrap().map(|e| e.unwrap().path().join("out"));
    let mut found: Vec<_> = folders.filter(|out| out.join("lib/libllama.a").is_file()).collect();
    found.sort_by_key(|out| std::fs::metadata(out.join("lib/libllama.a")).unwrap().modified().unwrap());
    found.pop().unwrap_or_else(|| panic!("{}: no llama.cpp was built", build.display()))
}

/// Compiles a program that has a llama.cpp of its own.
pub(super) fn compile(source: &str, to: &Path, link: &[&str]) {
    let own = llama_cpp();
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-O1", "-s", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    command.arg("-I").arg(root().join("include")).arg("-I").arg(own.join("include"));
    command.arg(root().join(source)).arg("-o").arg(to);
    command.arg("-L").arg(own.join("lib"));
    command.args(["-Wl,--start-group", "-lllama", "-lggml", "-lggml-cpu", "-lggml-base", "-Wl,--end-group"]);
    let ran = command.args(link).args(["-fopenmp", "-ldl", "-lpthread"]).output().unwrap();
    assert!(ran.status.success() && ran.stderr.is_empty(), "{source}: {}", text(&ran.stderr));
}

/// The library that a host opens: without a ggml in it where that was built (`make plugin`), or that of these tests.
fn plugin() -> PathBuf {
    let Some(path) = std::env::var_os("LLAMA_ALIGN_PLUGIN").map(PathBuf::from) else { return library() };
    let symbols = Command::new("nm").arg(&path).output().unwrap();
    assert!(symbols.status.success(), "{}: {}", path.display(), text(&symbols.stderr));
    let symbols = text(&symbols.stdout);
    assert!(symbols.contains(" T llama_align_model_attach"), "{}", path.display());
    let ggml = |line: &&str| {
        line.split_whitespace().last().is_some_and(|s| s.starts_with("ggml_") || s.starts_with("llama_model_"))
    };
    assert_eq!(symbols.lines().find(ggml), None, "{}: there is a second ggml", path.display());
    path
}

#[test]
fn a_static_host_trains_the_model_that_it_has_open() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (program, plugin) = (at("plugin"), plugin());
    compile("c_examples/05_plugin.cpp", &program, &[]);
    let stripped = Command::new("nm").arg(&program).output().unwrap();
    assert!(stripped.stdout.is_empty(), "the host has symbols");
    // The host's defaults repack Q4_0 for its own products; F16 stays as it is.
    for (ty, repacks) in [(Type::Q4_0, true), (Type::F16, false)] {
        let (model, adapter) = (at("model.gguf"), at("adapter.gguf"));
        tiny::find("llama-untied").write(&model, ty).unwrap();
        let mut command = Command::new(&program);
        let ran = on_one_core(command.arg(&plugin).args([&model, &adapter]).arg("1")).output().unwrap();
        let said = text(&ran.stdout);
        assert!(ran.status.success(), "{said}{}", text(&ran.stderr));
        let line = |start: &str| said.lines().find_map(|l| l.strip_prefix(start)).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(line("weights: ").contains(" 0 from the file (0)"), !repacks, "{said}");
        assert!(line("weights: ").ends_with(" 0 refused (0)"), "{said}");
        assert!(line("check: ").starts_with("logits differ by 0, "), "{said}");
        let loss: f64 = line("trained: step 20, loss ").parse().unwrap();
        assert!(loss < 4.0, "{said}");
        assert_ne!(line("before: "), line("after: "), "the adapter changes nothing");
    }
}

/// A live model whose repacked weights cannot be read is refused by weight; so is a file that is not its own, by a key where one
/// differs, by the check where only numbers do.
#[test]
fn weights_that_cannot_be_read_and_files_of_other_models_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (program, plugin) = (at("attach"), plugin());
    compile("tests/it/capi/attach.cpp", &program, &[]);
    let attach = |model: &Path, file: Option<&Path>| -> Vec<String> {
        let mut command = Command::new(&program);
        let ran = on_one_core(command.arg(&plugin).arg(model).args(file)).output().unwrap();
        assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
        text(&ran.stdout).lines().map(str::to_owned).collect()
    };
    let [packed, plain, other, changed] = ["q4_0.gguf", "f16.gguf", "qwen3.gguf", "changed.gguf"].map(at);
    tiny::find("llama-untied").write(&packed, Type::Q4_0).unwrap();
    tiny::find("llama-untied").write(&plain, Type::F16).unwrap();
    tiny::find("qwen3").write(&other, Type::Q4_0).unwrap();

    // Without the file, what the host has repacked is lost, and said to be.
    let said = attach(&packed, None);
    let numbers: Vec<u64> = said[1].split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    assert!(numbers[1] == 0 && numbers[4] == 0 && numbers[2] > 0 && numbers[5] > 0, "{said:?}");
    assert!(said[2].starts_with("check: -4 ") && said[2].ends_with("attach with the model's file"), "{said:?}");
    assert!(said[2].contains("output.weight"), "{said:?}");
    // With it nothing is; a host that repacks nothing needs none.
    let said = attach(&packed, Some(&packed));
    let mapped: Vec<u64> = said[1].split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    assert_eq!((mapped[1], mapped[2], mapped[4]), (numbers[2], 0, numbers[5]), "{said:?}");
    assert_eq!(said[2], "check: 0 ");
    let said = attach(&plain, None);
    assert!(said[1].contains(" 0 0 ") && said[2] == "check: 0 ", "{said:?}");

    let said = attach(&packed, Some(&other));
    assert!(said.len() == 1 && said[0].starts_with("attach: -5 "), "{said:?}");
    assert!(said[0].contains("qwen3.gguf") && said[0].contains("general.architecture"), "{said:?}");
    // The same shapes, and other numbers in the last weights of the file.
    let mut bytes = std::fs::read(&packed).unwrap();
    let n = bytes.len();
    bytes[n - 20_000..n - 64].iter_mut().for_each(|b| *b ^= 0x11);
    std::fs::write(&changed, bytes).unwrap();
    let said = attach(&packed, Some(&changed));
    assert!(said.len() == 3 && said[2].starts_with("check: -8 "), "{said:?}");
}

/// `c_examples/06_live_chat.cpp` and a tiny model.
struct Chat {
    built: Built,
}

impl Chat {
    fn new() -> Self {
        let built = Built::new();
        tiny::find("llama-untied").write(&built.world.file("model.gguf"), Type::Q4_0).unwrap();
        let link = format!("-L{}", built.world.directory.path().display());
        compile("c_examples/06_live_chat.cpp", &built.world.file("chat"), &[&link, "-lllama_align"]);
        Self { built }
    }

    /// What a scripted talk leaves on stdout.
    fn talk(&self, kl_max: &str, lines: &str) -> String {
        let world = &self.built.world;
        let mut command = Command::new(world.file("chat"));
        command.arg(world.file("model.gguf")).args(["1", kl_max]).env("LD_LIBRARY_PATH", world.directory.path());
        let mut child = on_one_core(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let ran = child.wait_with_output().unwrap();
        assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
        text(&ran.stdout)
    }
}

/// The last line that says what became of an adapter.
fn decided(said: &str) -> String {
    let line = said.lines().rfind(|l| l.contains(" judgements, ")).unwrap_or_else(|| panic!("{said}"));
    line.trim_start_matches("> ").to_owned()
}

#[test]
fn a_live_chat_learns_from_judgements_and_forgets_withdrawn_ones() {
    let chat = Chat::new();
    let talk = |lines: &str| chat.talk("1", lines);
    let said = talk(
        "/pause\none\n/good\n/new\ntwo\n/bad\n/new\nthree\n/good\n/train\n/undo 7\n/undo 2\n/train\n/speed\n/quit\n",
    );
    for line in [
        "[judgement 3]",
        "[3 judgements, 0 held out: ",
        "[no such judgement]",
        "[withdrawn]",
        "[2 judgements, 0 held out: ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(said.contains("[idle: ") && said.contains("[training paused: "), "{said}");
    // The adapter depends on what is left alone: never having judged, and having withdrawn, are the same.
    let never = talk("/pause\none\n/good\n/new\nthree\n/good\n/train\n/quit\n");
    assert_eq!(decided(&said), decided(&never));
}

/// A candidate is tried on a judgement that was held out and by how far it drifts: then it answers, or what was live still does.
#[test]
fn an_adapter_goes_live_or_is_rolled_back() {
    let chat = Chat::new();
    let ask = |question: &str, thumb: &str| format!("/new\n{question}\n{thumb}\n");
    let judged: String = ["one", "two", "three", "four"].map(|question| ask(question, "👍")).concat();
    let script = format!("/pause\n{judged}/train\n/new\none\n/quit\n");
    // The lines that follow a question: its answer, before and after.
    let answers = |said: &str| -> Vec<String> {
        said.split("> ").filter_map(|turn| turn.strip_prefix("one\n")).map(str::to_owned).collect()
    };
    let live = chat.talk("1000", &script);
    assert!(decided(&live).starts_with("[3 judgements, 1 held out: reward +"), "{live}");
    assert!(decided(&live).ends_with(": live]"), "{live}");
    let back = chat.talk("0", &script);
    assert!(decided(&back).ends_with(" of 0.0: rolled back]"), "{back}");
    let (live, back) = (answers(&live), answers(&back));
    assert!(live.len() == 2 && back.len() == 2 && live[0] == back[0], "{live:?} {back:?}");
    assert_eq!(back[0], back[1], "what was rolled back answers");
    assert_ne!(live[0], live[1], "what is live does not answer");

    // Without waiting: in slices between lines, then beside an answer.
    let five = ask("five", "👎");
    let said = chat.talk("1000", &format!("{judged}/pause\n{five}/busy\n/new\nsix\n/speed\n/train\n/quit\n"));
    let decisions = said.lines().filter(|l| l.contains(" judgements, ")).count();
    assert!(decisions > 1 && said.contains("[judgement 5]") && said.contains("[while training: "), "{said}");
    assert!(decided(&said).starts_with("[4 judgements, 1 held out: "), "{said}");
}
