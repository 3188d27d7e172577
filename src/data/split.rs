//! Rows set aside for measuring.

use super::order::order;
use super::rows::Rows;
use super::sample::{Example, Text};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

impl Rows {
    /// Sets about `share` of the rows aside: `(rest, held out)`, each in the file's order. Rows with equal prompts stay
    /// together, so that nothing held out was ever asked in training. Which prompts are drawn depends on the seed and on
    /// the prompts' order of appearance alone.
    ///
    /// # Errors
    /// [`Kind::Data`] where all rows have one prompt; [`Kind::Argument`] for a share outside 0 to 1.
    pub fn split(self, share: f64, seed: u64) -> Result<(Self, Self)> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::new(Kind::Argument, format!("eval-split: {share} is not between 0 and 1")));
        }
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (i, row) in self.rows.iter().enumerate() {
            let group = *numbers.entry(prompt(&row.example)).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(i);
        }
        if groups.len() < 2 {
            let message = format!("{}: all rows have the same prompt, so none can be held out", self.source);
            return Err(Error::new(Kind::Data, message));
        }
        // The epoch number that no run reaches: the draw is no other use's.
        let drawn = order(groups.len() as u32, seed, u64::MAX);
        let wanted = ((self.rows.len() as f64 * share).round() as usize).max(1);
        let (mut aside, mut n_aside) = (vec![false; self.rows.len()], 0);
        for &group in &drawn[..groups.len() - 1] {
            if n_aside >= wanted {
                break;
            }
            let group = &groups[group as usize];
            group.iter().for_each(|&i| aside[i] = true);
            n_aside += group.len();
        }
        let (mut rest, mut held_out) = (Vec::new(), Vec::new());
        for (row, aside) in self.rows.into_iter().zip(aside) {
            if aside { &mut held_out } else { &mut rest }.push(row);
        }
        let of = |rows| Self { source: self.source.clone(), form: self.form, rows };
        Ok((of(rest), of(held_out)))
    }
}

/// The prompt as one text that is equal for equal prompts only.
fn prompt(example: &Example) -> String {
    let prompt = match example {
        Example::Text { text } => return format!("text {text}"),
        Example::Completion { prompt, .. } | Example::Pair { prompt, .. } | Example::Labelled { prompt, .. } => prompt,
    };
    match prompt {
        Text::Plain(text) => format!("text {text}"),
        Text::Messages(messages) => format!("{messages:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Form, Row};

    fn rows(prompts: &[&str]) -> Rows {
        let text = |s: &str| Text::Plain(s.to_owned());
        let example = |p: &&str| Example::Completion { prompt: text(p), completion: text("x") };
        let rows = prompts.iter().enumerate().map(|(i, p)| Row { line: i + 1, example: example(p) }).collect();
        Rows { source: "f".into(), form: Form::Completion, rows }
    }

    #[test]
    fn prompts_are_on_one_side_only_and_nothing_is_lost() {
        let prompts: Vec<String> = (0..60).map(|i| format!("p{}", i * i % 25)).collect();
        let all = rows(&prompts.iter().map(String::as_str).collect::<Vec<_>>());
        for seed in 0..5 {
            let (rest, held_out) = all.clone().split(0.25, seed).unwrap();
            let names =
                |rows: &Rows| rows.rows.iter().map(|r| prompt(&r.example)).collect::<std::collections::BTreeSet<_>>();
            assert!(names(&rest).is_disjoint(&names(&held_out)), "seed {seed}");
            let mut lines: Vec<_> = rest.rows.iter().chain(&held_out.rows).map(|r| r.line).collect();
            assert!(rest.rows.is_sorted_by_key(|r| r.line) && held_out.rows.is_sorted_by_key(|r| r.line));
            lines.sort_unstable();
            assert!(lines.into_iter().eq(1..=60), "seed {seed}");
            // At least what was wanted, and less than one prompt's rows more.
            assert!((15..25).contains(&held_out.rows.len()), "seed {seed}: {}", held_out.rows.len());
            assert_eq!(all.clone().split(0.25, seed).unwrap().1, held_out);
        }
        assert_ne!(all.clone().split(0.25, 0).unwrap().1, all.split(0.25, 1).unwrap().1);
    }

    #[test]
    fn something_is_left_on_both_sides_or_it_is_refused() {
        let (rest, held_out) = rows(&["a", "b"]).split(0.99, 3).unwrap();
        assert_eq!((rest.rows.len(), held_out.rows.len()), (1, 1));
        assert_eq!(rows(&["a", "a"]).split(0.5, 0).unwrap_err().kind(), Kind::Data);
        for share in [0.0, 1.0, f64::NAN, -0.1] {
            assert_eq!(rows(&["a", "b"]).split(share, 0).unwrap_err().kind(), Kind::Argument);
        }
    }
}
