//! Writing GGUF version 3: equal content gives equal bytes, and a name holds a complete file or nothing.

use super::{Array, Value};
use crate::error::{Error, Kind, Result};
use quant::Type;
use std::io::Write;
use std::path::Path;

/// Tensor data starts at multiples of this.
const ALIGNMENT: usize = 32;

/// A file in the making. Keys and tensors keep the order in which they were added.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, Type, Vec<u64>, Vec<u8>)>,
}

impl Writer {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key, replacing an earlier value.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    /// Adds a tensor of shape `ne`, ne0 fastest.
    ///
    /// # Errors
    /// If the bytes do not fit shape and type, or the name is too long or taken.
    pub fn tensor(&mut self, name: &str, ty: Type, ne: &[u64], data: Vec<u8>) -> Result<()> {
        let rows: Option<u64> = ne.iter().skip(1).try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = ne.first().and_then(|&n| ty.row_bytes(n)?.checked_mul(rows?));
        if ne.is_empty() || ne.len() > 4 || bytes != Some(data.len() as u64) {
            let message = format!("tensor {name}: {} bytes do not fit shape {ne:?} of {}", data.len(), ty.name());
            return Err(Error::new(Kind::Internal, message));
        }
        if name.len() >= 64 || self.tensors.iter().any(|(n, ..)| n == name) {
            return Err(Error::new(Kind::Unsupported, format!("tensor name {name} is longer than 63 bytes or taken")));
        }
        self.tensors.push((name.to_owned(), ty, ne.to_vec(), data));
        Ok(())
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_str(&mut out, key);
            out.extend(value.type_id().to_le_bytes());
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for (name, ty, ne, data) in &self.tensors {
            put_str(&mut out, name);
            out.extend((ne.len() as u32).to_le_bytes());
            ne.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(ty.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += data.len().next_multiple_of(ALIGNMENT) as u64;
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        for (.., data) in &self.tensors {
            out.extend(data);
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        }
        out
    }

    /// Writes the file under a temporary name, syncs it, and renames it into place.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes())
    }
}

/// Writes `bytes` so that `path` holds all of them or what it held before: temporary name, fsync, rename, fsync of the
/// directory.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |what: &str, e: &std::io::Error| Error::io(path, &format!("{what} ({} bytes)", bytes.len()), e);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file =
        tempfile::NamedTempFile::new_in(directory).map_err(|e| fail("cannot make a temporary file beside it", &e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| fail("cannot write", &e))?;
    file.persist(path).map_err(|e| fail("cannot rename into place", &e.error))?;
    let synced = std::fs::File::open(directory).and_then(|d| d.sync_all());
    synced.map_err(|e| fail("cannot sync the directory", &e))
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_str(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(array) => {
            out.extend(array.type_id().to_le_bytes());
            out.extend((array.len() as u64).to_le_bytes());
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! each {
        ($v:expr) => {
            $v.iter().for_each(|x| out.extend(x.to_le_bytes()))
        };
    }
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => each!(v),
        Array::U16(v) => each!(v),
        Array::I16(v) => each!(v),
        Array::U32(v) => each!(v),
        Array::I32(v) => each!(v),
        Array::F32(v) => each!(v),
        Array::Bool(v) => v.iter().for_each(|&x| out.push(u8::from(x))),
        Array::String(v) => v.iter().for_each(|x| put_str(out, x)),
        Array::U64(v) => each!(v),
        Array::I64(v) => each!(v),
        Array::F64(v) => each!(v),
    }
}
