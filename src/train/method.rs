//! What is optimised, and on which rows.

use super::delta::DeltaKind;
use super::resolve::bad;
use crate::data::{Rows, Sample};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// What is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Supervised fine-tuning on completions.
    Sft,
    /// Direct preference optimisation on pairs.
    Dpo,
    /// Kahneman-Tversky optimisation on labelled completions.
    Kto,
    /// Negative preference optimisation of the tokens of pairs' rejected answers: ALLO's forgetting. Chosen answers are only
    /// watched.
    Npo,
}

impl Method {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Method::Sft => "sft",
            Method::Dpo => "dpo",
            Method::Kto => "kto",
            Method::Npo => "npo",
        }
    }

    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        let all = [Method::Sft, Method::Dpo, Method::Kto, Method::Npo];
        let found = all.into_iter().find(|m| m.name() == name.to_ascii_lowercase());
        found.ok_or_else(|| {
            bad("method", &format!("{name} is none of sft, dpo, kto, npo, nor allo, which is several runs"))
        })
    }

    /// Converts rows to what the method trains on.
    pub fn rows(self, rows: Rows) -> Result<Rows> {
        match self {
            Method::Sft => rows.into_completions(),
            Method::Dpo | Method::Npo => rows.into_pairs(),
            Method::Kto => rows.into_labelled(),
        }
    }

    /// Whether it can train on a tokenised row.
    pub fn suits(self, sample: &Sample) -> bool {
        matches!(
            (self, sample),
            (Method::Sft, Sample::Completion { .. })
                | (Method::Dpo | Method::Npo, Sample::Pair { .. })
                | (Method::Kto, Sample::Labelled { .. })
        )
    }

    /// Learning rates of factors that work on models of 100 to 300 million parameters (measured: README); of whole weights, those
    /// of fine-tuning and of ALLO's learning stage.
    pub(super) fn learning_rate(self, delta: DeltaKind) -> f64 {
        match self {
            Method::Sft if delta != DeltaKind::Lora => 1e-5,
            Method::Dpo | Method::Kto if delta != DeltaKind::Lora => 5e-6,
            Method::Npo if delta != DeltaKind::Lora => 5e-7,
            Method::Sft => 2e-4,
            Method::Dpo => 3e-4,
            Method::Kto => 2e-4,
            // A tenth of the learning stage's, as ALLO has it.
            Method::Npo => 3e-5,
        }
    }
}
