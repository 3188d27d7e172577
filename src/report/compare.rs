//! Runs side by side: what differs between them in groups, means and deviations over seeds, and how sure the difference
//! from a baseline is.

use super::record::RunRecord;
use super::table::{write, TableFormat};
use crate::error::{Error, Kind, Result};
use crate::evaluate::{mean, paired_bootstrap, standard_deviation, Bootstrap};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Keys that make no group of their own: repetitions, and how the work was done.
const REPEATED: [&str; 6] = ["seed", "threads", "recompute", "save_steps", "save_total_limit", "keep_adapters"];
/// Metrics that are shown where none are asked for.
const SHOWN: [&str; 4] = ["rewards/accuracies", "rewards/margins", "accuracy", "nll"];
/// Scores of held-out rows in a run directory.
const ITEMS: &str = "eval-items.jsonl";

/// What is compared.
#[derive(Clone, Debug, Default)]
pub struct CompareParams {
    /// A group's name, or the name of one of its run directories.
    pub baseline: Option<String>,
    /// Metrics; empty means the usual ones that there are.
    pub metrics: Vec<String>,
    /// A file of items' scores in every run directory, as `eval --per-item` writes it; none means the held-out rows.
    pub items: Option<String>,
    /// Seed of the resamples.
    pub seed: u64,
}

/// One metric of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Mean over the group's runs.
    pub mean: f64,
    /// Standard deviation over them, for two runs and more.
    pub sd: Option<f64>,
    /// Difference from the baseline, each item's scores averaged over the runs.
    pub change: Option<Bootstrap>,
}

/// Runs that differ in nothing but their seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What sets it apart: `key=value`.
    pub name: String,
    /// Names of its run directories.
    pub runs: Vec<String>,
    /// By metric.
    pub cells: BTreeMap<String, Cell>,
}

/// The comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Metrics, in the order of columns.
    pub metrics: Vec<String>,
    /// Name of the baseline group.
    pub baseline: Option<String>,
    /// Groups, in the order of their first run.
    pub groups: Vec<Group>,
}

/// One item's scores.
struct Item {
    id: u64,
    weight: f64,
    scores: Map<String, Value>,
}

/// A run's parts that are compared.
struct Run {
    name: String,
    config: Map<String, Value>,
    items: Vec<Item>,
    metrics: BTreeMap<String, f64>,
}

/// Compares finished runs.
///
/// # Errors
/// [`Kind::Missing`] for a run that is not finished; [`Kind::Mismatch`] for runs on other bases or other held-out rows;
/// [`Kind::Argument`] for a baseline or metric that there is none of.
pub fn compare(directories: &[PathBuf], params: &CompareParams) -> Result<Comparison> {
    let mut runs: Vec<Run> = Vec::new();
    let mut first: Option<RunRecord> = None;
    for directory in directories {
        let record = RunRecord::read(&directory.join("run.json"))?;
        let first = first.get_or_insert_with(|| record.clone());
        check(directory, first, &record)?;
        runs.push(read(directory, record, params)?);
    }
    let differing = differing(&runs);
    let mut groups: Vec<(String, Vec<&Run>)> = Vec::new();
    for run in &runs {
        let name = name(&run.config, &differing);
        match groups.iter_mut().find(|(n, _)| *n == name) {
            Some((_, members)) => members.push(run),
            None => groups.push((name, vec![run])),
        }
    }
    let metrics = metrics(&runs, &params.metrics)?;
    let baseline = match &params.baseline {
        None => None,
        Some(wanted) => {
            let is_it =
                |(name, members): &&(String, Vec<&Run>)| name == wanted || members.iter().any(|r| r.name == *wanted);
            Some(groups.iter().find(is_it).ok_or_else(|| {
                let names: Vec<_> = groups.iter().map(|(n, _)| n.as_str()).collect();
                Error::new(Kind::Argument, format!("baseline: {wanted} is none of {}", names.join("; ")))
            })?)
        }
    };
    let group = |(name, members): &(String, Vec<&Run>)| {
        let cell = |metric: &String| {
            let values: Vec<f64> = members.iter().filter_map(|r| r.metrics.get(metric).copied()).collect();
            let versus = baseline.filter(|(n, _)| n != name);
            let change = versus.and_then(|(_, base)| difference(members, base, metric, params.seed));
            (metric.clone(), Cell { mean: mean(&values), sd: standard_deviation(&values), change })
        };
        let runs = members.iter().map(|r| r.name.clone()).collect();
        Group { name: name.clone(), runs, cells: metrics.iter().map(cell).collect() }
    };
    Ok(Comparison {
        baseline: baseline.map(|(name, _)| name.clone()),
        groups: groups.iter().map(group).collect(),
        metrics,
    })
}

fn check(directory: &Path, first: &RunRecord, record: &RunRecord) -> Result<()> {
    let rows = |r: &RunRecord| r.eval_data.as_ref().map(|d| d.hash.clone());
    let other = match () {
        () if first.base.hash != record.base.hash => "another base",
        () if rows(first) != rows(record) => "other held-out rows",
        () => return Ok(()),
    };
    Err(Error::new(Kind::Mismatch, format!("{}: the run has {other} than the first one", directory.display())))
}

fn read(directory: &Path, record: RunRecord, params: &CompareParams) -> Result<Run> {
    let path = directory.join(params.items.as_deref().unwrap_or(ITEMS));
    let items = match path.exists() || params.items.is_some() {
        true => items(&path)?,
        false => Vec::new(),
    };
    let numbers = |map: &Map<String, Value>| -> BTreeMap<String, f64> {
        map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect()
    };
    let metrics = match &params.items {
        Some(_) => means(&items),
        None => record.after.as_ref().map(numbers).unwrap_or_default(),
    };
    let name =
        directory.file_name().map_or_else(|| directory.display().to_string(), |n| n.to_string_lossy().into_owned());
    Ok(Run { name, config: record.config, items, metrics })
}

fn items(path: &Path) -> Result<Vec<Item>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the items' scores", &e))?;
    let parse = |(i, line): (usize, &str)| {
        let fault = |what: &str| Error::new(Kind::Format, format!("{}:{}: {what}", path.display(), i + 1));
        let scores: Map<String, Value> = serde_json::from_str(line).map_err(|e| fault(&e.to_string()))?;
        let id = scores.get("item").or(scores.get("line")).and_then(Value::as_u64).ok_or_else(|| fault("no item"))?;
        let weight = scores.get("weight").and_then(Value::as_f64).unwrap_or(1.0);
        Ok(Item { id, weight, scores })
    };
    text.lines().enumerate().map(parse).collect()
}

fn means(items: &[Item]) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for Item { weight, scores, .. } in items {
        for (key, value) in scores.iter().filter(|(k, _)| !["item", "line", "weight"].contains(&k.as_str())) {
            let Some(value) = value.as_f64() else { continue };
            let (sum, total) = sums.entry(key.clone()).or_default();
            (*sum, *total) = (*sum + weight * value, *total + weight);
        }
    }
    sums.into_iter().map(|(key, (sum, total))| (key, sum / total)).collect()
}

/// Keys whose values are not the same in all runs.
fn differing(runs: &[Run]) -> Vec<String> {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|r| r.config.keys()).collect();
    let differs = |key: &&&String| runs.iter().any(|r| r.config.get(**key) != runs[0].config.get(**key));
    keys.iter().filter(|k| !REPEATED.contains(&k.as_str())).filter(differs).map(|k| (*k).clone()).collect()
}

fn name(config: &Map<String, Value>, differing: &[String]) -> String {
    let part = |key: &String| match config.get(key) {
        Some(Value::String(text)) => format!("{key}={text}"),
        Some(value) => format!("{key}={value}"),
        None => format!("{key}=–"),
    };
    match differing {
        [] => "all".to_owned(),
        keys => keys.iter().map(part).collect::<Vec<_>>().join(" "),
    }
}

fn metrics(runs: &[Run], wanted: &[String]) -> Result<Vec<String>> {
    let there = |metric: &str| runs.iter().all(|r| r.metrics.contains_key(metric));
    let names = || runs.iter().flat_map(|r| r.metrics.keys()).cloned().collect::<BTreeSet<_>>();
    if let Some(missing) = wanted.iter().find(|m| !there(m)) {
        let names: Vec<_> = names().into_iter().collect();
        return Err(Error::new(Kind::Argument, format!("metric: {missing} is none of {}", names.join(", "))));
    }
    let mut metrics: Vec<String> = wanted.to_vec();
    if metrics.is_empty() {
        metrics = SHOWN.iter().filter(|m| there(m)).map(|m| (*m).to_owned()).collect();
    }
    if metrics.is_empty() {
        metrics = names().into_iter().filter(|m| there(m)).collect();
    }
    match metrics.is_empty() {
        true => Err(Error::new(Kind::Mismatch, "the runs have no measurement in common: were rows held out?")),
        false => Ok(metrics),
    }
}

/// The bootstrap of two groups' difference over the items that all their runs scored.
fn difference(members: &[&Run], base: &[&Run], metric: &str, seed: u64) -> Option<Bootstrap> {
    let scores = |runs: &[&Run]| -> Vec<(u64, f64, f64)> {
        let n = runs[0].items.len();
        let of = |i: usize| -> Option<(u64, f64, f64)> {
            let Item { id, weight, .. } = runs[0].items.get(i)?;
            let values: Option<Vec<f64>> = runs
                .iter()
                .map(|r| r.items.get(i).filter(|item| item.id == *id)?.scores.get(metric)?.as_f64())
                .collect();
            Some((*id, *weight, mean(&values?)))
        };
        (0..n).filter_map(of).collect()
    };
    let (ours, theirs) = (scores(members), scores(base));
    if ours.is_empty() || ours.iter().map(|s| s.0).ne(theirs.iter().map(|s| s.0)) {
        return None;
    }
    let differences: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a.2 - b.2).collect();
    let weights: Vec<f64> = ours.iter().map(|s| s.1).collect();
    paired_bootstrap(&differences, &weights, seed)
}

impl Comparison {
    /// The table. Markdown and LaTeX: a row per group, "mean ± sd (difference \[interval\])". CSV: a row per group and metric,
    /// every number in a column of its own.
    pub fn table(&self, format: TableFormat) -> String {
        match format {
            TableFormat::Csv => self.long(),
            _ => self.wide(format),
        }
    }

    fn wide(&self, format: TableFormat) -> String {
        let heading: Vec<String> =
            ["runs", "n"].map(str::to_owned).into_iter().chain(self.metrics.iter().cloned()).collect();
        let row = |group: &Group| {
            let mark = if self.baseline.as_ref() == Some(&group.name) { " (baseline)" } else { "" };
            let mut cells = vec![format!("{}{mark}", group.name), group.runs.len().to_string()];
            cells.extend(self.metrics.iter().map(|m| group.cells.get(m).map_or(String::new(), shown)));
            cells
        };
        write(format, &heading, &self.groups.iter().map(row).collect::<Vec<_>>())
    }

    fn long(&self) -> String {
        let heading = ["group", "n", "metric", "mean", "sd", "difference", "low", "high", "p"].map(str::to_owned);
        let mut rows = Vec::new();
        for group in &self.groups {
            for (metric, cell) in self.metrics.iter().filter_map(|m| Some((m, group.cells.get(m)?))) {
                let or_empty = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
                let change = |of: fn(&Bootstrap) -> f64| or_empty(cell.change.as_ref().map(of));
                let mut row = vec![group.name.clone(), group.runs.len().to_string(), metric.clone()];
                row.extend([cell.mean.to_string(), or_empty(cell.sd)]);
                row.extend([change(|c| c.difference), change(|c| c.low), change(|c| c.high), change(|c| c.p)]);
                rows.push(row);
            }
        }
        write(TableFormat::Csv, &heading, &rows)
    }
}

fn shown(cell: &Cell) -> String {
    let minus = |text: String| text.replace('-', "−");
    let sd = cell.sd.map_or(String::new(), |sd| format!(" ± {sd:.4}"));
    let change =
        cell.change.map_or(String::new(), |c| format!(" ({:+.4} [{:+.4}, {:+.4}])", c.difference, c.low, c.high));
    minus(format!("{:.4}{sd}{change}", cell.mean))
}
