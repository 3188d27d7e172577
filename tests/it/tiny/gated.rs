//! Llama and its relatives: RMS or layer norms, mostly a gated feed-forward part; some with windowed attention.

use super::block::{LATENT, LATENT_HEAD, LATENT_ROPE};
use super::recipe::{Block, Feed, Head, Norm, QkNorm, Qkv, Recipe, Shape};
use super::weights::{Role, Tensor};
use llama_align::gguf::{Array, Value};

/// Norms before and after each part.
const SANDWICH: Block =
    Block { norms: &["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"], ..Block::LLAMA };

pub(super) fn recipes() -> Vec<Recipe> {
    [llama(), qwen(), relatives(), scaled(), gemma(), windowed(), layer_normed(), unusual()]
        .into_iter()
        .flatten()
        .collect()
}

fn llama() -> Vec<Recipe> {
    let factors = Tensor::new("rope_freqs.weight", &[Shape::GROUPED.head / 2], Role::Factors);
    let all_biases = Block { qkv_bias: true, out_bias: true, feed_bias: true, ..Block::LLAMA };
    vec![
        Recipe { head: Head::Tied, shape: Shape::MULTI, ..Recipe::new("llama", "tied") },
        Recipe::new("llama", "untied"),
        Recipe { shape: Shape { head: 32, ..Shape::SINGLE }, ..Recipe::new("llama", "multiquery") },
        Recipe { tensors: vec![factors], ..Recipe::new("llama", "factors") },
        Recipe { keys: yarn(), ..Recipe::new("llama", "yarn") },
        Recipe { block: all_biases, ..Recipe::new("llama", "biases") },
        Recipe {
            shape: Shape { layers: 3, width: 128, head: 32, ff: 128, ..Shape::GROUPED },
            head: Head::Tied,
            ..Recipe::new("llama", "deep")
        },
    ]
}

/// YaRN (Peng et al. 2023) stretching 128 positions fourfold.
fn yarn() -> Vec<(&'static str, Value)> {
    vec![
        ("rope.scaling.type", Value::String("yarn".into())),
        ("rope.scaling.factor", Value::F32(4.0)),
        ("rope.scaling.original_context_length", Value::U32(128)),
    ]
}

fn qwen() -> Vec<Recipe> {
    let biased = Block { qkv_bias: true, ..Block::LLAMA };
    let normed = Block { qk_norm: QkNorm::Head, ..Block::LLAMA };
    // Qwen's feed_forward_length counts gate and up together: the matrices have half of it.
    let both = vec![("feed_forward_length", Value::U32(2 * Shape::MULTI.ff as u32))];
    let fused = Block { qkv: Qkv::Fused, ..biased };
    // Rotations by time, height and width, which are equal in text.
    let sections = vec![("rope.dimension_sections", Value::Array(Array::I32(vec![2, 3, 3, 0])))];
    vec![
        Recipe { shape: Shape::MULTI, block: fused, keys: both, ..Recipe::new("qwen", "") },
        Recipe { block: biased, head: Head::Tied, ..Recipe::new("qwen2", "") },
        Recipe { block: biased, keys: sections, ..Recipe::new("qwen2vl", "") },
        Recipe { block: normed, shape: Shape::WIDE, head: Head::Tied, ..Recipe::new("qwen3", "") },
        Recipe { block: normed, ..Recipe::new("hunyuan-dense", "") },
    ]
}

fn relatives() -> Vec<Recipe> {
    let post_norms = Block { norms: &["post_attention_norm", "post_ffw_norm"], ..Block::LLAMA };
    let fused_up = Block { feed: Feed::GateUp, ..Block::LLAMA };
    let seed_norms = &["attn_norm", "post_attention_norm"];
    let half_rope = vec![("rope.dimension_count", Value::U32(8))];
    let layers = |layers| Shape { layers, ..Shape::GROUPED };
    vec![
        Recipe { block: Block { qkv: Qkv::Fused, ..Block::LLAMA }, ..Recipe::new("internlm2", "") },
        Recipe { head: Head::Tied, ..Recipe::new("exaone", "") },
        Recipe { block: Block { qk_norm: QkNorm::Head, ..post_norms }, ..Recipe::new("exaone4", "") },
        // Every fourth layer goes without RoPE.
        Recipe { shape: layers(4), head: Head::Tied, ..Recipe::new("smollm3", "") },
        // llama.cpp takes the position encoding from the layer count: 32 mean RoPE, two mean none.
        Recipe::new("baichuan", ""),
        Recipe { shape: Shape { ff: 32, ..layers(32) }, ..Recipe::new("baichuan", "rope") },
        Recipe { shape: Shape::MULTI, ..Recipe::new("xverse", "") },
        Recipe { head: Head::Tied, ..Recipe::new("ernie4_5", "") },
        Recipe { block: Block { qk_norm: QkNorm::Whole, ..post_norms }, ..Recipe::new("olmo2", "") },
        Recipe {
            block: Block { norms: seed_norms, qkv_bias: true, ..Block::LLAMA },
            shape: Shape::WIDE,
            ..Recipe::new("seed_oss", "")
        },
        Recipe { block: Block { qkv_bias: true, ..fused_up }, keys: half_rope.clone(), ..Recipe::new("chatglm", "") },
        Recipe { block: Block { feed: Feed::GateUp, ..SANDWICH }, keys: half_rope, ..Recipe::new("glm4", "") },
    ]
}

fn scaled() -> Vec<Recipe> {
    let granite = vec![
        ("embedding_scale", Value::F32(4.0)),
        ("residual_scale", Value::F32(0.5)),
        ("attention.scale", Value::F32(0.2)),
        ("logit_scale", Value::F32(1.5)),
    ];
    let minicpm = vec![
        ("embedding_scale", Value::F32(3.0)),
        ("residual_scale", Value::F32(0.75)),
        ("logit_scale", Value::F32(0.8)),
    ];
    vec![
        Recipe { keys: granite, head: Head::Tied, ..Recipe::new("granite", "") },
        Recipe { keys: minicpm, ..Recipe::new("minicpm", "") },
    ]
}

/// The Gemmas, of which the second and third have layers that look back over a window only.
fn gemma() -> Vec<Recipe> {
    let gemma =
        |arch, block| Recipe { shape: Shape::WIDE, head: Head::Tied, add_bos: true, block, ..Recipe::new(arch, "") };
    vec![
        Recipe { shape: Shape { head: 32, ..Shape::SINGLE }, ..gemma("gemma", Block::LLAMA) },
        Recipe {
            window: Some(48),
            // Low enough for the caps to bend what random weights produce.
            keys: vec![("attn_logit_softcapping", Value::F32(3.0)), ("final_logit_softcapping", Value::F32(2.5))],
            ..gemma("gemma2", SANDWICH)
        },
        Recipe {
            window: Some(32),
            shape: Shape { layers: 3, ..Shape::WIDE },
            keys: vec![
                ("attention.sliding_window_pattern", Value::U32(2)),
                ("rope.freq_base", Value::F32(1e6)),
                ("rope.freq_base_swa", Value::F32(1e4)),
            ],
            ..gemma("gemma3", Block { qk_norm: QkNorm::Head, ..SANDWICH })
        },
    ]
}

/// Other models with windows. A pattern of `n` makes every `n`-th layer look back over everything.
fn windowed() -> Vec<Recipe> {
    let pattern = |n| ("attention.sliding_window_pattern", Value::U32(n));
    vec![
        Recipe {
            window: Some(40),
            block: Block { norm: Norm::LayerGain, norms: &["attn_norm"], ..Block::LLAMA },
            head: Head::Tied,
            keys: vec![pattern(2), ("logit_scale", Value::F32(0.5))],
            ..Recipe::new("cohere2", "")
        },
        Recipe {
            window: Some(24),
            block: Block { norms: &["post_attention_norm", "post_ffw_norm"], qk_norm: QkNorm::Whole, ..Block::LLAMA },
            keys: vec![pattern(2)],
            ..Recipe::new("olmo2", "window")
        },
    ]
}

fn layer_normed() -> Vec<Recipe> {
    let layer = Block { norm: Norm::Layer, ..Block::LLAMA };
    let gain = Block { norm: Norm::LayerGain, norms: &["attn_norm"], ..Block::LLAMA };
    let bare = Block { norm: Norm::Bare, norms: &[], ..Block::LLAMA };
    let parallel = Block { norms: &["attn_norm"], qk_norm: QkNorm::EachHead, ..layer };
    let part_rope = vec![("rope.dimension_count", Value::U32(8))];
    let clamp = vec![("attention.clamp_kqv", Value::F32(1.5))];
    let logits = vec![("logit_scale", Value::F32(0.5))];
    vec![
        Recipe { block: layer, ..Recipe::new("orion", "") },
        Recipe { block: layer, keys: part_rope.clone(), ..Recipe::new("stablelm", "") },
        Recipe { block: parallel, keys: part_rope.clone(), ..Recipe::new("stablelm", "parallel") },
        Recipe { block: gain, keys: logits, head: Head::Tied, ..Recipe::new("command-r", "") },
        Recipe { block: bare, head: Head::Tied, ..Recipe::new("olmo", "") },
        Recipe { block: bare, keys: clamp, ..Recipe::new("olmo", "clamped") },
        Recipe {
            block: Block { feed: Feed::Plain, out_bias: true, feed_bias: true, ..layer },
            keys: part_rope,
            ..Recipe::new("nemotron", "")
        },
    ]
}

/// What the families above do not have: squared ReLU and xIELU without a gate, attention and feed-forward part side by
/// side, ALiBi, latent attention, and Phi-3's choice of factors: the long ones in a context of more than 256 positions.
fn unusual() -> Vec<Recipe> {
    let plain = Block { feed: Feed::Plain, ..Block::LLAMA };
    let pairs = Shape::GROUPED.head / 2;
    let per_layer = |a: f32, b: f32| Value::Array(Array::F32(vec![a, b]));
    vec![
        Recipe { block: plain, head: Head::Tied, ..Recipe::new("arcee", "") },
        Recipe {
            block: Block { qk_norm: QkNorm::Head, ..plain },
            general: vec![
                ("xielu.alpha_n", per_layer(0.8, 1.1)),
                ("xielu.alpha_p", per_layer(0.9, 0.6)),
                ("xielu.beta", per_layer(0.5, 0.4)),
                ("xielu.eps", per_layer(-1e-6, -1e-6)),
            ],
            ..Recipe::new("apertus", "")
        },
        Recipe { block: Block { norms: &["attn_norm"], ..Block::LLAMA }, ..Recipe::new("plamo", "") },
        Recipe { shape: Shape::SINGLE, ..Recipe::new("refact", "") },
        Recipe {
            block: Block { qkv: Qkv::Fused, feed: Feed::GateUp, ..Block::LLAMA },
            tensors: vec![
                Tensor::new("rope_factors_long.weight", &[pairs], Role::Factors),
                Tensor::new("rope_factors_short.weight", &[pairs], Role::Factors),
            ],
            keys: vec![
                ("rope.scaling.original_context_length", Value::U32(Recipe::CONTEXT as u32 / 2)),
                ("rope.scaling.attn_factor", Value::F32(1.1)),
            ],
            ..Recipe::new("phi3", "")
        },
        Recipe { block: Block { qkv: Qkv::Latent, ..Block::LLAMA }, keys: latent(), ..Recipe::new("deepseek2", "") },
    ]
}

/// Multi-head latent attention (DeepSeek-V2) as llama.cpp runs it: one shared key head of latent and rotated part, the
/// values being a view of its latent part. All layers are dense.
fn latent() -> Vec<(&'static str, Value)> {
    let size = |n: usize| Value::U32(n as u32);
    vec![
        ("leading_dense_block_count", size(Shape::GROUPED.layers)),
        ("expert_feed_forward_length", size(Shape::GROUPED.ff)),
        ("expert_shared_count", size(0)),
        ("attention.head_count_kv", size(1)),
        ("attention.q_lora_rank", size(LATENT)),
        ("attention.kv_lora_rank", size(LATENT)),
        ("attention.key_length", size(LATENT + LATENT_ROPE)),
        ("attention.value_length", size(LATENT)),
        ("attention.key_length_mla", size(LATENT_HEAD + LATENT_ROPE)),
        ("attention.value_length_mla", size(LATENT_HEAD)),
        ("rope.dimension_count", size(LATENT_ROPE)),
    ]
}
