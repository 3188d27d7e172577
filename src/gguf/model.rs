//! What a model file must hold so that llama.cpp's loader neither aborts nor reads outside its buffers
//! (specs: ecosystem, D1).

use super::{hparams, tokenizer, File, Value};
use crate::error::{Error, Kind, Result};
use quant::Type;

/// Longest chat template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// Checks keys whose types and ranges the loader takes for granted.
pub fn validate_model(file: &File) -> Result<()> {
    let fail = |kind: Kind, what: String| Err(Error::new(kind, format!("{}: {what}", file.path().display())));
    if file.get("general.type").and_then(Value::as_str) == Some("adapter") {
        return fail(Kind::Mismatch, "this is an adapter, not a model".to_owned());
    }
    hparams::validate(file)?;
    if let Some(tensor) = file.tensors().iter().find(|t| !holds_weights(t.ty)) {
        return fail(
            Kind::Unsupported,
            format!("tensor {}: llama.cpp cannot multiply weights of type {}", tensor.name, tensor.ty.name()),
        );
    }
    if let Some(value) = file.get("tokenizer.chat_template") {
        if value.as_str().is_none_or(|t| t.len() > TEMPLATE_BYTES_MAX) {
            return Err(
                file.fault("tokenizer.chat_template", &format!("is no text of at most {TEMPLATE_BYTES_MAX} bytes"))
            );
        }
    }
    if file.get("split.count").and_then(Value::as_int).is_some_and(|n| n > 1) && file.paths().len() == 1 {
        return fail(Kind::Unsupported, "one file of a split model".to_owned());
    }
    tokenizer::validate(file)
}

/// True for types that ggml multiplies by; the others are indices, or what it rounds activations to.
pub(super) fn holds_weights(ty: Type) -> bool {
    !matches!(ty, Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::F64 | Type::Q8_1 | Type::Q8_K)
}

/// A fingerprint of a model: blake3 over the names, types, shapes and bytes of its tensors, in the file's order.
/// Metadata is left out, so that a renamed or re-described copy stays the same base.
pub fn base_hash(file: &File) -> String {
    file.hash_or(|| {
        digest(file, |hasher, bytes| {
            hasher.update(bytes);
        })
    })
}

/// The same by the threads of a pool.
pub(crate) fn hash_on(file: &File, pool: &rayon::ThreadPool) -> String {
    let by_all = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
        hasher.update_rayon(bytes);
    };
    file.hash_or(|| pool.install(|| digest(file, by_all)))
}

/// Bytes that are hashed before their pages are given back.
const PIECE: usize = 1 << 23;

fn digest(file: &File, update: impl Fn(&mut blake3::Hasher, &[u8])) -> String {
    let mut hasher = blake3::Hasher::new();
    for tensor in file.tensors() {
        hasher.update(tensor.name.as_bytes());
        hasher.update(&tensor.ty.id().to_le_bytes());
        tensor.ne.iter().for_each(|n| {
            hasher.update(&n.to_le_bytes());
        });
        for (i, piece) in file.data(tensor).chunks(PIECE).enumerate() {
            update(&mut hasher, piece);
            file.release_range(tensor, i * PIECE..(i + 1) * PIECE);
        }
    }
    hasher.finalize().to_hex().to_string()
}
