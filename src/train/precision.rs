//! In which numbers a run computes, and whether it keeps what it computed.

use super::policy::Policy;
use super::resolve::bad;
use crate::engine::{Engine, Form};
use crate::error::{Error, Kind, Result};
use crate::kernel::has_fast_bf16;
use crate::os::{anonymous_bytes, available_bytes};
use crate::runtime::Model;
use serde::{Deserialize, Serialize};

/// In which numbers products with weights are formed. Sums are in F32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// BF16 where the CPU multiplies it faster, F32 elsewhere.
    Auto,
    /// F32.
    F32,
    /// BF16: weights and activations are rounded before they are multiplied.
    Bf16,
}

impl Precision {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        let known = [("auto", Precision::Auto), ("f32", Precision::F32), ("bf16", Precision::Bf16)];
        let found = known.into_iter().find(|(n, _)| *n == name.to_ascii_lowercase());
        found.map(|(_, p)| p).ok_or_else(|| bad("precision", &format!("{name} is none of auto, f32, bf16")))
    }

    /// The engine's form for a model: that of [`Self::form`] on the CPU, ops of the runtime where devices compute.
    ///
    /// # Errors
    /// If numbers are asked for that the devices do not let us choose.
    pub fn form_for(self, model: &Model) -> Result<Form> {
        match (model.devices(), self) {
            ([], _) => Ok(self.form()),
            (_, Precision::Auto) => Ok(Form::TrainingOps),
            ([first, ..], _) => {
                Err(bad("precision", &format!("{} forms products in its own numbers: auto", first.name)))
            }
        }
    }

    /// What it comes to on this CPU: never `Auto`.
    pub fn resolve(self) -> Self {
        match self {
            Precision::Auto if has_fast_bf16() => Precision::Bf16,
            Precision::Auto => Precision::F32,
            given => given,
        }
    }

    /// The engine's form.
    pub fn form(self) -> Form {
        match self.resolve() {
            Precision::Bf16 => Form::TrainingBf16,
            Precision::F32 | Precision::Auto => Form::Training,
        }
    }
}

/// Whether the insides of blocks are computed again for the backward pass. The result is the same, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Kept where they take less than a quarter of the memory that is free.
    Auto,
    /// Always: least memory.
    Always,
    /// Never: fastest.
    Never,
}

impl Recompute {
    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        let known = [("auto", Recompute::Auto), ("always", Recompute::Always), ("never", Recompute::Never)];
        let found = known.into_iter().find(|(n, _)| *n == name.to_ascii_lowercase());
        found.map(|(_, p)| p).ok_or_else(|| bad("recompute", &format!("{name} is none of auto, always, never")))
    }

    /// What it comes to where a run takes `least` bytes, and `kept` more to keep the insides of blocks, of `memory` ones: never
    /// `Auto`.
    ///
    /// # Errors
    /// [`Kind::Argument`] where the run does not fit.
    pub fn within(self, memory: u64, least: u64, kept: u64) -> Result<Self> {
        let fits = |needed: u64| needed <= memory;
        let (plan, needed) = match self {
            Recompute::Auto if fits(least + kept) => (Recompute::Never, least + kept),
            Recompute::Auto | Recompute::Always => (Recompute::Always, least),
            Recompute::Never => (Recompute::Never, least + kept),
        };
        if fits(needed) {
            return Ok(plan);
        }
        let (needed, allowed) = (needed.div_ceil(1 << 20), memory >> 20);
        let what = if plan == Recompute::Never { " with recompute = never" } else { "" };
        Err(Error::new(
            Kind::Argument,
            format!("memory: the run takes about {needed} MiB beside the mapped model{what}, {allowed} are allowed; a smaller max_length or micro_batch_tokens takes less"),
        ))
    }

    /// What it comes to for micro-batches of at most `n_tokens` places: never `Auto`. `memory` is what the run may take beside the
    /// mapped model; without it, a quarter of what is free may go to keeping.
    ///
    /// # Errors
    /// [`Kind::Argument`] where the run does not fit.
    pub fn plan(self, memory: Option<u64>, engine: &Engine, n_tokens: usize, on_devices: bool) -> Result<Self> {
        let kept = engine.inner_bytes(n_tokens) as u64;
        let Some(memory) = memory else {
            // What devices compute crosses to the host and back where it is kept: they compute it again.
            return Ok(self.resolve(kept, if on_devices { 0 } else { available_bytes() }));
        };
        // AdamW's two moments of every trained number.
        let moments = 8 * engine.lengths().iter().sum::<usize>();
        let least = anonymous_bytes() + (moments + engine.batch_bytes(n_tokens)) as u64;
        self.within(memory, least, kept)
    }

    /// What it comes to where keeping takes `kept` bytes of `available` ones: never `Auto`.
    pub fn resolve(self, kept: u64, available: u64) -> Self {
        match self {
            Recompute::Auto if kept <= available / 4 => Recompute::Never,
            Recompute::Auto => Recompute::Always,
            given => given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Recompute::{Always, Auto, Never};

    #[test]
    fn memory_decides_what_is_kept() {
        for (wanted, memory, found) in [
            (Auto, 30, Some(Never)),
            (Auto, 29, Some(Always)),
            (Auto, 9, None),
            (Always, 30, Some(Always)),
            (Never, 29, None),
        ] {
            let plan = wanted.within(memory << 20, 10 << 20, 20 << 20);
            assert_eq!(plan.ok(), found, "{wanted:?} in {memory} MiB");
        }
    }
}
