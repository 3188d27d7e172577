//! How the output is stored: split files, types by name, importance matrices.

use super::{keep, linear, options, values, Bench, Content};
use crate::models::runtime;
use crate::random::Random;
use llama_align::error::Kind;
use llama_align::gguf::{validate_model, Array, File, Imatrix, Value, Writer};
use llama_align::merge::{Options, OutType, TensorType};
use llama_align::runtime::{Context, Model};
use quant::Type;
use std::path::Path;

fn logits(path: &Path) -> Vec<f32> {
    let model = Model::open(&runtime(), path).unwrap();
    let mut context = Context::new(&model, 8, 1, 1).unwrap();
    context.decode(&[(5, 0, 0), (9, 1, 0)], |_| true).unwrap();
    context.logits(1).unwrap().to_vec()
}

/// Two models of F16 with an alignment of their own.
fn pair() -> Bench {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F16, "plain.gguf");
    bench.edited("plain.gguf", "a.gguf", |content| content.set("general.alignment", Value::U32(128)));
    bench.varied("a.gguf", "b.gguf", |i, v| v + (i as f32).sin() * 0.02);
    bench
}

fn split(limit: u64) -> Options {
    Options { split_max_bytes: Some(limit), ..keep() }
}

#[test]
fn split_files_hold_what_one_file_holds_and_llama_cpp_reads_them() {
    let bench = pair();
    let names = ["a.gguf", "b.gguf"];
    bench.merge(&names, None, &linear(&[1.0, 1.0]), &keep(), "whole.gguf").unwrap();
    let report = bench.merge(&names, None, &linear(&[1.0, 1.0]), &split(20_000), "out.gguf").unwrap();
    let n = report.files.len();
    assert!(n > 3, "{n} files");
    let first = format!("out-00001-of-{n:05}.gguf");
    let on_disk = report.files.iter().map(|p| std::fs::metadata(p).unwrap().len());
    assert_eq!((on_disk.sum::<u64>(), report.files[0].as_path()), (report.bytes, bench.path(&first).as_path()));
    let [whole, out] = ["whole.gguf", &first].map(|name| File::open(&bench.path(name)).unwrap());
    assert!(out.tensors().len() == whole.tensors().len() && out.paths().len() == n);
    for tensor in whole.tensors() {
        let found = out.tensor(&tensor.name).unwrap();
        assert!(found.offset % 128 == 0 && out.data(found) == whole.data(tensor), "{}", tensor.name);
    }
    for (key, value) in whole.keys() {
        assert_eq!(out.get(key), Some(value));
    }
    assert_eq!(out.get("split.count"), Some(&Value::U16(n as u16)));
    validate_model(&out).unwrap();
    assert!(logits(&bench.path(&first)) == logits(&bench.path("whole.gguf")));
    // And in again: joined, with an unsplit one, without a trace of the split.
    let report = bench.merge(&[&first, "whole.gguf"], None, &linear(&[1.0, 1.0]), &keep(), "joined.gguf").unwrap();
    assert_eq!(report.copied(), whole.tensors().len());
    let joined = File::open(&bench.path("joined.gguf")).unwrap();
    assert!(joined.keys().all(|(key, _)| !key.starts_with("split.")));
    assert!(joined.tensors().iter().zip(whole.tensors()).all(|(a, b)| a.name == b.name && a.offset == b.offset));
    // What fits into one file is one.
    let report = bench.merge(&names, None, &linear(&[1.0, 1.0]), &split(1 << 30), "one.gguf").unwrap();
    assert_eq!(report.files, [bench.path("one.gguf")]);
    assert!(std::fs::read(bench.path("one.gguf")).unwrap() == std::fs::read(bench.path("whole.gguf")).unwrap());
}

#[test]
fn files_of_a_split_model_that_do_not_belong_together_are_named() {
    let bench = pair();
    let to = |name: &str, bench: &Bench| {
        bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &split(40_000), name).unwrap().files
    };
    let paths = to("m.gguf", &bench);
    let n = paths.len();
    let name = |no: usize| format!("m-{no:05}-of-{n:05}.gguf");
    let says = |path: &str, kind: Kind, text: &str| {
        let error = File::open(&bench.path(path)).unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(text), "{text}: {error}");
    };
    says(&name(2), Kind::Unsupported, &format!("the first is {}", name(1)));
    std::fs::copy(&paths[0], bench.path("renamed.gguf")).unwrap();
    says("renamed.gguf", Kind::Unsupported, "the name should end in -00001-of-");
    let second = std::fs::read(&paths[1]).unwrap();
    // A file alone, whatever it says of others.
    let edited = |edit: &dyn Fn(&mut Content)| {
        let file = File::from_bytes(std::fs::read(&paths[1]).unwrap(), "part").unwrap();
        let mut content = Content::of_file(&file);
        edit(&mut content);
        content.write(&paths[1]);
    };
    edited(&|content| content.set("split.no", Value::U16(0)));
    says(&name(1), Kind::Format, "split.no is not 1");
    std::fs::write(&paths[1], &second[..second.len() - 4096]).unwrap();
    says(&name(1), Kind::Format, "outside the file");
    std::fs::copy(&paths[2], &paths[1]).unwrap();
    edited(&|content| content.set("split.no", Value::U16(1)));
    says(&name(1), Kind::Format, "is in another file as well");
    edited(&|content| {
        content.tensors.truncate(1);
        content.tensors[0].0 = "blk.9.more.weight".into();
    });
    says(&name(1), Kind::Format, "split.tensors.count");
    std::fs::remove_file(&paths[1]).unwrap();
    says(&name(1), Kind::Missing, &name(2));
    // No part of an input is ever written to.
    std::fs::write(&paths[1], &second).unwrap();
    let overwrite = Options { overwrite: true, ..split(40_000) };
    let error = bench.merge(&[&name(1), "a.gguf"], None, &linear(&[1.0, 1.0]), &overwrite, "m.gguf").unwrap_err();
    assert!(error.kind() == Kind::Output && error.to_string().contains("one of the inputs"), "{error}");
    // An existing file stands in the way of all.
    let before = bench.files();
    let error = bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &split(40_000), "m.gguf").unwrap_err();
    assert!(error.kind() == Kind::Output && bench.files() == before, "{error}");
}

#[test]
fn types_by_name_hold_for_tensors_that_do_not_change_as_well() {
    let bench = pair();
    let types = |list: &[&str]| list.iter().map(|t| TensorType::parse(t).unwrap()).collect();
    let named = |list: &[&str]| Options { types: types(list), ..options(OutType::Named(Type::Q8_0)) };
    let wanted = named(&[r"blk\.1\.ffn_down=q4_0", "ffn_(up|down)=BF16", "^output.weight=f32"]);
    for second in ["a.gguf", "b.gguf"] {
        bench.merge(&["a.gguf", second], None, &linear(&[1.0, 1.0]), &wanted, "out.gguf").unwrap();
        let out = File::open(&bench.path("out.gguf")).unwrap();
        let ty = |name: &str| out.tensor(name).unwrap().ty;
        assert_eq!(ty("blk.1.ffn_down.weight"), Type::Q4_0);
        assert_eq!(["blk.0.ffn_down.weight", "blk.1.ffn_up.weight"].map(ty), [Type::BF16; 2]);
        assert_eq!((ty("output.weight"), ty("blk.0.attn_norm.weight")), (Type::F32, Type::F32));
        assert_eq!(ty("blk.0.attn_q.weight"), Type::Q8_0);
        assert!(logits(&bench.path("out.gguf")).iter().all(|x| x.is_finite()));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
    let fails = |list: &[&str], text: &str| {
        let error = bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &named(list), "out.gguf");
        let error = error.unwrap_err();
        assert!(error.kind() == Kind::Argument && error.to_string().contains(text), "{text}: {error}");
    };
    fails(&["blk.7=q8_0"], "no tensor has such a name");
    // Vectors stay what llama.cpp computes with, whatever pattern they are in.
    fails(&["_norm=q8_0"], "vectors alone");
    let all = Options { types: types(&["=q8_0"]), ..keep() };
    bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &all, "out.gguf").unwrap();
    let out = File::open(&bench.path("out.gguf")).unwrap();
    assert_eq!(out.tensor("blk.0.attn_norm.weight").unwrap().ty, Type::F32);
    assert!(logits(&bench.path("out.gguf")).iter().all(|x| x.is_finite()));
    std::fs::remove_file(bench.path("out.gguf")).unwrap();
    fails(&["attn_q.weight=q4_k"], "no whole number of blocks");
    assert!(!bench.files().contains(&"out.gguf".to_owned()));
}

/// A stack of three matrices, and an importance matrix for it.
fn stack(bench: &Bench, name: &str) -> Vec<f32> {
    let x = Random::of(name).vector(256 * 4 * 3, 0.1);
    let content = Content::bare().f32("blk.0.ffn_up_exps.weight", &[256, 4, 3], &x);
    content.f32("blk.0.attn_q.weight", &[256, 4], &x[..1024]).write(&bench.path(name));
    x
}

fn importances(weight: &str, matrix: usize) -> Vec<f32> {
    Random::of(&format!("{weight} {matrix}")).vector(256, 1.0).iter().map(|v| v * v).collect()
}

fn imatrix(path: &Path, weights: &[(&str, usize)]) {
    let mut writer = Writer::new();
    writer.set("general.type", Value::String("imatrix".into()));
    writer.set("imatrix.datasets", Value::Array(Array::String(vec!["calibration.txt".into()])));
    writer.set("imatrix.chunk_count", Value::U32(7));
    writer.set("imatrix.chunk_size", Value::U32(512));
    let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    for &(weight, n_mat) in weights {
        let sums: Vec<f32> = (0..n_mat).flat_map(|m| importances(weight, m).into_iter().map(|v| v * 8.0)).collect();
        let ne = [256, n_mat as u64];
        writer.tensor(&format!("{weight}.in_sum2"), Type::F32, &ne, bytes(&sums)).unwrap();
        let counts = bytes(&vec![8.0; n_mat]);
        writer.tensor(&format!("{weight}.counts"), Type::F32, &[1, n_mat as u64], counts).unwrap();
    }
    writer.write(path).unwrap();
}

#[test]
fn importances_reach_the_encoder_matrix_by_matrix() {
    let bench = Bench::new();
    let [a, b] = ["a.gguf", "b.gguf"].map(|name| stack(&bench, name));
    imatrix(&bench.path("imatrix.gguf"), &[("blk.0.ffn_up_exps.weight", 3), ("blk.0.attn_q.weight", 1)]);
    let mean: Vec<f32> = a.iter().zip(&b).map(|(x, y)| (0.5 * f64::from(*x) + 0.5 * f64::from(*y)) as f32).collect();
    let known = Imatrix::open(&bench.path("imatrix.gguf")).unwrap();
    for ty in [Type::IQ2_XXS, Type::Q4_K] {
        let options = Options { imatrix: Some(known.clone()), ..options(OutType::Named(ty)) };
        bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &options, "out.gguf").unwrap();
        let out = File::open(&bench.path("out.gguf")).unwrap();
        let tensor = out.tensor("blk.0.ffn_up_exps.weight").unwrap();
        let matrix = |m: usize| {
            let importances = importances("blk.0.ffn_up_exps.weight", m);
            runtime().quantize_with(ty, &mean[m * 1024..(m + 1) * 1024], 256, Some(&importances)).unwrap()
        };
        assert!(tensor.ty == ty && out.data(tensor) == [matrix(0), matrix(1), matrix(2)].concat(), "{}", ty.name());
        let plain = runtime().quantize(Type::Q4_K, &mean, 256).unwrap();
        assert!(out.data(tensor) != plain, "the importances change nothing");
        assert_eq!(out.get("quantize.imatrix.entries_count"), Some(&Value::U32(2)));
        assert_eq!(out.get("quantize.imatrix.dataset").and_then(Value::as_str), Some("calibration.txt"));
        std::fs::remove_file(bench.path("out.gguf")).unwrap();
    }
    // The older form says the same.
    let mut old = 1i32.to_le_bytes().to_vec();
    let name = "blk.0.attn_q.weight";
    old.extend((name.len() as i32).to_le_bytes());
    old.extend(name.as_bytes());
    old.extend([4i32, 256].iter().flat_map(|n| n.to_le_bytes()));
    old.extend(importances(name, 0).iter().flat_map(|v| (v * 4.0).to_le_bytes()));
    std::fs::write(bench.path("imatrix.dat"), &old).unwrap();
    let found = Imatrix::open(&bench.path("imatrix.dat")).unwrap();
    assert_eq!(found.of(name, &[256, 4]).unwrap(), known.of(name, &[256, 4]).unwrap());
    assert_eq!((found.of("other", &[256]).unwrap(), found.len()), (None, 1));
}

#[test]
fn importances_that_do_not_fit_are_named() {
    let bench = Bench::new();
    for name in ["a.gguf", "b.gguf"] {
        stack(&bench, name);
    }
    let path = bench.path("imatrix.gguf");
    let fails = |kind: Kind, text: &str| {
        let opened = Imatrix::open(&path);
        let result = opened.and_then(|imatrix| {
            let options = Options { imatrix: Some(imatrix), ..options(OutType::Named(Type::IQ2_XXS)) };
            bench.merge(&["a.gguf", "b.gguf"], None, &linear(&[1.0, 1.0]), &options, "out.gguf")
        });
        let error = result.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(text), "{text}: {error}");
        assert!(!bench.files().contains(&"out.gguf".to_owned()));
    };
    imatrix(&path, &[("blk.0.attn_q.weight", 1)]);
    fails(Kind::Unsupported, "blk.0.ffn_up_exps.weight");
    imatrix(&path, &[("blk.0.attn_q.weight", 1), ("blk.0.ffn_up_exps.weight", 2)]);
    fails(Kind::Mismatch, "512 numbers, the tensor has 768 inputs");
    bench.edited("imatrix.gguf", "imatrix.gguf", |content| {
        content.tensors.retain(|t| !t.0.ends_with("q.weight.counts"))
    });
    fails(Kind::Format, "blk.0.attn_q.weight has no counts");
    imatrix(&path, &[("blk.0.attn_q.weight", 1)]);
    bench.edited("imatrix.gguf", "imatrix.gguf", |content| {
        content.tensors[0].3[..4].copy_from_slice(&(-1f32).to_le_bytes())
    });
    fails(Kind::Format, "blk.0.attn_q.weight holds negative numbers");
    imatrix(&path, &[]);
    fails(Kind::Format, "no entries");
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    fails(Kind::Format, "no importance matrix");
    std::fs::remove_file(&path).unwrap();
    std::fs::copy(bench.path("a.gguf"), &path).unwrap();
    fails(Kind::Format, "general.type is not");
    for bytes in [&b"x"[..], &[9, 0, 0, 0], &[1, 0, 0, 0, 255, 255, 255, 255], &[0, 0, 0, 0]] {
        std::fs::write(&path, bytes).unwrap();
        fails(Kind::Format, "imatrix.gguf: ");
    }
    std::fs::remove_file(&path).unwrap();
    fails(Kind::Missing, "imatrix.gguf");
    // Values stay what they were read as.
    assert!(values(&File::open(&bench.path("a.gguf")).unwrap(), "blk.0.attn_q.weight").iter().all(|v| v.abs() <= 0.1));
}
