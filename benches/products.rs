//! Products of activations with a frozen weight, by weight type, direction and shape: our kernels against ggml's own ops, in
//! graphs of the same backend and threads. `cargo bench` prints GFLOP/s, medians of repeated runs.
//!
//! Forward is W·x (ggml: `MUL_MAT`, which rounds activations to 8 bits for quantised weights), back is Wᵀ·dy (ggml: `OUT_PROD`).

#![allow(clippy::print_stdout)] // its result

use llama_align::kernel::{has_fast_bf16, instruction_set, ops, peak_gflops, Side, Weight};
use llama_align::runtime::{Backend, GraphBuilder, Memory, NodeSpec, Region, Runtime, Tensor};
use quant::Type;
use std::sync::Arc;
use std::time::Instant;

/// Inner and outer size: the SmolLM2-135M's feed-forward pair, a 1.1B model's, and that one's attention.
const SHAPES: [[usize; 2]; 4] = [[576, 1536], [1536, 576], [2048, 5632], [2048, 2048]];
const TYPES: [Type; 8] =
    [Type::F32, Type::F16, Type::Q4_0, Type::Q4_1, Type::Q8_0, Type::Q4_K, Type::Q6_K, Type::IQ4_XS];
/// Tokens.
const T: usize = 512;
const RUNS: usize = 7;

/// A weight and activations in one memory.
struct Case {
    ty: Type,
    n_in: usize,
    n_out: usize,
    weight: Region,
    x: Region,
    dy: Region,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Ggml,
    F32,
    Bf16,
}

fn main() {
    let runtime = Runtime::linked().expect("a library with a built-in llama.cpp");
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let peaks = [false, true].map(|bf16| peak_gflops(bf16, threads));
    println!(
        "{}, {threads} threads, {T} tokens; peak {:.0} GFLOP/s in F32, {:.0} in BF16",
        instruction_set(),
        peaks[0],
        peaks[1]
    );
    println!("{:28} {:>23} {:>23}", "", "forward", "back");
    println!("{:28} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}", "weight", "ggml", "f32", "bf16", "ggml", "f32", "bf16");
    for ty in TYPES {
        for [n_in, n_out] in SHAPES {
            if n_in % ty.block_len() == 0 {
                row(&runtime, ty, [n_in, n_out], threads);
            }
        }
    }
}

fn row(runtime: &Arc<Runtime>, ty: Type, [n_in, n_out]: [usize; 2], threads: usize) {
    let values: Vec<f32> = (0..n_in * n_out).map(|i| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0).collect();
    let bytes = if ty == Type::F32 {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    } else {
        runtime.quantize(ty, &values, n_in).expect("a type that ggml encodes")
    };
    let (acts, outs) = (4 * n_in * T, 4 * n_out * T);
    let mut memory = Memory::new(runtime, bytes.len() + 2 * (acts + outs) + 4096).expect("memory");
    let weight = memory.take(bytes.len().next_multiple_of(4)).expect("room");
    for (word, bytes) in memory.words_mut(weight).iter_mut().zip(bytes.chunks_exact(2)) {
        *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
    }
    let (x, dy) = (memory.take(acts).expect("room"), memory.take(outs).expect("room"));
    for region in [x, dy] {
        memory.floats_mut(region).iter_mut().zip(0..).for_each(|(v, i)| *v = (i % 29) as f32 / 14.5 - 1.0);
    }
    let case = Case { ty, n_in, n_out, weight, x, dy };
    let mark = memory.used();
    print!("{:28}", format!("{} [{n_in}, {n_out}]", ty.name()));
    for back in [false, true] {
        for path in [Path::Ggml, Path::F32, Path::Bf16] {
            memory.reset(mark);
            let skipped = path == Path::Bf16 && !has_fast_bf16();
            let rate = if skipped { None } else { gflops(runtime, &mut memory, &case, back, path, threads) };
            match rate {
                Some(rate) => print!(" {rate:7.0}"),
                None => print!(" {:>7}", "-"),
            }
        }
    }
    println!();
}

/// The median rate; `None` where ggml has no such op for the type.
fn gflops(
    runtime: &Arc<Runtime>,
    memory: &mut Memory,
    case: &Case,
    back: bool,
    path: Path,
    threads: usize,
) -> Option<f64> {
    let mut backend = Backend::new(runtime, threads).expect("a backend");
    let (from, to) = if back { (case.n_out, case.n_in) } else { (case.n_in, case.n_out) };
    let out = memory.take(4 * to * T).expect("room");
    // ggml decodes the whole weight once per token in OUT_PROD: one run says enough.
    let runs = if path == Path::Ggml && back { 1 } else { RUNS };
    let mut seconds = Vec::new();
    for run in 0..=runs {
        let data = memory.floats(case.weight).as_ptr();
        let mut builder = GraphBuilder::new(&mut backend, memory, 16).expect("a graph");
        let input = if back { case.dy } else { case.x };
        let rows = builder.leaf(Type::F32, [from as i64, T as i64, 1, 1], input).expect("a leaf");
        let result = match path {
            Path::Ggml => ggml(runtime, &mut builder, case, rows, back)?,
            _ => ours(&mut builder, case, data.cast(), runtime, rows, back, path),
        };
        builder.place(result, out).expect("a place");
        let begun = Instant::now();
        builder.compute().expect("a result");
        if run > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Some(2e-9 * (case.n_in * case.n_out * T) as f64 / seconds[seconds.len() / 2])
}

fn ggml(runtime: &Runtime, builder: &mut GraphBuilder<'_>, case: &Case, rows: Tensor, back: bool) -> Option<Tensor> {
    let (n_in, n_out) = (case.n_in as i64, case.n_out as i64);
    let weight = builder.leaf(case.ty, [n_in, n_out, 1, 1], case.weight).expect("a leaf");
    let spec = |name: &str, ne: [i64; 4], src: Vec<Tensor>| {
        let row = 4 * ne[0] as usize;
        let nb = [4, row, row * ne[1] as usize, row * ne[1] as usize];
        let (op, src) = (runtime.names().number(name).expect("an op"), src.into_iter().map(Some).collect());
        NodeSpec { op, ty: Type::F32, ne, nb, params: [0; 16], src, view: None, is_cast: false }
    };
    if !back {
        return Some(builder.node(&spec("MUL_MAT", [n_out, T as i64, 1, 1], vec![weight, rows])).expect("a node"));
    }
    // OUT_PROD has no F16.
    if case.ty == Type::F16 {
        return None;
    }
    let mut turned = spec("TRANSPOSE", [T as i64, n_out, 1, 1], vec![rows]);
    turned.nb = [4 * n_out as usize, 4, 4 * n_out as usize * T, 4 * n_out as usize * T];
    turned.view = Some((rows, 0));
    let turned = builder.node(&turned).expect("a view");
    Some(builder.node(&spec("OUT_PROD", [n_in, T as i64, 1, 1], vec![weight, turned])).expect("a node"))
}

fn ours(
    builder: &mut GraphBuilder<'_>,
    case: &Case,
    data: *const u8,
    runtime: &Runtime,
    rows: Tensor,
    back: bool,
    path: Path,
) -> Tensor {
    let row_bytes = case.ty.row_bytes(case.n_in as u64).expect("whole blocks") as usize;
    // SAFETY: the memory outlives the graph, and nobody writes the weight.
    let weight = unsafe { Weight::new(case.ty, [case.n_in, case.n_out], row_bytes, data, runtime.to_float(case.ty)) };
    let weight = weight.expect("a weight");
    let ne = [if back { case.n_in } else { case.n_out } as i64, T as i64, 1, 1];
    if path == Path::F32 {
        let kernel = if back { ops::frozen_product_back(weight) } else { ops::frozen_product(weight) };
        return builder.custom(ne, &[rows], kernel).expect("a node");
    }
    let from = if back { case.n_out } else { case.n_in } as i64;
    let rounded = builder.custom([(from + 1) / 2, T as i64, 1, 1], &[rows], ops::rounded()).expect("a node");
    let side = if back { Side::Transposed } else { Side::Forward };
    let term = ops::TermSpec { matrix: ops::TermMatrix::Frozen(weight), side, rows: 0 };
    builder.custom(ne, &[rounded], ops::sum_of_products(vec![term])).expect("a node")
}
