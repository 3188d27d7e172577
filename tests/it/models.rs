//! Opening tiny models, and running something over many of them.

use crate::tiny::{all, Tiny};
use llama_align::error::Result;
use llama_align::gguf::{validate_model, File};
use llama_align::runtime::{Model, Runtime};
use quant::Type;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Models at work at once. Their graphs run on one thread each: more would spin against each other.
const WORKERS: usize = 2;

/// A written and opened model with its file, which lives as long as this.
pub(crate) struct Opened {
    pub(crate) model: Arc<Model>,
    pub(crate) file: File,
    _dir: tempfile::TempDir,
}

/// The one llama.cpp of this binary.
pub(crate) fn runtime() -> Arc<Runtime> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::linked().expect("the linked llama.cpp is usable")).clone()
}

/// Writes a tiny model with its matrices in `weights` and opens it.
pub(crate) fn open(tiny: &Tiny, weights: Type) -> Result<Opened> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = dir.path().join("tiny.gguf");
    tiny.write(&path, weights)?;
    let file = File::open(&path)?;
    validate_model(&file)?;
    Ok(Opened { model: Model::open(&runtime(), &path)?, file, _dir: dir })
}

/// The models that attend and whose every weight is used by every token.
pub(crate) fn dense() -> Vec<Tiny> {
    trainable().into_iter().filter(|tiny| !tiny.is_moe()).collect()
}

/// The models that attend: those that can be trained.
pub(crate) fn trainable() -> Vec<Tiny> {
    all().into_iter().filter(|tiny| !tiny.is_recurrent()).collect()
}

/// Runs `body` on every case and fails with the names and messages of all that failed.
pub(crate) fn each<T: Sync>(cases: &[T], name: impl Fn(&T) -> String + Sync, body: impl Fn(&T) + Sync) {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(case))) {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked");
                failures.lock().expect("no holder panics").push(format!("{}: {text}", name(case)));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no holder panics");
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
