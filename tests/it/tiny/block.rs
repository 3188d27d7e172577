//! The tensors of one block, by their names in GGUF.

use super::recipe::{Block, Feed, Norm, QkNorm, Qkv, Recipe, Shape};
use super::weights::{Role, Tensor};

impl Norm {
    /// The tensors of a norm called `name` with a gain of `ne`.
    pub(super) fn tensors(self, name: &str, ne: &[usize]) -> Vec<Tensor> {
        let gain = Tensor::new(format!("{name}.weight"), ne, Role::Gain);
        match self {
            Norm::Rms | Norm::LayerGain => vec![gain],
            Norm::Layer => vec![gain, Tensor::new(format!("{name}.bias"), ne, Role::Bias)],
            Norm::Bare => Vec::new(),
        }
    }
}

impl Block {
    /// The tensors of block `layer`.
    pub(super) fn tensors(&self, layer: usize, shape: &Shape) -> Vec<Tensor> {
        let at = |name: &str| format!("blk.{layer}.{name}");
        let mut out: Vec<Tensor> =
            self.norms.iter().flat_map(|name| self.norm.tensors(&at(name), &[shape.width])).collect();
        match self.feed {
            Feed::Mixer => out.extend(mixer(&at, shape.width)),
            Feed::Experts => {
                out.extend(self.attention(&at, shape));
                out.extend(self.experts(&at, shape));
            }
            Feed::Gated | Feed::GateUp | Feed::Plain => {
                out.extend(self.attention(&at, shape));
                out.extend(self.feed_forward(&at, shape));
            }
        }
        out
    }

    fn attention(&self, at: &dyn Fn(&str) -> String, shape: &Shape) -> Vec<Tensor> {
        let (queries, keys) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        let mut out = match self.qkv {
            Qkv::Latent => return latent(at, shape),
            Qkv::Fused => linear(&at("attn_qkv"), shape.width, queries + 2 * keys, self.qkv_bias),
            Qkv::Split => [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)]
                .iter()
                .flat_map(|&(name, n)| linear(&at(name), shape.width, n, self.qkv_bias))
                .collect(),
        };
        let (q, k): (Vec<usize>, Vec<usize>) = match self.qk_norm {
            QkNorm::None => (vec![], vec![]),
            QkNorm::Head => (vec![shape.head], vec![shape.head]),
            QkNorm::EachHead => (vec![shape.head, shape.heads], vec![shape.head, shape.kv_heads]),
            QkNorm::Whole => (vec![queries], vec![keys]),
        };
        if self.qk_norm != QkNorm::None {
            out.push(Tensor::new(at("attn_q_norm.weight"), &q, Role::Gain));
            out.push(Tensor::new(at("attn_k_norm.weight"), &k, Role::Gain));
        }
        if self.sinks {
            out.push(Tensor::new(at("attn_sinks.weight"), &[shape.heads], Role::Bias));
        }
        out.extend(linear(&at("attn_output"), queries, shape.width, self.out_bias));
        out
    }

    fn feed_forward(&self, at: &dyn Fn(&str) -> String, shape: &Shape) -> Vec<Tensor> {
        let (width, ff) = (shape.width, shape.ff);
        let up = if self.feed == Feed::GateUp { 2 * ff } else { ff };
        let mut out = Vec::new();
        if self.feed == Feed::Gated {
            out.extend(linear(&at("ffn_gate"), width, ff, self.feed_bias));
        }
        out.extend(linear(&at("ffn_up"), width, up, self.feed_bias));
        out.extend(linear(&at("ffn_down"), ff, width, self.feed_bias));
        out
    }

    fn experts(&self, at: &dyn Fn(&str) -> String, shape: &Shape) -> Vec<Tensor> {
        let (width, ff, n) = (shape.width, shape.ff, Recipe::EXPERTS);
        let mut out = vec![
            Tensor::new(at("ffn_gate_inp.weight"), &[width, n], Role::Plain),
            Tensor::new(at("ffn_gate_exps.weight"), &[width, ff, n], Role::Matrix),
            Tensor::new(at("ffn_up_exps.weight"), &[width, ff, n], Role::Matrix),
            Tensor::new(at("ffn_down_exps.weight"), &[ff, width, n], Role::Matrix),
        ];
        if self.feed_bias {
            out.extend([
                Tensor::new(at("ffn_gate_inp.bias"), &[n], Role::Bias),
                Tensor::new(at("ffn_gate_exps.bias"), &[ff, n], Role::Bias),
                Tensor::new(at("ffn_up_exps.bias"), &[ff, n], Role::Bias),
                Tensor::new(at("ffn_down_exps.bias"), &[width, n], Role::Bias),
            ]);
        }
        out
    }
}

/// A matrix of `rows` outputs over `n_in` inputs, with or without a bias.
fn linear(name: &str, n_in: usize, rows: usize, bias: bool) -> Vec<Tensor> {
    let mut out = vec![Tensor::new(format!("{name}.weight"), &[n_in, rows], Role::Matrix)];
    if bias {
        out.push(Tensor::new(format!("{name}.bias"), &[rows], Role::Bias));
    }
    out
}

/// Sizes of latent attention: rank of both latents, a head's part without RoPE (also a value's size), and with RoPE.
pub(super) const LATENT: usize = 32;
pub(super) const LATENT_HEAD: usize = 32;
pub(super) const LATENT_ROPE: usize = 8;

fn latent(at: &dyn Fn(&str) -> String, shape: &Shape) -> Vec<Tensor> {
    let (width, heads) = (shape.width, shape.heads);
    let matrix = |name: &str, ne: &[usize]| Tensor::new(at(name), ne, Role::Matrix);
    vec![
        matrix("attn_q_a.weight", &[width, LATENT]),
        Tensor::new(at("attn_q_a_norm.weight"), &[LATENT], Role::Gain),
        matrix("attn_q_b.weight", &[LATENT, heads * (LATENT_HEAD + LATENT_ROPE)]),
        matrix("attn_kv_a_mqa.weight", &[width, LATENT + LATENT_ROPE]),
        Tensor::new(at("attn_kv_a_norm.weight"), &[LATENT], Role::Gain),
        matrix("attn_k_b.weight", &[LATENT_HEAD, LATENT, heads]),
        matrix("attn_v_b.weight", &[LATENT, LATENT_HEAD, heads]),
        matrix("attn_output.weight", &[heads * LATENT_HEAD, width]),
    ]
}

/// Sizes of Mamba's mixer (Gu and Dao 2023); the inner width is twice the model's, as llama.cpp demands.
pub(super) const MIXER_CONV: usize = 4;
pub(super) const MIXER_STATE: usize = 16;
pub(super) const MIXER_RANK: usize = 4;

fn mixer(at: &dyn Fn(&str) -> String, width: usize) -> Vec<Tensor> {
    let inner = 2 * width;
    vec![
        Tensor::new(at("ssm_in.weight"), &[width, 2 * inner], Role::Matrix),
        Tensor::new(at("ssm_conv1d.weight"), &[MIXER_CONV, inner], Role::Plain),
        Tensor::new(at("ssm_conv1d.bias"), &[inner], Role::Bias),
        Tensor::new(at("ssm_x.weight"), &[inner, MIXER_RANK + 2 * MIXER_STATE], Role::Matrix),
        Tensor::new(at("ssm_dt.weight"), &[MIXER_RANK, inner], Role::Plain),
        Tensor::new(at("ssm_dt.bias"), &[inner], Role::Bias),
        Tensor::new(at("ssm_a"), &[MIXER_STATE, inner], Role::Decay),
        Tensor::new(at("ssm_d"), &[inner], Role::Gain),
        Tensor::new(at("ssm_out.weight"), &[inner, width], Role::Matrix),
    ]
}
