//! `include/llama-align.h` is what the sources say, and every compiler takes it without a word.

use super::host::llama_cpp;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources in the header's order.
const SOURCES: [&str; 17] = [
    "status",
    "runtime",
    "device",
    "model",
    "dataset",
    "adapter",
    "change",
    "algebra",
    "neurons",
    "weigh",
    "progress",
    "trainer_params",
    "trainer",
    "evaluate",
    "task",
    "merge",
    "hma",
];

pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> String {
    let folder = root().join("src/capi");
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = SOURCES.iter().fold(builder, |b, name| b.with_src(folder.join(format!("{name}.rs"))));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

pub(super) fn committed() -> String {
    fs::read_to_string(root().join("include/llama-align.h")).unwrap()
}

/// What follows the marks of a header's functions, in its order.
fn declarations(header: &str) -> impl Iterator<Item = &str> {
    header
        .split("LLAMA_ALIGN_API")
        .skip(1)
        .filter(|rest| rest.split(';').next().is_some_and(|d| d.contains('(') && !d.contains('#')))
}

/// Functions of a header, in its order.
pub(super) fn functions(header: &str) -> Vec<String> {
    let heads = declarations(header).filter_map(|rest| rest.split_once('('));
    let name = |(head, _): (&str, &str)| {
        head.split(|c: char| !(c.is_alphanumeric() || c == '_')).next_back().map(str::to_owned)
    };
    heads.filter_map(name).filter(|name| name.starts_with("llama_align_")).collect()
}

#[test]
fn the_committed_header_is_that_of_the_sources() {
    let text = generated();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root().join("include/llama-align.h"), &text).unwrap();
    }
    assert!(text == committed(), "include/llama-align.h is outdated: UPDATE=1 cargo test --release --test it header");
}

/// `include/llama-align-dl.h`: the functions of a header as a table, for programs that open the library at run time.
fn table(header: &str) -> String {
    let (mut fields, mut loads) = (String::new(), String::new());
    for (name, rest) in functions(header).iter().zip(declarations(header)) {
        let (result, arguments) = rest.split(';').next().unwrap().split_once(name.as_str()).unwrap();
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let short = name.strip_prefix("llama_align_").unwrap();
        fields += &format!("    {} (*{short}){};\n", result.trim(), arguments.join(" "));
        loads += &format!("    LLAMA_ALIGN_API_FIND({short})\n");
    }
    format!("{DL_HEAD}{fields}}} llama_align_api;\n{DL_FIND}{loads}{DL_TAIL}")
}

const DL_HEAD: &str = r#"/*
 * The functions of llama-align.h for programs that open the library at run time (dlopen, LoadLibrary):
 *
 *     llama_align_api api;
 *     const char * missing = llama_align_api_load(&api, dlopen("libllama_align.so.0", RTLD_NOW | RTLD_LOCAL));
 *
 * Load it once and never unload it. Generated from src/capi with llama-align.h; do not edit. MIT OR Apache-2.0.
 */
#ifndef LLAMA_ALIGN_DL_H
#define LLAMA_ALIGN_DL_H

#include "llama-align.h"

#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#define LLAMA_ALIGN_API_SYMBOL(library, name) ((void *)GetProcAddress((HMODULE)(library), name))
#else
#include <dlfcn.h>
#define LLAMA_ALIGN_API_SYMBOL(library, name) dlsym(library, name)
#endif

/* Each function under its name without llama_align_. */
typedef struct llama_align_api {
"#;
const DL_FIND: &str = r#"
/* Fills in the table. `library`: what dlopen() or LoadLibrary() gave. NULL, or the name of the first function that it lacks. */
static const char * llama_align_api_load(llama_align_api * api, void * library) {
    void * symbol;
/* An object's pointer may not be cast to a function's. */
#define LLAMA_ALIGN_API_FIND(name)                                       \
    symbol = LLAMA_ALIGN_API_SYMBOL(library, "llama_align_" #name);      \
    if (symbol == NULL) {                                                \
        return "llama_align_" #name;                                     \
    }                                                                    \
    memcpy(&api->name, &symbol, sizeof symbol);
"#;
const DL_TAIL: &str = r#"#undef LLAMA_ALIGN_API_FIND
    return NULL;
}

#endif
"#;

#[test]
fn the_committed_table_is_that_of_the_header() {
    let (text, path) = (table(&committed()), root().join("include/llama-align-dl.h"));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(path).unwrap();
    assert!(text == found, "include/llama-align-dl.h is outdated: UPDATE=1 cargo test --release --test it header");
}

/// The facts and functions of `include/llama-align-host.h` are those that the library reads, in its order.
#[test]
fn the_committed_host_header_has_the_librarys_table() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let abi = read("src/runtime/abi.rs");
    let (numbers, functions) = abi.split_once("pub struct Table {").unwrap().1.split_once("\ntable! {\n").unwrap();
    let numbers = numbers.lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split_once(':')).map(|(n, _)| n);
    let fields = functions.lines().filter(|l| l.contains(": fn(")).filter_map(|l| Some(l.trim().split_once(':')?.0));
    let layout = read("src/runtime/host.rs");
    let layout = layout.split_once("\nlayout! {\n").unwrap().1.split_once("\n}").unwrap().0.to_owned();
    let facts = layout.lines().filter_map(|l| l.trim().split_once(" = ")).map(|(n, _)| n);
    let library: Vec<_> = facts.chain(numbers.take(4)).chain(fields).collect();
    let header = read("include/llama-align-host.h");
    let found = header.split_once("\nstruct llama_align_host {").unwrap().1.split_once("\n};").unwrap().0.to_owned();
    let mut host = Vec::new();
    for declaration in found.split(';').map(|d| d.split_whitespace().collect::<Vec<_>>().join(" ")) {
        match declaration.split_once("(*") {
            Some((_, rest)) => host.push(rest.split(')').next().unwrap().to_owned()),
            None => {
                let names = declaration.strip_prefix("uint32_t ").or_else(|| declaration.strip_prefix("int32_t "));
                host.extend(names.into_iter().flat_map(|n| n.split(", ")).map(str::to_owned));
            }
        }
    }
    assert_eq!(host[2..], library[..]);
    // Each is filled in.
    for name in &host {
        assert!(header.contains(&format!("host->{name} = ")), "{name} is not filled in");
    }
}

#[test]
fn every_exported_function_and_type_is_documented_with_its_rules() {
    let header = committed();
    // The comment that ends where the declaration begins.
    let comment = |at: usize| {
        let lines = header[..at].lines().rev().skip_while(|line| !line.starts_with("//"));
        lines.take_while(|line| line.starts_with("//")).collect::<Vec<_>>().into_iter().rev().collect::<String>()
    };
    let declarations = header.match_indices("\nLLAMA_ALIGN_API").map(|(at, _)| comment(at + 1));
    for (name, doc) in functions(&header).into_iter().zip(declarations) {
        assert!(doc.contains("Since 0."), "{name} does not say since when");
        let says_errors = doc.contains("Errors") || doc.contains("verything else as in");
        let says_errors = says_errors || doc.contains("otherwise as") || doc.contains("Errors: as");
        let infallible = name.ends_with("_free") || ["version", "abi", "status_name"].iter().any(|n| name.ends_with(n));
        assert!(says_errors || infallible, "{name} does not say its errors");
        let says_null = doc.contains("NULL") || doc.contains("as in ") || doc.contains("Errors: as");
        assert!(says_null || !takes_pointers(&header, &name), "{name} does not say what may be NULL");
    }
    for name in ["runtime", "model", "dataset", "adapter", "trainer"] {
        let at = header.find(&format!("typedef struct llama_align_{name} llama_align_{name};")).unwrap();
        let doc = comment(at);
        assert!(doc.contains("Lifetime:") && doc.contains("Threads:"), "{name}");
    }
    // Every exported function in the sources is in the header.
    let exported: usize = SOURCES
        .iter()
        .map(|n| fs::read_to_string(root().join(format!("src/capi/{n}.rs"))).unwrap().matches("#[no_mangle]").count())
        .sum();
    assert_eq!(exported, functions(&header).len());
}

/// Whether a function has an argument that points to memory of the caller's, beside the error object: what handles may be is said
/// once, at the head of the header.
fn takes_pointers(header: &str, name: &str) -> bool {
    let arguments = header.split(&format!("{name}(")).nth(1).unwrap().split(')').next().unwrap();
    let handles = ["runtime", "model", "dataset", "adapter", "trainer"].map(|h| format!("struct llama_align_{h} *"));
    let points = |a: &str| a.contains("**") || a.contains('*') && !handles.iter().any(|h| a.contains(h.as_str()));
    arguments.split(',').any(|a| points(a) && !a.contains("*err"))
}

/// Sizes of all structs.
fn sizes() -> Vec<(&'static str, usize)> {
    macro_rules! sizes {
        ($($name:ident),+) => { vec![$((stringify!($name), size_of::<llama_align::capi::$name>())),+] };
    }
    sizes!(
        llama_align_error,
        llama_align_runtime_info,
        llama_align_device,
        llama_align_model_params,
        llama_align_model_info,
        llama_align_placement,
        llama_align_check_params,
        llama_align_check_report,
        llama_align_dataset_params,
        llama_align_dataset_info,
        llama_align_adapter_params,
        llama_align_limit_params,
        llama_align_neurons_params,
        llama_align_weigh_params,
        llama_align_kept,
        llama_align_trainer_params,
        llama_align_progress,
        llama_align_evaluate_params,
        llama_align_evaluation,
        llama_align_task_params,
        llama_align_task_report,
        llama_align_merge_params,
        llama_align_merge_report,
        llama_align_hma_params,
        llama_align_hma_report
    )
}

/// A compiler's structs have no padding and the sizes of ours, with 64-bit pointers and with 32-bit ones.
#[test]
fn structs_are_laid_out_alike_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sizes.c");
    let header = committed();
    let asserted: Vec<_> = sizes()
        .iter()
        .map(|(name, bytes)| format!("_Static_assert(sizeof({name}) == {bytes}, \"{name}\");\n"))
        .collect();
    assert_eq!(header.matches("uint32_t struct_size;").count(), asserted.len(), "a struct is left out");
    fs::write(&file, format!("#include \"llama-align.h\"\n{}", asserted.concat())).unwrap();
    for bits in ["-m64", "-m32"] {
        let mut command = Command::new("gcc");
        // Freestanding: the compiler's own headers suffice.
        command.args([bits, "-ffreestanding", "-std=c11", "-fsyntax-only", "-Wpadded", "-Werror"]);
        let ran = command.arg("-I").arg(root().join("include")).arg(&file).output().unwrap();
        assert!(ran.status.success(), "{bits}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// A program for each header that C has, and the one that only C++ has.
const PROBES: [(&str, &str); 4] = [
    ("llama-align.h", "return (int)llama_align_abi() - 1;"),
    ("llama-align-dl.h", "llama_align_api api; return llama_align_api_load(&api, NULL) != NULL;"),
    (
        "llama-align-host.h",
        "llama_align_host host; llama_align_host_fill(&host); return host.abi != LLAMA_ALIGN_HOST_ABI;",
    ),
    ("llama-align.hpp", "return static_cast<int>(llama_align_abi()) - 1;"),
];

/// Compiles a program for every header that the language has.
fn compiles(compiler: &str, language: &str, standard: &str, dir: &Path) {
    for (header, body) in PROBES {
        if language == "c" && header.ends_with("hpp") {
            continue;
        }
        let file = dir.join("probe");
        fs::write(&file, format!("#include \"{header}\"\nint main(void) {{ {body} }}\n")).unwrap();
        let mut command = Command::new(compiler);
        command.args([&format!("-std={standard}"), "-x", language, "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]);
        command.args(["-pedantic", "-Wconversion", "-Wshadow"]);
        // Only llama.cpp's headers are somebody else's.
        command.arg("-I").arg(root().join("include")).arg("-isystem").arg(llama_cpp().join("include"));
        let ran = command.arg(&file).output().unwrap();
        assert!(ran.status.success(), "{compiler} {standard} {header}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// The examples, as their own users would compile them.
fn compiles_examples(compiler: &str, language: &str, standard: &str) {
    let extension = if language == "c" { "c" } else { "cpp" };
    let sources = fs::read_dir(root().join("c_examples")).unwrap().map(|e| e.unwrap().path());
    for source in sources.filter(|p| p.extension().is_some_and(|e| e == extension)) {
        let mut command = Command::new(compiler);
        command.args([&format!("-std={standard}"), "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
        command.arg("-I").arg(root().join("include")).arg("-isystem").arg(llama_cpp().join("include"));
        let ran = command.arg(&source).output().unwrap();
        assert!(ran.status.success(), "{compiler} {}: {}", source.display(), String::from_utf8_lossy(&ran.stderr));
    }
}

pub(super) fn has(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok_and(|ran| ran.status.success())
}

#[test]
fn compilers_take_the_headers_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    for (c, cpp) in [("gcc", "g++"), ("clang", "clang++")] {
        if !(has(c) && has(cpp)) {
            continue;
        }
        for (compiler, language, standards) in [(c, "c", ["c99", "c11"]), (cpp, "c++", ["c++11", "c++20"])] {
            for standard in standards {
                compiles(compiler, language, standard, dir.path());
                n += 1;
            }
            compiles_examples(compiler, language, if language == "c" { "c11" } else { "c++20" });
        }
    }
    assert!(n >= 4, "there is no C and C++ compiler to try the headers with");
}
