//! LoRA (Hu et al. 2021, arXiv 2106.09685): W + (alpha/r)·B·A with A \[n_in, r\], B \[r, n_out\].

use crate::error::{Error, Kind, Result};
use crate::trace::Trace;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// A weight that can be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Its name in the GGUF.
    pub name: String,
    /// Length of its rows.
    pub n_in: usize,
    /// Number of its rows.
    pub n_out: usize,
}

impl Linear {
    /// The linear weights of a trace's blocks, in the order in which the model uses them.
    pub fn of(trace: &Trace) -> Vec<Self> {
        let names = trace.linears();
        let weights = trace.program.weights.iter().filter(|w| names.contains_key(&w.name));
        weights.map(|w| Self { name: w.name.clone(), n_in: w.ne[0] as usize, n_out: w.ne[1] as usize }).collect()
    }
}

/// The factors for one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// Name of the weight, such as `blk.0.attn_q.weight`.
    pub weight: String,
    /// Rank r.
    pub rank: usize,
    /// Length of the weight's rows.
    pub n_in: usize,
    /// Number of its rows.
    pub n_out: usize,
    /// A \[n_in, r\].
    pub a: Vec<f32>,
    /// B \[r, n_out\].
    pub b: Vec<f32>,
}

/// Factors for some of a model's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// The update is scaled by alpha / r; 0 means no such scaling, as in llama.cpp.
    pub alpha: f32,
    /// The factors, in the order of their names.
    pub factors: Vec<Factor>,
}

impl Lora {
    /// Fresh factors as PEFT makes them: A uniform in ±1/√n_in, B zero. Each A has a stream of its own, keyed by the seed
    /// and its weight's name, so equal shapes differ and a subset of targets starts the same.
    pub fn init(linears: &[Linear], rank: usize, alpha: f32, seed: u64) -> Self {
        let factors = linears
            .iter()
            .map(|linear| {
                let mut rng = stream(seed, "lora_a", &linear.name);
                let bound = 1.0 / (linear.n_in as f32).sqrt();
                // 24 random bits make every step of the unit interval representable.
                let mut uniform = || (rng.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                let a = (0..linear.n_in * rank).map(|_| bound * uniform()).collect();
                let (weight, n_in, n_out) = (linear.name.clone(), linear.n_in, linear.n_out);
                Factor { weight, rank, n_in, n_out, a, b: vec![0.0; n_out * rank] }
            })
            .collect();
        Self { alpha, factors }
    }
}

/// A generator for one purpose and name.
fn stream(seed: u64, purpose: &str, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(&[0]);
    hasher.update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// PEFT's module names and the GGUF's.
const PEFT_NAMES: [(&str, &str); 8] = [
    ("q_proj", "attn_q"),
    ("k_proj", "attn_k"),
    ("v_proj", "attn_v"),
    ("o_proj", "attn_output"),
    ("qkv_proj", "attn_qkv"),
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
    ("down_proj", "ffn_down"),
];

/// The weights that a list of targets means: `all-linear`, or module names separated by commas, GGUF's or PEFT's.
pub fn resolve_targets(targets: &str, available: &[Linear]) -> Result<Vec<Linear>> {
    let module =
        |name: &str| name.splitn(3, '.').nth(2).and_then(|m| m.strip_suffix(".weight")).unwrap_or(name).to_owned();
    if targets.trim() == "all-linear" {
        return Ok(available.to_vec());
    }
    let known: BTreeSet<String> = available.iter().map(|l| module(&l.name)).collect();
    let mut wanted = BTreeSet::new();
    for target in targets.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let name = PEFT_NAMES.iter().find(|(peft, _)| *peft == target).map_or(target, |(_, gguf)| gguf);
        if !known.contains(name) {
            let list: Vec<_> = known.into_iter().collect();
            let message =
                format!("--lora-targets {target}: the model has no such linear weights; it has {}", list.join(", "));
            return Err(Error::new(Kind::Argument, message));
        }
        wanted.insert(name.to_owned());
    }
    if wanted.is_empty() {
        return Err(Error::new(Kind::Argument, "--lora-targets is empty"));
    }
    Ok(available.iter().filter(|l| wanted.contains(&module(&l.name))).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linears() -> Vec<Linear> {
        let linear = |name: &str| Linear { name: name.into(), n_in: 64, n_out: 64 };
        vec![linear("blk.0.attn_q.weight"), linear("blk.0.ffn_up.weight"), linear("blk.1.attn_q.weight")]
    }

    #[test]
    fn equal_shapes_start_differently_and_reproducibly() {
        let lora = Lora::init(&linears(), 4, 8.0, 7);
        assert_ne!(lora.factors[0].a, lora.factors[2].a);
        assert_eq!(lora, Lora::init(&linears(), 4, 8.0, 7));
        assert_eq!(Lora::init(&linears()[2..], 4, 8.0, 7).factors[0], lora.factors[2]);
        assert!(lora.factors.iter().all(|f| f.a.iter().all(|a| a.abs() <= 0.125) && f.b.iter().all(|&b| b == 0.0)));
        let mean = lora.factors[0].a.iter().sum::<f32>() / 256.0;
        assert!(mean.abs() < 0.02, "{mean}");
    }

    #[test]
    fn targets_are_named_as_in_gguf_or_peft() {
        let names = |t: &str| resolve_targets(t, &linears()).map(|l| l.len());
        assert_eq!(
            (names("all-linear").unwrap(), names("q_proj").unwrap(), names("attn_q, up_proj").unwrap()),
            (3, 2, 3)
        );
        assert!(names("v_proj").unwrap_err().to_string().contains("attn_q, ffn_up"));
        assert!(names(" ,").is_err());
    }
}
