//! Likelihoods, divergences and answers of inputs and output.

use super::{Bench, Content};
use crate::models::runtime;
use llama_align::data::{Sequence, Tokenize};
use llama_align::engine::Engine;
use llama_align::generate::prompt_tokens;
use llama_align::merge::{Evidence, OutType, Subject, PROMPTS, TEXT};
use llama_align::runtime::Model;
use llama_align::trace::trace;
use quant::Type;
use std::sync::Arc;

#[test]
fn likelihood_and_divergence_are_those_of_the_logits() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "base.gguf");
    bench.adapter("base.gguf", "adapter.gguf", 4, 8.0, 0.2);
    bench.fold("base.gguf", &[("adapter.gguf", 0.5)], OutType::Keep, "out.gguf").unwrap();
    let [base, adapter, out] = ["base.gguf", "adapter.gguf", "out.gguf"].map(|name| bench.path(name));
    let subject = |model, adapters| Subject { model, adapters };
    let subjects = [
        subject(&base, vec![]),
        subject(&base, vec![(adapter.as_path(), 0.5)]),
        subject(&base, vec![(adapter.as_path(), 0.5)]),
        subject(&out, vec![]),
        subject(&base, vec![]),
    ];
    let evidence = Evidence::measure(&runtime(), &subjects, Some(1), 1);
    let found: Vec<_> = evidence.models.iter().map(|(_, f)| f.as_ref().unwrap()).collect();
    assert_eq!(evidence.models[1].0, "base.gguf + adapter.gguf × 0.5");
    // Nothing is compared before the reference; the same model is no distance away.
    assert!(found[0].kl.is_none() && found[1].kl.is_none() && found[2].kl == Some(0.0));
    let (near, far) = (found[3].kl.unwrap(), found[4].kl.unwrap());
    assert!((0.0..1e-5).contains(&near) && far > 1e-3, "{near:e} {far:e}");
    assert!((found[1].nll - found[3].nll).abs() < 1e-3 && found[1].answers == found[2].answers);
    assert!(found.iter().all(|f| f.answers.len() == PROMPTS.len() && f.n_tokens == 256));
    // The likelihood by the engine.
    let model = Model::open(&runtime(), &out).unwrap();
    let mut tokens = prompt_tokens(&model, TEXT).unwrap();
    assert!(tokens.len() > 256 && model.bos().is_some());
    tokens.truncate(256);
    let mut engine = Engine::new(&model, &Arc::new(trace(&model).unwrap()), Vec::new(), 1).unwrap();
    let sequence = Sequence::new(tokens, 1);
    let log_probs = engine.log_probs(&[&sequence]).unwrap();
    let nll = -log_probs[0].iter().map(|&p| f64::from(p)).sum::<f64>() / 255.0;
    assert!((nll - found[3].nll).abs() < 1e-3, "{nll} {}", found[3].nll);
}

#[test]
fn a_model_that_the_runtime_does_not_load_is_said_to_be_one() {
    let bench = Bench::new();
    Content::bare().f32("token_embd.weight", &[4, 4], &[0.5; 16]).write(&bench.path("part.gguf"));
    bench.tiny("llama-tied", Type::F32, "whole.gguf");
    let (part, whole) = (bench.path("part.gguf"), bench.path("whole.gguf"));
    let subjects = [&part, &whole].map(|model| Subject { model, adapters: vec![] });
    let evidence = Evidence::measure(&runtime(), &subjects, Some(0), 1);
    let reason = evidence.models[0].1.as_ref().unwrap_err();
    assert!(reason.contains("part.gguf") && reason.contains("llama.cpp"), "{reason}");
    assert!(evidence.models[1].1.as_ref().unwrap().kl.is_none());
    let json = evidence.to_json();
    assert!(json["models"][0]["error"].is_string() && json["models"][1]["nll"].is_f64(), "{json}");
}
