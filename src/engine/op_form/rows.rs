//! Gradients of norms and softmax, along rows (specs: vjp 4 and 5).

use crate::engine::lower::Lowering;
use crate::error::Result;
use crate::ir::Unary;
use crate::runtime::Tensor;

impl Lowering<'_, '_> {
    fn mean_rows(&mut self, x: Tensor, bias: f32) -> Result<Tensor> {
        let n = self.builder.ne(x)[0] as f32;
        let sum = self.sum_rows(x)?;
        self.affine(sum, 1.0 / n, bias)
    }

    /// dx = (dy − y·mean(y·dy))/rms, y = x/rms, rms = √(mean(x²) + ε).
    pub(super) fn rms_norm_back_ops(&mut self, x: Tensor, dy: Tensor, eps: f32) -> Result<Tensor> {
        let square = self.sqr(x)?;
        let square = self.mean_rows(square, eps)?;
        let rms = self.sqrt(square)?;
        let y = self.div(x, rms)?;
        let along = self.mul(y, dy)?;
        let along = self.mean_rows(along, 0.0)?;
        let along = self.mul(y, along)?;
        let across = self.sub(dy, along)?;
        self.div(across, rms)
    }

    /// The same of x − mean(x) with dy − mean(dy).
    pub(super) fn norm_back_ops(&mut self, x: Tensor, dy: Tensor, eps: f32) -> Result<Tensor> {
        let (mean, mean_dy) = (self.mean_rows(x, 0.0)?, self.mean_rows(dy, 0.0)?);
        let (centred, dy) = (self.sub(x, mean)?, self.sub(dy, mean_dy)?);
        self.rms_norm_back_ops(centred, dy, eps)
    }

    /// y = x/D, D = max(‖x‖, ε): dx = (dy − y·Σ(y·dy)·[‖x‖ > ε])/D.
    pub(super) fn l2_norm_back_ops(&mut self, x: Tensor, dy: Tensor, eps: f32) -> Result<Tensor> {
        let square = self.sqr(x)?;
        let square = self.sum_rows(square)?;
        let size = self.sqrt(square)?;
        let floor = self.clamp(size, eps, f32::MAX)?;
        let y = self.div(x, floor)?;
        let along = self.mul(y, dy)?;
        let along = self.sum_rows(along)?;
        let above = self.affine(size, 1.0, -eps)?;
        let above = self.unary(Unary::Step, above)?;
        let along = self.mul(along, above)?;
        let along = self.mul(y, along)?;
        let across = self.sub(dy, along)?;
        self.div(across, floor)
    }

    /// dx = scale·y·(dy − Σ y·dy), from the result y.
    pub(super) fn soft_max_back_ops(&mut self, y: Tensor, dy: Tensor, scale: f32) -> Result<Tensor> {
        let along = self.mul(y, dy)?;
        let along = self.sum_rows(along)?;
        let across = self.sub(dy, along)?;
        let dx = self.mul(y, across)?;
        self.affine(dx, scale, 0.0)
    }
}
