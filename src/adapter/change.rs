//! Free changes of whole weights: W + D, with D in F32 beside the frozen W. They are the master weights W + D of full
//! fine-tuning, kept as what they differ in from W: at first exactly nothing, and small differences are not rounded by the
//! size of W.

use super::export::METHOD;
use super::{Lineage, Linear, RowChange};
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, File, Value, Writer, BASE_HASH};
use quant::Type;
use std::path::Path;

/// `general.type` of a file of changes.
pub(super) const KIND: &str = "changes";
/// Behind a weight's name.
pub(super) const SUFFIX: &str = ".change";
/// Behind the name of a weight of which only some rows change: which.
pub(super) const ROWS: &str = ".rows";

/// The change of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Name of the weight, such as `blk.0.attn_q.weight`.
    pub weight: String,
    /// Length of its rows.
    pub n_in: usize,
    /// Number of its rows.
    pub n_out: usize,
    /// D \[n_in, n_out\].
    pub values: Vec<f32>,
}

impl Change {
    /// None yet.
    pub fn zero(linear: &Linear) -> Self {
        let (n_in, n_out) = (linear.n_in, linear.n_out);
        Self { weight: linear.name.clone(), n_in, n_out, values: vec![0.0; n_in * n_out] }
    }
}

/// Writes changes in F32; weights that do not change are left out. The file is complete under its name or absent; equal changes
/// give equal bytes.
///
/// # Errors
/// If a name is too long, or the file cannot be written.
pub fn export_changes(changes: &[Change], lineage: &Lineage, path: &Path) -> Result<()> {
    let text = |s: &str| Value::String(s.to_owned());
    let mut writer = Writer::new();
    writer.set("general.architecture", text(&lineage.architecture));
    writer.set("general.type", text(KIND));
    if let Some(hash) = &lineage.base_hash {
        writer.set(BASE_HASH, text(hash));
    }
    writer.set(METHOD, text(&lineage.method));
    for change in changes.iter().filter(|c| c.values.iter().any(|&v| v != 0.0)) {
        let bytes = change.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let ne = [change.n_in as u64, change.n_out as u64];
        writer.tensor(&format!("{}{SUFFIX}", change.weight), Type::F32, &ne, bytes)?;
    }
    writer.write(path)
}

/// The changes of a file that was made for this model.
///
/// # Errors
/// If it is no file of changes, or one for another model.
pub fn import_changes(file: &File, base: &File) -> Result<Vec<Change>> {
    let fail = |kind: Kind, what: String| Error::new(kind, format!("{}: {what}", file.path().display()));
    if !is_changes(file) {
        return Err(fail(Kind::Format, "holds no changes of weights".to_owned()));
    }
    if file.get(BASE_HASH).and_then(Value::as_str).is_some_and(|own| own != base_hash(base)) {
        return Err(fail(Kind::Mismatch, format!("made for another base than {}", base.path().display())));
    }
    let change = |tensor: &crate::gguf::TensorInfo| {
        let weight = tensor.name.strip_suffix(SUFFIX).filter(|_| tensor.ty == Type::F32);
        let weight = weight.ok_or_else(|| fail(Kind::Format, format!("tensor {} is no change", tensor.name)))?;
        let rows = file.tensor(&format!("{weight}{ROWS}"));
        let own = base.tensor(weight).filter(|own| own.ne[2] * own.ne[3] == 1 && own.ne[0] == tensor.ne[0]);
        let own = own.filter(|own| rows.is_some() || own.ne == tensor.ne);
        let own = own.ok_or_else(|| {
            fail(Kind::Mismatch, format!("it changes {weight}, which is no such matrix in the model"))
        })?;
        let four = |b: &[u8]| b.try_into().map_or(0.0, f32::from_le_bytes);
        let values: Vec<f32> = file.data(tensor).chunks_exact(4).map(four).collect();
        if !values.iter().all(|v| v.is_finite()) {
            return Err(fail(Kind::Numeric, format!("tensor {} is not finite", tensor.name)));
        }
        file.release(tensor);
        let (weight, n_in, n_out) = (weight.to_owned(), own.ne[0] as usize, own.ne[1] as usize);
        let Some(which) = rows else { return Ok(Change { weight, n_in, n_out, values }) };
        let index = |b: &[u8]| b.try_into().ok().and_then(|b| usize::try_from(i32::from_le_bytes(b)).ok());
        let indices: Option<Vec<usize>> = file.data(which).chunks_exact(4).map(index).collect();
        let rising =
            |rows: &Vec<usize>| rows.windows(2).all(|w| w[0] < w[1]) && rows.last().is_none_or(|&last| last < n_out);
        let fits = |rows: &Vec<usize>| which.ty == Type::I32 && rows.len() as u64 == tensor.ne[1] && rising(rows);
        let rows = indices.filter(fits);
        let rows = rows.ok_or_else(|| fail(Kind::Format, format!("tensor {}: no rows of {weight}", which.name)))?;
        Ok(RowChange { weight, n_in, n_out, rows, values }.to_change())
    };
    file.tensors().iter().filter(|tensor| !tensor.name.ends_with(ROWS)).map(change).collect()
}

/// Whether a file says that it holds changes.
pub fn is_changes(file: &File) -> bool {
    file.get("general.type").and_then(Value::as_str) == Some(KIND)
}
