//! Two models as one program: every weight in which they differ is read twice, W·x = W_before·x + b·(W_after·x − W_before·x).
//!
//! The difference of two products is formed before it is scaled, so that its slope by b, ⟨dY, (W_after − W_before)·x⟩, is a sum of
//! small numbers and not the difference of two large ones. What lies in F32 and is read otherwise (norms, biases) is blended
//! itself.

use super::shares::in_group;
use crate::error::{Error, Kind, Result};
use crate::gguf::File;
use crate::ir::{Leaf, Op, Program, Sym, ValueId, ValueKind, WeightId, WeightInfo};
use crate::merge::check_mergeable;
use crate::runtime::Model;
use crate::trace::{Ratio, Trace};
use quant::Type;
use std::collections::BTreeMap;
use std::sync::Arc;

const HEAD: &str = "output.weight";
const EMBEDDINGS: &str = "token_embd.weight";

/// One of the two models.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The open model.
    pub model: &'a Arc<Model>,
    /// What it computes.
    pub trace: &'a Trace,
    /// Its file.
    pub file: &'a File,
}

/// The program of both models, with a ratio b for every tensor that differs: the weight of the model after, trainable where the
/// tensor belongs to a block's group. Tensors of equal bytes are read once.
///
/// # Errors
/// [`Kind::Mismatch`] where the models do not belong together, [`Kind::Unsupported`] for a tensor that is read in a way that is no
/// product, look-up or F32 value.
pub fn blend(before: Side, after: Side) -> Result<Trace> {
    check_mergeable(&[before.file, after.file])?;
    let (ours, theirs) = (&before.trace.program, &after.trace.program);
    let ops = |p: &Program| p.values.iter().filter_map(|v| v.op().cloned()).collect::<Vec<_>>();
    if ops(ours) != ops(theirs) {
        let (a, b) = (before.file.path().display(), after.file.path().display());
        return Err(Error::new(Kind::Mismatch, format!("{a} and {b}: the runtime computes something else with them")));
    }
    let program =
        Program { values: Vec::new(), weights: ours.weights.clone(), architecture: ours.architecture.clone() };
    let weights = before.trace.weights.clone();
    let mut blender = Blender { before, after, program, weights, ratios: BTreeMap::new(), seconds: BTreeMap::new() };
    let mut map: Vec<ValueId> = Vec::with_capacity(ours.values.len());
    for id in ours.ids() {
        map.push(blender.value(id, &map)?);
    }
    let Blender { program, weights, ratios, .. } = blender;
    let ratios = ratios.into_iter().map(|(name, value)| Ratio { value, trainable: in_group(&name) }).collect();
    let logits = map[before.trace.logits.0 as usize];
    Ok(Trace { program, weights, logits, ratios, others: vec![after.model.clone()] })
}

struct Blender<'a> {
    before: Side<'a>,
    after: Side<'a>,
    program: Program,
    weights: Vec<Option<crate::runtime::WeightData>>,
    /// Leaves of ratios by tensor.
    ratios: BTreeMap<String, ValueId>,
    /// Leaves of the second model's weights, by their name there.
    seconds: BTreeMap<String, ValueId>,
}

/// A weight that differs: its ratio's leaf and the other model's weight.
#[derive(Clone, Copy)]
struct Pair {
    ratio: ValueId,
    second: ValueId,
}

impl Blender<'_> {
    /// Copies a value of the first model's program, blended where it is a weight's product.
    fn value(&mut self, id: ValueId, map: &[ValueId]) -> Result<ValueId> {
        let source = &self.before.trace.program;
        let mut value = source.get(id).clone();
        let linear = matches!(value.op(), Some(Op::MulMat | Op::GetRows));
        let mut pair = None;
        let sources: Vec<Option<ValueId>> = value.sources().to_vec();
        for (k, &old) in sources.iter().enumerate() {
            let Some(old) = old else { continue };
            let mut new = map[old.0 as usize];
            if let Some(weight) = source.as_weight(old) {
                let is_product = linear && k == 0;
                match self.pair(weight, value.op() == Some(&Op::MulMat))? {
                    Some(found) if is_product => pair = Some(found),
                    Some(found) => new = self.blended(new, found)?,
                    None => {}
                }
            }
            if let ValueKind::Node { src, .. } = &mut value.kind {
                src[k] = Some(new);
            }
        }
        let Some(Pair { ratio, second }) = pair else { return Ok(self.program.push(value)) };
        let mut other = value.clone();
        if let ValueKind::Node { src, .. } = &mut other.kind {
            src[0] = Some(second);
        }
        let (first, other) = (self.program.push(value), self.program.push(other));
        Ok(self.between(first, other, ratio))
    }

    /// x + b·(y − x).
    fn between(&mut self, x: ValueId, y: ValueId, ratio: ValueId) -> ValueId {
        let ne = self.program.get(x).ne;
        let difference = self.program.node(Op::Sub, Type::F32, ne, &[y, x], [0; 16]);
        let part = self.program.mul(difference, ratio);
        self.program.add(x, part)
    }

    /// A weight that is read as a value.
    fn blended(&mut self, first: ValueId, pair: Pair) -> Result<ValueId> {
        let types = [first, pair.second].map(|v| self.program.get(v).ty);
        if types != [Type::F32; 2] {
            let what = self.program.describe(first);
            return Err(Error::new(
                Kind::Unsupported,
                format!("{what}: a weight that is no matrix is blended in F32 only"),
            ));
        }
        Ok(self.between(first, pair.second, pair.ratio))
    }

    /// The other model's half of a weight, if the two differ. A head that is the embeddings in one model may be a tensor of its
    /// own in the other.
    fn pair(&mut self, weight: WeightId, is_product: bool) -> Result<Option<Pair>> {
        let info = self.before.trace.program.weight(weight);
        let (ours, theirs) = (self.before.file, self.after.file);
        let name = match info.name.as_str() {
            HEAD if theirs.tensor(HEAD).is_none() => EMBEDDINGS,
            EMBEDDINGS if is_product && theirs.tensor(HEAD).is_some() => HEAD,
            name => name,
        };
        let missing = |file: &File| {
            let message = format!("{}: tensor {name} is missing", file.path().display());
            Error::new(Kind::Mismatch, message)
        };
        let a = ours.tensor(&info.name).ok_or_else(|| missing(ours))?;
        let b = theirs.tensor(name).ok_or_else(|| missing(theirs))?;
        if a.ty == b.ty && ours.data(a) == theirs.data(b) {
            return Ok(None);
        }
        // A tensor that is head here and embeddings there has the head's ratio where it is multiplied by.
        let role = if is_product && info.name != name { HEAD } else { &info.name }.to_owned();
        let ratio = self.ratio(&role);
        Ok(Some(Pair { ratio, second: self.second(name)? }))
    }

    fn ratio(&mut self, tensor: &str) -> ValueId {
        if let Some(&leaf) = self.ratios.get(tensor) {
            return leaf;
        }
        let leaf = self.program.leaf(Leaf::Param, Type::F32, [Sym::fixed(1); 4], &format!("{tensor}.ratio"));
        self.ratios.insert(tensor.to_owned(), leaf);
        leaf
    }

    /// The leaf of a weight of the second model.
    fn second(&mut self, name: &str) -> Result<ValueId> {
        if let Some(&leaf) = self.seconds.get(name) {
            return Ok(leaf);
        }
        let trace = self.after.trace;
        let found = trace.program.weights.iter().position(|w| w.name == name);
        let unread =
            || Error::new(Kind::Mismatch, format!("tensor {name}: the model after alignment does not read it"));
        let found = found.ok_or_else(unread)?;
        let of_found = |id: &ValueId| trace.program.as_weight(*id).is_some_and(|w| w.0 as usize == found);
        let old = trace.program.ids().find(of_found).ok_or_else(unread)?;
        let mut leaf = trace.program.get(old).clone();
        let id = WeightId(self.program.weights.len() as u32);
        // Another name, so that nothing takes it for the first model's.
        let info = trace.program.weights[found].clone();
        self.program.weights.push(WeightInfo { name: format!("{name}.after"), ..info });
        self.weights.push(trace.weights[found]);
        leaf.kind = ValueKind::Leaf(Leaf::Weight(id));
        let leaf = self.program.push(leaf);
        self.seconds.insert(name.to_owned(), leaf);
        Ok(leaf)
    }
}
