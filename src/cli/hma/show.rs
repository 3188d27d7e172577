//! What the command prints.

use crate::cli::Printer;
use crate::report::HmaRecord;
use std::collections::BTreeSet;

/// Ratios in both readings, likelihoods, points, what was made.
pub(super) fn record(record: &HmaRecord, printer: &mut Printer) {
    printer.data(&format!("blocks       weight of {}   weight of {}", record.before, record.after));
    for group in &record.groups {
        let blocks = format!("{} to {}", group.first, group.last);
        let (left, right) = (record.before.chars().count() + 10, record.after.chars().count() + 10);
        printer.data(&format!("{blocks:12} {:<left$}   {:<right$}", fixed(group.before), fixed(group.after)));
    }
    let mean = record.pre_weight;
    printer.data(&format!("mean         {:.4} before, {:.4} after alignment", mean, 1.0 - mean));
    if let (Some([low, high]), Some(epsilon)) = (record.bounds, record.epsilon) {
        printer.data(&format!("a ratio lies between {low:.4} and {high:.4} (epsilon {epsilon:.4})"));
    }
    if let Some(l) = &record.likelihoods {
        printer.data(&format!("NLL per token of {} responses, {} tokens:", l.n_responses, l.n_tokens));
        for (name, value) in [
            ("before alignment", l.before),
            ("after alignment", l.after),
            ("uniform ratios", l.uniform),
            ("found ratios", l.found),
        ] {
            printer.data(&format!("  {name:18} {value:.5}"));
        }
        let forwards = record.search.as_ref().map_or(0, |s| s.n_forwards);
        printer.data(&format!(
            "search: {:.1} s, {forwards} responses passed forward, peak memory {} MiB",
            l.seconds,
            l.peak_rss_bytes >> 20
        ));
    }
    points(record, printer);
    if let Some(fidelity) = record.fidelity.as_ref().and_then(|f| f.get("fidelity")) {
        printer.data(&format!("fidelity of the written change: {fidelity}"));
    }
    if let Some(output) = &record.output {
        printer.data(&format!("written: {output}"));
    }
}

fn fixed(number: f64) -> String {
    format!("{number:.4}")
}

fn points(record: &HmaRecord, printer: &mut Printer) {
    if record.points.is_empty() {
        return;
    }
    let names: BTreeSet<&str> = record.points.iter().flat_map(|p| p.metrics.keys()).map(String::as_str).collect();
    let with_nll = record.points.iter().any(|p| p.nll.is_some());
    let mut head = String::from("kind     before");
    for name in &names {
        head += &format!("  {name:>10}");
    }
    if with_nll {
        head += "  responses/nll";
    }
    printer.data(&head);
    for point in &record.points {
        let mut line = format!("{:8} {:.4}", point.kind.name(), point.pre_weight);
        for name in &names {
            let width = name.len().max(10);
            match point.metrics.get(*name) {
                Some(value) => line += &format!("  {value:>width$.4}"),
                None => line += &format!("  {:>width$}", ""),
            }
        }
        if let Some(nll) = point.nll {
            line += &format!("  {nll:>13.5}");
        }
        printer.data(&line);
    }
}
