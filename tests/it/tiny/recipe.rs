//! What distinguishes one architecture's file from another's: sizes, norms, projections, keys.

use super::vocabulary;
use super::weights::{Role, Tensor};
use llama_align::gguf::Value;

/// Sizes, in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head: usize,
    pub(super) ff: usize,
}

impl Shape {
    pub(super) const GROUPED: Self = Self { layers: 2, width: 64, heads: 4, kv_heads: 2, head: 16, ff: 96 };
    pub(super) const MULTI: Self = Self { kv_heads: 4, ..Self::GROUPED };
    pub(super) const SINGLE: Self = Self { kv_heads: 1, ..Self::GROUPED };
    /// Heads wider than `width / heads`, as Gemma and Qwen3 have them.
    pub(super) const WIDE: Self = Self { head: 32, ..Self::GROUPED };
}

/// A norm's kind, by the tensors it reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Norm {
    /// RMS norm with a gain.
    Rms,
    /// Layer norm with gain and bias.
    Layer,
    /// Layer norm with a gain alone.
    LayerGain,
    /// Layer norm with nothing to learn.
    Bare,
}

/// How queries, keys and values are projected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Qkv {
    Split,
    Fused,
    /// Through low-rank latents shared by all heads (DeepSeek-V2).
    Latent,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum QkNorm {
    None,
    /// One gain of head size for all heads.
    Head,
    /// A gain of its own for each head.
    EachHead,
    /// One gain over all heads together.
    Whole,
}

/// The feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Feed {
    /// Gate, up, down.
    Gated,
    /// Gate and up in one matrix.
    GateUp,
    /// Up, down.
    Plain,
    /// Gated experts behind a router: four, of which two run.
    Experts,
    /// State-space mixer in place of attention and feed-forward part (Mamba).
    Mixer,
}

/// The output matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Head {
    /// The embedding again.
    Tied,
    Untied,
    UntiedBias,
}

/// The tensors of a block; each name of `norms` is a norm over the block's width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) norm: Norm,
    pub(super) norms: &'static [&'static str],
    pub(super) qkv: Qkv,
    pub(super) qkv_bias: bool,
    pub(super) qk_norm: QkNorm,
    pub(super) out_bias: bool,
    pub(super) feed: Feed,
    pub(super) feed_bias: bool,
    pub(super) sinks: bool,
}

impl Block {
    /// Llama's: two RMS norms, split projections, gated feed-forward part, no bias.
    pub(super) const LLAMA: Self = Self {
        norm: Norm::Rms,
        norms: &["attn_norm", "ffn_norm"],
        qkv: Qkv::Split,
        qkv_bias: false,
        qk_norm: QkNorm::None,
        out_bias: false,
        feed: Feed::Gated,
        feed_bias: false,
        sinks: false,
    };
    /// GPT-2's: two layer norms, fused projections, plain feed-forward part, biases everywhere.
    pub(super) const GPT: Self = Self {
        norm: Norm::Layer,
        qkv: Qkv::Fused,
        qkv_bias: true,
        out_bias: true,
        feed: Feed::Plain,
        feed_bias: true,
        ..Self::LLAMA
    };
}

/// A whole model. `keys` are named without the architecture's prefix; they override those that follow from the shape.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) arch: &'static str,
    pub(super) variant: &'static str,
    pub(super) shape: Shape,
    pub(super) block: Block,
    pub(super) head: Head,
    pub(super) window: Option<usize>,
    pub(super) add_bos: bool,
    pub(super) keys: Vec<(&'static str, Value)>,
    /// Keys of no architecture's namespace.
    pub(super) general: Vec<(&'static str, Value)>,
    pub(super) tensors: Vec<Tensor>,
}

impl Recipe {
    /// Positions a model was "trained" on; also the rows of a learned position table.
    pub(super) const CONTEXT: usize = 512;
    pub(super) const EXPERTS: usize = 4;
    pub(super) const EXPERTS_USED: usize = 2;

    /// A Llama-like model under another name; what differs is set by the caller.
    pub(super) fn new(arch: &'static str, variant: &'static str) -> Self {
        Self {
            arch,
            variant,
            shape: Shape::GROUPED,
            block: Block::LLAMA,
            head: Head::Untied,
            window: None,
            add_bos: false,
            keys: Vec::new(),
            general: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// The shape's keys, those of the recipe, and the tokenizer's, with their full names.
    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        let mut keys = vec![
            ("general.architecture".to_string(), Value::String(self.arch.into())),
            ("general.name".to_string(), Value::String("tiny".into())),
        ];
        let own = |name: &str| self.keys.iter().any(|(key, _)| *key == name);
        let shared = self.shape_keys().into_iter().filter(|(name, _)| !own(name));
        let prefixed = shared.chain(self.keys.iter().cloned());
        keys.extend(prefixed.map(|(name, value)| (format!("{}.{name}", self.arch), value)));
        let global = self.general.iter().cloned().chain(vocabulary::keys(self.add_bos));
        keys.extend(global.map(|(name, value)| (name.to_string(), value)));
        keys
    }

    fn shape_keys(&self) -> Vec<(&'static str, Value)> {
        let s = self.shape;
        let size = |n: usize| Value::U32(n as u32);
        let mut keys = vec![
            ("context_length", size(Self::CONTEXT)),
            ("embedding_length", size(s.width)),
            ("block_count", size(s.layers)),
            ("vocab_size", size(vocabulary::SIZE)),
        ];
        match self.block.norm {
            Norm::Rms => keys.push(("attention.layer_norm_rms_epsilon", Value::F32(1e-6))),
            _ => keys.push(("attention.layer_norm_epsilon", Value::F32(1e-5))),
        }
        if self.block.feed != Feed::Mixer {
            keys.extend([
                ("feed_forward_length", size(s.ff)),
                ("attention.head_count", size(s.heads)),
                ("attention.head_count_kv", size(s.kv_heads)),
            ]);
        }
        if s.head * s.heads != s.width {
            keys.extend([("attention.key_length", size(s.head)), ("attention.value_length", size(s.head))]);
        }
        if self.block.feed == Feed::Experts {
            keys.extend([("expert_count", size(Self::EXPERTS)), ("expert_used_count", size(Self::EXPERTS_USED))]);
        }
        if let Some(window) = self.window {
            keys.push(("attention.sliding_window", size(window)));
        }
        keys
    }

    /// Every tensor of the file, in file order.
    pub(super) fn all_tensors(&self) -> Vec<Tensor> {
        let width = self.shape.width;
        let mut out = vec![Tensor::new("token_embd.weight", &[width, vocabulary::SIZE], Role::Matrix)];
        out.extend(self.tensors.iter().cloned());
        for layer in 0..self.shape.layers {
            out.extend(self.block.tensors(layer, &self.shape));
        }
        out.extend(self.block.norm.tensors("output_norm", &[width]));
        if self.head != Head::Tied {
            out.push(Tensor::new("output.weight", &[width, vocabulary::SIZE], Role::Matrix));
        }
        if self.head == Head::UntiedBias {
            out.push(Tensor::new("output.bias", &[vocabulary::SIZE], Role::Bias));
        }
        out
    }
}
