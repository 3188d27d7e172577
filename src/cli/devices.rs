//! `--list-devices`, and where the nodes of a run were computed.

use super::Printer;
use crate::engine::where_it_ran;
use crate::runtime::{Model, Runtime, Tally};

/// Prints the devices that weights can be moved to; returns the exit status.
pub(super) fn list(printer: &mut Printer) -> u8 {
    let devices = match Runtime::linked() {
        Ok(runtime) => runtime.devices(),
        Err(error) => {
            printer.error(&error);
            return error.kind().exit_code();
        }
    };
    let gpus: Vec<_> = devices.iter().filter(|d| d.is_gpu()).collect();
    printer.data("Available devices:");
    for d in &gpus {
        let (total, free) = (d.memory_total >> 20, d.memory_free >> 20);
        printer.data(&format!("  {}: {} ({total} MiB, {free} MiB free)", d.name, d.description));
    }
    if gpus.is_empty() {
        printer.talk("none; GPUs need a build with one of the features cuda, metal, vulkan");
    }
    0
}

/// Says what devices computed and what they left to the CPU.
pub(super) fn report(printer: &mut Printer, model: &Model, tally: Option<&Tally>) {
    let lines = tally.map(|tally| where_it_ran(model.devices(), tally));
    lines.into_iter().flatten().for_each(|line| printer.talk(&line));
}
