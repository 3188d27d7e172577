//! Answers that a model gave itself, judged by a known answer: right ones and wrong ones, pairs of them, and what is to be
//! forgotten (ALLO, Chen et al. 2024, arXiv 2406.12606; specs `allo_hbat`, 1.4, step 0).
//!
//! **In:** a question, an answer that is right, several answers of the model. **Out:** rows. **Invariant:** an answer is right or
//! wrong by what it comes to, never by its words; equal answers count once.

use crate::evaluate::last_number;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{json, Value};

/// Before the result of an answer that comes to no number.
const MARK: &str = "the answer is";

/// A question's answers, each once and in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Answers that come to what is right.
    pub right: Vec<String>,
    /// The others.
    pub wrong: Vec<String>,
}

/// Whether an answer comes to what the known one comes to. Numbers are compared where the known answer has one (behind the last
/// `####`, or else its last); otherwise what stands behind the last "The answer is", without regard to case.
pub fn agrees(answer: &str, known: &str) -> bool {
    let said = |text: &str| {
        let lower = text.to_lowercase();
        let (_, rest) = lower.rsplit_once(MARK)?;
        Some(rest.trim().trim_start_matches(':').trim().trim_end_matches('.').trim().to_owned())
    };
    match (last_number(known), said(known)) {
        (_, Some(known)) if last_number(&known).is_none() => said(answer).is_some_and(|answer| answer == known),
        (Some(known), _) => last_number(answer).is_some_and(|answer| answer == known),
        (None, _) => answer.trim().to_lowercase() == known.trim().to_lowercase(),
    }
}

impl Judged {
    /// Judges answers, of which blank ones count for nothing.
    pub fn new<'a>(answers: impl IntoIterator<Item = &'a str>, known: &str) -> Self {
        let mut judged = Self::default();
        for answer in answers.into_iter().map(str::trim).filter(|answer| !answer.is_empty()) {
            let side = if agrees(answer, known) { &mut judged.right } else { &mut judged.wrong };
            if !side.iter().any(|own| own == answer) {
                side.push(answer.to_owned());
            }
        }
        judged
    }

    /// At most `limit` pairs of a right and a wrong answer, drawn from all by the seed and the question.
    pub fn pairs(&self, prompt: &str, limit: usize, seed: u64) -> Vec<Value> {
        let mut all: Vec<(&String, &String)> =
            self.right.iter().flat_map(|right| self.wrong.iter().map(move |wrong| (right, wrong))).collect();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(b"pairs\0").update(prompt.as_bytes());
        let mut rng = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
        // The first ones of a shuffle (Knuth, The Art of Computer Programming 2, section 3.4.2, algorithm P).
        for i in 0..all.len().min(limit) {
            let rest = (all.len() - i) as u64;
            all.swap(i, i + ((u128::from(rng.next_u64()) * u128::from(rest)) >> 64) as usize);
        }
        all.truncate(limit);
        all.into_iter().map(|(c, r)| json!({ "prompt": prompt, "chosen": c, "rejected": r })).collect()
    }

    /// A row for every wrong answer; beside it stands a right one, the model's own if it gave any, to be watched.
    pub fn forgetting(&self, prompt: &str, known: &str) -> Vec<Value> {
        let right = self.right.first().map_or(known, String::as_str);
        self.wrong.iter().map(|wrong| json!({ "prompt": prompt, "chosen": right, "rejected": wrong })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_what_they_come_to() {
        let known = "She makes 9 * 2 = $<<9*2=18>>18.\n#### 18";
        for (answer, right) in [
            ("9 times 2 is 18.", true),
            ("so 18.0 dollars", true),
            ("#### 18", true),
            ("18 is what 9 and 9 make, so 19", false),
            ("#### 17 and not 18", false),
            ("I do not know", false),
        ] {
            assert_eq!(agrees(answer, known), right, "{answer}");
        }
        let letter = "Because of 3 reasons. The answer is B.";
        assert!(agrees("the answer is: b", letter) && !agrees("The answer is 3", letter) && !agrees("B", letter));
        assert!(agrees("The answer is 4", "The answer is 4.0.") && agrees(" Yes", "yes") && !agrees("yes, sir", "yes"));
    }

    #[test]
    fn equal_answers_count_once_and_pairs_are_drawn() {
        let judged = Judged::new(["1", "2", " 2", "so 2", "3", "", "4", "five"], "#### 2");
        assert_eq!((judged.right.len(), judged.wrong.len()), (2, 4));
        assert_eq!(judged.right, ["2", "so 2"]);
        let all = judged.pairs("q", 99, 42);
        assert_eq!(all.len(), 8);
        let five = judged.pairs("q", 5, 42);
        assert!(five.len() == 5 && five.iter().all(|row| all.contains(row)) && five[..] == all[..5]);
        assert!((0..5).all(|i| !five[..i].contains(&five[i])));
        assert_ne!(judged.pairs("q", 5, 1), five);
        assert_ne!(judged.pairs("another", 1, 42)[0]["rejected"], judged.pairs("another", 8, 42)[7]["rejected"]);
        let forget = judged.forgetting("q", "#### 2");
        assert_eq!((forget.len(), &forget[0]), (4, &json!({ "prompt": "q", "chosen": "2", "rejected": "1" })));
        let none = Judged::new(["1"], "#### 2");
        assert!(none.pairs("q", 5, 42).is_empty() && none.forgetting("q", "#### 2")[0]["chosen"] == "#### 2");
    }
}
