//! From a program to a ggml graph: copies of the runtime's ops, our kernels where the training form wants them.

use super::inputs::Inputs;
use super::op_form::Scores;
use super::profile::{Phase, Profile};
use super::terms;
use crate::error::{Error, Kind, Result};
use crate::ir::{GradOp, Leaf, Op, Program, Sym, Value, ValueId};
use crate::kernel::Side;
use crate::runtime::{GraphBuilder, Kernel, Names, NodeSpec, Region, Tensor, WeightData};
use quant::Type;
use std::collections::HashMap;
use std::sync::Arc;

/// How attention and products with weights are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As the runtime does it: flash attention with F16 keys and values, its own products. Equal bits to a decode.
    Runtime,
    /// As training does it: softmax in F32, weights dequantised once per product, GELU computed instead of looked up.
    Training,
    /// The same with products of BF16 numbers, summed in F32.
    TrainingBf16,
    /// As training does it, in ggml's own ops only: softmax per sequence, products as the backend forms them. Any backend
    /// can run it.
    TrainingOps,
}

const PRIVATE: &str =
    "the runtime keeps this weight in a private layout or on another device: attach with the model's file";

/// Lowers values of one program into one graph.
#[derive(Debug)]
pub struct Lowering<'a, 'g> {
    pub(super) program: &'a Program,
    pub(super) weights: &'a [Option<WeightData>],
    pub(super) names: &'a Names,
    pub(super) form: Form,
    pub(super) inputs: &'a Inputs,
    pub(super) given: &'a HashMap<ValueId, Region>,
    pub(super) n_tokens: usize,
    pub(super) profile: Option<&'a Arc<Profile>>,
    /// How often each value is read; only for forms that fuse.
    pub(super) uses: Vec<u32>,
    /// Activations that were rounded already.
    pub(super) rounded: HashMap<ValueId, Tensor>,
    /// Probabilities of attention by its q, k and v, where it is made of ops.
    pub(super) scores: HashMap<[ValueId; 3], Vec<Scores>>,
    pub(super) builder: GraphBuilder<'g>,
    pub(super) done: HashMap<ValueId, Tensor>,
}

/// What a lowering needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The program.
    pub program: &'a Program,
    /// Where its weights lie.
    pub weights: &'a [Option<WeightData>],
    /// The runtime's op numbers.
    pub names: &'a Names,
    /// Which form.
    pub form: Form,
    /// The batch.
    pub inputs: &'a Inputs,
    /// Values that lie in the memory already: parameters, what earlier graphs left, cotangents.
    pub given: &'a HashMap<ValueId, Region>,
    /// Length of the token axis; that of the batch, or a chunk of it in the head.
    pub n_tokens: usize,
    /// Where our kernels' times are added up, if anywhere.
    pub profile: Option<&'a Arc<Profile>>,
}

impl<'a, 'g> Lowering<'a, 'g> {
    /// Starts lowering into `builder`.
    pub fn new(scope: Scope<'a>, builder: GraphBuilder<'g>) -> Self {
        let Scope { program, weights, names, form, inputs, given, n_tokens, profile } = scope;
        let uses = if form == Form::TrainingBf16 { terms::uses(program) } else { Vec::new() };
        let (rounded, scores, done) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { program, weights, names, form, inputs, given, n_tokens, profile, uses, rounded, scores, builder, done }
    }

    /// The tensor of a value, lowering what leads to it.
    pub fn tensor(&mut self, id: ValueId) -> Result<Tensor> {
        if let Some(&tensor) = self.done.get(&id) {
            return Ok(tensor);
        }
        let value = self.program.get(id);
        let tensor = if let Some(&region) = self.given.get(&id) {
            self.builder.leaf(value.ty, self.ne(value), region)?
        } else if let Some(leaf) = value.leaf() {
            self.leaf(id, value, leaf)?
        } else {
            self.node(id, value)?
        };
        self.done.insert(id, tensor);
        Ok(tensor)
    }

    /// Makes a value's result land in a region.
    pub fn output(&mut self, id: ValueId, region: Region) -> Result<()> {
        let mut tensor = self.tensor(id)?;
        // A leaf, a view or a value that other outputs alias is copied; everything else writes there itself.
        let copies = self.program.get(id).op().is_none_or(Op::is_view) || self.given.contains_key(&id);
        if copies {
            let spec = self.spec("CONT", Type::F32, self.builder.ne(tensor), vec![Some(tensor)])?;
            tensor = self.builder.node(&spec)?;
        }
        self.builder.place(tensor, region)
    }

    /// Takes a tensor that is there already for a leaf.
    pub fn define(&mut self, id: ValueId, tensor: Tensor) {
        self.done.insert(id, tensor);
    }

    /// An op of ours outside the program.
    pub fn custom(&mut self, ne: [i64; 4], src: Tensor, kernel: Kernel) -> Result<Tensor> {
        self.own(Phase::Other, 0, ne, &[src], kernel)
    }

    /// The same, run although nothing reads it.
    pub fn custom_output(&mut self, ne: [i64; 4], src: Tensor, kernel: Kernel) -> Result<()> {
        let tensor = self.custom(ne, src, kernel)?;
        self.builder.want(tensor);
        Ok(())
    }

    /// The graph, ready to run.
    pub fn finish(self) -> GraphBuilder<'g> {
        self.builder
    }

    fn at(&self, size: Sym) -> i64 {
        size.at(self.n_tokens as i64)
    }

    pub(super) fn ne(&self, value: &Value) -> [i64; 4] {
        value.ne.map(|n| self.at(n))
    }

    fn nb(&self, value: &Value) -> [usize; 4] {
        value.nb.map(|n| self.at(n) as usize)
    }

    pub(super) fn refuse(&self, id: ValueId, why: &str) -> Error {
        Error::new(Kind::Unsupported, format!("{}: {why}", self.program.describe(id)))
    }

    fn leaf(&mut self, id: ValueId, value: &Value, leaf: &Leaf) -> Result<Tensor> {
        match leaf {
            Leaf::Weight(w) => match &self.weights[w.0 as usize] {
                Some(data) if self.form == Form::Runtime => Ok(self.builder.weight(data)),
                Some(data) => self.builder.plain_weight(data, value.ty, self.ne(value)),
                None => Err(self.refuse(id, PRIVATE)),
            },
            Leaf::Param | Leaf::Input => {
                Err(Error::new(Kind::Internal, format!("{} was not given", self.program.describe(id))))
            }
            Leaf::Mask(_) => {
                let n = self.n_tokens as i64;
                let region = self.region(id)?;
                self.builder.leaf(Type::F16, [n, n, 1, 1], region)
            }
            _ => {
                let (ne, region) = (self.ne(value), self.region(id)?);
                self.builder.leaf(value.ty, ne, region)
            }
        }
    }

    fn region(&self, id: ValueId) -> Result<Region> {
        let missing = || Error::new(Kind::Internal, format!("{} was not placed", self.program.describe(id)));
        self.inputs.leaves.get(&id).copied().ok_or_else(missing)
    }

    fn node(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let Some(op) = value.op() else { return Err(self.refuse(id, "no op")) };
        if self.form == Form::TrainingBf16 {
            if let Some(tensor) = self.sum_of_products(id, value)? {
                return Ok(tensor);
            }
        }
        if self.form == Form::TrainingOps {
            if let Some(tensor) = self.op_form(id, value, op)? {
                return Ok(tensor);
            }
        }
        match op {
            Op::Grad(GradOp::RopeBack) => return self.rope_back(id, value),
            Op::Grad(op) => return self.gradient(id, value, op),
            Op::Dropout => return self.dropout(value),
            Op::Attention if self.form == Form::Runtime => return self.flash_attention(id, value),
            Op::Attention => return self.attention(id, value),
            Op::MulMat if self.has_kernels() => {
                if let Some(tensor) = self.linear(value)? {
                    return Ok(tensor);
                }
            }
            Op::MulMatId if self.has_kernels() => return self.routed(id, value, Side::Forward),
            Op::Unary(_) | Op::Glu(_) if self.has_kernels() => {
                if let Some(tensor) = self.tabled(value, op)? {
                    return Ok(tensor);
                }
            }
            _ => {}
        }
        let Some((number, _)) = self.names.of(op) else {
            return Err(self.refuse(id, "this ggml has no such op"));
        };
        let name = self.names.name(number).to_owned();
        self.copy(id, value, &name)
    }

    /// True if products and looked-up functions go to kernels of ours.
    fn has_kernels(&self) -> bool {
        matches!(self.form, Form::Training | Form::TrainingBf16)
    }

    pub(super) fn rope_back(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        self.copy(id, value, "ROPE_BACK")
    }

    pub(super) fn sources(&mut self, value: &Value) -> Result<Vec<Option<Tensor>>> {
        value.sources().iter().map(|s| s.map(|s| self.tensor(s)).transpose()).collect()
    }

    pub(super) fn spec(&self, name: &str, ty: Type, ne: [i64; 4], src: Vec<Option<Tensor>>) -> Result<NodeSpec> {
        let op = self.names.number(name);
        let op = op.ok_or_else(|| Error::new(Kind::Unsupported, format!("this ggml has no op named {name}")))?;
        let row = ty.row_bytes(ne[0] as u64).unwrap_or(0) as usize;
        let nb = [ty.block_bytes(), row, row * ne[1] as usize, row * (ne[1] * ne[2]) as usize];
        Ok(NodeSpec { op, ty, ne, nb, params: [0; 16], src, view: None, is_cast: false })
    }

    /// The runtime's op as it was traced, at this token count.
    fn copy(&mut self, id: ValueId, value: &Value, name: &str) -> Result<Tensor> {
        let src = self.sources(value)?;
        let mut spec = self.spec(name, value.ty, self.ne(value), src)?;
        spec.params = value.params;
        spec.nb = self.nb(value);
        spec.is_cast = value.op() == Some(&Op::Cast);
        if let Some(op @ (Op::Unary(_) | Op::Glu(_))) = value.op() {
            spec.params[0] = self.names.of(op).and_then(|(_, sub)| sub).unwrap_or(spec.params[0]);
        }
        if value.op().is_some_and(Op::is_view) {
            let parent = spec.src.first().copied().flatten().ok_or_else(|| self.refuse(id, "a view of nothing"))?;
            let offset = self.at(value.offset) as usize;
            spec.view = Some((parent, offset));
            if value.op() == Some(&Op::View) {
                (spec.params[0], spec.params[1]) = (offset as u32 as i32, (offset >> 32) as i32);
            }
        }
        self.builder.node(&spec)
    }

    /// R3 (a): keys and values cast to F16 as the cache would have held them.
    fn flash_attention(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let mut src = self.sources(value)?;
        for slot in &mut src[1..3] {
            let Some(tensor) = *slot else { return Err(self.refuse(id, "keys or values are missing")) };
            let mut cast = self.spec("CPY", Type::F16, self.builder.ne(tensor), vec![Some(tensor)])?;
            cast.is_cast = true;
            *slot = Some(self.builder.node(&cast)?);
        }
        let mut spec = self.spec("FLASH_ATTN_EXT", value.ty, self.ne(value), src)?;
        spec.params = value.params;
        self.builder.node(&spec)
    }
}
