//! Adapters and samplers that a command generates text with.

use super::args_data::{Adapters, Sampling};
use super::{adapter_list, open_adapter};
use crate::error::{Error, Kind, Result};
use crate::generate::GenerateParams;
use crate::gguf;
use crate::runtime::{Adapter, Model, SamplerParams};
use std::sync::Arc;

/// Adapters with their scales, loaded.
pub(super) type Loaded = Vec<(Arc<Adapter>, f32)>;

/// Loads the adapters of a command.
pub(super) fn adapters(args: &Adapters, model: &Arc<Model>, base: &gguf::File) -> Result<Loaded> {
    let open = |(path, scale): (std::path::PathBuf, f32)| Ok((open_adapter(&path, model, base)?, scale));
    adapter_list(&args.lora, &args.lora_scaled)?.into_iter().map(open).collect()
}

/// Checks the flags of sampling.
pub(super) fn params(args: &Sampling, n_parallel: usize, n_threads: usize) -> Result<GenerateParams> {
    for (flag, value, max) in [("temp", args.temp, 100.0), ("top-p", args.top_p, 1.0), ("min-p", args.min_p, 1.0)] {
        if !(0.0..=max).contains(&value) {
            return Err(Error::new(Kind::Argument, format!("--{flag} {value}: outside 0 to {max}")));
        }
    }
    // llama.cpp has room for 256 sequences in a context.
    if !(1..=256).contains(&n_parallel) {
        return Err(Error::new(Kind::Argument, format!("--parallel {n_parallel}: outside 1 to 256")));
    }
    let Sampling { predict: n_predict, temp: temperature, top_k, top_p, min_p, seed } = *args;
    let sampler = SamplerParams { temperature, top_k, top_p, min_p, seed };
    Ok(GenerateParams { n_predict, n_threads, n_parallel, sampler })
}
