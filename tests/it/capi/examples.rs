//! `c_examples/`, compiled without a warning and run against the shared library; and what that library exports.

use super::change::program;
use super::header::{committed, functions, has, root};
use super::world::{World, PAIRS};
use llama_align::adapter::import;
use llama_align::gguf;
use llama_align::mask::{Granularity, Mask};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the examples against the library of this build.
pub(super) struct Built {
    pub(super) world: World,
    library: PathBuf,
    /// The compiler's flags beside the usual ones.
    flags: &'static [&'static str],
}

/// The shared library that Cargo made for these tests. It is left in `deps`; what lies beside the program may be older.
pub(super) fn library() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_llama-align"));
    let path = program.parent().unwrap().join("deps").join("libllama_align.so");
    assert!(path.is_file(), "{}: no shared library was built", path.display());
    path
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command on one core. The examples take as many threads as there are cores; ggml's spin while they wait for each
/// other, and beside other tests that takes a hundred times longer than the work.
pub(super) fn on_one_core(command: &mut Command) -> &mut Command {
    let pin = || {
        // SAFETY: plain system calls on a set of our own, allowed between fork and exec.
        let done = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(libc::sched_getcpu().try_into().unwrap_or(0), &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set)
        };
        (done == 0).then_some(()).ok_or_else(std::io::Error::last_os_error)
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(pin) }
}

impl Built {
    pub(super) fn new() -> Self {
        let (world, library) = (World::new(), library());
        // Under the name that programs are linked by, and the one that they ask for.
        for name in ["libllama_align.so", "libllama_align.so.0"] {
            std::os::unix::fs::symlink(&library, world.file(name)).unwrap();
        }
        Self { world, library, flags: &[] }
    }

    /// With gcc's sanitizers in the programs.
    pub(super) fn sanitized() -> Self {
        Self { flags: &["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], ..Self::new() }
    }

    pub(super) fn write(&self, name: &str, source: &str) -> PathBuf {
        fs::write(self.world.file(name), source).unwrap();
        self.world.file(name)
    }

    pub(super) fn compile(&self, compiler: &str, standard: &str, source: &str) -> PathBuf {
        self.compile_file(compiler, standard, &root().join("c_examples").join(source))
    }

    pub(super) fn compile_file(&self, compiler: &str, standard: &str, source: &Path) -> PathBuf {
        let program = self.world.file(source.file_stem().unwrap().to_str().unwrap());
        let mut command = Command::new(compiler);
        command.args([&format!("-std={standard}"), "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
        command.args(self.flags).arg("-I").arg(root().join("include")).arg(source);
        command.arg("-L").arg(self.world.directory.path()).arg("-lllama_align").arg("-o").arg(&program);
        let ran = command.output().unwrap();
        assert!(ran.status.success() && ran.stderr.is_empty(), "{}: {}", source.display(), text(&ran.stderr));
        program
    }

    pub(super) fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        let directory = self.world.directory.path();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).env("LD_LIBRARY_PATH", directory);
        on_one_core(&mut command).output().unwrap()
    }

    /// Runs a program that must end well; gives what it printed.
    fn prints(&self, program: &Path, arguments: &[&str]) -> String {
        let ran = self.run(program, arguments);
        assert!(ran.status.success(), "{}: {}{}", program.display(), text(&ran.stdout), text(&ran.stderr));
        text(&ran.stdout)
    }

    fn adapter(&self, name: &str, method: &str) {
        let file = gguf::File::open(&self.world.file(name)).unwrap();
        gguf::validate_adapter(&file).unwrap();
        assert_eq!(file.get("llama_align.method").and_then(gguf::Value::as_str), Some(method));
    }

    /// Compiles and runs each example that has no llama.cpp of its own.
    pub(super) fn every_example(&self) {
        assert!(has("gcc") && has("g++"), "there is no compiler for the examples");
        let inspect = self.compile("gcc", "c99", "01_inspect.c");
        let said = self.prints(&inspect, &["model.gguf"]);
        assert!(said.contains("llama: 2 blocks") && said.contains("differ from llama.cpp's by 0"), "{said}");
        let refused = self.run(&inspect, &["missing.gguf"]);
        assert!(
            refused.status.code() == Some(1) && text(&refused.stderr).starts_with("missing: missing.gguf"),
            "{refused:?}"
        );

        let sft = self.compile("gcc", "c11", "02_sft.c");
        self.prints(&sft, &["model.gguf", "sft.gguf"]);
        self.adapter("sft.gguf", "sft");

        let dpo = self.compile("gcc", "c11", "03_dpo.c");
        let said = self.prints(&dpo, &["model.gguf", "rows.jsonl", "dpo.gguf"]);
        assert!(said.contains("reference 12/12") && said.contains("step 8/8"), "{said}");
        assert!(said.contains(&format!("ok: 100% of {} pairs preferred", PAIRS.len())), "{said}");
        self.adapter("dpo.gguf", "dpo");
        let said = self.prints(&dpo, &["model.gguf", "rows.jsonl", "early.gguf", "-1"]);
        assert!(said.contains("step 1/8") && !said.contains("step 2/8") && said.contains("cancelled: "), "{said}");

        let resume = self.compile("gcc", "c99", "08_resume.c");
        let arguments = |run: &'static str, adapter: &'static str| ["model.gguf", "rows.jsonl", run, adapter];
        self.prints(&resume, &arguments("whole-run.gguf", "whole.gguf"));
        let stopped = [&arguments("cut-run.gguf", "cut.gguf")[..], &["3"]].concat();
        let said = self.prints(&resume, &stopped);
        assert!(said.contains("begins after step 0") && said.contains("stopped after step 3"), "{said}");
        let said = self.prints(&resume, &arguments("cut-run.gguf", "cut.gguf"));
        assert!(said.contains("begins after step 3") && said.contains("complete after step 8"), "{said}");
        let bytes = |name: &str| fs::read(self.world.file(name)).unwrap();
        assert!(bytes("whole.gguf") == bytes("cut.gguf") && bytes("whole-run.gguf") == bytes("cut-run.gguf"));

        for standard in ["c++11", "c++20"] {
            let raii = self.compile("g++", standard, "04_raii.cpp");
            let said = self.prints(&raii, &["model.gguf", "kto.gguf"]);
            assert!(
                said.contains("step 4 loss") && said.contains("taken up after step 4") && said.contains("2 rows"),
                "{said}"
            );
            self.adapter("kto.gguf", "kto");
        }
        let merge = self.compile("gcc", "c99", "07_merge.c");
        let said = self.prints(&merge, &["model.gguf", "sft.gguf", "dpo.gguf", "sum.gguf", "out.gguf", "half.gguf"]);
        assert!(
            said.contains("rank 16 keeps ") && said.contains(" raised: ") && said.contains("merged into"),
            "{said}"
        );
        self.adapter("sum.gguf", "truncate");
        for model in ["out.gguf", "half.gguf"] {
            gguf::validate_model(&gguf::File::open(&self.world.file(model)).unwrap()).unwrap();
        }
        let average = self.compile("gcc", "c99", "09_average.c");
        let said = self.prints(&average, &["model.gguf", "dpo.gguf", "rows.jsonl", "averaged.gguf"]);
        assert!(said.contains("NLL per token: ") && said.contains("block 1: 0."), "{said}");
        self.adapter("averaged.gguf", "hma");
        let measure = self.compile("gcc", "c99", "10_measure.c");
        let said = self.prints(&measure, &["model.gguf", "pairs", "rows.jsonl", "dpo.gguf"]);
        let margin = |of: &str| {
            let line = said.lines().find(|line| line.starts_with(of) && line.contains(" margin ")).expect(&said);
            line.split_whitespace().last().unwrap().parse::<f64>().unwrap()
        };
        assert!(margin("adapted") > margin("model") + 0.1, "{said}");
        assert!(self.prints(&measure, &["model.gguf", "kl", "rows.jsonl", "dpo.gguf"]).contains("adapted  kl "));
        let neurons = self.compile("gcc", "c99", "11_neurons.c");
        let said = self.prints(&neurons, &["model.gguf", "rows.jsonl", "mask.gguf", "held.gguf"]);
        assert!(said.contains(" pairs preferred, margin 0.") && said.contains("rows: "), "{said}");
        self.adapter("held.gguf", "dpo");
        let mask = Mask::read(&self.world.file("mask.gguf")).unwrap();
        assert_eq!((mask.granularity(), mask.count()), (Granularity::Row, mask.n() / 10));
        let lora = import(&gguf::File::open(&self.world.file("held.gguf")).unwrap()).unwrap();
        for factor in &lora.factors {
            let bits = &mask.tensor(&factor.weight).unwrap().bits;
            for (row, b) in factor.b.chunks(factor.rank).enumerate() {
                assert_eq!(b.iter().any(|&b| b != 0.0), bits.get(row), "{} row {row}", factor.weight);
            }
        }
        let allo = self.compile("gcc", "c99", "12_allo.c");
        let said = self.prints(&allo, &["model.gguf", "rows.jsonl", "allo.gguf", "tuned.gguf"]);
        assert!(said.contains("warm-up: 6 steps") && said.contains("learning: 6 steps"), "{said}");
        let stages = ["--method", "allo", "--delta", "full", "--stage-steps", "6,3,6", "-t", "1", "--samples", "0"];
        let files = ["train", "-m", "model.gguf", "-d", "rows.jsonl", "-o", "allo"];
        program(&self.world, &[&files[..], &stages].concat());
        self.world.same("allo.gguf", "allo/learning/change.gguf");
        gguf::validate_model(&gguf::File::open(&self.world.file("tuned.gguf")).unwrap()).unwrap();
    }
}

#[test]
fn every_example_compiles_without_a_warning_and_runs() {
    Built::new().every_example();
    // 05 and 06 have a llama.cpp of their own: see `host`.
    let sources = fs::read_dir(root().join("c_examples")).unwrap().map(|e| e.unwrap().path());
    let n = sources.filter(|p| p.extension().is_some_and(|e| e == "c" || e == "cpp")).count();
    assert_eq!(n, 12, "an example is not tried");
}

#[test]
fn only_the_interface_leaves_the_library() {
    let built = Built::new();
    let symbols = Command::new("nm").args(["-D", "--defined-only"]).arg(&built.library).output().unwrap();
    assert!(symbols.status.success(), "{}", text(&symbols.stderr));
    let symbols = text(&symbols.stdout);
    let exported: BTreeSet<String> =
        symbols.lines().filter_map(|line| line.split_whitespace().last().map(str::to_owned)).collect();
    let declared: BTreeSet<String> = functions(&committed()).into_iter().collect();
    assert_eq!(exported, declared);
    let dynamic = Command::new("readelf").arg("-dW").arg(&built.library).output().unwrap();
    let dynamic = text(&dynamic.stdout);
    assert!(dynamic.contains("[libllama_align.so.0]") && dynamic.contains("NODELETE"), "{dynamic}");
}

#[test]
fn the_readme_shows_what_is_compiled() {
    let example = fs::read_to_string(root().join("c_examples/02_sft.c")).unwrap();
    let snippet = example.split("/* [readme] */\n").nth(1).unwrap().split("/* [/readme] */").next().unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```c\n{snippet}```\n")), "README.md does not show c_examples/02_sft.c as it is");
}
