//! Mixtures of experts, and one recurrent model, which a trainer of attention models has to refuse.

use super::block::{MIXER_CONV, MIXER_RANK, MIXER_STATE};
use super::recipe::{Block, Feed, Head, QkNorm, Recipe, Shape};
use super::weights::{Role, Tensor};
use llama_align::gguf::Value;

pub(super) fn recipes() -> Vec<Recipe> {
    let mut all = mixtures();
    all.push(mamba());
    all
}

fn mixtures() -> Vec<Recipe> {
    let experts = Block { feed: Feed::Experts, ..Block::LLAMA };
    let gpt_oss = Block {
        norms: &["attn_norm", "post_attention_norm"],
        qkv_bias: true,
        out_bias: true,
        feed_bias: true,
        sinks: true,
        ..experts
    };
    let width = ("expert_feed_forward_length", Value::U32(Shape::GROUPED.ff as u32));
    vec![
        Recipe { block: experts, ..Recipe::new("llama", "experts") },
        Recipe {
            block: Block { qk_norm: QkNorm::Head, ..experts },
            shape: Shape::WIDE,
            keys: vec![width.clone()],
            ..Recipe::new("qwen3moe", "")
        },
        Recipe { block: Block { qk_norm: QkNorm::Whole, ..experts }, shape: Shape::MULTI, ..Recipe::new("olmoe", "") },
        Recipe {
            block: Block { qkv_bias: true, ..experts },
            keys: vec![width.clone(), ("expert_shared_feed_forward_length", width.1.clone())],
            tensors: shared_expert(&Shape::GROUPED),
            ..Recipe::new("qwen2moe", "")
        },
        Recipe { block: gpt_oss, window: Some(16), keys: vec![width], ..Recipe::new("gpt-oss", "") },
    ]
}

/// The expert that every token passes, weighed by a sigmoid gate of its own.
fn shared_expert(shape: &Shape) -> Vec<Tensor> {
    let layer = |layer: usize| {
        let at = |name: &str| format!("blk.{layer}.{name}_shexp.weight");
        [
            Tensor::new(at("ffn_gate_inp"), &[shape.width], Role::Plain),
            Tensor::new(at("ffn_gate"), &[shape.width, shape.ff], Role::Matrix),
            Tensor::new(at("ffn_up"), &[shape.width, shape.ff], Role::Matrix),
            Tensor::new(at("ffn_down"), &[shape.ff, shape.width], Role::Matrix),
        ]
    };
    (0..shape.layers).flat_map(layer).collect()
}

/// Mamba (Gu and Dao 2023).
fn mamba() -> Recipe {
    let size = |n: usize| Value::U32(n as u32);
    Recipe {
        block: Block { norms: &["attn_norm"], feed: Feed::Mixer, ..Block::LLAMA },
        head: Head::Tied,
        keys: vec![
            ("ssm.conv_kernel", size(MIXER_CONV)),
            ("ssm.inner_size", size(2 * Shape::GROUPED.width)),
            ("ssm.state_size", size(MIXER_STATE)),
            ("ssm.time_step_rank", size(MIXER_RANK)),
        ],
        ..Recipe::new("mamba", "")
    }
}
