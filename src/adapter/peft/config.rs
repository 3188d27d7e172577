//! `adapter_config.json`.

use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Keys that decide nothing about what a finished adapter computes, or that are read below.
const KNOWN: [&str; 27] = [
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "base_model_class",
    "parent_library",
    "revision",
    "inference_mode",
    "r",
    "target_modules",
    "exclude_modules",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "init_lora_weights",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "megatron_core",
    "eva_config",
    "loftq_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "bias",
];

/// Ways to begin that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) move it, and their factors are
/// for the moved one.
const INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Ranks and scales of the modules.
#[derive(Debug)]
pub(super) struct Config {
    path: PathBuf,
    r: usize,
    alpha: f64,
    is_stabilized: bool,
    ranks: Map<String, Value>,
    alphas: Map<String, Value>,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a key that makes the adapter something else than A and B.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read PEFT's configuration", &e))?;
        let fault = |what: String| Error::new(Kind::Format, format!("{}: {what}", path.display()));
        let keys: Map<String, Value> = serde_json::from_str(&text).map_err(|e| fault(e.to_string()))?;
        let other = |what: String| Err(Error::new(Kind::Unsupported, format!("{}: {what}", path.display())));
        match keys.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            found => return other(format!("peft_type: {} instead of LORA", found.unwrap_or("nothing"))),
        }
        if let Some(bias) = keys.get("bias").filter(|b| !b.is_null() && b.as_str() != Some("none")) {
            return other(format!("bias: {bias}: trained biases are no part of an adapter in GGUF"));
        }
        if let Some(init) = keys.get("init_lora_weights").and_then(Value::as_str).filter(|i| !INITS.contains(i)) {
            return other(format!("init_lora_weights: {init}: its factors are for a base that it has changed"));
        }
        let is_nothing = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if let Some((key, value)) =
            keys.iter().find(|(key, value)| !KNOWN.contains(&key.as_str()) && !is_nothing(value))
        {
            return other(format!("{key}: {value}: an adapter in GGUF has no such thing"));
        }
        let number = |key: &str, otherwise: f64| match keys.get(key) {
            None => Ok(otherwise),
            Some(value) => value.as_f64().ok_or_else(|| fault(format!("{key}: {value} is no number"))),
        };
        let map = |key: &str| match keys.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(value) => Err(fault(format!("{key}: {value} is no table"))),
        };
        Ok(Self {
            path: path.to_owned(),
            // PEFT's defaults.
            r: number("r", 8.0)? as usize,
            alpha: number("lora_alpha", 8.0)?,
            is_stabilized: keys.get("use_rslora") == Some(&Value::Bool(true)),
            ranks: map("rank_pattern")?,
            alphas: map("alpha_pattern")?,
        })
    }

    /// Of a table's patterns the first that means a module (PEFT's `get_pattern_key`): a regular expression for the end of its
    /// path.
    fn lookup(&self, name: &str, table: &Map<String, Value>, module: &str) -> Result<Option<f64>> {
        let fault = |what: String| Error::new(Kind::Format, format!("{}: {name}: {what}", self.path.display()));
        for (pattern, value) in table {
            let regex = regex_lite::Regex::new(&format!("^(?:(?:.*\\.)?(?:{pattern}))$"));
            if regex.map_err(|e| fault(format!("{pattern}: {e}")))?.is_match(module) {
                let number = value.as_f64().ok_or_else(|| fault(format!("{pattern}: {value} is no number")))?;
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The scale of B·A of a module, whose factors have this rank.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let wanted = self.lookup("rank_pattern", &self.ranks, module)?.unwrap_or(self.r as f64);
        if wanted != rank as f64 {
            let message = format!("{}: {module} has rank {wanted}, its factors have {rank}", self.path.display());
            return Err(Error::new(Kind::Format, message));
        }
        let alpha = self.lookup("alpha_pattern", &self.alphas, module)?.unwrap_or(self.alpha);
        if !alpha.is_finite() || alpha == 0.0 {
            return Err(Error::new(Kind::Format, format!("{}: {module} has an alpha of {alpha}", self.path.display())));
        }
        Ok(alpha / if self.is_stabilized { wanted.sqrt() } else { wanted })
    }

    /// What the adapter's file calls alpha.
    pub(super) fn alpha(&self) -> f32 {
        let alpha = if self.is_stabilized { self.alpha * (self.r as f64).sqrt() } else { self.alpha };
        alpha as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("adapter_config.json");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn scales_are_pefts() {
        let config = read(
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "use_dora": false, "modules_to_save": null,
            "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers\\.1\\..*": 3, "^model.layers.0.mlp.up_proj": 5}}"#,
        )
        .unwrap();
        assert_eq!(config.scale("model.layers.0.self_attn.q_proj", 2).unwrap(), 8.0);
        assert_eq!(config.scale("model.layers.0.self_attn.k_proj", 8).unwrap(), 2.0);
        assert_eq!(config.scale("model.layers.1.self_attn.q_proj", 2).unwrap(), 1.5);
        assert_eq!(config.scale("model.layers.11.self_attn.k_proj", 8).unwrap(), 2.0);
        assert_eq!(config.scale("model.layers.0.mlp.up_proj", 8).unwrap(), 0.625);
        assert!(config.scale("model.layers.0.mlp.up_proj", 4).unwrap_err().to_string().contains("has rank 8"));
        let stabilized = read(r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 2, "use_rslora": true}"#).unwrap();
        assert_eq!((stabilized.scale("m", 16).unwrap(), stabilized.alpha()), (0.5, 8.0));
    }

    #[test]
    fn what_is_more_than_two_factors_is_refused_by_name() {
        for (keys, says) in [
            (r#""use_dora": true"#, "use_dora"),
            (r#""modules_to_save": ["lm_head"]"#, "modules_to_save"),
            (r#""bias": "all""#, "bias"),
            (r#""fan_in_fan_out": true"#, "fan_in_fan_out"),
            (r#""init_lora_weights": "pissa""#, "pissa"),
            (r#""alora_invocation_tokens": [1, 2]"#, "alora_invocation_tokens"),
            (r#""of_a_later_peft": 3"#, "of_a_later_peft"),
        ] {
            let error = read(&format!(r#"{{"peft_type": "LORA", {keys}}}"#)).unwrap_err();
            assert!(error.kind() == Kind::Unsupported && error.to_string().contains(says), "{error}");
        }
        assert!(read(r#"{"peft_type": "IA3"}"#).unwrap_err().to_string().contains("IA3"));
        assert_eq!(read("[]").unwrap_err().kind(), Kind::Format);
        assert_eq!(read(r#"{"peft_type": "LORA", "r": "x"}"#).unwrap_err().kind(), Kind::Format);
    }
}
