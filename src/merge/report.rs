//! What a merge did, tensor by tensor.

use super::{Bound, Evidence, Fidelity};
use quant::Type;
use serde_json::{json, Value};
use std::path::PathBuf;

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its type in the first model.
    pub from: Type,
    /// Its type in the output.
    pub to: Type,
    /// True if its bytes are those of an input.
    pub copied: bool,
    /// True if `auto` chose a larger type for the sake of the change.
    pub raised: bool,
    /// How well the wanted change was realised; `None` for copies.
    pub fidelity: Option<Fidelity>,
}

impl TensorReport {
    /// The cosine of wanted and realised change, where a change was wanted.
    pub fn cosine(&self) -> Option<f64> {
        self.fidelity.and_then(|f| f.cosine())
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "from": self.from.name(), "to": self.to.name(), "copied": self.copied,
            "raised": self.raised, "fidelity": self.fidelity.as_ref().map(numbers),
        })
    }
}

/// How far a merge is: what became of the last tensor, and how many bytes are behind it, of those that all tensors have in the
/// first model.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor.
    pub tensor: &'a TensorReport,
    /// Bytes of the tensors that are done, this one among them.
    pub bytes: u64,
    /// Bytes of all.
    pub bytes_all: u64,
}

/// What a merge did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// linear, ties, …, or fold.
    pub method: String,
    /// The tensors in the output's order.
    pub tensors: Vec<TensorReport>,
    /// Length of the files together, or of the one that would be written.
    pub bytes: u64,
    /// The files that were written, the first one first.
    pub files: Vec<PathBuf>,
    /// File whose tokenizer, template and other keys the output has.
    pub keys_from: String,
    /// True if that file has a chat template.
    pub has_template: bool,
    /// What differed without harm.
    pub notes: Vec<String>,
    /// What the models themselves say, where they were asked.
    pub evidence: Option<Evidence>,
}

impl Report {
    /// Tensors whose bytes are those of an input.
    pub fn copied(&self) -> usize {
        self.tensors.iter().filter(|t| t.copied).count()
    }

    /// Tensors that `auto` stored in a larger type.
    pub fn raised(&self) -> usize {
        self.tensors.iter().filter(|t| t.raised).count()
    }

    /// Tensors whose change, as they are stored, is below the bound.
    pub fn below(&self, bound: Bound) -> usize {
        self.tensors.iter().filter(|t| t.fidelity.is_some_and(|f| !bound.holds(&f))).count()
    }

    /// The `n` tensors whose change survived least, worst first.
    pub fn worst(&self, n: usize) -> Vec<&TensorReport> {
        let mut changed: Vec<&TensorReport> = self.tensors.iter().filter(|t| t.cosine().is_some()).collect();
        changed.sort_by(|a, b| a.cosine().unwrap_or(1.0).total_cmp(&b.cosine().unwrap_or(1.0)));
        changed.truncate(n);
        changed
    }

    /// Fidelity of all changed tensors together.
    pub fn overall(&self) -> Fidelity {
        let mut all = Fidelity::default();
        self.tensors.iter().filter_map(|t| t.fidelity.as_ref()).for_each(|f| all.merge(f));
        all
    }

    /// For machines: everything, tensor by tensor.
    pub fn to_json(&self) -> Value {
        let tensors: Vec<Value> = self.tensors.iter().map(TensorReport::to_json).collect();
        let files: Vec<String> = self.files.iter().map(|path| path.display().to_string()).collect();
        json!({
            "method": self.method, "bytes": self.bytes, "files": files, "copied": self.copied(), "raised": self.raised(),
            "fidelity": numbers(&self.overall()), "keys_from": self.keys_from, "has_template": self.has_template,
            "notes": self.notes, "tensors": tensors, "evidence": self.evidence.as_ref().map(Evidence::to_json),
        })
    }
}

fn numbers(f: &Fidelity) -> Value {
    json!({
        "cosine": f.cosine(), "norm_ratio": f.norm_ratio(), "gain": f.gain(), "rmse": f.rmse(), "wanted_rms": f.wanted_rms(),
        "leaked": f.leaked(),
    })
}
