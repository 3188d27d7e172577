//! Attention and its backward as graph ops.

use super::with_scratch;
use crate::engine::{Layout, Span};
use crate::error::{Error, Kind, Result};
use crate::ir::MaskRule;
use crate::kernel::attention::{backward, forward, scratch_floats, Gradients, Heads, Operands, Place, Scores, Sizes};
use crate::kernel::Share;
use crate::runtime::{Call, Kernel, Operand};
use std::sync::Arc;

/// What attention needs beside its operands.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// The sequences.
    pub layout: Arc<Layout>,
    /// Which keys are open.
    pub rule: MaskRule,
    /// Multiplies q·k.
    pub scale: f32,
    /// ALiBi's largest bias, 0 for none.
    pub max_bias: f32,
    /// Soft cap, 0 for none.
    pub softcap: f32,
    /// The last source holds one sink per query head.
    pub has_sinks: bool,
}

impl AttentionSpec {
    fn scores(&self) -> Scores {
        let Self { rule, scale, max_bias, softcap, .. } = *self;
        Scores { scale, max_bias, softcap, rule }
    }

    fn places(&self) -> Vec<Place> {
        self.layout.spans().iter().map(place).collect()
    }

    fn scratch(&self) -> usize {
        scratch_floats(self.layout.spans().iter().map(|s| s.len).max().unwrap_or(0))
    }

    /// q, k, v are [d, T, heads] views.
    fn operands(&self, call: &Call, sinks_at: usize) -> Result<Operands> {
        let (q, k, v) = (call.src(0), call.src(1), call.src(2));
        let n = self.layout.n_tokens();
        let fits = q.ne[1] == n && k.ne[1] == n && v.ne[1] == n && q.ne[0] == k.ne[0] && k.ne[2] == v.ne[2];
        if !fits || k.ne[2] == 0 || q.ne[2] % k.ne[2] != 0 || q.ne[3] != 1 {
            let message = format!("attention got q {:?}, k {:?}, v {:?} for {n} tokens", q.ne, k.ne, v.ne);
            return Err(Error::new(Kind::Internal, message));
        }
        let sinks = if self.has_sinks { call.src(sinks_at).data.cast::<f32>().cast_const() } else { std::ptr::null() };
        let sizes = Sizes { dk: q.ne[0], dv: v.ne[0], heads: q.ne[2], kv_heads: k.ne[2] };
        Ok(Operands { q: heads(q)?, k: heads(k)?, v: heads(v)?, sinks, sizes })
    }
}

fn place(span: &Span) -> Place {
    let Span { start, len, shared, rest } = *span;
    Place { start, len, shared, rest }
}

fn heads(x: Operand) -> Result<Heads> {
    if x.nb[0] != 4 || !x.nb[1].is_multiple_of(4) || !x.nb[2].is_multiple_of(4) {
        return Err(Error::new(Kind::Internal, format!("attention got an operand with strides {:?}", x.nb)));
    }
    Ok(Heads { data: x.data.cast(), token: x.nb[1] / 4, head: x.nb[2] / 4 })
}

/// q, k, v (and sinks) → O \[dv, heads, T\].
pub fn attention(spec: AttentionSpec) -> Kernel {
    Box::new(move |call: &Call| {
        let (operands, places) = (spec.operands(call, 3)?, spec.places());
        let share = Share { ith: call.ith, nth: call.nth };
        with_scratch(spec.scratch(), |scratch| {
            let out = call.dst().data.cast();
            // SAFETY: shapes checked above; the result is contiguous [dv, heads, T].
            unsafe { forward(&operands, &spec.scores(), &places, spec.layout.n_tokens(), out, scratch, share) }
        });
        Ok(())
    })
}

/// q, k, v, dO (and sinks) → dq, dk, dv one after another.
pub fn attention_back(spec: AttentionSpec) -> Kernel {
    Box::new(move |call: &Call| {
        let (operands, places) = (spec.operands(call, 4)?, spec.places());
        let n = spec.layout.n_tokens();
        let Sizes { dk, dv, heads, kv_heads } = operands.sizes;
        let (d_out, dst) = (call.src(3), call.dst());
        if dst.ne[0] != n * (dk * heads + dk * kv_heads + dv * kv_heads) || d_out.ne[..3] != [dv, heads, n] {
            return Err(Error::new(Kind::Internal, format!("attention's gradients have shape {:?}", dst.ne)));
        }
        let share = Share { ith: call.ith, nth: call.nth };
        with_scratch(spec.scratch(), |scratch| {
            // SAFETY: shapes checked above; the three parts lie one after another in the result.
            unsafe {
                let dq: *mut f32 = dst.data.cast();
                let d_k = dq.add(n * dk * heads);
                let gradients = Gradients { dq, dk: d_k, dv: d_k.add(n * dk * kv_heads) };
                backward(&operands, &spec.scores(), &places, n, d_out.data.cast(), gradients, scratch, share);
            }
        });
        Ok(())
    })
}
