//! Where the tensors of the output come from: block by block where slices stack them, as they are otherwise.

use super::{Recipe, Slice};
use crate::error::{Error, Kind, Result};
use crate::gguf::{Array, File, Header, Value, BLOCKS_MAX};
use crate::merge::compat::{match_names, match_tensors, Matched, HEAD};
use std::collections::BTreeSet;

/// A tensor of the output, its sources in the slice's order, and its place.
pub(super) struct Part<'a> {
    pub(super) matched: Matched<'a>,
    pub(super) slice: usize,
    /// How far through the slice, 0 to 1; 0 outside the blocks.
    pub(super) t: f64,
}

/// Blocks of every source that become one block.
struct Block {
    slice: usize,
    t: f64,
    /// The block in every source of the slice.
    layers: Vec<u64>,
}

impl Recipe {
    /// The tensors of the output. `file` finds a model's file.
    pub(super) fn parts<'a>(&self, file: &dyn Fn(&str) -> &'a File) -> Result<Vec<Part<'a>>> {
        let files_of = |slice: &Slice| slice.sources.iter().map(|source| file(&source.model)).collect::<Vec<_>>();
        if self.whole {
            let files = files_of(&self.slices[0]);
            let last = block_count(files[0])?.max(2) - 1;
            let part = |matched: Matched<'a>| {
                let t = block_of(&matched.name).map_or(0.0, |block| (block as f64 / last as f64).min(1.0));
                Part { matched, slice: 0, t }
            };
            return Ok(match_tensors(&files)?.into_iter().map(part).collect());
        }
        let (first, last) = (0, self.slices.len() - 1);
        let (before, after) = (files_of(&self.slices[first]), files_of(&self.slices[last]));
        let mut parts = around(&before, first, |name| !name.starts_with("output"))?;
        for (n, block) in self.blocks(file)?.iter().enumerate() {
            let files = files_of(&self.slices[block.slice]);
            for matched in match_block(&files, &block.layers, n)? {
                parts.push(Part { matched, slice: block.slice, t: block.t });
            }
        }
        parts.extend(around(&after, last, |name| name.starts_with("output"))?);
        Ok(parts)
    }

    /// The blocks of the output, in order.
    fn blocks<'a>(&self, file: &dyn Fn(&str) -> &'a File) -> Result<Vec<Block>> {
        let mut blocks = Vec::new();
        for (index, slice) in self.slices.iter().enumerate() {
            let mut ranges = Vec::new();
            for source in &slice.sources {
                let count = block_count(file(&source.model))?;
                let (from, to) = source.layers.unwrap_or((0, count));
                if from >= to || to > count {
                    let what = format!("layer_range [{from}, {to}] of {}, which has {count} blocks", source.model);
                    return Err(self.refuse(format!("slices[{index}]: {what}")));
                }
                ranges.push((from, to - from));
            }
            let n = ranges[0].1;
            if let Some((i, (_, other))) = ranges.iter().enumerate().find(|(_, (_, length))| *length != n) {
                let what = format!("{} has {other} blocks, {} has {n}", slice.sources[i].model, slice.sources[0].model);
                return Err(self.refuse(format!("slices[{index}]: {what}")));
            }
            if blocks.len() as u64 + n > BLOCKS_MAX as u64 {
                let what =
                    format!("slices[{index}] would be more than {BLOCKS_MAX} blocks, which llama.cpp has room for");
                return Err(self.refuse(what));
            }
            blocks.extend((0..n).map(|k| Block {
                slice: index,
                t: k as f64 / (n.max(2) - 1) as f64,
                layers: ranges.iter().map(|(from, _)| from + k).collect(),
            }));
        }
        Ok(blocks)
    }

    /// Adapts the keys that tell of blocks: their number, and lists with one entry per block.
    pub(super) fn restack<'a>(&self, header: &mut Header, file: &dyn Fn(&str) -> &'a File) -> Result<()> {
        if self.whole {
            return Ok(());
        }
        let blocks = self.blocks(file)?;
        let first = file(&self.slices[0].sources[0].model);
        let prefix = format!("{}.", first.architecture()?);
        let count = block_count(first)?;
        let moved = blocks.iter().enumerate().any(|(n, b)| b.layers.iter().any(|l| *l != n as u64));
        let moved = moved || blocks.len() as u64 != count;
        let keys: Vec<String> = first.keys().map(|(key, _)| key.to_owned()).collect();
        for key in keys.iter().filter(|key| key.starts_with(&prefix)) {
            let Some(value) = first.get(key) else { continue };
            // Numbers that say which blocks are of another kind.
            let counts_from_an_end =
                key.ends_with("leading_dense_block_count") || key.ends_with("nextn_predict_layers");
            let every = key.ends_with("_interval") || key.ends_with("_step") || key.ends_with("sliding_window_pattern");
            let tells = (counts_from_an_end && value.as_int() != Some(0)) || (every && value.as_int().is_some());
            if moved && tells {
                let what = format!("key {key} tells blocks apart by their number: slices would make it wrong");
                return Err(Error::new(Kind::Unsupported, format!("{}: {what}", first.path().display())));
            }
            let Value::Array(list) = value else { continue };
            if list.len() as u64 == count {
                header.set(key, Value::Array(self.gathered(key, &blocks, file)?));
            }
        }
        header.set(&format!("{prefix}block_count"), Value::U32(blocks.len() as u32));
        if blocks.len() as u64 != count {
            // It told of the first model's size.
            header.remove(|key| key == "general.size_label");
        }
        Ok(())
    }

    /// A list with one entry per block, for the blocks of the output; sources of a block have to agree.
    fn gathered<'a>(&self, key: &str, blocks: &[Block], file: &dyn Fn(&str) -> &'a File) -> Result<Array> {
        let mut entries = Vec::new();
        for block in blocks {
            let mut of_block: Option<Array> = None;
            for (source, &layer) in self.slices[block.slice].sources.iter().zip(&block.layers) {
                let found = match file(&source.model).get(key) {
                    Some(Value::Array(list)) => list.entry(layer as usize),
                    _ => None,
                };
                let differs = |what: &str| {
                    let message = format!("{}: key {key} {what} for block {layer}", source.model);
                    Err(Error::new(Kind::Mismatch, message))
                };
                match (&of_block, found) {
                    (_, None) => return differs("has no entry"),
                    (None, entry) => of_block = entry,
                    (Some(first), Some(entry)) if *first != entry => return differs("differs from the first model's"),
                    _ => {}
                }
            }
            entries.extend(of_block);
        }
        let message = || Error::new(Kind::Mismatch, format!("key {key} has entries of several types"));
        Array::concatenated(&entries).ok_or_else(message)
    }
}

/// The number of blocks.
pub(crate) fn block_count(file: &File) -> Result<u64> {
    let key = format!("{}.block_count", file.architecture()?);
    let count = file.get(&key).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
    count.ok_or_else(|| Error::new(Kind::Format, format!("{}: key {key} is missing", file.path().display())))
}

/// The block that a tensor belongs to.
fn block_of(tensor: &str) -> Option<u64> {
    tensor.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// What lies outside the blocks, on one side of them.
fn around<'a>(files: &[&'a File], slice: usize, wanted: impl Fn(&str) -> bool) -> Result<Vec<Part<'a>>> {
    let outside = |file: &'a File| {
        let names = file.tensors().iter().map(|t| t.name.as_str());
        names.filter(|name| !name.starts_with("blk.") && wanted(name)).collect::<BTreeSet<&str>>()
    };
    let ours = outside(files[0]);
    let mut names: Vec<&str> =
        files[0].tensors().iter().map(|t| t.name.as_str()).filter(|n| ours.contains(n)).collect();
    for file in &files[1..] {
        for name in outside(file).into_iter().filter(|name| !ours.contains(name)) {
            if name == HEAD && !names.contains(&HEAD) {
                names.push(name);
            } else if name != HEAD {
                let message =
                    format!("{}: tensor {name} is missing in {}", file.path().display(), files[0].path().display());
                return Err(Error::new(Kind::Mismatch, message));
            }
        }
    }
    let part = |name: &str| {
        let matched = match_names(name, &files.iter().map(|file| (*file, name.to_owned())).collect::<Vec<_>>())?;
        Ok(Part { matched, slice, t: 0.0 })
    };
    names.into_iter().map(part).collect()
}

/// The tensors of block `n` of the output.
fn match_block<'a>(files: &[&'a File], layers: &[u64], n: usize) -> Result<Vec<Matched<'a>>> {
    let parts_of = |file: &'a File, layer: u64| -> Vec<&'a str> {
        let prefix = format!("blk.{layer}.");
        file.tensors().iter().filter_map(|t| t.name.strip_prefix(&prefix)).collect()
    };
    let ours = parts_of(files[0], layers[0]);
    for (file, &layer) in files.iter().zip(layers).skip(1) {
        if let Some(more) = parts_of(file, layer).iter().find(|part| !ours.contains(part)) {
            let (path, first) = (file.path().display(), files[0].path().display());
            let message = format!("{path}: tensor blk.{layer}.{more} is missing in {first}, block {}", layers[0]);
            return Err(Error::new(Kind::Mismatch, message));
        }
    }
    let matched = |part: &&str| {
        let names: Vec<_> = files.iter().zip(layers).map(|(f, layer)| (*f, format!("blk.{layer}.{part}"))).collect();
        match_names(&format!("blk.{n}.{part}"), &names)
    };
    ours.iter().map(matched).collect()
}
