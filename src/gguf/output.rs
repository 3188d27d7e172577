//! Whether a file may be made: an input is never written to, and nothing that exists is replaced unasked.

use crate::error::{Error, Kind, Result};
use std::path::Path;

/// Looks before any work begins.
///
/// # Errors
/// [`Kind::Output`] where the directory does not exist, or the path is one of the inputs, exists and is no file, or exists and
/// may not be replaced.
pub fn check_output<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a Path>, overwrite: bool) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(Kind::Output, format!("{}: {what}", path.display())));
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return refuse("its directory does not exist");
    }
    if path.to_string_lossy().ends_with(std::path::is_separator) {
        return refuse("names a directory");
    }
    let Ok(meta) = std::fs::metadata(path) else {
        // A link that leads nowhere is there all the same.
        return match std::fs::symlink_metadata(path) {
            Ok(_) if !overwrite => refuse("exists already (--overwrite replaces it)"),
            _ => Ok(()),
        };
    };
    let real = path.canonicalize().ok();
    if inputs.into_iter().any(|input| input.canonicalize().ok() == real) {
        return refuse("is one of the inputs");
    }
    match (meta.is_file(), overwrite) {
        (false, _) => refuse("exists and is no file"),
        (true, false) => refuse("exists already (--overwrite replaces it)"),
        (true, true) => Ok(()),
    }
}
