//! A GGUF file as bytes, with the places of its fields: what a mutation needs to know, read by code of its own.

use crate::tiny;
use llama_align::gguf::{Array, File, Value, Writer};
use quant::Type;
use std::ops::Range;

/// Offsets of the header's counts.
pub(super) const N_TENSORS_AT: usize = 8;
pub(super) const N_KEYS_AT: usize = 16;
const KEYS_AT: usize = 24;

/// A file and where its fields lie.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    pub(super) keys: Vec<Key>,
    pub(super) tensors: Vec<Tensor>,
}

/// Where a key's entry lies: from its name's length to its value's end.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) entry: Range<usize>,
    /// The four bytes of the type.
    pub(super) type_at: usize,
    pub(super) value_at: usize,
}

/// Where a tensor's entry lies.
#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) entry: Range<usize>,
    pub(super) n_dims_at: usize,
    pub(super) ne_at: usize,
    pub(super) type_at: usize,
    pub(super) offset_at: usize,
}

impl Image {
    /// A tiny model with 8-bit weights.
    pub(super) fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        tiny::find(name).write(&path, Type::Q8_0).unwrap();
        Self::read(std::fs::read(&path).unwrap())
    }

    /// Finds the fields of a good file.
    pub(super) fn read(bytes: Vec<u8>) -> Self {
        let mut at = KEYS_AT;
        let count = |at: usize| u64_at(&bytes, at) as usize;
        let keys = (0..count(N_KEYS_AT))
            .map(|_| {
                let start = at;
                let name = text_at(&bytes, &mut at);
                let (type_at, value_at) = (at, at + 4);
                at = value_end(&bytes, u32_at(&bytes, type_at), value_at);
                Key { name, entry: start..at, type_at, value_at }
            })
            .collect();
        let tensors = (0..count(N_TENSORS_AT))
            .map(|_| {
                let start = at;
                let name = text_at(&bytes, &mut at);
                let (n_dims_at, ne_at) = (at, at + 4);
                let type_at = ne_at + 8 * u32_at(&bytes, n_dims_at) as usize;
                at = type_at + 12;
                Tensor { name, entry: start..at, n_dims_at, ne_at, type_at, offset_at: type_at + 4 }
            })
            .collect();
        Self { bytes, keys, tensors }
    }

    pub(super) fn key(&self, name: &str) -> &Key {
        self.keys.iter().find(|k| k.name == name).unwrap_or_else(|| panic!("no key {name}"))
    }

    pub(super) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// End of the directory.
    pub(super) fn header_end(&self) -> usize {
        self.tensors.last().map_or(KEYS_AT, |t| t.entry.end)
    }

    /// The bytes with others at one place.
    pub(super) fn put(&self, at: usize, new: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    }

    /// The bytes with a part of the header replaced by one of any length, the data where the format then expects it.
    pub(super) fn splice(&self, part: Range<usize>, new: &[u8]) -> Vec<u8> {
        let end = self.header_end();
        let mut bytes = [&self.bytes[..part.start], new, &self.bytes[part.end..end]].concat();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.bytes[end.next_multiple_of(32)..]);
        bytes
    }

    /// The file with other keys and tensors, written anew.
    pub(super) fn edited(&self, edit: impl FnOnce(&mut Content)) -> Vec<u8> {
        let file = File::from_bytes(self.bytes.clone(), "tiny").unwrap();
        let keys = file.keys().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        let tensors = file
            .tensors()
            .iter()
            .map(|t| (t.name.clone(), t.ty, t.ne[..t.n_dims as usize].to_vec(), file.data(t).to_vec()));
        let mut content = Content { keys, tensors: tensors.collect() };
        edit(&mut content);
        let mut writer = Writer::new();
        content.keys.into_iter().for_each(|(key, value)| writer.set(&key, value));
        for (name, ty, ne, data) in content.tensors {
            writer.tensor(&name, ty, &ne, data).unwrap();
        }
        writer.to_bytes()
    }

    /// The file with one key set.
    pub(super) fn with(&self, key: &str, value: Value) -> Vec<u8> {
        self.edited(|content| content.set(key, value))
    }

    /// The file without one key.
    pub(super) fn without(&self, key: &str) -> Vec<u8> {
        self.key(key);
        self.edited(|content| content.keys.retain(|(k, _)| k != key))
    }
}

/// Keys and tensors of a file.
pub(super) struct Content {
    pub(super) keys: Vec<(String, Value)>,
    /// Name, type, shape, bytes.
    pub(super) tensors: Vec<(String, Type, Vec<u64>, Vec<u8>)>,
}

impl Content {
    pub(super) fn set(&mut self, key: &str, value: Value) {
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    /// The texts of an array of texts.
    pub(super) fn texts(&mut self, key: &str) -> &mut Vec<String> {
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, Value::Array(Array::String(texts)))) => texts,
            _ => panic!("no texts {key}"),
        }
    }

    pub(super) fn tensor(&mut self, name: &str) -> &mut (String, Type, Vec<u64>, Vec<u8>) {
        self.tensors.iter_mut().find(|t| t.0 == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn text_at(bytes: &[u8], at: &mut usize) -> String {
    let start = *at + 8;
    *at = start + u64_at(bytes, *at) as usize;
    String::from_utf8(bytes[start..*at].to_vec()).unwrap()
}

fn value_end(bytes: &[u8], ty: u32, at: usize) -> usize {
    match ty {
        0 | 1 | 7 => at + 1,
        2 | 3 => at + 2,
        4..=6 => at + 4,
        8 => at + 8 + u64_at(bytes, at) as usize,
        9 => {
            let (ty, n) = (u32_at(bytes, at), u64_at(bytes, at + 4));
            (0..n).fold(at + 12, |at, _| value_end(bytes, ty, at))
        }
        _ => at + 8,
    }
}
