//! `llama-align report` and `llama-align compare`: finished runs, looked at.

use super::args_runs::{CompareArgs, ReportArgs};
use super::Printer;
use crate::error::{Error, Kind, Result};
use crate::report::{compare, write_page, CompareParams, TableFormat};

/// `llama-align report`.
pub(super) fn report(args: &ReportArgs, printer: &mut Printer) -> Result<u8> {
    printer.data(&format!("report: {}", write_page(&args.run)?.display()));
    Ok(0)
}

/// `llama-align compare`.
pub(super) fn compare_runs(args: &CompareArgs, printer: &mut Printer) -> Result<u8> {
    let format = TableFormat::from_name(&args.format)?;
    let params = CompareParams {
        baseline: args.baseline.clone(),
        metrics: args.metric.clone(),
        items: args.items.clone(),
        seed: args.seed,
    };
    let found = compare(&args.runs, &params)?;
    let text = match args.json {
        true => serde_json::to_string(&found).map_err(|e| Error::new(Kind::Internal, e.to_string()))?,
        false => found.table(format),
    };
    printer.data(text.trim_end());
    Ok(0)
}
