//! Importance matrices: the mean square of what each input of a weight carries, as `llama-imatrix` writes them, in GGUF or in
//! the older form without a header.

use super::cursor::Cursor;
use super::{Array, File, Value};
use crate::error::{Error, Kind, Result};
use quant::Type;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file in the older form that is read, in bytes.
const LEGACY_BYTES_MAX: u64 = 1 << 30;

/// Importances of the inputs of weights, by the weights' names.
#[derive(Clone, Debug, PartialEq)]
pub struct Imatrix {
    path: PathBuf,
    entries: BTreeMap<String, Vec<f32>>,
    dataset: Option<String>,
    chunks: Option<u32>,
}

impl Imatrix {
    /// Reads and validates a file.
    pub fn open(path: &Path) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "cannot open", &e))?;
        let none = |what: &str| Error::new(Kind::Format, format!("{}: no importance matrix{what}", path.display()));
        if !meta.is_file() {
            // A pipe is not waited for.
            return Err(none(""));
        }
        let mut magic = [0u8; 4];
        let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
        let found = match read {
            Ok(()) if &magic == b"GGUF" => Self::of_gguf(&File::open(path)?)?,
            Ok(()) if meta.len() <= LEGACY_BYTES_MAX => {
                let bytes = std::fs::read(path).map_err(|e| Error::io(path, "cannot read", &e))?;
                Self::of_bytes(&bytes, path)?
            }
            _ => return Err(none("")),
        };
        match found.entries.iter().find(|(_, values)| values.iter().any(|v| !v.is_finite() || *v < 0.0)) {
            Some((name, _)) => Err(found.fault(name, "holds negative numbers, or what is no number")),
            None if found.entries.is_empty() => Err(none(": it has no entries")),
            None => Ok(found),
        }
    }

    /// Sums of squares by input and matrix, and how many tokens went into each matrix's: `NAME.in_sum2` of shape [n_in, n_mat]
    /// and `NAME.counts` of shape [1, n_mat].
    fn of_gguf(file: &File) -> Result<Self> {
        let path = file.path().to_owned();
        if file.get("general.type").and_then(Value::as_str) != Some("imatrix") {
            let message = format!("{}: no importance matrix: key general.type is not \"imatrix\"", path.display());
            return Err(Error::new(Kind::Format, message));
        }
        let dataset = match file.get("imatrix.datasets") {
            Some(Value::Array(Array::String(list))) => list.first().cloned(),
            _ => None,
        };
        let chunks = match file.get("imatrix.chunk_count") {
            Some(Value::U32(n)) => Some(*n),
            _ => None,
        };
        let mut found = Self { path, entries: BTreeMap::new(), dataset, chunks };
        for sums in file.tensors() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts = file.tensor(&format!("{name}.counts"));
            let Some(counts) = counts.filter(|c| c.ty == Type::F32 && sums.ty == Type::F32) else {
                return Err(found.fault(name, "has no counts, or they are not F32"));
            };
            let n_mat = sums.ne[1..].iter().product::<u64>();
            if counts.ne.iter().product::<u64>() != n_mat {
                return Err(found.fault(name, "has another number of counts than of matrices"));
            }
            let numbers = |bytes: &[u8]| -> Vec<f32> {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            };
            let (mut values, counts) = (numbers(file.data(sums)), numbers(file.data(counts)));
            for (matrix, &count) in values.chunks_exact_mut(sums.ne[0] as usize).zip(&counts) {
                // An expert that no token reached: all its inputs count the same, as in llama.cpp.
                matrix.iter_mut().for_each(|v| *v = if count > 0.0 { *v / count } else { 1.0 });
            }
            found.entries.insert(name.to_owned(), values);
        }
        Ok(found)
    }

    /// A number of entries; each a name, how often it was added to, and its sums; at the end, perhaps, chunks and data set.
    fn of_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let mut cursor = Cursor::new(bytes, &label);
        let n = cursor.i32("the number of entries")?;
        let mut entries = BTreeMap::new();
        for _ in 0..n.max(0) {
            let name = text(&mut cursor, "a name")?;
            let (calls, n_values) = (cursor.i32("a count")?, cursor.i32("a number of values")?);
            if n_values < 1 {
                return Err(cursor.fault(format!("entry {name} has {n_values} values")));
            }
            let values = cursor.take(4 * n_values as u64, "values")?;
            let divisor = calls.max(1) as f32;
            let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) / divisor;
            entries.insert(name, values.chunks_exact(4).map(value).collect());
        }
        let mut found = Self { path: path.to_owned(), entries, dataset: None, chunks: None };
        if cursor.left() > 0 {
            found.chunks = u32::try_from(cursor.i32("a number of chunks")?).ok();
        }
        if cursor.left() > 0 {
            found.dataset = Some(text(&mut cursor, "the data set")?);
        }
        Ok(found)
    }

    /// The importances for a weight of shape `ne`: one row of `ne[0]` per matrix of the stack. `None` where there are none.
    ///
    /// # Errors
    /// If they are for another shape.
    pub fn of(&self, weight: &str, ne: &[u64]) -> Result<Option<&[f32]>> {
        let Some(values) = self.entries.get(weight) else { return Ok(None) };
        let n_mat: u64 = ne.iter().skip(2).product();
        let wanted = ne.first().copied().unwrap_or(0) * n_mat;
        if values.len() as u64 == wanted {
            return Ok(Some(values));
        }
        let what = format!("has {} numbers, the tensor has {wanted} inputs", values.len());
        Err(Error::new(Kind::Mismatch, format!("{}: entry {weight} {what}", self.path.display())))
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of weights that it tells of.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if it tells of none; no file that was opened is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What it was computed on, where it says so.
    pub fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// Number of chunks that it was computed on, where it says so.
    pub fn chunks(&self) -> Option<u32> {
        self.chunks
    }

    fn fault(&self, entry: &str, what: &str) -> Error {
        Error::new(Kind::Format, format!("{}: entry {entry} {what}", self.path.display()))
    }
}

/// A text with a length of 32 bits before it.
fn text(cursor: &mut Cursor, what: &str) -> Result<String> {
    let n = cursor.i32(what)?;
    let bytes = match u64::try_from(n) {
        Ok(n) => cursor.take(n, what)?,
        Err(_) => return Err(cursor.fault(format!("{what} of {n} bytes"))),
    };
    String::from_utf8(bytes.to_vec()).map_err(|_| cursor.fault(format!("{what} is not UTF-8")))
}
