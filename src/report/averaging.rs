//! The page of a search between two models: ratios by block, likelihoods, and what alignment gained against what it cost.

use super::html::{escape, foreign};
use super::page::STYLE;
use super::plot::{Plot, Series, Stroke};
use crate::hma::{Found, Point, PointKind};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;

/// A group of blocks with its ratio in both readings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupRecord {
    /// First block.
    pub first: usize,
    /// Last block.
    pub last: usize,
    /// Weight of the model before.
    pub before: f64,
    /// Weight of the model after.
    pub after: f64,
}

/// Likelihoods of the responses, per token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LikelihoodRecord {
    /// Responses.
    pub n_responses: usize,
    /// Their tokens that count.
    pub n_tokens: usize,
    /// Under the model before.
    pub before: f64,
    /// Under the model after.
    pub after: f64,
    /// Under uniform ratios.
    pub uniform: f64,
    /// Under those that were found.
    pub found: f64,
    /// What the search took.
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_rss_bytes: u64,
}

/// Everything that came of a search or a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HmaRecord {
    /// File of the model before.
    pub before: String,
    /// File of the model, or adapter, after.
    pub after: String,
    /// Fingerprint of the former.
    pub before_hash: String,
    /// Fingerprint of the latter.
    pub after_hash: String,
    /// Mean weight of the model before.
    pub pre_weight: f64,
    /// ε, where ratios were searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// What a ratio may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
    /// Ratios by group.
    pub groups: Vec<GroupRecord>,
    /// Digest of the responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<String>,
    /// Seed.
    pub seed: u64,
    /// Likelihoods of the responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub likelihoods: Option<LikelihoodRecord>,
    /// The search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Found>,
    /// Blends that tasks measured.
    pub points: Vec<Point>,
    /// What was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// How much of the wanted change a written model holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<serde_json::Value>,
}

/// The page: one file that needs nothing else.
pub fn averaging_page(record: &HmaRecord) -> String {
    let title = format!("{} to {}", record.before, record.after);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{}</h1>\n",
        escape(&title),
        foreign(&title)
    );
    let (mean, n) = (record.pre_weight, record.groups.len());
    let found = match (record.search.is_some(), n) {
        (true, _) => "found by likelihood of the aligned model's responses",
        (false, 1) => "equal",
        (false, _) => "as they were given",
    };
    let _ = writeln!(
        html,
        "<p class=\"lead\">Weights of the models before and after alignment: {mean:.3} and {:.3} on average, {n} groups of \
         blocks, {found}.</p>\n</header>",
        1.0 - mean
    );
    ratios(&mut html, record);
    likelihoods(&mut html, record);
    plots(&mut html, record);
    points(&mut html, record);
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

fn figure(html: &mut String, svg: &str) {
    if !svg.is_empty() {
        let _ = writeln!(html, "<figure>{svg}</figure>");
    }
}

fn ratios(html: &mut String, record: &HmaRecord) {
    html.push_str("<section>\n<h2>Ratios by block</h2>\n");
    let steps = |of: fn(&GroupRecord) -> f64| {
        let edges = |g: &GroupRecord| [(g.first as f64, of(g)), (g.last as f64 + 1.0, of(g))];
        record.groups.iter().flat_map(edges).collect::<Vec<_>>()
    };
    let n_layers = record.groups.last().map_or(0, |g| g.last + 1) as f64;
    let level = vec![(0.0, record.pre_weight), (n_layers, record.pre_weight)];
    let series = |name: &str, colour, stroke, points| Series { name: name.into(), colour, stroke, points };
    let plot = Plot {
        id: "ratios".into(),
        title: "Weight of each model by block".into(),
        unit: "weight".into(),
        about: "Weights of the models before and after alignment in every block, and their mean".into(),
        series: vec![
            series("before", 0, Stroke::Line, steps(|g| g.before)),
            series("after", 1, Stroke::Line, steps(|g| g.after)),
            series("mean before", 2, Stroke::Level, level),
        ],
        bounds: Some((0.0, 1.0)),
    };
    figure(html, &plot.svg_over("block"));
    html.push_str("<table>\n<tr><th>Blocks</th><th>before alignment</th><th>after alignment</th></tr>\n");
    for g in &record.groups {
        let (first, last, before, after) = (g.first, g.last, g.before, g.after);
        let _ = writeln!(html, "<tr><td>{first} to {last}</td><td>{before:.4}</td><td>{after:.4}</td></tr>");
    }
    html.push_str("</table>\n");
    if let (Some([low, high]), Some(epsilon)) = (record.bounds, record.epsilon) {
        let _ = writeln!(
            html,
            "<p>A ratio of the model before lies between {low:.4} and {high:.4} (ε = {epsilon:.4}).</p>"
        );
    }
    html.push_str("</section>\n");
}

fn likelihoods(html: &mut String, record: &HmaRecord) {
    let Some(l) = &record.likelihoods else { return };
    let (n, tokens) = (l.n_responses, l.n_tokens);
    let _ = writeln!(
        html,
        "<section>\n<h2>Likelihood of the aligned model's responses</h2>\n<p>Negative log-likelihood per token of {n} responses, \
         {tokens} tokens.</p>\n<table>\n<tr><th>Blend</th><th>NLL</th></tr>"
    );
    for (name, value) in [
        ("Model before alignment", l.before),
        ("Model after alignment", l.after),
        ("Uniform ratios", l.uniform),
        ("Ratios found", l.found),
    ] {
        let _ = writeln!(html, "<tr><td>{name}</td><td>{value:.5}</td></tr>");
    }
    html.push_str("</table>\n");
    if let Some(search) = record.search.as_ref().filter(|s| !s.steps.is_empty()) {
        let points = search.steps.iter().map(|s| (s.step as f64, s.objective)).collect();
        let plot = Plot {
            id: "search".into(),
            title: "The search".into(),
            unit: "nats per token".into(),
            about: "What was minimised at every step, on that step's responses".into(),
            series: vec![Series { name: String::new(), colour: 0, stroke: Stroke::Line, points }],
            bounds: None,
        };
        figure(html, &plot.svg());
    }
    html.push_str("</section>\n");
}

/// Metrics that stand for their task in a plot.
const HEADLINES: [&str; 6] = ["nll/nll", "kl/kl", "mc/mc2", "exact-match/exact_match", "em-f1/f1", "mc/mc1"];

fn plots(html: &mut String, record: &HmaRecord) {
    let names: BTreeSet<&str> = record.points.iter().flat_map(|p| p.metrics.keys()).map(String::as_str).collect();
    let gains: Vec<&str> = ["pairs/margin", "pairs/accuracy"].into_iter().filter(|n| names.contains(n)).collect();
    let costs: Vec<&str> = HEADLINES.into_iter().filter(|n| names.contains(n)).collect();
    if gains.is_empty() || costs.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>What alignment gained against what it cost</h2>\n");
    for cost in costs {
        for gain in &gains {
            let of = |kind: PointKind| {
                let at = |p: &Point| Some((*p.metrics.get(cost)?, *p.metrics.get(*gain)?));
                record.points.iter().filter(|p| p.kind == kind).filter_map(at).collect::<Vec<_>>()
            };
            let series = |colour, kind: PointKind| Series {
                name: kind.name().into(),
                colour,
                stroke: Stroke::Points,
                points: of(kind),
            };
            let plot = Plot {
                id: format!("pareto-{}-{}", cost.replace('/', "-"), gain.replace('/', "-")),
                title: format!("{gain} against {cost}"),
                unit: (*gain).to_owned(),
                about: "One point for every mean weight, joined in their order".into(),
                series: [PointKind::Average, PointKind::Hma, PointKind::Given]
                    .into_iter()
                    .enumerate()
                    .map(|(colour, kind)| series(colour, kind))
                    .filter(|series| !series.points.is_empty())
                    .collect(),
                bounds: None,
            };
            figure(html, &plot.svg_over(cost));
        }
    }
    html.push_str("</section>\n");
}

fn points(html: &mut String, record: &HmaRecord) {
    if record.points.is_empty() {
        return;
    }
    let names: BTreeSet<&str> = record.points.iter().flat_map(|p| p.metrics.keys()).map(String::as_str).collect();
    html.push_str("<section>\n<h2>Points</h2>\n<table>\n<tr><th>Blend</th><th>weight before</th><th>weight after</th>");
    for name in &names {
        let _ = write!(html, "<th>{}</th>", escape(name));
    }
    html.push_str("<th>responses' NLL</th></tr>\n");
    for p in &record.points {
        let kind = p.kind.name();
        let _ = write!(html, "<tr><td>{kind}</td><td>{:.3}</td><td>{:.3}</td>", p.pre_weight, 1.0 - p.pre_weight);
        for name in &names {
            let value = p.metrics.get(*name).map_or_else(String::new, |v| format!("{v:.4}"));
            let _ = write!(html, "<td>{value}</td>");
        }
        let _ = writeln!(html, "<td>{}</td></tr>", p.nll.map_or_else(String::new, |n| format!("{n:.5}")));
    }
    html.push_str("</table>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> HmaRecord {
        let point = |kind, pre_weight: f64| Point {
            kind,
            pre_weight,
            ratios: vec![pre_weight],
            nll: Some(1.5),
            metrics: [("pairs/margin", 3.0 - pre_weight), ("nll/nll", 2.0 - 0.3 * pre_weight)]
                .map(|(k, v)| (k.to_owned(), v))
                .into(),
        };
        HmaRecord {
            before: "a<b>.gguf".into(),
            after: "c.gguf".into(),
            before_hash: "1".into(),
            after_hash: "2".into(),
            pre_weight: 0.2,
            epsilon: Some(0.2),
            bounds: Some([0.05, 0.45]),
            groups: vec![
                GroupRecord { first: 0, last: 3, before: 0.1, after: 0.9 },
                GroupRecord { first: 4, last: 7, before: 0.3, after: 0.7 },
            ],
            responses: None,
            seed: 0,
            likelihoods: Some(LikelihoodRecord {
                n_responses: 3,
                n_tokens: 99,
                before: 3.0,
                after: 1.0,
                uniform: 1.25,
                found: 1.125,
                seconds: 1.0,
                peak_rss_bytes: 1,
            }),
            search: None,
            points: vec![point(PointKind::Average, 0.0), point(PointKind::Average, 1.0), point(PointKind::Hma, 0.2)],
            output: None,
            fidelity: None,
        }
    }

    #[test]
    fn a_page_shows_both_readings_and_a_point_for_every_blend() {
        let page = averaging_page(&record());
        assert!(!page.contains("a<b>") && page.contains("a&lt;b&gt;.gguf"));
        for text in ["0.1000", "0.9000", "1.12500", "pairs/margin against nll/nll", "between 0.0500 and 0.4500"] {
            assert!(page.contains(text), "{text}: {page}");
        }
        // Three points and a key for each of two series.
        let plot = &page[page.find("pareto").unwrap()..];
        assert_eq!(plot[..plot.find("</figure>").unwrap()].matches("<circle").count(), 5, "{plot}");
        assert_eq!(page, averaging_page(&record()));
    }
}
