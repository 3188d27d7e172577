//! A program: weights, leaves and operations in the order they may run.

use super::{contiguous, MaskRule, Op, Sym};
use quant::Type;

/// Number of sources an operation may have.
pub const N_SOURCES_MAX: usize = 10;

/// Index of a value in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// Index of a weight in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightId(pub u32);

/// A frozen tensor of the model.
#[derive(Clone, Debug)]
pub struct WeightInfo {
    /// Name in the GGUF, such as `blk.3.attn_q.weight`.
    pub name: String,
    /// Storage type.
    pub ty: Type,
    /// Shape in ggml order.
    pub ne: [i64; 4],
}

/// A value that no operation computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A frozen tensor of the model.
    Weight(WeightId),
    /// Token ids, I32 \[T\].
    Tokens,
    /// Positions within each sequence, I32 \[T\]; or \[4T\] for M-RoPE, three times the position and then zeros.
    Positions {
        /// Entries per token: 1 or 4.
        sections: usize,
    },
    /// Additive attention mask \[keys, queries\].
    Mask(MaskRule),
    /// Every element has this value.
    Constant(f32),
    /// One factor per token, looked up by position.
    Table(Vec<f32>),
    /// A trainable F32 tensor.
    Param,
    /// An F32 tensor that the caller fills: the input of a segment, or a cotangent.
    Input,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// Given from outside.
    Leaf(Leaf),
    /// Computed; a missing optional source (mask, sinks, factors) is `None`.
    Node {
        /// The operation.
        op: Op,
        /// Its sources, in ggml's order.
        src: Vec<Option<ValueId>>,
    },
}

/// One tensor of the program.
#[derive(Clone, Debug)]
pub struct Value {
    /// Leaf or operation.
    pub kind: ValueKind,
    /// Element type.
    pub ty: Type,
    /// Shape, ne0 fastest.
    pub ne: [Sym; 4],
    /// Strides in bytes.
    pub nb: [Sym; 4],
    /// `op_params` as the trace saw them; for a `View` the byte offset is in `offset` instead.
    pub params: [i32; 16],
    /// Byte offset of a `View` relative to its source.
    pub offset: Sym,
    /// The runtime's name of the tensor, for messages.
    pub name: String,
}

/// A list of values in which every source precedes its user.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// All values; a [`ValueId`] is an index into it.
    pub values: Vec<Value>,
    /// The weights that leaves refer to.
    pub weights: Vec<WeightInfo>,
    /// The runtime's architecture name, for messages.
    pub architecture: String,
}

impl Value {
    /// The `i`-th float of `op_params`.
    pub fn param_f32(&self, i: usize) -> f32 {
        f32::from_bits(self.params[i] as u32)
    }

    /// The operation, `None` for a leaf.
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            ValueKind::Node { op, .. } => Some(op),
            ValueKind::Leaf(_) => None,
        }
    }

    /// The leaf, `None` for an operation.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.kind {
            ValueKind::Leaf(leaf) => Some(leaf),
            ValueKind::Node { .. } => None,
        }
    }

    /// The sources, empty for a leaf.
    pub fn sources(&self) -> &[Option<ValueId>] {
        match &self.kind {
            ValueKind::Node { src, .. } => src,
            ValueKind::Leaf(_) => &[],
        }
    }

    /// The `i`-th source.
    ///
    /// # Panics
    /// If the op has no such source: programs are built by this crate, so that is a bug.
    pub fn src(&self, i: usize) -> ValueId {
        self.sources().get(i).copied().flatten().expect("an op's mandatory source is missing: a bug in the tracer")
    }

    /// True if the strides are those of a contiguous tensor.
    pub fn is_contiguous(&self) -> bool {
        row_bytes(self.ty, self.ne[0])
            .and_then(|row| contiguous(self.ne, self.ty.block_bytes() as i64, row))
            .is_some_and(|nb| (0..4).all(|i| self.nb[i] == nb[i] || self.ne[i] == Sym::fixed(1)))
    }
}

/// Bytes of a row of `ne0` elements.
pub fn row_bytes(ty: Type, ne0: Sym) -> Option<Sym> {
    let (len, bytes) = (ty.block_len() as i64, ty.block_bytes() as i64);
    (ne0.a % len == 0 && ne0.b % len == 0).then(|| Sym { a: ne0.a / len * bytes, b: ne0.b / len * bytes })
}

impl Program {
    /// The value with this id.
    pub fn get(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The weight with this id.
    pub fn weight(&self, id: WeightId) -> &WeightInfo {
        &self.weights[id.0 as usize]
    }

    /// The weight that a value is, if it is one.
    pub fn as_weight(&self, id: ValueId) -> Option<WeightId> {
        match self.get(id).leaf() {
            Some(Leaf::Weight(w)) => Some(*w),
            _ => None,
        }
    }

    /// All ids, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ValueId> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// Appends a value.
    pub fn push(&mut self, value: Value) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("a program has fewer than 2^32 values"));
        self.values.push(value);
        id
    }

    /// Appends an operation with a contiguous result.
    pub fn node(&mut self, op: Op, ty: Type, ne: [Sym; 4], src: &[ValueId], params: [i32; 16]) -> ValueId {
        let nb = strides(ty, ne);
        let src = src.iter().map(|&s| Some(s)).collect();
        let kind = ValueKind::Node { op, src };
        self.push(Value { kind, ty, ne, nb, params, offset: Sym::default(), name: String::new() })
    }

    /// Appends a leaf.
    pub fn leaf(&mut self, leaf: Leaf, ty: Type, ne: [Sym; 4], name: &str) -> ValueId {
        let nb = strides(ty, ne);
        let kind = ValueKind::Leaf(leaf);
        self.push(Value { kind, ty, ne, nb, params: [0; 16], offset: Sym::default(), name: name.to_owned() })
    }

    /// What a message calls the value: the runtime's name and the op.
    pub fn describe(&self, id: ValueId) -> String {
        let value = self.get(id);
        let what = match &value.kind {
            ValueKind::Node { op, .. } => op.name(),
            ValueKind::Leaf(leaf) => format!("leaf {leaf:?}"),
        };
        format!("{what} \"{}\" of architecture {}", value.name, self.architecture)
    }
}

/// Contiguous byte strides of a shape that one token axis at most makes grow.
///
/// # Panics
/// If two axes grow with the tokens, or a row is no whole number of blocks: only a bug builds such a value.
pub fn strides(ty: Type, ne: [Sym; 4]) -> [Sym; 4] {
    let row = row_bytes(ty, ne[0]).expect("a row is a whole number of blocks");
    contiguous(ne, ty.block_bytes() as i64, row).expect("one axis at most grows with the tokens")
}
