//! The alignment tax: what tasks say before and after, item by item (the name is that of Askell et al. 2021,
//! arXiv 2112.00861).

use super::statistics::{paired_bootstrap, Bootstrap};
use super::task::{run, Items, Subject, Task, TaskParams, TaskReport};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// One metric of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaxRow {
    /// Task.
    pub task: String,
    /// Metric.
    pub metric: String,
    /// Items.
    pub n_items: usize,
    /// The base.
    pub before: f64,
    /// With the adapter.
    pub after: f64,
    /// after − before with its 95 % interval over the items.
    #[serde(flatten)]
    pub change: Bootstrap,
}

/// Runs every task on the base and with the adapter.
pub fn tax(
    tasks: &[(Task, Items)],
    base: &mut Subject,
    adapted: &mut Subject,
    params: &TaskParams,
    progress: &mut dyn FnMut(Task, usize, usize),
) -> Result<Vec<TaxRow>> {
    let mut table = Vec::new();
    for (task, items) in tasks {
        let mut told = |done, all| progress(*task, done, all);
        if *task == Task::Kl {
            let after = run(*task, items, adapted, Some(base), params, &mut told)?;
            // Against itself the base diverges by nothing and always agrees.
            table.extend(rows(&own(&after), &after, params.seed));
            continue;
        }
        let before = run(*task, items, base, None, params, &mut told)?;
        let after = run(*task, items, adapted, None, params, &mut told)?;
        table.extend(rows(&before, &after, params.seed));
    }
    Ok(table)
}

fn own(after: &TaskReport) -> TaskReport {
    let mut before = after.clone();
    for scores in before.items.iter_mut().map(|i| &mut i.scores).chain([&mut before.metrics]) {
        for (name, value) in scores.iter_mut() {
            *value = if *name == "top1_agreement" { 1.0 } else { 0.0 };
        }
    }
    before
}

/// The rows of two reports on the same items.
fn rows(before: &TaskReport, after: &TaskReport, seed: u64) -> Vec<TaxRow> {
    let mut table = Vec::new();
    for (&metric, &first) in &before.metrics {
        let Some(&second) = after.metrics.get(metric) else { continue };
        let pairs = before.items.iter().zip(&after.items);
        let found: Option<(Vec<f64>, Vec<f64>)> =
            pairs.map(|(b, a)| Some((a.scores.get(metric)? - b.scores.get(metric)?, b.weight))).collect();
        // What is no mean over items, such as a perplexity, has no row of its own.
        let Some((differences, weights)) = found else { continue };
        let Some(change) = paired_bootstrap(&differences, &weights, seed) else { continue };
        table.push(TaxRow {
            task: before.task.to_owned(),
            metric: metric.to_owned(),
            n_items: before.n_items,
            before: first,
            after: second,
            change,
        });
    }
    table
}
