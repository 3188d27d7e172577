//! A llama.cpp that somebody else built, without its headers: libraries that this process has loaded, or that are named.
//!
//! **In:** nothing, or a path. **Out:** a filled table. **Invariants:** a release of ggml that was never tried, or that does
//! not behave as it is known to, is refused with the reason; a runtime is never unloaded; the log and the abort callback of a
//! runtime that someone else loaded are left alone, so that a failed assertion of ggml aborts there as it always does.

mod host;
mod layout;
mod library;
mod mapped;
mod probe;
mod symbols;
mod table;
mod version;

use super::abi::{Table, DEVICE_CPU};
use super::log::{keep_errors, Log};
use crate::error::{Context, Error, Kind, Result};
use host::Host;
use library::Library;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use symbols::Symbols;

/// The runtime that this process has loaded, and where it lies.
pub(super) fn from_process() -> Result<(Table, PathBuf)> {
    let library = mapped::find()?;
    let path = library.path().to_owned();
    let table = bind(library, None, None).during(|| path.display().to_string())?;
    Ok((table, path))
}

/// The runtime of a library, or of the one library called `libllama` in a directory. Loads it unless the process has.
pub(super) fn from_library(path: &Path) -> Result<(Table, PathBuf)> {
    let path = &if path.is_dir() { in_directory(path)? } else { path.to_owned() };
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::new(Kind::Argument, format!("{}: the path holds a NUL byte", path.display())))?;
    let loaded_before = Library::mapped(&name).is_some();
    let library = Library::open(path)?;
    if library.address(mapped::MARKER).is_none() {
        let message = format!("{}: it exports no {}: this is no llama.cpp", path.display(), mapped::MARKER);
        return Err(Error::new(Kind::Unsupported, message));
    }
    // What nobody else uses may keep its errors for our messages; ggml would write them to the standard error output.
    let log: Option<&'static Log> = (!loaded_before).then(|| &*Box::leak(Box::new(Log::new())));
    let directory = path.parent().map(Path::to_owned);
    let table = bind(library, log, directory).during(|| path.display().to_string())?;
    Ok((table, path.to_owned()))
}

/// Makes the table of a library that exports a llama.cpp. Where no backend is registered, those in `backends` are loaded.
fn bind(library: Library, log: Option<&'static Log>, backends: Option<PathBuf>) -> Result<Table> {
    let symbols = Symbols::resolve(&library)?;
    // SAFETY: the symbols are those of one loaded library and what it depends on, which is kept once it was found sound.
    unsafe {
        let facts = probe::probe(&symbols)?;
        if !host::is_bound(&symbols) {
            library.keep();
            start(&symbols, log, backends);
        }
        host::bind(Host::new(symbols, &facts, log)?)
    }
}

/// # Safety
/// The symbols are those of one loaded runtime, which is never unloaded.
unsafe fn start(symbols: &Symbols, log: Option<&'static Log>, backends: Option<PathBuf>) {
    // SAFETY: by the caller; the log lives as long as the process.
    unsafe {
        if let Some(log) = log {
            (symbols.llama_log_set)(keep_errors, std::ptr::from_ref(log).cast_mut().cast());
        }
        (symbols.llama_backend_init)();
        let no_device = (symbols.ggml_backend_dev_by_type)(DEVICE_CPU).is_null();
        if let Some(directory) = backends.filter(|_| no_device) {
            let directory = CString::new(directory.as_os_str().as_bytes()).unwrap_or_default();
            (symbols.ggml_backend_load_all_from_path)(directory.as_ptr());
        }
    }
}

/// The one file in a directory that is a libllama under whatever version or variant.
fn in_directory(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io(directory, "no directory can be read", &e))?;
    // As built, and with the hash that tools which repair wheels append; libllama-common is another library.
    let is_llama = |name: &str| {
        let (stem, rest) = name.split_once('.').unwrap_or((name, ""));
        let hash = stem.strip_prefix("libllama-").unwrap_or_default();
        (stem == "libllama" || !hash.is_empty() && hash.chars().all(|c| c.is_ascii_hexdigit()))
            && rest.split('.').any(|part| part == "so" || part == "dylib")
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_llama))
        .filter_map(|path| std::fs::canonicalize(path).ok())
        .collect();
    found.sort();
    found.dedup();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::new(Kind::Missing, format!("{}: it holds no libllama", directory.display()))),
        n => {
            let names: Vec<_> = found.iter().map(|p| p.display().to_string()).collect();
            let message = format!("{}: it holds {n} libllama: {}; name one", directory.display(), names.join(", "));
            Err(Error::new(Kind::Unsupported, message))
        }
    }
}
