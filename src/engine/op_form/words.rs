//! The ops that forms are made of, as functions of tensors of one graph.

use crate::engine::lower::Lowering;
use crate::error::{Error, Kind, Result};
use crate::ir::{Glu, Op, Unary};
use crate::runtime::Tensor;
use quant::Type;

/// `GGML_PREC_F32`: sums of a product are formed in F32.
const PREC_F32: i32 = 10;

/// `op_params` that begin with these floats.
fn floats<const N: usize>(values: [f32; N]) -> [i32; 16] {
    let mut params = [0; 16];
    params.iter_mut().zip(values).for_each(|(p, v)| *p = v.to_bits() as i32);
    params
}

impl Lowering<'_, '_> {
    /// An op with a contiguous F32 result.
    pub(super) fn op(&mut self, name: &str, ne: [i64; 4], src: &[Option<Tensor>], params: [i32; 16]) -> Result<Tensor> {
        let mut spec = self.spec(name, Type::F32, ne, src.to_vec())?;
        spec.params = params;
        self.builder.node(&spec)
    }

    /// An op whose result has the shape of its first source.
    fn alike(&mut self, name: &str, src: &[Tensor], params: [i32; 16]) -> Result<Tensor> {
        let first = *src.first().ok_or_else(|| Error::new(Kind::Internal, format!("{name} of nothing")))?;
        let src: Vec<_> = src.iter().copied().map(Some).collect();
        self.op(name, self.builder.ne(first), &src, params)
    }

    /// `a · b`, `b` tiled over `a`; so are the others.
    pub(super) fn mul(&mut self, a: Tensor, b: Tensor) -> Result<Tensor> {
        self.alike("MUL", &[a, b], [0; 16])
    }

    pub(super) fn add(&mut self, a: Tensor, b: Tensor) -> Result<Tensor> {
        self.alike("ADD", &[a, b], [0; 16])
    }

    pub(super) fn sub(&mut self, a: Tensor, b: Tensor) -> Result<Tensor> {
        self.alike("SUB", &[a, b], [0; 16])
    }

    pub(super) fn div(&mut self, a: Tensor, b: Tensor) -> Result<Tensor> {
        self.alike("DIV", &[a, b], [0; 16])
    }

    /// `s · x + b`.
    pub(super) fn affine(&mut self, x: Tensor, s: f32, b: f32) -> Result<Tensor> {
        self.alike("SCALE", &[x], floats([s, b]))
    }

    pub(super) fn clamp(&mut self, x: Tensor, low: f32, high: f32) -> Result<Tensor> {
        self.alike("CLAMP", &[x], floats([low, high]))
    }

    pub(super) fn sqr(&mut self, x: Tensor) -> Result<Tensor> {
        self.alike("SQR", &[x], [0; 16])
    }

    pub(super) fn sqrt(&mut self, x: Tensor) -> Result<Tensor> {
        self.alike("SQRT", &[x], [0; 16])
    }

    pub(super) fn unary(&mut self, kind: Unary, x: Tensor) -> Result<Tensor> {
        let sub = self.sub_number(&Op::Unary(kind))?;
        let mut params = [0; 16];
        params[0] = sub;
        self.alike("UNARY", &[x], params)
    }

    /// act(a) · b.
    pub(super) fn gated(&mut self, kind: Glu, a: Tensor, b: Tensor) -> Result<Tensor> {
        let sub = self.sub_number(&Op::Glu(kind))?;
        let mut params = [0; 16];
        params[0] = sub;
        self.alike("GLU", &[a, b], params)
    }

    fn sub_number(&self, op: &Op) -> Result<i32> {
        let number = self.names.of(op).and_then(|(_, sub)| sub);
        number.ok_or_else(|| Error::new(Kind::Unsupported, format!("this ggml has no function {}", op.name())))
    }

    /// Sums over axis 0.
    pub(super) fn sum_rows(&mut self, x: Tensor) -> Result<Tensor> {
        let [_, rest @ ..] = self.builder.ne(x);
        self.op("SUM_ROWS", [1, rest[0], rest[1], rest[2]], &[Some(x)], [0; 16])
    }

    /// `y[n, m] = Σ_k a[k, n]·b[k, m]`, heads of `b` grouped over those of `a`.
    pub(super) fn product(&mut self, a: Tensor, b: Tensor) -> Result<Tensor> {
        let (a_ne, b_ne) = (self.builder.ne(a), self.builder.ne(b));
        let mut params = [0; 16];
        params[0] = PREC_F32;
        self.op("MUL_MAT", [a_ne[1], b_ne[1], b_ne[2], b_ne[3]], &[Some(a), Some(b)], params)
    }

    /// A part of a tensor's memory; strides and offset in bytes.
    pub(super) fn part(&mut self, x: Tensor, ty: Type, ne: [i64; 4], nb: [usize; 4], offset: usize) -> Result<Tensor> {
        let mut spec = self.spec("VIEW", ty, ne, vec![Some(x)])?;
        (spec.nb, spec.view) = (nb, Some((x, offset)));
        (spec.params[0], spec.params[1]) = (offset as u32 as i32, (offset >> 32) as i32);
        self.builder.node(&spec)
    }

    /// The same elements of a contiguous tensor in another shape.
    pub(super) fn shaped(&mut self, x: Tensor, ne: [i64; 4]) -> Result<Tensor> {
        if self.builder.ne(x) == ne {
            return Ok(x);
        }
        let x = self.contiguous(x)?;
        let mut spec = self.spec("RESHAPE", Type::F32, ne, vec![Some(x)])?;
        spec.view = Some((x, 0));
        self.builder.node(&spec)
    }

    /// Puts axis `i` at `axes[i]`, copied to be contiguous.
    pub(super) fn turned(&mut self, x: Tensor, axes: [usize; 4]) -> Result<Tensor> {
        let (from_ne, from_nb) = (self.builder.ne(x), self.builder.nb(x));
        let mut spec = self.spec("PERMUTE", Type::F32, from_ne, vec![Some(x)])?;
        spec.view = Some((x, 0));
        for (axis, &to) in axes.iter().enumerate() {
            (spec.ne[to], spec.nb[to], spec.params[axis]) = (from_ne[axis], from_nb[axis], to as i32);
        }
        let view = self.builder.node(&spec)?;
        self.contiguous(view)
    }

    /// Axes 0 and 1 exchanged, copied.
    pub(super) fn transposed(&mut self, x: Tensor) -> Result<Tensor> {
        self.turned(x, [1, 0, 2, 3])
    }

    /// A contiguous copy of F32, or the tensor itself.
    pub(super) fn contiguous(&mut self, x: Tensor) -> Result<Tensor> {
        let (ne, nb) = (self.builder.ne(x), self.builder.nb(x));
        let mut dense = [4usize; 4];
        for axis in 1..4 {
            dense[axis] = dense[axis - 1] * ne[axis - 1] as usize;
        }
        if nb == dense {
            return Ok(x);
        }
        self.op("CONT", ne, &[Some(x)], [0; 16])
    }

    /// Puts tensors one after another along an axis; in pairs, so that each is copied a few times only.
    pub(super) fn joined(&mut self, parts: Vec<Tensor>, axis: usize) -> Result<Tensor> {
        let mut parts = parts;
        while parts.len() > 1 {
            let mut next = Vec::with_capacity(parts.len().div_ceil(2));
            for pair in parts.chunks(2) {
                next.push(match *pair {
                    [a, b] => {
                        let (mut ne, of_b) = (self.builder.ne(a), self.builder.ne(b));
                        ne[axis] += of_b[axis];
                        let mut params = [0; 16];
                        params[0] = axis as i32;
                        self.op("CONCAT", ne, &[Some(a), Some(b)], params)?
                    }
                    _ => pair[0],
                });
            }
            parts = next;
        }
        parts.pop().ok_or_else(|| Error::new(Kind::Internal, "nothing to put together"))
    }

    /// Zeros.
    pub(super) fn zeros(&mut self, ne: [i64; 4]) -> Result<Tensor> {
        let shape = self.builder.blank(Type::F32, ne)?;
        self.alike("FILL", &[shape], [0; 16])
    }
}
