//! What a session says of where it ran.

use crate::runtime::{Device, Tally};
use std::collections::BTreeMap;

/// Lines about what devices computed and what they left to the CPU, by op; none where there are no devices.
pub fn where_it_ran(devices: &[Device], tally: &Tally) -> Vec<String> {
    if devices.is_empty() {
        return Vec::new();
    }
    let names: Vec<_> = devices.iter().map(|d| d.name.as_str()).collect();
    let count = |list: &BTreeMap<String, u64>| list.values().sum::<u64>();
    let on_devices = count(&tally.device);
    let all = on_devices + count(&tally.beside) + count(&tally.fallen_back);
    let listed = |list: &BTreeMap<String, u64>| {
        let ops: Vec<_> = list.iter().map(|(op, n)| format!("{} x {n}", op_name(op))).collect();
        ops.join(", ")
    };
    let mut lines = vec![format!("{} computed {on_devices} of {all} nodes", names.join(", "))];
    if !tally.fallen_back.is_empty() {
        lines.push(format!("fell back to the CPU, which alone has them: {}", listed(&tally.fallen_back)));
    }
    if !tally.beside.is_empty() {
        lines.push(format!("stayed on the CPU beside their weights or operands: {}", listed(&tally.beside)));
    }
    lines
}

/// Ops of our own are the softmax of the loss head.
fn op_name(op: &str) -> &str {
    match op {
        "CUSTOM" => "loss head",
        other => other,
    }
}
