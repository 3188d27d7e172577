//! What a run comes from and what it is computed with: whatever beside its configuration decides its bits.

use super::config::TrainConfig;
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// Fingerprints of a run's inputs, and the arithmetic that it uses. No path, no clock: equal runs have equal origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Version of this program.
    pub program: String,
    /// Instruction sets of our kernels and the CPU, by which products are cut into sums.
    pub kernels: String,
    /// Threads that are started, at most as many as there are cores.
    pub threads: usize,
    /// Fingerprint of the model: `gguf::base_hash`.
    pub model: String,
    /// Fingerprint of the tokenised rows: [`Dataset::digest`].
    pub data: String,
    /// The same of the held-out rows.
    pub eval_data: Option<String>,
    /// Fingerprint of the adapter that the run starts from.
    pub lora: Option<String>,
    /// Fingerprint of the mask that holds a part of what is trained.
    #[serde(default)]
    pub mask: Option<String>,
    /// Fingerprint of the weights of single tokens.
    #[serde(default)]
    pub token_weights: Option<String>,
}

/// Keys whose value changes nothing about a run's steps.
// Of the files that keys name, fingerprints are compared.
const WITHOUT_EFFECT: [&str; 6] =
    ["mask", "token_weights", "eval_data", "save_steps", "save_total_limit", "keep_adapters"];
/// Keys that change a run's bits and nothing else.
const PLAN: [&str; 5] = ["threads", "precision", "recompute", "device", "n_gpu_layers"];

impl Origin {
    /// The origin of a run on this machine.
    pub fn here(config: &TrainConfig, model: String, data: &Dataset, eval_data: Option<&Dataset>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            kernels: format!("{}, {}", crate::kernel::instruction_set(), crate::os::cpu_name()),
            threads: config.threads.clamp(1, cores),
            model,
            data: data.digest(),
            eval_data: eval_data.map(Dataset::digest),
            lora: None,
            mask: None,
            token_weights: None,
        }
    }

    /// Refuses to continue a run of `self` under `wanted` where the two are not the same: the first difference is named.
    /// `inexact` lets the plan differ (threads, kernels, precision, recomputation, version): the steps to come are then as
    /// good as the run's own, but not its own bits.
    pub fn check(&self, wanted: &Self, inexact: bool) -> Result<()> {
        let differs = |what: &str, was: &str, is: &str, plan: bool| {
            let hint =
                if plan { "; an inexact resume goes on nevertheless, with other bits (--resume-inexact)" } else { "" };
            let message = format!("checkpoint: {what} is {is}, the run was begun with {was}{hint}");
            Err(Error::new(Kind::Mismatch, message))
        };
        let none = || "none".to_owned();
        let inputs = [
            ("the model's fingerprint", self.model.clone(), wanted.model.clone()),
            ("the fingerprint of --data's rows", self.data.clone(), wanted.data.clone()),
            (
                "the fingerprint of --eval-data's rows",
                self.eval_data.clone().unwrap_or_else(none),
                wanted.eval_data.clone().unwrap_or_else(none),
            ),
            (
                "the fingerprint of --lora's adapter",
                self.lora.clone().unwrap_or_else(none),
                wanted.lora.clone().unwrap_or_else(none),
            ),
            (
                "the fingerprint of --mask",
                self.mask.clone().unwrap_or_else(none),
                wanted.mask.clone().unwrap_or_else(none),
            ),
            (
                "the fingerprint of --token-weights",
                self.token_weights.clone().unwrap_or_else(none),
                wanted.token_weights.clone().unwrap_or_else(none),
            ),
        ];
        if let Some((what, was, is)) = inputs.iter().find(|(_, was, is)| was != is) {
            return differs(what, was, is, false);
        }
        let plan = [
            ("the program's version", &self.program, &wanted.program),
            ("the set of kernels", &self.kernels, &wanted.kernels),
            ("the number of threads", &self.threads.to_string(), &wanted.threads.to_string()),
        ];
        match plan.iter().find(|(_, was, is)| was != is) {
            Some((what, was, is)) if !inexact => differs(what, was, is, true),
            _ => Ok(()),
        }
    }
}

impl TrainConfig {
    /// The keys that decide a run's steps, as TOML: what a checkpoint holds.
    pub(super) fn decisive(&self) -> Result<toml::Table> {
        let mut table = self.to_table()?;
        WITHOUT_EFFECT.iter().for_each(|key| drop(table.remove(*key)));
        Ok(table)
    }

    /// Refuses if a run of this configuration and one of `other` make different steps, the plan aside.
    pub fn check_same_run(&self, other: &Self) -> Result<()> {
        self.check_resumes(&other.decisive()?, true)
    }

    /// Refuses to continue a run of `was` under this configuration where they differ: the first key that does is named.
    pub(super) fn check_resumes(&self, was: &toml::Table, inexact: bool) -> Result<()> {
        let is = self.decisive()?;
        let shown = |value: Option<&toml::Value>| value.map_or("unset".to_owned(), ToString::to_string);
        let keys = was.keys().chain(is.keys().filter(|key| !was.contains_key(key.as_str())));
        for key in keys.filter(|key| was.get(key.as_str()) != is.get(key.as_str())) {
            let plan = PLAN.contains(&key.as_str());
            if plan && inexact {
                continue;
            }
            let hint =
                if plan { "; an inexact resume goes on nevertheless, with other bits (--resume-inexact)" } else { "" };
            let (is, was) = (shown(is.get(key.as_str())), shown(was.get(key.as_str())));
            let flag = key.replace('_', "-");
            let message = format!("checkpoint: {flag} is {is}, the run was begun with {was}{hint}");
            return Err(Error::new(Kind::Mismatch, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_inputs_are_refused_and_another_plan_unless_inexact() {
        let text = |s: &str| s.to_owned();
        let was = Origin {
            program: text("0.1.0"),
            kernels: text("avx512, a CPU"),
            threads: 2,
            model: text("m"),
            data: text("d"),
            eval_data: None,
            lora: None,
            mask: None,
            token_weights: None,
        };
        assert!(was.check(&was.clone(), false).is_ok());
        let plans = [
            (Origin { program: text("0.2.0"), ..was.clone() }, "the program's version is 0.2.0"),
            (Origin { kernels: text("avx2, a CPU"), ..was.clone() }, "the set of kernels is avx2, a CPU"),
            (Origin { threads: 1, ..was.clone() }, "the number of threads is 1"),
        ];
        for (wanted, says) in plans {
            let error = was.check(&wanted, false).unwrap_err();
            assert_eq!(error.kind(), Kind::Mismatch);
            assert!(error.to_string().contains(says) && error.to_string().contains("--resume-inexact"), "{error}");
            assert!(was.check(&wanted, true).is_ok(), "{says}");
        }
        let inputs = [
            (Origin { model: text("n"), ..was.clone() }, "model"),
            (Origin { data: text("e"), ..was.clone() }, "--data"),
            (Origin { eval_data: Some(text("e")), ..was.clone() }, "--eval-data"),
            (Origin { lora: Some(text("l")), ..was.clone() }, "--lora"),
            (Origin { mask: Some(text("k")), ..was.clone() }, "--mask"),
            (Origin { token_weights: Some(text("w")), ..was.clone() }, "--token-weights"),
        ];
        for (wanted, says) in inputs {
            for inexact in [false, true] {
                let error = was.check(&wanted, inexact).unwrap_err().to_string();
                assert!(error.contains(says) && !error.contains("inexact"), "{error}");
            }
        }
    }
}
