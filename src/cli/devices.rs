//! `--list-devices`, and where the nodes of a run were computed.

use super::Printer;
use crate::runtime::{Model, Runtime, Tally};
use std::collections::BTreeMap;

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
    let (Some(tally), [_, ..]) = (tally, model.devices()) else { return };
    let names: Vec<_> = model.devices().iter().map(|d| d.name.as_str()).collect();
    let count = |list: &BTreeMap<String, u64>| list.values().sum::<u64>();
    let on_devices = count(&tally.device);
    let all = on_devices + count(&tally.beside) + count(&tally.fallen_back);
    printer.talk(&format!("{} computed {on_devices} of {all} nodes", names.join(", ")));
    let listed = |list: &BTreeMap<String, u64>| {
        let ops: Vec<_> = list.iter().map(|(op, n)| format!("{} x {n}", op_name(op))).collect();
        ops.join(", ")
    };
    if !tally.fallen_back.is_empty() {
        printer.talk(&format!("fell back to the CPU, which alone has them: {}", listed(&tally.fallen_back)));
    }
    if !tally.beside.is_empty() {
        printer.talk(&format!("stayed on the CPU beside their weights or operands: {}", listed(&tally.beside)));
    }
}

/// Ops of our own are the softmax of the loss head.
fn op_name(op: &str) -> &str {
    match op {
        "CUSTOM" => "loss head",
        other => other,
    }
}
