//! Recipes: what they come to, tensor by tensor, and what llama.cpp makes of stacked blocks.

use super::{keep, linear, values, Bench, Content};
use crate::models::runtime;
use crate::random::Random;
use llama_align::error::{Kind, Result};
use llama_align::gguf::{Array, File, Value};
use llama_align::merge::{cook, Method, Options, OutType, Recipe, Report, TaskVectors, Thinning};
use llama_align::runtime::{Context, Model};
use quant::Type;

impl Bench {
    /// Merges by a recipe whose models lie here.
    fn cook(&self, recipe: &str, options: &Options, to: &str) -> Result<Report> {
        let recipe = Recipe::parse(recipe, "recipe.yml")?;
        let files = recipe.models().into_iter().map(|name| File::open(&self.path(name))).collect::<Result<Vec<_>>>()?;
        cook(&runtime(), &recipe, &files, options, Some(&self.path(to)), &mut |_| {})
    }

    fn values(&self, file: &str, tensor: &str) -> Vec<f32> {
        values(&File::open(&self.path(file)).unwrap(), tensor)
    }
}

/// A base and two models with changes of their own, of four blocks.
fn family() -> Bench {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "two.gguf");
    bench.edited("two.gguf", "base.gguf", |content| {
        content.set("llama.block_count", Value::U32(4));
        let blocks: Vec<_> = content.tensors.iter().filter(|t| t.0.starts_with("blk.")).cloned().collect();
        for (i, (name, ty, ne, data)) in blocks.into_iter().enumerate() {
            let (block, part) = name[4..].split_once('.').unwrap();
            let block: usize = block.parse().unwrap();
            let mut random = Random::of(&format!("{i}"));
            let values = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let data = values.flat_map(|v| (v + 0.01 * random.uniform()).to_le_bytes()).collect();
            content.tensors.push((format!("blk.{}.{part}", block + 2), ty, ne, data));
        }
    });
    bench.varied("base.gguf", "a.gguf", |i, v| v + (i as f32 * 0.37).sin() * 0.02);
    bench.varied("base.gguf", "b.gguf", |i, v| v + (i as f32 * 0.73).cos() * 0.03);
    bench
}

/// A recipe that says what flags say gives what they give.
#[test]
fn recipes_and_methods_give_the_same_bytes() {
    let bench = family();
    let task = |thinning, elect, normalize, lambda| {
        let weights = vec![0.5, 1.0];
        Method::TaskVectors(TaskVectors { weights, thinning, elect, normalize, lambda })
    };
    let (density, weights) = (vec![0.5, 0.25], "parameters: {weight: 0.5, density: 0.5}");
    let head = |method: &str, more: &str| {
        format!(
            "merge_method: {method}\nbase_model: base.gguf\nmodels:\n- model: base.gguf\n- {{model: a.gguf, {weights}}}\n\
             - {{model: b.gguf, parameters: {{weight: 1, density: 0.25}}}}\nparameters: {{{more}}}\n"
        )
    };
    let random = |rescale| Thinning::Random { density: density.clone(), rescale, seed: 0 };
    let rank = |e| Thinning::ByRank { density: density.clone(), epsilon: vec![e; 2], rescale: true, seed: 0 };
    let without = |g| Thinning::WithoutOutliers { density: density.clone(), gamma: vec![g; 2] };
    let largest = || Thinning::Largest { density: density.clone() };
    for (recipe, method) in [
        (head("ties", "lambda: 0.9"), task(largest(), true, true, 0.9)),
        (head("ties", "normalize: false"), task(largest(), true, false, 1.0)),
        (head("dare_linear", "int8_mask: true"), task(random(true), false, false, 1.0)),
        (head("dare_ties", "rescale: false"), task(random(false), true, false, 1.0)),
        (head("della", "epsilon: 0.1"), task(rank(0.1), true, true, 1.0)),
        (head("della_linear", ""), task(rank(0.15), false, false, 1.0)),
        (head("breadcrumbs", "gamma: 0.05"), task(without(0.05), false, false, 1.0)),
        (head("breadcrumbs_ties", ""), task(without(0.01), true, false, 1.0)),
    ] {
        bench.cook(&recipe, &keep(), "cooked.gguf").unwrap();
        bench.merge(&["a.gguf", "b.gguf"], Some("base.gguf"), &method, &keep(), "merged.gguf").unwrap();
        let [cooked, merged] = ["cooked.gguf", "merged.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
        for tensor in merged.tensors() {
            let found = cooked.tensor(&tensor.name).unwrap();
            assert!(cooked.data(found) == merged.data(tensor), "{} {}", method.name(), tensor.name);
        }
        assert_eq!(cooked.get("llama_align.merge.method").and_then(Value::as_str), Some(method.name()));
        assert_eq!(cooked.get("llama_align.merge.recipe").and_then(Value::as_str), Some(recipe.as_str()));
        ["cooked.gguf", "merged.gguf"].iter().for_each(|name| std::fs::remove_file(bench.path(name)).unwrap());
    }
}

#[test]
fn numbers_follow_filters_blocks_and_levels() {
    let bench = family();
    let recipe = "
merge_method: linear
models:
- model: a.gguf
  parameters:
    weight:
    - {filter: self_attn, value: [1, 0.25]}
    - {filter: ffn_down, value: 0.5}
    - {value: 0.125}
- model: b.gguf
parameters: {weight: 0.75, normalize: false}
";
    bench.cook(recipe, &keep(), "out.gguf").unwrap();
    let holds = |name: &str, share: f64| {
        let [a, b, out] = ["a.gguf", "b.gguf", "out.gguf"].map(|file| bench.values(file, name));
        let wanted = a.iter().zip(&b).map(|(a, b)| (share * f64::from(*a) + 0.75 * f64::from(*b)) as f32);
        // Shares of a gradient are rounded: an ulp.
        let near = |(found, wanted): (&f32, f32)| (found - wanted).abs() <= wanted.abs() * f32::EPSILON;
        assert!(out.iter().zip(wanted).all(near), "{name}");
    };
    // Four blocks: a quarter less from block to block.
    for (block, share) in [(0, 1.0), (1, 1.0 - 0.25), (2, 1.0 - 0.5), (3, 0.25)] {
        holds(&format!("blk.{block}.attn_v.weight"), share);
        holds(&format!("blk.{block}.ffn_down.weight"), 0.5);
    }
    for name in ["token_embd.weight", "output.weight", "output_norm.weight", "blk.2.ffn_up.weight"] {
        holds(name, 0.125);
    }
}

#[test]
fn slerp_begins_at_the_base_wherever_it_is_listed() {
    let bench = family();
    for models in [["a.gguf", "b.gguf"], ["b.gguf", "a.gguf"]] {
        let [first, second] = models;
        let recipe = format!(
            "merge_method: slerp\nbase_model: a.gguf\nmodels: [{{model: {first}}}, {{model: {second}}}]\n\
             parameters: {{t: [{{filter: ffn, value: [0, 1]}}, {{value: 0.5}}]}}"
        );
        bench.cook(&recipe, &keep(), "out.gguf").unwrap();
        let same = |file: &str, name: &str| bench.values(file, name) == bench.values("out.gguf", name);
        assert!(same("a.gguf", "blk.0.ffn_up.weight") && same("b.gguf", "blk.3.ffn_up.weight"));
        assert!(!same("a.gguf", "output.weight") && !same("b.gguf", "output.weight"));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
}

#[test]
fn a_stock_and_a_turn_from_a_base() {
    let bench = family();
    let models = "models: [{model: a.gguf}, {model: b.gguf}]\nbase_model: base.gguf\n";
    let weights = "parameters: {weight: 1}\n";
    for (recipe, method) in [
        (format!("merge_method: model_stock\n{models}"), Method::ModelStock { filter_wise: false }),
        (
            format!("merge_method: model_stock\n{models}parameters: {{filter_wise: true}}"),
            Method::ModelStock { filter_wise: true },
        ),
        (
            format!("merge_method: nuslerp\n{models}{weights}"),
            Method::NuSlerp { weights: vec![1.0; 2], of: llama_align::merge::Vectors::Whole },
        ),
    ] {
        bench.cook(&recipe, &keep(), "cooked.gguf").unwrap();
        bench.merge(&["a.gguf", "b.gguf"], Some("base.gguf"), &method, &keep(), "merged.gguf").unwrap();
        let name = "blk.1.ffn_up.weight";
        assert!(bench.values("cooked.gguf", name) == bench.values("merged.gguf", name), "{}", method.name());
        assert!(bench.values("cooked.gguf", name) != bench.values("base.gguf", name));
        ["cooked.gguf", "merged.gguf"].iter().for_each(|name| std::fs::remove_file(bench.path(name)).unwrap());
    }
}

/// Blocks of two models stacked: keys follow, and llama.cpp runs it.
#[test]
fn stacked_blocks_make_a_model() {
    let bench = family();
    for name in ["a.gguf", "b.gguf"] {
        bench.edited(name, name, |content| {
            content.set("llama.feed_forward_length", Value::Array(Array::U32(vec![96; 4])));
            content
                .set("llama.test.list", Value::Array(Array::I32((0..4).map(|i| i + 10 * name.len() as i32).collect())));
            content.set("general.size_label", Value::String("1K".into()));
        });
    }
    bench.edited("b.gguf", "b.gguf", |c| c.set("llama.test.list", Value::Array(Array::I32(vec![20, 21, 22, 23]))));
    let recipe = "
merge_method: passthrough
slices:
- sources: [{model: a.gguf, layer_range: [0, 3]}]
- sources:
  - model: b.gguf
    layer_range: [1, 4]
    parameters: {scale: [{filter: attn_output, value: 0.5}, {value: 1}]}
";
    let report = bench.cook(recipe, &keep(), "out.gguf").unwrap();
    let out = File::open(&bench.path("out.gguf")).unwrap();
    assert_eq!(out.get("llama.block_count"), Some(&Value::U32(6)));
    assert_eq!(out.get("llama.feed_forward_length"), Some(&Value::Array(Array::U32(vec![96; 6]))));
    assert_eq!(out.get("llama.test.list"), Some(&Value::Array(Array::I32(vec![60, 61, 62, 21, 22, 23]))));
    assert_eq!(out.get("general.size_label"), None);
    let n_scaled = report.tensors.iter().filter(|t| !t.copied).count();
    assert_eq!(n_scaled, 3, "only what is scaled is not a copy");
    for (block, file, from) in [(0, "a.gguf", 0), (2, "a.gguf", 2), (3, "b.gguf", 1), (5, "b.gguf", 3)] {
        let there = bench.values(file, &format!("blk.{from}.ffn_down.weight"));
        assert!(values(&out, &format!("blk.{block}.ffn_down.weight")) == there, "{block}");
    }
    let half: Vec<f32> = bench.values("b.gguf", "blk.1.attn_output.weight").iter().map(|v| v * 0.5).collect();
    assert!(values(&out, "blk.3.attn_output.weight") == half);
    assert!(values(&out, "token_embd.weight") == bench.values("a.gguf", "token_embd.weight"));
    assert!(values(&out, "output.weight") == bench.values("b.gguf", "output.weight"));
    let model = Model::open(&runtime(), &bench.path("out.gguf")).unwrap();
    let mut context = Context::new(&model, 8, 1, 1).unwrap();
    context.decode(&[(5, 0, 0), (9, 1, 0)], |_| true).unwrap();
    assert!(context.logits(1).unwrap().iter().all(|x| x.is_finite()));
}

#[test]
fn slices_that_leave_blocks_in_place_are_the_whole_model() {
    let bench = family();
    let slice = |from: usize, to: usize, weight: f64| {
        let of = |model: &str, weight: f64| {
            format!("{{model: {model}, layer_range: [{from}, {to}], parameters: {{weight: {weight}}}}}")
        };
        format!("- sources: [{}, {}]\n", of("a.gguf", weight), of("b.gguf", 1.0 - weight))
    };
    let recipe = format!("merge_method: linear\nslices:\n{}{}", slice(0, 2, 0.25), slice(2, 4, 0.25));
    bench.cook(&recipe, &keep(), "sliced.gguf").unwrap();
    bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[0.25, 0.75]), &keep(), "whole.gguf").unwrap();
    let whole = File::open(&bench.path("whole.gguf")).unwrap();
    let sliced = File::open(&bench.path("sliced.gguf")).unwrap();
    assert_eq!(whole.tensors().len(), sliced.tensors().len());
    for tensor in whole.tensors() {
        assert!(sliced.data(sliced.tensor(&tensor.name).unwrap()) == whole.data(tensor), "{}", tensor.name);
    }
    assert_eq!(sliced.get("llama.block_count"), whole.get("llama.block_count"));
}

#[test]
fn the_tokenizer_is_that_of_the_model_that_is_named() {
    let bench = family();
    bench.edited("b.gguf", "b.gguf", |content| {
        content.set("tokenizer.chat_template", Value::String("{{ messages }} of b".into()));
        content.set("tokenizer.ggml.eos_token_id", Value::U32(7));
    });
    let models = "models: [{model: a.gguf}, {model: b.gguf}]\nparameters: {weight: 1}\n";
    for (source, of_b) in [("tokenizer_source: b.gguf", true), ("tokenizer_source: union", false), ("", false)] {
        let report = bench.cook(&format!("merge_method: linear\n{models}{source}"), &keep(), "out.gguf").unwrap();
        let out = File::open(&bench.path("out.gguf")).unwrap();
        let template = out.get("tokenizer.chat_template").and_then(Value::as_str).unwrap();
        assert_eq!(template.ends_with("of b"), of_b, "{source}");
        assert_eq!(out.get("tokenizer.ggml.eos_token_id") == Some(&Value::U32(7)), of_b);
        assert!(report.keys_from.ends_with(if of_b { "b.gguf" } else { "a.gguf" }), "{}", report.keys_from);
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
}

#[test]
fn what_a_recipe_cannot_mean_names_model_tensor_or_filter() {
    let bench = family();
    bench.edited("a.gguf", "dense.gguf", |c| c.set("llama.leading_dense_block_count", Value::U32(1)));
    bench.edited("a.gguf", "list.gguf", |c| c.set("llama.x", Value::Array(Array::I32(vec![1, 2, 3, 4]))));
    bench.edited("b.gguf", "other.gguf", |c| c.set("llama.x", Value::Array(Array::I32(vec![1, 9, 3, 4]))));
    bench.edited("a.gguf", "less.gguf", |c| c.tensors.retain(|t| t.0 != "blk.3.ffn_up.weight"));
    let (ab, linear) = ("models: [{model: a.gguf}, {model: b.gguf}]\n", "merge_method: linear\n");
    let stack = |sources: &str| format!("merge_method: passthrough\nslices: [{{sources: [{sources}]}}]");
    for (recipe, kind, says) in [
        (format!("{linear}{ab}"), Kind::Argument, "a.gguf: parameter weight is missing for tensor"),
        (
            format!("{linear}{ab}parameters: {{weight: [{{filter: nonsense, value: 1}}, {{value: 1}}]}}"),
            Kind::Argument,
            "filter \"nonsense\"",
        ),
        (format!("{linear}{ab}parameters: {{weight: true}}"), Kind::Argument, "is no number"),
        (format!("{linear}{ab}parameters: {{weight: 1, normalize: 1}}"), Kind::Argument, "neither true nor false"),
        (format!("merge_method: slerp\n{ab}parameters: {{t: 2}}"), Kind::Argument, "t 2"),
        (format!("merge_method: ties\n{ab}parameters: {{weight: 1}}"), Kind::Argument, "needs a base"),
        (stack("{model: a.gguf, layer_range: [0, 5]}"), Kind::Argument, "a.gguf, which has 4 blocks"),
        (stack("{model: a.gguf, layer_range: [2, 2]}"), Kind::Argument, "layer_range [2, 2]"),
        (
            stack("{model: a.gguf, layer_range: [0, 2]}, {model: b.gguf, layer_range: [0, 3]}"),
            Kind::Argument,
            "b.gguf has 3 blocks, a.gguf has 2",
        ),
        (stack("{model: a.gguf}, {model: b.gguf}"), Kind::Argument, "one model, not 2"),
        (stack("{model: dense.gguf, layer_range: [1, 3]}"), Kind::Unsupported, "leading_dense_block_count"),
        (
            stack("{model: list.gguf, layer_range: [1, 3]}, {model: other.gguf, layer_range: [1, 3]}"),
            Kind::Argument,
            "one model",
        ),
        (
            "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: [{model: list.gguf, layer_range: [1, 3]}, \
             {model: other.gguf, layer_range: [1, 3]}]}]"
                .to_owned(),
            Kind::Mismatch,
            "other.gguf: key llama.x differs",
        ),
        (
            "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: [{model: a.gguf, layer_range: [2, 4]}, \
             {model: less.gguf, layer_range: [2, 4]}]}]"
                .to_owned(),
            Kind::Mismatch,
            "tensor blk.3.ffn_up.weight is missing",
        ),
    ] {
        let error = bench.cook(&recipe, &keep(), "out.gguf").unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(says), "{recipe}: {error}");
        assert!(!bench.files().contains(&"out.gguf".to_owned()), "{recipe}");
    }
    // The type that a recipe asks for is that of the output.
    let recipe = Recipe::parse(&format!("{linear}{ab}parameters: {{weight: 1}}\ndtype: float16"), "r").unwrap();
    let out = OutType::Named(recipe.out_type().unwrap());
    bench.cook(&format!("{linear}{ab}parameters: {{weight: 1}}"), &super::options(out), "out.gguf").unwrap();
    let out = Content::of(&bench.path("out.gguf"));
    assert!(out.tensors.iter().any(|t| t.1 == Type::F16));
}
