//! Writing a GGUF file whose tensors are in memory: equal content gives equal bytes, and a name holds a complete file or
//! nothing.

use super::draft::Draft;
use super::{Entry, Header, Value};
use crate::error::{Error, Kind, Result};
use quant::Type;
use std::path::Path;

/// A file in the making. Keys and tensors keep the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    header: Header,
    data: Vec<Vec<u8>>,
}

impl Writer {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key, replacing an earlier value.
    pub fn set(&mut self, key: &str, value: Value) {
        self.header.set(key, value);
    }

    /// Adds a tensor of shape `ne`, ne0 fastest.
    ///
    /// # Errors
    /// If the bytes do not fit shape and type, or the name is too long or taken.
    pub fn tensor(&mut self, name: &str, ty: Type, ne: &[u64], data: Vec<u8>) -> Result<()> {
        let entry = Entry::new(name, ty, ne)?;
        if entry.bytes() != data.len() as u64 {
            let message = format!("tensor {name}: {} bytes do not fit shape {ne:?} of {}", data.len(), ty.name());
            return Err(Error::new(Kind::Internal, message));
        }
        self.header.push(entry)?;
        self.data.push(data);
        Ok(())
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (mut out, alignment) = (self.header.to_bytes(), self.header.alignment() as usize);
        for data in &self.data {
            out.extend(data);
            out.resize(out.len().next_multiple_of(alignment), 0);
        }
        out
    }

    /// Writes the file under a temporary name, syncs it, and renames it into place.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes())
    }
}

/// Writes `bytes` so that `path` holds all of them or what it held before.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut draft = Draft::beside(path)?;
    draft.write(bytes)?;
    draft.publish(true)
}
