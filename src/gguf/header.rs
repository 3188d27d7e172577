//! What stands before the data of a GGUF file: keys and the directory of tensors, as bytes.

use super::{Array, Value};
use crate::error::{Error, Kind, Result};
use quant::Type;

/// Tensor data starts at multiples of this, where the file does not say otherwise.
const ALIGNMENT: u32 = 32;

/// One tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its shape, ne0 fastest, with as many axes as the file is to have.
    pub ne: Vec<u64>,
}

impl Entry {
    /// An entry that a file can hold.
    ///
    /// # Errors
    /// If the shape is no whole number of the type's blocks, or the name is too long.
    pub fn new(name: &str, ty: Type, ne: &[u64]) -> Result<Self> {
        let entry = Self { name: name.to_owned(), ty, ne: ne.to_vec() };
        if ne.len() > 4 || entry.bytes_as(ty).is_none() {
            let message = format!("tensor {name} of shape {ne:?} cannot be {}", ty.name());
            return Err(Error::new(Kind::Internal, message));
        }
        if name.len() >= 64 {
            return Err(Error::new(Kind::Unsupported, format!("tensor name {name} is longer than 63 bytes")));
        }
        Ok(entry)
    }

    /// Its bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes_as(self.ty).unwrap_or(0)
    }

    /// Its bytes as another type; `None` where its rows are no whole number of that type's blocks.
    pub fn bytes_as(&self, ty: Type) -> Option<u64> {
        let rows = self.ne.iter().skip(1).try_fold(1u64, |n, &d| n.checked_mul(d))?;
        ty.row_bytes(*self.ne.first()?)?.checked_mul(rows)
    }
}

/// Keys and tensors in the order in which they were added. Changing the type of a tensor, or a key's value to another of
/// equal size, does not change the header's length.
#[derive(Clone, Debug, Default)]
pub struct Header {
    keys: Vec<(String, Value)>,
    tensors: Vec<Entry>,
}

impl Header {
    /// An empty one.
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

    /// Takes keys away.
    pub fn remove(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.keys.retain(|(key, _)| !unwanted(key));
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// If its name is taken.
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        if self.tensors.iter().any(|t| t.name == entry.name) {
            return Err(Error::new(Kind::Unsupported, format!("tensor name {} is taken", entry.name)));
        }
        self.tensors.push(entry);
        Ok(())
    }

    /// The tensors.
    pub fn tensors(&self) -> &[Entry] {
        &self.tensors
    }

    /// The header of one file of a split model: some of the tensors, and the keys, of which the first file has all.
    pub(super) fn part(&self, tensors: std::ops::Range<usize>, is_first: bool) -> Self {
        let keys = self.keys.iter().filter(|(key, _)| is_first || key == "general.alignment");
        Self { keys: keys.cloned().collect(), tensors: self.tensors[tensors].to_vec() }
    }

    /// Gives a tensor another type.
    pub(super) fn retype(&mut self, index: usize, ty: Type) {
        self.tensors[index].ty = ty;
    }

    /// What offsets are multiples of: `general.alignment`, as the reader understands it.
    pub fn alignment(&self) -> u64 {
        match self.get("general.alignment") {
            Some(Value::U32(n)) if n.is_power_of_two() && (8..=1 << 16).contains(n) => u64::from(*n),
            _ => u64::from(ALIGNMENT),
        }
    }

    /// Version 3 of the format, up to where the data begin: a multiple of the alignment.
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
        for tensor in &self.tensors {
            put_str(&mut out, &tensor.name);
            out.extend((tensor.ne.len() as u32).to_le_bytes());
            tensor.ne.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.ty.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.bytes().next_multiple_of(self.alignment());
        }
        out.resize(out.len().next_multiple_of(self.alignment() as usize), 0);
        out
    }
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
