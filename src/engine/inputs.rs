//! The inputs of a batch: tokens, positions, masks and tables, written where the graphs read them.

use super::dropout::Draws;
use super::layout::{Layout, Span};
use super::lower::Form;
use crate::error::{Error, Kind, Result};
use crate::ir::{Leaf, MaskRule, Program, Value, ValueId};
use crate::runtime::{Memory, Region};
use quant::Type;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The inputs of a batch, placed in a memory.
#[derive(Debug)]
pub struct Inputs {
    pub(super) layout: Arc<Layout>,
    pub(super) leaves: HashMap<ValueId, Region>,
    /// Masks \[keys, queries\] of single groups in F32, by rule and shape; for the form in ops.
    pub(super) masks: HashMap<(MaskKey, GroupKey), Region>,
    /// 0, 1, 2, … up to the rows of the largest weight, to fetch all of its rows by; for the form in ops.
    pub(super) numbers: Option<Region>,
    /// What is dropped, in a step's forward and backward pass only.
    pub(super) draws: Option<Arc<Draws>>,
}

/// What tells mask rules apart.
pub(super) type MaskKey = (usize, bool, u8);

/// What tells groups apart: the sequences' tokens and how many of them are shared, and places with padding.
pub(super) type GroupKey = (Vec<(usize, usize)>, usize);

/// A group's key.
pub(super) fn group_key(group: &[Span], places: usize) -> GroupKey {
    (group.iter().map(|s| (s.len, s.shared)).collect(), places)
}

/// Bytes that [`Inputs::place`] takes for a program and a layout.
pub fn input_bytes(program: &Program, form: Form, layout: &Layout) -> usize {
    let sizes = program.ids().filter_map(|id| leaf_bytes(program.get(id), form, layout.n_tokens()));
    let masks = group_masks(program, form, layout).into_values().map(|(_, _, n)| n * n * 4);
    Memory::bytes_for(sizes.chain(masks).chain([4 * n_numbers(program, form)]))
}

fn leaf_bytes(value: &Value, form: Form, n_tokens: usize) -> Option<usize> {
    let elements = || crate::ir::n_elements(value.ne).map(|e| e.at(n_tokens as i64) as usize);
    match value.leaf()? {
        Leaf::Tokens | Leaf::Positions { .. } | Leaf::Constant(_) | Leaf::Table(_) => Some(elements()? * 4),
        Leaf::Mask(_) => (form == Form::Runtime).then_some(n_tokens * n_tokens * 2),
        Leaf::Weight(_) | Leaf::Param | Leaf::Input => None,
    }
}

/// The masks that the form in ops reads: one for each rule and shape of a group, with an example and its places.
fn group_masks<'a>(
    program: &Program,
    form: Form,
    layout: &'a Layout,
) -> BTreeMap<(MaskKey, GroupKey), (MaskRule, &'a [Span], usize)> {
    let mut masks = BTreeMap::new();
    if form == Form::TrainingOps {
        let rules = program.values.iter().filter_map(|v| match v.leaf() {
            Some(Leaf::Mask(rule)) => Some(*rule),
            _ => None,
        });
        for rule in rules {
            for (group, (_, places)) in layout.groups().zip(layout.extents()) {
                masks.insert((mask_key(rule), group_key(group, places)), (rule, group, places));
            }
        }
    }
    masks
}

/// Rows of the largest matrix that the form in ops decodes.
fn n_numbers(program: &Program, form: Form) -> usize {
    if form != Form::TrainingOps {
        return 0;
    }
    program.weights.iter().filter(|w| w.ty != Type::F32).map(|w| w.ne[1] as usize).max().unwrap_or(0)
}

impl Inputs {
    /// Writes tokens, positions, masks and tables of a batch.
    pub fn place(program: &Program, form: Form, layout: &Arc<Layout>, memory: &mut Memory) -> Result<Self> {
        let n_tokens = layout.n_tokens();
        let positions = layout.positions();
        let mut leaves = HashMap::new();
        let mut packed: BTreeMap<MaskKey, Region> = BTreeMap::new();
        for id in program.ids() {
            let value = program.get(id);
            let Some(bytes) = leaf_bytes(value, form, n_tokens) else { continue };
            let region = match value.leaf() {
                Some(Leaf::Mask(rule)) => match packed.get(&mask_key(*rule)) {
                    Some(&region) => region,
                    None => {
                        let region = memory.take(bytes)?;
                        fill_mask(memory.words_mut(region), *rule, layout);
                        packed.insert(mask_key(*rule), region);
                        region
                    }
                },
                Some(leaf) => {
                    let region = memory.take(bytes)?;
                    fill(memory, region, leaf, layout.tokens(), &positions)?;
                    region
                }
                None => continue,
            };
            leaves.insert(id, region);
        }
        let mut masks = HashMap::new();
        for (key, (rule, group, places)) in group_masks(program, form, layout) {
            let region = memory.take(places * places * 4)?;
            fill_group_mask(memory.floats_mut(region), rule, group, places);
            masks.insert(key, region);
        }
        let numbers = match n_numbers(program, form) {
            0 => None,
            n => {
                let region = memory.take(4 * n)?;
                memory.ints_mut(region).iter_mut().zip(0..).for_each(|(slot, i)| *slot = i);
                Some(region)
            }
        };
        Ok(Self { layout: layout.clone(), leaves, masks, numbers, draws: None })
    }
}

fn fill(memory: &mut Memory, region: Region, leaf: &Leaf, tokens: &[i32], positions: &[i32]) -> Result<()> {
    match leaf {
        Leaf::Tokens => memory.ints_mut(region).copy_from_slice(tokens),
        Leaf::Positions { sections } => {
            let out = memory.ints_mut(region);
            out.fill(0);
            let repeats = if *sections == 1 { 1 } else { sections - 1 };
            for part in out.chunks_exact_mut(positions.len()).take(repeats) {
                part.copy_from_slice(positions);
            }
        }
        Leaf::Constant(c) => memory.floats_mut(region).fill(*c),
        Leaf::Table(table) => {
            for (out, &p) in memory.floats_mut(region).iter_mut().zip(positions) {
                *out = *table.get(p as usize).ok_or_else(|| {
                    let message = format!("position {p} is beyond the {} that the trace saw", table.len());
                    Error::new(Kind::Unsupported, message)
                })?;
            }
        }
        Leaf::Mask(_) | Leaf::Weight(_) | Leaf::Param | Leaf::Input => {}
    }
    Ok(())
}

/// A rule in a form that has an order.
pub(super) fn mask_key(rule: MaskRule) -> MaskKey {
    use crate::ir::Span;
    let (size, kind) = match rule.span {
        Span::Causal => (0, 0),
        Span::Window(w) => (w, 1),
        Span::Chunk(c) => (c, 2),
        Span::Symmetric(w) => (w, 3),
        Span::Full => (0, 4),
    };
    (size, rule.alibi, kind)
}

/// Block-diagonal mask in F16 bits; padding sees itself.
fn fill_mask(words: &mut [u16], rule: MaskRule, layout: &Layout) {
    let n = layout.n_tokens();
    let bits = |x: f32| half::f16::from_f32(x).to_bits();
    words.fill(bits(f32::NEG_INFINITY));
    for i in 0..n {
        words[i * n + i] = bits(0.0);
    }
    for span in layout.spans() {
        for q in span.shared..span.len {
            for k in 0..span.len {
                words[span.place(q) * n + span.place(k)] = bits(rule.entry(q, k));
            }
        }
    }
}

/// Mask of one group with the padding behind it, which sees itself.
fn fill_group_mask(floats: &mut [f32], rule: MaskRule, group: &[Span], places: usize) {
    floats.fill(f32::NEG_INFINITY);
    for i in 0..places {
        floats[i * places + i] = 0.0;
    }
    let first = group[0].start;
    for span in group {
        for q in span.shared..span.len {
            for k in 0..span.len {
                floats[(span.place(q) - first) * places + span.place(k) - first] = rule.entry(q, k);
            }
        }
    }
}
