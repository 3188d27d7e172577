//! The methods' numbers: by hand, by definition, and by their symmetries.

use super::{keep, linear, values, Bench, Content};
use llama_align::error::Kind;
use llama_align::gguf::File;
use llama_align::merge::{magnitude, slerp_coefficients, weighted_sum, Method, TaskVectors, Thinning, Vectors};
use quant::Type;

/// A file with one tensor of these values, which no architecture needs to understand.
const NAME: &str = "blk.0.attn_q.bias";

fn merged(base: Option<&[f32]>, models: &[&[f32]], method: &Method) -> Vec<f32> {
    let bench = Bench::new();
    let write = |name: &str, x: &[f32]| Content::bare().f32(NAME, &[x.len() as u64], x).write(&bench.path(name));
    let names: Vec<String> = (0..models.len()).map(|i| format!("{i}.gguf")).collect();
    models.iter().zip(&names).for_each(|(x, name)| write(name, x));
    if let Some(x) = base {
        write("base.gguf", x);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.merge(&names, base.map(|_| "base.gguf"), method, &keep(), "out.gguf").unwrap();
    values(&File::open(&bench.path("out.gguf")).unwrap(), NAME)
}

fn close(found: &[f32], wanted: &[f64]) {
    let same = found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| (f64::from(*f) - w).abs() < 1e-6);
    assert!(same, "{found:?} instead of {wanted:?}");
}

#[test]
fn linear_is_the_mean_of_the_definition_in_any_order() {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "a.gguf");
    bench.varied("a.gguf", "b.gguf", |i, v| v * 0.8 + (i as f32 * 0.1).sin() * 0.01);
    bench.varied("a.gguf", "c.gguf", |i, v| v + (i as f32 * 0.3).cos() * 0.02);
    let weights = [0.5, 0.3, 0.7];
    let names = ["a.gguf", "b.gguf", "c.gguf"];
    bench.merge(&names, None, &linear(&weights), &keep(), "out.gguf").unwrap();
    let swapped = ["c.gguf", "a.gguf", "b.gguf"];
    bench.merge(&swapped, None, &linear(&[0.7, 0.5, 0.3]), &keep(), "swapped.gguf").unwrap();
    // Weights are shares: twice of all is the same.
    bench.merge(&names, None, &linear(&[1.0, 0.6, 1.4]), &keep(), "twice.gguf").unwrap();
    let open = |name: &str| File::open(&bench.path(name)).unwrap();
    let (out, sources) = (open("out.gguf"), names.map(open));
    let others = [open("swapped.gguf"), open("twice.gguf")];
    for tensor in out.tensors() {
        let found = values(&out, &tensor.name);
        let x = [0, 1, 2].map(|i| values(&sources[i], &tensor.name));
        for (i, v) in found.iter().enumerate() {
            let exact: f64 = (0..3).map(|m| weights[m] / 1.5 * f64::from(x[m][i])).sum();
            let ulp = f64::from(v.abs().next_up() - v.abs());
            assert!((f64::from(*v) - exact).abs() <= 0.51 * ulp, "{} {i}: {v} instead of {exact}", tensor.name);
        }
        for other in &others {
            let ulp = |v: f32| v.abs().next_up() - v.abs();
            let same = values(other, &tensor.name).iter().zip(&found).all(|(a, b)| (a - b).abs() <= ulp(*b));
            assert!(same, "{}", tensor.name);
        }
    }
}

#[test]
fn slerp_has_its_ends_and_its_golden_value() {
    let (a, b): (&[f32], &[f32]) = (&[1.0, 0.0], &[0.0, 2.0]);
    close(&merged(None, &[a, b], &Method::Slerp { t: 0.25 }), &[0.92387953, 0.76536686]);
    assert_eq!(merged(None, &[a, b], &Method::Slerp { t: 0.0 }), a);
    assert_eq!(merged(None, &[a, b], &Method::Slerp { t: 1.0 }), b);
    // Halfway between equal lengths the length stays; along one direction it is the straight line.
    let half = merged(None, &[&[3.0, 4.0], &[-4.0, 3.0]], &Method::Slerp { t: 0.5 });
    assert!((f64::from(half[0]).hypot(half[1].into()) - 5.0).abs() < 1e-6, "{half:?}");
    close(&merged(None, &[&[1.0, 2.0], &[2.0, 4.0]], &Method::Slerp { t: 0.25 }), &[1.25, 2.5]);
    close(&merged(None, &[&[0.0, 0.0], &[2.0, 4.0]], &Method::Slerp { t: 0.5 }), &[1.0, 2.0]);
    assert_eq!(slerp_coefficients(0.5, [1.0, -1.0, 1.0]), None);
    let [x, y] = slerp_coefficients(0.3, [2.0, 1.0, 2.0]).unwrap();
    let [v, u] = slerp_coefficients(0.7, [2.0, 1.0, 2.0]).unwrap();
    assert!((x - u).abs() < 1e-15 && (y - v).abs() < 1e-15);
}

#[test]
fn opposite_tensors_have_no_arc() {
    let bench = Bench::new();
    Content::bare().f32(NAME, &[2], &[1.0, 2.0]).write(&bench.path("a.gguf"));
    Content::bare().f32(NAME, &[2], &[-2.0, -4.0]).write(&bench.path("b.gguf"));
    let error = bench.merge(&["a.gguf", "b.gguf"], None, &Method::Slerp { t: 0.5 }, &keep(), "out.gguf").unwrap_err();
    assert!(error.kind() == Kind::Numeric && error.to_string().contains(NAME), "{error}");
    assert_eq!(bench.files(), ["a.gguf", "b.gguf"]);
}

#[test]
fn task_vectors_are_added_to_the_base() {
    let (base, a, b): (&[f32], &[f32], &[f32]) = (&[1.0, 2.0, 0.0], &[2.0, 2.0, 1.0], &[1.0, 0.0, 4.0]);
    let method = Method::task_arithmetic(&[1.0, 0.5], 2.0);
    // base + 2·(1·(1, 0, 1) + 0.5·(0, −2, 4))
    close(&merged(Some(base), &[a, b], &method), &[3.0, 0.0, 6.0]);
    // A model taken away from what it was trained from, and back.
    let away = Method::task_arithmetic(&[-1.0], 1.0);
    close(&merged(Some(base), &[a], &away), &[0.0, 2.0, -1.0]);
    let nothing = Method::task_arithmetic(&[1.0, 1.0], 0.0);
    assert_eq!(merged(Some(base), &[a, b], &nothing), base);
}

#[test]
fn ties_elects_trims_and_averages() {
    let (base, a, b): (&[f32], &[f32], &[f32]) = (&[0.0; 4], &[1.0, -2.0, 0.5, 0.0], &[-3.0, -1.0, 0.5, 2.0]);
    let method = |density, lambda| Method::ties(&[1.0, 0.5], density, lambda);
    close(&merged(Some(base), &[a, b], &method(1.0, 1.0)), &[-3.0, -1.6666667, 0.5, 2.0]);
    close(&merged(Some(base), &[a, b], &method(1.0, 0.5)), &[-1.5, -0.8333333, 0.25, 1.0]);
    // The two largest of each: (1, −2, 0, 0) and (−3, 0, 0, 2).
    close(&merged(Some(base), &[a, b], &method(0.5, 1.0)), &[-3.0, -2.0, 0.0, 2.0]);
    // On a base that is not zero the same changes give the same.
    let shift = |x: &[f32]| x.iter().map(|v| v + 8.0).collect::<Vec<_>>();
    let found = merged(Some(&shift(base)), &[&shift(a), &shift(b)], &method(0.5, 1.0));
    close(&found, &[5.0, 6.0, 8.0, 10.0]);
    // Equal and opposite: nothing is elected.
    let even = Method::ties(&[1.0, 1.0], 1.0, 1.0);
    assert_eq!(merged(Some(&[7.0]), &[&[8.0], &[6.0]], &even), [7.0]);
    assert_eq!(magnitude(-2.0), magnitude(2.0));
}

#[test]
fn ties_trims_a_tensor_of_many_chunks_exactly() {
    // Ten chunks of rows; changes of distinct sizes in a scrambled order.
    let n: usize = 10 << 18;
    let change = |i: usize| (i * 7_919 % n + 1) as f32 * if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    let x: Vec<f32> = (0..n).map(change).collect();
    let bench = Bench::new();
    Content::bare().f32(NAME, &[256, n as u64 / 256], &x).write(&bench.path("a.gguf"));
    Content::bare().f32(NAME, &[256, n as u64 / 256], &vec![0.0; n]).write(&bench.path("base.gguf"));
    let method = Method::ties(&[1.0], 0.3, 1.0);
    bench.merge(&["a.gguf"], Some("base.gguf"), &method, &keep(), "out.gguf").unwrap();
    let found = values(&File::open(&bench.path("out.gguf")).unwrap(), NAME);
    let kept = (0.3 * n as f64) as usize;
    let right = found.iter().zip(&x).all(|(f, x)| *f == if x.abs() > (n - kept) as f32 { *x } else { 0.0 });
    assert!(right && found.iter().filter(|v| **v != 0.0).count() == kept);
}

fn thinned(weights: &[f64], thinning: Thinning, elect: bool, lambda: f64) -> Method {
    Method::TaskVectors(TaskVectors { weights: weights.to_vec(), thinning, elect, normalize: false, lambda })
}

#[test]
fn dare_keeps_a_share_and_the_mean() {
    let n = 200_000;
    let (base, model) = (vec![1.0f32; n], vec![3.0f32; n]);
    let run = |seed| {
        let thinning = Thinning::Random { density: vec![0.25], rescale: true, seed };
        merged(Some(&base), &[&model], &thinned(&[1.0], thinning, false, 0.5))
    };
    let out = run(1);
    // Kept: 1 + 0.5 · 2 / 0.25.
    assert!(out.iter().all(|&v| v == 1.0 || v == 5.0));
    let share = out.iter().filter(|&&v| v == 5.0).count() as f64 / n as f64;
    assert!((share - 0.25).abs() < 0.004, "{share}");
    assert!(out == run(1) && out != run(2));
    let all = Thinning::Random { density: vec![1.0], rescale: true, seed: 0 };
    assert_eq!(merged(Some(&[1.0, 2.0]), &[&[2.0, 4.0]], &thinned(&[2.0], all, false, 1.0)), [3.0, 6.0]);
}

#[test]
fn breadcrumbs_drop_the_largest_and_the_smallest() {
    let base = [1.0f32; 10];
    let model: Vec<f32> = (0..10).map(|i| 1.0 + if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
    // Of ten changes the largest (9) and the five smallest go.
    let rule = |elect| thinned(&[0.5], Thinning::WithoutOutliers { density: vec![0.4], gamma: vec![0.1] }, elect, 2.0);
    for elect in [false, true] {
        let found = merged(Some(&base), &[&model], &rule(elect));
        close(&found, &[1.0, 1.0, 1.0, 1.0, 1.0, -4.0, 7.0, -6.0, 9.0, 1.0]);
    }
}

#[test]
fn models_of_a_stock_lie_on_either_side() {
    // Changes (1, 0) and (0, 2) at right angles leave the base; (1, 0) and (1, 1) at 45 degrees do not.
    let stock = Method::ModelStock { filter_wise: false };
    let base: &[f32] = &[1.0, 1.0];
    assert_eq!(merged(Some(base), &[&[2.0, 1.0], &[1.0, 3.0]], &stock), base);
    let t = 2.0 * 0.5f64.sqrt() / (1.0 + 0.5f64.sqrt());
    close(&merged(Some(base), &[&[2.0, 1.0], &[2.0, 2.0]], &stock), &[1.0 + t, 1.0 + t * 0.5]);
}

#[test]
fn nuslerp_turns_by_weights_wholes_rows_and_columns() {
    let weights = vec![3.0, 1.0];
    let of = |of| Method::NuSlerp { weights: weights.clone(), of };
    let (a, b): (&[f32], &[f32]) = (&[1.0, 0.0], &[0.0, 2.0]);
    close(&merged(None, &[a, b], &of(Vectors::Whole)), &[0.92387953, 0.76536686]);
    close(&merged(None, &[a, b], &of(Vectors::Rows)), &[0.92387953, 0.76536686]);
    // One row is a vector, and one direction.
    close(&merged(None, &[a, b], &of(Vectors::Columns)), &[0.92387953, 0.76536686]);
    // From a base: its changes are turned.
    let shift = |x: &[f32]| x.iter().map(|v| v + 5.0).collect::<Vec<_>>();
    let found = merged(Some(&[5.0, 5.0]), &[&shift(a), &shift(b)], &of(Vectors::Whole));
    close(&found, &[5.92387953, 5.76536686]);
}

#[test]
fn a_sum_of_shares_is_affine() {
    let (x, y) = ([1.0f32, -2.5, 1e-3], [0.5f32, 4.0, -7.0]);
    let at = |t: f64| {
        let mut out = [0.0; 3];
        weighted_sum(&[1.0 - t, t], &[&x, &y], &mut out);
        out
    };
    assert_eq!((at(0.0), at(1.0)), (x, y));
    for ((quarter, half), x) in at(0.25).into_iter().zip(at(0.5)).zip(x) {
        assert!((f64::from(half) - (2.0 * f64::from(quarter) - f64::from(x))).abs() < 1e-6);
    }
}
