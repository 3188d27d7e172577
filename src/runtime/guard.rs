//! Survives ggml's assertions: one that fails while a model is loaded or a graph is built becomes an error.
//!
//! ggml aborts the process where an assertion fails, and lets a callback speak before. On the thread of a guarded call
//! that callback unwinds instead, through llama.cpp's frames, back into the guard. What was under construction is then
//! leaked, never used or freed. Files are validated before (`gguf`); this net is for what no rule foresaw.

use crate::error::{Error, Kind, Result};
use std::cell::Cell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

/// `ggml_abort_callback_t`, which may unwind.
#[cfg(feature = "linked")]
pub(super) type OnAbort = unsafe extern "C-unwind" fn(message: *const std::ffi::c_char);

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The message of a failed assertion on its way to the guard.
struct Failed(String);

/// Unwinds to the guard of this thread; on a thread without one (ggml's workers) it speaks, and ggml aborts.
#[cfg(any(feature = "linked", test))]
pub(super) unsafe extern "C-unwind" fn on_abort(message: *const std::ffi::c_char) {
    // SAFETY: ggml passes a NUL-terminated message.
    let message = unsafe { super::text(message) };
    if GUARDED.get() {
        // Not `panic!`: no hook is to print this.
        resume_unwind(Box::new(Failed(message)));
    }
    let _ = std::io::Write::write_all(&mut std::io::stderr(), (message + "\n").as_bytes());
}

/// Calls into llama.cpp; a failed assertion is an error of kind [`Kind::Unsupported`] that says where.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    result.map_err(|thrown| match thrown.downcast::<Failed>() {
        Ok(failed) => {
            // The path is that of the machine which built llama.cpp.
            let place = failed.0.rsplit_once("llama.cpp/").map_or(failed.0.as_str(), |(_, place)| place);
            Error::new(Kind::Unsupported, format!("llama.cpp cannot work with it: {place}"))
        }
        Err(other) => resume_unwind(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_on_the_guarded_thread_is_an_error() {
        let failed = || -> i32 {
            // SAFETY: a NUL-terminated literal.
            unsafe { on_abort(c"/build/llama.cpp/src/x.cpp:7: GGML_ASSERT(false) failed".as_ptr()) };
            1
        };
        let error = guarded(failed).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().ends_with("src/x.cpp:7: GGML_ASSERT(false) failed"), "{error}");
        assert!(!GUARDED.get(), "the guard is gone");
        assert_eq!(guarded(|| 2).unwrap(), 2);
    }
}
