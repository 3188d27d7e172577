//! From a program to a ggml graph: copies of the runtime's ops, our kernels where the training form wants them.

use super::layout::Layout;
use super::terms::{self, Matrix};
use crate::error::{Error, Kind, Result};
use crate::kernel::ops;
use crate::ir::{GradOp, Leaf, MaskRule, Op, Program, Sym, Value, ValueId};
use crate::runtime::{GraphBuilder, Kernel, Memory, Names, NodeSpec, Region, Tensor, WeightData};
use quant::Type;
use std::collections::{BTreeMap, HashMap};
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
}

/// The inputs of a batch, placed in a memory.
#[derive(Debug)]
pub struct Inputs {
    layout: Arc<Layout>,
    leaves: HashMap<ValueId, Region>,
}

/// Bytes that [`Inputs::place`] takes for a program at `n_tokens`.
pub fn input_bytes(program: &Program, form: Form, n_tokens: usize) -> usize {
    let sizes = program.ids().filter_map(|id| leaf_bytes(program.get(id), form, n_tokens));
    Memory::bytes_for(sizes)
}

fn leaf_bytes(value: &Value, form: Form, n_tokens: usize) -> Option<usize> {
    let elements = || crate::ir::n_elements(value.ne).map(|e| e.at(n_tokens as i64) as usize);
    match value.leaf()? {
        Leaf::Tokens | Leaf::Positions { .. } | Leaf::Constant(_) | Leaf::Table(_) => Some(elements()? * 4),
        Leaf::Mask(_) => (form == Form::Runtime).then_some(n_tokens * n_tokens * 2),
        Leaf::Weight(_) | Leaf::Param | Leaf::Input => None,
    }
}

impl Inputs {
    /// Writes tokens, positions, masks and tables of a batch.
    pub fn place(program: &Program, form: Form, layout: &Arc<Layout>, memory: &mut Memory) -> Result<Self> {
        let n_tokens = layout.n_tokens();
        let positions = layout.positions();
        let mut leaves = HashMap::new();
        let mut masks: BTreeMap<(usize, bool, u8), Region> = BTreeMap::new();
        for id in program.ids() {
            let value = program.get(id);
            let Some(bytes) = leaf_bytes(value, form, n_tokens) else { continue };
            let region = match value.leaf() {
                Some(Leaf::Mask(rule)) => match masks.get(&mask_key(*rule)) {
                    Some(&region) => region,
                    None => {
                        let region = memory.take(bytes)?;
                        fill_mask(memory.words_mut(region), *rule, layout);
                        masks.insert(mask_key(*rule), region);
                        region
                    }
                },
                Some(leaf) => {
                    let region = memory.take(bytes)?;
                    fill(memory, region, leaf, layout.tokens(), &positions)?;
                    region
                }
                None => continue,
            };
            leaves.insert(id, region);
        }
        Ok(Self { layout: layout.clone(), leaves })
    }
}

fn fill(memory: &mut Memory, region: Region, leaf: &Leaf, tokens: &[i32], positions: &[i32]) -> Result<()> {
    match leaf {
        Leaf::Tokens => memory.ints_mut(region).copy_from_slice(tokens),
        Leaf::Positions { sections } => {
            let out = memory.ints_mut(region);
            out.fill(0);
            let repeats = if *sections == 1 { 1 } else { sections - 1 };
            for part in out.chunks_exact_mut(positions.len()).take(repeats) {
                part.copy_from_slice(positions);
            }
        }
        Leaf::Constant(c) => memory.floats_mut(region).fill(*c),
        Leaf::Table(table) => {
            for (out, &p) in memory.floats_mut(region).iter_mut().zip(positions) {
                *out = *table.get(p as usize).ok_or_else(|| {
                    let message = format!("position {p} is beyond the {} that the trace saw", table.len());
                    Error::new(Kind::Unsupported, message)
                })?;
            }
        }
        Leaf::Mask(_) | Leaf::Weight(_) | Leaf::Param | Leaf::Input => {}
    }
    Ok(())
}

fn mask_key(rule: MaskRule) -> (usize, bool, u8) {
    use crate::ir::Span;
    let (size, kind) = match rule.span {
        Span::Causal => (0, 0),
        Span::Window(w) => (w, 1),
        Span::Chunk(c) => (c, 2),
        Span::Symmetric(w) => (w, 3),
        Span::Full => (0, 4),
    };
    (size, rule.alibi, kind)
}

/// Block-diagonal mask in F16 bits; padding sees itself.
fn fill_mask(words: &mut [u16], rule: MaskRule, layout: &Layout) {
    let n = layout.n_tokens();
    let bits = |x: f32| half::f16::from_f32(x).to_bits();
    words.fill(bits(f32::NEG_INFINITY));
    for i in 0..n {
        words[i * n + i] = bits(0.0);
    }
    for span in layout.spans() {
        for q in 0..span.len {
            for k in 0..span.len {
                words[(span.start + q) * n + span.start + k] = bits(rule.entry(q, k));
            }
        }
    }
}

/// Lowers values of one program into one graph.
#[derive(Debug)]
pub struct Lowering<'a, 'g> {
    program: &'a Program,
    weights: &'a [Option<WeightData>],
    names: &'a Names,
    form: Form,
    inputs: &'a Inputs,
    given: &'a HashMap<ValueId, Region>,
    n_tokens: usize,
    has_experts: bool,
    /// How often each value is read; only for forms that fuse.
    uses: Vec<u32>,
    /// Activations that were rounded already.
    rounded: HashMap<ValueId, Tensor>,
    builder: GraphBuilder<'g>,
    done: HashMap<ValueId, Tensor>,
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
}

impl<'a, 'g> Lowering<'a, 'g> {
    /// Starts lowering into `builder`.
    pub fn new(scope: Scope<'a>, builder: GraphBuilder<'g>) -> Self {
        let Scope { program, weights, names, form, inputs, given, n_tokens } = scope;
        // A router's choice flips on the last bit, so models with experts keep the runtime's own products until experts
        // can be trained.
        let has_experts = program.values.iter().any(|v| matches!(v.op(), Some(Op::Other(name)) if name == "MUL_MAT_ID"));
        let uses = if form == Form::TrainingBf16 { terms::uses(program) } else { Vec::new() };
        let (rounded, done) = (HashMap::new(), HashMap::new());
        Self { program, weights, names, form, inputs, given, n_tokens, has_experts, uses, rounded, builder, done }
    }

    /// The tensor of a value, lowering what leads to it.
    pub fn tensor(&mut self, id: ValueId) -> Result<Tensor> {
        if let Some(&tensor) = self.done.get(&id) {
            return Ok(tensor);
        }
        let value = self.program.get(id);
        let tensor = if let Some(&region) = self.given.get(&id) {
            self.builder.leaf(Type::F32, self.ne(value), region)?
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
        self.builder.custom(ne, &[src], kernel)
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

    fn ne(&self, value: &Value) -> [i64; 4] {
        value.ne.map(|n| self.at(n))
    }

    fn nb(&self, value: &Value) -> [usize; 4] {
        value.nb.map(|n| self.at(n) as usize)
    }

    fn refuse(&self, id: ValueId, why: &str) -> Error {
        Error::new(Kind::Unsupported, format!("{}: {why}", self.program.describe(id)))
    }

    fn leaf(&mut self, id: ValueId, value: &Value, leaf: &Leaf) -> Result<Tensor> {
        match leaf {
            Leaf::Weight(w) => match &self.weights[w.0 as usize] {
                Some(data) => Ok(self.builder.weight(data)),
                None => Err(self.refuse(id, "the runtime keeps this weight in a private layout or on another device")),
            },
            Leaf::Param | Leaf::Input => Err(Error::new(Kind::Internal, format!("{} was not given", self.program.describe(id)))),
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
        if self.form == Form::TrainingBf16 && !self.has_experts {
            if let Some(tensor) = self.sum_of_products(id, value)? {
                return Ok(tensor);
            }
        }
        match op {
            Op::Grad(GradOp::RopeBack) => return self.copy(id, value, "ROPE_BACK"),
            Op::Grad(op) => return self.gradient(id, value, op),
            Op::Attention if self.form == Form::Runtime => return self.flash_attention(id, value),
            Op::Attention => return self.attention(id, value),
            Op::MulMat if self.form != Form::Runtime && !self.has_experts => {
                if let Some(tensor) = self.linear(value)? {
                    return Ok(tensor);
                }
            }
            Op::Unary(_) | Op::Glu(_) if self.form != Form::Runtime && !self.has_experts => {
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

    fn sources(&mut self, value: &Value) -> Result<Vec<Option<Tensor>>> {
        value.sources().iter().map(|s| s.map(|s| self.tensor(s)).transpose()).collect()
    }

    fn spec(&self, name: &str, ty: Type, ne: [i64; 4], src: Vec<Option<Tensor>>) -> Result<NodeSpec> {
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

    fn mask_rule(&self, id: ValueId, value: &Value) -> Result<MaskRule> {
        let mask = value.sources().iter().flatten().find_map(|&s| match self.program.get(s).leaf() {
            Some(Leaf::Mask(rule)) => Some(*rule),
            _ => None,
        });
        mask.ok_or_else(|| self.refuse(id, "attention without a mask of a known rule"))
    }

    /// q, k, v, and sinks where the op has them, for our kernels.
    fn attention_sources(&mut self, value: &Value, sinks_at: usize) -> Result<(Vec<Tensor>, bool)> {
        let mut src = Vec::new();
        for s in value.sources().iter().take(sinks_at - 1).flatten() {
            src.push(self.tensor(*s)?);
        }
        let sinks = value.sources().get(sinks_at).copied().flatten();
        if let Some(sinks) = sinks {
            src.push(self.tensor(sinks)?);
        }
        Ok((src, sinks.is_some()))
    }

    fn scores(&self, value: &Value, rule: MaskRule, has_sinks: bool) -> ops::AttentionSpec {
        ops::AttentionSpec {
            layout: self.inputs.layout.clone(),
            rule,
            scale: value.param_f32(0),
            max_bias: value.param_f32(1),
            softcap: value.param_f32(2),
            has_sinks,
        }
    }

    fn attention(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let rule = self.mask_rule(id, value)?;
        let (src, has_sinks) = self.attention_sources(value, 4)?;
        let spec = self.scores(value, rule, has_sinks);
        let ne = self.ne(value);
        self.builder.custom(ne, &src, ops::attention(spec))
    }

    /// A product with a frozen weight or a trainable factor, if that is what the node is.
    fn linear(&mut self, value: &Value) -> Result<Option<Tensor>> {
        let weight = self.program.as_weight(value.src(0));
        if let Some(info) = weight.map(|w| self.program.weight(w)).filter(|info| info.ne[2] * info.ne[3] != 1) {
            return self.stack(value, info.ty);
        }
        let x = self.program.get(value.src(1));
        let rows_dense = x.ne[2] == Sym::fixed(1) || x.is_contiguous();
        if !rows_dense || x.nb[0] != Sym::fixed(4) || x.ty != Type::F32 {
            return Ok(None);
        }
        if self.program.get(value.src(0)).leaf() == Some(&Leaf::Param) {
            let (a, x) = (self.tensor(value.src(0))?, self.tensor(value.src(1))?);
            let ne = self.ne(value);
            return self.builder.custom(ne, &[a, x], ops::product()).map(Some);
        }
        let Some(weight) = weight else { return Ok(None) };
        let info = self.program.weight(weight);
        let Some(data) = self.weights[weight.0 as usize] else { return Ok(None) };
        let x = self.tensor(value.src(1))?;
        let ne = self.ne(value);
        self.builder.custom(ne, &[x], ops::linear(info, &data)?).map(Some)
    }

    /// A value that is a sum of products with matrices whose bytes are at hand.
    fn sum_of_products(&mut self, id: ValueId, value: &Value) -> Result<Option<Tensor>> {
        let is_there = |id: ValueId| self.given.contains_key(&id) || self.done.contains_key(&id);
        let Some(terms) = terms::terms(self.program, &self.uses, &is_there, id) else { return Ok(None) };
        let (mut sources, mut specs) = (Vec::new(), Vec::with_capacity(terms.len()));
        for term in &terms {
            let matrix = match term.matrix {
                Matrix::Weight(w) => match &self.weights[w.0 as usize] {
                    Some(data) => ops::frozen(self.program.weight(w), data)?,
                    None => return Ok(None),
                },
                Matrix::Factor(factor) => {
                    sources.push(self.tensor(factor)?);
                    ops::TermMatrix::Source(sources.len() - 1)
                }
            };
            sources.push(self.rounded(term.rows)?);
            specs.push(ops::TermSpec { matrix, side: term.side, rows: sources.len() - 1 });
        }
        let ne = self.ne(value);
        self.builder.custom(ne, &sources, ops::sum_of_products(specs)).map(Some)
    }

    fn rounded(&mut self, id: ValueId) -> Result<Tensor> {
        if let Some(&tensor) = self.rounded.get(&id) {
            return Ok(tensor);
        }
        let x = self.tensor(id)?;
        let [n, rows @ ..] = self.builder.ne(x);
        let tensor = self.builder.custom([(n + 1) / 2, rows[0], rows[1], rows[2]], &[x], ops::rounded())?;
        self.rounded.insert(id, tensor);
        Ok(tensor)
    }

    /// A product with a stack of weights, one per head, decoded first: ggml would round the activations to the weights'
    /// precision.
    fn stack(&mut self, value: &Value, ty: Type) -> Result<Option<Tensor>> {
        if ty == Type::F32 {
            return Ok(None);
        }
        let mut src = self.sources(value)?;
        let Some(weight) = src.first().copied().flatten() else { return Ok(None) };
        let mut cast = self.spec("CPY", Type::F32, self.builder.ne(weight), vec![Some(weight)])?;
        cast.is_cast = true;
        src[0] = Some(self.builder.node(&cast)?);
        let spec = self.spec("MUL_MAT", value.ty, self.ne(value), src)?;
        self.builder.node(&spec).map(Some)
    }

    /// A function that ggml's CPU reads from a table of 16-bit floats, computed instead: its gradient is that of the
    /// function, not of the table.
    fn tabled(&mut self, value: &Value, op: &Op) -> Result<Option<Tensor>> {
        let rows_apart = |x: &Value| x.nb[0] == Sym::fixed(4) && (x.is_contiguous() || x.ne[2..] == [Sym::fixed(1); 2]);
        let sources: Vec<_> = value.sources().iter().flatten().copied().collect();
        if !sources.iter().all(|&s| self.program.get(s).ty == Type::F32 && rows_apart(self.program.get(s))) {
            return Ok(None);
        }
        let Some(kernel) = ops::tabled(op, value) else { return Ok(None) };
        let src = sources.into_iter().map(|s| self.tensor(s)).collect::<Result<Vec<_>>>()?;
        let ne = self.ne(value);
        self.builder.custom(ne, &src, kernel).map(Some)
    }

    fn gradient(&mut self, id: ValueId, value: &Value, op: &GradOp) -> Result<Tensor> {
        let ne = self.ne(value);
        match op {
            GradOp::LinearBack if self.program.get(value.src(0)).leaf() == Some(&Leaf::Param) => {
                let (a, dy) = (self.tensor(value.src(0))?, self.tensor(value.src(1))?);
                self.builder.custom(ne, &[a, dy], ops::product_back())
            }
            GradOp::LinearBack => {
                let weight = self.program.as_weight(value.src(0)).ok_or_else(|| self.refuse(id, "no weight"))?;
                let info = self.program.weight(weight);
                let data = self.weights[weight.0 as usize].ok_or_else(|| self.refuse(id, "its weight cannot be read"))?;
                let dy = self.tensor(value.src(1))?;
                self.builder.custom(ne, &[dy], ops::linear_back(info, &data)?)
            }
            GradOp::AttentionBack => {
                let rule = self.mask_rule(id, value)?;
                let (src, has_sinks) = self.attention_sources(value, 5)?;
                let spec = self.scores(value, rule, has_sinks);
                self.builder.custom(ne, &src, ops::attention_back(spec))
            }
            other => {
                let src = self.sources(value)?.into_iter().flatten().collect::<Vec<_>>();
                let kernel = ops::gradient(other, value, self.n_tokens).ok_or_else(|| self.refuse(id, "no kernel"))?;
                self.builder.custom(ne, &src, kernel)
            }
        }
    }
}
