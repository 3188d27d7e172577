//! Written averages: end points are copies, values are what f64 gives, storing costs half a step at most.

use crate::merge::Bench;
use crate::models::runtime;
use llama_align::gguf::File;
use llama_align::hma::{Others, Shares};
use llama_align::merge::{average, Bound, Options, OutType};
use quant::Type;

fn values(file: &File, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.ne.iter().product::<u64>() as usize];
    quant::dequantize_row(tensor.ty, file.data(tensor), &mut out).unwrap();
    out
}

fn pair(ty: Type) -> Bench {
    let bench = Bench::new();
    bench.tiny("llama-untied", ty, "before.gguf");
    bench.varied("before.gguf", "after.gguf", |i, v| v + 0.05 * (i as f32).sin());
    bench
}

fn write(bench: &Bench, [before, after]: [&str; 2], shares: &Shares, out: &str, to: &str, threads: usize) -> File {
    let [a, b] = [before, after].map(|name| File::open(&bench.path(name)).unwrap());
    let out = OutType::from_name(out, Bound::default()).unwrap();
    let options = Options { out, threads, ..Options::default() };
    let share = |name: &str| shares.of(name, false);
    average(&runtime(), [&a, &b], &share, &[("pre_weight", shares.mean)], &options, Some(&bench.path(to)), &mut |_| {})
        .unwrap();
    File::open(&bench.path(to)).unwrap()
}

#[test]
fn whole_weights_copy_the_bytes_and_swapped_models_give_the_same() {
    let bench = pair(Type::Q8_0);
    let n = 2;
    for (share, of) in [(1.0, "before.gguf"), (0.0, "after.gguf")] {
        let made =
            write(&bench, ["before.gguf", "after.gguf"], &Shares::uniform(share, n), "keep", &format!("{share}"), 1);
        let model = File::open(&bench.path(of)).unwrap();
        for tensor in model.tensors() {
            let found = made.tensor(&tensor.name).unwrap();
            assert!(found.ty == tensor.ty && made.data(found) == model.data(tensor), "{share}: {}", tensor.name);
        }
    }
    let a = write(&bench, ["before.gguf", "after.gguf"], &Shares::uniform(0.25, n), "f32", "a.gguf", 1);
    let b = write(&bench, ["after.gguf", "before.gguf"], &Shares::uniform(0.75, n), "f32", "b.gguf", 2);
    for tensor in a.tensors() {
        assert_eq!(values(&a, &tensor.name), values(&b, &tensor.name), "{}", tensor.name);
    }
    write(&bench, ["before.gguf", "after.gguf"], &Shares::uniform(0.25, n), "f32", "again.gguf", 2);
    let bytes = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(bytes("a.gguf") == bytes("again.gguf"), "equal inputs give equal bytes, on any number of threads");
    // A model and itself.
    let same = write(&bench, ["before.gguf", "before.gguf"], &Shares::uniform(0.3, n), "keep", "same.gguf", 1);
    let model = File::open(&bench.path("before.gguf")).unwrap();
    assert!(model.tensors().iter().all(|t| same.data(same.tensor(&t.name).unwrap()) == model.data(t)));
}

#[test]
fn every_tensor_has_its_own_share_to_the_last_bit() {
    let bench = pair(Type::F32);
    let shares = Shares { layers: vec![0.1, 0.6], mean: 0.35, others: Others::Faithful };
    let made = write(&bench, ["before.gguf", "after.gguf"], &shares, "keep", "mean.gguf", 1);
    let [before, after] = ["before.gguf", "after.gguf"].map(|name| File::open(&bench.path(name)).unwrap());
    for tensor in made.tensors() {
        let name = &tensor.name;
        let share = match name.as_str() {
            "output.weight" => 0.35,
            _ if name.contains("norm") || name == "token_embd.weight" => 1.0,
            _ if name.starts_with("blk.0.") => 0.1,
            _ => 0.6,
        };
        for ((found, a), b) in values(&made, name).iter().zip(values(&before, name)).zip(values(&after, name)) {
            let exact = share * f64::from(a) + (1.0 - share) * f64::from(b);
            let ulp = f64::from(f32::from_bits((exact as f32).abs().to_bits() + 1)) - f64::from((exact as f32).abs());
            assert!((f64::from(*found) - exact).abs() <= ulp, "{name}: {found} instead of {exact}");
        }
    }
    assert_eq!(made.get("llama_align.merge.pre_weight"), Some(&llama_align::gguf::Value::F64(0.35)));
}

#[test]
fn storing_as_q8_0_costs_half_a_step() {
    let bench = pair(Type::F32);
    let shares = Shares::uniform(0.4, 2);
    let exact = write(&bench, ["before.gguf", "after.gguf"], &shares, "f32", "exact.gguf", 1);
    let stored = write(&bench, ["before.gguf", "after.gguf"], &shares, "q8_0", "stored.gguf", 1);
    let mut n = 0;
    for tensor in stored.tensors().iter().filter(|t| t.ty == Type::Q8_0) {
        let (wanted, found) = (values(&exact, &tensor.name), values(&stored, &tensor.name));
        for (wanted, found) in wanted.chunks(32).zip(found.chunks(32)) {
            let step = wanted.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
            // The step itself is stored in 16 bits: 2^-11 of 127 steps.
            let bound = step * (0.5 + 127.0 / 2048.0) + 1e-9;
            assert!(wanted.iter().zip(found).all(|(w, f)| (w - f).abs() <= bound), "{}", tensor.name);
            n += 1;
        }
    }
    assert!(n > 0);
}
