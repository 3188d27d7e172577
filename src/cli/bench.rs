//! `llama-align bench`: tokens per second, memory, and the share of the machine's peak.

use super::args::BenchArgs;
use super::{devices, open_model, Printer};
use crate::bench::{run as measure, BenchParams};
use crate::check::checked_trace;
use crate::error::{Error, Kind, Result};
use crate::train::{Method, Precision, Recompute};

/// Runs the command.
pub(super) fn run(args: &BenchArgs, printer: &mut Printer) -> Result<u8> {
    let method = match args.method.to_ascii_lowercase().as_str() {
        "sft" => Method::Sft,
        "dpo" => Method::Dpo,
        other => return Err(Error::new(Kind::Argument, format!("--method {other}: bench measures sft and dpo"))),
    };
    let shape = args.shape.split_once('x').and_then(|(n, length)| Some((n.parse().ok()?, length.parse().ok()?)));
    let (n_rows, length) = shape.ok_or_else(|| {
        Error::new(Kind::Argument, format!("--shape {}: expected ROWSxTOKENS, such as 4x512", args.shape))
    })?;
    let (precision, recompute) = (Precision::from_name(&args.precision)?, Recompute::from_name(&args.recompute)?);
    let (model, _file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let n_threads = args.threads.count();
    let (trace, _) = checked_trace(&model, n_threads, precision.form_for(&model)?)?;
    let params = BenchParams {
        method,
        n_rows,
        length,
        n_steps: args.steps,
        rank: args.lora_rank,
        n_threads,
        precision,
        recompute,
    };
    let report = measure(&model, &trace, &params)?;
    let value = serde_json::to_value(&report).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    if args.json {
        printer.data(&value.to_string());
        return Ok(0);
    }
    printer.data(&format!(
        "{} {}, LoRA r = {}, {n_threads} threads, products in {}, recompute {}",
        method.name(),
        args.shape,
        args.lora_rank,
        value["precision"].as_str().unwrap_or("?"),
        value["recompute"].as_str().unwrap_or("?")
    ));
    printer.data(&format!(
        "{:.0} tokens/s (from {:.0} to {:.0} over {} steps), {} MiB at the peak, the mapped model included",
        report.tokens_per_s,
        report.tokens_per_s_min,
        report.tokens_per_s_max,
        args.steps,
        report.peak_rss_bytes >> 20
    ));
    if let Some(tally) = &report.tally {
        devices::report(printer, &model, Some(tally));
        return Ok(0);
    }
    printer.data(&format!(
        "{:.2} s a step: products {:.2}, attention {:.2}, other kernels {:.2}, the rest {:.2}; reference pass {:.2} of it",
        report.step_seconds,
        report.products_seconds,
        report.attention_seconds,
        report.other_kernels_seconds,
        report.rest_seconds,
        report.reference_seconds
    ));
    printer.data(&format!(
        "products reach {:.0} % of this machine's {:.0} GFLOP/s while they run, {:.0} % over the step",
        100.0 * report.share_of_peak_products,
        report.peak_gflops,
        100.0 * report.share_of_peak_step
    ));
    Ok(0)
}
