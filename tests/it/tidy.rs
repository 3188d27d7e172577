//! Rules about the source itself: who may call ggml, where unsafe code may stand, how long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

/// Where unsafe code may stand: the door to ggml, our kernels, system calls, the map of a model file, the C interface.
const UNSAFE: [&str; 5] = ["src/runtime/", "src/kernel/", "src/os.rs", "src/gguf/reader.rs", "src/capi/"];
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, with their text, named from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&root().join(folder), &mut files);
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        (name, fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(named).collect()
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn only_the_runtime_calls_ggml() {
    for (name, text) in sources("src") {
        let calls = code(&text).any(|line| line.contains("ggml_sys"));
        assert!(!calls || name.starts_with("src/runtime/"), "{name} calls ggml");
    }
    assert!(sources("src").iter().any(|(name, text)| name == "src/runtime/linked.rs" && text.contains("ggml_sys")));
}

#[test]
fn unsafe_code_stands_where_it_may() {
    for (name, text) in sources("src").into_iter().chain(sources("quant/src")) {
        let has = code(&text).any(|line| line.contains("unsafe "));
        assert!(!has || UNSAFE.iter().any(|place| name.starts_with(place)), "unsafe code in {name}");
    }
}

#[test]
fn only_the_c_interface_exports() {
    for (name, text) in sources("src").into_iter().chain(sources("quant/src")) {
        let exports = code(&text).any(|line| line.contains("no_mangle") || line.contains("export_name"));
        assert!(!exports || name.starts_with("src/capi/"), "{name} exports a symbol");
    }
}

#[test]
fn files_are_short_and_finished() {
    for folder in ["src", "quant/src", "tests/it"] {
        for (name, text) in sources(folder) {
            assert!(text.lines().count() <= LINES_MAX, "{name} is longer than {LINES_MAX} lines: where is its seam?");
            let marks = ["todo!(", "unimplemented!("];
            let unfinished = name != "tests/it/tidy.rs" && marks.iter().any(|mark| text.contains(mark));
            assert!(!unfinished, "{name} is unfinished");
        }
    }
}

#[test]
fn every_dependency_has_its_notice() {
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(root().join("Cargo.toml")).unwrap()).unwrap();
    let notices = fs::read_to_string(root().join("THIRD-PARTY.md")).unwrap();
    for (name, value) in manifest["dependencies"].as_table().unwrap() {
        let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
        let ours = package.starts_with("llama-align");
        assert!(ours || notices.contains(&format!("| {package} |")), "{package} is missing in THIRD-PARTY.md");
    }
}
