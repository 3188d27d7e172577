//! Central differences.

use super::{Array, Oracle};
use llama_align::ir::ValueId;

/// Step along a direction of length 1: truncation and the rounding of f64 are both near 1e-9 of the loss there.
const STEP: f64 = 1e-5;

/// Slope of a loss along directions of some values.
pub(crate) fn slope(oracle: &Oracle, along: &[(ValueId, &[f64])], loss: &dyn Fn(&mut Oracle) -> f64) -> f64 {
    let moved = |step: f64| {
        let change = |&(id, direction): &(ValueId, &[f64])| {
            let old = oracle.known(id);
            let new = old.slice().iter().zip(direction).map(|(x, d)| x + step * d).collect();
            (id, Array::new(old.ne, new))
        };
        let changes: Vec<_> = along.iter().map(change).collect();
        loss(&mut oracle.with(&changes))
    };
    (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
}
