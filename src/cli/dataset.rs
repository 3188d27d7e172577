//! From a data file to tokenised samples for a method.

use super::Printer;
use crate::data::{read_all_with, Columns, Dataset, EncodeOptions, Rows};
use crate::error::Result;
use crate::runtime::Model;
use crate::train::Method;
use std::path::Path;

/// The longest row that a model can take of those that were asked for: behind its context it was never trained, and
/// learned positions end there.
pub(super) fn max_length(wanted: usize, model: &Model, printer: &mut Printer) -> usize {
    let context = model.n_ctx_train();
    if wanted > context {
        printer.talk(&format!(
            "--max-length {wanted} is more than the model's context: rows of more than {context} tokens are too long"
        ));
    }
    wanted.min(context)
}

/// Reads and tokenises a file; rows are converted to what `method` trains on, `None` leaves them as they are.
pub(super) fn load(
    path: &Path,
    model: &Model,
    method: Option<Method>,
    columns: &Columns,
    options: &EncodeOptions,
) -> Result<Dataset> {
    let rows = read_all_with(path, columns)?;
    let rows = match method {
        None => rows,
        Some(method) => method.rows(rows)?,
    };
    encode(&rows, model, options)
}

/// Tokenises rows.
pub(super) fn encode(rows: &Rows, model: &Model, options: &EncodeOptions) -> Result<Dataset> {
    let template = model.template()?;
    Dataset::encode(rows, model, template.as_ref(), options)
}

/// `--columns`, which may be empty.
pub(super) fn columns(text: &str) -> Result<Columns> {
    if text.is_empty() {
        return Ok(Columns::default());
    }
    Columns::parse(text)
}
