//! What a runtime logs: to whoever listens on the thread, and error lines kept for messages.

use crate::log::{say, Level};
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::Mutex;

/// `GGML_LOG_LEVEL_WARN`.
const LEVEL_WARN: c_int = 3;
/// `GGML_LOG_LEVEL_ERROR`.
const LEVEL_ERROR: c_int = 4;
const BYTES_MAX: usize = 4096;

/// Lines since the last look, the newest of them.
#[derive(Debug)]
pub(super) struct Log(Mutex<String>);

impl Log {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(String::new()))
    }

    fn push(&self, line: &str) {
        if let Ok(mut log) = self.0.lock() {
            log.push_str(line);
            let mut excess = log.len().saturating_sub(BYTES_MAX);
            while !log.is_char_boundary(excess) {
                excess += 1;
            }
            log.drain(..excess);
        }
    }

    /// Copies the lines into `buf` and forgets them; returns the bytes written.
    ///
    /// # Safety
    /// There are `bytes` bytes at `buf`.
    pub(super) unsafe fn take(&self, buf: *mut c_char, bytes: usize) -> usize {
        let Ok(mut log) = self.0.lock() else { return 0 };
        let n = log.len().min(bytes);
        // SAFETY: by the caller.
        unsafe { std::ptr::copy_nonoverlapping(log.as_ptr().cast(), buf, n) };
        log.clear();
        n
    }
}

/// `ggml_log_callback`; `user` is a [`Log`] that lives as long as the process.
pub(super) unsafe extern "C" fn keep_errors(level: c_int, text: *const c_char, user: *mut c_void) {
    if text.is_null() || user.is_null() {
        return;
    }
    // SAFETY: ggml passes a NUL-terminated line that lives during the call.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let importance = match level {
        LEVEL_ERROR => Level::Error,
        LEVEL_WARN => Level::Warn,
        _ => Level::Debug,
    };
    say(importance, || line.trim_end().to_owned());
    if level == LEVEL_ERROR {
        // SAFETY: what ggml was given with the callback.
        unsafe { (*user.cast::<Log>()).push(&line) }
    }
}
