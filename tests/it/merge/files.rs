//! What a merged file holds: bytes, keys, types, alignment, lineage.

use super::{keep, linear, options, values, Bench, Content};
use crate::models::runtime;
use crate::random::Random;
use llama_align::error::Kind;
use llama_align::gguf::{validate_model, Array, File, Value};
use llama_align::merge::{merge, Bound, Method, OutType, Progress, TaskVectors, Thinning, Vectors};
use llama_align::runtime::{Context, Model, Runtime};
use quant::Type;

const WEIGHT: &str = "blk.0.ffn_up.weight";

/// ggml makes tables for these first, which takes it many seconds.
const SLOW: [Type; 2] = [Type::IQ2_S, Type::IQ1_M];

/// A file with one matrix of 256 by 8 numbers of a type, and one norm. Where it need not mean anything, it may be any codes.
fn matrix(ty: Type, seed: &str, encode: bool) -> Content {
    let x = Random::of(seed).vector(256 * 8, 0.1);
    let norm = Random::of(seed).vector(256, 1.0);
    let mut content = Content::bare().f32("blk.0.ffn_norm.weight", &[256], &norm);
    let bytes = match Runtime::can_quantize(ty) && (encode || !SLOW.contains(&ty)) {
        true => runtime().quantize(ty, &x, 256).unwrap(),
        // A valid scale, then any codes.
        false => {
            let mut random = Random::of(seed);
            let block = |random: &mut Random| {
                let mut bytes: Vec<u8> = (0..ty.block_bytes()).map(|_| random.below(256) as u8).collect();
                bytes[..2].copy_from_slice(&[0, 0x20]);
                bytes
            };
            (0..8).flat_map(|_| block(&mut random)).collect()
        }
    };
    content.tensors.push((WEIGHT.to_owned(), ty, vec![256, 8], bytes));
    content
}

fn weights() -> impl Iterator<Item = Type> {
    use Type::*;
    Type::ALL.iter().copied().filter(|ty| !matches!(ty, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64))
}

fn methods(n: usize) -> Vec<(Method, bool)> {
    let weights: Vec<f64> = (0..n).map(|i| 0.3 + 0.4 * i as f64).collect();
    let task = |thinning, elect, normalize| {
        let task = TaskVectors { weights: weights.clone(), thinning, elect, normalize, lambda: 1.0 };
        (Method::TaskVectors(task), true)
    };
    let all = |x: f64| vec![x; n];
    let mut list = vec![
        (linear(&weights), false),
        (Method::task_arithmetic(&weights, 0.7), true),
        (Method::ties(&weights, 0.5, 1.0), true),
        task(Thinning::Random { density: all(0.5), rescale: true, seed: 1 }, false, false),
        task(Thinning::Random { density: all(0.5), rescale: false, seed: 1 }, true, true),
        task(Thinning::ByRank { density: all(0.5), epsilon: all(0.3), rescale: true, seed: 1 }, true, true),
        task(Thinning::WithoutOutliers { density: all(0.5), gamma: all(0.1) }, false, false),
    ];
    if n == 2 {
        list.push((Method::Slerp { t: 0.4 }, false));
        list.push((Method::ModelStock { filter_wise: false }, true));
        list.push((Method::ModelStock { filter_wise: true }, true));
        for of in [Vectors::Whole, Vectors::Rows, Vectors::Columns] {
            let method = Method::NuSlerp { weights: weights.clone(), of };
            list.extend([(method.clone(), false), (method, true)]);
        }
    }
    list
}

fn data<'a>(file: &'a File, name: &str) -> &'a [u8] {
    file.data(file.tensor(name).unwrap())
}

#[test]
fn a_model_merged_with_itself_keeps_every_byte_in_every_type_by_every_method() {
    let bench = Bench::new();
    let mut seen = 0;
    for ty in weights() {
        let mut content = matrix(ty, "self", false);
        content.set("general.alignment", Value::U32(128));
        content.set("some.key.of.someone", Value::Array(Array::F32(vec![1.0, 2.0])));
        content.write(&bench.path("a.gguf"));
        let a = File::open(&bench.path("a.gguf")).unwrap();
        for (method, with_base) in methods(2) {
            let base = with_base.then_some("a.gguf");
            let report = bench.merge(&["a.gguf", "a.gguf"], base, &method, &keep(), "out.gguf").unwrap();
            let what = format!("{} {}", ty.name(), method.name());
            assert_eq!(report.copied(), 2, "{what}");
            let out = File::open(&bench.path("out.gguf")).unwrap();
            for tensor in a.tensors() {
                let found = out.tensor(&tensor.name).unwrap();
                assert!((found.ty, found.ne, found.offset % 128) == (tensor.ty, tensor.ne, 0), "{what}");
                assert!(out.data(found) == a.data(tensor), "{what}");
            }
            for (key, value) in a.keys() {
                assert_eq!(out.get(key), Some(value), "{what}");
            }
            std::fs::remove_file(bench.path("out.gguf")).unwrap();
        }
        seen += 1;
    }
    assert!(seen >= 25, "{seen} types");
}

/// Encoding, decoding and measuring; the change is large enough to survive in every type.
fn merge_as(ty: Type) {
    let bench = Bench::new();
    matrix(ty, "one", true).write(&bench.path("a.gguf"));
    matrix(ty, "two", true).write(&bench.path("b.gguf"));
    let report = bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 3.0]), &keep(), "out.gguf").unwrap();
    let tensor = report.tensors.iter().find(|t| t.name == WEIGHT).unwrap();
    let cosine = tensor.cosine().unwrap();
    let bits = ty.block_bytes() as f64 * 8.0 / ty.block_len() as f64;
    let bound = if bits > 7.0 { 0.999 } else { 1.0 - 0.7 * (-bits / 2.0).exp2() };
    assert!(tensor.to == ty && cosine > bound, "{}: {cosine} ({bound})", ty.name());
}

#[test]
fn two_models_merge_in_every_type_that_ggml_encodes() {
    weights().filter(|ty| Runtime::can_quantize(*ty) && !SLOW.contains(ty)).for_each(merge_as);
}

#[test]
#[ignore = "half a minute: ggml makes its tables"]
fn two_models_merge_in_the_types_that_take_long() {
    SLOW.into_iter().for_each(merge_as);
}

#[test]
fn types_that_need_an_importance_matrix_are_copied_or_raised_but_never_guessed() {
    let bench = Bench::new();
    for ty in [Type::IQ2_XXS, Type::IQ2_XS, Type::IQ1_S] {
        matrix(ty, "one", true).write(&bench.path("a.gguf"));
        matrix(ty, "two", true).write(&bench.path("b.gguf"));
        let names = ["a.gguf", "b.gguf"];
        let error = bench.merge(&names, None, &linear(&[1.0, 1.0]), &keep(), "out.gguf").unwrap_err();
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains(WEIGHT), "{error}");
        assert_eq!(bench.files(), names);
        let auto = options(OutType::Auto(Bound::Cosine(0.9)));
        let report = bench.merge(&names, None, &linear(&[1.0, 1.0]), &auto, "out.gguf").unwrap();
        assert_eq!((report.raised(), report.tensors[1].to), (1, Type::Q8_0));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
        bench.merge(&names, None, &linear(&[0.0, 1.0]), &auto, "out.gguf").unwrap();
        let [out, b] = ["out.gguf", "b.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
        assert!(data(&out, WEIGHT) == data(&b, WEIGHT));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
}

#[test]
fn a_weight_of_one_among_zeros_is_a_copy() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::Q4_1, "a.gguf");
    bench.varied("a.gguf", "b.gguf", |i, v| v * 0.9 + (i % 7) as f32 * 0.01);
    for (weights, source) in [([1.0, 0.0], "a.gguf"), ([0.0, 2.0], "b.gguf")] {
        let report = bench.merge(&["a.gguf", "b.gguf"], None, &linear(&weights), &keep(), "out.gguf").unwrap();
        let [out, source] = ["out.gguf", source].map(|name| File::open(&bench.path(name)).unwrap());
        assert_eq!(report.copied(), out.tensors().len());
        assert!(out.tensors().iter().all(|t| out.data(t) == data(&source, &t.name)));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
}

/// Tensors of every size: several at a time, and one that is larger than what is worked on at a time.
#[test]
fn progress_ends_where_it_said_it_would() {
    let bench = Bench::new();
    let large = vec![0.5f32; 5 << 20];
    let small = Content::bare().f32("blk.0.attn_norm.weight", &[64], &[1.0; 64]);
    let mut content = small.f32("blk.0.ffn_up.weight", &[1 << 10, 5 << 10], &large);
    for i in 1..6 {
        content = content.f32(&format!("blk.{i}.attn_norm.weight"), &[64], &[1.0; 64]);
    }
    content.write(&bench.path("a.gguf"));
    bench.varied("a.gguf", "b.gguf", |_, v| v + 1.0);
    let files = ["a.gguf", "b.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
    let (names, mut seen, mut last) = (files[0].tensors().iter().map(|t| t.name.clone()), Vec::new(), 0);
    let mut each = |progress: &Progress| {
        assert!(last < progress.bytes && progress.bytes <= progress.bytes_all);
        last = progress.bytes;
        seen.push((progress.tensor.name.clone(), progress.bytes == progress.bytes_all));
    };
    let options = options(OutType::Named(Type::Q8_0));
    let output = bench.path("out.gguf");
    merge(&runtime(), &[&files[0], &files[1]], None, &linear(&[1.0, 3.0]), &options, Some(&output), &mut each).unwrap();
    let n = files[0].tensors().len();
    assert!(
        seen.iter().map(|(name, _)| name.clone()).eq(names) && seen.iter().map(|s| s.1).eq((1..=n).map(|i| i == n))
    );
    let out = File::open(&output).unwrap();
    assert!(values(&out, "blk.0.ffn_up.weight").iter().all(|v| (v - 1.25).abs() < 1e-3));
    assert!((1..6).all(|i| values(&out, &format!("blk.{i}.attn_norm.weight")) == [1.75; 64]));
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_the_day() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::Q8_0, "a.gguf");
    bench.varied("a.gguf", "b.gguf", |i, v| v + (i as f32).sin() * 0.02);
    for (method, with_base) in methods(1).into_iter().filter(|(_, base)| *base).chain(methods(2)) {
        let models: &[&str] = match (method.weights().len(), with_base) {
            (1, true) => &["b.gguf"],
            (_, true) => &["b.gguf", "b.gguf"],
            _ => &["a.gguf", "b.gguf"],
        };
        let base = with_base.then_some("a.gguf");
        let bytes = [1, 2, 5].map(|threads| {
            let options = llama_align::merge::Options { threads, ..options(OutType::Named(Type::Q4_0)) };
            bench.merge(models, base, &method, &options, "out.gguf").unwrap();
            let bytes = std::fs::read(bench.path("out.gguf")).unwrap();
            std::fs::remove_file(bench.path("out.gguf")).unwrap();
            bytes
        });
        assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2], "{}", method.name());
    }
}

#[test]
fn lineage_names_the_parents_and_replaces_older_ones() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "plain.gguf");
    bench.edited("plain.gguf", "a.gguf", |content| {
        content.set("general.name", Value::String("A".into()));
        content.set("general.base_model.count", Value::U32(1));
        content.set("general.base_model.0.name", Value::String("grandparent".into()));
        content.set("general.base_model.0.repo_url", Value::String("there".into()));
    });
    bench.edited("plain.gguf", "b.gguf", |content| content.set("general.name", Value::String("B".into())));
    bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 3.0]), &keep(), "out.gguf").unwrap();
    let out = File::open(&bench.path("out.gguf")).unwrap();
    let text = |key: &str| out.get(key).and_then(Value::as_str);
    assert_eq!(out.get("general.base_model.count"), Some(&Value::U32(2)));
    assert_eq!((text("general.base_model.0.name"), text("general.base_model.1.name")), (Some("A"), Some("B")));
    assert_eq!((text("general.base_model.0.repo_url"), text("general.name")), (None, Some("A")));
    assert_eq!(text("llama_align.merge.method"), Some("linear"));
    assert_eq!(out.get("llama_align.merge.weights"), Some(&Value::Array(Array::F64(vec![1.0, 3.0]))));
}

#[test]
fn a_tied_head_stands_in_for_one_of_its_own() {
    let bench = Bench::new();
    bench.tiny("llama-tied", Type::F32, "tied.gguf");
    bench.edited("tied.gguf", "own.gguf", |content| {
        let mut head = content.tensors.iter().find(|t| t.0 == "token_embd.weight").unwrap().clone();
        head.0 = "output.weight".to_owned();
        head.3 = head.3.chunks_exact(4).flat_map(|_| 2.0f32.to_le_bytes()).collect();
        content.tensors.push(head);
    });
    for order in [["tied.gguf", "own.gguf"], ["own.gguf", "tied.gguf"]] {
        bench.merge(&order, None, &linear(&[1.0, 1.0]), &keep(), "out.gguf").unwrap();
        let [out, tied] = ["out.gguf", "tied.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
        let embeddings = values(&tied, "token_embd.weight");
        let wanted: Vec<f32> = embeddings.iter().map(|x| (f64::from(*x) * 0.5 + 1.0) as f32).collect();
        assert!(values(&out, "output.weight") == wanted && values(&out, "token_embd.weight") == embeddings);
        Model::open(&runtime(), &bench.path("out.gguf")).unwrap();
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
    // Two tied models stay tied.
    bench.merge(&["tied.gguf", "tied.gguf"], None, &linear(&[1.0, 1.0]), &keep(), "out.gguf").unwrap();
    assert!(File::open(&bench.path("out.gguf")).unwrap().tensor("output.weight").is_none());
}

#[test]
fn a_named_type_is_that_of_every_matrix_and_llama_cpp_decodes_it() {
    let bench = Bench::new();
    bench.tiny("llama-experts", Type::F32, "a.gguf");
    bench.varied("a.gguf", "b.gguf", |i, v| v + (i as f32).sin() * 0.02);
    for (ty, number) in [(Type::Q4_0, 2), (Type::Q8_0, 7), (Type::F16, 1), (Type::BF16, 32), (Type::IQ4_NL, 25)] {
        let named = options(OutType::Named(ty));
        bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &named, "out.gguf").unwrap();
        let out = File::open(&bench.path("out.gguf")).unwrap();
        for tensor in out.tensors() {
            let plain = tensor.ne[1] == 1 || tensor.name.contains("ffn_gate_inp");
            assert_eq!(tensor.ty, if plain { Type::F32 } else { ty }, "{}", tensor.name);
        }
        assert_eq!(out.get("general.file_type"), Some(&Value::U32(number)));
        validate_model(&out).unwrap();
        let model = Model::open(&runtime(), &bench.path("out.gguf")).unwrap();
        let mut context = Context::new(&model, 8, 1, 1).unwrap();
        context.decode(&[(5, 0, 0), (9, 1, 0)], |_| true).unwrap();
        assert!(context.logits(1).unwrap().iter().all(|x| x.is_finite()));
        drop((context, model));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
}

#[test]
fn rows_that_fit_no_blocks_get_a_type_that_fits() {
    let bench = Bench::new();
    for (name, seed) in [("a.gguf", 1.0), ("b.gguf", 2.0)] {
        let ramp = |n: usize| (0..n).map(|i| (i as f32 * seed).sin()).collect::<Vec<_>>();
        let content = Content::bare().f32("blk.0.ffn_up.weight", &[256, 2], &ramp(512));
        let content = content.f32("blk.0.ffn_down.weight", &[96, 2], &ramp(192));
        content.f32("blk.0.ffn_gate.weight", &[33, 2], &ramp(66)).write(&bench.path(name));
    }
    let named = options(OutType::Named(Type::Q4_K));
    let report = bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &named, "out.gguf").unwrap();
    let types: Vec<Type> = report.tensors.iter().map(|t| t.to).collect();
    assert_eq!(types, [Type::Q4_K, Type::Q8_0, Type::F16]);
    assert_eq!(report.bytes, std::fs::metadata(bench.path("out.gguf")).unwrap().len());
}
