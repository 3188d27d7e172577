//! Shared libraries made on the spot: a whole llama.cpp of the archives that the program is linked with, and ones that
//! change what it answers.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles C with these extra arguments into a shared library.
pub(super) fn compile(source: &str, library: &Path, arguments: &[&str]) {
    let file = library.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(library).arg(&file).args(arguments);
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}: {}", library.display(), String::from_utf8_lossy(&ran.stderr));
}

/// A libllama with all of ggml inside, as some wheels have it: no second build, the archives of the first one.
pub(super) fn llama(directory: &Path) -> PathBuf {
    let archives = Path::new(env!("LLAMA_CPP_ROOT")).join("lib");
    let archives = ["llama", "ggml", "ggml-cpu", "ggml-base"].map(|name| archives.join(format!("lib{name}.a")));
    let library = directory.join("libllama.so.7");
    let mut command = Command::new("cc");
    command.args(["-shared", "-s", "-o"]).arg(&library).arg("-Wl,--whole-archive").args(archives);
    command.args(["-Wl,--no-whole-archive", "-lstdc++", "-lgomp", "-lm", "-lpthread", "-ldl"]);
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    library
}

/// A library that answers as `source` says and for the rest depends on `llama`.
pub(super) fn changed(llama: &Path, name: &str, source: &str) -> PathBuf {
    let library = llama.with_file_name(format!("{name}.so"));
    let depends = ["-Wl,--no-as-needed", llama.to_str().unwrap()];
    compile(source, &library, &depends);
    library
}
