//! Blended likelihoods and their slopes by the ratios, against an interpreter in f64 and its central differences.

use super::Opened;
use crate::merge::Bench;
use crate::models::{each, runtime};
use crate::oracle::{self, Array, Oracle};
use crate::random::Random;
use llama_align::adapter::{import, Lora};
use llama_align::data::Sequence;
use llama_align::engine::{adapt, Delta, Engine, Form, Layout, Role};
use llama_align::error::Kind;
use llama_align::gguf::{File, Value};
use llama_align::hma::{Blended, Others, Shares};
use llama_align::merge::{average, Bound, Options, OutType};
use quant::Type;
use std::rc::Rc;

/// Largest error of a likelihood, and of slopes over the norm of all slopes. F32 leaves 1e-6 and 1e-5 on these models.
const LIKELIHOOD: f64 = 1e-5;
const SLOPE: f64 = 2e-4;
/// Step of a central difference of the f64 likelihood.
const STEP: f64 = 1e-3;

const MAX_TOKENS: usize = 256;

fn sequences(model: &Opened) -> Vec<Sequence> {
    let mut random = Random::of("responses");
    let n_vocab = model.model.n_vocab();
    [(21, 5), (9, 2), (34, 30)]
        .into_iter()
        .map(|(n, prompt)| Sequence::new((0..n).map(|_| random.below(n_vocab) as i32).collect(), prompt))
        .collect()
}

/// Uneven ratios that keep their mean.
fn shares(n_layers: usize, others: Others) -> Shares {
    let layers: Vec<f64> = (0..n_layers).map(|l| 0.15 + 0.6 * l as f64 / n_layers as f64).collect();
    let mean = layers.iter().sum::<f64>() / n_layers as f64;
    Shares { layers, mean, others }
}

/// Negative log-likelihood of the answers in f64: the first model's program on the weights given, with an adapter.
fn exact(model: &Opened, weights: Rc<Vec<Array>>, lora: Option<(&Lora, &Shares)>, sequences: &[Sequence]) -> f64 {
    let deltas: Vec<Delta> =
        lora.iter().map(|(l, _)| Delta { lora: (*l).clone(), scale: 1.0, trainable: false }).collect();
    let adapted = adapt(&model.trace, &deltas, Form::Training).unwrap();
    let layout = Layout::new(sequences.iter().map(|s| s.tokens.as_slice())).unwrap();
    let mut oracle = Oracle::new(&adapted.program, &layout, weights);
    for parameter in &adapted.parameters {
        let (lora, shares) = lora.unwrap();
        let (values, by) = match parameter.role {
            Role::A(_, f) => (&lora.factors[f].a, 1.0),
            Role::B(_, f) => (&lora.factors[f].b, 1.0 - shares.of(&lora.factors[f].weight, false)),
            Role::Change(_) | Role::Ratio => panic!("a fixed delta has factors only"),
        };
        let values = values.iter().map(|&x| by * f64::from(x)).collect();
        oracle.give(parameter.value, Array::new(oracle.ne(parameter.value), values));
    }
    let weights: Vec<Vec<f32>> = sequences.iter().map(|s| vec![1.0; s.tokens.len() - s.prompt_len]).collect();
    let logits = oracle.value(adapted.logits);
    -oracle::log_probs(&logits, &oracle::targets(&layout, sequences, &weights)).iter().sum::<f64>()
}

/// Slopes of a likelihood by every block's ratio; the mean, which other tensors have, stays.
fn differences(shares: &Shares, nll: &dyn Fn(&Shares) -> f64) -> Vec<f64> {
    let moved = |layer: usize, by: f64| {
        let mut shares = shares.clone();
        shares.layers[layer] += by;
        nll(&shares)
    };
    (0..shares.layers.len()).map(|l| (moved(l, STEP) - moved(l, -STEP)) / (2.0 * STEP)).collect()
}

/// A session against the interpreter: likelihood and slopes.
fn holds(blended: &mut Blended, shares: &Shares, sequences: &[Sequence], nll: &dyn Fn(&Shares) -> f64) {
    let rows: Vec<&Sequence> = sequences.iter().collect();
    blended.set(shares);
    let (found, slopes) = blended.gradient(&rows, MAX_TOKENS).unwrap();
    assert_eq!(blended.nll(&rows, MAX_TOKENS).unwrap(), found, "keeping what a gradient needs changes nothing");
    let wanted = nll(shares);
    assert!((found.nll - wanted).abs() <= LIKELIHOOD * wanted, "{} instead of {wanted}", found.nll);
    assert_eq!(found.n_tokens, sequences.iter().map(|s| s.tokens.len() - s.prompt_len).sum::<usize>());
    let exact = differences(shares, nll);
    let norm = oracle::norm(&exact);
    assert!(norm > 1e-3, "a ratio that changes nothing checks nothing: {exact:?}");
    for (layer, (found, wanted)) in slopes.iter().zip(&exact).enumerate() {
        assert!((found - wanted).abs() <= SLOPE * norm, "block {layer}: {slopes:?} instead of {exact:?}");
    }
}

#[test]
fn of_an_adapter_equals_the_interpreter() {
    let cases: Vec<_> = ["llama-untied", "gemma2", "gpt2", "deepseek2"]
        .into_iter()
        .flat_map(|m| [(m, Type::F32), (m, Type::Q8_0)])
        .collect();
    each(
        &cases,
        |(m, ty)| format!("{m} {}", ty.name()),
        |&(name, ty)| {
            let bench = Bench::new();
            bench.tiny(name, ty, "base.gguf");
            bench.adapter("base.gguf", "adapter.gguf", 3, 6.0, 0.2);
            let model = Opened::new(&bench, "base.gguf");
            let mut lora = import(&File::open(&bench.path("adapter.gguf")).unwrap()).unwrap();
            let linears = model.trace.linears();
            lora.factors.retain(|f| linears.contains_key(&f.weight));
            let (weights, sequences) = (oracle::decode(&model.trace.program, &model.file), sequences(&model));
            let nll = |shares: &Shares| exact(&model, weights.clone(), Some((&lora, shares)), &sequences);
            let mut blended = Blended::of_adapter(&model.model, &model.trace, &lora, 1, Form::Training).unwrap();
            let shares = shares(blended.n_layers(), Others::Faithful);
            assert_eq!(blended.n_linears().iter().sum::<usize>(), lora.factors.len());
            holds(&mut blended, &shares, &sequences, &nll);

            // The folded scales are the same adapter, and 16-bit products come near.
            let folded = lora.scaled_by(&|weight| 1.0 - shares.of(weight, false)).unwrap();
            let delta = Delta { lora: folded, scale: 1.0, trainable: false };
            let mut engine = Engine::new(&model.model, &model.trace, vec![delta], 1).unwrap();
            let rows: Vec<&Sequence> = sequences.iter().collect();
            let sum = -engine.log_probs(&rows).unwrap().iter().flatten().map(|&l| f64::from(l)).sum::<f64>();
            assert!((sum - nll(&shares)).abs() <= LIKELIHOOD * sum);
            let mut coarse = Blended::of_adapter(&model.model, &model.trace, &lora, 1, Form::TrainingBf16).unwrap();
            coarse.set(&shares);
            let (near, slopes) = coarse.gradient(&rows, MAX_TOKENS).unwrap();
            assert!((near.nll - sum).abs() < 2e-2 * sum && slopes.iter().any(|&s| s != 0.0), "{near:?}");
        },
    );
}

/// Weights of the blend in f64, by `WeightId` of the first model's program.
fn mixed(before: &[Array], after: &[Array], names: &[String], shares: &Shares, is_tied: bool) -> Rc<Vec<Array>> {
    let of = |((a, b), name): ((&Array, &Array), &String)| {
        let share = shares.of(name, is_tied);
        let values = a.to_vec().iter().zip(b.to_vec()).map(|(a, b)| share * a + (1.0 - share) * b).collect();
        Array::new(a.ne, values)
    };
    Rc::new(before.iter().zip(after).zip(names).map(of).collect())
}

#[test]
fn of_two_models_equals_the_interpreter() {
    let models = ["llama-untied", "llama-tied", "gemma2", "gpt2", "deepseek2", "qwen2", "bloom"];
    let cases: Vec<_> =
        models.into_iter().flat_map(|m| [(m, Type::F32, Type::F32), (m, Type::Q8_0, Type::F16)]).collect();
    each(
        &cases,
        |(m, a, b)| format!("{m} {} {}", a.name(), b.name()),
        |&(name, ours, theirs)| {
            let bench = Bench::new();
            bench.tiny(name, ours, "before.gguf");
            bench.tiny(name, theirs, "plain.gguf");
            bench.varied("plain.gguf", "after.gguf", |i, v| {
                v * (1.0 + 0.2 * (i as f32 * 0.7).sin()) + 0.01 * (i as f32).cos()
            });
            let (before, after) = (Opened::new(&bench, "before.gguf"), Opened::new(&bench, "after.gguf"));
            let sequences = sequences(&before);
            let names: Vec<String> = before.trace.program.weights.iter().map(|w| w.name.clone()).collect();
            let own: Vec<String> = after.trace.program.weights.iter().map(|w| w.name.clone()).collect();
            assert_eq!(names, own);
            let weights = [&before, &after].map(|m| oracle::decode(&m.trace.program, &m.file));
            let is_tied = before.file.tensor("output.weight").is_none();
            let nll = |shares: &Shares| {
                exact(&before, mixed(&weights[0], &weights[1], &names, shares, is_tied), None, &sequences)
            };
            let mut blended = Blended::of_models(before.side(), after.side(), 1, Form::Training).unwrap();
            for others in [Others::Faithful, Others::Uniform] {
                let shares = shares(blended.n_layers(), others);
                holds(&mut blended, &shares, &sequences, &nll);
            }
            let rows: Vec<&Sequence> = sequences.iter().collect();
            for (share, model) in [(1.0, &before), (0.0, &after)] {
                blended.set(&Shares::uniform(share, blended.n_layers()));
                let mut engine = Engine::new(&model.model, &model.trace, Vec::new(), 1).unwrap();
                let alone = -engine.log_probs(&rows).unwrap().iter().flatten().map(|&l| f64::from(l)).sum::<f64>();
                let found = blended.nll(&rows, MAX_TOKENS).unwrap().nll;
                assert!((alone - found).abs() <= LIKELIHOOD * alone, "weight {share}: {found} instead of {alone}");
            }
        },
    );
}

#[test]
fn of_two_models_equals_the_written_model() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::Q8_0, "before.gguf");
    bench.varied("before.gguf", "after.gguf", |i, v| v * (1.0 + 0.2 * (i as f32 * 0.7).sin()));
    let (before, after) = (Opened::new(&bench, "before.gguf"), Opened::new(&bench, "after.gguf"));
    let mut blended = Blended::of_models(before.side(), after.side(), 1, Form::Training).unwrap();
    let shares = shares(blended.n_layers(), Others::Faithful);
    let out = OutType::from_name("f32", Bound::default()).unwrap();
    let options = Options { out, ..Options::default() };
    let (files, share) = ([&before.file, &after.file], |name: &str| shares.of(name, false));
    average(&runtime(), files, &share, &[], &options, Some(&bench.path("mean.gguf")), &mut |_| {}).unwrap();
    let written = Opened::new(&bench, "mean.gguf");
    let sequences = sequences(&before);
    let rows: Vec<&Sequence> = sequences.iter().collect();
    blended.set(&shares);
    let found = blended.engine().log_probs(&rows).unwrap();
    let mut engine = Engine::new(&written.model, &written.trace, Vec::new(), 1).unwrap();
    for (found, wanted) in found.iter().flatten().zip(engine.log_probs(&rows).unwrap().iter().flatten()) {
        assert!((found - wanted).abs() <= 1e-4 * wanted.abs(), "{found} instead of {wanted}");
    }
}

/// What alignment left alone has no slope, whatever its ratio is.
#[test]
fn equal_blocks_have_a_slope_of_zero() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "before.gguf");
    bench.edited("before.gguf", "after.gguf", |content| {
        let tensor = content.tensors.iter_mut().find(|t| t.0 == "blk.1.ffn_up.weight").unwrap();
        tensor.3.rotate_left(4);
    });
    bench.adapter("before.gguf", "nothing.gguf", 2, 4.0, 0.0);
    let (before, after) = (Opened::new(&bench, "before.gguf"), Opened::new(&bench, "after.gguf"));
    let (sequences, lora) = (sequences(&before), import(&File::open(&bench.path("nothing.gguf")).unwrap()).unwrap());
    let rows: Vec<&Sequence> = sequences.iter().collect();
    let mut models = Blended::of_models(before.side(), after.side(), 1, Form::Training).unwrap();
    let mut adapter = Blended::of_adapter(&before.model, &before.trace, &lora, 1, Form::Training).unwrap();
    models.set(&shares(2, Others::Faithful));
    adapter.set(&shares(2, Others::Faithful));
    let (_, slopes) = models.gradient(&rows, MAX_TOKENS).unwrap();
    assert!(slopes[0] == 0.0 && slopes[1] != 0.0, "{slopes:?}");
    let (blend, slopes) = adapter.gradient(&rows, MAX_TOKENS).unwrap();
    assert_eq!(slopes, [0.0, 0.0]);
    adapter.set(&Shares::uniform(1.0, 2));
    assert_eq!(adapter.nll(&rows, MAX_TOKENS).unwrap(), blend);
}

#[test]
fn models_that_do_not_belong_together_are_refused_by_name() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "a.gguf");
    bench.edited("a.gguf", "same.gguf", |_| {});
    bench.edited("a.gguf", "rope.gguf", |c| c.set("llama.rope.freq_base", Value::F32(5.0)));
    bench.tiny("llama-deep", Type::F32, "deep.gguf");
    bench.tiny("qwen2", Type::F32, "qwen2.gguf");
    bench.edited("a.gguf", "pre.gguf", |c| c.set("tokenizer.ggml.pre", Value::String("llama-bpe".into())));
    let a = Opened::new(&bench, "a.gguf");
    for (name, says) in [
        ("same.gguf", "nothing to blend"),
        ("rope.gguf", "rope.freq_base"),
        ("deep.gguf", "block_count"),
        ("pre.gguf", "tokenizer.ggml.pre"),
        ("qwen2.gguf", "qwen2"),
    ] {
        let other = Opened::new(&bench, name);
        let error = Blended::of_models(a.side(), other.side(), 1, Form::Training).unwrap_err();
        assert!(error.kind() == Kind::Mismatch && error.to_string().contains(says), "{name}: {error}");
    }
}
