//! Answers with their tokens coloured by how alignment moved them.

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
    /// Their log-ratios.
    pub ratios: Vec<Vec<f32>>,
    /// Weights of the rejected answer's tokens.
    pub weights: Vec<f32>,
}

/// A log-ratio that has the full colour, in nats.
const FULL: f32 = 2.0;

/// The page of some answers; `name` is what the weights are called.
pub fn tokens_page(answers: &[TokenAnswer], name: &str) -> String {
    let mut body = format!(
        "<header>\n<h1>{}</h1>\n<p class=\"lead\">Log-ratios of the aligned model to its base, token by token: red where \
         alignment made a token less likely, green where more, in full from {FULL} nats on. Underlined tokens have a weight. \
         Point at a token for its numbers.</p>\n</header>\n",
        escape(name)
    );
    for answer in answers {
        let _ = writeln!(body, "<h2>Row of line {}</h2>\n<div class=\"answers\">", answer.line);
        for (k, title) in ["Chosen", "Rejected"].into_iter().enumerate() {
            let (Some(texts), Some(ratios)) = (answer.texts.get(k), answer.ratios.get(k)) else { continue };
            let _ = write!(body, "<section><h3>{title}</h3><p>");
            for (i, (text, &ratio)) in texts.iter().zip(ratios).enumerate() {
                let weight = answer.weights.get(i).copied().filter(|w| k == 1 && *w != 0.0);
                token(&mut body, text, ratio, weight);
            }
            body.push_str("</p></section>\n");
        }
        body.push_str("</div>\n");
    }
    shell(name, &body)
}

fn token(body: &mut String, text: &str, ratio: f32, weight: Option<f32>) {
    let colour = if ratio < 0.0 { "bad" } else { "good" };
    let share = (ratio.abs() / FULL).min(1.0) * 55.0;
    let line = if weight.is_some() { ";text-decoration:underline" } else { "" };
    let told = weight.map_or_else(String::new, |w| format!(", weight {w}"));
    let _ = write!(
        body,
        "<span style=\"background:color-mix(in srgb,var(--{colour}) {share:.0}%,transparent){line}\" title=\"{ratio:+.3}{told}\">{}</span>",
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
            ratios: vec![vec![0.5], vec![-3.0, 0.0]],
            weights: vec![1.0, 0.0],
        };
        let page = tokens_page(&[answer], "w.jsonl");
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>") && page.contains("line 7"));
        assert_eq!((page.matches("underline").count(), page.matches(", weight 1").count()), (1, 1));
        assert!(page.contains("var(--bad) 55%") && page.contains("-3.000"));
    }
}
