//! The program on a real model: SmolLM2-135M-Instruct in Q4_1, whose path the variable `LLAMA_ALIGN_TEST_MODEL` holds.
//! `make test` fetches it and runs these; without it they are not run, and `make test` says so.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn model() -> PathBuf {
    std::env::var_os("LLAMA_ALIGN_TEST_MODEL").expect("LLAMA_ALIGN_TEST_MODEL names a model").into()
}

/// Runs the program; returns what it printed.
fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_llama-align")).args(arguments).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} ended with {:?}: {talk}", output.status.code());
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let text = run(arguments);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const TRAIN: &str = "demo/pairs-train.jsonl";
const HELD_OUT: &str = "demo/pairs-eval.jsonl";

#[test]
#[ignore = "needs a real model: make test"]
fn real_model_is_reproduced_exactly() {
    let report = json(&["check", "-m", text(&model()), "--json"]);
    assert_eq!((&report["architecture"], &report["ok"]), (&"llama".into(), &true.into()), "{report}");
    assert_eq!(report["runtime_form"]["max_abs_diff"], 0.0);
    assert!(report["training_form"]["max_rel_diff"].as_f64().unwrap() < 0.05);
    assert_eq!(report["trainable"].as_array().unwrap().len(), 210);
}

#[test]
#[ignore = "needs a real model: make test"]
fn real_model_learns_and_the_adapter_file_holds_it() {
    let directory = tempfile::tempdir().unwrap();
    let (model, out) = (model(), directory.path().join("run"));
    // Forty-eight rows in six steps: so few need a higher rate to show in an answer.
    let train = ["train", "-m", text(&model), "-d", TRAIN, "--eval-data", HELD_OUT, "-o", text(&out)];
    run(&[&train[..], &["--max-steps", "6", "--learning-rate", "1e-3"]].concat());
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    let (before, first, after) = (&lines[0], &lines[1], &lines[7]);
    // At step 0 the policy is the reference.
    assert_eq!((&first["rewards/margins"], &before["eval_rewards/margins"]), (&0.0.into(), &0.0.into()));
    assert!((first["loss"].as_f64().unwrap() - 2f64.ln()).abs() < 1e-12);
    assert!(lines[6]["loss"].as_f64() < first["loss"].as_f64());
    assert!(after["eval_rewards/accuracies"].as_f64() > Some(0.9), "{after}");

    let adapter = out.join("adapter.gguf");
    let again = json(&["eval", "-m", text(&model), "--lora", text(&adapter), "-d", HELD_OUT, "--json"]);
    for key in ["n_pairs", "accuracy", "logps/chosen", "logps/rejected", "rewards/accuracies", "rewards/margins"] {
        let (file, engine) = (again[key].as_f64().unwrap(), after[&format!("eval_{key}")].as_f64().unwrap());
        assert!((file - engine).abs() <= 1e-6 * engine.abs(), "{key}: {file} from the file, {engine} in training");
    }
    let described = json(&["inspect", text(&adapter), "--json"]);
    assert_eq!(described["adapted_weights"].as_array().unwrap().len(), 210);
    let prompt = ["-p", "What is castling in chess?", "-n", "12"];
    let plain = run(&[&["generate", "-m", text(&model)][..], &prompt].concat());
    let adapted = run(&[&["generate", "-m", text(&model), "--lora", text(&adapter)][..], &prompt].concat());
    let silenced = format!("{}:0", text(&adapter));
    let scaled = run(&[&["generate", "-m", text(&model), "--lora-scaled", &silenced][..], &prompt].concat());
    assert!(!plain.trim().is_empty() && plain != adapted, "{plain:?}");
    assert_eq!(plain, scaled);
}

/// Chains of sums: a problem, the right chain, and the chain with the result of one step replaced; which step.
fn chain(draw: &mut dyn FnMut(u64) -> u64) -> (String, String, String, usize) {
    let (mut x, bad) = (1 + draw(9), draw(3) as usize);
    let (mut problem, mut right, mut wrong) = (format!("Start with {x}."), Vec::new(), Vec::new());
    for step in 0..3 {
        let d = 1 + draw(8);
        // No number of two digits, and none below 0.
        let adds = x + d < 10;
        let d = if adds { d } else { 1 + d % x };
        let (word, sign, y) = if adds { ("Add", '+', x + d) } else { ("Take away", '-', x - d) };
        problem += &format!(" {word} {d}.");
        right.push(format!("{x} {sign} {d} = {y}."));
        let other = (y + 1 + draw(9)) % 10;
        wrong.push(format!("{x} {sign} {d} = {}.", if step == bad { other } else { y }));
        x = y;
    }
    (problem, right.join(" "), wrong.join(" "), bad)
}

/// T18 of specs `allo_hbat`, 1.11: a rewriter that was taught on such pairs tells the one wrong digit of others from all their other
/// tokens, by its copy probability, and copies these.
#[test]
#[ignore = "needs a real model: make test"]
fn real_rewriter_finds_the_digit_that_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (model, mut state) = (model(), 7u64);
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut made = |name: &str, n: usize| {
        let chains: Vec<_> = (0..n).map(|_| chain(&mut draw)).collect();
        let row = |(p, c, r, _): &(String, String, String, usize)| {
            format!("{}\n", serde_json::json!({ "prompt": p, "chosen": c, "rejected": r }))
        };
        std::fs::write(path(name), chains.iter().map(row).collect::<String>()).unwrap();
        chains
    };
    made("taught.jsonl", 40);
    let held_out = made("held.jsonl", 12);
    let (taught, lessons, held) = (path("taught.jsonl"), path("lessons.jsonl"), path("held.jsonl"));
    run(&["token-weights", "-d", text(&taught), "--rewriter-data", text(&lessons)]);
    let rewriter = path("rewriter");
    let teach = ["train", "-m", text(&model), "-d", text(&lessons), "--method", "sft", "-o", text(&rewriter)];
    run(&[&teach[..], &["--max-steps", "5", "--lr", "5e-4", "--lora-rank", "8", "--samples", "0"]].concat());
    // Tokens of an answer, digits and signs each one; the digit that is wrong is the last but one of its step.
    let labelled = |rewriter: &Path, out: &str| {
        let out = path(out);
        let label = ["token-weights", "-m", text(&model), "--rewriter", text(rewriter), "-d", text(&held)];
        run(&[&label[..], &["-o", text(&out)]].concat());
        let (mut wrong, mut others) = (Vec::new(), Vec::new());
        for (line, (.., bad)) in std::fs::read_to_string(&out).unwrap().lines().zip(&held_out) {
            let line: Value = serde_json::from_str(line).unwrap();
            let copied: Vec<f64> =
                line["copied"]["rejected"].as_array().unwrap().iter().map(|q| q.as_f64().unwrap()).collect();
            assert_eq!(copied.len(), 27, "three steps of nine tokens, the end in the place of a space");
            for (i, q) in copied.into_iter().enumerate() {
                if i == 9 * bad + 6 { &mut wrong } else { &mut others }.push(1.0 - q);
            }
        }
        let wins = |w: &f64| {
            others
                .iter()
                .map(|o| {
                    if w > o {
                        1.0
                    } else if w == o {
                        0.5
                    } else {
                        0.0
                    }
                })
                .sum::<f64>()
        };
        let area = wrong.iter().map(wins).sum::<f64>() / (wrong.len() * others.len()) as f64;
        (area, others.iter().sum::<f64>() / others.len() as f64)
    };
    let (before, doubt_before) = labelled(&model, "before.jsonl");
    let (after, doubt) = labelled(&rewriter.join("adapter.gguf"), "after.jsonl");
    assert!(after > 0.9, "the area under the curve is {after}, {before} before teaching");
    assert!(doubt < 0.5 * doubt_before, "right tokens are doubted by {doubt}, by {doubt_before} before teaching");
}

/// Answers with and without an instruction, written without it.
#[test]
#[ignore = "needs a real model: make test"]
fn real_model_makes_pairs_of_a_style() {
    let directory = tempfile::tempdir().unwrap();
    let (model, prompts, out) = (model(), directory.path().join("prompts.txt"), directory.path().join("pairs.jsonl"));
    let asked = ["What is the capital of France?", "What is sourdough?", "What is a stock?", "Is the sea salty?"];
    std::fs::write(&prompts, asked.join("\n")).unwrap();
    let told = "Answer in one short sentence.";
    let pairs = [
        "pairs",
        "-m",
        text(&model),
        "-f",
        text(&prompts),
        "--chosen-system",
        told,
        "-o",
        text(&out),
        "-n",
        "240",
        "--parallel",
        "1",
    ];
    let said = run(&pairs);
    let rows: Vec<Value> =
        std::fs::read_to_string(&out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(!rows.is_empty() && said.contains(&format!("{} pairs of 4 prompts; dropped: ", rows.len())), "{said}");
    let part = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    for row in &rows {
        assert!(asked.contains(&part(row, "prompt").as_str()) && !row.to_string().contains(told), "{row}");
        assert!(!part(row, "chosen").trim().is_empty() && part(row, "chosen") != part(row, "rejected"), "{row}");
    }
    // What an answer is without the instruction, `generate` says too.
    let row = &rows[0];
    let alone = run(&["generate", "-m", text(&model), "-p", &part(row, "prompt"), "-n", "240"]);
    assert_eq!(alone.trim(), part(row, "rejected"));
    let length = |key: &str| rows.iter().map(|row| part(row, key).len()).sum::<usize>();
    assert!(length("chosen") < length("rejected"), "{rows:?}");
}
