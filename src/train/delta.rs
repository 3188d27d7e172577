//! What moves: factors beside the weights, some of their rows, or the weights themselves.

use super::resolve::bad;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeltaKind {
    /// LoRA factors.
    Lora,
    /// A free change of the rows that a mask names, in F32.
    Rows,
    /// A free change of every weight, in F32.
    Full,
}

impl DeltaKind {
    /// All of them with their names in flags and files.
    pub const ALL: [(Self, &'static str); 3] = [(Self::Lora, "lora"), (Self::Rows, "rows"), (Self::Full, "full")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(own, _)| *own == self).map_or("lora", |(_, name)| name)
    }

    /// Reads its name.
    pub fn from_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(_, own)| *own == name.to_ascii_lowercase()).map(|(own, _)| own);
        found.ok_or_else(|| bad("delta", &format!("{name} is none of lora, rows, full")))
    }
}
