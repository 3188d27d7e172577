//! Sums over what a broadcast operand mapped to, and cotangents put back where views looked (specs: vjp 1 and 8).

use crate::engine::lower::Lowering;
use crate::error::Result;
use crate::ir::{Placement, ValueId};
use crate::runtime::Tensor;
use quant::Type;

impl Lowering<'_, '_> {
    /// z summed over everything that a tiled operand of shape `ne` mapped to.
    pub(super) fn sum_to_ops(&mut self, z: Tensor, ne: [i64; 4]) -> Result<Tensor> {
        let mut sum = z;
        // A vector added to every row: one transpose, one sum.
        let z_ne = self.builder.ne(z);
        if ne == [z_ne[0], 1, 1, 1] {
            let rows = z_ne[1] * z_ne[2] * z_ne[3];
            sum = self.shaped(sum, [z_ne[0], rows, 1, 1])?;
            sum = self.transposed(sum)?;
            sum = self.sum_rows(sum)?;
            return self.shaped(sum, ne);
        }
        for axis in 0..4 {
            let from = self.builder.ne(sum);
            if from[axis] == ne[axis] {
                continue;
            }
            sum = if ne[axis] == 1 { self.sum_axis(sum, axis)? } else { self.sum_tiles(sum, axis, ne[axis])? };
        }
        Ok(sum)
    }

    /// The sum over one axis.
    fn sum_axis(&mut self, x: Tensor, axis: usize) -> Result<Tensor> {
        if axis == 0 {
            return self.sum_rows(x);
        }
        // Axis 0 and this one change places, and back.
        let mut axes = [0, 1, 2, 3];
        axes.swap(0, axis);
        let turned = self.turned(x, axes)?;
        let sum = self.sum_rows(turned)?;
        self.turned(sum, axes)
    }

    /// The sum of the tiles of length `n` along one axis.
    fn sum_tiles(&mut self, x: Tensor, axis: usize, n: i64) -> Result<Tensor> {
        let (mut ne, nb) = (self.builder.ne(x), self.builder.nb(x));
        let tiles = ne[axis] / n;
        ne[axis] = n;
        let mut sum = None;
        for tile in 0..tiles {
            let part = self.part(x, Type::F32, ne, nb, (tile * n) as usize * nb[axis])?;
            let part = self.contiguous(part)?;
            sum = Some(match sum {
                Some(sum) => self.add(sum, part)?,
                None => part,
            });
        }
        sum.map_or(Ok(x), Ok)
    }

    /// Zeros of the parent's shape with every part added at its place.
    pub(super) fn scatter_ops(
        &mut self,
        id: ValueId,
        ne: [i64; 4],
        placements: &[Placement],
        parts: &[Tensor],
    ) -> Result<Tensor> {
        let n_tokens = self.n_tokens as i64;
        let mut whole = self.zeros(ne)?;
        for (place, &part) in placements.iter().zip(parts) {
            let bytes = |elements: crate::ir::Sym| i32::try_from(4 * elements.at(n_tokens));
            let [first, rest @ ..] = place.stride;
            let found = (bytes(rest[0]), bytes(rest[1]), bytes(rest[2]), bytes(place.offset));
            let (Ok(nb1), Ok(nb2), Ok(nb3), Ok(offset)) = found else {
                return Err(self.refuse(id, "a view's place in its parent lies beyond 2 GiB"));
            };
            if first.at(n_tokens) != 1 {
                return Err(self.refuse(id, "a view with gaps between elements has no gradient in ops of the runtime"));
            }
            let mut params = [0; 16];
            params[..4].copy_from_slice(&[nb1, nb2, nb3, offset]);
            whole = self.op("ACC", ne, &[Some(whole), Some(part)], params)?;
        }
        Ok(whole)
    }
}
