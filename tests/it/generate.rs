//! Several sequences decoded at once answer as each does alone.

use crate::models::open;
use crate::tiny::find;
use llama_align::data::Tokenize;
use llama_align::error::Kind;
use llama_align::generate::{generate, Answer, GenerateParams};
use llama_align::runtime::{Model, SamplerParams};
use quant::Type;
use std::sync::Arc;

const N_PREDICT: usize = 12;

fn params(temperature: f32, seed: u32, n_parallel: usize) -> GenerateParams {
    let sampler = SamplerParams { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, seed };
    GenerateParams { n_predict: N_PREDICT, n_threads: 1, n_parallel, sampler }
}

fn prompts(model: &Model) -> Vec<Vec<i32>> {
    let texts = ["the rest in", "a", "you and the one of it is, and more than that", "what", "in in in"];
    texts.iter().map(|text| model.tokenize(text, false).unwrap()).collect()
}

fn answers(model: &Arc<Model>, params: &GenerateParams) -> Vec<Answer> {
    generate(model, &[], &prompts(model), params).unwrap()
}

#[test]
fn a_group_answers_as_its_sequences_alone() {
    let tiny = find("llama-tied");
    let opened = open(&tiny, Type::F32).unwrap();
    for temperature in [0.0, 1.0] {
        let alone = answers(&opened.model, &params(temperature, 7, 1));
        assert_eq!(alone.len(), 5);
        assert!(alone.iter().all(|a| a.ended || a.tokens.len() == N_PREDICT));
        for n_parallel in [2, 3, 8] {
            assert_eq!(answers(&opened.model, &params(temperature, 7, n_parallel)), alone, "{n_parallel} at once");
        }
        // The seed of a sequence is the seed plus its place.
        let prompts = prompts(&opened.model);
        let third = generate(&opened.model, &[], &prompts[2..3], &params(temperature, 9, 1)).unwrap();
        assert_eq!(third[0], alone[2]);
    }
    let (greedy, drawn) = (answers(&opened.model, &params(0.0, 7, 3)), answers(&opened.model, &params(1.0, 7, 3)));
    assert_ne!(greedy, drawn);
    assert_ne!(drawn, answers(&opened.model, &params(1.0, 8, 3)));
}

#[test]
fn what_does_not_fit_is_refused_or_cut() {
    let tiny = find("llama-tied");
    let opened = open(&tiny, Type::F32).unwrap();
    let (n_ctx, params) = (opened.model.n_ctx_train(), params(0.0, 0, 2));
    let of = |n: usize| generate(&opened.model, &[], &[vec![1; n]], &params);
    assert_eq!(of(0).unwrap_err().kind(), Kind::Argument);
    assert!(of(n_ctx).unwrap_err().to_string().contains("context"));
    let last = of(n_ctx - 1).unwrap();
    assert!(last[0].tokens.len() <= 1);
    let none = GenerateParams { n_predict: 0, ..params };
    assert!(generate(&opened.model, &[], &[vec![1]], &none).unwrap()[0].tokens.is_empty());
}
