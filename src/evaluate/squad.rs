//! Exact match and F1 of short answers, as SQuAD 1.1 scores them (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1, and
//! its published script).

use std::collections::BTreeMap;

/// Lower case, without ASCII punctuation, without the words a, an, the, single spaces.
pub fn normalise(text: &str) -> String {
    let lower: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let (mut out, mut word) = (String::with_capacity(lower.len()), String::new());
    for c in lower.chars().chain([' ']) {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        // A whole word, as between two \b of a regular expression.
        out.push_str(if ["a", "an", "the"].contains(&word.as_str()) { " " } else { &word });
        word.clear();
        out.push(c);
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// 1 if the answer equals one of the gold answers after normalisation, else 0.
pub fn exact_match(answer: &str, gold: &[String]) -> f64 {
    let answer = normalise(answer);
    f64::from(u8::from(gold.iter().any(|g| normalise(g) == answer)))
}

/// Harmonic mean of precision and recall of the answer's words; the best over the gold answers.
pub fn f1(answer: &str, gold: &[String]) -> f64 {
    gold.iter().map(|g| f1_of(&normalise(answer), &normalise(g))).fold(0.0, f64::max)
}

fn f1_of(answer: &str, gold: &str) -> f64 {
    let (answer, gold): (Vec<_>, Vec<_>) = (answer.split(' ').collect(), gold.split(' ').collect());
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    gold.iter().for_each(|&word| *left.entry(word).or_default() += 1);
    let same = answer.iter().filter(|&&word| {
        let found = left.get_mut(word).filter(|n| **n > 0);
        found.map(|n| *n -= 1).is_some() && !word.is_empty()
    });
    let same = same.count() as f64;
    if same == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (same / answer.len() as f64, same / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gold(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn normalisation_is_that_of_the_published_script() {
        let cases = [
            ("The Panthers' defense.", "panthers defense"),
            ("  an  Apple,a day ", "applea day"),
            ("A\u{2013}B, the end", "\u{2013}b end"),
            ("Theatre and anthem", "theatre and anthem"),
            ("308 points", "308 points"),
            ("the", ""),
        ];
        for (text, wanted) in cases {
            assert_eq!(normalise(text), wanted, "{text}");
        }
    }

    #[test]
    fn words_in_common_by_hand() {
        // normalised: "denver broncos won" (3) and "denver broncos" (2): precision 2/3, recall 1, F1 = 0.8.
        assert!((f1("The Denver Broncos won!", &gold(&["Denver Broncos", "Carolina"])) - 0.8).abs() < 1e-15);
        // "yes yes" against "yes": one of two is in common: precision 1/2, recall 1, F1 = 2/3.
        assert!((f1("yes yes", &gold(&["yes"])) - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(f1("no", &gold(&["yes"])), 0.0);
        assert_eq!(f1("the", &gold(&["a"])), 0.0);
        assert_eq!((exact_match("an apple.", &gold(&["Apple"])), exact_match("apples", &gold(&["Apple"]))), (1.0, 0.0));
        assert_eq!(exact_match("x", &[]), 0.0);
    }
}
