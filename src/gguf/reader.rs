//! Reading a GGUF file: the whole directory is validated before anything is believed.

use super::cursor::Cursor;
use super::{split, Value};
use crate::error::{Error, Kind, Result};
use memmap2::Mmap;
use quant::Type;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Longest tensor name that ggml holds, in bytes.
const TENSOR_NAME_MAX: usize = 63;
/// Keys and directory end before this, in bytes: what they need in memory is a multiple of it, and a file full of holes
/// costs its maker nothing. Vocabularies of 256 thousand tokens and their merges take 10 MiB.
const HEADER_BYTES_MAX: usize = 1 << 28;
/// Largest alignment that is believed, in bytes.
const ALIGNMENT_MAX: u64 = 1 << 16;

/// One tensor of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its shape, ne0 fastest, axes that the file leaves out are 1.
    pub ne: [u64; 4],
    /// Axes in the file.
    pub n_dims: u32,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// Which of the model's files it lies in, from 0.
    pub part: usize,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// A validated file, or the files of a split model as one.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    paths: Vec<PathBuf>,
    parts: Vec<Bytes>,
    version: u32,
    keys: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    by_name: BTreeMap<String, usize>,
    /// Of all tensors, once somebody has asked.
    hash: OnceLock<String>,
}

impl File {
    /// Maps and validates a file; the first file of a split model with all others.
    pub fn open(path: &Path) -> Result<Self> {
        let first = Self::open_part(path)?;
        let others = split::others(&first)?;
        if others.is_empty() {
            Ok(first)
        } else {
            first.joined(others)
        }
    }

    /// Maps and validates one file, whatever it says of others.
    pub(super) fn open_part(path: &Path) -> Result<Self> {
        // Before opening: that of a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "cannot open", &e))?;
        if !meta.is_file() || meta.len() < 4 {
            return Err(Error::new(Kind::Format, format!("{}: no GGUF file", path.display())));
        }
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, "cannot open", &e))?;
        // SAFETY: the map is read-only; a file that shrinks while it is mapped raises SIGBUS, as in llama.cpp itself.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, "cannot map", &e))?;
        Self::read(path.to_owned(), Bytes::Mapped(map))
    }

    /// Validates bytes in memory; `label` stands for the path in messages.
    pub fn from_bytes(bytes: Vec<u8>, label: &str) -> Result<Self> {
        Self::read(PathBuf::from(label), Bytes::Owned(bytes))
    }

    /// The files of one model as one: keys are the first one's.
    pub(super) fn joined(mut self, others: Vec<Self>) -> Result<Self> {
        for other in others {
            let part = self.parts.len();
            for tensor in other.tensors {
                if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                    let (name, path) = (&tensor.name, other.path.display());
                    return Err(Error::new(Kind::Format, format!("{path}: tensor {name} is in another file as well")));
                }
                self.tensors.push(TensorInfo { part, ..tensor });
            }
            self.parts.extend(other.parts);
            self.paths.extend(other.paths);
        }
        split::check_count(&self, self.tensors.len())?;
        Ok(self)
    }

    fn read(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let all = bytes.all();
        let label = path.display().to_string();
        let mut cursor = Cursor::new(all.get(..HEADER_BYTES_MAX).unwrap_or(all), &label);
        if cursor.take(4, "the magic number")? != b"GGUF" {
            return Err(Error::new(Kind::Format, format!("{label}: no GGUF file: the first bytes are not \"GGUF\"")));
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            let swapped = (2..=3).contains(&version.swap_bytes());
            let hint = if swapped { " (a big-endian file)" } else { "" };
            return Err(cursor.fault(format!("GGUF version {version}{hint} cannot be read, only 2 and 3")));
        }
        let (n_tensors, n_keys) = (cursor.u64("the tensor count")?, cursor.u64("the key count")?);
        // A key takes 13 bytes at least, a tensor 33.
        if n_keys > cursor.left() / 13 || n_tensors > cursor.left() / 33 {
            return Err(cursor.fault(format!("{n_keys} keys and {n_tensors} tensors do not fit the file")));
        }
        let keys = read_keys(&mut cursor, n_keys)?;
        let alignment = alignment(&cursor, &keys)?;
        let mut tensors = Vec::with_capacity(n_tensors as usize);
        let mut by_name = BTreeMap::new();
        for i in 0..n_tensors as usize {
            let tensor = read_tensor(&mut cursor, alignment)?;
            if by_name.insert(tensor.name.clone(), i).is_some() {
                return Err(cursor.fault(format!("tensor {} occurs twice", tensor.name)));
            }
            tensors.push(tensor);
        }
        let start = (cursor.at() as u64).next_multiple_of(alignment);
        place(&cursor, &mut tensors, start, all.len() as u64)?;
        let paths = vec![path.clone()];
        Ok(Self { paths, path, parts: vec![bytes], version, keys, tensors, by_name, hash: OnceLock::new() })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All files that it lies in.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The format's version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All keys, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// A tensor's bytes.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let part = self.parts.get(tensor.part).map(Bytes::all);
        part.and_then(|all| all.get(tensor.offset as usize..(tensor.offset + tensor.bytes) as usize)).unwrap_or(&[])
    }

    /// All bytes of the file; of the first one where there are several.
    pub fn all(&self) -> &[u8] {
        self.parts.first().map_or(&[], Bytes::all)
    }

    /// The fingerprint of all tensors, which is computed once.
    pub(super) fn hash_or(&self, compute: impl FnOnce() -> String) -> String {
        self.hash.get_or_init(compute).clone()
    }

    /// Gives a tensor's pages back to the system: whoever goes through a large file once does not fill the memory with it.
    pub fn release(&self, tensor: &TensorInfo) {
        self.release_range(tensor, 0..tensor.bytes as usize);
    }

    /// Gives the pages of a part of a tensor's bytes back.
    pub fn release_range(&self, tensor: &TensorInfo, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(Bytes::Mapped(map)) = self.parts.get(tensor.part) {
            let (from, to) = (range.start, range.end.min(tensor.bytes as usize));
            if from < to {
                // SAFETY: the map is of a file and read-only, so pages that are dropped are read again when they are needed;
                // the tensor's range was validated against the map's length. Advice that is refused changes nothing.
                let _ = unsafe {
                    let advice = memmap2::UncheckedAdvice::DontNeed;
                    map.unchecked_advise_range(advice, tensor.offset as usize + from, to - from)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = (tensor, range);
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str> {
        let found = self.get("general.architecture").and_then(Value::as_str);
        found.ok_or_else(|| self.fault("general.architecture", "is missing or no text"))
    }

    /// An error about a key of this file.
    pub(crate) fn fault(&self, key: &str, what: &str) -> Error {
        Error::new(Kind::Format, format!("{}: key {key} {what}", self.path.display()))
    }
}

fn read_keys(cursor: &mut Cursor, n: u64) -> Result<Vec<(String, Value)>> {
    let mut keys: Vec<(String, Value)> = Vec::with_capacity(n as usize);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..n {
        let key = cursor.name("a key")?;
        let value = cursor.value(&key)?;
        if !seen.insert(key.clone()) {
            return Err(cursor.fault(format!("key {key} occurs twice")));
        }
        keys.push((key, value));
    }
    Ok(keys)
}

fn alignment(cursor: &Cursor, keys: &[(String, Value)]) -> Result<u64> {
    match keys.iter().find(|(k, _)| k == "general.alignment") {
        None => Ok(32),
        Some((_, Value::U32(n))) if n.is_power_of_two() && u64::from(*n) <= ALIGNMENT_MAX && *n >= 8 => {
            Ok(u64::from(*n))
        }
        Some((_, other)) => Err(cursor
            .fault(format!("key general.alignment is {other:?}, not a 32-bit power of two from 8 to {ALIGNMENT_MAX}"))),
    }
}

/// One directory entry; `offset` is still relative to the data section.
fn read_tensor(cursor: &mut Cursor, alignment: u64) -> Result<TensorInfo> {
    let name = cursor.name("a tensor name")?;
    if name.len() > TENSOR_NAME_MAX {
        return Err(cursor.fault(format!("tensor name {name} is longer than {TENSOR_NAME_MAX} bytes")));
    }
    let what = format!("tensor {name}");
    let n_dims = cursor.u32(&what)?;
    if !(1..=4).contains(&n_dims) {
        return Err(cursor.fault(format!("{what} has {n_dims} dimensions")));
    }
    let mut ne = [1u64; 4];
    for n in ne.iter_mut().take(n_dims as usize) {
        *n = cursor.u64(&what)?;
        if *n == 0 || *n > i64::MAX as u64 {
            return Err(cursor.fault(format!("{what} has a dimension of {n}")));
        }
    }
    let id = cursor.u32(&what)?;
    let ty = Type::from_id(id).ok_or_else(|| cursor.fault(format!("{what} has unknown or removed type {id}")))?;
    let elements = ne.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= i64::MAX as u64);
    let bytes = elements.and_then(|_| ty.row_bytes(ne[0])?.checked_mul(ne[1])?.checked_mul(ne[2])?.checked_mul(ne[3]));
    let bytes = bytes.ok_or_else(|| cursor.fault(format!("{what} of shape {ne:?} cannot be {}", ty.name())))?;
    let offset = cursor.u64(&what)?;
    if offset % alignment != 0 {
        return Err(cursor.fault(format!("{what} starts at {offset}, no multiple of {alignment}")));
    }
    Ok(TensorInfo { name, ty, ne, n_dims, offset, bytes, part: 0 })
}

/// Makes offsets absolute; every tensor lies inside the file and none overlaps another.
fn place(cursor: &Cursor, tensors: &mut [TensorInfo], start: u64, end: u64) -> Result<()> {
    for t in tensors.iter_mut() {
        let first = start.checked_add(t.offset);
        let last = first.and_then(|f| f.checked_add(t.bytes)).filter(|&l| l <= end);
        let (Some(first), Some(_)) = (first, last) else {
            let (name, offset, bytes) = (&t.name, t.offset, t.bytes);
            return Err(
                cursor.fault(format!("tensor {name}: {bytes} bytes at {offset} of the data lie outside the file"))
            );
        };
        t.offset = first;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    match order.windows(2).find(|w| w[0].offset + w[0].bytes > w[1].offset) {
        Some(w) => Err(cursor.fault(format!("tensors {} and {} overlap", w[0].name, w[1].name))),
        None => Ok(()),
    }
}
