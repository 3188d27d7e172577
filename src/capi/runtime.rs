//! `llama_align_runtime`: whose llama.cpp is used, and where messages go.

use super::guard::{create, free, guard};
use super::handle::{get, Object};
use super::params::{Out, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{fill, text};
use super::LLAMA_ALIGN_OK;
use crate::error::Result;
use crate::log::{self, Level, Sink};
use crate::runtime::{Host, Runtime};
use std::ffi::{c_char, c_void, CString};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A llama.cpp: the one that is built into this library, or the host's. Lifetime: models keep what they need of it. Threads: any
/// number at once.
#[derive(Debug)]
pub struct llama_align_runtime {
    _never: (),
}

/// What a host fills in with llama-align-host.h, which it compiles against its own llama.cpp.
#[derive(Debug)]
pub struct llama_align_host {
    _never: (),
}

/// A message of llama.cpp's insides.
pub const LLAMA_ALIGN_LOG_DEBUG: u32 = 1;
/// A message of what was done.
pub const LLAMA_ALIGN_LOG_INFO: u32 = 2;
/// A message of what works, but perhaps not as wanted.
pub const LLAMA_ALIGN_LOG_WARN: u32 = 3;
/// A message of what failed.
pub const LLAMA_ALIGN_LOG_ERROR: u32 = 4;

const _: () = {
    assert!(LLAMA_ALIGN_LOG_DEBUG == Level::Debug as u32 && LLAMA_ALIGN_LOG_INFO == Level::Info as u32);
    assert!(LLAMA_ALIGN_LOG_WARN == Level::Warn as u32 && LLAMA_ALIGN_LOG_ERROR == Level::Error as u32);
};

/// Takes a message: `level` is one of LLAMA_ALIGN_LOG_*, `text` (borrowed) a line without its end, valid during the call. It runs on
/// the thread of the call that has something to say, and must not throw or longjmp.
pub type llama_align_log_fn = Option<unsafe extern "C" fn(level: u32, text: *const c_char, user_data: *mut c_void)>;

/// What a runtime is. Strings are UTF-8, terminated, and cut where they are longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_runtime_info {
    /// sizeof(llama_align_runtime_info), set by the caller.
    pub struct_size: u32,
    /// 1 if it is a host's, 0 if it is the built-in one.
    pub is_host: u32,
    /// The version that ggml reports.
    pub ggml_version: [c_char; 64],
}

// SAFETY: numbers and bytes only; no padding, as a test compares.
unsafe impl Struct for llama_align_runtime_info {
    const NAME: &'static str = "llama_align_runtime_info";
    const BYTES_V1: usize = size_of::<Self>();
}

/// Where messages of a runtime, and of what was made from it, go.
#[derive(Default)]
pub(super) struct LogSlot(Mutex<Option<Sink>>);

impl LogSlot {
    fn set(&self, sink: Option<Sink>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    }

    /// Runs a call whose messages go there.
    pub(super) fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        let sink = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        log::with(sink, call)
    }
}

pub(super) struct RuntimeObject {
    pub(super) runtime: Arc<Runtime>,
    pub(super) log: Arc<LogSlot>,
    is_host: bool,
}

impl Object for RuntimeObject {
    type C = llama_align_runtime;
    const NAME: &'static str = "runtime";
}

impl RuntimeObject {
    pub(super) fn new(runtime: Arc<Runtime>, is_host: bool) -> Self {
        Self { runtime, log: Arc::default(), is_host }
    }
}

/// The llama.cpp that is built in.
#[cfg(feature = "linked")]
pub(super) fn built_in() -> Result<Arc<Runtime>> {
    Runtime::linked()
}

/// This build has none.
#[cfg(not(feature = "linked"))]
pub(super) fn built_in() -> Result<Arc<Runtime>> {
    use crate::error::{Error, Kind};
    Err(Error::new(Kind::Unsupported, "this build has no llama.cpp of its own: use a host's"))
}

#[cfg(feature = "loaded")]
fn in_process() -> Result<Arc<Runtime>> {
    Runtime::from_process()
}

#[cfg(feature = "loaded")]
fn of_library(path: &Path) -> Result<Arc<Runtime>> {
    Runtime::from_library(path)
}

#[cfg(not(feature = "loaded"))]
fn in_process() -> Result<Arc<Runtime>> {
    use crate::error::{Error, Kind};
    Err(Error::new(
        Kind::Unsupported,
        "this build binds no llama.cpp without its headers: it lacks the feature `loaded`",
    ))
}

#[cfg(not(feature = "loaded"))]
fn of_library(path: &Path) -> Result<Arc<Runtime>> {
    use crate::error::Context;
    in_process().during(|| path.display().to_string())
}

/// A user's callback and what it is given.
struct Listener {
    function: unsafe extern "C" fn(level: u32, text: *const c_char, user_data: *mut c_void),
    user_data: *mut c_void,
}

// SAFETY: the header says that the callback runs on whatever thread has something to say.
unsafe impl Send for Listener {}
// SAFETY: as above.
unsafe impl Sync for Listener {}

impl Listener {
    fn tell(&self, level: Level, text: &str) {
        let line = text.trim_end().replace('\0', " ");
        if let Ok(line) = CString::new(line) {
            // SAFETY: the callback is what the header asks for.
            unsafe { (self.function)(level as u32, line.as_ptr(), self.user_data) };
        }
    }
}

/// The llama.cpp that is built into this library. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT,
/// UNSUPPORTED (a build without one). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_built_in(
    out: *mut *mut llama_align_runtime,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { create(out, err, || Ok(RuntimeObject::new(built_in()?, false))) }
}

/// The llama.cpp of a host: what llama_align_host_fill() of llama-align-host.h filled in. `host` (borrowed): not NULL. `out` (owned):
/// not NULL; NULL is written on failure. The host's libraries stay loaded for good. Where an assertion of the host's ggml fails, the
/// process ends as it would without this library. Errors: ARGUMENT (not filled in, or by another version of that header),
/// UNSUPPORTED (a ggml whose structs are laid out differently). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_from_host(
    host: *const llama_align_host,
    out: *mut *mut llama_align_runtime,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        if host.is_null() {
            return Err(argument("host is NULL"));
        }
        // SAFETY: a host's table, as the header asks for.
        Ok(RuntimeObject::new(unsafe { Runtime::from_host(host.cast::<Host>()) }?, true))
    };
    // SAFETY: pointers are what the header asks for.
    unsafe { create(out, err, call) }
}

/// The llama.cpp that this process has loaded as a shared library, whatever its files are called and whoever loaded it, without its
/// headers. Its log and the callbacks of its ggml stay with whoever loaded it; it stays loaded for good. Where an assertion of its
/// ggml fails, the process ends as it would without this library. `out` (owned): not NULL; NULL is written on failure. Errors:
/// ARGUMENT, UNSUPPORTED (there is none, or more than one, or a release that this library does not know: the message has the reason).
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_from_process(
    out: *mut *mut llama_align_runtime,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { create(out, err, || Ok(RuntimeObject::new(in_process()?, true))) }
}

/// The llama.cpp of a shared library, without its headers; it is loaded unless the process has it, and stays loaded for good. `path`
/// (borrowed): the library, or a directory with one libllama and its backends; not NULL. `out` (owned): not NULL; NULL is written on
/// failure. Everything else as in llama_align_runtime_from_process(). Errors: ARGUMENT, MISSING, IO, UNSUPPORTED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_from_library(
    path: *const c_char,
    out: *mut *mut llama_align_runtime,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        // SAFETY: pointers are what the header asks for.
        let path = Path::new(unsafe { text(path, "path") }?);
        Ok(RuntimeObject::new(of_library(path)?, true))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Frees a runtime; NULL is fine. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_runtime_free(runtime: *mut llama_align_runtime) {
    free::<RuntimeObject>(runtime);
}

/// What it is. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_describe(
    runtime: *const llama_align_runtime,
    out: *mut llama_align_runtime_info,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<RuntimeObject>(runtime)?;
        // SAFETY: `out` is what the header asks for.
        let out = unsafe { Out::new(out) }?;
        let mut info =
            llama_align_runtime_info { struct_size: 0, is_host: u32::from(object.is_host), ggml_version: [0; 64] };
        fill(&mut info.ggml_version, &object.runtime.version());
        out.put(info);
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Sends messages of this runtime, its models and their trainers to a callback; without one they go nowhere. Messages of a host's
/// llama.cpp stay with the host. `fn_`: NULL for nobody. `user_data` (shared): passed on; it must live until another callback was set
/// and no call that began before is running, or all of these handles are freed. Errors: ARGUMENT, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_runtime_set_log(
    runtime: *const llama_align_runtime,
    fn_: llama_align_log_fn,
    user_data: *mut c_void,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let object = get::<RuntimeObject>(runtime)?;
        object.log.set(fn_.map(|function| {
            let listener = Listener { function, user_data };
            let sink: Sink = Arc::new(move |level, text: &str| listener.tell(level, text));
            sink
        }));
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}
