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

/// The words for many modules.
const ALL_LINEAR: &str = "all-linear";
const EXPERTS: &str = "experts";

/// The weights that a list of targets means, separated by commas: module names, GGUF's or PEFT's, `all-linear` for what every token
/// uses without routers, `experts` for the stacks of which a router chooses.
pub fn resolve_targets(targets: &str, available: &[Linear]) -> Result<Vec<Linear>> {
    let known: BTreeSet<String> = available.iter().map(|l| module(&l.name)).collect();
    let mut wanted = BTreeSet::new();
    for target in targets.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let group = |experts: bool| {
            let is_in = move |l: &&Linear| (l.n_experts != 1) == experts && !is_router(&l.name);
            available.iter().filter(is_in).map(|l| module(&l.name)).collect::<BTreeSet<_>>()
        };
        let of_group = match target {
            ALL_LINEAR => group(false),
            EXPERTS => group(true),
            _ => BTreeSet::new(),
        };
        if !of_group.is_empty() {
            wanted.extend(of_group);
            continue;
        }
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

/// A router's weight, which adapts only by its name: what chooses experts is no part of what they compute.
fn is_router(name: &str) -> bool {
    module(name).starts_with("ffn_gate_inp")
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
    if layers.trim().is_empty() || available.is_empty() {
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
        let linear = |name: &str| Linear::new(name, 64, 64);
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
        assert!(names(" ,").is_err() && in_layers("1", Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn experts_and_routers_are_asked_for() {
        let mut all = linears();
        all.push(Linear { n_experts: 4, ..Linear::new("blk.0.ffn_up_exps.weight", 64, 64) });
        all.push(Linear::new("blk.0.ffn_gate_inp.weight", 64, 4));
        let names = |t: &str| resolve_targets(t, &all).map(|l| l.iter().map(|l| module(&l.name)).collect::<Vec<_>>());
        assert_eq!(names("all-linear").unwrap(), ["attn_q", "ffn_up", "attn_q"]);
        assert_eq!(names("all-linear,experts").unwrap(), ["attn_q", "ffn_up", "attn_q", "ffn_up_exps"]);
        assert_eq!(names("experts,ffn_gate_inp").unwrap(), ["ffn_up_exps", "ffn_gate_inp"]);
        assert!(resolve_targets("experts", &linears()).unwrap_err().to_string().contains("experts"));
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
