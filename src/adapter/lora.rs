//! LoRA (Hu et al. 2021, arXiv 2106.09685): W + (alpha/r)·B·A with A \[n_in, r\], B \[r, n_out\].

use crate::error::{Error, Kind, Result};
use crate::ir::WeightInfo;
use crate::trace::Trace;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A weight that can be adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Its name in the GGUF.
    pub name: String,
    /// Length of its rows.
    pub n_in: usize,
    /// Number of its rows; of a stack, those of one expert.
    pub n_out: usize,
    /// Matrices of this shape, one for each expert; 1 for a weight that every token uses.
    pub n_experts: usize,
}

impl Linear {
    /// A weight that every token uses.
    pub fn new(name: impl Into<String>, n_in: usize, n_out: usize) -> Self {
        Self { name: name.into(), n_in, n_out, n_experts: 1 }
    }

    /// The weights of a trace's blocks that can be adapted, linear ones and stacks of experts, in the order in which the model uses
    /// them.
    pub fn all(trace: &Trace) -> Vec<Self> {
        let names = trace.adaptable();
        let weights = trace.program.weights.iter().filter(|w| names.contains_key(&w.name));
        let linear = |w: &WeightInfo| {
            let [n_in, n_out, n_experts, _] = w.ne.map(|n| n as usize);
            Self { name: w.name.clone(), n_in, n_out, n_experts }
        };
        weights.map(linear).collect()
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
    /// Number of its rows; of a stack, those of one expert.
    pub n_out: usize,
    /// Experts of a stack; 1 for a weight that every token uses.
    pub n_experts: usize,
    /// A \[n_in, r\], one for each expert.
    pub a: Vec<f32>,
    /// B \[r, n_out\], one for each expert.
    pub b: Vec<f32>,
    /// Its own alpha, where it is not the adapter's.
    pub alpha: Option<f32>,
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
    /// What B·A is multiplied by: alpha / r, or 1 for an alpha of 0, as in llama.cpp.
    pub fn scale(&self, factor: &Factor) -> f32 {
        match factor.alpha.unwrap_or(self.alpha) {
            0.0 => 1.0,
            alpha => alpha / factor.rank as f32,
        }
    }

    /// Fresh factors as PEFT makes them: A uniform in ±1/√n_in, B zero. Each A has a stream of its own, keyed by the seed
    /// and its weight's name, so equal shapes differ and a subset of targets starts the same.
    pub fn init(linears: &[Linear], rank: usize, alpha: f32, seed: u64) -> Self {
        let factors = linears.iter().map(|linear| Factor::init(linear, rank, seed)).collect();
        Self { alpha, factors }
    }
}

impl Factor {
    /// The factor, if every token uses its weight.
    ///
    /// # Errors
    /// For factors of experts; `what` says what cannot be done with them.
    pub(crate) fn of_one_matrix(&self, what: &str) -> Result<&Self> {
        if self.n_experts == 1 {
            return Ok(self);
        }
        let message = format!("{}: factors of {} experts {what}", self.weight, self.n_experts);
        Err(Error::new(Kind::Unsupported, message))
    }

    /// A fresh pair.
    pub(super) fn init(linear: &Linear, rank: usize, seed: u64) -> Self {
        let mut rng = stream(seed, "lora_a", &linear.name);
        let bound = 1.0 / (linear.n_in as f32).sqrt();
        // 24 random bits make every step of the unit interval representable.
        let mut uniform = || (rng.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
        let Linear { name, n_in, n_out, n_experts } = linear.clone();
        let a = (0..n_in * rank * n_experts).map(|_| bound * uniform()).collect();
        let b = vec![0.0; n_out * rank * n_experts];
        Self { weight: name, rank, n_in, n_out, n_experts, a, b, alpha: None }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn linears() -> Vec<Linear> {
        let linear = |name: &str| Linear::new(name, 64, 64);
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
}
