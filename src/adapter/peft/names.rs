//! Which module is which weight, by architecture.

use crate::error::{Error, Kind, Result};
use crate::gguf::{File, Value};

/// Modules of a block: Hugging Face's and GGUF's names, the same in all families below.
const MODULES: [(&str, &str); 7] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Architectures whose modules are these.
const FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3"];

/// What stands before the number of a block: of a language model, and of one that also sees.
const PREFIXES: [&str; 3] = ["model.layers.", "model.language_model.layers.", "language_model.model.layers."];

/// How a model's weights are called in PEFT's files, and how the rows of its queries and keys lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Query and key heads, where GGUF has the two numbers that are rotated together beside each other (llama) and Hugging Face
    /// half a head apart.
    rotated: Option<[usize; 2]>,
}

impl Names {
    /// Those of a model.
    pub(super) fn of(base: &File) -> Result<Self> {
        let arch = base.architecture()?;
        if !FAMILIES.contains(&arch) {
            let message = format!(
                "{}: PEFT's names for architecture {arch} are not known, only those of {}",
                base.path().display(),
                FAMILIES.join(", ")
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        if arch != "llama" {
            return Ok(Self { rotated: None });
        }
        let heads = |name: &str, otherwise: Option<usize>| -> Result<usize> {
            let key = format!("{arch}.attention.{name}");
            let found = base.get(&key).map(|value| value.as_int().and_then(|n| usize::try_from(n).ok()));
            match (found, otherwise) {
                (Some(Some(n)), _) if n > 0 => Ok(n),
                (None, Some(n)) => Ok(n),
                _ => Err(Error::new(
                    Kind::Unsupported,
                    format!("{}: key {key}: one number for all blocks is needed", base.path().display()),
                )),
            }
        };
        let queries = heads("head_count", None)?;
        Ok(Self { rotated: Some([queries, heads("head_count_kv", Some(queries))?]) })
    }

    /// `blk.3.attn_q.weight` of `model.layers.3.self_attn.q_proj`.
    pub(super) fn weight(module: &str) -> Option<String> {
        let rest = PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix))?;
        let (block, module) = rest.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let (_, name) = MODULES.iter().find(|(peft, _)| *peft == module)?;
        Some(format!("blk.{block}.{name}.weight"))
    }

    /// The inverse: number of the block and the module's name in it.
    pub(super) fn module(weight: &str) -> Option<(usize, &'static str)> {
        let (block, name) = weight.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
        let (module, _) = MODULES.iter().find(|(_, gguf)| *gguf == name)?;
        Some((block.parse().ok()?, module))
    }

    /// The whole path of a module.
    pub(super) fn path(block: usize, module: &str) -> String {
        format!("{}{block}.{module}", PREFIXES[0])
    }

    /// Heads whose rows are in another order in Hugging Face's files.
    fn heads(self, weight: &str) -> Option<usize> {
        let [queries, keys] = self.rotated?;
        match weight.rsplit('.').nth(1) {
            Some("attn_q") => Some(queries),
            Some("attn_k") => Some(keys),
            _ => None,
        }
    }

    /// Rows of B in GGUF's order, from Hugging Face's.
    ///
    /// # Errors
    /// If the heads do not divide the rows into halves.
    pub(super) fn to_gguf(self, weight: &str, b: &[f32], rank: usize) -> Result<Vec<f32>> {
        self.reordered(weight, b, rank, |half, i| (i % half) * 2 + i / half)
    }

    /// The inverse.
    pub(super) fn to_hf(self, weight: &str, b: &[f32], rank: usize) -> Result<Vec<f32>> {
        self.reordered(weight, b, rank, |half, i| (i % 2) * half + i / 2)
    }

    /// `to(half of a head's size, row in a head)` is the row's new place in its head.
    fn reordered(self, weight: &str, b: &[f32], rank: usize, to: impl Fn(usize, usize) -> usize) -> Result<Vec<f32>> {
        let Some(heads) = self.heads(weight) else { return Ok(b.to_vec()) };
        let rows = b.len() / rank.max(1);
        let size = rows / heads;
        if size * heads != rows || !size.is_multiple_of(2) {
            let message = format!("{weight}: {rows} rows are no {heads} heads of even size");
            return Err(Error::new(Kind::Mismatch, message));
        }
        let mut out = vec![0.0; b.len()];
        for (row, values) in b.chunks_exact(rank).enumerate() {
            let at = (row / size) * size + to(size / 2, row % size);
            out[at * rank..(at + 1) * rank].copy_from_slice(values);
        }
        Ok(out)
    }
}

/// Blocks of a model.
pub(super) fn n_blocks(base: &File) -> Option<usize> {
    let key = format!("{}.block_count", base.architecture().ok()?);
    base.get(&key).and_then(Value::as_int).and_then(|n| usize::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        for (module, weight) in [
            ("model.layers.3.self_attn.q_proj", "blk.3.attn_q.weight"),
            ("model.layers.11.mlp.down_proj", "blk.11.ffn_down.weight"),
        ] {
            assert_eq!(Names::weight(module).as_deref(), Some(weight));
            let (block, name) = Names::module(weight).unwrap();
            assert_eq!(Names::path(block, name), module);
        }
        assert_eq!(Names::weight("model.language_model.layers.0.mlp.up_proj").as_deref(), Some("blk.0.ffn_up.weight"));
        for strange in
            ["lm_head", "model.layers.x.mlp.up_proj", "model.layers.1.mlp.router", "vision_tower.layers.1.mlp.up_proj"]
        {
            assert_eq!(Names::weight(strange), None);
        }
        assert!(Names::module("output.weight").is_none() && Names::module("blk.0.attn_qkv.weight").is_none());
    }

    /// Two heads of four rows, rank 1: Hugging Face's (0, 2) and (1, 3) are rotated together.
    #[test]
    fn a_llamas_query_rows_change_places() {
        let llama = Names { rotated: Some([2, 1]) };
        let hf: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let gguf = llama.to_gguf("blk.0.attn_q.weight", &hf, 1).unwrap();
        assert_eq!(gguf, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(llama.to_hf("blk.0.attn_q.weight", &gguf, 1).unwrap(), hf);
        assert_eq!(llama.to_gguf("blk.0.attn_v.weight", &hf, 1).unwrap(), hf);
        // One key head of four rows, rank 2.
        assert_eq!(llama.to_gguf("blk.0.attn_k.weight", &hf, 2).unwrap(), [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert!(llama.to_gguf("blk.0.attn_q.weight", &hf[..6], 1).is_err());
        assert_eq!(Names { rotated: None }.to_gguf("blk.0.attn_q.weight", &hf, 1).unwrap(), hf);
    }
}
