//! A llama.cpp that is a shared library: found and bound without its headers, or refused with the reason.

mod shared;

use crate::bench::{rows, Bench};
use llama_align::adapter::{export, Lineage};
use llama_align::check::check;
use llama_align::engine::Form;
use llama_align::error::{Error, Kind};
use llama_align::gguf::{base_hash, File};
use llama_align::runtime::{Adapter, Context, Runtime};
use llama_align::train::{Method, TrainConfig};
use quant::Type;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The directory with the shared llama.cpp of these tests.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = DIRECTORY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        shared::llama(directory.path());
        directory
    });
    made.path()
}

/// A llama.cpp that is a shared library.
pub(crate) fn library() -> PathBuf {
    directory().join("libllama.so.7")
}

/// That library, loaded and the only one while this lives: what a process has loaded is seen by all its threads.
pub(crate) fn in_process() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Runtime::from_library(&library()).unwrap();
    one
}

fn llama() -> (&'static Path, MutexGuard<'static, ()>) {
    (directory(), in_process())
}

fn refused(path: &Path) -> Error {
    let error = Runtime::from_library(path).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error} does not name {}", path.display());
    error
}

/// What a run leaves on one runtime: check, two optimizer steps, and the adapter through that runtime's own decode.
fn bits(runtime: &Arc<Runtime>, weights: Type, method: Method) -> (Vec<u64>, Vec<u32>, Vec<u32>) {
    let bench = Bench::on(runtime, weights);
    let report = check(bench.model(), bench.trace(), 1, Form::Training).unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.runtime_form.max_abs_diff, 0.0, "{:?}", report.runtime_form.probes);
    let config = TrainConfig { method, batch_size: 4, learning_rate: 2e-3, threads: 1, ..TrainConfig::default() };
    let config = TrainConfig { max_steps: 2, ..config }.resolve().unwrap();
    let run = bench.train(&config, &rows(method), bench.warm(5));
    let path = bench.model_path().with_file_name("adapter.gguf");
    let file = File::open(&bench.model_path()).unwrap();
    let (architecture, base_hash) = (bench.model().architecture(), base_hash(&file));
    export(
        &run.lora,
        &Lineage { architecture, base_name: None, base_hash: Some(base_hash), method: "sft".into() },
        &path,
    )
    .unwrap();
    let mut context = Context::new(bench.model(), 8, 1, 1).unwrap();
    context.set_adapters(&[(Adapter::open(bench.model(), &path).unwrap(), 1.0)]).unwrap();
    context.decode(&[(1, 0, 0), (2, 1, 0), (3, 2, 0)], |i| i == 2).unwrap();
    let logits = context.logits(2).unwrap().iter().map(|x| x.to_bits()).collect();
    let (measures, factors) = run.bits();
    (measures, factors, logits)
}

#[test]
fn it_trains_as_the_built_in_one_does_bit_for_bit() {
    let (directory, _one) = llama();
    let loaded = Runtime::from_library(directory).unwrap();
    let linked = Runtime::linked().unwrap();
    assert_eq!(loaded.version(), linked.version());
    for (weights, method) in [(Type::F32, Method::Sft), (Type::Q4_0, Method::Dpo)] {
        assert!(bits(&loaded, weights, method) == bits(&linked, weights, method), "{weights:?} {method:?}");
    }
}

#[test]
fn it_is_found_in_the_process_by_what_it_exports() {
    let (directory, _one) = llama();
    let named = Runtime::from_library(&directory.join("libllama.so.7")).unwrap();
    // A library that only depends on llama.cpp is not another one; nor is one under a second name.
    let plugin = shared::changed(&directory.join("libllama.so.7"), "plugin", "int plugin(void) { return 1; }");
    let plugin = dlopen(&plugin);
    let found = Runtime::from_process().unwrap();
    assert_eq!(found.version(), named.version());
    let bench = Bench::on(&found, Type::Q8_0);
    assert!(check(bench.model(), bench.trace(), 1, Form::Training).unwrap().ok);

    // A second one: which of them a model belongs to cannot be known.
    let second = directory.join("renamed.node");
    std::fs::copy(directory.join("libllama.so.7"), &second).unwrap();
    let second = dlopen(&second);
    let error = Runtime::from_process().unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let message = error.to_string();
    assert!(message.starts_with("2 llama.cpp are loaded in this process: "), "{message}");
    assert!(message.contains("libllama.so.7") && message.contains("renamed.node"), "{message}");
    second.close().unwrap();
    Runtime::from_process().unwrap();
    plugin.close().unwrap();
}

fn dlopen(path: &Path) -> libloading::os::unix::Library {
    let flags = libc::RTLD_NOW | libc::RTLD_LOCAL;
    // SAFETY: a library that was made here; its initialisers are llama.cpp's.
    unsafe { libloading::os::unix::Library::open(Some(path), flags) }.unwrap()
}

/// What a runtime answers, and the reason it is refused for.
const CHANGED: &[(&str, &str, &str)] = &[
    (
        "other_version",
        "const char * ggml_version(void) { return \"0.99.1\"; }",
        "ggml 0.99.1 is none of the versions that were tried: 0.23.0 to 0.26.0, 0.21.0, 0.19.0, 0.18.0",
    ),
    ("no_version", "const char * ggml_version(void) { return \"b6432\"; }", "ggml calls its version \"b6432\""),
    (
        "longer_context",
        "#include <string.h>
         struct p { char b[176]; };
         struct p llama_context_default_params(void) { struct p p; memset(&p, 0, sizeof p); return p; }",
        "is known, but not with these structs: llama_context_params: n_ctx at byte 0 is [00, 00, 00, 00], not [00, 02, 00, 00]",
    ),
    (
        "longer_model",
        "#include <string.h>
         struct p { long w[11]; };
         struct p llama_model_default_params(void) {
             struct p p = { { 0, 0, 0x1ffffffffL, 0x1ffffffffL, 0, 0, 0, 0, 0, 0x10000, 0 } }; return p;
         }",
        "llama_model_params: it has at least 88 bytes, not 80",
    ),
    (
        "other_default",
        "struct p { long w[10]; };
         struct p llama_model_default_params(void) {
             struct p p = { { 0, 0, 0x1ffffffffL, 0x1ffffffffL, 0, 0, 0, 0, 0, 0 } }; return p;
         }",
        "llama_model_params: use_extra_bufts at byte 74 is [00], not [01]",
    ),
    (
        "larger_tensor",
        "#include <stddef.h>
         size_t ggml_tensor_overhead(void) { return 376; }",
        "ggml_tensor_overhead() is 376, not 368",
    ),
    (
        "no_flags",
        "void ggml_set_input(void * tensor) { (void) tensor; }",
        "ggml_tensor has flags elsewhere than known",
    ),
    (
        "fewer_ops",
        "const char * ggml_op_name(int op) { return op < 3 ? \"NONE\" : \"GLU\"; }",
        "op GLU is number Some(3), not 100",
    ),
    (
        "other_unary",
        "const char * ggml_unary_op_name(int op) { (void) op; return \"ABS\"; }",
        "op 1 is ABS in this ggml, not SGN",
    ),
    (
        "other_types",
        "const char * ggml_type_name(int type) { (void) type; return \"f32\"; }",
        "type 1 is f32 with 1 values in 2 bytes in this ggml, not f16",
    ),
    (
        "no_cpu",
        "void * ggml_backend_dev_by_type(int type) { (void) type; return 0; }",
        "this llama.cpp has no CPU device: its program has not loaded the backends",
    ),
    (
        "old_backend",
        "void * ggml_backend_reg_get_proc_address(void * r, const char * n) { (void) r; (void) n; return 0; }",
        "the CPU backend of this ggml has no ggml_backend_set_n_threads",
    ),
];

#[test]
fn what_is_not_as_known_is_refused_with_the_reason() {
    let (directory, _one) = llama();
    for (name, source, reason) in CHANGED {
        let error = refused(&shared::changed(&directory.join("libllama.so.7"), name, source));
        assert_eq!(error.kind(), Kind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains(reason), "{name}: {error}");
    }
}

#[test]
fn what_is_no_runtime_is_refused_by_name() {
    let (directory, _one) = llama();
    let case = tempfile::tempdir().unwrap();
    let at = |name: &str| case.path().join(name);
    assert_eq!(refused(&at("absent.so")).kind(), Kind::Missing);
    assert_eq!(refused(&at("")).kind(), Kind::Missing);

    std::fs::write(at("text.so"), "no library").unwrap();
    assert!(refused(&at("text.so")).to_string().contains("it cannot be loaded: "));
    shared::compile("int answer(void) { return 42; }", &at("other.so"), &[]);
    assert!(refused(&at("other.so")).to_string().ends_with("it exports no llama_decode: this is no llama.cpp"));
    shared::compile("extern int absent(void); int (*f)(void) = absent;", &at("broken.so"), &[]);
    assert!(refused(&at("broken.so")).to_string().contains("undefined symbol: absent"));

    // Only half of a llama.cpp: all that is missing is named.
    shared::compile("int llama_decode(void) { return 0; }", &at("half.so"), &[]);
    let error = refused(&at("half.so"));
    assert_eq!(error.kind(), Kind::Unsupported);
    for name in ["ggml_version", "llama_model_load_from_file", "llama_set_adapters_lora"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(!error.to_string().contains("llama_decode"), "{error}");

    // A directory with two, one of them with the hash of a repaired wheel; libllama-common is none.
    for name in ["libllama.so.7", "libllama-0a1b2c.so", "libllama-common.so"] {
        std::fs::copy(directory.join("libllama.so.7"), at(name)).unwrap();
    }
    let message = refused(case.path()).to_string();
    assert!(message.contains("it holds 2 libllama: ") && !message.contains("common"), "{message}");
}

#[test]
fn a_model_that_it_cannot_load_is_explained() {
    let (directory, _one) = llama();
    let runtime = Runtime::from_library(directory).unwrap();
    let absent = directory.join("absent.gguf");
    let error = llama_align::runtime::Model::open(&runtime, &absent).unwrap_err().to_string();
    assert!(error.contains("absent.gguf: llama.cpp cannot load this model: ") && error.len() > 150, "{error}");
}

/// The same on a llama.cpp that nobody here built: a library or a directory named by `LLAMA_ALIGN_TEST_LIBRARY`
/// (`tests/hosts` names some).
#[test]
#[ignore = "needs a prebuilt llama.cpp"]
fn prebuilt() {
    let path = std::env::var_os("LLAMA_ALIGN_TEST_LIBRARY").expect("LLAMA_ALIGN_TEST_LIBRARY names a library");
    let runtime = Runtime::from_library(Path::new(&path)).unwrap();
    for (weights, method) in [(Type::F32, Method::Sft), (Type::Q4_0, Method::Dpo), (Type::Q8_0, Method::Kto)] {
        let (measures, ..) = bits(&runtime, weights, method);
        let losses: Vec<f64> = measures.iter().map(|&m| f64::from_bits(m)).collect();
        assert!(losses.iter().all(|l| l.is_finite()), "{weights:?} {method:?}: {losses:?}");
    }
}
