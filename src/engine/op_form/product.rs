//! Products: the runtime's own forward, and transposed ones with a weight that is decoded where it lies (specs: vjp 3).

use crate::engine::lower::Lowering;
use crate::error::Result;
use crate::ir::{Leaf, Value, ValueId, WeightId};
use crate::runtime::Tensor;
use quant::Type;

/// Bytes of F32 that a weight is decoded into at a time.
const DECODED_BYTES: i64 = 128 << 20;
/// Rows that one GET_ROWS may fetch: some backends count them in 16 bits.
const ROWS_MAX: i64 = 32 << 10;

impl Lowering<'_, '_> {
    /// The runtime's product, asked to sum in F32; activations lie densely, because some backends would round them else.
    pub(super) fn product_ops(&mut self, value: &Value) -> Result<Tensor> {
        let (a, b) = (self.tensor(value.src(0))?, self.tensor(value.src(1))?);
        let b = match self.program.get(value.src(1)).ty {
            Type::F32 => self.contiguous(b)?,
            _ => b,
        };
        self.product(a, b)
    }

    /// Wᵀ·dy for a frozen weight or a factor: decoded, transposed, multiplied, in chunks of rows.
    pub(super) fn linear_back_ops(&mut self, id: ValueId, value: &Value) -> Result<Tensor> {
        let dy = self.tensor(value.src(1))?;
        let dy = self.contiguous(dy)?;
        let matrix = self.tensor(value.src(0))?;
        let weight = match self.program.get(value.src(0)).leaf() {
            Some(Leaf::Weight(w)) => *w,
            _ => {
                let turned = self.transposed(matrix)?;
                return self.product(turned, dy);
            }
        };
        let [n_in, n_out, ..] = self.program.weight(weight).ne;
        let rows = (DECODED_BYTES / (4 * n_in)).clamp(1, ROWS_MAX).min(n_out);
        let (dy_ne, dy_nb) = (self.builder.ne(dy), self.builder.nb(dy));
        let mut sum = None;
        for first in (0..n_out).step_by(rows as usize) {
            let n = rows.min(n_out - first);
            let decoded = self.decoded(id, weight, matrix, first, n)?;
            let turned = self.transposed(decoded)?;
            let mut part = dy;
            if n < n_out {
                let ne = [n, dy_ne[1], dy_ne[2], dy_ne[3]];
                part = self.part(dy, Type::F32, ne, dy_nb, first as usize * 4)?;
                part = self.contiguous(part)?;
            }
            let product = self.product(turned, part)?;
            sum = Some(match sum {
                Some(sum) => self.add(sum, product)?,
                None => product,
            });
        }
        sum.ok_or_else(|| self.refuse(id, "a weight without rows"))
    }

    /// Rows `first..first + n` of a weight in F32, decoded on the device that it lies on where that can be.
    fn decoded(&mut self, id: ValueId, weight: WeightId, matrix: Tensor, first: i64, n: i64) -> Result<Tensor> {
        let info = self.program.weight(weight);
        let (ty, ne, nb) = (info.ty, [info.ne[0], n, 1, 1], self.builder.nb(matrix));
        if ty == Type::F32 {
            return self.part(matrix, ty, ne, nb, first as usize * nb[1]);
        }
        let numbers = self.inputs.numbers.ok_or_else(|| self.refuse(id, "no row numbers were placed"))?;
        let all = self.builder.leaf(Type::I32, [first + n, 1, 1, 1], numbers.head((first + n) as usize * 4))?;
        let wanted = match first {
            0 => all,
            _ => self.part(
                all,
                Type::I32,
                [n, 1, 1, 1],
                [4, n as usize * 4, n as usize * 4, n as usize * 4],
                first as usize * 4,
            )?,
        };
        let gathered = self.spec("GET_ROWS", Type::F32, ne, vec![Some(matrix), Some(wanted)])?;
        if self.builder.supports(&gathered)? {
            return self.builder.node(&gathered);
        }
        let rows = self.part(matrix, ty, ne, nb, first as usize * nb[1])?;
        let mut cast = self.spec("CPY", Type::F32, ne, vec![Some(rows)])?;
        cast.is_cast = true;
        if self.builder.supports(&cast)? {
            return self.builder.node(&cast);
        }
        // Neither: the scheduler takes it to the CPU, and the tally says so.
        self.builder.node(&gathered)
    }

    /// a [K, M], b [R, M] → Σ_m a[k, m]·b[r, m] as [K, R]; M is the product of all outer axes.
    pub(super) fn outer_sum_ops(&mut self, a: Tensor, b: Tensor) -> Result<Tensor> {
        let mut turned = [a, b];
        for x in &mut turned {
            let [n, rest @ ..] = self.builder.ne(*x);
            let flat = self.shaped(*x, [n, rest.iter().product(), 1, 1])?;
            *x = self.transposed(flat)?;
        }
        self.product(turned[0], turned[1])
    }
}
