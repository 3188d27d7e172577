//! The training form in ggml's own ops only, so that any backend can run it (specs: vjp, the op sequences).
//!
//! **In:** a value that the CPU would leave to a kernel of ours. **Out:** nodes of the graph. **Invariant:** shapes are those
//! of this batch; every source is made contiguous where some backend wants it so; sums and products ask for F32.

mod attention;
mod function;
mod product;
mod rows;
mod sums;
mod words;

pub(super) use attention::Scores;

use super::lower::Lowering;
use crate::error::Result;
use crate::ir::{GradOp, Op, Value, ValueId};
use crate::runtime::Tensor;

impl Lowering<'_, '_> {
    /// The nodes of a value, or `None` where the runtime's own op is the form.
    pub(super) fn op_form(&mut self, id: ValueId, value: &Value, op: &Op) -> Result<Option<Tensor>> {
        match op {
            Op::Attention => self.attention_ops(id, value).map(Some),
            Op::MulMat => self.product_ops(value).map(Some),
            Op::Unary(_) | Op::Glu(_) => self.tabled_ops(value, op),
            // Every backend has this one, and it is the transpose of the rotation.
            Op::Grad(GradOp::RopeBack) => self.rope_back(id, value).map(Some),
            Op::Grad(op) => self.gradient_ops(id, value, op).map(Some),
            _ => Ok(None),
        }
    }

    fn gradient_ops(&mut self, id: ValueId, value: &Value, op: &GradOp) -> Result<Tensor> {
        let (first, second) = (value.param_f32(0), value.param_f32(1));
        match op {
            GradOp::AttentionBack => return self.attention_back_ops(id, value),
            GradOp::LinearBack => return self.linear_back_ops(id, value),
            // No backend has an op for these: they run on the CPU.
            GradOp::ExpertsBack | GradOp::ExpertsSum | GradOp::RowsBack => return self.gradient(id, value, op),
            _ => {}
        }
        let mut src = Vec::with_capacity(3);
        for source in self.sources(value)?.into_iter().flatten() {
            src.push(self.contiguous(source)?);
        }
        let ne = self.ne(value);
        match (op, src.as_slice()) {
            (GradOp::OuterSum, &[a, b]) => self.outer_sum_ops(a, b),
            (GradOp::UnaryBack(kind), &[x, dy]) => {
                let slope = self.slope(*kind, x, [1, 2, 3, 4].map(|i| value.param_f32(i)))?;
                self.mul(dy, slope)
            }
            (GradOp::ClampBack, &[x, dy]) => self.clamp_back_ops(x, dy, [first, second]),
            (GradOp::GluBackGate(kind), &[a, b, dy]) => self.gate_back(*kind, a, b, dy, value),
            (GradOp::GluBackMul(kind), &[a, b, dy]) => self.multiplier_back(*kind, a, b, dy, value),
            (GradOp::GluBackFused(kind), &[x, dy]) => self.fused_back(*kind, x, dy, value),
            (GradOp::RmsNormBack, &[x, dy]) => self.rms_norm_back_ops(x, dy, first),
            (GradOp::NormBack, &[x, dy]) => self.norm_back_ops(x, dy, first),
            (GradOp::L2NormBack, &[x, dy]) => self.l2_norm_back_ops(x, dy, first),
            (GradOp::SoftMaxBack, &[y, dy]) => self.soft_max_back_ops(y, dy, first),
            (GradOp::SumTo, &[z]) => self.sum_to_ops(z, ne),
            (GradOp::Scatter(placements), parts) => self.scatter_ops(id, ne, placements, parts),
            _ => Err(self.refuse(id, "no form in ops of the runtime")),
        }
    }
}
