//! Functions and gated units: those that ggml's CPU looks up in a table, and the slopes of all (specs: vjp 1 and 2).

use crate::engine::lower::Lowering;
use crate::error::{Error, Kind, Result};
use crate::ir::{Glu, Op, Unary, Value};
use crate::runtime::Tensor;

/// 2·√(2/π) and a of GELU's tanh form, x·sigmoid(2c·(x + a·x³)).
const TWO_C: f32 = 1.595_769;
const A: f32 = 0.044_715;
/// GELU_QUICK: x·sigmoid(1.702·x).
const QUICK: f32 = 1.702;
/// 1/√(2π).
const DENSITY: f32 = 0.398_942_3;

impl Lowering<'_, '_> {
    /// GELU and its gated forms computed, where ggml's CPU looks them up in a table of 16-bit floats; `None` for others.
    pub(super) fn tabled_ops(&mut self, value: &Value, op: &Op) -> Result<Option<Tensor>> {
        let kind = match op {
            Op::Unary(kind @ (Unary::Gelu | Unary::GeluQuick)) => *kind,
            Op::Glu(Glu::Geglu) => Unary::Gelu,
            Op::Glu(Glu::GegluQuick) => Unary::GeluQuick,
            _ => return Ok(None),
        };
        let mut src = Vec::with_capacity(2);
        for source in self.sources(value)?.into_iter().flatten() {
            src.push(self.contiguous(source)?);
        }
        let (gate, multiplier) = match (op, src.as_slice()) {
            (Op::Unary(_), &[x]) => return self.gelu(kind, x).map(Some),
            (_, &[a, b]) => (a, b),
            (_, &[x]) => self.halves(x, value.params[1] != 0)?,
            _ => return Err(Error::new(Kind::Internal, format!("{} of {} sources", op.name(), src.len()))),
        };
        let gate = self.gelu(kind, gate)?;
        self.mul(gate, multiplier).map(Some)
    }

    /// The tanh form of GELU, or the quick one.
    fn gelu(&mut self, kind: Unary, x: Tensor) -> Result<Tensor> {
        let s = match kind {
            Unary::Gelu => {
                let square = self.sqr(x)?;
                let inner = self.affine(square, TWO_C * A, TWO_C)?;
                self.mul(x, inner)?
            }
            _ => self.affine(x, QUICK, 0.0)?,
        };
        let s = self.unary(Unary::Sigmoid, s)?;
        self.mul(x, s)
    }

    /// Gate and multiplier of a fused source [2n, M], each contiguous; swapped = the second half is the gate.
    fn halves(&mut self, x: Tensor, swapped: bool) -> Result<(Tensor, Tensor)> {
        let (ne, nb) = (self.builder.ne(x), self.builder.nb(x));
        let half = [ne[0] / 2, ne[1], ne[2], ne[3]];
        let first = self.part(x, quant::Type::F32, half, nb, 0)?;
        let second = self.part(x, quant::Type::F32, half, nb, half[0] as usize * 4)?;
        let (first, second) = (self.contiguous(first)?, self.contiguous(second)?);
        Ok(if swapped { (second, first) } else { (first, second) })
    }

    /// x → s·(1 + w·(1 − s)), the slope of x·s with s = sigmoid(u) and w = x·u'.
    fn sigmoid_slope(&mut self, s: Tensor, w: Tensor) -> Result<Tensor> {
        let rest = self.affine(s, -1.0, 1.0)?;
        let product = self.mul(w, rest)?;
        let factor = self.affine(product, 1.0, 1.0)?;
        self.mul(s, factor)
    }

    /// f'(x); `params` are XIELU's αn, αp, β, ε.
    pub(super) fn slope(&mut self, kind: Unary, x: Tensor, params: [f32; 4]) -> Result<Tensor> {
        match kind {
            Unary::Abs => self.unary(Unary::Sgn, x),
            Unary::Relu => self.unary(Unary::Step, x),
            Unary::Exp | Unary::Expm1 => self.unary(Unary::Exp, x),
            Unary::Softplus => self.unary(Unary::Sigmoid, x),
            Unary::Neg => {
                let zero = self.affine(x, 0.0, -1.0)?;
                Ok(zero)
            }
            Unary::Tanh => {
                let y = self.unary(Unary::Tanh, x)?;
                let square = self.sqr(y)?;
                self.affine(square, -1.0, 1.0)
            }
            Unary::Sigmoid => {
                let y = self.unary(Unary::Sigmoid, x)?;
                let rest = self.affine(y, -1.0, 1.0)?;
                self.mul(y, rest)
            }
            Unary::Silu => {
                let s = self.unary(Unary::Sigmoid, x)?;
                self.sigmoid_slope(s, x)
            }
            Unary::GeluQuick => {
                let w = self.affine(x, QUICK, 0.0)?;
                let s = self.unary(Unary::Sigmoid, w)?;
                self.sigmoid_slope(s, w)
            }
            Unary::Gelu => {
                let square = self.sqr(x)?;
                let inner = self.affine(square, TWO_C * A, TWO_C)?;
                let u = self.mul(x, inner)?;
                let s = self.unary(Unary::Sigmoid, u)?;
                let slope = self.affine(square, 3.0 * TWO_C * A, TWO_C)?;
                let w = self.mul(x, slope)?;
                self.sigmoid_slope(s, w)
            }
            Unary::GeluErf => self.gelu_erf_slope(x),
            Unary::Xielu => {
                let [negative, positive, beta, _] = params;
                let above = self.unary(Unary::Relu, x)?;
                let below = self.sub(x, above)?;
                let below = self.unary(Unary::Expm1, below)?;
                let below = self.affine(below, negative, 0.0)?;
                let above = self.affine(above, 2.0 * positive, beta)?;
                self.add(above, below)
            }
            Unary::Sgn | Unary::Step => self.zeros(self.builder.ne(x)),
        }
    }

    /// Φ(x) + x·φ(x), without an op for erf: Φ(z) = GELU_ERF(z)/z away from zero, and near it a straight line.
    fn gelu_erf_slope(&mut self, x: Tensor) -> Result<Tensor> {
        let size = self.unary(Unary::Abs, x)?;
        let z = self.clamp(size, 1e-3, f32::INFINITY)?;
        let value = self.unary(Unary::GeluErf, z)?;
        let above = self.div(value, z)?;
        let short = self.sub(size, z)?;
        let short = self.affine(short, DENSITY, 0.0)?;
        let above = self.add(above, short)?;
        let centred = self.affine(above, 1.0, -0.5)?;
        let sign = self.unary(Unary::Sgn, x)?;
        let signed = self.mul(sign, centred)?;
        let below = self.affine(signed, 1.0, 0.5)?;
        let square = self.sqr(x)?;
        let exponent = self.affine(square, -0.5, 0.0)?;
        let density = self.unary(Unary::Exp, exponent)?;
        let density = self.affine(density, DENSITY, 0.0)?;
        let along = self.mul(x, density)?;
        self.add(below, along)
    }

    /// da of act(a)·b.
    pub(super) fn gate_back(&mut self, kind: Glu, a: Tensor, b: Tensor, dy: Tensor, value: &Value) -> Result<Tensor> {
        if kind == Glu::SwigluOai {
            let (alpha, limit) = (value.param_f32(2), value.param_f32(3));
            let x = self.clamp(a, f32::NEG_INFINITY, limit)?;
            let y = self.clamp(b, -limit, limit)?;
            let y = self.affine(y, 1.0, 1.0)?;
            let w = self.affine(x, alpha, 0.0)?;
            let s = self.unary(Unary::Sigmoid, w)?;
            let slope = self.sigmoid_slope(s, w)?;
            let open = self.affine(a, -1.0, limit)?;
            let open = self.unary(Unary::Step, open)?;
            let product = self.mul(dy, y)?;
            let product = self.mul(product, slope)?;
            return self.mul(product, open);
        }
        let slope = self.slope(activation(kind), a, [0.0; 4])?;
        let product = self.mul(dy, b)?;
        self.mul(product, slope)
    }

    /// db of act(a)·b.
    pub(super) fn multiplier_back(
        &mut self,
        kind: Glu,
        a: Tensor,
        b: Tensor,
        dy: Tensor,
        value: &Value,
    ) -> Result<Tensor> {
        match kind {
            Glu::Geglu | Glu::GegluQuick => {
                let gate = self.gelu(activation(kind), a)?;
                self.mul(gate, dy)
            }
            Glu::SwigluOai => {
                let (alpha, limit) = (value.param_f32(2), value.param_f32(3));
                let x = self.clamp(a, f32::NEG_INFINITY, limit)?;
                let w = self.affine(x, alpha, 0.0)?;
                let s = self.unary(Unary::Sigmoid, w)?;
                let gate = self.mul(x, s)?;
                let product = self.mul(dy, gate)?;
                let open = self.inside(b, [-limit, limit])?;
                self.mul(product, open)
            }
            _ => self.gated(kind, a, dy),
        }
    }

    /// x [2n, M] → the gradients of both halves in the input's order.
    pub(super) fn fused_back(&mut self, kind: Glu, x: Tensor, dy: Tensor, value: &Value) -> Result<Tensor> {
        let swapped = value.params[1] != 0;
        let (a, b) = self.halves(x, swapped)?;
        let da = self.gate_back(kind, a, b, dy, value)?;
        let db = self.multiplier_back(kind, a, b, dy, value)?;
        self.joined(if swapped { vec![db, da] } else { vec![da, db] }, 0)
    }

    /// 1 strictly between the bounds, 0 elsewhere.
    fn inside(&mut self, x: Tensor, [low, high]: [f32; 2]) -> Result<Tensor> {
        let above = self.affine(x, 1.0, -low)?;
        let above = self.unary(Unary::Step, above)?;
        let below = self.affine(x, -1.0, high)?;
        let below = self.unary(Unary::Step, below)?;
        self.mul(above, below)
    }

    /// Gradient of CLAMP: nothing passes at or beyond a bound.
    pub(super) fn clamp_back_ops(&mut self, x: Tensor, dy: Tensor, bounds: [f32; 2]) -> Result<Tensor> {
        // An infinite bound would meet infinity minus infinity; the largest number stands for it.
        let open = self.inside(x, bounds.map(|b| b.clamp(f32::MIN / 2.0, f32::MAX / 2.0)))?;
        self.mul(dy, open)
    }
}

/// The function of a gate.
fn activation(kind: Glu) -> Unary {
    match kind {
        Glu::Reglu => Unary::Relu,
        Glu::Geglu => Unary::Gelu,
        Glu::Swiglu | Glu::SwigluOai => Unary::Silu,
        Glu::GegluErf => Unary::GeluErf,
        Glu::GegluQuick => Unary::GeluQuick,
    }
}
