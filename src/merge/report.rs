//! What a merge did, tensor by tensor.

use super::{Bound, Fidelity};
use quant::Type;

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
}

/// What a merge did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// linear, ties, …, or fold.
    pub method: String,
    /// The tensors in the output's order.
    pub tensors: Vec<TensorReport>,
    /// Length of the file, or of the one that would be written.
    pub bytes: u64,
    /// File whose tokenizer, template and other keys the output has.
    pub keys_from: String,
    /// True if that file has a chat template.
    pub has_template: bool,
    /// What differed without harm.
    pub notes: Vec<String>,
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
}
