//! Appending values to a program: views, copies and the forward ops that gradient rules are made of.

use super::{n_elements, Op, Program, Sym, Value, ValueId, ValueKind};
use quant::Type;

impl Program {
    fn renamed(&mut self, op: Op, src: ValueId, ne: [Sym; 4], nb: [Sym; 4], offset: Sym, params: [i32; 16]) -> ValueId {
        let ty = self.get(src).ty;
        let kind = ValueKind::Node { op, src: vec![Some(src)] };
        self.push(Value { kind, ty, ne, nb, params, offset, name: String::new() })
    }

    /// A view: strides and offset in bytes, relative to `src`.
    pub fn view(&mut self, src: ValueId, ne: [Sym; 4], nb: [Sym; 4], offset: Sym) -> ValueId {
        self.renamed(Op::View, src, ne, nb, offset, [0; 16])
    }

    /// The same elements in another shape; a strided source is copied first.
    pub fn reshape(&mut self, src: ValueId, ne: [Sym; 4]) -> ValueId {
        debug_assert_eq!(n_elements(self.get(src).ne), n_elements(ne));
        if self.get(src).ne == ne && self.get(src).is_contiguous() {
            return src;
        }
        let src = self.cont(src);
        let nb = super::strides(self.get(src).ty, ne);
        self.renamed(Op::Reshape, src, ne, nb, Sym::default(), [0; 16])
    }

    /// Puts source axis `i` at `axes[i]`.
    pub fn permute(&mut self, src: ValueId, axes: [usize; 4]) -> ValueId {
        let from = self.get(src);
        let (mut ne, mut nb, mut params) = (from.ne, from.nb, [0; 16]);
        for (axis, &to) in axes.iter().enumerate() {
            ne[to] = from.ne[axis];
            nb[to] = from.nb[axis];
            params[axis] = to as i32;
        }
        self.renamed(Op::Permute, src, ne, nb, Sym::default(), params)
    }

    /// Axes 0 and 1 exchanged, copied to be contiguous.
    pub fn transposed(&mut self, src: ValueId) -> ValueId {
        let view = self.permute(src, [1, 0, 2, 3]);
        self.cont(view)
    }

    /// A contiguous copy, or the value itself if it is contiguous.
    pub fn cont(&mut self, src: ValueId) -> ValueId {
        let value = self.get(src);
        if value.is_contiguous() {
            return src;
        }
        let (ty, ne) = (value.ty, value.ne);
        self.node(Op::Cont, ty, ne, &[src], [0; 16])
    }

    /// `s · x`.
    pub fn scale(&mut self, x: ValueId, s: f32) -> ValueId {
        if s == 1.0 {
            return x;
        }
        let mut params = [0; 16];
        params[0] = s.to_bits() as i32;
        let ne = self.get(x).ne;
        self.node(Op::Scale, Type::F32, ne, &[x], params)
    }

    /// `a + b`, `b` tiled over `a`.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let ne = self.get(a).ne;
        self.node(Op::Add, Type::F32, ne, &[a, b], [0; 16])
    }

    /// `a · b` element by element, `b` tiled over `a`.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let ne = self.get(a).ne;
        self.node(Op::Mul, Type::F32, ne, &[a, b], [0; 16])
    }

    /// `a / b` element by element, `b` tiled over `a`.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let ne = self.get(a).ne;
        self.node(Op::Div, Type::F32, ne, &[a, b], [0; 16])
    }

    /// `x` tiled to the shape of another value.
    pub fn repeat(&mut self, x: ValueId, ne: [Sym; 4]) -> ValueId {
        self.node(Op::Repeat, Type::F32, ne, &[x], [0; 16])
    }

    /// `y[n, m] = Σ_k a[k, n] b[k, m]`, heads of `b` grouped over those of `a`.
    pub fn mul_mat(&mut self, a: ValueId, b: ValueId) -> ValueId {
        let (a_ne, b_ne) = (self.get(a).ne, self.get(b).ne);
        self.node(Op::MulMat, Type::F32, [a_ne[1], b_ne[1], b_ne[2], b_ne[3]], &[a, b], [0; 16])
    }

    /// As [`Self::mul_mat`] with the matrix of `a` \[K, N, E\] that `choices` \[k, T\] names for every row of the result \[N, k, T\];
    /// `b` is \[K, 1 or k, T\].
    pub fn mul_mat_id(&mut self, a: ValueId, b: ValueId, choices: ValueId) -> ValueId {
        let (n, [k, t, ..]) = (self.get(a).ne[1], self.get(choices).ne);
        self.node(Op::MulMatId, Type::F32, [n, k, t, Sym::fixed(1)], &[a, b, choices], [0; 16])
    }

    /// The value whose memory a chain of views looks into.
    pub fn root(&self, mut id: ValueId) -> ValueId {
        while self.get(id).op().is_some_and(Op::is_view) {
            id = self.get(id).src(0);
        }
        id
    }
}
