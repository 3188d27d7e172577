//! One shared library in this process, and what it and the libraries it depends on export.

use crate::error::{Error, Kind, Result};
use libloading::os::unix::Library as Handle;
use std::ffi::{c_void, CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A library that is loaded. Symbols are looked up in it, then in what it depends on, nowhere else: two runtimes in one
/// process are not mixed.
#[derive(Debug)]
pub(super) struct Library {
    handle: Handle,
    path: PathBuf,
}

/// The loaded file that holds an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    /// Where it is mapped.
    pub(super) base: usize,
    /// Its path as the dynamic linker knows it.
    pub(super) path: PathBuf,
}

impl Library {
    /// Loads a file, and all that it needs, or says why that does not work.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Err(e) = std::fs::metadata(path) {
            return Err(Error::io(path, "no library can be opened", &e));
        }
        // A bare name would be searched for in the system's directories.
        let path = std::path::absolute(path).map_err(|e| Error::io(path, "no absolute path", &e))?;
        // SAFETY: runs the library's initialisers; the caller asked for this library. Unresolved symbols are found out here.
        match unsafe { Handle::open(Some(&path), libc::RTLD_NOW | libc::RTLD_LOCAL) } {
            Ok(handle) => Ok(Self { handle, path }),
            Err(e) => {
                Err(Error::new(Kind::Unsupported, format!("{}: it cannot be loaded: {}", path.display(), reason(&e))))
            }
        }
    }

    /// A library that is loaded already, by the name the dynamic linker has for it; the empty name is the program itself.
    pub(super) fn mapped(name: &CStr) -> Option<Self> {
        let name = OsStr::from_bytes(name.to_bytes());
        let path = (!name.is_empty()).then_some(name);
        // SAFETY: nothing is loaded, no initialiser runs.
        let handle = unsafe { Handle::open(path, libc::RTLD_NOLOAD | libc::RTLD_LAZY | libc::RTLD_LOCAL) }.ok()?;
        let program = || std::env::current_exe().unwrap_or_default();
        Some(Self { handle, path: path.map_or_else(program, PathBuf::from) })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The address of a symbol.
    pub(super) fn address(&self, symbol: &str) -> Option<*mut c_void> {
        let name = CString::new(symbol).ok()?;
        // SAFETY: the address is only taken, not used.
        let found = unsafe { self.handle.get::<*mut c_void>(name.as_bytes_with_nul()) }.ok()?;
        let address = found.as_raw_ptr();
        (!address.is_null()).then_some(address)
    }

    /// The loaded file that a symbol lies in.
    pub(super) fn owner(&self, symbol: &str) -> Option<Object> {
        let address = self.address(symbol)?;
        let mut info = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        // SAFETY: `info` is filled if the result is not 0; the name then lives as long as the library.
        let path = unsafe {
            if libc::dladdr(address, &mut info) == 0 || info.dli_fname.is_null() {
                return None;
            }
            OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes())
        };
        Some(Object { base: info.dli_fbase as usize, path: PathBuf::from(path) })
    }

    /// Never unloads it: its functions stay in a table.
    pub(super) fn keep(self) {
        std::mem::forget(self.handle);
    }
}

/// What the dynamic linker said.
fn reason(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
