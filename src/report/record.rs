//! `run.json`: what a run was made of and what came out of it. Equal runs give equal bytes: no clock, no path, no random
//! number stands in it.

use crate::error::{Error, Kind, Result};
use crate::evaluate::TaxRow;
use crate::gguf::write_atomically;
use crate::train::{EvalReport, TrainConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

/// The layout of this file.
const FORMAT: u32 = 1;

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// 1.
    pub format: u32,
    /// What trained.
    pub program: ProgramRecord,
    /// What was trained on.
    pub base: BaseRecord,
    /// Rows that were trained on.
    pub data: DataRecord,
    /// Rows that were held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_data: Option<DataRecord>,
    /// The resolved configuration, without paths.
    pub config: Map<String, Value>,
    /// Optimizer steps made.
    pub steps: usize,
    /// Patience ended the run.
    pub stopped_early: bool,
    /// The best measurement on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<BestRecord>,
    /// Tokens trained on, prompts included and repetitions counted.
    pub tokens: usize,
    /// Arithmetic.
    pub flops: FlopsRecord,
    /// The last step's numbers, with TRL's names.
    pub train: Map<String, Value>,
    /// Held-out rows before the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Map<String, Value>>,
    /// Held-out rows with the run's result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Map<String, Value>>,
    /// blake3 of the adapter's file.
    pub adapter: String,
    /// blake3 of the file with the changes of norms and biases, where they were trained beside the adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// What trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramRecord {
    /// llama-align's version.
    pub version: String,
    /// blake3 of the running executable, where it can be read.
    pub executable: Option<String>,
    /// blake3 of the traced graph: ops, parameters and shapes.
    pub graph: String,
}

/// The base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Fingerprint of its tensors, as adapters carry it.
    pub hash: String,
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`.
    pub name: Option<String>,
    /// Elements of all tensors.
    pub parameters: u64,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataRecord {
    /// blake3 of the file.
    pub hash: String,
    /// Rows that were used.
    pub rows: usize,
    /// Tokens of their sequences.
    pub tokens: usize,
}

/// The best measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestRecord {
    /// After this step.
    pub step: usize,
    /// Which number decided.
    pub metric: String,
    /// Its value.
    pub value: f64,
}

/// Floating-point operations of a run; two for every multiplication with a weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlopsRecord {
    /// Counted in products with weights and factors, the reference and all measurements included.
    pub executed: u64,
    /// 2·N·T for the model's N parameters and the T tokens trained on: what one pass is estimated to take.
    pub estimated_per_pass: u64,
}

impl RunRecord {
    /// The layout's number, for a record under construction.
    pub const fn format() -> u32 {
        FORMAT
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        write_atomically(path, (text + "\n").as_bytes())
    }

    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the run's record", &e))?;
        let record: Self = serde_json::from_str(&text)
            .map_err(|e| Error::new(Kind::Format, format!("{}: no record of a run: {e}", path.display())))?;
        if record.format != FORMAT {
            let message = format!("{}: format {}, but this version reads {FORMAT}", path.display(), record.format);
            return Err(Error::new(Kind::Unsupported, message));
        }
        Ok(record)
    }
}

/// `tax.json`: tasks before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaxRecord {
    /// Fingerprint of the base.
    pub base: String,
    /// One row per task and metric.
    pub table: Vec<TaxRow>,
}

impl TaxRecord {
    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        write_atomically(path, (text + "\n").as_bytes())
    }

    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the table", &e))?;
        serde_json::from_str(&text)
            .map_err(|e| Error::new(Kind::Format, format!("{}: no table of an alignment tax: {e}", path.display())))
    }
}

/// A configuration as the record keeps it: files are known by their hashes or their names, not by where they lay.
pub fn config_record(config: &TrainConfig) -> Result<Map<String, Value>> {
    let mut map = object(config)?;
    map.remove("eval_data");
    for (key, path) in [("mask", &config.mask), ("token_weights", &config.token_weights)] {
        if let Some(name) = path.as_ref().and_then(|path| path.file_name()) {
            map.insert(key.to_owned(), name.to_string_lossy().into());
        }
    }
    Ok(map)
}

/// A report's fields.
pub fn report_record(report: &EvalReport) -> Result<Map<String, Value>> {
    object(report)
}

fn object(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::new(Kind::Internal, "a record that is no object")),
        Err(e) => Err(Error::new(Kind::Internal, e.to_string())),
    }
}

/// blake3 of a file, read in pieces.
pub fn file_hash(path: &Path) -> Result<String> {
    let fault = |e: &std::io::Error| Error::io(path, "cannot read", e);
    let mut file = std::fs::File::open(path).map_err(|e| fault(&e))?;
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut piece).map_err(|e| fault(&e))?;
        if n == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&piece[..n]);
    }
}
