//! Attention as a softmax per sequence (or per pair that shares its prompt), and its gradient (specs: vjp 7.2).

use crate::engine::inputs::{group_key, mask_key};
use crate::engine::lower::Lowering;
use crate::error::Result;
use crate::ir::{Unary, Value, ValueId};
use crate::runtime::Tensor;
use quant::Type;

/// What forward and backward share of one group of sequences: q \[dk, T, H\], k \[dk, T, Hk\], v \[dv, T, Hk\], all contiguous.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Scores {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// Probabilities \[keys, queries, H\].
    p: Tensor,
    /// tanh of the scores, where they are capped.
    capped: Option<Tensor>,
}

/// \[d, T, heads\] ↔ \[d, heads, T\].
const HEADS: [usize; 4] = [0, 2, 1, 3];

impl Lowering<'_, '_> {
    /// O \[dv, H, T\].
    pub(super) fn attention_ops(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let mut outputs = Vec::new();
        for s in self.sequence_scores(id, value, 4)? {
            let v = self.transposed(s.v)?;
            let o = self.product(v, s.p)?;
            outputs.push(self.turned(o, HEADS)?);
        }
        self.joined(outputs, 2)
    }

    /// dq, dk and dv one after another, each in the order of memory \[d, heads, T\].
    pub(super) fn attention_back_ops(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let scale = value.param_f32(0);
        let scores = self.sequence_scores(id, value, 5)?;
        let d_out = self.tensor(value.src(3))?;
        let mut gradients = [Vec::new(), Vec::new(), Vec::new()];
        for (s, (start, len)) in scores.into_iter().zip(self.inputs.layout.extents()) {
            let d_out = self.along(d_out, 2, start, len)?;
            let d_out = self.turned(d_out, HEADS)?;
            let dp = self.product(s.v, d_out)?;
            let along = self.mul(s.p, dp)?;
            let along = self.sum_rows(along)?;
            let across = self.sub(dp, along)?;
            let mut dz = self.mul(s.p, across)?;
            if let Some(t) = s.capped {
                let square = self.sqr(t)?;
                let open = self.affine(square, -1.0, 1.0)?;
                dz = self.mul(dz, open)?;
            }
            let n_kv = self.builder.ne(s.k)[2];
            let k = self.transposed(s.k)?;
            let dq = self.product(k, dz)?;
            let dq = self.affine(dq, scale, 0.0)?;
            let (q, dz) = (self.folded(s.q, n_kv)?, self.folded(dz, n_kv)?);
            let dk = self.product(q, dz)?;
            let dk = self.affine(dk, scale, 0.0)?;
            let (d_out, p) = (self.folded(d_out, n_kv)?, self.folded(s.p, n_kv)?);
            let dv = self.product(d_out, p)?;
            for (list, gradient) in gradients.iter_mut().zip([dq, dk, dv]) {
                list.push(self.turned(gradient, HEADS)?);
            }
        }
        let mut flat = Vec::with_capacity(3);
        for list in gradients {
            let whole = self.joined(list, 2)?;
            let n = self.builder.ne(whole).iter().product();
            flat.push(self.shaped(whole, [n, 1, 1, 1])?);
        }
        self.joined(flat, 0)
    }

    /// The probabilities of every group, formed once for forward and backward.
    fn sequence_scores(&mut self, id: ValueId, value: &Value, sinks_at: usize) -> Result<Vec<Scores>> {
        let key = [value.src(0), value.src(1), value.src(2)];
        if let Some(found) = self.scores.get(&key) {
            return Ok(found.clone());
        }
        let [scale, max_bias, cap] = [0, 1, 2].map(|i| value.param_f32(i));
        let rule = self.mask_rule(id, value)?;
        let sinks = value.sources().get(sinks_at).copied().flatten().map(|s| self.tensor(s)).transpose()?;
        let [q, k, v] = [self.tensor(key[0])?, self.tensor(key[1])?, self.tensor(key[2])?];
        let layout = self.inputs.layout.clone();
        let mut list = Vec::new();
        for ((start, len), group) in layout.extents().zip(layout.groups()) {
            let [q, k, v] =
                [self.along(q, 1, start, len)?, self.along(k, 1, start, len)?, self.along(v, 1, start, len)?];
            let (mut x, mut capped) = (self.product(k, q)?, None);
            if cap != 0.0 {
                let inner = self.affine(x, scale / cap, 0.0)?;
                let t = self.unary(Unary::Tanh, inner)?;
                capped = Some(t);
                x = self.affine(t, cap, 0.0)?;
            }
            let region = self.inputs.masks.get(&(mask_key(rule), group_key(group, len))).copied();
            let region = region.ok_or_else(|| self.refuse(id, "no mask was placed"))?;
            let mask = self.builder.leaf(Type::F32, [len as i64, len as i64, 1, 1], region)?;
            let mut params = [0; 16];
            params[0] = (if cap == 0.0 { scale } else { 1.0 }).to_bits() as i32;
            params[1] = max_bias.to_bits() as i32;
            let ne = self.builder.ne(x);
            let p = self.op("SOFT_MAX", ne, &[Some(x), Some(mask), sinks], params)?;
            list.push(Scores { q, k, v, p, capped });
        }
        self.scores.insert(key, list.clone());
        Ok(list)
    }

    /// `len` places from `start` on along an axis, contiguous.
    fn along(&mut self, x: Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        let (mut ne, nb) = (self.builder.ne(x), self.builder.nb(x));
        if ne[axis] == len as i64 {
            return self.contiguous(x);
        }
        ne[axis] = len as i64;
        let part = self.part(x, Type::F32, ne, nb, start * nb[axis])?;
        self.contiguous(part)
    }

    /// z \[n, M, H\] → \[M·(H/`n_kv`), n, `n_kv`\]: the heads that share keys are folded into the contraction.
    fn folded(&mut self, z: Tensor, n_kv: i64) -> Result<Tensor> {
        let [n, m, heads, _] = self.builder.ne(z);
        let split = self.shaped(z, [n, m, heads / n_kv, n_kv])?;
        let turned = self.turned(split, [2, 0, 1, 3])?;
        self.shaped(turned, [m * (heads / n_kv), n, n_kv, 1])
    }
}
