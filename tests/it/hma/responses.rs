//! What a search is fitted to: answers of the aligned model, as `generate` gives them, and implicit rewards with their sign.

use super::Opened;
use crate::merge::program::run;
use crate::merge::Bench;
use llama_align::adapter::{import, Lora};
use llama_align::data::Sequence;
use llama_align::engine::{Delta, Engine, Form};
use llama_align::gguf::File;
use llama_align::hma::{implicit_rewards, Blended};
use quant::Type;
use serde_json::Value;

fn done(bench: &Bench, line: &str) -> String {
    let ran = run(bench.dir.path(), line);
    assert_eq!(ran.status, 0, "{line}: {}", ran.err);
    ran.out
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A base, and an adapter that taught it to answer three questions and to end.
fn taught() -> Bench {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "base.gguf");
    let row = |(i, text): (usize, &str)| serde_json::json!({"prompt": format!("p{i}"), "completion": text});
    let rows: String = ["yes", "no, not", "so"].into_iter().enumerate().map(|it| format!("{}\n", row(it))).collect();
    std::fs::write(bench.path("rows.jsonl"), rows).unwrap();
    std::fs::write(bench.path("prompts.txt"), "p0\np1\np2\n").unwrap();
    let train =
        "train -m base.gguf -d rows.jsonl --method sft -o run --max-steps 60 --lr 2e-2 --lora-rank 8 --samples 0 -t 1";
    done(&bench, train);
    bench
}

/// Without chance the responses are what `generate` answers with the adapter, or with the aligned model, and not the base's.
#[test]
fn responses_are_the_aligned_models_own() {
    let bench = taught();
    done(&bench, "merge -m base.gguf --lora run/adapter.gguf --outtype f32 --no-verify -o after.gguf");
    let ask =
        |model: &str| lines(&done(&bench, &format!("generate {model} -f prompts.txt --temp 0 -n 24 --json -t 1")));
    let base = ask("-m base.gguf");
    for (after, model) in
        [("--lora run/adapter.gguf", "-m base.gguf --lora run/adapter.gguf"), ("--after after.gguf", "-m after.gguf")]
    {
        let answers = ask(model);
        assert_eq!(answers.len(), 3);
        let search = "--groups 2 --epochs 1 --responses-out kept.jsonl --overwrite -o out.gguf --json -t 1";
        let line = format!("hma -m base.gguf {after} --prompts prompts.txt --temp 0 -n 24 {search}");
        let found: Value = serde_json::from_str(&done(&bench, &line)).unwrap();
        assert!(found["likelihoods"]["found"].as_f64().unwrap() > 0.0 && bench.path("out.gguf").exists(), "{found}");
        let kept = lines(&std::fs::read_to_string(bench.path("kept.jsonl")).unwrap());
        // What did not end within its tokens is left out, so that all that is left is a whole answer.
        assert!(!kept.is_empty() && kept.len() <= 3, "{kept:?}");
        for row in &kept {
            let of = |rows: &[Value]| rows.iter().find(|r| r["prompt"] == row["prompt"]).unwrap()["completion"].clone();
            assert_eq!(row["completion"], of(&answers), "{after}: {}", row["prompt"]);
            assert_ne!(row["completion"], of(&base), "{after}: {}", row["prompt"]);
        }
        // The likelihoods are those of these responses.
        let told = done(&bench, &format!("eval {model} -d kept.jsonl -t 1 --json"));
        let nll = serde_json::from_str::<Value>(&told).unwrap()["nll"].as_f64().unwrap();
        let after = found["likelihoods"]["after"].as_f64().unwrap();
        assert!((nll - after).abs() < 2e-2 * nll.max(1e-2), "{nll} {after}");
    }
}

/// How much likelier alignment made a response: the aligned model's sum less the base's, by two sessions of their own.
#[test]
fn implicit_rewards_are_two_engines_sums() {
    let bench = taught();
    let opened = Opened::new(&bench, "base.gguf");
    let lora: Lora = import(&File::open(&bench.path("run/adapter.gguf")).unwrap()).unwrap();
    let mut blended = Blended::of_adapter(&opened.model, &opened.trace, &lora, 1, Form::Training).unwrap();
    let sequences: Vec<Sequence> =
        (1..5).map(|i| Sequence::new((0..6 + 5 * i).map(|t| (t * i * 7) % 250).collect(), 3)).collect();
    let rows: Vec<&Sequence> = sequences.iter().collect();
    let rewards = implicit_rewards(&mut blended, &rows, 512).unwrap();
    let delta = Delta { lora, scale: 1.0, trainable: false };
    let sums = [Vec::new(), vec![delta]].map(|deltas| {
        let mut engine = Engine::new(&opened.model, &opened.trace, deltas, 1).unwrap();
        let logps = engine.log_probs(&rows).unwrap();
        logps.iter().map(|l| l.iter().map(|&l| f64::from(l)).sum::<f64>()).collect::<Vec<f64>>()
    });
    for (i, reward) in rewards.iter().enumerate() {
        let wanted = sums[1][i] - sums[0][i];
        assert!(wanted.abs() > 0.1, "a reward of nothing checks no sign");
        assert!((reward - wanted).abs() < 1e-4 * sums[0][i].abs(), "{reward} {wanted}");
    }
}

/// Cuts, rules and the regulariser reach the search: what they mean shows in what comes out.
#[test]
fn groups_and_the_regulariser_are_what_was_asked_for() {
    let bench = taught();
    let hma = |flags: &str| -> Value {
        let line = "hma -m base.gguf --lora run/adapter.gguf --responses rows.jsonl --precision f32 --json -t 1";
        serde_json::from_str(&done(&bench, &format!("{line} {flags}"))).unwrap()
    };
    let ratios = |found: &Value| -> Vec<f64> {
        found["groups"].as_array().unwrap().iter().map(|g| g["before"].as_f64().unwrap()).collect()
    };
    let free = hma("--groups 2 --batch-size 0");
    for same in ["--groups 0, --batch-size 0", "--groups layers --batch-size 0"] {
        assert_eq!(ratios(&hma(same)), ratios(&free), "{same}");
    }
    let spread = |ratios: Vec<f64>| (ratios[0] - ratios[1]).abs();
    let held = hma("--groups 2 --batch-size 0 --rho 100 --rho-form squared --rho-weights even");
    let slightly = hma("--groups 2 --batch-size 0 --rho 1e-9");
    let [free, held, slightly] = [free, held, slightly].map(|found| spread(ratios(&found)));
    assert!(free > 0.005 && held < 0.1 * free, "{free} {held}");
    assert!((slightly - free).abs() < 1e-3, "{free} {slightly}");
    // Thirty-two blocks tell the paper's rule from the released one.
    bench.tiny("baichuan-rope", Type::F32, "deep.gguf");
    bench.adapter("deep.gguf", "deep-adapter.gguf", 2, 4.0, 0.1);
    for (rule, lasts) in [("paper", [9, 20, 31]), ("released", [10, 20, 31])] {
        let line = "hma -m deep.gguf --lora deep-adapter.gguf --groups 3 --ratios 0.3,0.2,0.1 --json -t 1 --overwrite";
        let found: Value =
            serde_json::from_str(&done(&bench, &format!("{line} --group-rule {rule} -o scaled.gguf"))).unwrap();
        for (group, last) in found["groups"].as_array().unwrap().iter().zip(lasts) {
            assert_eq!(group["last"], last, "{rule}: {found}");
        }
        // As it is written: the last block of the first group has that group's scale.
        let of = |name: &str| import(&File::open(&bench.path(name)).unwrap()).unwrap();
        let (before, after) = (of("deep-adapter.gguf"), of("scaled.gguf"));
        for (block, scale) in [(9, 0.7), (10, if rule == "paper" { 0.8 } else { 0.7 }), (31, 0.9)] {
            let size = |lora: &Lora| {
                let f = lora.factors.iter().find(|f| f.weight.starts_with(&format!("blk.{block}."))).unwrap();
                f64::from(lora.scale(f) * f.a[0] * f.b[0])
            };
            assert!((size(&after) / size(&before) - scale).abs() < 1e-5, "{rule}: block {block}");
        }
    }
}
