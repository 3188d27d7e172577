//! `llama-align check`: does the traced graph reproduce the runtime?

use super::args::CheckArgs;
use super::{open_model, Printer};
use crate::check::{check, Report};
use crate::error::{Error, Kind, Result};
use crate::trace::trace;
use crate::train::Precision;
use std::sync::Arc;

/// Runs the command.
pub(super) fn run(args: &CheckArgs, printer: &mut Printer) -> Result<u8> {
    let (model, _file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let form = Precision::Auto.form_for(&model)?;
    let report = trace(&model).and_then(|t| check(&model, &Arc::new(t), args.threads.count(), form));
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            if args.json {
                let refused = serde_json::json!({
                    "architecture": model.architecture(), "ok": false, "runtime_form": { "max_abs_diff": null },
                    "training_form": { "max_rel_diff": null }, "ops": {}, "unsupported": [error.to_string()],
                });
                printer.data(&refused.to_string());
            }
            return Err(error);
        }
    };
    if args.json {
        let json = serde_json::to_string(&report).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        printer.data(&json);
    } else {
        print(&report, printer);
    }
    Ok(if report.ok { 0 } else { Kind::Check.exit_code() })
}

fn print(report: &Report, printer: &mut Printer) {
    printer.data(&format!("architecture   {}", report.architecture));
    let ops: Vec<_> = report.ops.iter().map(|(op, n)| format!("{op} {n}")).collect();
    printer.data(&format!("ops            {}", ops.join(", ")));
    printer.data(&format!("trainable      {} linear weights of the blocks", report.trainable.len()));
    for name in modules(&report.trainable) {
        printer.data(&format!("               {name}"));
    }
    match &report.runtime_form.blocks {
        None => printer.data(&format!(
            "runtime form   max |difference| over all logits {:e} (0 is required)",
            report.runtime_form.max_abs_diff
        )),
        Some(blocks) => printer.data(&format!(
            "runtime form   relative difference {:.1e}, bound {:.1e}, largest in {}",
            blocks.max_rel_diff, blocks.bound, blocks.worst_block
        )),
    }
    for (probe, difference) in &report.runtime_form.probes {
        printer.data(&format!("               {probe}: {difference:e}"));
    }
    let training = &report.training_form;
    printer.data(&format!(
        "training form  relative difference {:.1e}, bound {:.1e}, largest in {}",
        training.max_rel_diff, training.bound, training.worst_block
    ));
    for op in &report.unsupported {
        printer.data(&format!("no gradient    {op}"));
    }
    printer.data(if report.ok { "ok" } else { "FAILED" });
}

/// Names without their block, each with its count.
fn modules(names: &[String]) -> Vec<String> {
    let mut counts = std::collections::BTreeMap::new();
    for name in names {
        let module = name.splitn(3, '.').nth(2).unwrap_or(name);
        *counts.entry(module.to_owned()).or_insert(0usize) += 1;
    }
    counts.into_iter().map(|(module, n)| format!("{module} x {n}")).collect()
}
