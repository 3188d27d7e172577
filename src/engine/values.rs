//! What blocks leave, for whoever compares two forms: each block on its own, from values of the other form.

use super::inputs::Inputs;
use super::layout::Layout;
use super::session::{Batch, Engine};
use crate::error::Result;
use crate::ir::ValueId;
use crate::runtime::Region;
use std::collections::HashMap;
use std::sync::Arc;

/// What blocks write, and what their routers choose by: values on the packed axis by id.
pub type BlockValues = std::collections::BTreeMap<ValueId, Vec<f32>>;

impl Engine {
    /// What every block writes for a batch, and the values that its routers order experts by. With `reads`, each block starts from
    /// those values instead of its predecessor's, so that no difference is carried from block to block, and its routers choose as
    /// those values say: where two experts are nearly alike, the last bit of a sum would choose another one.
    pub fn block_values(&mut self, layout: &Layout, reads: Option<&BlockValues>) -> Result<BlockValues> {
        self.check_tokens(layout.tokens())?;
        let n = layout.n_tokens();
        // An order and what it is made of.
        let orders = self.plan.blocks.iter().flat_map(|b| &b.orders).map(|&id| 2 * self.region_bytes(id, n)).sum();
        self.reserve(layout, n, true, orders)?;
        let inputs = Inputs::place(&self.adapted.program, self.form, &Arc::new(layout.clone()), &mut self.memory)?;
        let mut kept = self.placed_parameters();
        let mut out = BlockValues::new();
        for k in 0..self.plan.blocks.len() {
            let mut given = kept.clone();
            let routers = self.routers(k);
            for &(order, by) in &routers {
                if let Some(values) = reads.and_then(|r| r.get(&by)) {
                    given.insert(order, self.ordered(order, values, n)?);
                }
            }
            let writes = self.plan.blocks[k].writes.clone();
            let outputs: Vec<_> = routers.iter().map(|&(_, by)| by).chain(writes.iter().copied()).collect();
            let regions = outputs.iter().map(|&w| self.memory.take(self.bytes(w, n))).collect::<Result<Vec<_>>>()?;
            self.graph(&inputs, &given, n, outputs.iter().copied().zip(regions.iter().copied()))?;
            for (&value, &region) in outputs.iter().zip(&regions) {
                out.insert(value, self.memory.floats(region).to_vec());
                if !writes.contains(&value) {
                    continue;
                }
                if let Some(values) = reads.and_then(|r| r.get(&value)) {
                    self.memory.floats_mut(region).copy_from_slice(values);
                }
                kept.insert(value, region);
            }
        }
        let layout = Arc::new(layout.clone());
        self.batch = Some(Batch { inputs, layout, kept, rows: Vec::new(), units: Vec::new() });
        Ok(out)
    }

    /// What each block leaves last: the residual stream.
    pub fn block_results(&self) -> Vec<ValueId> {
        self.plan.blocks.iter().filter_map(|b| b.writes.last().copied()).collect()
    }

    /// The orders that a block's routers make, each with what it is made of.
    fn routers(&self, k: usize) -> Vec<(ValueId, ValueId)> {
        let program = &self.adapted.program;
        self.plan.blocks[k].orders.iter().map(|&order| (order, program.get(order).src(0))).collect()
    }

    /// An order made of other values: the numbers of a row's entries, as the runtime's `ARGSORT` gives them.
    fn ordered(&mut self, order: ValueId, values: &[f32], n_tokens: usize) -> Result<Region> {
        let region = self.memory.take(self.bytes(order, n_tokens))?;
        let value = self.adapted.program.get(order);
        let (n_experts, descending) = (value.ne[0].at(n_tokens as i64) as usize, value.params[0] == 1);
        let rows = self.memory.ints_mut(region).chunks_exact_mut(n_experts);
        for (numbers, row) in rows.zip(values.chunks_exact(n_experts)) {
            numbers.iter_mut().zip(0..).for_each(|(number, i)| *number = i);
            numbers.sort_by(|&a, &b| {
                let order = row[a as usize].total_cmp(&row[b as usize]);
                if descending {
                    order.reverse()
                } else {
                    order
                }
            });
        }
        Ok(region)
    }

    /// Where the parameters lie.
    pub(super) fn placed_parameters(&self) -> HashMap<ValueId, Region> {
        self.adapted.parameters.iter().zip(&self.parameters).map(|(p, &r)| (p.value, r)).collect()
    }
}
