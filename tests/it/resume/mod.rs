//! Runs that are interrupted and taken up again, by the real program: killed, stopped by signals, out of disk, damaged.

mod allo;
mod continued;
mod disk;
mod kill;
mod refusals;
mod signals;

use crate::tiny;
use quant::Type;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A directory with a model and rows.
struct Workshop(tempfile::TempDir);

/// How a run ended.
#[derive(Debug)]
struct Ended {
    /// `None` for a signal.
    status: Option<i32>,
    err: String,
}

/// Rows: pairs, which every method takes.
fn rows(n: usize) -> String {
    let row = |i: usize| {
        format!(
            "{{\"prompt\":\"q{i}\",\"chosen\":\"yes {} it is{}\",\"rejected\":\"no {}\"}}\n",
            i * 7 % 13,
            " so".repeat(i % 5),
            i * 5 % 11
        )
    };
    (0..n).map(row).collect()
}

impl Workshop {
    fn new(n_rows: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        tiny::find("llama-tied").write(&dir.path().join("m.gguf"), Type::Q8_0).unwrap();
        std::fs::write(dir.path().join("rows.jsonl"), rows(n_rows)).unwrap();
        std::fs::write(dir.path().join("held-out.jsonl"), rows(3)).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn spawn(&self, run: &str, more: &[&str]) -> Child {
        let stderr = std::fs::File::create(self.path("stderr")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_llama-align"))
            .args(["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", run])
            .args(more)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap()
    }

    fn end(&self, mut child: Child) -> Ended {
        let status = child.wait().unwrap().code();
        let err = std::fs::read_to_string(self.path("stderr")).unwrap();
        assert!(!err.contains("panicked"), "{err}");
        Ended { status, err }
    }

    fn run(&self, run: &str, more: &[&str]) -> Ended {
        self.end(self.spawn(run, more))
    }

    /// Runs to a good end.
    fn finish(&self, run: &str, more: &[&str]) {
        let ended = self.run(run, more);
        assert_eq!(ended.status, Some(0), "{more:?}: {}", ended.err);
    }

    /// Expects a refusal that says all of `says` and leaves the run's files as they are.
    fn refused(&self, run: &str, more: &[&str], status: i32, says: &[&str]) {
        let before = self.files(run);
        let ended = self.run(run, more);
        assert_eq!(ended.status, Some(status), "{more:?}: {}", ended.err);
        says.iter().for_each(|text| assert!(ended.err.contains(text), "{more:?}: {} does not say {text}", ended.err));
        assert!(self.files(run) == before, "{more:?} changed files");
    }

    /// The files of a run by name; the configuration, which names a path of the user's, aside.
    fn files(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        let (run, mut found) = (self.path(run), BTreeMap::new());
        for directory in [run.clone(), run.join("adapters")] {
            for path in std::fs::read_dir(directory).into_iter().flatten().map(|e| e.unwrap().path()) {
                if path.is_file() && !path.ends_with("config.toml") {
                    let name = path.strip_prefix(&run).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    /// Both runs left the same files with the same bytes.
    fn assert_same(&self, a: &str, b: &str, what: &str) {
        let (a, b) = (self.files(a), self.files(b));
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
        for (name, bytes) in &a {
            assert!(bytes == &b[name], "{what}: {name} differs");
        }
        assert!(a.contains_key("adapter.gguf") && a.contains_key("metrics.jsonl"), "{what}");
    }

    fn metrics_lines(&self, run: &str) -> usize {
        std::fs::read_to_string(self.path(run).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
    }
}

/// Flips a bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
