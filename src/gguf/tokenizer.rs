//! The tokenizer's keys. llama.cpp believes most of them, and its tokenizers end the process on what they cannot spell.

use super::{Array, File, Value};
use crate::error::{Error, Kind, Result};
use std::borrow::Cow;
use std::collections::HashSet;

/// Longest token that is believed, in bytes: the loader casts lengths to 32 bits.
const TOKEN_BYTES_MAX: usize = 1 << 16;
/// Tokenizers that are known to spell any text: byte-pair ones, and SentencePiece with a token for every byte.
const TOKENIZERS: [&str; 3] = ["gpt2", "gemma4", "llama"];

/// Checks the lists of tokens, their attributes, the merges and the special tokens.
pub(super) fn validate(file: &File) -> Result<()> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let tokens = match file.get(TOKENS) {
        None => return Err(file.fault(TOKENS, "is missing")),
        Some(Value::Array(Array::String(tokens))) if !tokens.is_empty() => tokens,
        Some(_) => return Err(file.fault(TOKENS, "is no list of texts")),
    };
    let mut seen = HashSet::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(file.fault(TOKENS, &format!("holds a token of {} bytes at {i}", token.len())));
        }
        // As the loader reads them: up to a NUL, and an empty one gets a name.
        let read = match token.split('\0').next().unwrap_or_default() {
            "" => Cow::from(format!("[EMPTY_{i}]")),
            text => Cow::from(text),
        };
        if !seen.insert(read) {
            return Err(file.fault(TOKENS, &format!("holds the token {token:?} twice, at {i} again")));
        }
    }
    spells_any_text(file, &seen)?;
    let n = tokens.len();
    let list = |key: &str, fits: fn(&Array) -> bool| match file.get(key) {
        None => Ok(()),
        Some(Value::Array(a)) if fits(a) && a.len() == n => Ok(()),
        Some(_) => Err(file.fault(key, &format!("is no list of {n} numbers of the right type"))),
    };
    list("tokenizer.ggml.scores", |a| matches!(a, Array::F32(_) | Array::I32(_)))?;
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

/// A SentencePiece tokenizer ends the process at a byte that it has no token for; others do at texts of their own kind.
fn spells_any_text(file: &File, tokens: &HashSet<Cow<str>>) -> Result<()> {
    const MODEL: &str = "tokenizer.ggml.model";
    let Some(model) = file.get(MODEL).and_then(Value::as_str) else {
        return Err(file.fault(MODEL, "is missing or no text"));
    };
    let unsupported = |what: String| Err(Error::new(Kind::Unsupported, format!("{}: {what}", file.path().display())));
    if !TOKENIZERS.contains(&model) {
        return unsupported(format!("key {MODEL} is {model:?}, only {} are supported", TOKENIZERS.join(", ")));
    }
    let lacks = |byte: &u8| {
        let alone = char::from(*byte).to_string();
        !(tokens.contains(format!("<0x{byte:02X}>").as_str()) || (byte.is_ascii() && tokens.contains(alone.as_str())))
    };
    match (0..=u8::MAX).find(lacks) {
        Some(byte) if model == "llama" => unsupported(format!("the tokenizer has no token for the byte 0x{byte:02X}")),
        _ => Ok(()),
    }
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
