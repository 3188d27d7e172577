//! The way back from folding: what two models differ in, as an adapter of the first.

use super::compat::{compare, match_tensors, Blocks, Matched};
use crate::adapter::{Change, Factor, Kept, Limit, Lora, LowRank};
use crate::error::{Context, Error, Kind, Result};
use crate::gguf::{validate_model, File};
use crate::mask::{Bits, LowRank as Products, Scores};
use crate::runtime::Runtime;
use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// An adapter that leads from one model to another, as near as its ranks allow.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// The adapter, for the first model.
    pub lora: Lora,
    /// What each weight keeps.
    pub kept: Vec<Kept>,
    /// Tensors that differ and that no adapter carries, with the difference's norm over the first model's tensor's.
    pub left_out: Vec<(String, f64)>,
    /// What of that which the changes leave alone the adapter moves; `None` between two models.
    pub leaked: Option<Leaked>,
}

/// Weights that changes leave alone, and the adapter does not: fewer ranks than a change has do not keep its zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Leaked {
    /// Weights whose change is 0 and whose s·B·A is not.
    pub moved: u64,
    /// Weights whose change is 0, of the tensors that change.
    pub of: u64,
    /// The largest of these |s·B·A|.
    pub largest: f64,
}

impl Extraction {
    /// Share of the squared norm of all differences of linear weights that the adapter carries.
    pub fn energy(&self) -> f64 {
        let sum = |of: &dyn Fn(&Kept) -> f64| self.kept.iter().map(|k| k.norm * k.norm * of(k)).sum::<f64>();
        sum(&|k| k.energy) / sum(&|_| 1.0)
    }
}

/// Extracts the difference of the blocks' linear weights, one after another: each is decoded, subtracted in F32, and reduced by
/// a randomised decomposition. `each` hears of every weight. Equal inputs and seeds give equal bits.
pub fn extract(
    runtime: &Runtime,
    base: &File,
    tuned: &File,
    limit: Limit,
    seed: u64,
    each: &mut dyn FnMut(&Kept),
) -> Result<Extraction> {
    limit.validate()?;
    validate_model(base)?;
    validate_model(tuned)?;
    compare(&[base, tuned], Blocks::Stay)?;
    let (mut factors, mut kept, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for matched in match_tensors(&[base, tuned])? {
        let [before, after] = matched.sources.as_slice() else { continue };
        if before.equals(after) {
            continue;
        }
        let weight = matched.name.clone();
        let found = difference(runtime, &matched).and_then(|(change, norms)| {
            [before, after].iter().for_each(|source| source.file.release(source.tensor));
            reduce(&matched, change, norms, limit, seed)
        });
        match found.during(|| format!("tensor {weight}"))? {
            Found::Same => {}
            Found::NotLinear(size) => left_out.push((weight, size)),
            Found::Linear(factor, share) => {
                each(&share);
                factors.push(factor);
                kept.push(share);
            }
        }
    }
    if factors.is_empty() {
        let (a, b) = (base.path().display(), tuned.path().display());
        return Err(Error::new(Kind::Mismatch, format!("{b}: no linear weight of its blocks differs from {a}")));
    }
    Ok(Extraction { lora: Lora::plain(factors), kept, left_out, leaked: None })
}

/// The same from changes of weights that were trained as such: nothing has to be decoded.
pub fn extract_changes(
    changes: Vec<Change>,
    limit: Limit,
    seed: u64,
    each: &mut dyn FnMut(&Kept),
) -> Result<Extraction> {
    limit.validate()?;
    let (mut factors, mut kept) = (Vec::new(), Vec::new());
    let mut leaked = Leaked::default();
    for Change { weight, n_in, values, .. } in changes {
        let mut still = Bits::none(values.len());
        (0..values.len()).filter(|&i| values[i] == 0.0).for_each(|i| still.set(i));
        let found = || {
            let norm = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            LowRank::of_matrix(values, n_in, limit.rank, &mut stream(seed, &weight))?.factor(&weight, limit, norm)
        };
        let (mut factor, share) = found().during(|| format!("tensor {weight}"))?;
        keep_still(&mut factor, &still);
        each(&share);
        let lora = Lora::plain(vec![factor]);
        leaked.count(&lora, &still)?;
        factors.extend(lora.factors);
        kept.push(share);
    }
    if factors.is_empty() {
        return Err(Error::new(Kind::Mismatch, "no weight changes"));
    }
    Ok(Extraction { lora: Lora::plain(factors), kept, left_out: Vec::new(), leaked: Some(leaked) })
}

/// Rows and columns without a change get exactly none: the decomposition leaves rounding errors there.
fn keep_still(factor: &mut Factor, still: &Bits) {
    let (rank, n_in, n_out) = (factor.rank, factor.n_in, factor.n_out);
    for (row, b) in factor.b.chunks_exact_mut(rank).enumerate() {
        if (0..n_in).all(|column| still.get(row * n_in + column)) {
            b.fill(0.0);
        }
    }
    for column in (0..n_in).filter(|column| (0..n_out).all(|row| still.get(row * n_in + column))) {
        (0..rank).for_each(|r| factor.a[r * n_in + column] = 0.0);
    }
}

impl Leaked {
    /// Counts what an adapter of one weight moves of those that are to stay.
    fn count(&mut self, lora: &Lora, still: &Bits) -> Result<()> {
        self.of += still.count() as u64;
        let (shapes, mut at) = (lora.shapes(), 0);
        Products::new(lora, &shapes).visit(0, &mut |tile| {
            for &size in tile {
                if size != 0.0 && still.get(at) {
                    (self.moved, self.largest) = (self.moved + 1, self.largest.max(f64::from(size)));
                }
                at += 1;
            }
            Ok(())
        })
    }
}

/// What a weight's projection is drawn from.
fn stream(seed: u64, weight: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(b"extract");
    hasher.update(weight.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

enum Found {
    Same,
    NotLinear(f64),
    Linear(Factor, Kept),
}

/// The change of a tensor, and the norms of the change and of what it was.
fn difference(runtime: &Runtime, matched: &Matched) -> Result<(Vec<f32>, [f64; 2])> {
    let decoded = |i: usize| {
        let source = &matched.sources[i];
        let mut values = vec![0.0f32; source.tensor.ne.iter().product::<u64>() as usize];
        runtime.dequantize(source.tensor.ty, source.data(), &mut values)?;
        Ok::<_, Error>(values)
    };
    let before = decoded(0)?;
    let mut change = decoded(1)?;
    change.iter_mut().zip(&before).for_each(|(c, b)| *c -= b);
    let norm = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let norms = [norm(&change), norm(&before)];
    Ok((change, norms))
}

fn reduce(matched: &Matched, change: Vec<f32>, [norm, size]: [f64; 2], limit: Limit, seed: u64) -> Result<Found> {
    if norm == 0.0 {
        return Ok(Found::Same);
    }
    let ne = matched.sources[0].tensor.ne;
    if !is_linear(&matched.name, ne) {
        return Ok(Found::NotLinear(norm / size.max(f64::MIN_POSITIVE)));
    }
    let low = LowRank::of_matrix(change, ne[0] as usize, limit.rank, &mut stream(seed, &matched.name))?;
    let (factor, kept) = low.factor(&matched.name, limit, norm)?;
    Ok(Found::Linear(factor, kept))
}

/// True for the linear weights of blocks, which llama.cpp applies adapters to: no norms, routers, or stacks of experts.
fn is_linear(name: &str, ne: [u64; 4]) -> bool {
    let module = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, module)| module);
    let module = module.and_then(|m| m.strip_suffix(".weight"));
    let linear = |m: &str| (m.starts_with("attn_") || m.starts_with("ffn_")) && !m.ends_with("_norm");
    module.is_some_and(|m| linear(m) && !m.starts_with("ffn_gate_inp")) && ne[1] > 1 && ne[2] * ne[3] == 1
}

#[cfg(test)]
mod tests {
    #[test]
    fn linear_weights_are_those_of_blocks() {
        let of = |name: &str, ne| super::is_linear(name, ne);
        assert!(of("blk.0.attn_q.weight", [64, 64, 1, 1]) && of("blk.11.ffn_down.weight", [64, 2, 1, 1]));
        for name in [
            "token_embd.weight",
            "output.weight",
            "blk.0.attn_norm.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.0.attn_q.bias",
        ] {
            assert!(!of(name, [64, 64, 1, 1]), "{name}");
        }
        assert!(!of("blk.0.ffn_up_exps.weight", [64, 64, 8, 1]) && !of("blk.0.attn_q_norm.weight", [64, 64, 1, 1]));
    }
}
