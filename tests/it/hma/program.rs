//! The command: what it finds, prints, writes and refuses.

use crate::merge::program::run;
use crate::merge::Bench;
use llama_align::gguf::{validate_adapter, validate_model, File};
use quant::Type;
use serde_json::Value;

/// A base with an adapter, another model, responses, pairs and prompts.
fn workshop() -> Bench {
    let bench = Bench::new();
    bench.tiny("llama-untied", Type::F32, "base.gguf");
    bench.varied("base.gguf", "after.gguf", |i, v| v * (1.0 + 0.3 * (i as f32 * 0.7).sin()));
    bench.adapter("base.gguf", "adapter.gguf", 3, 6.0, 0.3);
    let write = |name: &str, lines: &[String]| std::fs::write(bench.path(name), lines.join("\n")).unwrap();
    let row =
        |i: usize| serde_json::json!({"prompt": format!("p{}", i / 2), "completion": format!("answer {}", i * 7)});
    write("rows.jsonl", &(0..6).map(|i| row(i).to_string()).collect::<Vec<_>>());
    let pair = |i: usize| serde_json::json!({"prompt": format!("p{i}"), "chosen": "yes", "rejected": "no no"});
    write("pairs.jsonl", &(0..3).map(|i| pair(i).to_string()).collect::<Vec<_>>());
    write("prompts.txt", &["tell me".to_owned(), "what".to_owned()]);
    bench
}

fn json(bench: &Bench, line: &str) -> Value {
    let ran = run(bench.dir.path(), &format!("{line} --json -t 1"));
    assert_eq!(ran.status, 0, "{line}: {}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn nll(bench: &Bench, line: &str) -> f64 {
    json(bench, &format!("eval {line} -d rows.jsonl --precision f32"))["nll"].as_f64().unwrap()
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {value}"))
}

#[test]
fn an_adapter_gets_the_ratios_that_its_likelihood_tells() {
    let bench = workshop();
    let line = "hma -m base.gguf --lora adapter.gguf --responses rows.jsonl --groups layers --precision f32";
    let found = json(&bench, &format!("{line} -o scaled.gguf --report page.html --batch-size 0"));
    let ratios: Vec<f64> = (0..2).map(|g| number(&found, &format!("/groups/{g}/before"))).collect();
    assert!((ratios[0] + ratios[1] - 0.4).abs() < 1e-9 && (ratios[0] - ratios[1]).abs() > 1e-3, "{ratios:?}");
    assert!((number(&found, "/groups/0/after") - (1.0 - ratios[0])).abs() < 1e-12);
    let (uniform, best) = (number(&found, "/likelihoods/uniform"), number(&found, "/likelihoods/found"));
    assert!(best < uniform, "{found}");
    // What was blended is what is written, and both models are themselves.
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * b, "{a} instead of {b}");
    validate_adapter(&File::open(&bench.path("scaled.gguf")).unwrap()).unwrap();
    near(nll(&bench, "-m base.gguf --lora scaled.gguf"), best);
    near(nll(&bench, "-m base.gguf"), number(&found, "/likelihoods/before"));
    near(nll(&bench, "-m base.gguf --lora adapter.gguf"), number(&found, "/likelihoods/after"));
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    assert!(page.contains("Ratios by block") && page.contains(&format!("{best:.5}")), "{page}");
    // Equal seeds find equal ratios; the other solver agrees; as a model.
    let again = json(&bench, &format!("{line} -o again.gguf --batch-size 0"));
    assert_eq!(again["groups"], found["groups"]);
    let bytes = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert!(bytes("scaled.gguf") == bytes("again.gguf"));
    let simplex = json(&bench, &format!("{line} --solver nelder-mead --fold -o model.gguf --outtype f32"));
    assert!((number(&simplex, "/likelihoods/found") - best).abs() < 1e-3 * best, "{simplex}");
    validate_model(&File::open(&bench.path("model.gguf")).unwrap()).unwrap();
    near(nll(&bench, "-m model.gguf"), number(&simplex, "/likelihoods/found"));
    assert!(number(&simplex, "/fidelity/fidelity/cosine") > 0.999);
}

#[test]
fn two_models_are_blended_without_a_third() {
    let bench = workshop();
    let line = "hma -m base.gguf --after after.gguf --responses rows.jsonl --groups 2 --precision f32";
    let found = json(&bench, &format!("{line} -o mean.gguf --epochs 4"));
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * b, "{a} instead of {b}");
    near(nll(&bench, "-m mean.gguf"), number(&found, "/likelihoods/found"));
    near(nll(&bench, "-m after.gguf"), number(&found, "/likelihoods/after"));
    near(nll(&bench, "-m base.gguf"), number(&found, "/likelihoods/before"));
    // People read both readings, the bounds and where everything is.
    let ran = run(bench.dir.path(), &format!("{line} -t 1"));
    for text in
        ["weight of base.gguf", "weight of after.gguf", "0.2000 before, 0.8000 after", "found ratios", "epsilon 0.2"]
    {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
}

#[test]
fn a_sweep_measures_averages_and_searches() {
    let bench = workshop();
    let sweep = "--sweep 1,0,0.5 --tax pairs=pairs.jsonl --tax nll=rows.jsonl --tax kl=rows.jsonl --precision f32 --epochs 2 --groups layers";
    for models in ["--lora adapter.gguf", "--after after.gguf"] {
        let found = json(
            &bench,
            &format!("hma -m base.gguf {models} --responses rows.jsonl {sweep} --report p.html --overwrite"),
        );
        let points = found["points"].as_array().unwrap();
        let kinds: Vec<_> =
            points.iter().map(|p| (p["kind"].as_str().unwrap(), p["pre_weight"].as_f64().unwrap())).collect();
        assert_eq!(kinds, [("average", 0.0), ("average", 0.5), ("hma", 0.5), ("average", 1.0)]);
        let metric = |i: usize, name: &str| points[i]["metrics"][name].as_f64().unwrap();
        assert!(metric(3, "kl/kl").abs() < 1e-5 && metric(0, "kl/kl") > 1e-4, "{points:?}");
        assert!((metric(3, "nll/nll") - nll(&bench, "-m base.gguf")).abs() < 1e-4);
        // Two models' norms are averaged with the mean by an average and left alone by a search.
        let (average, found) = (points[1]["nll"].as_f64().unwrap(), points[2]["nll"].as_f64().unwrap());
        assert!(found <= average || models.starts_with("--after"), "{points:?}");
        let page = std::fs::read_to_string(bench.path("p.html")).unwrap();
        assert!(page.contains("pairs/margin against nll/nll"), "{models}");
    }
    // A task that generates takes the adapter as llama.cpp applies it, and no blend of two models.
    std::fs::write(bench.path("qa.jsonl"), r#"{"question": "q", "answer": "7"}"#).unwrap();
    let ask =
        |models: &str| run(bench.dir.path(), &format!("hma -m base.gguf {models} --tax exact-match=qa.jsonl -t 1"));
    assert_eq!(ask("--lora adapter.gguf").status, 0);
    let refused = ask("--after after.gguf");
    assert!(refused.status == 2 && refused.err.contains("--tax exact-match"), "{}", refused.err);
}

/// One of the models has a head of its own, the other one's embeddings serve as head: blended and written they are one model.
#[test]
fn a_tied_head_and_one_of_its_own_are_averaged() {
    let bench = workshop();
    bench.tiny("llama-tied", Type::F32, "tied.gguf");
    bench.edited("tied.gguf", "own.gguf", |content| {
        let mut head = content.tensors.iter().find(|t| t.0 == "token_embd.weight").unwrap().clone();
        head.0 = "output.weight".to_owned();
        head.3.rotate_left(4);
        content.tensors.push(head);
        content.tensors.iter_mut().find(|t| t.0 == "blk.1.ffn_up.weight").unwrap().3.rotate_left(4);
    });
    for (before, after) in [("tied.gguf", "own.gguf"), ("own.gguf", "tied.gguf")] {
        for others in ["faithful", "uniform"] {
            let line = format!("hma -m {before} --after {after} --responses rows.jsonl --groups 2 --precision f32");
            let more = format!("--others {others} --epochs 1 -o out.gguf --overwrite");
            let found = number(&json(&bench, &format!("{line} {more}")), "/likelihoods/found");
            let written = nll(&bench, "-m out.gguf");
            assert!((written - found).abs() < 1e-4 * found, "{before}, {others}: {written} instead of {found}");
        }
    }
}

/// As the authors' script for a ratio by hand for each part.
#[test]
fn ratios_that_are_given_are_those_of_the_blend() {
    let bench = workshop();
    let of = |out: &str| File::open(&bench.path(out)).unwrap();
    let line = "hma -m base.gguf --groups layers --ratios 0.75,0.25 --tax nll=rows.jsonl --precision f32";
    let made = json(&bench, &format!("{line} --lora adapter.gguf -o given.gguf --report page.html"));
    assert_eq!((number(&made, "/pre_weight"), &made["search"]), (0.5, &Value::Null));
    assert_eq!((number(&made, "/groups/0/before"), number(&made, "/groups/1/after")), (0.75, 0.75));
    for (layer, share) in [(0, 0.25), (1, 0.75)] {
        let name = format!("blk.{layer}.ffn_up.weight.lora_b");
        let [was, is] = ["adapter.gguf", "given.gguf"].map(|file| crate::merge::values(&of(file), &name));
        assert!(was.iter().zip(&is).all(|(was, is)| (was * share - is).abs() <= 1e-6 * was.abs()), "{name}");
    }
    assert_eq!((made["points"].as_array().unwrap().len(), made["points"][0]["kind"].as_str()), (1, Some("given")));
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * b, "{a} instead of {b}");
    near(nll(&bench, "-m base.gguf --lora given.gguf"), number(&made, "/points/0/metrics/nll~1nll"));
    assert!(std::fs::read_to_string(bench.path("page.html")).unwrap().contains("as they were given"));
    // With a sweep behind its averages.
    let made = json(&bench, &format!("{line} --after after.gguf -o model.gguf --sweep 0.5"));
    near(nll(&bench, "-m model.gguf"), number(&made, "/points/1/metrics/nll~1nll"));
    let norm = |file: &str| crate::merge::values(&of(file), "blk.0.attn_norm.weight");
    assert!(norm("model.gguf") == norm("base.gguf"), "norms are the model's before");
}

#[test]
fn responses_are_sampled_kept_and_chosen() {
    let bench = workshop();
    let sampled =
        "hma -m base.gguf --lora adapter.gguf --prompts prompts.txt --samples 8 -n 150 --responses-out kept.jsonl";
    let first = json(&bench, &format!("{sampled} --groups layers --epochs 1 --precision f32"));
    let n = std::fs::read_to_string(bench.path("kept.jsonl")).unwrap().lines().count();
    assert!(n > 0 && number(&first, "/likelihoods/n_responses") == n as f64);
    let kept = "hma -m base.gguf --lora adapter.gguf --responses kept.jsonl --groups layers --epochs 1 --precision f32";
    assert_eq!(json(&bench, kept)["groups"], first["groups"]);
    // The best of three prompts with two responses each, and of these two.
    std::fs::write(bench.path("scores"), "1\n2\n9\n3\n4\n5\n").unwrap();
    let scored = "hma -m base.gguf --lora adapter.gguf --responses rows.jsonl --groups layers --epochs 1";
    assert_eq!(number(&json(&bench, &format!("{scored} --score scores")), "/likelihoods/n_responses"), 3.0);
    assert_eq!(number(&json(&bench, &format!("{scored} --score implicit --keep 2")), "/likelihoods/n_responses"), 2.0);
    std::fs::write(bench.path("few"), "1\n2\n").unwrap();
    std::fs::write(bench.path("words"), "1\n2\nx\n3\n4\n5\n").unwrap();
    for (file, says) in [("few", "fewer scores than the 6"), ("words", "words:3: no finite number")] {
        let ran = run(bench.dir.path(), &format!("{scored} --score {file} -t 1"));
        assert!(ran.status == 65 && ran.err.contains(says), "{}", ran.err);
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_its_flag() {
    let bench = workshop();
    let before = bench.files();
    for (flags, status, says) in [
        ("", 2, "--after"),
        ("--lora adapter.gguf", 2, "nothing to do"),
        ("--lora adapter.gguf --after after.gguf -o x.gguf", 2, "cannot be used with"),
        ("--lora adapter.gguf -o x.gguf --pre-weight 1.5", 2, "--pre-weight 1.5"),
        ("--lora adapter.gguf -o x.gguf --outtype f16", 2, "--fold"),
        ("--lora adapter.gguf -o x.gguf --others uniform", 2, "--after"),
        ("--lora adapter.gguf --responses rows.jsonl --groups 9", 2, "--groups 9"),
        ("--lora adapter.gguf --responses rows.jsonl --groups 2 --pre-weight 0.9 --epsilon 0", 2, "--epsilon 0"),
        ("--lora adapter.gguf --responses rows.jsonl --groups 2 --pre-weight 0", 2, "--pre-weight 0"),
        ("--lora adapter.gguf --responses rows.jsonl --groups 2 --solver x", 2, "--solver x"),
        ("--lora adapter.gguf --responses rows.jsonl --groups 2 --evaluations 5", 2, "--evaluations"),
        ("--lora adapter.gguf --responses rows.jsonl --groups 2 --loss-mask assistant", 2, "--loss-mask assistant"),
        ("--lora adapter.gguf --responses rows.jsonl --group-rule code", 2, "--group-rule code"),
        ("--lora adapter.gguf --prompts prompts.txt --score file", 2, "--score file"),
        ("--lora adapter.gguf --sweep 2 --tax nll=rows.jsonl", 2, "--sweep 2"),
        ("--lora adapter.gguf --tax nll", 2, "TASK=FILE"),
        (
            "--lora adapter.gguf --responses rows.jsonl --groups 2 --epsilon 0 --sweep 0.9 --tax nll=rows.jsonl",
            2,
            "0.9",
        ),
        (
            "--lora adapter.gguf --prompts prompts.txt --groups 2 --responses-out kept --tax nll=none.jsonl",
            66,
            "none.jsonl",
        ),
        ("--lora adapter.gguf --responses rows.jsonl -o base.gguf --overwrite", 73, "base.gguf"),
        ("--lora adapter.gguf --responses rows.jsonl --report after.gguf --overwrite", 73, "after.gguf"),
        ("--lora adapter.gguf --responses rows.jsonl --report ./rows.jsonl --overwrite", 73, "one of the inputs"),
        ("--lora adapter.gguf --tax nll=rows.jsonl -o rows.jsonl --overwrite", 73, "one of the inputs"),
        ("--lora adapter.gguf --prompts prompts.txt --responses-out prompts.txt --overwrite", 73, "one of the inputs"),
        ("--lora adapter.gguf --groups 2 --ratios 0.5 -o x.gguf", 2, "--ratios: 1 for the 2 groups"),
        ("--lora adapter.gguf --groups 2 --ratios 0.5,-1 -o x.gguf", 2, "--ratios -1"),
        ("--lora adapter.gguf --groups 2 --ratios 0.5,nan -o x.gguf", 2, "--ratios NaN"),
        ("--lora adapter.gguf --groups 2 --ratios 0.5,0 --pre-weight 0.3 -o x.gguf", 2, "cannot be used with"),
        ("--lora adapter.gguf --groups 2 --ratios 0.5,0 --responses rows.jsonl", 2, "cannot be used with"),
        ("--after base.gguf --responses rows.jsonl", 78, "nothing to blend"),
        ("--after adapter.gguf --responses rows.jsonl", 78, "adapter.gguf"),
        ("--lora after.gguf --responses rows.jsonl", 65, "after.gguf"),
    ] {
        let ran = run(bench.dir.path(), &format!("hma -m base.gguf {flags} -t 1"));
        assert!(ran.status == status && ran.err.contains(says), "{flags}: {} {}", ran.status, ran.err);
    }
    assert_eq!(bench.files(), before);
}
