//! Bad adapter files, and adapters of another base.

use super::image::{Content, Image};
use super::Case;
use llama_align::adapter::{export, Lineage, Linear, Lora};
use llama_align::error::Kind;
use llama_align::gguf::{base_hash, check_fits, validate_adapter, validate_model, Array, File, Value};
use quant::Type;

/// The model they are for.
pub(super) const BASE: &str = "llama-tied";

/// An adapter for two weights of the base, with a fingerprint.
pub(super) fn good(base: &Image) -> Vec<u8> {
    let linear = |name: &str, n_in, n_out| Linear::new(name, n_in, n_out);
    let linears = [linear("blk.0.attn_q.weight", 64, 64), linear("blk.1.ffn_down.weight", 96, 64)];
    let file = File::from_bytes(base.bytes.clone(), "base").unwrap();
    let lineage = Lineage {
        architecture: "llama".into(),
        base_name: Some("tiny".into()),
        base_hash: Some(base_hash(&file)),
        method: "dpo".into(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter.gguf");
    export(&Lora::init(&linears, 4, 8.0, 1), &lineage, &path).unwrap();
    std::fs::read(&path).unwrap()
}

fn rename(content: &mut Content, from: &str, to: &str) {
    content.tensor(from).0 = to.to_owned();
}

/// Gives a factor another shape, filled with zeros.
fn reshape(content: &mut Content, name: &str, ne: &[u64]) {
    let tensor = content.tensor(name);
    (tensor.2, tensor.3) = (ne.to_vec(), vec![0; ne.iter().product::<u64>() as usize * 4]);
}

/// The corpus.
pub(super) fn cases(base: &Image) -> Vec<Case> {
    const A: &str = "blk.0.attn_q.weight.lora_a";
    const B: &str = "blk.0.attn_q.weight.lora_b";
    let adapter = Image::read(good(base));
    let text = |s: &str| Value::String(s.into());
    let format = |what: &str, bytes, says: &str| Case::new(what, bytes, Kind::Format, says);
    let mismatch = |what: &str, bytes, says: &str| Case::new(what, bytes, Kind::Mismatch, says);
    let with = |key: &str, value| adapter.with(key, value);
    let edited = |edit: &dyn Fn(&mut Content)| adapter.edited(edit);
    let alpha = "adapter.lora.alpha";
    let mut cases = vec![
        format("no type", adapter.without("general.type"), "general.type"),
        format("a number as type", with("general.type", Value::U32(1)), "general.type"),
        format("another type", with("general.type", text("model")), "general.type"),
        format("no kind of adapter", adapter.without("adapter.type"), "adapter.type"),
        format("another kind", with("adapter.type", text("ia3")), "adapter.type"),
        format("no alpha", adapter.without(alpha), alpha),
        format("a text as alpha", with(alpha, text("8")), alpha),
        format("alpha in 64 bits", with(alpha, Value::F64(8.0)), alpha),
        format("alpha NaN", with(alpha, Value::F32(f32::NAN)), alpha),
        format("alpha infinite", with(alpha, Value::F32(f32::INFINITY)), alpha),
        format("a number as task", with("adapter.lora.task_name", Value::U32(1)), "adapter.lora.task_name"),
        format("a number as prefix", with("adapter.lora.prompt_prefix", Value::F32(1.0)), "adapter.lora.prompt_prefix"),
        format(
            "invocation tokens as number",
            with("adapter.alora.invocation_tokens", Value::U32(1)),
            "adapter.alora.invocation_tokens",
        ),
        format(
            "signed invocation tokens",
            with("adapter.alora.invocation_tokens", Value::Array(Array::I32(vec![1]))),
            "adapter.alora.invocation_tokens",
        ),
        format("half a pair", edited(&|c| c.tensors.retain(|t| t.0 != B)), "blk.0.attn_q.weight"),
        format("the other half", edited(&|c| c.tensors.retain(|t| t.0 != A)), "blk.0.attn_q.weight"),
        format("no factor at all", edited(&|c| c.tensors.clear()), "without factors"),
        format("a name without an ending", edited(&|c| rename(c, A, "blk.0.attn_q.weight")), "is no factor"),
        format("factors that do not multiply", edited(&|c| reshape(c, B, &[5, 64])), "do not multiply"),
        format("factors of integers", edited(&|c| c.tensor(A).1 = Type::I32), "i32"),
        format("rank 0", adapter.put(adapter.tensor(A).ne_at + 8, &0u64.to_le_bytes()), "dimension of 0"),
        format("data past the end", adapter.bytes[..adapter.bytes.len() - 64].to_vec(), "outside the file"),
        format("a number as architecture", with("general.architecture", Value::U32(1)), "general.architecture"),
        mismatch("another architecture", with("general.architecture", text("qwen2")), "architecture qwen2"),
        mismatch(
            "a weight the base lacks",
            edited(&|c| {
                rename(c, A, "blk.9.attn_q.weight.lora_a");
                rename(c, B, "blk.9.attn_q.weight.lora_b");
            }),
            "blk.9.attn_q.weight",
        ),
        mismatch("a base with longer rows", edited(&|c| reshape(c, A, &[128, 4])), "blk.0.attn_q.weight"),
        mismatch("a base with more rows", edited(&|c| reshape(c, B, &[4, 128])), "blk.0.attn_q.weight"),
        mismatch("another fingerprint", with("llama_align.base_hash", text("00")), "fingerprint"),
    ];
    for at in [0, 3, 8, 20, 23] {
        cases.push(format(&format!("truncated at {at}"), adapter.bytes[..at].to_vec(), ""));
    }
    cases
}

fn verdict(bytes: &[u8], model: &File) -> llama_align::error::Result<()> {
    let file = File::from_bytes(bytes.to_vec(), "bad.gguf")?;
    check_fits(&validate_adapter(&file)?, model)
}

#[test]
fn every_bad_adapter_is_refused_by_name() {
    let base = Image::of(BASE);
    let model = File::from_bytes(base.bytes.clone(), "base").unwrap();
    verdict(&good(&base), &model).unwrap();
    let cases = cases(&base);
    let objections: Vec<_> = cases.iter().filter_map(|c| c.objection("bad.gguf", verdict(&c.bytes, &model))).collect();
    assert!(objections.is_empty(), "{}", objections.join("\n"));
}

#[test]
fn the_fingerprint_tells_bases_of_equal_shapes_apart() {
    let base = Image::of(BASE);
    let adapter = good(&base);
    let other = base.edited(|content| content.tensor("output_norm.weight").3[0] ^= 1);
    let other = File::from_bytes(other, "other").unwrap();
    validate_model(&other).unwrap();
    assert_eq!(verdict(&adapter, &other).unwrap_err().kind(), Kind::Mismatch);
    // A copy with another name and template is the same base.
    let renamed = base.with("general.name", Value::String("else".into()));
    verdict(&adapter, &File::from_bytes(renamed, "renamed").unwrap()).unwrap();
}

#[test]
fn a_zero_alpha_means_no_scaling_and_is_fine() {
    let base = Image::of(BASE);
    let adapter = Image::read(good(&base)).with("adapter.lora.alpha", Value::F32(0.0));
    verdict(&adapter, &File::from_bytes(base.bytes, "base").unwrap()).unwrap();
}
