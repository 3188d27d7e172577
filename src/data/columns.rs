//! Which column of a file is which part of a row.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The parts a row may have, and what files call them, the usual name first.
const PARTS: [(&str, &[&str]); 11] = [
    ("prompt", &["prompt", "instruction", "question"]),
    ("completion", &["completion", "output", "response", "answer"]),
    ("chosen", &["chosen", "chosen_response"]),
    ("rejected", &["rejected", "rejected_response"]),
    ("messages", &["messages", "conversations"]),
    ("label", &["label", "kto_tag"]),
    ("text", &["text"]),
    ("system", &["system"]),
    ("input", &["input"]),
    ("history", &["history"]),
    ("tools", &["tools"]),
];

/// Names of columns for the parts of a row: `prompt = "question"` takes a row's prompt from its `question`. Parts that
/// are not named are found by the names files usually give them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Columns(BTreeMap<String, String>);

impl Columns {
    /// Takes pairs of a part and its column.
    ///
    /// # Errors
    /// [`Kind::Argument`] for a part that no row has, and for a column without a name.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let bad = |what: String| Err(Error::new(Kind::Argument, format!("columns: {what}")));
        let mut columns = BTreeMap::new();
        for (part, column) in pairs {
            if !PARTS.iter().any(|(known, _)| *known == part) {
                let known: Vec<_> = PARTS.iter().map(|(known, _)| *known).collect();
                return bad(format!("{part} is none of {}", known.join(", ")));
            }
            if column.is_empty() {
                return bad(format!("{part} has no column"));
            }
            if columns.insert(part.clone(), column).is_some() {
                return bad(format!("{part} is mapped twice"));
            }
        }
        Ok(Self(columns))
    }

    /// Reads `prompt=question,chosen=right_answer`.
    ///
    /// # Errors
    /// [`Kind::Argument`], as [`new`](Self::new).
    pub fn parse(text: &str) -> Result<Self> {
        let pair = |pair: &str| match pair.split_once('=') {
            Some((part, column)) => Ok((part.trim().to_owned(), column.trim().to_owned())),
            None => Err(Error::new(Kind::Argument, format!("columns: {pair:?} is not PART=COLUMN"))),
        };
        Self::new(text.split(',').map(pair).collect::<Result<Vec<_>>>()?)
    }

    /// True if every part is found by its usual names.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The column that a part was mapped to.
    pub(super) fn mapped(&self, part: &str) -> Option<&str> {
        self.0.get(part).map(String::as_str)
    }

    /// The names a part may have here, the likeliest first.
    pub(super) fn names<'s>(&'s self, part: &str) -> Vec<&'s str> {
        match self.0.get(part) {
            Some(column) => vec![column.as_str()],
            None => PARTS.iter().find(|(known, _)| *known == part).map_or_else(Vec::new, |(_, names)| names.to_vec()),
        }
    }
}

impl TryFrom<BTreeMap<String, String>> for Columns {
    type Error = Error;

    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self> {
        Self::new(pairs)
    }
}

impl From<Columns> for BTreeMap<String, String> {
    fn from(columns: Columns) -> Self {
        columns.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_wrong_ones_refused() {
        let columns = Columns::parse("prompt=question, chosen = right").unwrap();
        assert_eq!(columns.names("prompt"), ["question"]);
        assert_eq!(columns.names("rejected"), ["rejected", "rejected_response"]);
        assert_eq!((columns.mapped("chosen"), columns.mapped("label")), (Some("right"), None));
        for (text, says) in [("x=y", "none of prompt"), ("prompt", "PART=COLUMN"), ("prompt=", "no column")] {
            let error = Columns::parse(text).unwrap_err();
            assert!(error.kind() == Kind::Argument && error.to_string().contains(says), "{error}");
        }
        assert!(Columns::parse("prompt=a,prompt=b").unwrap_err().to_string().contains("twice"));
    }
}
