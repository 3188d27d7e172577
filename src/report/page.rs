//! `report.html`: one file that needs nothing else, no script and no network.

use super::charts::charts;
use super::html::{escape, foreign};
use super::scale::short;
use super::view::RunView;
use crate::error::Result;
use crate::gguf::write_atomically;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A measurement's numbers by name.
type Numbers = Map<String, Value>;

/// Colours and sizes, light and dark.
pub(super) const STYLE: &str = include_str!("style.css");

/// Name of the page in a run directory.
pub const PAGE: &str = "report.html";

/// Reads a run directory and writes its `report.html`; returns where it lies.
pub fn write_page(directory: &Path) -> Result<PathBuf> {
    let path = directory.join(PAGE);
    write_atomically(&path, page(&RunView::read(directory)?).as_bytes())?;
    Ok(path)
}

/// The page of a run.
pub fn page(view: &RunView) -> String {
    let name = title(view);
    let mut html = String::new();
    head(&mut html, view, &name);
    held_out(&mut html, view);
    curves(&mut html, view);
    samples(&mut html, view);
    tax(&mut html, view);
    serving(&mut html, view);
    configuration(&mut html, view);
    provenance(&mut html, view);
    shell(&name, &html)
}

/// A whole page around its body.
pub(super) fn shell(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

fn text<'a>(view: &'a RunView, key: &str) -> &'a str {
    view.config.get(key).and_then(toml::Value::as_str).unwrap_or_default()
}

/// The method as it is called, with its loss where that is not the method's own.
fn method(view: &RunView) -> String {
    let (method, loss) = (text(view, "method").to_uppercase(), text(view, "loss_type"));
    match loss {
        "" | "sigmoid" => method,
        loss if method == "DPO" => loss.to_owned(),
        _ => method,
    }
}

fn title(view: &RunView) -> String {
    let base = view.record.as_ref().and_then(|r| r.base.name.clone().or(Some(r.base.architecture.clone())));
    match base.filter(|b| !b.is_empty()) {
        Some(base) => format!("{} on {base}", method(view)),
        None => format!("{} run", method(view)),
    }
}

fn head(html: &mut String, view: &RunView, name: &str) {
    let _ = write!(html, "<header>\n<h1>{}</h1>\n", foreign(name));
    let last = view.steps.last();
    let number = |key: &str| last.and_then(|l| l.get(key)).and_then(Value::as_f64);
    let steps = number("global_step").unwrap_or(0.0);
    let status = match &view.record {
        None => "The run is not complete: this is what there is so far.".to_owned(),
        Some(r) if r.stopped_early => format!("Stopped after {steps} steps: held-out rows no longer got better."),
        Some(_) => format!("{steps} optimizer steps, finished."),
    };
    let _ = write!(html, "<p class=\"lead\">{}</p>\n<dl class=\"tiles\">\n", escape(&status));
    let mut tile = |name: &str, value: String, small: &str| {
        let _ = writeln!(
            html,
            "<div class=\"tile\"><dt>{name}</dt><dd>{value} <small>{}</small></dd></div>",
            escape(small)
        );
    };
    if let Some(loss) = number("loss") {
        tile("Loss at the end", short(loss), "");
    }
    let (before, after) = ends(view);
    let value = |of: Option<&Map<String, Value>>, key: &str| of?.get(key)?.as_f64();
    for (name, key) in [
        ("Reward accuracy, held out", "rewards/accuracies"),
        ("Reward margin, held out", "rewards/margins"),
        ("NLL per token, held out", "nll"),
    ] {
        if let (Some(b), Some(a)) = (value(before.as_ref(), key), value(after.as_ref(), key)) {
            tile(name, short(a), &format!("from {}", short(b)));
        }
    }
    if let Some(r) = &view.record {
        tile("Rows", r.data.rows.to_string(), "trained on");
        tile("Tokens", short(r.tokens as f64), "seen");
        tile("Arithmetic", short(r.flops.executed as f64 / 1e12), "TFLOP in products");
    }
    html.push_str("</dl>\n</header>\n");
}

/// The first and the last measurement, their names without the prefix: of the record, or else of the metrics.
fn ends(view: &RunView) -> (Option<Numbers>, Option<Numbers>) {
    if let Some(record) = &view.record {
        return (record.before.clone(), record.after.clone());
    }
    let plain = |line: &Map<String, Value>| -> Map<String, Value> {
        line.iter().filter_map(|(k, v)| Some((k.strip_prefix("eval_")?.to_owned(), v.clone()))).collect()
    };
    match view.evaluations.as_slice() {
        [first, .., last] => (Some(plain(first)), Some(plain(last))),
        _ => (None, None),
    }
}

/// Names of measurements, whether large is good, and what they are.
const MEASURES: [(&str, Option<bool>, &str); 9] = [
    ("loss", Some(false), "Loss"),
    ("rewards/accuracies", Some(true), "Pairs whose chosen answer has the higher reward"),
    ("rewards/margins", Some(true), "Reward margin"),
    ("accuracy", Some(true), "Pairs whose chosen answer is likelier"),
    ("rewards/chosen", None, "Reward of chosen answers"),
    ("rewards/rejected", None, "Reward of rejected answers"),
    ("logps/chosen", Some(true), "Log-prob of chosen answers"),
    ("logps/rejected", None, "Log-prob of rejected answers"),
    ("nll", Some(false), "Negative log-likelihood per token"),
];

fn held_out(html: &mut String, view: &RunView) {
    let (Some(before), Some(after)) = ends(view) else { return };
    let rows = after.get("n_rows").and_then(Value::as_f64).unwrap_or(0.0);
    html.push_str("<section>\n<h2>Held-out rows</h2>\n");
    let _ = write!(html, "<p class=\"lead\">{rows} rows that were not trained on, before and after.");
    if let Some(best) = view.record.as_ref().and_then(|r| r.best.as_ref()) {
        let (step, metric, value) = (best.step, escape(&best.metric), short(best.value));
        let _ = write!(html, " The best measurement was that after step {step}: {metric} {value}.");
    }
    html.push_str(
        "</p>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Measure</th><th scope=\"col\" class=\"number\">Before</th>\
         <th scope=\"col\" class=\"number\">After</th><th scope=\"col\" class=\"number\">Change</th></tr></thead>\n<tbody>\n",
    );
    for (key, large_is_good, what) in MEASURES {
        let of = |map: &Map<String, Value>| map.get(key).and_then(Value::as_f64);
        if let (Some(b), Some(a)) = (of(&before), of(&after)) {
            row(html, &format!("<th scope=\"row\">{what}</th>"), b, a, large_is_good, "");
        }
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}

/// A row of before, after and change; a change is good or bad where that is known, and says so by its sign as well.
fn row(html: &mut String, first: &str, before: f64, after: f64, large_is_good: Option<bool>, rest: &str) {
    let change = after - before;
    let class = match large_is_good {
        Some(large) if change != 0.0 => [" bad", " good"][usize::from((change > 0.0) == large)],
        _ => "",
    };
    let sign = if change > 0.0 { "+" } else { "" };
    let _ = writeln!(
        html,
        "<tr>{first}<td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number{class}\">{sign}{}</td>{rest}</tr>",
        decimal(before),
        decimal(after),
        decimal(change)
    );
}

/// Four decimals below 100, two above; a minus sign that is one.
fn decimal(value: f64) -> String {
    let text = if value.abs() < 100.0 { format!("{value:.4}") } else { format!("{value:.2}") };
    text.replace('-', "−")
}

fn curves(html: &mut String, view: &RunView) {
    let charts = charts(view);
    if charts.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Curves</h2>\n<div class=\"charts\">\n");
    for chart in charts {
        let _ = write!(html, "<figure>\n<figcaption><h3>{}</h3>", escape(chart.title));
        if !chart.note.is_empty() {
            let _ = write!(html, "<p class=\"note\">{}</p>", escape(&chart.note));
        }
        let _ = write!(html, "</figcaption>\n{}\n</figure>\n", chart.svg);
    }
    html.push_str("</div>\n</section>\n");
}

fn samples(html: &mut String, view: &RunView) {
    if view.samples.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Answers before and after</h2>\n<p class=\"lead\">The likeliest token each time, by llama.cpp, without and with the adapter.</p>\n");
    for sample in &view.samples {
        let _ = write!(
            html,
            "<article class=\"sample\">\n<p>{}</p>\n<div class=\"answers\">\n",
            foreign(sample.prompt.trim())
        );
        for (name, answer) in [("Before", &sample.before), ("After", &sample.after)] {
            let shown = if answer.trim().is_empty() { "<em>(nothing)</em>".to_owned() } else { foreign(answer.trim()) };
            let _ = writeln!(html, "<div><h3>{name}</h3><p>{shown}</p></div>");
        }
        html.push_str("</div>\n</article>\n");
    }
    html.push_str("</section>\n");
}

fn tax(html: &mut String, view: &RunView) {
    let Some(tax) = &view.tax else { return };
    html.push_str(
        "<section>\n<h2>Alignment tax</h2>\n<p class=\"lead\">Other abilities, before and after, on the same items. The interval is a \
         95 % bootstrap over items; one that holds 0 shows no change.</p>\n<div class=\"scroll\"><table>\n<thead><tr>\
         <th scope=\"col\">Task</th><th scope=\"col\">Metric</th><th scope=\"col\" class=\"number\">Items</th>\
         <th scope=\"col\" class=\"number\">Before</th><th scope=\"col\" class=\"number\">After</th>\
         <th scope=\"col\" class=\"number\">Change</th><th scope=\"col\" class=\"number\">95 % interval</th></tr></thead>\n<tbody>\n",
    );
    for r in &tax.table {
        let first = format!(
            "<th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td>",
            escape(&r.task),
            escape(&r.metric),
            r.n_items
        );
        let sure = r.change.low > 0.0 || r.change.high < 0.0;
        let large_is_good = !matches!(r.metric.as_str(), "nll" | "kl");
        let rest = format!("<td class=\"number\">{} to {}</td>", decimal(r.change.low), decimal(r.change.high));
        row(html, &first, r.before, r.after, sure.then_some(large_is_good), &rest);
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}

fn serving(html: &mut String, view: &RunView) {
    let Some(record) = &view.record else { return };
    let hash = escape(record.base.hash.get(..16).unwrap_or(&record.base.hash));
    let (note, commands) = match (text(view, "delta"), &record.change) {
        ("full" | "rows", _) => (
            " The weights themselves were trained: they become a model first.",
            "llama-align merge -m MODEL.gguf --change change.gguf --outtype auto -o tuned.gguf\n\
             llama-server -m tuned.gguf",
        ),
        (_, Some(_)) => (
            " Norms and biases were trained beside the adapter, and no adapter has a place for them: without the first command \
             something else is served than was trained.",
            "llama-align merge -m MODEL.gguf --change change.gguf -o norms.gguf\n\
             llama-server -m norms.gguf --lora adapter.gguf\n\
             llama-align merge -m MODEL.gguf --lora adapter.gguf --change change.gguf --outtype auto -o tuned.gguf",
        ),
        (_, None) => (
            "",
            "llama-server -m MODEL.gguf --lora adapter.gguf\n\
             llama-cli -m MODEL.gguf --lora adapter.gguf\n\
             llama-align generate -m MODEL.gguf --lora adapter.gguf -p \"…\"\n\
             llama-align merge -m MODEL.gguf --lora adapter.gguf --outtype auto -o merged.gguf",
        ),
    };
    let _ = write!(
        html,
        "<section>\n<h2>Use it</h2>\n<p class=\"lead\">In the run's directory; <code>MODEL.gguf</code> is the base, whose fingerprint \
         begins with <code>{hash}</code>.{note}</p>\n<pre>{commands}</pre>\n</section>\n"
    );
}

fn configuration(html: &mut String, view: &RunView) {
    html.push_str("<section>\n<h2>Configuration</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Key</th><th scope=\"col\">Value</th></tr></thead>\n<tbody>\n");
    for (key, value) in &view.config {
        let value = match value {
            toml::Value::String(s) => s.clone(),
            toml::Value::Float(f) if f.fract() == 0.0 && f.abs() < 1e9 => format!("{f:.0}"),
            toml::Value::Float(f) if f.abs() < 1e-3 => format!("{f:e}"),
            other => other.to_string(),
        };
        let value = if value.is_empty() { "–".to_owned() } else { foreign(&value) };
        let _ =
            writeln!(html, "<tr><th scope=\"row\"><code>{}</code></th><td><code>{value}</code></td></tr>", escape(key));
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}

fn provenance(html: &mut String, view: &RunView) {
    let Some(r) = &view.record else { return };
    html.push_str("<section>\n<h2>Provenance</h2>\n<p class=\"lead\">Equal base, rows, configuration and program give this adapter again, bit for bit, on an equal CPU.</p>\n<div class=\"scroll\"><table>\n<tbody>\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(html, "<tr><th scope=\"row\">{name}</th><td><code>{}</code></td></tr>", escape(value));
    };
    line("Base, its tensors", &r.base.hash);
    line("Training rows, the file", &r.data.hash);
    if let Some(eval) = &r.eval_data {
        line("Held-out rows, the file", &eval.hash);
    }
    line("Traced graph", &r.program.graph);
    if let Some(executable) = &r.program.executable {
        line("Program, its file", executable);
    }
    line("llama-align", &r.program.version);
    line("Adapter, the file", &r.adapter);
    if let Some(change) = &r.change {
        line("Norms and biases, the file", change);
    }
    line("Parameters of the base", &r.base.parameters.to_string());
    line("FLOP executed in products", &r.flops.executed.to_string());
    line("2 · parameters · tokens", &r.flops.estimated_per_pass.to_string());
    html.push_str("</tbody></table></div>\n</section>\n");
}
