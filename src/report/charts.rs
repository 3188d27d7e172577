//! The curves of a run, in the order in which one asks of them.

use super::plot::{HeatMap, Plot, Series, Stroke};
use super::scale::short;
use super::view::RunView;

/// A curve with its heading.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) note: String,
    pub(super) svg: String,
}

/// One line to draw: where it comes from and how.
struct Line<'a> {
    key: &'a str,
    name: &'a str,
    colour: usize,
}

/// All curves that the run has numbers for.
pub(super) fn charts(view: &RunView) -> Vec<Chart> {
    let line = |key, name, colour| Line { key, name, colour };
    let pair = |chosen, rejected| [line(chosen, "chosen", 0), line(rejected, "rejected", 1)];
    let wins = [line("rewards/accuracies", "training", 0)];
    let mut charts: Vec<Option<Chart>> = vec![
        curve(view, "Loss", "loss", &[line("loss", "training", 0)], None, ""),
        curve(
            view,
            "Reward margin",
            "β · log-ratio",
            &[line("rewards/margins", "training", 0)],
            None,
            "Chosen minus rejected.",
        ),
        curve(
            view,
            "Reward accuracy",
            "share of pairs",
            &wins,
            Some((0.0, 1.0)),
            "Pairs whose chosen answer has the higher reward.",
        ),
        curve(
            view,
            "Rewards",
            "β · log-ratio",
            &pair("rewards/chosen", "rewards/rejected"),
            None,
            "Both answers against the run's start.",
        ),
        curve(
            view,
            "Log-probs",
            "nats per answer",
            &pair("logps/chosen", "logps/rejected"),
            None,
            "Where both fall, the run pushes away rather than pulls.",
        ),
        curve(
            view,
            "KL",
            "nats per answer",
            &[line("kl", "mismatched pairs", 0)],
            None,
            "KTO's baseline: how far answers to other prompts moved.",
        ),
        curve(view, "Gradient norm", "norm before clipping", &[line("grad_norm", "all tensors", 0)], None, ""),
        blocks(view),
        curve(view, "Learning rate", "rate", &[line("learning_rate", "rate", 2)], None, ""),
    ];
    charts.drain(..).flatten().collect()
}

fn curve(
    view: &RunView,
    title: &'static str,
    unit: &str,
    lines: &[Line<'_>],
    bounds: Option<(f64, f64)>,
    note: &str,
) -> Option<Chart> {
    let mut series = Vec::new();
    let mut about = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let points = view.series(line.key);
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            about.push(format!(
                "{}: {} at step {}, {} at step {}",
                line.name,
                short(first.1),
                first.0,
                short(last.1),
                last.0
            ));
        }
        series.extend(smoothed(line, points));
        let measured = view.evaluated(line.key);
        if let Some(last) = measured.last() {
            about.push(format!("{}, held out: {} at step {}", line.name, short(last.1), last.0));
            // A line of its own colour beside one line; beside two each is told by its line's colour, and named once.
            let (colour, first) = if lines.len() == 1 { (3, true) } else { (line.colour, i == 0) };
            let name = if first { "held out".to_owned() } else { String::new() };
            series.push(Series { name, colour, stroke: Stroke::Points, points: measured });
        }
    }
    if series.iter().all(|s| s.points.is_empty()) {
        return None;
    }
    let limit = view.config.get("max_grad_norm").and_then(toml::Value::as_float).filter(|m| *m > 0.0);
    if let (Some(limit), "Gradient norm") = (limit, title) {
        let steps = view.series("grad_norm");
        let points = [steps.first(), steps.last()].into_iter().flatten().map(|p| (p.0, limit)).collect();
        series.push(Series { name: "clipped above".into(), colour: 1, stroke: Stroke::Level, points });
    }
    let id = title.to_lowercase().replace(' ', "-");
    let plot = Plot { id, title: title.into(), unit: unit.into(), about: about.join("; "), series, bounds };
    Some(Chart { title, note: note.to_owned(), svg: plot.svg() })
}

/// Single values, pale, behind the mean of the steps around each, where a run is long enough to be noisy.
fn smoothed(line: &Line<'_>, points: Vec<(f64, f64)>) -> Vec<Series> {
    let series = |name: String, stroke, points| Series { name, colour: line.colour, stroke, points };
    let half = points.len() / 40;
    if half == 0 || line.key == "learning_rate" {
        return vec![series(line.name.to_owned(), Stroke::Line, points)];
    }
    let mean = |i: usize| {
        let around = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
        (points[i].0, around.iter().map(|p| p.1).sum::<f64>() / around.len() as f64)
    };
    let means = (0..points.len()).map(mean).collect();
    let name = format!("{}, mean of {}", line.name, 2 * half + 1);
    vec![series(String::new(), Stroke::Faint, points.clone()), series(name, Stroke::Line, means)]
}

fn blocks(view: &RunView) -> Option<Chart> {
    let column = |line: &serde_json::Map<String, serde_json::Value>| {
        let norms = line.get("block_grad_norms")?.as_array()?.iter().filter_map(serde_json::Value::as_f64).collect();
        Some((line.get("global_step")?.as_f64()?, norms))
    };
    let columns: Vec<(f64, Vec<f64>)> = view.steps.iter().filter_map(column).collect();
    let last = columns.last()?;
    let (title, n) = ("Gradient norm by block", last.1.len());
    let loudest = last.1.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let about = format!(
        "{n} blocks over {} steps; at the end block {} has the largest norm, {}",
        columns.len(),
        loudest.0,
        short(*loudest.1)
    );
    let map = HeatMap { id: "blocks".into(), title: title.into(), about, columns };
    let svg = map.svg();
    (!svg.is_empty()).then(|| Chart { title, note: "Block 0 is the first; shades are logarithmic.".into(), svg })
}
