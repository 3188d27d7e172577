//! The operations of a program: the runtime's own, by name, and the gradient operations that `autodiff` adds.

/// An operation. The runtime's ops keep ggml's names; `op_params` stay on the value as the trace saw them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are ggml's
pub enum Op {
    View,
    Reshape,
    Permute,
    Transpose,
    Cont,
    /// `CPY` made by a cast: the result has another type.
    Cast,
    Add,
    Sub,
    Mul,
    Div,
    Scale,
    Clamp,
    Sqr,
    Sqrt,
    Log,
    SumRows,
    Mean,
    Repeat,
    Concat,
    MulMat,
    /// A product with the matrices of a stack that are chosen for each token: sources matrices \[K, N, E\], rows \[K, 1 or k, T\],
    /// choices I32 \[k, T\]; result \[N, k, T\].
    MulMatId,
    /// A bias of each chosen expert: sources \[N, k, T\], biases \[N, E\], choices I32 \[k, T\].
    AddId,
    GetRows,
    RmsNorm,
    Norm,
    L2Norm,
    /// Some numbers set to zero, the others scaled up (no op of ggml's): `op_params` hold the key of the weight whose factor reads
    /// them. Only adapted programs hold it.
    Dropout,
    SoftMax,
    Rope,
    /// `FLASH_ATTN_EXT`: sources q, k, v, mask and sinks where present.
    Attention,
    Unary(Unary),
    Glu(Glu),
    /// An op that can be copied into a graph but has no gradient rule here, by ggml's name.
    Other(String),
    /// An operation that only backward programs hold.
    Grad(GradOp),
}

/// Element-wise functions of `UNARY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Sgn,
    Neg,
    Step,
    Tanh,
    Relu,
    Sigmoid,
    Gelu,
    GeluErf,
    GeluQuick,
    Silu,
    Exp,
    Expm1,
    Softplus,
    Xielu,
}

/// Gated units of `GLU`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Glu {
    Reglu,
    Geglu,
    Swiglu,
    SwigluOai,
    GegluErf,
    GegluQuick,
}

/// Gradient operations. Each has a forward-op form (`autodiff::expand`), a fused CPU kernel and an f64 twin in the oracle.
/// Sources are listed in order; results are contiguous F32.
#[derive(Clone, Debug, PartialEq)]
pub enum GradOp {
    /// (W \[K,N\], dy \[N,M\]) → Wᵀ-product \[K,M\] with a 2-d matrix: a frozen, possibly quantised weight, or a
    /// trainable factor (vjp 3.1, 3.2).
    LinearBack,
    /// (a \[K,M\], b \[R,M\]) → Σ_m a\[k,m\]·b\[r,m\] as \[K,R\] (vjp 3.2). M is the product of all outer axes.
    OuterSum,
    /// (W \[K, N, E\], dy \[N, k, T\], choices \[k, T\]) → Wᵀ-product \[K, k, T\] with the chosen matrix for every row (vjp 9).
    ExpertsBack,
    /// (a \[K, 1 or k, T\], b \[R, k, T\], choices \[k, T\]) → for every expert the sum over the rows that chose it,
    /// Σ a\[k, m\]·b\[r, m\], as \[K, R, E\] (vjp 9).
    ExpertsSum,
    /// (dy \[n, k, T\], choices \[k, T\]) → zeros \[n, E, T\] with row k of every token added at its choice: gradient of `GET_ROWS`
    /// from values (vjp 9).
    RowsBack,
    /// (x, dy) → dy·f'(x) for the forward op's function; `op_params` are the forward's.
    UnaryBack(Unary),
    /// (x, dy) → gradient of CLAMP.
    ClampBack,
    /// (gate, multiplier, dy) → gradient of the gate of a split unit.
    GluBackGate(Glu),
    /// (gate, multiplier, dy) → gradient of the multiplier of a split unit.
    GluBackMul(Glu),
    /// (x \[2n,..\], dy \[n,..\]) → gradient of the fused halves, in the input's order.
    GluBackFused(Glu),
    /// (x, dy) → gradient of RMS_NORM.
    RmsNormBack,
    /// (x, dy) → gradient of NORM.
    NormBack,
    /// (x, dy) → gradient of L2_NORM.
    L2NormBack,
    /// (y, dy) → gradient of SOFT_MAX from its result; `op_params` are the forward's.
    SoftMaxBack,
    /// (q, k, v, dO, then mask and sinks as the forward has them) → dq, dk, dv one after another in one 1-d tensor,
    /// each contiguous in the order of *memory* \[d, heads, T\].
    AttentionBack,
    /// (dy…) → zeros of the parent's contiguous shape with every dy added at its view's place (vjp 8).
    /// One placement per source.
    Scatter(Vec<Placement>),
    /// (z) → sum over everything a broadcast small operand mapped to, in the result's shape (vjp 1, tilesum).
    SumTo,
    /// (dy, positions, factors?) → ROPE with negated angles, which is the transpose of the rotation (vjp 6).
    RopeBack,
}

/// Where a view lies in its contiguous parent, in elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// First element.
    pub offset: super::Sym,
    /// Strides of the view's axes in elements.
    pub stride: [super::Sym; 4],
}

impl Op {
    /// ggml's name of the op, for reports and for finding its number in a runtime.
    pub fn name(&self) -> String {
        let name = match self {
            Op::View => "VIEW",
            Op::Reshape => "RESHAPE",
            Op::Permute => "PERMUTE",
            Op::Transpose => "TRANSPOSE",
            Op::Cont => "CONT",
            Op::Cast => "CPY",
            Op::Add => "ADD",
            Op::Sub => "SUB",
            Op::Mul => "MUL",
            Op::Div => "DIV",
            Op::Scale => "SCALE",
            Op::Clamp => "CLAMP",
            Op::Sqr => "SQR",
            Op::Sqrt => "SQRT",
            Op::Log => "LOG",
            Op::SumRows => "SUM_ROWS",
            Op::Mean => "MEAN",
            Op::Repeat => "REPEAT",
            Op::Concat => "CONCAT",
            Op::MulMat => "MUL_MAT",
            Op::MulMatId => "MUL_MAT_ID",
            Op::AddId => "ADD_ID",
            Op::GetRows => "GET_ROWS",
            Op::RmsNorm => "RMS_NORM",
            Op::Norm => "NORM",
            Op::L2Norm => "L2_NORM",
            Op::Dropout => "DROPOUT",
            Op::SoftMax => "SOFT_MAX",
            Op::Rope => "ROPE",
            Op::Attention => "FLASH_ATTN_EXT",
            Op::Unary(u) => u.name(),
            Op::Glu(g) => g.name(),
            Op::Other(name) => return name.clone(),
            Op::Grad(g) => return format!("{g:?}"),
        };
        name.to_owned()
    }

    /// True for ops that only rename memory.
    pub fn is_view(&self) -> bool {
        matches!(self, Op::View | Op::Reshape | Op::Permute | Op::Transpose)
    }
}

impl Unary {
    /// All functions with ggml's names.
    pub const ALL: [(Unary, &'static str); 15] = [
        (Unary::Abs, "ABS"),
        (Unary::Sgn, "SGN"),
        (Unary::Neg, "NEG"),
        (Unary::Step, "STEP"),
        (Unary::Tanh, "TANH"),
        (Unary::Relu, "RELU"),
        (Unary::Sigmoid, "SIGMOID"),
        (Unary::Gelu, "GELU"),
        (Unary::GeluErf, "GELU_ERF"),
        (Unary::GeluQuick, "GELU_QUICK"),
        (Unary::Silu, "SILU"),
        (Unary::Exp, "EXP"),
        (Unary::Expm1, "EXPM1"),
        (Unary::Softplus, "SOFTPLUS"),
        (Unary::Xielu, "XIELU"),
    ];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(u, _)| *u == self).map_or("UNARY", |(_, n)| n)
    }
}

impl Glu {
    /// All gated units with ggml's names.
    pub const ALL: [(Glu, &'static str); 6] = [
        (Glu::Reglu, "REGLU"),
        (Glu::Geglu, "GEGLU"),
        (Glu::Swiglu, "SWIGLU"),
        (Glu::SwigluOai, "SWIGLU_OAI"),
        (Glu::GegluErf, "GEGLU_ERF"),
        (Glu::GegluQuick, "GEGLU_QUICK"),
    ];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(g, _)| *g == self).map_or("GLU", |(_, n)| n)
    }
}
