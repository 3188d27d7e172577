//! A run that starts from an adapter: the reference is the model with it.

use super::Workshop;
use serde_json::Value;

const FLAGS: [&str; 4] = ["-t", "1", "--save-steps", "2"];

fn first_step(shop: &Workshop, run: &str) -> Value {
    let text = String::from_utf8(shop.files(run)["metrics.jsonl"].clone()).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

/// DPO after SFT: a reference without the SFT adapter would make the first loss anything but ln 2, and a reference that moves
/// along would leave nothing to learn.
#[test]
fn the_reference_is_the_model_with_the_adapter_that_a_run_starts_from() {
    let shop = Workshop::new(12);
    let sft = ["--method", "sft", "--epochs", "3", "--learning-rate", "0.01", "--lora-rank", "3"];
    shop.finish("sft", &[&FLAGS[..], &sft].concat());
    let from = ["--lora", "sft/adapter.gguf", "--max-steps", "5"];
    for (method, wanted) in [("dpo", std::f64::consts::LN_2), ("kto", 0.5)] {
        shop.finish(method, &[&FLAGS[..], &from, &["--method", method]].concat());
        let first = first_step(&shop, method);
        assert!((first["loss"].as_f64().unwrap() - wanted).abs() < 1e-12, "{method}: {first}");
        assert!(first["grad_norm"].as_f64().unwrap() > 1e-3, "{method}: nothing to learn");
        let last = shop.run(method, &["--resume", "auto", "--lora", "sft/adapter.gguf"]);
        assert_eq!(last.status, Some(0), "{}", last.err);
        assert!(shop.files(method)["adapter.gguf"] != shop.files("sft")["adapter.gguf"]);
    }
    // Without the adapter it is another run, and the file's ranks are not for flags to say.
    let path = shop.path("dpo/run.json");
    std::fs::remove_file(path).unwrap();
    let whole = shop.files("dpo");
    shop.refused("dpo", &["--resume", "auto"], 78, &["--lora"]);
    shop.refused("dpo", &["--resume", "auto", "--lora", "kto/adapter.gguf"], 78, &["--lora"]);
    shop.finish("dpo", &["--resume", "auto", "--lora", "sft/adapter.gguf"]);
    assert!(shop.files("dpo")["adapter.gguf"] == whole["adapter.gguf"]);
    shop.refused("x", &["--lora", "sft/adapter.gguf", "--lora-rank", "4"], 2, &["--lora-rank"]);
    std::fs::write(shop.path("c.toml"), "lora_alpha = 4.0\n").unwrap();
    shop.refused("x", &["--lora", "sft/adapter.gguf", "--config", "c.toml"], 2, &["lora-alpha", "--lora"]);
    shop.refused("x", &["--lora", "m.gguf"], 65, &["m.gguf"]);
}

/// Blocks, patterns and rsLoRA from flags and a configuration, as the adapter's file shows them.
#[test]
fn blocks_and_modules_have_what_the_configuration_gives_them() {
    use llama_align::gguf::{validate_adapter, File};
    let shop = Workshop::new(4);
    let config =
        "lora_rank = 2\nuse_rslora = true\n[rank_pattern]\nq_proj = 4\n[alpha_pattern]\n\"blk.1.attn_k\" = 8.0\n";
    std::fs::write(shop.path("c.toml"), config).unwrap();
    let flags = ["-t", "1", "--config", "c.toml", "--layers-to-transform", "1", "--lora-targets", "q_proj,k_proj"];
    shop.finish("run", &[&flags[..], &["--max-steps", "1", "--loraplus-lr-ratio", "16"]].concat());
    let adapter = validate_adapter(&File::open(&shop.path("run/adapter.gguf")).unwrap()).unwrap();
    let mut pairs: Vec<_> = adapter.pairs.iter().map(|p| (p.weight.as_str(), p.rank)).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [("blk.1.attn_k.weight", 2), ("blk.1.attn_q.weight", 4)]);
    // 32·√2: the adapter's own rank decides.
    assert!((adapter.alpha - 45.254_834).abs() < 1e-4, "{}", adapter.alpha);
    shop.finish("run", &["--overwrite", "-t", "1", "--config", "run/config.toml", "--max-steps", "1"]);
    for (flags, says) in [
        (&["--layers-to-transform", "2"][..], "layers-to-transform"),
        (&["--loraplus-lr-ratio", "0"], "loraplus-lr-ratio"),
        (&["--lora-dropout", "1"], "lora-dropout"),
        (&["--config", "c.toml", "--lora-targets", "v_proj"], "rank_pattern: q_proj"),
    ] {
        shop.refused("y", flags, 2, &[says]);
    }
}
