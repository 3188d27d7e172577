//! Plots as inline SVG: lines over steps, and a map of values by step and block. Colours and fonts are the page's, by class.

use super::html::escape;
use super::scale::{short, ticks};
use std::fmt::Write;

/// Size of a plot's picture, in its own units; the page scales it.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 270.0;
/// Room for labels around the drawing: left, right, top, bottom.
const MARGIN: [f64; 4] = [58.0, 14.0, 34.0, 42.0];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stroke {
    /// A line.
    Line,
    /// A thin, pale line: single values behind their mean.
    Faint,
    /// Points joined by a line.
    Points,
    /// A level, dashed.
    Level,
}

/// Values over steps.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// As the legend has it; empty where it has no entry.
    pub(super) name: String,
    /// Number of its colour.
    pub(super) colour: usize,
    pub(super) stroke: Stroke,
    /// (step, value), by step; values that are no numbers are left out.
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over steps.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) id: String,
    pub(super) title: String,
    /// What the vertical axis counts, with its unit.
    pub(super) unit: String,
    /// What the plot shows, for those who do not see it.
    pub(super) about: String,
    pub(super) series: Vec<Series>,
    /// Bounds of the vertical axis that hold whatever the values are.
    pub(super) bounds: Option<(f64, f64)>,
}

/// A rectangle of the picture and the values at its edges.
struct Frame {
    x: [f64; 2],
    y: [f64; 2],
}

impl Frame {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |v: f64, [low, high]: [f64; 2]| if high > low { (v - low) / (high - low) } else { 0.5 };
        let [left, right, top, bottom] = MARGIN;
        let px = left + share(x, self.x) * (WIDTH - left - right);
        let py = HEIGHT - bottom - share(y, self.y) * (HEIGHT - top - bottom);
        (px, py)
    }
}

impl Plot {
    /// The picture over steps.
    pub(super) fn svg(&self) -> String {
        self.drawn("step", true)
    }

    /// The picture over something else, which may be any number.
    pub(super) fn svg_over(&self, x_name: &str) -> String {
        self.drawn(x_name, false)
    }

    fn drawn(&self, x_name: &str, counts: bool) -> String {
        let points = || self.series.iter().flat_map(|s| &s.points).filter(|p| p.1.is_finite());
        let range = |of: fn(&(f64, f64)) -> f64| {
            let values = points().map(of);
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
        };
        let (x_low, x_high) = range(|p| p.0);
        let (y_low, y_high) = self.bounds.unwrap_or_else(|| range(|p| p.1));
        if x_low > x_high || y_low > y_high {
            return String::new();
        }
        let y_ticks = ticks(y_low, y_high, 5);
        let (first, last) = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
        let x_high = if counts { x_high.max(x_low + 1.0) } else { x_high };
        let frame = Frame { x: [x_low, x_high], y: [first, last] };
        let mut svg = open(&self.id, &self.title, &self.about);
        axes(&mut svg, &frame, &y_ticks, &self.unit, x_name, counts);
        for series in &self.series {
            draw(&mut svg, &frame, series);
        }
        legend(&mut svg, &self.series);
        svg.push_str("</svg>");
        svg
    }
}

/// The picture's beginning, with its name and description for those who do not see it.
fn open(id: &str, title: &str, about: &str) -> String {
    let (id, title, about) = (escape(id), escape(title), escape(about));
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
         <title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{about}</desc>"
    )
}

fn axes(svg: &mut String, frame: &Frame, y_ticks: &[f64], unit: &str, x_name: &str, counts: bool) {
    let [left, right, top, bottom] = MARGIN;
    for &tick in y_ticks {
        let (_, y) = frame.at(frame.x[0], tick);
        let class = if tick == 0.0 { "zero" } else { "grid" };
        let _ = write!(svg, "<path class=\"{class}\" d=\"M{left} {y:.1}H{}\"/>", WIDTH - right);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 7.0,
            y + 4.0,
            short(tick)
        );
    }
    let fits = |t: &f64| (t.fract() == 0.0 || !counts) && *t >= frame.x[0] && *t <= frame.x[1];
    for tick in ticks(frame.x[0], frame.x[1], 6).into_iter().filter(fits) {
        let (x, y) = frame.at(tick, frame.y[0]);
        let _ = write!(svg, "<path class=\"axis\" d=\"M{x:.1} {y:.1}v4\"/>");
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            y + 17.0,
            short(tick)
        );
    }
    let base = HEIGHT - bottom;
    let _ = write!(svg, "<path class=\"axis\" d=\"M{left} {base}H{}\"/>", WIDTH - right);
    let middle = (left + WIDTH - right) / 2.0;
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 8.0,
        escape(x_name)
    );
    let centre = (top + base) / 2.0;
    let _ = write!(
        svg,
        "<text class=\"name\" transform=\"translate(13 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(unit)
    );
}

fn draw(svg: &mut String, frame: &Frame, series: &Series) {
    let colour = series.colour;
    let inside = |&&(_, y): &&(f64, f64)| y.is_finite();
    let points: Vec<_> = series.points.iter().filter(inside).map(|&(x, y)| frame.at(x, y)).collect();
    let mut line = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        let _ = write!(line, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
    }
    let class = match series.stroke {
        Stroke::Line => "line",
        Stroke::Faint => "line faint",
        Stroke::Points => "line thin",
        Stroke::Level => "line level",
    };
    let _ = write!(svg, "<path class=\"{class} c{colour}\" d=\"{line}\"/>");
    // A lone value, and what was measured now and then, shows as points.
    if series.stroke == Stroke::Points || points.len() == 1 {
        for (x, y) in points {
            let _ = write!(svg, "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"/>");
        }
    }
}

/// Names above the drawing, each behind a piece of its line.
fn legend(svg: &mut String, series: &[Series]) {
    let mut x = MARGIN[0];
    for series in series.iter().filter(|s| !s.name.is_empty()) {
        let class = match series.stroke {
            Stroke::Level => "line level",
            Stroke::Points => "line thin",
            Stroke::Line | Stroke::Faint => "line",
        };
        let (y, colour) = (16.0, series.colour);
        let _ = write!(svg, "<path class=\"{class} c{colour}\" d=\"M{x:.1} {y}h18\"/>");
        if series.stroke == Stroke::Points {
            let _ = write!(svg, "<circle class=\"dot c{colour}\" cx=\"{:.1}\" cy=\"{y}\" r=\"3.2\"/>", x + 9.0);
        }
        let _ =
            write!(svg, "<text class=\"key\" x=\"{:.1}\" y=\"{}\">{}</text>", x + 24.0, y + 4.0, escape(&series.name));
        x += 24.0 + 6.6 * series.name.chars().count() as f64 + 18.0;
    }
}

/// Values by step (across) and block (upwards), as shades by the logarithm.
#[derive(Clone, Debug)]
pub(super) struct HeatMap {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) about: String,
    /// Rows of values by block, with their step.
    pub(super) columns: Vec<(f64, Vec<f64>)>,
}

/// Shades of a map.
const LEVELS: usize = 8;
/// Columns of a map at most; steps between are averaged.
const COLUMNS_MAX: usize = 80;

impl HeatMap {
    /// The picture.
    pub(super) fn svg(&self) -> String {
        let n_blocks = self.columns.iter().map(|c| c.1.len()).max().unwrap_or(0);
        let columns = self.binned(n_blocks);
        let values = || columns.iter().flatten().copied().filter(|v| *v > 0.0 && v.is_finite());
        let (low, high) = values().fold((f64::INFINITY, 0.0f64), |(l, h), v| (l.min(v), h.max(v)));
        if n_blocks == 0 || low > high {
            return String::new();
        }
        let [left, right, top, bottom] = MARGIN;
        let (width, height) =
            ((WIDTH - left - right) / columns.len() as f64, (HEIGHT - top - bottom) / n_blocks as f64);
        let level = |v: f64| {
            let share = if high > low { (v / low).ln() / (high / low).ln() } else { 1.0 };
            ((share * LEVELS as f64) as usize).min(LEVELS - 1)
        };
        let mut paths = vec![String::new(); LEVELS];
        for (i, column) in columns.iter().enumerate() {
            for (block, &value) in column.iter().enumerate().filter(|(_, v)| **v > 0.0 && v.is_finite()) {
                let (x, y) = (left + i as f64 * width, HEIGHT - bottom - (block + 1) as f64 * height);
                let _ = write!(paths[level(value)], "M{x:.1} {y:.1}h{width:.2}v{height:.2}h-{width:.2}z");
            }
        }
        let mut svg = open(&self.id, &self.title, &self.about);
        for (level, path) in paths.iter().enumerate().filter(|(_, p)| !p.is_empty()) {
            let _ = write!(svg, "<path class=\"h{level}\" d=\"{path}\"/>");
        }
        self.axes(&mut svg, n_blocks, height);
        for level in 0..LEVELS {
            let x = left + 70.0 + level as f64 * 16.0;
            let _ = write!(svg, "<path class=\"h{level}\" d=\"M{x} 10h16v12h-16z\"/>");
        }
        let _ =
            write!(svg, "<text class=\"key\" x=\"{}\" y=\"20\" text-anchor=\"end\">{}</text>", left + 62.0, short(low));
        let _ = write!(svg, "<text class=\"key\" x=\"{}\" y=\"20\">{}</text>", left + 206.0, short(high));
        svg.push_str("</svg>");
        svg
    }

    fn axes(&self, svg: &mut String, n_blocks: usize, height: f64) {
        let [left, right, _, bottom] = MARGIN;
        let steps = [self.columns.first(), self.columns.last()].map(|c| c.map_or(0.0, |c| c.0));
        let frame = Frame { x: [steps[0], steps[1].max(steps[0] + 1.0)], y: [0.0, n_blocks as f64] };
        let each = (n_blocks / 8).max(1);
        let blocks: Vec<f64> = (0..n_blocks).step_by(each).map(|b| b as f64).collect();
        for block in blocks {
            let y = HEIGHT - bottom - (block + 0.5) * height + 4.0;
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{}\" y=\"{y:.1}\" text-anchor=\"end\">{block}</text>",
                left - 7.0
            );
        }
        axes(svg, &frame, &[], "block", "step", true);
        let _ = write!(svg, "<path class=\"axis\" d=\"M{left} {}H{}\"/>", HEIGHT - bottom, WIDTH - right);
    }

    /// Means over runs of steps, so that there are few enough columns.
    fn binned(&self, n_blocks: usize) -> Vec<Vec<f64>> {
        let each = self.columns.len().div_ceil(COLUMNS_MAX).max(1);
        let mean = |steps: &[(f64, Vec<f64>)]| {
            let of = |block: usize| steps.iter().map(|c| c.1.get(block).copied().unwrap_or(0.0)).sum::<f64>();
            (0..n_blocks).map(|block| of(block) / steps.len() as f64).collect()
        };
        self.columns.chunks(each).map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let series = Series { name: "a<b".into(), colour: 0, stroke: Stroke::Line, points };
        let (id, unit) = ("p".to_owned(), "nats & more".to_owned());
        Plot { id, title: "T\"".into(), unit, about: "D".into(), series: vec![series], bounds: None }
    }

    #[test]
    fn a_line_runs_from_corner_to_corner() {
        let svg = plot(vec![(1.0, 0.0), (11.0, 1.0)]).svg();
        let [left, right, top, bottom] = MARGIN;
        let line = format!("M{left:.1} {:.1}L{:.1} {top:.1}", HEIGHT - bottom, WIDTH - right);
        assert!(svg.contains(&line), "{svg}");
        assert!(svg.contains("T&quot;") && svg.contains("a&lt;b") && svg.contains("nats &amp; more"));
        assert!(svg.contains("aria-labelledby=\"p-t p-d\"") && svg.contains("<desc id=\"p-d\">D</desc>"));
    }

    #[test]
    fn numbers_that_are_none_leave_no_trace() {
        let svg = plot(vec![(1.0, f64::NAN), (2.0, 5.0), (3.0, f64::INFINITY)]).svg();
        assert!(svg.contains("<circle") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(plot(vec![(1.0, f64::NAN)]).svg().is_empty() && plot(Vec::new()).svg().is_empty());
    }

    #[test]
    fn a_map_has_a_cell_for_every_value_and_few_columns() {
        let map = |n: usize| HeatMap {
            id: "h".into(),
            title: "t".into(),
            about: "d".into(),
            columns: (0..n).map(|i| (i as f64, vec![1.0, 10.0, 0.0])).collect(),
        };
        let svg = map(4).svg();
        // Two of three blocks have values; the scale adds one cell a shade.
        assert_eq!(svg.matches('z').count(), 4 * 2 + LEVELS);
        assert!(map(1000).svg().matches('z').count() <= 2 * COLUMNS_MAX + LEVELS);
        assert!(map(0).svg().is_empty());
    }
}
