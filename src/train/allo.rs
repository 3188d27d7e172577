//! ALLO in one command (Chen et al. 2024, arXiv 2406.12606; specs `allo_hbat`, section 1.4): one configuration in, those of its
//! three runs out.
//!
//! 1. **warm-up**: plain DPO from the model. How far it moves a weight is the weight's score; what it makes less likely of the
//!    rejected answers is what is to be forgotten.
//! 2. **forgetting**: token NPO on these tokens, from the model again, under the smaller of two nested masks.
//! 3. **learning**: DPO on the share of the rejected tokens that the policy likes least, from where forgetting ended, under the
//!    larger mask.
//!
//! What a configuration says at its top holds for all three; `[allo.warm_up]`, `[allo.forgetting]` and `[allo.learning]` say
//! what is different there.

use super::config::TrainConfig;
use super::delta::DeltaKind;
use super::method::Method;
use super::overrides::TrainOverrides;
use super::resolve::bad;
use crate::error::{Error, Kind, Result};
use crate::mask::Granularity;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use toml::{Table, Value};

/// The name of the method.
pub const ALLO: &str = "allo";
/// Names of the three runs: their tables, and, with dashes, their directories.
pub const STAGES: [&str; 3] = ["warm_up", "forgetting", "learning"];
/// Learning rates of the stages over that of learning: 1e-6, 5e-7 and 5e-6 in the authors' scripts.
const RATES: [f64; 3] = [0.2, 0.1, 1.0];
/// Share of the steps that forgetting's rate rises over.
const FORGETTING_WARMUP: f64 = 0.03;
/// Share of the rejected tokens that learning sees.
const REJECTED_SHARE: f64 = 0.1;
/// Keys that belong to a loss on pairs, which forgetting has not.
const OF_PAIRS: [&str; 6] = ["loss_type", "loss_weights", "sft_weight", "label_smoothing", "simpo_gamma", "cpo_alpha"];
/// Keys that the stages decide.
const DECIDED: [&str; 4] = ["method", "delta", "mask", "token_weights"];
/// Keys of factors, which only some kinds of delta have.
const OF_FACTORS: [&str; 7] =
    ["lora_rank", "lora_alpha", "use_rslora", "lora_dropout", "loraplus_lr_ratio", "rank_pattern", "alpha_pattern"];

/// What is chosen between the runs: weights and tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlloChoice {
    /// Share of all weights (rows, columns, tensors) that learning moves. The authors' scripts have 0.05.
    pub mask_ratio: f64,
    /// Share that forgetting moves, which lies within the former. The paper has fewer than in learning and does not say how many
    /// in what could be read; half is ours.
    pub forget_ratio: Option<f64>,
    /// weight, row, column or tensor; absent means weight for whole weights and row for what else moves.
    pub granularity: Option<String>,
    /// Rejected tokens are forgotten whose log-ratio after the warm-up is below this.
    pub tokens_below: f64,
    /// Instead: the share of every rejected answer's tokens whose log-ratio is lowest.
    pub tokens_share: Option<f64>,
}

impl Default for AlloChoice {
    fn default() -> Self {
        Self { mask_ratio: 0.05, forget_ratio: None, granularity: None, tokens_below: 0.0, tokens_share: None }
    }
}

/// Flags that win over a configuration's `[allo]`; `None` leaves the value as it is. The lists have a value for each stage.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the fields are those of `AlloChoice`
pub struct AlloOverrides {
    pub mask_ratio: Option<f64>,
    pub forget_ratio: Option<f64>,
    pub granularity: Option<String>,
    pub tokens_below: Option<f64>,
    pub tokens_share: Option<f64>,
    /// Optimizer steps of the stages.
    pub stage_steps: Option<Vec<usize>>,
    /// Passes over the data of the stages.
    pub stage_epochs: Option<Vec<f64>>,
    /// Peak learning rates of the stages.
    pub stage_rates: Option<Vec<f64>>,
}

impl AlloOverrides {
    /// The first flag that is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("mask-ratio", self.mask_ratio.is_some()),
            ("forget-ratio", self.forget_ratio.is_some()),
            ("granularity", self.granularity.is_some()),
            ("tokens-below", self.tokens_below.is_some()),
            ("tokens-share", self.tokens_share.is_some()),
            ("stage-steps", self.stage_steps.is_some()),
            ("stage-epochs", self.stage_epochs.is_some()),
            ("stage-rates", self.stage_rates.is_some()),
        ];
        given.into_iter().find(|(_, is)| *is).map(|(flag, _)| flag)
    }
}

/// The plan: what is chosen, and the three runs' configurations. Their masks, token weights and starting points are files that
/// come to be on the way; who runs them puts them in.
#[derive(Clone, Debug, PartialEq)]
pub struct Allo {
    /// Weights and tokens.
    pub choice: AlloChoice,
    /// Resolved configurations of warm-up, forgetting and learning.
    pub stages: [TrainConfig; 3],
    /// What moves in forgetting and learning.
    pub delta: DeltaKind,
}

impl Allo {
    /// Reads a configuration, in which flags win over `source`'s text.
    ///
    /// # Errors
    /// [`Kind::Argument`] naming the key, for what is unknown, out of range, of no use or decided by the stages themselves.
    pub fn from_toml(text: &str, source: &str, flags: &TrainOverrides, own: &AlloOverrides) -> Result<Self> {
        let fault = |what: &str| Error::new(Kind::Argument, format!("{source}: {what}"));
        let mut common: Table = text.parse().map_err(|e: toml::de::Error| fault(e.to_string().trim()))?;
        common.remove("method");
        if common.contains_key("grid") {
            return Err(fault("grid: allo is several runs already; give each combination a configuration of its own"));
        }
        let mut allo = table(common.remove(ALLO), &format!("{source}: {ALLO}"))?;
        let mut stages = Vec::new();
        for name in STAGES {
            stages.push(table(allo.remove(name), &format!("{source}: {ALLO}.{name}"))?);
        }
        let decided =
            |t: &Table, keys: &[&str]| keys.iter().find(|key| t.contains_key(**key)).map(|key| (*key).to_owned());
        let in_stage = stages.iter().find_map(|stage| decided(stage, &DECIDED));
        let of_flags = [("mask", flags.mask.is_some()), ("token_weights", flags.token_weights.is_some())];
        let of_flags = of_flags.into_iter().find(|(_, given)| *given).map(|(key, _)| key.to_owned());
        if let Some(key) = decided(&common, &["mask", "token_weights"]).or(in_stage).or(of_flags) {
            return Err(bad(&key, "method allo decides it for each of its stages"));
        }
        let choice = choice(allo, &format!("{source}: {ALLO}"), own)?;
        let delta = match (&flags.delta, common.remove("delta")) {
            (Some(name), _) => DeltaKind::from_name(name)?,
            (None, Some(Value::String(name))) => DeltaKind::from_name(&name)?,
            (None, Some(_)) => return Err(bad("delta", "expected a name")),
            (None, None) => DeltaKind::Lora,
        };
        let parts = Parts { common: &common, source, flags, own, delta };
        let [warm_up, forgetting, learning] = [0, 1, 2].map(|i| parts.stage(i, &stages[i]));
        let plan = Self { choice, stages: [warm_up?, forgetting?, learning?], delta };
        plan.granularity()?;
        Ok(plan)
    }

    /// What a mask's bit stands for.
    ///
    /// # Errors
    /// For a name that is none, and for single weights that what moves cannot hold.
    pub fn granularity(&self) -> Result<Granularity> {
        let of_weights = self.delta == DeltaKind::Full;
        let Some(name) = &self.choice.granularity else {
            return Ok(if of_weights { Granularity::Weight } else { Granularity::Row });
        };
        let wanted = Granularity::from_name(name)?;
        if wanted == Granularity::Weight && !of_weights {
            let what = format!("delta {} cannot hold single weights; delta full does", self.delta.name());
            return Err(bad("granularity", &what));
        }
        Ok(wanted)
    }

    /// Shares of forgetting's and of learning's mask.
    pub fn ratios(&self) -> [f64; 2] {
        [self.choice.forget_ratio.unwrap_or(self.choice.mask_ratio / 2.0), self.choice.mask_ratio]
    }

    /// The TOML text that gives this plan again: learning's keys at the top, and in the other stages' tables what is different
    /// there.
    ///
    /// # Errors
    /// [`Kind::Internal`] if it cannot be written.
    pub fn to_toml(&self) -> Result<String> {
        let internal = |e: toml::ser::Error| Error::new(Kind::Internal, format!("the plan cannot be written: {e}"));
        let plain = |config: &TrainConfig| -> Result<Table> {
            let mut table = config.to_table()?;
            DECIDED.iter().for_each(|key| drop(table.remove(*key)));
            Ok(table)
        };
        let [warm_up, forgetting, learning] = &self.stages;
        let mut common = plain(learning)?;
        let mut allo = Table::try_from(&self.choice).map_err(internal)?;
        for (name, config) in STAGES.into_iter().zip([warm_up, forgetting]) {
            let mut own = plain(config)?;
            // What the stages have by default is said in each, whatever the top says.
            let said = ["learning_rate", "warmup_ratio", "warmup_steps", "epochs", "max_steps"];
            own.retain(|key, value| said.contains(&key) || common.get(key) != Some(value));
            allo.insert(name.to_owned(), Value::Table(own));
        }
        common.insert("method".to_owned(), ALLO.into());
        common.insert("delta".to_owned(), self.delta.name().into());
        common.insert(ALLO.to_owned(), Value::Table(allo));
        toml::to_string(&common).map_err(internal)
    }
}

/// What the stages are made from.
struct Parts<'a> {
    common: &'a Table,
    source: &'a str,
    flags: &'a TrainOverrides,
    own: &'a AlloOverrides,
    delta: DeltaKind,
}

impl Parts<'_> {
    fn stage(&self, i: usize, own: &Table) -> Result<TrainConfig> {
        let (is_forgetting, is_learning) = (i == 1, i == 2);
        let delta = self.delta_of(i);
        let mut stage = self.common.clone();
        let mut flags = self.flags.clone();
        (flags.method, flags.delta) = (None, None);
        if is_forgetting {
            OF_PAIRS.iter().for_each(|key| drop(stage.remove(*key)));
            (flags.loss_type, flags.loss_weights, flags.sft_weight) = (None, None, None);
            (flags.label_smoothing, flags.simpo_gamma, flags.cpo_alpha) = (None, None, None);
        }
        if !is_learning {
            stage.remove("rejected_share");
            flags.rejected_share = None;
        }
        if delta != DeltaKind::Lora && self.delta_of(0) == DeltaKind::Lora {
            // The warm-up's factors.
            OF_FACTORS.iter().for_each(|key| drop(stage.remove(*key)));
            (flags.lora_rank, flags.lora_alpha, flags.use_rslora) = (None, None, None);
            (flags.lora_dropout, flags.loraplus_lr_ratio) = (None, None);
        }
        let common_rate = flags.learning_rate.or_else(|| self.common.get("learning_rate")?.as_float());
        stage.remove("learning_rate");
        flags.learning_rate = None;
        let rises = |t: &Table| t.contains_key("warmup_ratio") || t.contains_key("warmup_steps");
        let says_rise =
            rises(self.common) || rises(own) || flags.warmup_ratio.is_some() || flags.warmup_steps.is_some();
        let says_share = self.common.contains_key("rejected_share") || own.contains_key("rejected_share");
        let says_share = says_share || flags.rejected_share.is_some();
        stage.extend(own.clone());
        let text = toml::to_string(&stage).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        let (mut config, given) =
            TrainConfig::from_toml_with_keys(&text, &format!("{}: {ALLO}: {}", self.source, STAGES[i]))?;
        config.method = if is_forgetting { Method::Npo } else { Method::Dpo };
        config.delta = delta;
        config.apply(flags)?;
        config.refuse_unused(&given)?;
        if is_forgetting && !says_rise {
            config.warmup_ratio = FORGETTING_WARMUP;
        }
        if is_learning && !says_share {
            config.rejected_share = REJECTED_SHARE;
        }
        if !own.contains_key("learning_rate") {
            // A rate for what moves here, be it of another kind than what moves in learning.
            let common_rate = common_rate.filter(|_| delta == self.delta);
            let rate = common_rate.unwrap_or_else(|| Method::Dpo.learning_rate(delta));
            config.learning_rate = round(RATES[i] * rate);
        }
        if let Some(steps) = &self.own.stage_steps {
            config.max_steps = *of_stage("stage-steps", steps, i)?;
        }
        if let Some(epochs) = &self.own.stage_epochs {
            (config.epochs, config.max_steps) = (*of_stage("stage-epochs", epochs, i)?, 0);
        }
        if let Some(rates) = &self.own.stage_rates {
            config.learning_rate = *of_stage("stage-rates", rates, i)?;
        }
        if config.train_norms || config.train_biases {
            let key = if config.train_norms { "train_norms" } else { "train_biases" };
            return Err(bad(key, "method allo moves what its masks choose, and they choose of matrices"));
        }
        // The rows that move are not known yet; who runs the stage names them.
        let later = Some(PathBuf::new()).filter(|_| delta == DeltaKind::Rows);
        config.mask.clone_from(&later);
        config.resolve().map(|config| TrainConfig { mask: None, ..config })
    }

    /// What moves in a stage.
    fn delta_of(&self, stage: usize) -> DeltaKind {
        match self.delta {
            // Which rows move is known when the warm-up has been made, by factors that are as small.
            DeltaKind::Rows if stage == 0 => DeltaKind::Lora,
            delta => delta,
        }
    }
}

/// A rate as someone would have written it: 3e-5 and not 2.9999999999999997e-5.
fn round(rate: f64) -> f64 {
    format!("{rate:.12e}").parse().unwrap_or(rate)
}

fn of_stage<'a, T>(flag: &str, values: &'a [T], i: usize) -> Result<&'a T> {
    let message = || bad(flag, &format!("{} values; warm-up, forgetting and learning are three", values.len()));
    values.get(i).filter(|_| values.len() == STAGES.len()).ok_or_else(message)
}

fn table(value: Option<Value>, name: &str) -> Result<Table> {
    match value {
        None => Ok(Table::new()),
        Some(Value::Table(table)) => Ok(table),
        Some(_) => Err(Error::new(Kind::Argument, format!("{name}: expected a table"))),
    }
}

fn choice(table: Table, source: &str, own: &AlloOverrides) -> Result<AlloChoice> {
    let mut choice: AlloChoice =
        table.try_into().map_err(|e| Error::new(Kind::Argument, format!("{source}: {}", e.to_string().trim())))?;
    choice.mask_ratio = own.mask_ratio.unwrap_or(choice.mask_ratio);
    choice.forget_ratio = own.forget_ratio.or(choice.forget_ratio);
    choice.granularity = own.granularity.clone().or(choice.granularity);
    if own.tokens_below.is_some() {
        choice.tokens_share = None;
    }
    choice.tokens_below = own.tokens_below.unwrap_or(choice.tokens_below);
    choice.tokens_share = own.tokens_share.or(choice.tokens_share);
    let shares = [
        ("mask_ratio", Some(choice.mask_ratio)),
        ("forget_ratio", choice.forget_ratio),
        ("tokens_share", choice.tokens_share),
    ];
    for (key, share) in shares {
        if let Some(share) = share.filter(|s| !(*s > 0.0 && *s <= 1.0)) {
            return Err(bad(key, &format!("{share} is no share above 0 and up to 1")));
        }
    }
    if choice.forget_ratio.is_some_and(|ratio| ratio > choice.mask_ratio) {
        // What forgetting moved and learning may not move would stay moved: the masks are nested.
        return Err(bad("forget_ratio", &format!("is larger than mask_ratio {}", choice.mask_ratio)));
    }
    if !choice.tokens_below.is_finite() {
        return Err(bad("tokens_below", &format!("{} is no number", choice.tokens_below)));
    }
    Ok(choice)
}

#[cfg(test)]
#[path = "allo_tests.rs"]
mod tests;
