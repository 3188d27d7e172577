//! The same recipes on the same numbers by mergekit (`tests/golden/merged.py`): equal values.

use super::{keep, values, Bench, Content};
use crate::models::runtime;
use llama_align::gguf::{File, Value};
use llama_align::merge::{cook, Recipe};
use serde_json::Value as Json;

const GOLDEN: &str = include_str!("../../golden/merged.json");
const ROWS: u64 = 4;
const COLUMNS: u64 = 8;

fn numbers(list: &Json) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Where the changes of two models point apart ours leaves the base, while mergekit's stock moves away from both.
fn keep_base(models: &Json, tensor: &str, by_rows: bool, wanted: &mut [f32]) {
    let [base, a, b] = ["base", "a", "b"].map(|model| numbers(&models[model][tensor]));
    let n = if by_rows { COLUMNS as usize } else { base.len() };
    for first in (0..base.len()).step_by(n) {
        let product = |i: usize| f64::from(a[i] - base[i]) * f64::from(b[i] - base[i]);
        if (first..first + n).map(product).sum::<f64>() < 0.0 {
            wanted[first..first + n].copy_from_slice(&base[first..first + n]);
        }
    }
}

#[test]
fn mergekit_gives_the_same_numbers() {
    let golden: Json = serde_json::from_str(GOLDEN).unwrap();
    let bench = Bench::new();
    for (name, tensors) in golden["models"].as_object().unwrap() {
        let mut content = Content::bare();
        content.set("llama.block_count", Value::U32(3));
        for (tensor, list) in tensors.as_object().unwrap() {
            let x = numbers(list);
            let ne = if x.len() as u64 == COLUMNS { vec![COLUMNS] } else { vec![COLUMNS, ROWS] };
            content = content.f32(tensor, &ne, &x);
        }
        content.write(&bench.path(name));
    }
    let mut wrong = Vec::new();
    for merge in golden["merges"].as_array().unwrap() {
        let label = merge["label"].as_str().unwrap();
        let recipe = Recipe::parse(merge["recipe"].as_str().unwrap(), label).unwrap();
        let files: Vec<File> = recipe.models().iter().map(|name| File::open(&bench.path(name)).unwrap()).collect();
        let output = bench.path("out.gguf");
        cook(&runtime(), &recipe, &files, &keep(), Some(&output), &mut |_| {}).unwrap();
        let out = File::open(&output).unwrap();
        let wanted = merge["tensors"].as_object().unwrap();
        assert_eq!(out.tensors().len(), wanted.len(), "{label}");
        for (name, list) in wanted {
            let (found, mut wanted) = (values(&out, name), numbers(list));
            if let Some(rule) = label.strip_prefix("model_stock") {
                keep_base(&golden["models"], name, !rule.is_empty(), &mut wanted);
            }
            let error = found.iter().zip(&wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f32::max);
            if error >= 2e-6 || found.len() != wanted.len() {
                wrong.push(format!("{label}, {name}: {error}"));
            }
        }
        std::fs::remove_file(&output).unwrap();
    }
    assert!(wrong.is_empty(), "{} tensors: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
}
