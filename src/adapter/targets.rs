//! Which weights are adapted: modules by GGUF's names or PEFT's, blocks by their numbers.

use super::lora::Linear;
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;

/// PEFT's module names and the GGUF's.
pub(super) const PEFT_NAMES: [(&str, &str); 8] = [
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

/// `attn_q` of `blk.3.attn_q.weight`.
pub(super) fn module(name: &str) -> String {
    name.splitn(3, '.').nth(2).and_then(|m| m.strip_suffix(".weight")).unwrap_or(name).to_owned()
}

/// 3 of `blk.3.attn_q.weight`.
pub(super) fn block(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The weights of some blocks: numbers from 0 and ranges of them with commas between, such as `0,10-29`; all for an empty
/// text. PEFT's `layers_to_transform`.
pub fn in_layers(layers: &str, available: Vec<Linear>) -> Result<Vec<Linear>> {
    if layers.trim().is_empty() {
        return Ok(available);
    }
    let fault = |what: String| Error::new(Kind::Argument, format!("--layers-to-transform {layers}: {what}"));
    let last = available.iter().filter_map(|l| block(&l.name)).max().unwrap_or(0);
    let mut wanted = BTreeSet::new();
    for part in layers.split(',').map(str::trim) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let (Some(from), Some(to)) = (number(from), number(to)) else {
            return Err(fault(format!("{part:?} is no block, nor a range such as 10-29")));
        };
        if from > to || to > last {
            return Err(fault(format!("{part} is no range of the blocks 0 to {last}")));
        }
        wanted.extend(from..=to);
    }
    Ok(available.into_iter().filter(|l| block(&l.name).is_some_and(|b| wanted.contains(&b))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linears() -> Vec<Linear> {
        let linear = |name: &str| Linear { name: name.into(), n_in: 64, n_out: 64 };
        vec![linear("blk.0.attn_q.weight"), linear("blk.0.ffn_up.weight"), linear("blk.1.attn_q.weight")]
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

    #[test]
    fn blocks_are_named_by_numbers_and_ranges() {
        let n = |layers: &str| in_layers(layers, linears()).map(|l| l.len()).map_err(|e| e.to_string());
        assert_eq!(
            (n("").unwrap(), n("0").unwrap(), n("1-1").unwrap(), n("0, 1").unwrap(), n("0-1").unwrap()),
            (3, 2, 1, 3, 3)
        );
        for (layers, says) in
            [("2", "0 to 1"), ("1-0", "0 to 1"), ("a", "no block"), ("0-", "no block"), ("-1", "no block")]
        {
            let error = n(layers).unwrap_err();
            assert!(error.contains("--layers-to-transform") && error.contains(says), "{error}");
        }
    }
}
