//! GPT-2 and its descendants: layer norms, a feed-forward part without a gate, learned, rotary or ALiBi positions.

use super::recipe::{Block, Feed, Head, Norm, Qkv, Recipe, Shape};
use super::weights::{Role, Tensor};
use llama_align::gguf::Value;

pub(super) fn recipes() -> Vec<Recipe> {
    [learned(), rotary(), falcon(), linear_biases()].into_iter().flatten().collect()
}

/// A table of one row per position.
fn positions() -> Vec<Tensor> {
    vec![Tensor::new("position_embd.weight", &[Shape::GROUPED.width, Recipe::CONTEXT], Role::Plain)]
}

fn learned() -> Vec<Recipe> {
    let gpt = |arch, shape| Recipe {
        shape,
        block: Block::GPT,
        head: Head::Tied,
        tensors: positions(),
        ..Recipe::new(arch, "")
    };
    vec![gpt("gpt2", Shape::MULTI), gpt("starcoder", Shape::SINGLE)]
}

fn rotary() -> Vec<Recipe> {
    let split = Block { qkv: Qkv::Split, ..Block::GPT };
    let part_rope = ("rope.dimension_count", Value::U32(8));
    let neox = |variant, parallel| Recipe {
        shape: Shape::MULTI,
        block: Block::GPT,
        keys: vec![part_rope.clone(), ("use_parallel_residual", Value::Bool(parallel))],
        ..Recipe::new("gptneox", variant)
    };
    vec![
        neox("", true),
        neox("serial", false),
        Recipe {
            shape: Shape::MULTI,
            block: Block { norms: &["attn_norm"], ..split },
            head: Head::UntiedBias,
            keys: vec![part_rope.clone()],
            ..Recipe::new("phi2", "")
        },
        Recipe { block: split, head: Head::Tied, ..Recipe::new("starcoder2", "") },
        Recipe { block: Block::GPT, ..Recipe::new("codeshell", "") },
    ]
}

fn falcon() -> Vec<Recipe> {
    let falcon = |variant, norms| Recipe {
        block: Block { norms, qkv_bias: false, out_bias: false, feed_bias: false, ..Block::GPT },
        ..Recipe::new("falcon", variant)
    };
    vec![
        Recipe { shape: Shape::SINGLE, head: Head::Tied, ..falcon("", &["attn_norm"]) },
        falcon("norms", &["attn_norm", "attn_norm_2"]),
    ]
}

/// ALiBi (Press et al. 2021): no position embedding, a slope per head on the attention scores.
fn linear_biases() -> Vec<Recipe> {
    let mpt = Block { norm: Norm::LayerGain, qkv_bias: false, out_bias: false, feed_bias: false, ..Block::GPT };
    let slopes = ("attention.max_alibi_bias", Value::F32(8.0));
    let clamp = ("attention.clamp_kqv", Value::F32(1.5));
    vec![
        Recipe {
            shape: Shape::MULTI,
            block: Block::GPT,
            head: Head::Tied,
            tensors: Norm::Layer.tensors("token_embd_norm", &[Shape::MULTI.width]),
            ..Recipe::new("bloom", "")
        },
        Recipe {
            shape: Shape::MULTI,
            block: mpt,
            head: Head::Tied,
            keys: vec![slopes.clone()],
            ..Recipe::new("mpt", "")
        },
        Recipe { shape: Shape::MULTI, block: mpt, keys: vec![slopes.clone(), clamp], ..Recipe::new("mpt", "clamped") },
        Recipe {
            shape: Shape::MULTI,
            block: Block { feed: Feed::Gated, ..Block::GPT },
            keys: vec![slopes],
            ..Recipe::new("jais", "")
        },
    ]
}
