//! Finds the llama.cpp that this process has loaded, whatever its files are called.

use super::library::{Library, Object};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void, CStr, CString};

/// A function that every llama.cpp has had since its first release as a library.
pub(super) const MARKER: &str = "llama_decode";

/// Names of all loaded files, in load order; the program itself is the empty name.
fn names() -> Vec<CString> {
    unsafe extern "C" fn add(info: *mut libc::dl_phdr_info, _size: usize, names: *mut c_void) -> c_int {
        // SAFETY: the linker passes a live entry; `names` is the list below.
        unsafe {
            let name = (*info).dlpi_name;
            let name = if name.is_null() { c"" } else { CStr::from_ptr(name) };
            (*names.cast::<Vec<CString>>()).push(name.to_owned());
        }
        0
    }
    let mut names = Vec::new();
    // SAFETY: the callback gets the list and does not outlive the call.
    unsafe { libc::dl_iterate_phdr(Some(add), std::ptr::from_mut::<Vec<CString>>(&mut names).cast()) };
    names
}

/// The one loaded library with a llama.cpp.
///
/// # Errors
/// If there is none, or more than one: which of them a model belongs to cannot be known.
pub(super) fn find() -> Result<Library> {
    let mut found: BTreeMap<Object, Library> = BTreeMap::new();
    let names = names();
    for name in &names {
        let Some(library) = Library::mapped(name) else { continue };
        // A library that only depends on llama.cpp resolves the symbol as well: what counts is where it lies.
        let Some(owner) = library.owner(MARKER) else { continue };
        if found.get(&owner).is_none_or(|known| known.path() != owner.path) {
            found.insert(owner, library);
        }
    }
    if found.len() > 1 {
        let paths: Vec<_> = found.keys().map(|o| o.path.display().to_string()).collect();
        let message = format!("{} llama.cpp are loaded in this process: {}; name one", found.len(), paths.join(", "));
        return Err(Error::new(Kind::Unsupported, message));
    }
    match found.pop_first() {
        Some((_, library)) => Ok(library),
        None => {
            let ggml = names.iter().map(|n| n.to_string_lossy()).filter(|n| n.contains("ggml") || n.contains("llama"));
            let ggml: Vec<_> = ggml.collect();
            let seen = if ggml.is_empty() { String::new() } else { format!(" (there are {})", ggml.join(", ")) };
            let message = format!("no library that is loaded in this process exports {MARKER}{seen}");
            Err(Error::new(Kind::Unsupported, message))
        }
    }
}
