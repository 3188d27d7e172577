//! A rewriter: a model that was taught to correct answers with as few changes as possible. How likely it is to copy a token of a
//! wrong answer tells whether the token is at fault (ALLO, Chen et al. 2024, arXiv 2406.12606, after RLMEC; specs `allo_hbat`,
//! 1.4, step 3).
//!
//! **In:** problems, right answers, wrong answers, and what became of these when someone mended them. **Out:** the rewriter's
//! questions, and rows to teach it by. **Invariant:** what it is asked when it labels is what it was taught on.

use crate::data::{Example, Row, Text};
use crate::error::{Error, Kind, Result};
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Copy probability below which a token is at fault.
pub const FAULT: f64 = 0.5;

/// What a rewriter is asked.
pub fn question(problem: &str, solution: &str, prediction: &str) -> String {
    format!(
        "Correct the mistakes in the prediction with as few changes as possible.\n\n### Problem:\n{}\n\n### Correct solution:\n{}\n\n\
         ### Prediction:\n{}\n\n### Correct prediction:",
        problem.trim(),
        solution.trim(),
        prediction.trim()
    )
}

/// A text as one reads it: messages one after another.
pub fn plain(text: &Text) -> String {
    match text {
        Text::Plain(text) => text.clone(),
        Text::Messages(messages) => messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n\n"),
    }
}

/// Prompt, chosen and rejected answer of a pair.
///
/// # Errors
/// If the row is none.
pub fn parts(row: &Row) -> Result<[String; 3]> {
    match &row.example {
        Example::Pair { prompt, chosen, rejected } => Ok([prompt, chosen, rejected].map(plain)),
        _ => Err(Error::new(Kind::Data, format!("line {}: the row is no pair", row.line))),
    }
}

/// Mended answers by their rows' lines: JSON lines, `{"line": 3, "rewrite": "…"}`.
///
/// # Errors
/// Naming file and line.
pub fn read_rewrites(path: &Path) -> Result<BTreeMap<usize, String>> {
    #[derive(Deserialize)]
    struct Line {
        line: usize,
        rewrite: String,
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the rewrites", &e))?;
    let mut found = BTreeMap::new();
    for (i, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let fault = |what: String| Error::new(Kind::Data, format!("{}:{}: {what}", path.display(), i + 1));
        let line: Line = serde_json::from_str(text).map_err(|e| fault(e.to_string()))?;
        if found.insert(line.line, line.rewrite).is_some() {
            return Err(fault(format!("a second rewrite of line {}", line.line)));
        }
    }
    Ok(found)
}

/// Rows to teach a rewriter by: of every pair the wrong answer, which becomes the mended one, or, where nobody mended it, the right
/// one; and right answers, which stay what they are, so that what is right is copied. Of these as many are kept as there are wrong
/// ones among all, each drawn by the seed and its line: a share of one half.
///
/// # Errors
/// If a row is no pair, or a rewrite is of no row.
pub fn rows(pairs: &[Row], rewrites: &BTreeMap<usize, String>, seed: u64) -> Result<Vec<Value>> {
    if let Some(line) = rewrites.keys().find(|line| !pairs.iter().any(|row| row.line == **line)) {
        return Err(Error::new(Kind::Data, format!("a rewrite of line {line}, which is no pair")));
    }
    let mut rows = Vec::new();
    for row in pairs {
        let [problem, right, wrong] = parts(row)?;
        let mended = rewrites.get(&row.line).unwrap_or(&right);
        rows.push(json!({ "prompt": question(&problem, &right, &wrong), "completion": mended }));
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(b"identity").update(&(row.line as u64).to_le_bytes());
        if ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()).next_u32() & 1 == 1 {
            rows.push(json!({ "prompt": question(&problem, &right, &right), "completion": right }));
        }
    }
    Ok(rows)
}

/// A token's weight in forgetting from the probability with which the rewriter copies it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weigh {
    /// 1 below this probability, else 0: the method as it is described.
    Below(f64),
    /// The probability itself, as the authors' released code has it: what would be kept is forgotten most.
    Released,
    /// What a wrong answer's tokens are punished by in RLMEC: ½ − q, within 0 and 0.1.
    Rlmec,
}

impl Weigh {
    /// The weight.
    pub fn of(self, copied: f64) -> f32 {
        match self {
            Self::Below(limit) => f32::from(u8::from(copied < limit)),
            Self::Released => copied as f32,
            Self::Rlmec => (FAULT - copied).clamp(0.0, 0.1) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n: usize) -> Vec<Row> {
        let text = |what: &str, i: usize| Text::Plain(format!("{what} {i}"));
        let example = |i| Example::Pair { prompt: text("p", i), chosen: text("good", i), rejected: text("bad", i) };
        (0..n).map(|i| Row { line: i + 1, example: example(i) }).collect()
    }

    #[test]
    fn wrong_answers_are_mended_and_half_of_the_right_ones_stay() {
        let rewrites = BTreeMap::from([(2, "mended".to_owned())]);
        let found = rows(&pairs(200), &rewrites, 7).unwrap();
        assert_eq!(found, rows(&pairs(200), &rewrites, 7).unwrap());
        let copied = found.iter().filter(|r| r["prompt"].as_str().unwrap().matches("good").count() == 2).count();
        assert!(found.len() == 200 + copied && (70..130).contains(&copied), "{copied}");
        let wrong: Vec<_> = found.iter().filter(|r| r["prompt"].as_str().unwrap().contains("bad")).collect();
        assert_eq!((&wrong[0]["completion"], &wrong[1]["completion"]), (&json!("good 0"), &json!("mended")));
        let asked = wrong[0]["prompt"].as_str().unwrap();
        assert!(
            asked.contains("### Problem:\np 0\n\n### Correct solution:\ngood 0\n\n### Prediction:\nbad 0\n"),
            "{asked}"
        );
        assert!(rows(&pairs(1), &rewrites, 7).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn weights_are_what_their_sources_have() {
        let of = |weigh: Weigh| [0.1, 0.45, 0.5, 0.9].map(|q| weigh.of(q));
        assert_eq!(of(Weigh::Below(FAULT)), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(of(Weigh::Released), [0.1, 0.45, 0.5, 0.9]);
        assert!(of(Weigh::Rlmec).iter().zip([0.1, 0.05, 0.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn rewrites_are_read_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_rewrites(&path)
        };
        assert_eq!(read("{\"line\":3,\"rewrite\":\"x\"}\n\n").unwrap(), BTreeMap::from([(3, "x".to_owned())]));
        let twice = read("{\"line\":3,\"rewrite\":\"x\"}\n{\"line\":3,\"rewrite\":\"y\"}").unwrap_err();
        assert!(twice.to_string().contains("r.jsonl:2"), "{twice}");
        assert!(read("{\"line\":3}").unwrap_err().to_string().contains("r.jsonl:1"));
    }
}
