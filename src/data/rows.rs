//! The rows of one source, and their conversion into what a training method needs.

use super::forms::Form;
use super::sample::{Example, Row};
use crate::error::{Error, Kind, Result};

/// All rows of one file. They have the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Name of the source, for messages.
    pub source: String,
    /// The form of the file the rows came from.
    pub form: Form,
    /// The rows, in the file's order.
    pub rows: Vec<Row>,
}

impl Rows {
    /// Keeps preference pairs as they are, for the DPO family.
    ///
    /// # Errors
    /// [`Kind::Data`] where the rows are not pairs.
    pub fn into_pairs(self) -> Result<Self> {
        match self.rows.iter().find(|row| !matches!(row.example, Example::Pair { .. })) {
            Some(row) => Err(self.unsuitable(row.line, "preference pairs (\"chosen\" and \"rejected\")")),
            None => Ok(self),
        }
    }

    /// Unrolls each pair into two labelled rows, the chosen answer (`true`) before the rejected one (`false`); labelled
    /// rows stay as they are. For KTO.
    ///
    /// # Errors
    /// [`Kind::Data`] for rows without any verdict.
    pub fn into_labelled(self) -> Result<Self> {
        let mut rows = Vec::with_capacity(self.rows.len() * 2);
        for row in &self.rows {
            match &row.example {
                Example::Pair { prompt, chosen, rejected } => {
                    for (completion, label) in [(chosen, true), (rejected, false)] {
                        let (prompt, completion) = (prompt.clone(), completion.clone());
                        rows.push(Row { line: row.line, example: Example::Labelled { prompt, completion, label } });
                    }
                }
                Example::Labelled { .. } => rows.push(row.clone()),
                Example::Completion { .. } | Example::Text { .. } => {
                    return Err(self.unsuitable(row.line, "preference pairs, or rows with a \"label\""));
                }
            }
        }
        Ok(Self { rows, ..self })
    }

    /// Keeps what is worth imitating: completions as they are, the chosen answer of a pair, the desirable ones of
    /// labelled rows (undesirable ones are left out). For SFT.
    ///
    /// # Errors
    /// [`Kind::Data`] where nothing is left.
    pub fn into_completions(self) -> Result<Self> {
        let mut rows = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            let (prompt, completion) = match row.example {
                Example::Text { .. } => {
                    rows.push(row);
                    continue;
                }
                Example::Completion { prompt, completion } => (prompt, completion),
                Example::Pair { prompt, chosen, .. } => (prompt, chosen),
                Example::Labelled { prompt, completion, label: true } => (prompt, completion),
                Example::Labelled { label: false, .. } => continue,
            };
            rows.push(Row { line: row.line, example: Example::Completion { prompt, completion } });
        }
        if rows.is_empty() {
            let message = format!("{}: no row is labelled true, so there is no answer to imitate", self.source);
            return Err(Error::new(Kind::Data, message));
        }
        Ok(Self { source: self.source, form: self.form, rows })
    }

    fn unsuitable(&self, line: usize, needed: &str) -> Error {
        let message = format!("{}:{line}: the rows are {}, but this method needs {needed}", self.source, self.form);
        Error::new(Kind::Data, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Text;

    fn text(s: &str) -> Text {
        Text::Plain(s.to_owned())
    }

    fn pairs() -> Rows {
        let example = Example::Pair { prompt: text("p"), chosen: text("good"), rejected: text("bad") };
        Rows { source: "f".into(), form: Form::Pair, rows: vec![Row { line: 7, example }] }
    }

    fn labelled(label: bool) -> Row {
        Row { line: 3, example: Example::Labelled { prompt: text("p"), completion: text("c"), label } }
    }

    #[test]
    fn pairs_unroll_chosen_first_and_keep_their_line() {
        let rows = pairs().into_labelled().unwrap().rows;
        let expected = |c: &str, label| Row {
            line: 7,
            example: Example::Labelled { prompt: text("p"), completion: text(c), label },
        };
        assert_eq!(rows, [expected("good", true), expected("bad", false)]);
    }

    #[test]
    fn imitation_takes_the_chosen_and_the_desirable_only() {
        let sft = pairs().into_completions().unwrap().rows;
        assert_eq!(sft[0].example, Example::Completion { prompt: text("p"), completion: text("good") });
        let rows = Rows { source: "f".into(), form: Form::Labelled, rows: vec![labelled(false), labelled(true)] };
        assert_eq!(rows.clone().into_completions().unwrap().rows.len(), 1);
        let none = Rows { rows: vec![labelled(false)], ..rows };
        assert_eq!(none.into_completions().unwrap_err().kind(), Kind::Data);
    }

    #[test]
    fn unsuitable_rows_are_refused_with_their_line() {
        let sft = pairs().into_completions().unwrap();
        let sft = Rows { form: Form::Completion, ..sft };
        let error = sft.clone().into_labelled().unwrap_err();
        assert_eq!(error.kind(), Kind::Data);
        assert!(error.to_string().starts_with("f:7: "), "{error}");
        assert!(sft.into_pairs().is_err());
        assert!(pairs().into_pairs().is_ok());
    }
}
