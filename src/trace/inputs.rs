//! What each input of the graph means, told by its content: names are not unique (specs: tracing, 1.5 and 1.6).

use super::Capture;
use crate::error::{Error, Kind, Result};
use crate::ir::{Leaf, MaskRule};
use crate::runtime::{RawKind, RawNode};
use quant::Type;
use std::collections::BTreeMap;

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

/// Classifies every input and state of the capture at the first token count. `probe` starts at position 0 and is longer
/// than any sliding window.
pub(super) fn classify(fit: &Capture, probe: &Capture, architecture: &str) -> Result<BTreeMap<usize, Meaning>> {
    let mut meanings = BTreeMap::new();
    for (i, node) in fit.nodes.iter().enumerate() {
        let meaning = match &node.kind {
            RawKind::Input(data) => match node.ty {
                Type::I64 => Some(Meaning::CacheIndex),
                Type::I32 => integers(fit, &ints(data)),
                Type::F32 | Type::F16 => reals(fit, probe, i, data),
                _ => None,
            },
            RawKind::State => Some(Meaning::State),
            RawKind::Node(_) | RawKind::Weight(_) => continue,
        };
        if let Some(meaning) = meaning {
            meanings.insert(i, meaning);
        }
    }
    if meanings.is_empty() {
        let message = format!("architecture {architecture}: its graph has no inputs that can be recognised");
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(meanings)
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
