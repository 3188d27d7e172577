//! Answers with their tokens coloured by how alignment moved them, or by how likely a rewriter is to copy them.

use super::html::escape;
use super::page::shell;
use std::fmt::Write;

/// A pair, token by token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenAnswer {
    /// Line of its row.
    pub line: usize,
    /// Texts of the tokens of the chosen and the rejected answer.
    pub texts: Vec<Vec<String>>,
    /// Their numbers: log-ratios, or copy probabilities.
    pub numbers: Vec<Vec<f32>>,
    /// Weights of the rejected answer's tokens.
    pub weights: Vec<f32>,
}

/// A log-ratio that has the full colour, in nats.
const FULL: f32 = 2.0;

/// What the numbers of tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScale {
    /// ln p of the aligned model less that of its base: red below 0, green above, in full from 2 nats on.
    LogRatio,
    /// The probability with which a rewriter copies the token: red below one half, green above, in full at 0 and 1.
    Copied,
}

impl TokenScale {
    fn lead(self) -> String {
        match self {
            Self::LogRatio => format!(
                "Log-ratios of the aligned model to its base, token by token: red where alignment made a token less likely, green \
                 where more, in full from {FULL} nats on."
            ),
            Self::Copied => "Copy probability of every token under a rewriter: red where it would rather not copy the token, below \
                             0.5, green where it would, in full at 0 and 1."
                .to_owned(),
        }
    }

    /// Colour, its share, and the number as it is told.
    fn shown(self, number: f32) -> (&'static str, f32, String) {
        let (off, full, told) = match self {
            Self::LogRatio => (number, FULL, format!("{number:+.3}")),
            Self::Copied => (number - 0.5, 0.5, format!("copied with {number:.3}")),
        };
        (if off < 0.0 { "bad" } else { "good" }, (off.abs() / full).min(1.0), told)
    }
}

/// The page of some answers; `name` is what the weights are called.
pub fn tokens_page(answers: &[TokenAnswer], scale: TokenScale, name: &str) -> String {
    let mut body = format!(
        "<header>\n<h1>{}</h1>\n<p class=\"lead\">{} Underlined tokens have a weight. Point at a token for its numbers.</p>\n</header>\n",
        escape(name),
        scale.lead()
    );
    for answer in answers {
        let _ = writeln!(body, "<h2>Row of line {}</h2>\n<div class=\"answers\">", answer.line);
        for (k, title) in ["Chosen", "Rejected"].into_iter().enumerate() {
            let (Some(texts), Some(numbers)) = (answer.texts.get(k), answer.numbers.get(k)) else { continue };
            let _ = write!(body, "<section><h3>{title}</h3><p>");
            for (i, (text, &number)) in texts.iter().zip(numbers).enumerate() {
                let weight = answer.weights.get(i).copied().filter(|w| k == 1 && *w != 0.0);
                token(&mut body, text, scale.shown(number), weight);
            }
            body.push_str("</p></section>\n");
        }
        body.push_str("</div>\n");
    }
    shell(name, &body)
}

fn token(body: &mut String, text: &str, (colour, share, number): (&str, f32, String), weight: Option<f32>) {
    let share = share * 55.0;
    let line = if weight.is_some() { ";text-decoration:underline" } else { "" };
    let told = weight.map_or_else(String::new, |w| format!(", weight {w}"));
    let _ = write!(
        body,
        "<span style=\"background:color-mix(in srgb,var(--{colour}) {share:.0}%,transparent){line}\" title=\"{number}{told}\">{}</span>",
        escape(text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts_and_weights_are_seen() {
        let answer = TokenAnswer {
            line: 7,
            texts: vec![vec!["<b>".into()], vec![" no".into(), "\"x".into()]],
            numbers: vec![vec![0.5], vec![-3.0, 0.0]],
            weights: vec![1.0, 0.0],
        };
        let page = tokens_page(&[answer], TokenScale::LogRatio, "w.jsonl");
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>") && page.contains("line 7"));
        assert_eq!((page.matches("underline").count(), page.matches(", weight 1").count()), (1, 1));
        assert!(page.contains("var(--bad) 55%") && page.contains("-3.000") && page.contains("Log-ratios"));
    }

    #[test]
    fn copy_probabilities_have_a_scale_of_their_own() {
        let numbers = vec![vec![0.5], vec![0.0, 0.25, 1.0]];
        let texts = numbers.iter().map(|n| n.iter().map(|_| "x".to_owned()).collect()).collect();
        let answer = TokenAnswer { line: 7, texts, numbers, weights: vec![1.0, 1.0, 0.0] };
        let page = tokens_page(&[answer], TokenScale::Copied, "w.jsonl");
        assert!(page.contains("Copy probability") && !page.contains("og-ratio"));
        for (colour, told) in [
            ("good) 0%", "copied with 0.500"),
            ("bad) 55%", "copied with 0.000, weight 1"),
            ("bad) 28%", "copied with 0.250, weight 1"),
            ("good) 55%", "copied with 1.000"),
        ] {
            let span = page.split("<span").find(|span| span.contains(told)).unwrap_or_else(|| panic!("{told}"));
            assert!(span.contains(colour), "{told}: {span}");
        }
    }
}
