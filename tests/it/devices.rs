//! Models on devices: the flags that choose them, and values read out of a decode.

use crate::models::{open, runtime};
use crate::tiny::find;
use llama_align::data::Sequence;
use llama_align::engine::{BlockValues, Engine, Form, Layout};
use llama_align::error::Kind;
use llama_align::runtime::{observe, Offload};
use llama_align::trace::trace;
use quant::Type;
use std::sync::Arc;

#[test]
fn are_refused_by_name() {
    let gpus = runtime().devices().iter().filter(|d| d.is_gpu()).count();
    let refused = |names: Option<&str>, n: Option<u32>| Offload::parse(&runtime(), names, n).unwrap_err();
    let error = refused(Some("nowhere7"), None);
    assert_eq!(error.kind(), Kind::Argument);
    assert!(
        error.to_string().contains("--device nowhere7") && error.to_string().contains("this runtime has"),
        "{error}"
    );
    assert!(refused(Some(" ,"), None).to_string().contains("no name given"));
    assert!(refused(Some("none"), Some(3)).to_string().contains("-ngl 3"));
    assert_eq!(Offload::parse(&runtime(), None, Some(3)).is_ok(), gpus > 0);
    for (names, n) in [(None, None), (Some("none"), None), (Some("none"), Some(0)), (None, Some(0))] {
        assert!(Offload::parse(&runtime(), names, n).unwrap().devices.is_empty());
    }
    assert!(runtime().devices().iter().any(|d| d.name == "CPU" && !d.is_gpu()), "the CPU is a device, but no GPU");
}

/// What the check of a device rests on, where bits must be equal: each block from the decode's own values gives the next one's.
#[test]
fn are_checked_by_values_that_the_decode_left() {
    for name in ["llama-untied", "gemma2", "phi3"] {
        let opened = open(&find(name), Type::Q8_0).unwrap();
        let trace = Arc::new(trace(&opened.model).unwrap());
        let tokens: Vec<i32> = (0..21).map(|i| (i * 37 + 5) % opened.model.n_vocab() as i32).collect();
        let mut engine = Engine::with_form(&opened.model, &trace, Vec::new(), 1, Form::Runtime).unwrap();
        let results = engine.block_results();
        let value_name = |id| trace.program.get(id).name.clone();
        let observed = observe(&opened.model, &tokens, results.iter().map(|&id| value_name(id)).collect(), 1).unwrap();
        let expected: BlockValues = results.iter().map(|&id| (id, observed.values[&value_name(id)].clone())).collect();
        let found = engine.block_values(&Layout::bare(&tokens), Some(&expected)).unwrap();
        for (id, values) in &expected {
            assert!(found[id] == *values && values.iter().any(|&v| v != 0.0), "{name}: {}", value_name(*id));
        }
        let (sequence, n_vocab) = (Sequence::new(tokens, 1), opened.model.n_vocab());
        let mut seen = 0;
        let mut compare = |_: usize, place: usize, logits: &[f32]| {
            assert!(logits == &observed.logits[(place - 1) * n_vocab..place * n_vocab], "{name}: logits at {place}");
            seen += 1;
        };
        engine.visit_kept_logits(&[&sequence], &mut compare).unwrap();
        assert_eq!(seen, 20);
        // A block that starts from something else ends in something else.
        let mut wrong = expected.clone();
        wrong.get_mut(&results[0]).unwrap().iter_mut().for_each(|v| *v += 0.1);
        let found = engine.block_values(&Layout::bare(&sequence.tokens), Some(&wrong)).unwrap();
        assert!(found[&results[1]] != expected[&results[1]]);
    }
}
