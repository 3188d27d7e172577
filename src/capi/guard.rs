//! Every exported function is one call of these: no panic leaves, outputs are written only on success.

use super::handle::{self, Object};
use super::status::{argument, llama_align_error, llama_align_status, report, usable};
use super::{LLAMA_ALIGN_ERR_ARGUMENT, LLAMA_ALIGN_OK};
use crate::error::{Error, Kind, Result};
use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Runs a call; an error or a panic goes to `err` and into the status.
///
/// # Safety
/// `err` is NULL or the caller's error object.
pub(super) unsafe fn guard(
    err: *mut llama_align_error,
    call: impl FnOnce() -> Result<llama_align_status>,
) -> llama_align_status {
    // SAFETY: by the caller.
    if !unsafe { usable(err) } {
        return LLAMA_ALIGN_ERR_ARGUMENT;
    }
    let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|thrown| Err(panicked(thrown)));
    // SAFETY: by the caller and the check.
    unsafe { report(err, &result) }
}

/// Runs a call that makes an object; `out` gets its handle, or NULL.
///
/// # Safety
/// `out` is NULL or writable; `err` as in [`guard`].
pub(super) unsafe fn create<T: Object>(
    out: *mut *mut T::C,
    err: *mut llama_align_error,
    call: impl FnOnce() -> Result<T>,
) -> llama_align_status {
    if !out.is_null() {
        // SAFETY: by the caller.
        unsafe { out.write(std::ptr::null_mut()) };
    }
    let call = || {
        if out.is_null() {
            return Err(argument("out is NULL"));
        }
        let made = handle::insert(call()?)?;
        // SAFETY: not NULL, and writable by the caller.
        unsafe { out.write(made) };
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: by the caller.
    unsafe { guard(err, call) }
}

/// Frees a handle. What is NULL, freed, or of another type is left alone.
pub(super) fn free<T: Object>(handle: *mut T::C) {
    // There is nobody to tell of a panic in a destructor; it must not leave all the same.
    if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(handle::take::<T>(handle)))) {
        std::mem::forget(thrown);
    }
}

fn panicked(thrown: Box<dyn Any + Send>) -> Error {
    let text = thrown.downcast_ref::<&str>().map(|t| (*t).to_owned());
    let text = text.or_else(|| thrown.downcast_ref::<String>().cloned());
    // Dropping what somebody threw may throw again.
    std::mem::forget(thrown);
    Error::new(Kind::Internal, format!("a panic: {}", text.as_deref().unwrap_or("without a message")))
}

#[cfg(test)]
mod tests {
    use super::super::{LLAMA_ALIGN_ERR_INTERNAL, LLAMA_ALIGN_ERR_POISONED};
    use super::*;

    #[test]
    fn panics_become_statuses_with_their_text() {
        let mut err = llama_align_error { struct_size: 1024, status: 7, message: [1; 1016] };
        // SAFETY: the object has the size that it says.
        let status = unsafe { guard(&mut err, || panic!("block {} is gone", 3)) };
        assert_eq!((status, err.status), (Kind::Internal as i32, Kind::Internal as i32));
        // SAFETY: the message is terminated.
        let text = unsafe { std::ffi::CStr::from_ptr(err.message.as_ptr()) }.to_str().unwrap();
        assert_eq!(text, "a panic: block 3 is gone");
        // SAFETY: as above.
        assert_eq!(unsafe { guard(&mut err, || Ok(2)) }, 2);
        assert_eq!((err.status, err.message[0]), (2, 0));
    }

    struct Glass;
    struct glass;

    impl Object for Glass {
        type C = glass;
        const NAME: &'static str = "glass";
    }

    #[test]
    fn what_a_panic_touched_can_only_be_freed() {
        let mut handles = [std::ptr::null_mut::<glass>(); 2];
        for out in &mut handles {
            // SAFETY: a place for a handle; no error object.
            assert_eq!(unsafe { create(out, std::ptr::null_mut(), || Ok(Glass)) }, LLAMA_ALIGN_OK);
        }
        let uses = |handle: *mut glass, breaks: bool| {
            let call = || {
                let _in_use = handle::get::<Glass>(handle)?;
                assert!(!breaks, "a test's panic");
                Ok(LLAMA_ALIGN_OK)
            };
            // SAFETY: no error object.
            unsafe { guard(std::ptr::null_mut(), call) }
        };
        let [broken, whole] = handles;
        assert_eq!([uses(broken, false), uses(broken, true)], [LLAMA_ALIGN_OK, LLAMA_ALIGN_ERR_INTERNAL]);
        assert_eq!([uses(broken, false), uses(whole, false)], [LLAMA_ALIGN_ERR_POISONED, LLAMA_ALIGN_OK]);
        handles.into_iter().for_each(free::<Glass>);
        assert_eq!([uses(broken, false), uses(whole, false)], [LLAMA_ALIGN_ERR_ARGUMENT; 2]);
        // A panic while an object is made leaves no handle.
        let mut out = broken;
        // SAFETY: a place for a handle; no error object.
        let status = unsafe { create::<Glass>(&mut out, std::ptr::null_mut(), || panic!("a test's panic")) };
        assert!(status == LLAMA_ALIGN_ERR_INTERNAL && out.is_null());
    }

    #[test]
    fn a_short_error_object_gets_what_fits() {
        let mut err = llama_align_error { struct_size: 16, status: 0, message: [1; 1016] };
        // SAFETY: the object is larger than it says.
        unsafe { guard(&mut err, || Err(argument("äöüäöü"))) };
        let bytes: Vec<u8> = err.message[..9].iter().map(|&c| c as u8).collect();
        assert_eq!(bytes, [0xc3, 0xa4, 0xc3, 0xb6, 0xc3, 0xbc, 0, 0, 1]);
        err.struct_size = 15;
        // SAFETY: as above.
        assert_eq!(unsafe { guard(&mut err, || Ok(0)) }, LLAMA_ALIGN_ERR_ARGUMENT);
    }
}
