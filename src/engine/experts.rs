//! What the training forms lower products with chosen matrices to.

use super::lower::{Form, Lowering};
use super::profile::Phase;
use crate::error::Result;
use crate::ir::{Leaf, Value, ValueId};
use crate::kernel::{ops, Arithmetic, Side};
use crate::runtime::Tensor;

impl Lowering<'_, '_> {
    /// A product with chosen matrices, forward or back to the rows: sources are the matrices, the rows and the choices.
    pub(super) fn routed(&mut self, id: ValueId, value: &Value, side: Side) -> Result<Tensor> {
        let [matrices, rows, choices] = [0, 1, 2].map(|i| value.src(i));
        let arithmetic = if self.form == Form::TrainingBf16 { Arithmetic::Brain } else { Arithmetic::Float };
        let mut src = Vec::with_capacity(3);
        let source = match (self.program.get(matrices).leaf(), self.program.as_weight(matrices)) {
            (Some(Leaf::Param), _) => {
                src.push(self.tensor(matrices)?);
                ops::StackSource::Source
            }
            (_, Some(weight)) => {
                let data = self.weights[weight.0 as usize];
                let data = data.ok_or_else(|| self.refuse(id, "its weight cannot be read"))?;
                ops::frozen_stack(self.program.weight(weight), &data)?
            }
            _ => return Err(self.refuse(id, "a product with chosen matrices that are computed")),
        };
        src.extend([self.tensor(rows)?, self.tensor(choices)?]);
        let ne = self.ne(value);
        let flops = 2 * ne.iter().product::<i64>() as u64 * self.ne(self.program.get(rows))[0] as u64;
        self.own(Phase::Products, flops, ne, &src, ops::routed(source, side, arithmetic))
    }
}
