//! How a mask is spread over a model.

use super::Mask;
use std::collections::BTreeMap;

/// What a mask leaves free of some tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Rows, columns, weights or tensors that are free.
    pub count: u64,
    /// Of how many.
    pub n: u64,
    /// Weights that are free.
    pub weights: u64,
    /// Of how many.
    pub n_weights: u64,
}

impl Share {
    /// Takes another one's tensors in.
    pub fn add(&mut self, other: &Self) {
        (self.count, self.n) = (self.count + other.count, self.n + other.n);
        (self.weights, self.n_weights) = (self.weights + other.weights, self.n_weights + other.n_weights);
    }

    /// Free weights per weight.
    pub fn ratio(&self) -> f64 {
        self.weights as f64 / self.n_weights.max(1) as f64
    }
}

/// Shares by block and module, such as `(Some(3), "attn_q")`; the block is `None` for tensors outside of blocks.
pub fn shares(mask: &Mask) -> BTreeMap<(Option<usize>, String), Share> {
    let mut shares: BTreeMap<_, Share> = BTreeMap::new();
    for tensor in mask.tensors() {
        let name = tensor.shape.name.trim_end_matches(".weight");
        let in_block = name.strip_prefix("blk.").and_then(|rest| {
            let (block, module) = rest.split_once('.')?;
            Some((block.parse().ok()?, module))
        });
        let (block, module) = in_block.map_or((None, name), |(block, module)| (Some(block), module));
        let share = shares.entry((block, module.to_owned())).or_default();
        share.count += tensor.bits.count() as u64;
        share.n += tensor.bits.len() as u64;
        share.weights += tensor.n_weights(mask.granularity());
        share.n_weights += (tensor.shape.n_in * tensor.shape.n_out) as u64;
    }
    shares
}
