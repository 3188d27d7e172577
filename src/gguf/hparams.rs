//! The keys of an architecture: types, ranges, and how they must agree. llama.cpp takes most of this for granted, and
//! fails an assertion, or a thread of a running graph does, where it does not hold.

use super::{Array, File, Value};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;

/// Most blocks, and most experts, that llama.cpp has room for.
pub(crate) const BLOCKS_MAX: i128 = 512;
const EXPERTS_MAX: i128 = 1024;
/// Widest sliding window, in tokens: a window is verified past its end, which takes the square of it in bytes.
const WINDOW_MAX: i128 = 1 << 14;
/// No size of a model is larger.
const SIZE_MAX: i128 = 1 << 24;
/// How RoPE may be stretched.
const SCALING_TYPES: [&str; 4] = ["none", "linear", "yarn", "longrope"];

/// The keys of the file's own architecture.
struct Keys<'a> {
    file: &'a File,
    architecture: &'a str,
}

/// Checks every key of the architecture that the loader or the graph relies on.
pub(super) fn validate(file: &File) -> Result<()> {
    let keys = Keys { file, architecture: file.architecture()? };
    keys.sizes()?;
    keys.numbers()?;
    keys.heads()?;
    keys.attention()?;
    keys.experts()
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.file.get(&self.name(key))
    }

    fn fault(&self, key: &str, what: &str) -> Error {
        self.file.fault(&self.name(key), what)
    }

    /// One number for all blocks, or one per block; `None` where the key is missing.
    fn integers(&self, key: &str) -> Result<Option<Vec<i128>>> {
        Ok(match self.get(key) {
            None => None,
            Some(Value::Array(Array::U32(v))) => Some(v.iter().map(|&n| n.into()).collect()),
            Some(Value::Array(Array::I32(v))) => Some(v.iter().map(|&n| n.into()).collect()),
            Some(value) => Some(vec![value.as_int().ok_or_else(|| self.fault(key, "is no integer"))?]),
        })
    }

    /// The one number, where there is exactly one.
    fn integer(&self, key: &str) -> Result<Option<i128>> {
        Ok(self.integers(key)?.filter(|v| v.len() == 1).and_then(|v| v.first().copied()))
    }

    fn within(&self, key: &str, min: i128, max: i128) -> Result<()> {
        let values = self.integers(key)?.unwrap_or_default();
        // A block of its own may go without heads or without a feed-forward part.
        let min = if values.len() > 1 { 0 } else { min };
        match values.iter().find(|&&n| n > max || n < min) {
            Some(n) => Err(self.fault(key, &format!("is {n}, outside {min} to {max}"))),
            None => Ok(()),
        }
    }

    fn sizes(&self) -> Result<()> {
        for (key, max) in [("block_count", BLOCKS_MAX), ("embedding_length", SIZE_MAX), ("context_length", 1 << 31)] {
            if self.get(key).is_none() {
                return Err(self.fault(key, "is missing"));
            }
            self.within(key, 1, max)?;
        }
        for key in ["feed_forward_length", "attention.head_count", "attention.head_count_kv", "rope.dimension_count"] {
            self.within(key, 1, SIZE_MAX)?;
        }
        for key in
            ["attention.key_length", "attention.value_length", "attention.key_length_swa", "rope.dimension_count_swa"]
        {
            self.within(key, 1, SIZE_MAX)?;
        }
        // llama.cpp adds tokens to it in 32 bits.
        self.within("attention.sliding_window", 0, 1 << 30)?;
        let context = self.integer("context_length")?.unwrap_or(0);
        match self.integer("attention.sliding_window")? {
            Some(window) if window > WINDOW_MAX && window < context => {
                let what = format!(
                    "key {} is {window}: a window wider than {WINDOW_MAX} tokens",
                    self.name("attention.sliding_window")
                );
                Err(Error::new(Kind::Unsupported, format!("{}: {what} cannot be verified", self.file.path().display())))
            }
            _ => Ok(()),
        }
    }

    fn numbers(&self) -> Result<()> {
        let prefix = self.name("");
        for (key, value) in self.file.keys().filter(|(key, _)| key.starts_with(&prefix)) {
            let finite = match value {
                Value::F32(v) => v.is_finite(),
                Value::F64(v) => v.is_finite(),
                Value::Array(Array::F32(v)) => v.iter().all(|v| v.is_finite()),
                _ => true,
            };
            if !finite {
                return Err(self.file.fault(key, "is NaN or infinite"));
            }
        }
        for key in [
            "attention.layer_norm_rms_epsilon",
            "attention.layer_norm_epsilon",
            "rope.freq_base",
            "rope.scaling.factor",
        ] {
            let Some(value) = self.get(key) else { continue };
            let zero_too = !key.contains("freq_base");
            if !value.as_f32().is_some_and(|v| v > 0.0 || (zero_too && v == 0.0)) {
                return Err(self.fault(key, &format!("is {value:?}, not a positive 32-bit number")));
            }
        }
        match self.get("rope.scaling.type") {
            Some(value) if value.as_str().is_none_or(|text| !SCALING_TYPES.contains(&text)) => {
                Err(self.fault("rope.scaling.type", &format!("is {value:?}, none of {}", SCALING_TYPES.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// Key and value heads are shared by whole groups of query heads; RoPE turns pairs within a head.
    fn heads(&self) -> Result<()> {
        let heads = self.integer("attention.head_count")?;
        if let (Some(q), Some(kv)) = (heads, self.integer("attention.head_count_kv")?) {
            if q % kv.max(1) != 0 {
                return Err(self.fault("attention.head_count_kv", &format!("is {kv}, which does not divide {q} heads")));
            }
        }
        let width = self.integer("embedding_length")?.unwrap_or(0);
        let derived = heads.map(|n| width / n.max(1));
        let head = self.integer("attention.key_length")?.or(derived);
        let head_swa = self.integer("attention.key_length_swa")?.or(head);
        for (key, head) in [("rope.dimension_count", head), ("rope.dimension_count_swa", head_swa)] {
            let turned = self.integer(key)?;
            let (Some(n), Some(head)) = (turned, head) else { continue };
            if n % 2 != 0 || n > head {
                return Err(self.fault(key, &format!("is {n}, no even part of heads of {head}")));
            }
        }
        Ok(())
    }

    /// A block that attends has heads, and a weight that makes its queries: the loader takes both as given in some
    /// architectures, divides by the one and reads the other.
    fn attention(&self) -> Result<()> {
        let heads = self.integers("attention.head_count")?.unwrap_or_default();
        let kv_heads = self.integers("attention.head_count_kv")?.unwrap_or_default();
        let of_block = |list: &[i128], block: usize| {
            if list.len() == 1 {
                list.first().copied()
            } else {
                list.get(block).copied()
            }
        };
        let queries = |name: &str| name.starts_with("attn_q") && name.ends_with(".weight") && !name.contains("norm");
        let parts = self.file.tensors().iter().filter_map(|t| {
            let (block, part) = t.name.strip_prefix("blk.")?.split_once('.')?;
            Some((block.parse::<usize>().ok()?, part))
        });
        let parts: Vec<_> = parts.collect();
        let with_queries: BTreeSet<_> =
            parts.iter().filter(|(_, part)| queries(part)).map(|(block, _)| *block).collect();
        for &(block, _) in parts.iter().filter(|(_, part)| *part == "attn_output.weight") {
            if of_block(&heads, block).unwrap_or(0) == 0 {
                let what = format!("is 0 or missing for block {block}, which has attention weights");
                return Err(self.fault("attention.head_count", &what));
            }
            match (with_queries.contains(&block), of_block(&kv_heads, block) == Some(0)) {
                (true, true) => {
                    let what = format!("is 0 for block {block}, which has attention weights");
                    return Err(self.fault("attention.head_count_kv", &what));
                }
                // Without keys and queries an output alone is a linear layer in place of attention.
                (true, false) | (false, true) => {}
                (false, false) => {
                    let what =
                        format!("tensor blk.{block}.attn_output.weight has no weight beside it that makes queries");
                    return Err(Error::new(Kind::Format, format!("{}: {what}", self.file.path().display())));
                }
            }
        }
        Ok(())
    }

    fn experts(&self) -> Result<()> {
        self.within("expert_count", 0, EXPERTS_MAX)?;
        self.within("expert_used_count", 0, EXPERTS_MAX)?;
        let n = self.integer("expert_count")?.unwrap_or(0);
        let used = self.integers("expert_used_count")?.unwrap_or_default().into_iter().max().unwrap_or(0);
        if used > n || (n > 1 && used == 0) {
            return Err(self.fault("expert_used_count", &format!("is {used} of {n} experts")));
        }
        let groups = self.integer("expert_group_count")?.unwrap_or(0);
        if groups > 0 && (groups >= n || n % groups != 0) {
            return Err(self.fault("expert_group_count", &format!("is {groups}, which does not divide {n} experts")));
        }
        let used_groups = self.integer("expert_group_used_count")?.unwrap_or(0);
        if groups > 1 && !(1..groups).contains(&used_groups) {
            return Err(self.fault("expert_group_used_count", &format!("is {used_groups} of {groups} groups")));
        }
        let (blocks, next) =
            (self.integer("block_count")?.unwrap_or(0), self.integer("nextn_predict_layers")?.unwrap_or(0));
        if !(0..blocks).contains(&next) {
            return Err(self.fault("nextn_predict_layers", &format!("is {next} of {blocks} blocks")));
        }
        Ok(())
    }
}
