//! Strings and arrays of strings, in and out.

use super::status::argument;
use crate::error::Result;
use std::ffi::{c_char, CStr};

/// A string argument.
///
/// # Safety
/// `ptr` is NULL or NUL-terminated, and alive as long as the result is used.
pub(super) unsafe fn text<'a>(ptr: *const c_char, name: &str) -> Result<&'a str> {
    if ptr.is_null() {
        return Err(argument(format!("{name} is NULL")));
    }
    // SAFETY: by the caller.
    let bytes = unsafe { CStr::from_ptr(ptr) };
    bytes.to_str().map_err(|e| argument(format!("{name}: not UTF-8 (byte {})", e.valid_up_to() + 1)))
}

/// An array argument: NULL only where it has no elements.
///
/// # Safety
/// `ptr` is NULL or points to `n` elements, alive as long as the result is used.
pub(super) unsafe fn array<'a, T>(ptr: *const T, n: usize, name: &str) -> Result<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    if ptr.is_null() {
        return Err(argument(format!("{name} is NULL, but has {n} elements")));
    }
    if n > isize::MAX as usize / size_of::<T>() {
        return Err(argument(format!("{name}: no array has {n} elements")));
    }
    // SAFETY: by the caller.
    Ok(unsafe { std::slice::from_raw_parts(ptr, n) })
}

/// An array that is written to.
///
/// # Safety
/// As [`array`], and nothing else reads or writes it.
pub(super) unsafe fn array_mut<'a, T>(ptr: *mut T, n: usize, name: &str) -> Result<&'a mut [T]> {
    // SAFETY: by the caller; the checks are the same.
    unsafe { array(ptr.cast_const(), n, name) }?;
    if n == 0 {
        return Ok(&mut []);
    }
    // SAFETY: by the caller.
    Ok(unsafe { std::slice::from_raw_parts_mut(ptr, n) })
}

/// An array of strings.
///
/// # Safety
/// As [`array`] and, for each element, [`text`].
pub(super) unsafe fn texts(ptr: *const *const c_char, n: usize, name: &str) -> Result<Vec<String>> {
    // SAFETY: by the caller.
    let list = unsafe { array(ptr, n, name) }?.iter().enumerate();
    // SAFETY: by the caller.
    list.map(|(i, &p)| unsafe { text(p, &format!("{name}[{i}]")) }.map(str::to_owned)).collect()
}

/// Writes a string, cut between two characters where it is too long, and fills the rest with NULs.
pub(super) fn fill(room: &mut [c_char], text: &str) {
    let mut n = text.len().min(room.len().saturating_sub(1));
    while !text.is_char_boundary(n) {
        n -= 1;
    }
    for (i, place) in room.iter_mut().enumerate() {
        // A NUL within the text would end it early; it stands for nothing a reader could see.
        *place = if i < n { text.as_bytes()[i] as c_char } else { 0 };
    }
}
