//! From captured tensors to a program: the cache goes, views are normalised, everything else is copied.

use super::inputs::{self, Meaning};
use super::unify::Size;
use super::{Capture, Trace};
use crate::error::{Error, Kind, Result};
use crate::ir::{Leaf, Op, Program, Sym, Value, ValueId, ValueKind, WeightId, WeightInfo};
use crate::runtime::{Model, RawKind, RawNode, WeightData};
use quant::Type;
use std::collections::HashMap;
use std::sync::Arc;

struct Emitter<'a> {
    model: &'a Model,
    capture: &'a Capture,
    sizes: &'a [Option<Size>],
    /// Longer than any sliding window: masks and tables are read there.
    probe: &'a Capture,
    /// What the one `SET_ROWS` of each cache tensor wrote.
    writers: HashMap<usize, usize>,
    program: Program,
    weights: Vec<Option<WeightData>>,
    done: HashMap<usize, ValueId>,
}

/// Builds the program that leads to `logits`.
pub(super) fn emit(
    model: &Model,
    capture: &Capture,
    probe: &Capture,
    sizes: &[Option<Size>],
    logits: usize,
) -> Result<Trace> {
    let names = model.runtime().names();
    let writers = capture
        .nodes
        .iter()
        .filter(|n| matches!(n.kind, RawKind::Node(op) if names.name(op) == "SET_ROWS"))
        .filter_map(|n| Some((n.view_src?, (*n.src.first()?)?)))
        .collect();
    let program = Program { architecture: model.architecture(), ..Program::default() };
    let (weights, done) = (Vec::new(), HashMap::new());
    let mut emitter = Emitter { model, capture, sizes, probe, writers, program, weights, done };
    let logits = emitter.value(logits)?;
    let (ratios, others) = (Vec::new(), Vec::new());
    Ok(Trace { program: emitter.program, weights: emitter.weights, logits, ratios, others })
}

impl Emitter<'_> {
    fn raw(&self, i: usize) -> &RawNode {
        &self.capture.nodes[i]
    }

    fn refuse(&self, i: usize, what: &str) -> Error {
        let node = self.raw(i);
        let op = match node.kind {
            RawKind::Node(op) => self.model.runtime().names().name(op).to_owned(),
            _ => "leaf".to_owned(),
        };
        let message = format!("{op} \"{}\" of architecture {}: {what}", node.name, self.program.architecture);
        Error::new(Kind::Unsupported, message)
    }

    fn size(&self, i: usize) -> Result<Size> {
        let size = self.sizes[i].ok_or_else(|| self.refuse(i, "its size is no linear function of the token count"))?;
        if size.verified {
            Ok(size)
        } else {
            Err(self.refuse(i, "its size at 29 tokens is not the one that 13 and 17 tokens predict"))
        }
    }

    fn value(&mut self, i: usize) -> Result<ValueId> {
        if let Some(&id) = self.done.get(&i) {
            return Ok(id);
        }
        let id = match self.raw(i).kind.clone() {
            RawKind::Node(number) => self.node(i, number)?,
            RawKind::Weight(data) => self.weight(i, data),
            RawKind::Input(_) | RawKind::State => self.input(i)?,
        };
        self.done.insert(i, id);
        Ok(id)
    }

    fn weight(&mut self, i: usize, data: Option<WeightData>) -> ValueId {
        let (name, ty, ne) = (self.raw(i).name.clone(), self.raw(i).ty, self.raw(i).ne);
        let id = WeightId(self.weights.len() as u32);
        self.weights.push(data);
        self.program.weights.push(WeightInfo { name: name.clone(), ty, ne });
        self.program.leaf(Leaf::Weight(id), ty, ne.map(Sym::fixed), &name)
    }

    fn input(&mut self, i: usize) -> Result<ValueId> {
        let leaf = match inputs::meaning(self.capture, self.probe, i) {
            Some(Meaning::Leaf(leaf)) => leaf,
            Some(Meaning::State) => {
                return Err(self.refuse(i, "state carried between tokens outside attention has no rule"))
            }
            Some(Meaning::OutputRows | Meaning::CacheIndex) | None => {
                return Err(self.refuse(i, "an input of unknown meaning"));
            }
        };
        let name = self.raw(i).name.clone();
        let (ty, ne) = match leaf {
            // [keys, queries], both the packed axis; strides are the lowering's business.
            Leaf::Mask(_) => return Ok(self.mask(leaf, &name)),
            _ => (self.raw(i).ty, self.size(i)?.ne),
        };
        Ok(self.program.leaf(leaf, ty, ne, &name))
    }

    fn mask(&mut self, leaf: Leaf, name: &str) -> ValueId {
        let (one, t) = (Sym::fixed(1), Sym::per_token(1));
        self.program.push(Value {
            kind: ValueKind::Leaf(leaf),
            ty: Type::F16,
            ne: [t, t, one, one],
            nb: [Sym::fixed(2), Sym::per_token(2), Sym::default(), Sym::default()],
            params: [0; 16],
            offset: Sym::default(),
            name: name.to_owned(),
        })
    }

    fn node(&mut self, i: usize, number: i32) -> Result<ValueId> {
        let node = self.raw(i).clone();
        let op = self.model.runtime().names().op(number, &node.params);
        if let Some(root) =
            node.view_src.filter(|&root| op == Op::View && matches!(self.raw(root).kind, RawKind::State))
        {
            return self.cache_view(i, root);
        }
        match op {
            Op::GetRows if self.reads_output_rows(&node) => self.source(i, &node, 0),
            Op::Permute => {
                let src = self.source(i, &node, 0)?;
                Ok(self.permute(src, &node))
            }
            Op::Attention => self.attention(i, &node),
            Op::View => self.view(i, &node),
            Op::Cast if node.src.get(1).copied().flatten().is_some() => {
                Err(self.refuse(i, "a copy into another tensor has no functional reading"))
            }
            Op::Other(name) if ["SET_ROWS", "SET", "ACC"].contains(&name.as_str()) => {
                Err(self.refuse(i, "a write into another tensor has no functional reading"))
            }
            op => self.copy(i, op, &node),
        }
    }

    fn reads_output_rows(&self, node: &RawNode) -> bool {
        let index = node.src.get(1).copied().flatten();
        index.is_some_and(|s| matches!(inputs::meaning(self.capture, self.probe, s), Some(Meaning::OutputRows)))
    }

    fn source(&mut self, i: usize, node: &RawNode, k: usize) -> Result<ValueId> {
        let src = node.src.get(k).copied().flatten().ok_or_else(|| self.refuse(i, "a source is missing"))?;
        self.value(src)
    }

    /// Any op but the structural ones: the same op on the same sources.
    fn copy(&mut self, i: usize, op: Op, node: &RawNode) -> Result<ValueId> {
        let mut src = Vec::with_capacity(node.src.len());
        for s in &node.src {
            src.push(match s {
                Some(s) => Some(self.value(*s)?),
                None => None,
            });
        }
        let size = self.size(i)?;
        let kind = ValueKind::Node { op: op.clone(), src };
        let value = Value {
            kind,
            ty: node.ty,
            ne: size.ne,
            nb: size.nb,
            params: node.params,
            offset: size.offset,
            name: node.name.clone(),
        };
        if !op.is_view() && !value.is_contiguous() {
            return Err(self.refuse(i, "its result is not contiguous"));
        }
        Ok(self.program.push(value))
    }

    /// A view of a cache tensor becomes the same view of what was written there: shape \[d, heads, T\].
    fn cache_view(&mut self, i: usize, root: usize) -> Result<ValueId> {
        let Some(&written) = self.writers.get(&root) else {
            return Err(self.refuse(i, "it reads state that this batch did not write"));
        };
        let src = self.value(written)?;
        let node = self.raw(i).clone();
        let size = self.sizes[i].ok_or_else(|| self.refuse(i, "its size is no linear function of the token count"))?;
        let (cache_bytes, parent) = (self.raw(root).ty.block_bytes() as i64, self.program.get(src).clone());
        let element = parent.ty.block_bytes() as i64;
        let scale = |nb: Sym| Sym { a: nb.a / cache_bytes * element, b: nb.b / cache_bytes * element };
        if node.ne[3] != 1 || !parent.ne[2].is_fixed() || parent.ne[1].b != 1 {
            return Err(self.refuse(i, "the cache is not laid out as [heads · d, tokens]"));
        }
        let (t, one) = (Sym::per_token(1), Sym::fixed(1));
        let nb = [Sym::fixed(element), scale(size.nb[1]), parent.nb[1], Sym { a: 0, b: parent.nb[1].a }];
        let kind = ValueKind::Node { op: Op::View, src: vec![Some(src)] };
        let ne = [size.ne[0], size.ne[1], t, one];
        let offset = scale(size.offset);
        Ok(self.program.push(Value { kind, ty: parent.ty, ne, nb, params: [0; 16], offset, name: node.name }))
    }

    fn permute(&mut self, src: ValueId, node: &RawNode) -> ValueId {
        let from = self.program.get(src).clone();
        let (mut ne, mut nb) = (from.ne, from.nb);
        for axis in 0..4 {
            let to = node.params[axis].clamp(0, 3) as usize;
            ne[to] = from.ne[axis];
            nb[to] = from.nb[axis];
        }
        let kind = ValueKind::Node { op: Op::Permute, src: vec![Some(src)] };
        let (params, name) = (node.params, node.name.clone());
        self.program.push(Value { kind, ty: from.ty, ne, nb, params, offset: Sym::default(), name })
    }

    /// Sources q, k, v in F32 whatever the cache's type was; the lowering casts where its form wants it.
    fn attention(&mut self, i: usize, node: &RawNode) -> Result<ValueId> {
        let mut src = Vec::with_capacity(node.src.len());
        for (k, s) in node.src.iter().enumerate() {
            let mut id = match s {
                // The runtime may cast its mask; what matters is the mask's rule.
                Some(s) if k == 3 => Some(self.value(self.through_casts(*s))?),
                Some(s) => Some(self.value(*s)?),
                None => None,
            };
            if let Some(v) = id.filter(|_| k < 3) {
                let value = self.program.get(v);
                if value.op() == Some(&Op::Cast) && value.ty == Type::F16 {
                    id = Some(value.src(0));
                }
            }
            src.push(id);
        }
        for id in src.iter().take(3).flatten() {
            if self.program.get(*id).ty != Type::F32 {
                return Err(self.refuse(i, "its queries, keys or values are not F32"));
            }
        }
        let size = self.size(i)?;
        let kind = ValueKind::Node { op: Op::Attention, src };
        let (params, name) = (node.params, node.name.clone());
        Ok(self.program.push(Value {
            kind,
            ty: node.ty,
            ne: size.ne,
            nb: size.nb,
            params,
            offset: Sym::default(),
            name,
        }))
    }

    fn through_casts(&self, mut i: usize) -> usize {
        while let RawKind::Node(number) = self.raw(i).kind {
            let next = self.raw(i).src.first().copied().flatten();
            match (self.model.runtime().names().name(number), next) {
                ("CPY" | "CONT" | "VIEW", Some(next)) => i = next,
                _ => break,
            }
        }
        i
    }

    /// A view of everything is its source; a contiguous view of everything in another shape is a reshape.
    fn view(&mut self, i: usize, node: &RawNode) -> Result<ValueId> {
        let src = self.source(i, node, 0)?;
        let size = self.size(i)?;
        let parent = self.program.get(src);
        let whole = size.offset == Sym::default();
        if whole && parent.ne == size.ne && parent.nb == size.nb {
            return Ok(src);
        }
        let kind = ValueKind::Node { op: Op::View, src: vec![Some(src)] };
        let mut value = Value {
            kind,
            ty: node.ty,
            ne: size.ne,
            nb: size.nb,
            params: [0; 16],
            offset: size.offset,
            name: node.name.clone(),
        };
        let elements = crate::ir::n_elements;
        if whole && value.is_contiguous() && parent.is_contiguous() && elements(value.ne) == elements(parent.ne) {
            value.kind = ValueKind::Node { op: Op::Reshape, src: vec![Some(src)] };
        }
        Ok(self.program.push(value))
    }
}

/// Keeps the compiler honest about what a trace may be shared across.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Trace>>();
};
