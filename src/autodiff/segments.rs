//! Cutting a program into blocks, so that a block's inside can be recomputed when its gradient is due.
//!
//! A cut may lie anywhere; it is right everywhere and cheap where little is alive. It is placed, between the last use of
//! one block's weights and the first use of the next one's, where the fewest bytes per token cross (specs: vjp, section 11).

use crate::error::{Error, Kind, Result};
use crate::ir::{Leaf, Op, Program, Sym, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// A stretch of the program between two cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of the model's block, `None` for the head.
    pub layer: Option<usize>,
    /// Values computed in earlier segments that this one reads, without weights and other leaves.
    pub reads: Vec<ValueId>,
    /// Values computed here that later segments read.
    pub writes: Vec<ValueId>,
}

/// All segments in order; the last one is the head: everything after the last block.
#[derive(Clone, Debug)]
pub struct Segments {
    /// The blocks.
    pub blocks: Vec<Segment>,
    /// From the last block's results to the logits.
    pub head: Segment,
}

/// The block a weight belongs to: `blk.3.attn_q.weight` gives 3.
pub fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

impl Segments {
    /// Cuts the values up to `logits`.
    pub fn cut(program: &Program, logits: ValueId) -> Result<Self> {
        let n = logits.0 as usize + 1;
        let cuts = cut_positions(program, n);
        if cuts.is_empty() {
            let message =
                format!("architecture {}: no block's weights are on the way to the logits", program.architecture);
            return Err(Error::new(Kind::Unsupported, message));
        }
        let segment_of = |v: ValueId| cuts.iter().take_while(|(at, _)| v.0 as usize >= *at).count();
        let n_segments = cuts.len() + 1;
        let mut reads = vec![BTreeSet::new(); n_segments];
        let mut writes = vec![BTreeSet::new(); n_segments];
        for id in (0..n as u32).map(ValueId) {
            let segment = segment_of(id);
            for source in program.get(id).sources().iter().flatten() {
                let root = program.root(*source);
                if program.get(root).leaf().is_none() && segment_of(root) < segment {
                    reads[segment].insert(root);
                    writes[segment_of(root)].insert(root);
                }
            }
        }
        let make = |k: usize, layer: Option<usize>| Segment {
            layer,
            reads: reads[k].iter().copied().collect(),
            writes: writes[k].iter().copied().collect(),
        };
        let blocks = cuts.iter().enumerate().map(|(k, (_, layer))| make(k, Some(*layer))).collect();
        let mut head = make(cuts.len(), None);
        head.writes = vec![logits];
        let segments = Self { blocks, head };
        segments.check_head(program, &cuts, n)?;
        Ok(segments)
    }

    /// The head runs on gathered tokens, so nothing in it may look at other tokens or at positions.
    fn check_head(&self, program: &Program, cuts: &[(usize, usize)], n: usize) -> Result<()> {
        let start = cuts.last().map_or(0, |c| c.0);
        for id in (start..n).map(|i| ValueId(i as u32)) {
            let value = program.get(id);
            let looks_around = matches!(value.op(), Some(Op::Attention | Op::Rope));
            let placed = value.sources().iter().flatten().any(|s| {
                matches!(
                    program.get(*s).leaf(),
                    Some(Leaf::Tokens | Leaf::Positions { .. } | Leaf::Mask(_) | Leaf::Table(_))
                )
            });
            if looks_around || placed {
                return Err(super::refuse(program, id, "the head depends on a token's neighbours or position"));
            }
        }
        for &id in &self.head.reads {
            if token_axis(program, id).is_none() {
                return Err(super::refuse(program, id, "the head reads a value without a token per row"));
            }
        }
        Ok(())
    }
}

/// Elements per token of a value whose outermost axis is the token axis.
pub(crate) fn token_axis(program: &Program, id: ValueId) -> Option<usize> {
    let value = program.get(id);
    let axis = value.ne.iter().rposition(|&n| n != Sym::fixed(1))?;
    let inner = value.ne[..axis].iter().all(|n| n.is_fixed());
    let per_token = value.ne[axis] == Sym::per_token(1);
    (inner && per_token && value.is_contiguous()).then(|| value.ne[..axis].iter().map(|n| n.a as usize).product())
}

/// Where each block ends: `(first value of the next segment, layer)`.
fn cut_positions(program: &Program, n: usize) -> Vec<(usize, usize)> {
    // First and last direct use of each block's weights, and first use of any other weight after the last block.
    let mut uses: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for i in 0..n {
        for source in program.values[i].sources().iter().flatten() {
            let layer = program.as_weight(program.root(*source)).and_then(|w| layer_of(&program.weight(w).name));
            if let Some(layer) = layer {
                let range = uses.entry(layer).or_insert((i, i));
                range.0 = range.0.min(i);
                range.1 = range.1.max(i);
            }
        }
    }
    let alive = live_bytes(program, n);
    let layers: Vec<_> = uses.into_iter().collect();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for (k, &(layer, (_, last))) in layers.iter().enumerate() {
        let end = layers.get(k + 1).map_or(n - 1, |(_, (first, _))| *first);
        // Blocks whose weights interleave form one segment.
        let interleaved = layers[k + 1..].iter().any(|(_, (first, _))| *first <= last);
        if interleaved || end <= last {
            continue;
        }
        let at = (last + 1..=end).min_by_key(|&at| (alive[at], at)).unwrap_or(end);
        if cuts.last().is_none_or(|&(previous, _)| previous < at) {
            cuts.push((at, layer));
        }
    }
    cuts
}

/// For each position, the bytes per token of what is computed before it and read at or after it.
fn live_bytes(program: &Program, n: usize) -> Vec<i64> {
    let mut last_use = vec![0usize; n];
    for i in 0..n {
        for source in program.values[i].sources().iter().flatten() {
            let root = program.root(*source).0 as usize;
            last_use[root] = last_use[root].max(i);
        }
    }
    let mut change = vec![0i64; n + 2];
    for (i, value) in program.values[..n].iter().enumerate() {
        let is_view = value.op().is_some_and(Op::is_view);
        if value.leaf().is_none() && !is_view && last_use[i] > i {
            let bytes = crate::ir::n_elements(value.ne).map_or(i64::MAX / 4096, |e| (e.a + e.b) * 4);
            change[i + 1] += bytes;
            change[last_use[i] + 1] -= bytes;
        }
    }
    let mut alive = 0;
    change
        .iter()
        .map(|c| {
            alive += c;
            alive
        })
        .take(n)
        .collect()
}
