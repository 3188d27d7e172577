//! Tasks by the real program on a tiny model: scores against a hand-made sum of log-probs, the tax table, refusals.

use super::{done, json, pairs, read, run, workshop};
use llama_align::data::{Encoder, Text};
use llama_align::engine::Engine;
use llama_align::runtime::{Model, Runtime};
use llama_align::trace::trace;
use std::path::Path;
use std::sync::Arc;

const CHOICES: &str = r#"[
  {"question":"up?","mc1_targets":{"yes it is":1,"no":0},"mc2_targets":{"yes it is":1,"ja":1,"no":0}},
  {"question":"down?","mc1_targets":{"7":1,"8 8":0,"9":0},"mc2_targets":{"7":1,"8 8":0,"9":0}}]"#;
const SUMS: &str =
    "{\"question\":\"1+1?\",\"answer\":\"so\\n#### 2\"}\n{\"question\":\"2+2?\",\"answer\":\"#### 4\"}\n";
const SQUAD: &str = r#"{"data":[{"paragraphs":[{"context":"Ann is 7.","qas":[
  {"question":"Who?","answers":[{"text":"Ann"}]},{"question":"How old?","answers":[{"text":"7"},{"text":"seven"}]}]}]}]}"#;

/// A workshop with a task file of each kind, and an adapter that was trained at a high rate.
fn stocked() -> tempfile::TempDir {
    let dir = workshop();
    let path = dir.path();
    for (name, text) in [("mc.json", CHOICES), ("sums.jsonl", SUMS), ("squad.json", SQUAD)] {
        std::fs::write(path.join(name), text).unwrap();
    }
    std::fs::write(path.join("rows.jsonl"), pairs(8, 0)).unwrap();
    let train = ["train", "-m", "m.gguf", "-d", "rows.jsonl", "-o", "run", "-t", "1", "--samples", "0"];
    done(path, &[&train[..], &["--max-steps", "3", "--learning-rate", "0.02"]].concat());
    dir
}

/// Summed log-prob and number of tokens of a choice as an assistant's answer, without the end of the turn.
fn choice(engine: &mut Engine, model: &Model, question: &str, choice: &str) -> (f64, f64) {
    let template = model.template().unwrap();
    let encoder = Encoder::new(model, template.as_ref(), &llama_align::data::EncodeOptions::default()).unwrap();
    let text = |s: &str| Text::Plain(s.to_owned());
    let mut sequence = encoder.sequence(&text(question), &text(choice)).unwrap();
    assert!(model.is_end(*sequence.tokens.last().unwrap()));
    sequence.tokens.pop();
    let logps = engine.log_probs(&[&sequence]).unwrap().remove(0);
    (logps.iter().map(|&l| f64::from(l)).sum(), logps.len() as f64)
}

#[test]
fn multiple_choice_is_the_log_probs_of_the_choices() {
    let dir = stocked();
    let dir = dir.path();
    let eval = ["eval", "-m", "m.gguf", "-t", "1", "--task", "mc", "-d", "mc.json", "--precision", "f32"];
    let ran = done(dir, &[&eval[..], &["--per-item", "items.jsonl", "--json"]].concat());
    let (found, items) = (json(&ran.out), read(dir, "items.jsonl"));
    let items: Vec<_> = items.lines().map(json).collect();
    let model = Model::open(&Runtime::linked().unwrap(), &dir.join("m.gguf")).unwrap();
    let trace = Arc::new(trace(&model).unwrap());
    let mut engine = Engine::new(&model, &trace, Vec::new(), 1).unwrap();
    let mut of = |question, text| choice(&mut engine, &model, question, text);
    let (yes, ja, no) = (of("up?", "yes it is"), of("up?", "ja"), of("up?", "no"));
    let p = |c: (f64, f64)| c.0.exp();
    let wanted = (p(yes) + p(ja)) / (p(yes) + p(ja) + p(no));
    let near = |item: usize, key: &str, wanted: f64| {
        let found = items[item][key].as_f64().unwrap();
        assert!((found - wanted).abs() < 1e-9, "item {item}, {key}: {found}, expected {wanted}");
    };
    near(0, "mc2", wanted);
    near(0, "mc1", f64::from(u8::from(yes.0 > no.0)));
    near(0, "mc1_norm", f64::from(u8::from(yes.0 / yes.1 > no.0 / no.1)));
    let (seven, eight, nine) = (of("down?", "7"), of("down?", "8 8"), of("down?", "9"));
    let q = |c: (f64, f64)| (c.0 / c.1).exp();
    near(1, "mc2_norm", q(seven) / (q(seven) + q(eight) + q(nine)));
    near(1, "mc1", f64::from(u8::from(seven.0 > eight.0.max(nine.0))));
    for key in ["mc1", "mc1_norm", "mc2", "mc2_norm"] {
        let mean = (items[0][key].as_f64().unwrap() + items[1][key].as_f64().unwrap()) / 2.0;
        assert!((found[key].as_f64().unwrap() - mean).abs() < 1e-12, "{key}");
    }
    assert_eq!((found["n_items"].as_u64(), found["task"].as_str()), (Some(2), Some("mc")));
}

#[test]
fn the_tax_table_is_what_single_tasks_say() {
    let dir = stocked();
    let dir = dir.path();
    let lora = ["--lora", "run/adapter.gguf"];
    let common = ["eval", "-m", "m.gguf", "-t", "1", "-n", "8", "--json"];
    let files = [
        ("pairs", "rows.jsonl"),
        ("nll", "rows.jsonl"),
        ("kl", "rows.jsonl"),
        ("mc", "mc.json"),
        ("exact-match", "sums.jsonl"),
        ("em-f1", "squad.json"),
    ];
    let taxes: Vec<String> = files.iter().map(|(task, file)| format!("{task}={file}")).collect();
    let taxes = taxes.iter().flat_map(|t| ["--tax", t.as_str()]);
    let all: Vec<&str> = common.into_iter().chain(lora).chain(taxes).chain(["-o", "run/tax.json"]).collect();
    let table = json(&done(dir, &all).out);
    assert_eq!(json(&read(dir, "run/tax.json")), table);
    let rows = table["table"].as_array().unwrap();
    for (task, file) in files {
        let one = |more: &[&str]| {
            let flags = ["--task", task, "-d", file];
            json(&done(dir, &[&common[..], &flags, more].concat()).out)
        };
        let (before, after) = (if task == "kl" { None } else { Some(one(&[])) }, one(&lora));
        let mine: Vec<_> = rows.iter().filter(|r| r["task"] == task).collect();
        assert!(!mine.is_empty(), "{task}");
        for row in mine {
            let metric = row["metric"].as_str().unwrap();
            assert_eq!(row["after"], after[metric], "{task} {metric}");
            if let Some(before) = &before {
                assert_eq!(row["before"], before[metric], "{task} {metric}");
            }
            let number = |key: &str| row[key].as_f64().unwrap();
            assert!((number("after") - number("before") - number("difference")).abs() < 1e-9, "{task} {metric}");
            assert!(number("low") <= number("difference") + 1e-9 && number("difference") <= number("high") + 1e-9);
        }
    }
    let kl = rows.iter().find(|r| r["metric"] == "kl").unwrap();
    assert!(kl["after"].as_f64().unwrap() > 0.0 && kl["before"] == 0.0, "{kl}");
    // The page shows the table.
    done(dir, &["report", "run"]);
    let page = read(dir, "run/report.html");
    assert!(page.contains("Alignment tax") && page.contains("mc2_norm"));
}

#[test]
fn a_draw_of_items_is_the_same_again_and_flags_without_use_are_refused() {
    let dir = stocked();
    let dir = dir.path();
    let eval = ["eval", "-m", "m.gguf", "-t", "1"];
    let drawn = |seed: &str| {
        let flags = ["--task", "nll", "-d", "rows.jsonl", "--limit", "3", "-s", seed, "--overwrite", "--per-item", "i"];
        done(dir, &[&eval[..], &flags].concat());
        read(dir, "i").lines().map(|l| json(l)["item"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let first = drawn("1");
    assert!(first.len() == 3 && first.is_sorted() && first == drawn("1") && first != drawn("2"), "{first:?}");
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--task", "rouge", "-d", "mc.json"], 2, "em-f1"),
        (&["--task", "kl", "-d", "rows.jsonl"], 2, "--lora"),
        (&["--task", "mc", "-d", "sums.jsonl"], 65, "sums.jsonl:1"),
        (&["--task", "em-f1", "-d", "mc.json"], 65, "mc.json:1"),
        (&["--task", "nll", "-d", "rows.jsonl", "--per-item", "i"], 73, "--overwrite"),
        (&["--tax", "mc=mc.json"], 2, "--lora"),
        (&["--tax", "mc", "--lora", "run/adapter.gguf"], 2, "TASK=FILE"),
        (&["-d", "rows.jsonl", "--limit", "3"], 2, "--limit"),
        (&["-d", "rows.jsonl", "--per-item", "x"], 2, "--task"),
        (&["--task", "exact-match", "-d", "sums.jsonl", "-n", "0"], 2, "--predict"),
    ];
    for (flags, status, says) in cases {
        let ran = run(dir, &[&eval[..], flags].concat());
        assert!(ran.status == status && ran.err.contains(says), "{flags:?}: {ran:?}");
    }
    assert!(!Path::new(&dir.join("x")).exists());
}
