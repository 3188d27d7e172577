//! What the search is fitted to: responses of the aligned model, drawn from it, and the best of them where something scores them
//! (arXiv 2309.06256, appendix D.5).

use super::{Blended, Shares};
use crate::data::{EncodeOptions, Encoder, Example, Form, Row, Rows, Sequence, Text};
use crate::error::{Context, Error, Kind, Result};
use crate::generate::{generate, GenerateParams};
use crate::runtime::{Adapter, Model};
use crate::train::summed_log_probs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sampled responses, and what was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Prompts with responses; none is cut or empty.
    pub rows: Rows,
    /// Responses that did not end within the tokens they had.
    pub n_cut: usize,
    /// Responses that say nothing.
    pub n_empty: usize,
}

/// Answers every prompt `per_prompt` times. `tell` hears of how many of all responses are done.
///
/// # Errors
/// [`Kind::Data`] where no response is left.
pub fn sample(
    model: &Arc<Model>,
    adapters: &[(Arc<Adapter>, f32)],
    prompts: &[Text],
    per_prompt: usize,
    params: &GenerateParams,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Sampled> {
    let template = model.template()?;
    let encoder = Encoder::new(model.as_ref(), template.as_ref(), &EncodeOptions::default())?;
    let encode = |(i, prompt): (usize, &Text)| encoder.prompt(prompt).during(|| format!("prompt {}", i + 1));
    let tokens = prompts.iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
    let asked: Vec<usize> = (0..prompts.len()).flat_map(|i| std::iter::repeat_n(i, per_prompt)).collect();
    let (mut rows, mut n_cut, mut n_empty, mut done) = (Vec::new(), 0, 0, 0);
    let size = params.n_parallel.max(1);
    for group in asked.chunks(size) {
        let mut params = *params;
        params.sampler.seed = params.sampler.seed.wrapping_add(done as u32);
        let these: Vec<_> = group.iter().map(|&i| tokens[i].clone()).collect();
        for (answer, &i) in generate(model, adapters, &these, &params)?.into_iter().zip(group) {
            match (answer.ended, answer.text.trim().is_empty()) {
                (_, true) => n_empty += 1,
                (false, _) => n_cut += 1,
                (true, false) => {
                    let (prompt, completion) = (prompts[i].clone(), said(&prompts[i], answer.text));
                    rows.push(Row { line: rows.len() + 1, example: Example::Completion { prompt, completion } });
                }
            }
        }
        done += group.len();
        tell(done, asked.len());
    }
    if rows.is_empty() {
        let message = format!("no response to {} prompts: {n_cut} were cut, {n_empty} are empty", prompts.len());
        return Err(Error::new(Kind::Data, message));
    }
    Ok(Sampled { rows: Rows { source: "responses".to_owned(), form: Form::Completion, rows }, n_cut, n_empty })
}

/// A response in the form of its prompt.
fn said(prompt: &Text, answer: String) -> Text {
    match prompt {
        Text::Plain(_) => Text::Plain(answer),
        Text::Messages(_) => Text::Messages(vec![crate::data::Message::new("assistant", answer)]),
    }
}

/// The implicit reward of responses, up to a factor: how much likelier alignment made each (Rafailov et al. 2023,
/// arXiv 2305.18290, equation 5).
pub fn implicit_rewards(blended: &mut Blended, sequences: &[&Sequence], max_tokens: usize) -> Result<Vec<f64>> {
    let mut at = |share: f64| {
        let n_layers = blended.n_layers();
        blended.set(&Shares::uniform(share, n_layers));
        summed_log_probs(blended.engine(), sequences, max_tokens, &mut |_| {})
    };
    let (after, before) = (at(0.0)?, at(1.0)?);
    Ok(after.iter().zip(before).map(|(a, b)| a - b).collect())
}

/// Places of the responses that are kept, in their order: the best one of every prompt, and of these the `keep` best. Of equal
/// scores the first one counts.
pub fn best(prompts: &[&Text], scores: &[f64], keep: Option<usize>) -> Vec<usize> {
    let mut of_prompt: BTreeMap<String, usize> = BTreeMap::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let place = of_prompt.entry(format!("{prompt:?}")).or_insert(i);
        if scores[i] > scores[*place] {
            *place = i;
        }
    }
    let mut places: Vec<usize> = of_prompt.into_values().collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    places.truncate(keep.unwrap_or(places.len()));
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_every_prompt_and_of_these_the_best() {
        let [a, b] = ["a", "b"].map(|t| Text::Plain(t.into()));
        let prompts = [&a, &b, &a, &b, &a];
        let scores = [1.0, 5.0, 3.0, 5.0, 2.0];
        assert_eq!(best(&prompts, &scores, None), [1, 2]);
        assert_eq!(best(&prompts, &scores, Some(1)), [1]);
        assert_eq!(best(&[], &[], Some(3)), [0usize; 0]);
    }
}
