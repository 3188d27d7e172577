//! Numbers that tell the tokens of answers apart, and weights out of them (ALLO, Chen et al. 2024, arXiv 2406.12606; specs
//! `allo_hbat`, 1.4, steps 3 and 5).
//!
//! **In:** pairs, and what an alignment or a rewriter makes of their tokens. **Out:** a number for every token with a loss, and a
//! weight for every one of the rejected answers. **Invariant:** numbers are of the tokens that training sees, in their order.

use crate::data::{Dataset, EncodeOptions, Example, Row, Rows, Sequence, Text};
use crate::error::{Error, Kind, Result};
use crate::loss::lowest;
use crate::rewriter::{self, Weigh};
use crate::runtime::Model;
use crate::train::{Policy, References};

/// Of a pair's chosen and rejected answer, a number for every token with a loss.
pub type PairNumbers = [Vec<f32>; 2];

/// What weights the tokens of rejected answers have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenChoice {
    /// 1 where the log-ratio is below, else 0.
    Below(f64),
    /// 1 for this share of every answer's tokens, those of the lowest log-ratios.
    Share(f64),
    /// By the probability with which a rewriter copies them.
    Copied(Weigh),
}

impl TokenChoice {
    /// The weights of an answer's tokens.
    pub fn weights(self, numbers: &[f32]) -> Vec<f32> {
        match self {
            Self::Share(share) => lowest(numbers, &vec![0.0; numbers.len()], share),
            Self::Below(limit) => numbers.iter().map(|&r| f32::from(u8::from(f64::from(r) < limit))).collect(),
            Self::Copied(weigh) => numbers.iter().map(|&q| weigh.of(f64::from(q))).collect(),
        }
    }
}

/// ln p(token) of an aligned model less that of its base, as both were measured on all pairs of `data`.
///
/// # Errors
/// If a row was not measured, or is no pair.
pub fn log_ratios(data: &Dataset, aligned: &References, base: &References) -> Result<Vec<PairNumbers>> {
    let less = |now: &Vec<f32>, before: &Vec<f32>| now.iter().zip(before).map(|(n, b)| n - b).collect::<Vec<f32>>();
    let of = |row: usize| match (aligned.tokens_of(row)?, base.tokens_of(row)?) {
        ([c, r], [c_before, r_before]) => Ok([less(c, c_before), less(r, r_before)]),
        _ => Err(Error::new(Kind::Data, format!("line {}: the row is no pair", data.samples[row].line()))),
    };
    (0..data.samples.len()).map(of).collect()
}

/// What a rewriter copies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copied {
    /// The probabilities.
    pub numbers: Vec<PairNumbers>,
    /// Answers that are too long for the rewriter: each of their tokens is taken to be copied, so that nothing of them is forgotten.
    pub too_long: usize,
}

/// The probabilities with which a rewriter copies the tokens of both answers, each given as a prediction to correct. `rows` are
/// what `data` was made of, `model` the one whose template and tokens the rewriter has.
///
/// # Errors
/// [`Kind::Data`] for rows that are no pairs, and where the rewriter's template makes other tokens of an answer.
pub fn copy_probabilities(
    rewriter: &mut dyn Policy,
    model: &Model,
    data: &Dataset,
    rows: &Rows,
    encoding: &EncodeOptions,
) -> Result<Copied> {
    let asked = |row: &Row, k: usize| -> Result<Row> {
        let [problem, chosen, rejected] = rewriter::parts(row)?;
        let prediction = if k == 0 { &chosen } else { &rejected };
        let prompt = Text::Plain(rewriter::question(&problem, &chosen, prediction));
        let example = Example::Completion { prompt, completion: Text::Plain(prediction.clone()) };
        Ok(Row { line: row.line, example })
    };
    let template = model.template()?;
    let mut found = Copied::default();
    for sample in &data.samples {
        let row = rows.rows.iter().find(|row| row.line == sample.line());
        let row = row.ok_or_else(|| Error::new(Kind::Data, format!("line {}: no row", sample.line())))?;
        let mut of_row = [Vec::new(), Vec::new()];
        for ((k, own), numbers) in sample.sequences().enumerate().zip(&mut of_row) {
            let one = Rows { source: rows.source.clone(), form: rows.form, rows: vec![asked(row, k)?] };
            let encoded = Dataset::encode(&one, model, template.as_ref(), encoding)?;
            let Some(sequence) = encoded.samples.first().and_then(|s| s.sequences().next()) else {
                found.too_long += 1;
                *numbers = vec![1.0; own.n_scored()];
                continue;
            };
            let tokens = |s: &Sequence| s.scored().map(|i| s.tokens[i]).collect::<Vec<_>>();
            if tokens(sequence) != tokens(own) {
                let message = format!(
                    "line {}: the rewriter sees other tokens in the answer than the model does: its template differs",
                    row.line
                );
                return Err(Error::new(Kind::Data, message));
            }
            *numbers = rewriter.log_probs(&[sequence])?.iter().flatten().map(|l| l.exp()).collect();
        }
        found.numbers.push(of_row);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_what_their_choices_say() {
        let numbers = [-0.5, 0.25, 0.0, -1.0];
        assert_eq!(TokenChoice::Below(0.0).weights(&numbers), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(TokenChoice::Below(-0.75).weights(&numbers), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(TokenChoice::Share(0.25).weights(&numbers), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(TokenChoice::Copied(Weigh::Below(0.5)).weights(&[0.75, 0.25]), [0.0, 1.0]);
    }
}
