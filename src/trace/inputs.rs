//! What each input of the graph means, told by its content: names are not unique (specs: tracing, 1.5 and 1.6).

use super::Capture;
use crate::ir::{Leaf, MaskRule};
use crate::runtime::{RawKind, RawNode};
use quant::Type;

/// The meaning of an input.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// A leaf of the program.
    Leaf(Leaf),
    /// Which rows get logits: all of them, in order.
    OutputRows,
    /// Only the cache needs it.
    CacheIndex,
    /// A context state that does not pass between tokens of one batch through attention.
    State,
}

fn ints(data: &[u8]) -> Vec<i32> {
    data.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn floats(node: &RawNode, data: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; (node.ne.iter().product::<i64>()).max(0) as usize];
    if quant::dequantize_row(node.ty, data, &mut out).is_err() {
        out.clear();
    }
    out
}

/// What input or state `i` of the capture at the first token count means. `probe` starts at position 0 and is longer than any
/// sliding window. Only what the logits depend on may be asked for: a graph has branches that a batch of tokens does not take,
/// and nobody fills in their inputs.
pub(super) fn meaning(fit: &Capture, probe: &Capture, i: usize) -> Option<Meaning> {
    let node = &fit.nodes[i];
    match &node.kind {
        RawKind::Input(data) => match node.ty {
            Type::I64 => Some(Meaning::CacheIndex),
            Type::I32 => integers(fit, &ints(data)),
            Type::F32 | Type::F16 => reals(fit, probe, i, data),
            _ => None,
        },
        RawKind::State => Some(Meaning::State),
        RawKind::Node(_) | RawKind::Weight(_) => None,
    }
}

fn integers(fit: &Capture, data: &[i32]) -> Option<Meaning> {
    let n = fit.n_tokens();
    let position = |i: usize| (fit.position + i) as i32;
    if data == fit.tokens {
        return Some(Meaning::Leaf(Leaf::Tokens));
    }
    if data.len() == n && (0..n).all(|i| data[i] == position(i)) {
        return Some(Meaning::Leaf(Leaf::Positions { sections: 1 }));
    }
    if data.len() == 4 * n && (0..3 * n).all(|i| data[i] == position(i % n)) && data[3 * n..].iter().all(|&p| p == 0) {
        return Some(Meaning::Leaf(Leaf::Positions { sections: 4 }));
    }
    if data.len() == n && (0..n).all(|i| data[i] == i as i32) {
        return Some(Meaning::OutputRows);
    }
    None
}

fn reals(fit: &Capture, probe: &Capture, i: usize, data: &[u8]) -> Option<Meaning> {
    let node = &fit.nodes[i];
    let seen = floats(node, data);
    let probed_node = probe.nodes.get(i)?;
    let RawKind::Input(probed_data) = &probed_node.kind else { return None };
    let probed = floats(probed_node, probed_data);
    let first = *seen.first()?;
    if first.is_finite() && seen.iter().chain(&probed).all(|&x| x == first) {
        return Some(Meaning::Leaf(Leaf::Constant(first)));
    }
    if seen.len() == fit.n_tokens() && probed.len() == probe.n_tokens() {
        return Some(Meaning::Leaf(Leaf::Table(probed)));
    }
    let (n_keys, n_queries) = (probed_node.ne[0] as usize, probe.n_tokens());
    let rows = probed.len().checked_div(n_keys)?;
    if rows < n_queries {
        return None;
    }
    MaskRule::fit(&probed, n_keys, n_queries).map(|rule| Meaning::Leaf(Leaf::Mask(rule)))
}
