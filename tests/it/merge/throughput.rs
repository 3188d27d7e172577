//! What a merge costs beside encoding, by hand: `cargo test --release --test it -- --ignored merging_costs_little`.
//! Against copying the same files: `tests/bench/merge.py`.

use super::{linear, options, Bench, Content};
use crate::models::runtime;
use crate::random::Random;
use llama_align::gguf::File;
use llama_align::merge::{merge, Options, OutType};
use quant::Type;
use std::time::{Duration, Instant};

/// Values of a row, and rows.
const SHAPE: [usize; 2] = [4096, 2048];
/// How often both are timed; the machine may have others to serve.
const ROUNDS: usize = 5;

fn model(ty: Type, seed: &str) -> (Content, Vec<f32>) {
    let values = Random::of(seed).vector(SHAPE[0] * SHAPE[1], 0.1);
    let bytes = runtime().quantize(ty, &values, SHAPE[0]).unwrap();
    let mut decoded = vec![0.0; values.len()];
    runtime().dequantize(ty, &bytes, &mut decoded).unwrap();
    let mut content = Content::bare();
    content.tensors.push(("blk.0.ffn_up.weight".to_owned(), ty, vec![SHAPE[0] as u64, SHAPE[1] as u64], bytes));
    (content, decoded)
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// On one thread, K-quants are merged at 80 % or more of the rate of `ggml_quantize_chunk` alone: reading, decoding, combining,
/// measuring and writing take a quarter of its time at most.
#[test]
#[ignore = "takes half a minute, and a quiet machine"]
fn merging_costs_little_beside_encoding() {
    for ty in [Type::Q2_K, Type::Q3_K, Type::Q4_K, Type::Q5_K, Type::Q6_K] {
        let bench = Bench::new();
        let ((a, x), (b, y)) = (model(ty, "a"), model(ty, "b"));
        a.write(&bench.path("a.gguf"));
        b.write(&bench.path("b.gguf"));
        let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 0.3 * x + 0.7 * y).collect();
        let options = Options { threads: 1, overwrite: true, ..options(OutType::Keep) };
        let (method, output) = (linear(&[0.3, 0.7]), bench.path("out.gguf"));
        // Files are opened anew each time: a fingerprint is computed once per open file.
        let merged = || {
            let files = ["a.gguf", "b.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
            merge(&runtime(), &[&files[0], &files[1]], None, &method, &options, Some(&output), &mut |_| {}).unwrap()
        };
        let mut shares: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let alone = timed(|| drop(runtime().quantize(ty, &sum, SHAPE[0]).unwrap()));
                alone.as_secs_f64() / timed(|| drop(merged())).as_secs_f64()
            })
            .collect();
        shares.sort_by(f64::total_cmp);
        let median = shares[ROUNDS / 2];
        assert!(median >= 0.8, "{}: {median:.2} of the rate of encoding alone, {shares:.2?}", ty.name());
    }
}
