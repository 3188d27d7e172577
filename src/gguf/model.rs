//! What a model file must hold so that llama.cpp's loader neither aborts nor reads outside its buffers
//! (specs: ecosystem, D1).

use super::{Array, File, Value};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;

/// Longest token that is believed, in bytes: the loader casts lengths to 32 bits.
const TOKEN_BYTES_MAX: usize = 1 << 16;
/// Longest chat template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Most blocks that are believed.
const BLOCKS_MAX: i128 = 10_000;

/// Checks keys whose types and ranges the loader takes for granted.
pub fn validate_model(file: &File) -> Result<()> {
    let architecture = file.architecture()?.to_owned();
    if file.get("general.type").and_then(Value::as_str) == Some("adapter") {
        return Err(Error::new(Kind::Mismatch, format!("{}: this is an adapter, not a model", file.path().display())));
    }
    let key = |name: &str| format!("{architecture}.{name}");
    for (name, max) in [("block_count", BLOCKS_MAX), ("embedding_length", 1 << 24), ("context_length", 1 << 40)] {
        positive(file, &key(name), max, true)?;
    }
    for name in ["feed_forward_length", "attention.head_count", "attention.head_count_kv", "rope.dimension_count"] {
        positive(file, &key(name), 1 << 24, false)?;
    }
    for name in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base"] {
        if let Some(value) = file.get(&key(name)) {
            let good = value.as_f32().is_some_and(|v| v.is_finite() && v >= 0.0 && (v > 0.0 || !name.contains("freq_base")));
            if !good {
                return Err(file.fault(&key(name), &format!("is {value:?}, not a positive 32-bit number")));
            }
        }
    }
    if let Some(value) = file.get("tokenizer.chat_template") {
        if value.as_str().is_none_or(|t| t.len() > TEMPLATE_BYTES_MAX) {
            return Err(file.fault("tokenizer.chat_template", &format!("is no text of at most {TEMPLATE_BYTES_MAX} bytes")));
        }
    }
    if file.get("split.count").and_then(Value::as_int).is_some_and(|n| n > 1) {
        let message = format!("{}: one part of a split model; join the parts first", file.path().display());
        return Err(Error::new(Kind::Unsupported, message));
    }
    tokenizer(file)
}

fn positive(file: &File, key: &str, max: i128, required: bool) -> Result<()> {
    let values: Vec<i128> = match file.get(key) {
        None if required => return Err(file.fault(key, "is missing")),
        None => return Ok(()),
        // Some architectures give one number per block.
        Some(Value::Array(Array::U32(v))) => v.iter().map(|&n| n.into()).collect(),
        Some(Value::Array(Array::I32(v))) => v.iter().map(|&n| n.into()).collect(),
        Some(value) => vec![value.as_int().ok_or_else(|| file.fault(key, "is no integer"))?],
    };
    let per_block = values.len() > 1;
    match values.iter().find(|&&n| n > max || n < i128::from(!per_block)) {
        Some(n) => Err(file.fault(key, &format!("is {n}, outside 1 to {max}"))),
        None => Ok(()),
    }
}

fn tokenizer(file: &File) -> Result<()> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let tokens = match file.get(TOKENS) {
        None => return Err(file.fault(TOKENS, "is missing")),
        Some(Value::Array(Array::String(tokens))) if !tokens.is_empty() => tokens,
        Some(_) => return Err(file.fault(TOKENS, "is no list of texts")),
    };
    let mut seen = BTreeSet::new();
    for (i, token) in tokens.iter().enumerate() {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(file.fault(TOKENS, &format!("holds a token of {} bytes at {i}", token.len())));
        }
        if !seen.insert(token) {
            return Err(file.fault(TOKENS, &format!("holds the token {token:?} twice, at {i} again")));
        }
    }
    let n = tokens.len();
    let list = |key: &str, fits: fn(&Array) -> bool| match file.get(key) {
        None => Ok(()),
        Some(Value::Array(a)) if fits(a) && a.len() == n => Ok(()),
        Some(_) => Err(file.fault(key, &format!("is no list of {n} numbers of the right type"))),
    };
    list("tokenizer.ggml.scores", |a| matches!(a, Array::F32(_)))?;
    list("tokenizer.ggml.token_type", |a| matches!(a, Array::I32(_)))?;
    match file.get("tokenizer.ggml.merges") {
        None => {}
        Some(Value::Array(Array::String(merges))) => {
            if let Some(bad) = merges.iter().find(|m| m.char_indices().skip(1).all(|(_, c)| c != ' ')) {
                return Err(file.fault("tokenizer.ggml.merges", &format!("holds {bad:?}, which joins nothing")));
            }
        }
        Some(_) => return Err(file.fault("tokenizer.ggml.merges", "is no list of texts")),
    }
    special_tokens(file, n)
}

fn special_tokens(file: &File, n: usize) -> Result<()> {
    for name in ["bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "cls", "mask"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match file.get(&key) {
            None => {}
            Some(Value::U32(id)) if (*id as usize) < n => {}
            Some(other) => return Err(file.fault(&key, &format!("is {other:?}, not one of {n} tokens"))),
        }
    }
    for name in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        let key = format!("tokenizer.ggml.{name}");
        if file.get(&key).is_some_and(|v| v.as_bool().is_none()) {
            return Err(file.fault(&key, "is no truth value"));
        }
    }
    let adds_bos = file.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool) == Some(true);
    // Tokenizers other than byte-pair ones have a default BOS.
    let byte_pairs = file.get("tokenizer.ggml.model").and_then(Value::as_str) == Some("gpt2");
    if adds_bos && byte_pairs && file.get("tokenizer.ggml.bos_token_id").is_none() && n <= 11 {
        return Err(file.fault("tokenizer.ggml.add_bos_token", "is set, but there is no BOS token"));
    }
    Ok(())
}

/// A fingerprint of a model: blake3 over the names, types, shapes and bytes of its tensors, in the file's order.
/// Metadata is left out, so that a renamed or re-described copy stays the same base.
pub fn base_hash(file: &File) -> String {
    let mut hasher = blake3::Hasher::new();
    for tensor in file.tensors() {
        hasher.update(tensor.name.as_bytes());
        hasher.update(&tensor.ty.id().to_le_bytes());
        tensor.ne.iter().for_each(|n| {
            hasher.update(&n.to_le_bytes());
        });
        hasher.update(file.data(tensor));
    }
    hasher.finalize().to_hex().to_string()
}
