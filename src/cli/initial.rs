//! The adapter that a run starts from: fresh factors as the configuration has them, or those of a file.

use crate::adapter::{import, in_layers, resolve_targets, Linear, Lora};
use crate::error::{Error, Kind, Result};
use crate::gguf;
use crate::trace::Trace;
use crate::train::TrainConfig;
use std::path::Path;

/// Keys that say what a file says itself.
const OF_FILE: [&str; 7] =
    ["lora_rank", "lora_alpha", "lora_targets", "layers_to_transform", "use_rslora", "rank_pattern", "alpha_pattern"];

/// What stands for the weights that a file adapts.
const AS_IN_FILE: &str = "as in --lora";

/// Fresh factors.
pub(super) fn fresh(config: &TrainConfig, trace: &Trace) -> Result<Lora> {
    if config.lora_targets == AS_IN_FILE {
        let message = "lora-targets: the run was begun with --lora FILE; give it again";
        return Err(Error::new(Kind::Mismatch, message));
    }
    let targets = resolve_targets(&config.lora_targets, &in_layers(&config.layers_to_transform, Linear::all(trace))?)?;
    config.shape().init(&targets, config.seed)
}

/// Lets the configuration say what an adapter's file says itself: its largest rank, its alpha, its weights. `given`: keys that
/// someone wrote, of which none may be the file's.
pub(super) fn claim(path: &Path, config: &mut TrainConfig, given: &[String]) -> Result<()> {
    if let Some(key) = given.iter().find(|key| OF_FILE.contains(&key.as_str())) {
        let message = format!("{}: --lora has its own; leave it out of the configuration", key.replace('_', "-"));
        return Err(Error::new(Kind::Argument, message));
    }
    let info = gguf::validate_adapter(&gguf::File::open(path)?)?;
    config.lora_rank = info.pairs.iter().map(|pair| pair.rank as usize).max().unwrap_or(config.lora_rank);
    // An alpha of 0 is none: factors are scaled by 1.
    config.lora_alpha = if info.alpha == 0.0 { config.lora_rank as f32 } else { info.alpha };
    config.lora_targets = AS_IN_FILE.to_owned();
    Ok(())
}

/// The factors of a file, with a fingerprint of them.
pub(super) fn from_file(path: &Path, base: &gguf::File) -> Result<(Lora, String)> {
    let file = gguf::File::open(path)?;
    gguf::check_fits(&gguf::validate_adapter(&file)?, base)?;
    let lora = import(&file)?;
    let fingerprint = format!("{}, alpha {}", gguf::base_hash(&file), lora.alpha);
    Ok((lora, fingerprint))
}
