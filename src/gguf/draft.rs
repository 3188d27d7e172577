//! A file under a temporary name until it is complete.

use super::behind::{Behind, Target};
use crate::error::{Error, Kind, Result};
use crate::os;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// A file in the making beside the place where it will appear; gone if it is dropped before that.
#[derive(Debug)]
pub(super) struct Draft {
    file: NamedTempFile,
    path: PathBuf,
    at: u64,
}

impl Draft {
    /// An empty file in the directory of `path`.
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(".part");
        // As any program's file, by the user's mask: a model is there to be served.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(directory(path));
        let file = file.map_err(|e| Error::io(path, "cannot make a temporary file beside it", &e))?;
        Ok(Self { file, path: path.to_owned(), at: 0 })
    }

    /// Where it will appear.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is until then.
    pub(super) fn here(&self) -> &Path {
        self.file.path()
    }

    /// Where the next byte goes.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn fail(&self, what: &str, e: &std::io::Error) -> Error {
        Error::io(&self.path, &format!("{what} (at {} bytes)", self.at), e)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        os::write_all_at(self.file.as_file(), bytes, self.at).map_err(|e| self.fail("cannot write", &e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The same by another thread, later, but before what that is given afterwards.
    pub(super) fn write_behind(&mut self, behind: &mut Behind, target: &Arc<Target>, bytes: Vec<u8>) -> Result<()> {
        let at = self.at;
        self.at += bytes.len() as u64;
        behind.write(target, at, bytes)
    }

    /// This file for [`Self::write_behind`].
    pub(super) fn target(&self) -> Result<Arc<Target>> {
        let file = self.file.as_file().try_clone().map_err(|e| self.fail("cannot open once more", &e))?;
        Ok(Arc::new(Target { file, path: self.path.clone() }))
    }

    /// Goes to a place in the file.
    pub(super) fn seek(&mut self, at: u64) {
        self.at = at;
    }

    /// Cuts off what lies after the current place.
    pub(super) fn truncate(&mut self) -> Result<()> {
        self.file.as_file().set_len(self.at).map_err(|e| self.fail("cannot cut", &e))
    }

    /// Lets the file appear: fsync, rename, fsync of the directory.
    pub(super) fn publish(self, overwrite: bool) -> Result<()> {
        self.file.as_file().sync_all().map_err(|e| self.fail("cannot write", &e))?;
        let Self { file, path, .. } = self;
        let renamed = if overwrite { file.persist(&path) } else { file.persist_noclobber(&path) };
        renamed.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Output, format!("{}: exists already", path.display()))
            }
            _ => Error::io(&path, "cannot rename into place", &e.error),
        })?;
        let synced = std::fs::File::open(directory(&path)).and_then(|d| d.sync_all());
        synced.map_err(|e| Error::io(&path, "cannot sync the directory", &e))
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
