//! Status codes, the error object, and the library's version.

use crate::error::{Error, Kind, Result};
use std::ffi::c_char;

/// Outcome of a call: 0 and positive values are no errors, negative values are. Values are added, never renumbered.
pub type llama_align_status = i32;

/// Done.
pub const LLAMA_ALIGN_OK: i32 = 0;
/// Stopped on demand between two steps: everything is consistent, can be saved, and can go on.
pub const LLAMA_ALIGN_CANCELLED: i32 = 1;
/// Did what it was asked to; steps of the run are left.
pub const LLAMA_ALIGN_MORE: i32 = 2;
/// An argument is NULL where it may not be, out of bounds, no live handle of its type, or not UTF-8; a struct_size is wrong,
/// or bytes behind what this library knows are not zero.
pub const LLAMA_ALIGN_ERR_ARGUMENT: i32 = -1;
/// The operating system refused: disk full, permission.
pub const LLAMA_ALIGN_ERR_IO: i32 = -2;
/// A file is not what it claims to be.
pub const LLAMA_ALIGN_ERR_FORMAT: i32 = -3;
/// Valid, but this build, machine or model architecture cannot do it.
pub const LLAMA_ALIGN_ERR_UNSUPPORTED: i32 = -4;
/// Model, adapter and data do not belong together.
pub const LLAMA_ALIGN_ERR_MISMATCH: i32 = -5;
/// Memory could not be had.
pub const LLAMA_ALIGN_ERR_MEMORY: i32 = -6;
/// A loss or gradient became NaN or infinite; the step was not applied.
pub const LLAMA_ALIGN_ERR_NUMERIC: i32 = -7;
/// The traced graph does not reproduce llama.cpp's results: training it would be wrong.
pub const LLAMA_ALIGN_ERR_CHECK: i32 = -8;
/// A bug in this library; the message says where. The handles of the call are poisoned.
pub const LLAMA_ALIGN_ERR_INTERNAL: i32 = -9;
/// An output exists already, or cannot be made.
pub const LLAMA_ALIGN_ERR_OUTPUT: i32 = -10;
/// An input file does not exist.
pub const LLAMA_ALIGN_ERR_MISSING: i32 = -11;
/// Training data cannot be used; the message names file and line, or the row.
pub const LLAMA_ALIGN_ERR_DATA: i32 = -12;
/// The handle is in use: by another thread, by the call whose callback this is, or (an adapter) by another trainer.
pub const LLAMA_ALIGN_ERR_BUSY: i32 = -13;
/// An earlier call on this handle ended in LLAMA_ALIGN_ERR_INTERNAL; only its _free is left.
pub const LLAMA_ALIGN_ERR_POISONED: i32 = -14;

/// Version of this interface: it grows with every addition, and a program runs with any library whose number is not
/// smaller and whose soname is the same.
pub const LLAMA_ALIGN_ABI: u32 = 1;

/// Bytes of an error's message, the terminating NUL included.
pub const LLAMA_ALIGN_MESSAGE_BYTES: usize = 1016;

const _: () = {
    assert!(LLAMA_ALIGN_ERR_ARGUMENT == Kind::Argument as i32 && LLAMA_ALIGN_ERR_IO == Kind::Io as i32);
    assert!(LLAMA_ALIGN_ERR_FORMAT == Kind::Format as i32 && LLAMA_ALIGN_ERR_UNSUPPORTED == Kind::Unsupported as i32);
    assert!(LLAMA_ALIGN_ERR_MISMATCH == Kind::Mismatch as i32 && LLAMA_ALIGN_ERR_MEMORY == Kind::Memory as i32);
    assert!(LLAMA_ALIGN_ERR_NUMERIC == Kind::Numeric as i32 && LLAMA_ALIGN_ERR_CHECK == Kind::Check as i32);
    assert!(LLAMA_ALIGN_ERR_INTERNAL == Kind::Internal as i32 && LLAMA_ALIGN_ERR_OUTPUT == Kind::Output as i32);
    assert!(LLAMA_ALIGN_ERR_MISSING == Kind::Missing as i32 && LLAMA_ALIGN_ERR_DATA == Kind::Data as i32);
    assert!(LLAMA_ALIGN_ERR_BUSY == Kind::Busy as i32 && LLAMA_ALIGN_ERR_POISONED == Kind::Poisoned as i32);
};

/// Detail of a failed call, in the caller's memory: set struct_size to sizeof(llama_align_error), pass it to any number of
/// calls. Lifetime: the caller's. Threads: one call at a time may use it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_error {
    /// sizeof(llama_align_error).
    pub struct_size: u32,
    /// The status that the call returned.
    pub status: llama_align_status,
    /// What went wrong, naming file, tensor, line or argument; UTF-8, terminated, cut where it is longer; empty after success.
    pub message: [c_char; LLAMA_ALIGN_MESSAGE_BYTES],
}

/// The fields before the message.
const HEAD_BYTES: usize = 8;

/// Whether there is no error object, or one that something can be written to.
///
/// # Safety
/// `err` is NULL or points to a readable u32.
pub(super) unsafe fn usable(err: *const llama_align_error) -> bool {
    // SAFETY: by the caller.
    err.is_null() || unsafe { super::params::size_is_sane(err.cast::<u32>().read(), HEAD_BYTES + 8) }
}

/// Tells the caller how a call ended.
///
/// # Safety
/// `err` is NULL or points to as many writable bytes as its `struct_size`, which is usable.
pub(super) unsafe fn report(err: *mut llama_align_error, result: &Result<llama_align_status>) -> llama_align_status {
    let (status, message) = match result {
        Ok(status) => (*status, String::new()),
        Err(error) => (error.kind() as i32, error.to_string()),
    };
    if !err.is_null() {
        // SAFETY: by the caller: the head and the part of the message that the caller knows lie within its object.
        unsafe {
            let size = err.cast::<u32>().read() as usize;
            (&raw mut (*err).status).write(status);
            let room = (size - HEAD_BYTES).min(LLAMA_ALIGN_MESSAGE_BYTES);
            super::text::fill(std::slice::from_raw_parts_mut((&raw mut (*err).message).cast(), room), &message);
        }
    }
    status
}

/// An error about an argument.
pub(super) fn argument(message: impl Into<String>) -> Error {
    Error::new(Kind::Argument, message)
}

/// The library's version, such as "0.1.0"; never NULL, valid as long as the library is loaded. Any thread. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// LLAMA_ALIGN_ABI of the library that runs, to be compared with that of the header. Any thread. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_abi() -> u32 {
    LLAMA_ALIGN_ABI
}

/// A status as a word, such as "mismatch"; "unknown" for a number that is none. Never NULL, valid as long as the library is
/// loaded. Any thread. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_status_name(status: llama_align_status) -> *const c_char {
    let name: &std::ffi::CStr = match status {
        LLAMA_ALIGN_OK => c"ok",
        LLAMA_ALIGN_CANCELLED => c"cancelled",
        LLAMA_ALIGN_MORE => c"more",
        LLAMA_ALIGN_ERR_ARGUMENT => c"argument",
        LLAMA_ALIGN_ERR_IO => c"io",
        LLAMA_ALIGN_ERR_FORMAT => c"format",
        LLAMA_ALIGN_ERR_UNSUPPORTED => c"unsupported",
        LLAMA_ALIGN_ERR_MISMATCH => c"mismatch",
        LLAMA_ALIGN_ERR_MEMORY => c"memory",
        LLAMA_ALIGN_ERR_NUMERIC => c"numeric",
        LLAMA_ALIGN_ERR_CHECK => c"check",
        LLAMA_ALIGN_ERR_INTERNAL => c"internal",
        LLAMA_ALIGN_ERR_OUTPUT => c"output",
        LLAMA_ALIGN_ERR_MISSING => c"missing",
        LLAMA_ALIGN_ERR_DATA => c"data",
        LLAMA_ALIGN_ERR_BUSY => c"busy",
        LLAMA_ALIGN_ERR_POISONED => c"poisoned",
        _ => c"unknown",
    };
    name.as_ptr()
}
