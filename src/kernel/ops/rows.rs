//! Ops that work row by row.

use super::Matrix;
use crate::runtime::{Call, Kernel};

/// Calls `body(row number, source row, result row)` for every row of the result, rows shared out in equal parts.
pub fn per_row(body: impl Fn(usize, &[f32], &mut [f32]) + Send + Sync + 'static) -> Kernel {
    Box::new(move |call: &Call| {
        let (x, y) = (Matrix::of(call.src(0))?, Matrix::of(call.dst())?);
        // A result of one row holds one entry per source row.
        let (len, n) = if y.n == x.n { (y.len, y.n) } else { (y.len * y.n / x.n.max(1), x.n) };
        for i in (call.ith * n / call.nth)..((call.ith + 1) * n / call.nth) {
            // SAFETY: row i of operands of a running graph; no other thread touches this row of the result.
            unsafe {
                let source = std::slice::from_raw_parts(x.data.add(i * x.stride), x.len);
                body(i, source, std::slice::from_raw_parts_mut(y.data.add(i * len), len));
            }
        }
        Ok(())
    })
}
