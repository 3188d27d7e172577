//! Which tokens of a row have a loss.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// Which tokens of a row have a loss. Pairs and labelled rows compare answers: theirs is always the completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossMask {
    /// The answer: of a dialogue the assistant's last turn (TRL: `completion_only_loss`).
    #[default]
    #[serde(alias = "last-turn", alias = "last_turn")]
    Completion,
    /// Every turn of the assistant, each with the token that ends it (TRL: `assistant_only_loss`).
    Assistant,
    /// Everything but the first token.
    All,
}

impl LossMask {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            LossMask::Completion => "completion",
            LossMask::Assistant => "assistant",
            LossMask::All => "all",
        }
    }

    /// Reads its name; `last-turn` is another one of `completion`.
    ///
    /// # Errors
    /// [`Kind::Argument`] for what is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "completion" | "completion-only" | "last-turn" => Ok(LossMask::Completion),
            "assistant" | "assistant-only" => Ok(LossMask::Assistant),
            "all" => Ok(LossMask::All),
            _ => {
                let message = format!("loss-mask: {name} is none of assistant, completion, last-turn, all");
                Err(Error::new(Kind::Argument, message))
            }
        }
    }
}

/// What becomes of a row that is longer than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is left out and counted: a cut answer teaches the model to stop in the middle.
    #[default]
    Drop,
    /// Its beginning is kept (TRL: `truncation_mode = "keep_start"`); without a token that has a loss it is left out.
    Truncate,
    /// An error that names its line.
    Error,
}

impl TooLong {
    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            TooLong::Drop => "drop",
            TooLong::Truncate => "truncate",
            TooLong::Error => "error",
        }
    }

    /// Reads its name; `raise` is axolotl's for `error`, `keep_start` TRL's for `truncate`.
    ///
    /// # Errors
    /// [`Kind::Argument`] for what is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "drop" => Ok(TooLong::Drop),
            "truncate" | "keep-start" => Ok(TooLong::Truncate),
            "error" | "raise" => Ok(TooLong::Error),
            _ => {
                let message = format!("too-long: {name} is none of drop, truncate, error");
                Err(Error::new(Kind::Argument, message))
            }
        }
    }
}
