//! `llama-align bench`: what it reports hangs together.

use crate::tiny;
use quant::Type;
use std::process::Command;

fn bench(arguments: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    tiny::find("llama-untied").write(&path, Type::Q8_0).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_llama-align"));
    let output = command.args(["bench", "-t", "1", "--json", "-m"]).arg(&path).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn rates_phases_and_shares_hang_together() {
    for (method, precision, recompute) in [("sft", "f32", "always"), ("dpo", "bf16", "never")] {
        let flags = ["--method", method, "--precision", precision, "--recompute", recompute];
        let shape = ["--shape", "2x128", "--steps", "3", "--lora-rank", "4"];
        let (status, text) = bench(&[&flags[..], &shape].concat());
        assert_eq!(status, Some(0), "{text}");
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {text}"));
        let rates = ["tokens_per_s_min", "tokens_per_s", "tokens_per_s_max"].map(number);
        assert!(0.0 < rates[0] && rates.is_sorted(), "{rates:?}");
        assert!((number("tokens_per_s") * number("step_seconds") / 256.0 - 1.0).abs() < 1e-9);
        let phases = ["products_seconds", "attention_seconds", "other_kernels_seconds"].map(number);
        assert!(phases.iter().all(|&s| s > 0.0), "{phases:?}");
        let (products, step) = (number("share_of_peak_products"), number("share_of_peak_step"));
        // Other tests share the cores, so that the peak may be measured lower than what the products then reach.
        assert!(0.0 < step && step < products && products.is_finite(), "{products} {step}");
        assert_eq!(number("reference_seconds") > 0.0, method == "dpo");
        assert_eq!((report["precision"].as_str(), report["recompute"].as_str()), (Some(precision), Some(recompute)));
        assert!(number("peak_rss_bytes") > 1e6 && number("peak_gflops") > 0.01);
    }
}

#[test]
fn other_shapes_and_methods_are_refused() {
    for flags in [["--shape", "4"], ["--shape", "0x64"], ["--method", "kto"], ["--precision", "f16"]] {
        assert_eq!(bench(&flags).0, Some(2), "{flags:?}");
    }
}
