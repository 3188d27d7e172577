//! Axes: round ticks over a range, and numbers as short as they can be.

/// Round numbers that cover `low..=high`, about `n` of them, a step of 1, 2 or 5 times a power of ten apart. A range without
/// width is widened around its value.
pub(super) fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let (low, high) = widened(low, high);
    let raw = (high - low) / n.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(raw);
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

fn widened(low: f64, high: f64) -> (f64, f64) {
    if high - low > 1e-12 * low.abs().max(high.abs()).max(1e-30) {
        return (low, high);
    }
    let half = if low == 0.0 { 0.5 } else { low.abs() * 0.5 };
    (low - half, high + half)
}

/// A number in at most six characters where that loses little: 0.05, 1.2e-4, 1200, 3.5M.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let trim = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match size {
        _ if value == 0.0 => "0".to_owned(),
        _ if !value.is_finite() => "–".to_owned(),
        _ if size < 1e-3 => {
            let text = format!("{value:.1e}");
            text.replace(".0e", "e").replace('-', "−")
        }
        _ if size < 1.0 => trim(format!("{value:.3}")).replace('-', "−"),
        _ if size < 100.0 => trim(format!("{value:.2}")).replace('-', "−"),
        _ if size < 1e5 => trim(format!("{value:.0}")).replace('-', "−"),
        _ if size < 1e9 => trim(format!("{:.1}", value / 1e6)).replace('-', "−") + "M",
        _ => format!("{value:.1e}").replace(".0e", "e").replace('-', "−"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        let near = |found: Vec<f64>, wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len(), "{found:?}");
            found.iter().zip(wanted).for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{found:?}"));
        };
        near(ticks(0.0, 1.0, 5), &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        near(ticks(-3.1, 7.9, 5), &[-5.0, 0.0, 5.0, 10.0]);
        near(ticks(0.0, 3e-4, 3), &[0.0, 1e-4, 2e-4, 3e-4]);
        // All values the same, and all 0.
        assert!(ticks(2.0, 2.0, 4).len() >= 3 && ticks(0.0, 0.0, 4).contains(&0.0));
        for (low, high) in [(1e-9, 2e-9), (-1e12, 1e12), (5.0, 5.0)] {
            let found = ticks(low, high, 5);
            assert!(found[0] <= low && *found.last().unwrap() >= high && found.len() < 14, "{found:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let cases =
            [(0.0, "0"), (0.05, "0.05"), (1.2e-4, "1.2e−4"), (3e-4, "3e−4"), (-12.5, "−12.5"), (1234.0, "1234")];
        for (value, wanted) in cases {
            assert_eq!(short(value), wanted);
        }
        assert_eq!((short(3_500_000.0).as_str(), short(2.0).as_str(), short(f64::NAN).as_str()), ("3.5M", "2", "–"));
    }
}
