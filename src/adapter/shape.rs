//! How large factors are and what they are scaled by: PEFT's `LoraConfig`.

use super::lora::{Factor, Linear, Lora};
use super::targets::{block, module, PEFT_NAMES};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// Rank, alpha, and the modules that have their own.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraShape {
    /// r.
    pub rank: usize,
    /// α.
    pub alpha: f32,
    /// Scale by α/√r instead of α/r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732): a large rank keeps its effect.
    pub rank_stabilized: bool,
    /// Ranks of some modules.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of some modules.
    pub alpha_pattern: BTreeMap<String, f32>,
}

/// Whether a pattern means a weight: `attn_q` or `q_proj` in every block, `blk.3.attn_q` or `layers.3.self_attn.q_proj` in one.
/// Between two that do, the one that names the block wins.
fn specificity(pattern: &str, weight: &str) -> Option<usize> {
    let pattern = pattern.trim_start_matches('^').trim_end_matches(".weight");
    let last = pattern.rsplit('.').next().unwrap_or(pattern);
    let last = PEFT_NAMES.iter().find(|(peft, _)| *peft == last).map_or(last, |(_, gguf)| gguf);
    let mut parts = pattern.split('.').skip_while(|part| !["blk", "layers", "h"].contains(part));
    let of_block = parts.next().and_then(|_| parts.next()?.parse::<usize>().ok());
    let fits = last == module(weight) && of_block.is_none_or(|b| block(weight) == Some(b));
    fits.then_some(usize::from(of_block.is_some()))
}

fn lookup<T: Copy>(patterns: &BTreeMap<String, T>, weight: &str) -> Option<T> {
    let fits = patterns.iter().filter_map(|(pattern, value)| Some((specificity(pattern, weight)?, *value)));
    fits.max_by_key(|(specificity, _)| *specificity).map(|(_, value)| value)
}

impl LoraShape {
    /// Fresh factors. A pattern that means none of the weights is an error.
    pub fn init(&self, linears: &[Linear], seed: u64) -> Result<Lora> {
        let ranks = self.rank_pattern.keys().map(|key| ("rank_pattern", key));
        for (table, key) in ranks.chain(self.alpha_pattern.keys().map(|key| ("alpha_pattern", key))) {
            if !linears.iter().any(|l| specificity(key, &l.name).is_some()) {
                let message = format!("{table}: {key} means none of the adapted weights");
                return Err(Error::new(Kind::Argument, message));
            }
        }
        let factor = |linear: &Linear| {
            let rank = lookup(&self.rank_pattern, &linear.name).unwrap_or(self.rank);
            let alpha = lookup(&self.alpha_pattern, &linear.name).unwrap_or(self.alpha);
            Factor { alpha: Some(self.stabilized(alpha, rank)), ..Factor::init(linear, rank, seed) }
        };
        let mut factors: Vec<_> = linears.iter().map(factor).collect();
        let alpha = self.stabilized(self.alpha, self.rank);
        factors.iter_mut().filter(|f| f.alpha == Some(alpha)).for_each(|f| f.alpha = None);
        Ok(Lora { alpha, factors })
    }

    /// The alpha whose α/r is the wanted scale: α·√r for α/√r.
    fn stabilized(&self, alpha: f32, rank: usize) -> f32 {
        if self.rank_stabilized {
            (f64::from(alpha) * (rank as f64).sqrt()) as f32
        } else {
            alpha
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linears() -> Vec<Linear> {
        let linear = |name: &str| Linear::new(name, 32, 32);
        vec![linear("blk.0.attn_q.weight"), linear("blk.1.attn_q.weight"), linear("blk.1.ffn_up.weight")]
    }

    fn shape() -> LoraShape {
        let (rank_pattern, alpha_pattern) = (BTreeMap::new(), BTreeMap::new());
        LoraShape { rank: 4, alpha: 8.0, rank_stabilized: false, rank_pattern, alpha_pattern }
    }

    #[test]
    fn without_more_it_is_the_plain_adapter() {
        assert_eq!(shape().init(&linears(), 7).unwrap(), Lora::init(&linears(), 4, 8.0, 7));
    }

    #[test]
    fn a_stabilized_rank_is_scaled_by_its_root() {
        let lora = LoraShape { rank_stabilized: true, ..shape() }.init(&linears(), 7).unwrap();
        assert!(lora.factors.iter().all(|f| lora.scale(f) == 4.0 && f.alpha.is_none()));
        assert_eq!(lora.alpha, 16.0);
    }

    #[test]
    fn patterns_name_modules_or_one_block() {
        let of = |text: &[(&str, usize)]| text.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect::<BTreeMap<_, _>>();
        let mut wanted = shape();
        wanted.rank_pattern = of(&[("q_proj", 2), ("model.layers.1.self_attn.q_proj", 8)]);
        wanted.alpha_pattern = [("ffn_up".to_owned(), 2.0)].into();
        let lora = wanted.init(&linears(), 7).unwrap();
        assert_eq!(lora.factors.iter().map(|f| f.rank).collect::<Vec<_>>(), [2, 8, 4]);
        assert_eq!(lora.factors.iter().map(|f| lora.scale(f)).collect::<Vec<_>>(), [4.0, 1.0, 0.5]);
        wanted.rank_pattern = of(&[("k_proj", 2)]);
        assert!(wanted.init(&linears(), 7).unwrap_err().to_string().contains("k_proj"));
        wanted.rank_pattern = of(&[("blk.2.attn_q", 2)]);
        assert!(wanted.init(&linears(), 7).is_err());
    }
}
