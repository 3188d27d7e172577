//! Which keys a configuration has a use for: the others are not written, and refused where someone gives them.

use super::config::TrainConfig;
use super::delta::DeltaKind;
use super::method::Method;
use super::resolve::bad;
use crate::error::{Error, Kind, Result};
use crate::loss::PreferenceLoss;
use crate::optim::{OptimizerKind, ScheduleKind};

impl TrainConfig {
    /// Keys that this configuration has no use for, each with what stands in the way.
    fn unused(&self) -> Result<Vec<(&'static str, String)>> {
        let losses = self.losses()?;
        let (dpo, kto, sft) = (self.method == Method::Dpo, self.method == Method::Kto, self.method == Method::Sft);
        let method = || format!("method {} has no such constant", self.method.name());
        let has = |wanted: &[PreferenceLoss]| dpo && losses.iter().any(|(_, loss)| wanted.contains(loss));
        let loss_says = if dpo { format!("loss type {} has no such constant", self.loss_type) } else { method() };
        let smooths = has(&[PreferenceLoss::Cdpo, PreferenceLoss::Robust]);
        let optim = format!("optimizer {} has no such constant", self.optim.name());
        let (adam, sgd) = (self.optim == OptimizerKind::AdamW, self.optim == OptimizerKind::Sgd);
        let has_floor = self.lr_scheduler_type == ScheduleKind::CosineWithMinLr;
        let lora = self.delta == DeltaKind::Lora;
        let factors = || format!("delta {} has no factors", self.delta.name());
        let uses = [
            ("lora_rank", lora, factors()),
            ("lora_alpha", lora, factors()),
            ("use_rslora", lora, factors()),
            ("lora_dropout", lora, factors()),
            ("loraplus_lr_ratio", lora, factors()),
            ("rank_pattern", lora, factors()),
            ("alpha_pattern", lora, factors()),
            ("label_smoothing", smooths, loss_says.clone()),
            ("simpo_gamma", has(&[PreferenceLoss::Simpo]), loss_says.clone()),
            ("cpo_alpha", has(&[PreferenceLoss::Cpo]), loss_says),
            ("loss_mask", sft, format!("belongs to method sft, not {}", self.method.name())),
            ("packing", sft, format!("belongs to method sft, not {}", self.method.name())),
            ("loss_weights", dpo, format!("losses on pairs belong to method dpo, not {}", self.method.name())),
            ("loss_type", dpo, format!("losses on pairs belong to method dpo, not {}", self.method.name())),
            ("sft_weight", dpo, format!("losses on pairs belong to method dpo, not {}", self.method.name())),
            ("beta", dpo || kto || self.method == Method::Npo, method()),
            ("rejected_share", dpo, format!("belongs to method dpo, not {}", self.method.name())),
            ("desirable_weight", kto, method()),
            ("undesirable_weight", kto, method()),
            ("adam_beta1", adam, optim.clone()),
            ("adam_beta2", adam, optim.clone()),
            ("adam_epsilon", adam, optim.clone()),
            ("sgd_momentum", sgd, optim),
            ("min_lr", has_floor, "only lr_scheduler_type cosine_with_min_lr has a floor".to_owned()),
        ];
        Ok(uses.into_iter().filter(|(_, used, _)| !used).map(|(key, _, why)| (key, why)).collect())
    }

    /// Refuses the first of `given` that the configuration has no use for.
    pub fn refuse_unused<S: AsRef<str>>(&self, given: &[S]) -> Result<()> {
        let unused = self.unused()?;
        match unused.iter().find(|(key, _)| given.iter().any(|g| g.as_ref() == *key)) {
            Some((key, why)) => Err(bad(key, why)),
            None => Ok(()),
        }
    }

    /// Reads a TOML text and tells which keys it gives, so that [`Self::refuse_unused`] can be asked once flags have had
    /// their say.
    pub fn from_toml_with_keys(text: &str, source: &str) -> Result<(Self, Vec<String>)> {
        let config = Self::from_toml(text, source)?;
        let table: toml::Table = toml::from_str(text)
            .map_err(|e| Error::new(Kind::Argument, format!("{source}: {}", e.to_string().trim())))?;
        Ok((config, table.keys().cloned().collect()))
    }

    /// The keys that are in use, with their values.
    pub(super) fn to_table(&self) -> Result<toml::Table> {
        let mut table = toml::Table::try_from(self)
            .map_err(|e| Error::new(Kind::Internal, format!("the configuration cannot be written: {e}")))?;
        for (key, _) in self.unused()? {
            table.remove(key);
        }
        Ok(table)
    }

    /// The TOML text that gives this configuration again: keys without a use are left out.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(&self.to_table()?)
            .map_err(|e| Error::new(Kind::Internal, format!("the configuration cannot be written: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_is_not_written_and_refused_where_it_is_given() {
        let read = |text: &str| -> Result<TrainConfig> {
            let (config, keys) = TrainConfig::from_toml_with_keys(text, "run.toml")?;
            config.refuse_unused(&keys)?;
            config.resolve()
        };
        for (text, says) in [
            ("label_smoothing = 0.1", "loss type sigmoid"),
            ("simpo_gamma = 1.0\nloss_type = \"ipo\"", "loss type ipo"),
            ("method = \"sft\"\nbeta = 0.2", "method sft"),
            ("method = \"kto\"\nloss_type = \"sigmoid\"", "method dpo"),
            ("desirable_weight = 1.0", "method dpo"),
            ("min_lr = 1e-6", "cosine_with_min_lr"),
            ("sgd_momentum = 0.5", "adamw"),
            ("optim = \"sgd\"\nadam_beta1 = 0.5", "sgd"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        for text in [
            "loss_type = \"robust\"\nlabel_smoothing = 0.2",
            "method = \"kto\"\nundesirable_weight = 1.5",
            "optim = \"sgd\"\nsgd_momentum = 0.5",
            "lr_scheduler_type = \"cosine_with_min_lr\"\nmin_lr = 1e-6",
        ] {
            let config = read(text).unwrap();
            assert_eq!(read(&config.to_toml().unwrap()).unwrap(), config, "{text}");
            let lines = config.to_toml().unwrap();
            assert!(text.lines().all(|line| lines.contains(line.split(' ').next().unwrap())), "{lines}");
        }
        let silent = read("").unwrap().to_toml().unwrap();
        assert!(!silent.contains("simpo_gamma") && !silent.contains("sgd_momentum"), "{silent}");
    }
}
