//! Weights of single tokens, and the losses that know them: token NPO, DPO on a share of the rejected tokens (specs
//! `allo_hbat`, 1.11: T10, T11, T13, T14, T17, T20).

use crate::bench::{rows, Bench, Reports, Run};
use crate::masks::program::{done, refused, workshop};
use llama_align::adapter::import;
use llama_align::data::{
    read_all, Dataset, EncodeOptions, Example, Form, Row, Rows, Sample, Sequence, Text, TokenWeights,
};
use llama_align::engine::{Delta, Engine};
use llama_align::gguf::File;
use llama_align::rewriter;
use llama_align::runtime::{Model, Runtime};
use llama_align::trace::{trace, Trace};
use llama_align::train::{Method, Policy, Precision, TrainConfig, Trainer, TrainerState};
use quant::Type;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

const METHODS: [Method; 4] = [Method::Sft, Method::Dpo, Method::Kto, Method::Npo];

fn config(method: Method) -> TrainConfig {
    let config = TrainConfig { method, learning_rate: 2e-3, seed: 5, threads: 1, ..TrainConfig::default() };
    TrainConfig { max_steps: 4, batch_size: 8, grad_accum: 1, ..config }.resolve().unwrap()
}

fn train(bench: &Bench, config: &TrainConfig, data: &Dataset, weights: Option<TokenWeights>) -> Run {
    let (mut engine, mut reports) = (bench.engine(bench.warm(config.seed)), Reports::default());
    let mut trainer = Trainer::new(config, data, &mut engine, &mut reports).unwrap();
    if let Some(weights) = weights {
        trainer.weigh(weights);
    }
    trainer.run(&mut engine, &mut reports).unwrap();
    Run { reports: reports.take(), lora: engine.deltas().remove(0).lora }
}

#[test]
fn weights_of_one_are_none_and_all_tokens_are_a_share_of_one() {
    let bench = Bench::open(Type::Q8_0);
    for method in METHODS {
        let (config, data) = (config(method), rows(method));
        let plain = train(&bench, &config, &data, None);
        let ones = TokenWeights::from_fn(&data, |_, _, s| vec![1.0; s.n_scored()]);
        assert!(train(&bench, &config, &data, Some(ones)).bits() == plain.bits(), "{method:?}");
        let halves = TokenWeights::from_fn(&data, |_, _, s| (0..s.n_scored()).map(|i| (i % 2) as f32).collect());
        assert!(train(&bench, &config, &data, Some(halves)).bits() != plain.bits(), "{method:?}");
    }
    let (config, data) = (config(Method::Dpo), rows(Method::Dpo));
    let plain = train(&bench, &config, &data, None);
    let all = TrainConfig { rejected_share: 1.0, ..config.clone() };
    assert!(train(&bench, &all, &data, None).bits() == plain.bits());
    // While policy and reference are the same every log-ratio is 0, and no token is below another.
    let tenth = train(&bench, &TrainConfig { rejected_share: 0.1, ..config }, &data, None);
    let first = |run: &Run| (run.reports[0].loss.to_bits(), run.reports[0].grad_norm.to_bits());
    assert_eq!(first(&tenth), first(&plain));
    assert_ne!(tenth.reports[2].grad_norm, plain.reports[2].grad_norm);
}

/// A token of weight 0 has no part in a likelihood: the loss is that of the others, over their number.
#[test]
fn a_weighted_likelihood_is_that_of_its_tokens() {
    let bench = Bench::open(Type::F32);
    let (config, data) = (TrainConfig { batch_size: 12, ..config(Method::Sft) }, rows(Method::Sft));
    let weight = |i: usize| [0.0, 1.0, 0.5][i % 3];
    let weights = TokenWeights::from_fn(&data, |_, _, s| (0..s.n_scored()).map(weight).collect());
    let mut engine = bench.engine(bench.warm(5));
    let (mut sum, mut n) = (0.0, 0);
    for sequence in data.samples.iter().flat_map(Sample::sequences) {
        let logps = engine.log_probs(&[sequence]).unwrap().remove(0);
        sum -= logps.iter().enumerate().map(|(i, &l)| f64::from(weight(i)) * f64::from(l)).sum::<f64>();
        n += (0..logps.len()).filter(|&i| weight(i) != 0.0).count();
    }
    let found = train(&bench, &config, &data, Some(weights)).reports[0].loss;
    assert!((found / (sum / n as f64) - 1.0).abs() < 1e-9, "{found} {}", sum / n as f64);
}

#[test]
fn forgetting_begins_at_ln_two_and_makes_the_weighted_tokens_unlikely() {
    let bench = Bench::open(Type::Q8_0);
    let data = rows(Method::Npo);
    // The second half of every rejected answer is what is to be forgotten.
    let late = |n: usize, i: usize| i >= n / 2;
    let weights = TokenWeights::from_fn(&data, |_, k, s| {
        let n = s.n_scored();
        (0..n).map(|i| if k == 1 && late(n, i) { 1.0 } else { 0.0 }).collect()
    });
    // T20, over seeds of factors and order.
    for seed in [5, 6, 7] {
        let config = TrainConfig { max_steps: 12, seed, ..config(Method::Npo) };
        forgets(&bench, &config, &data, &weights, &late);
    }
}

fn forgets(
    bench: &Bench,
    config: &TrainConfig,
    data: &Dataset,
    weights: &TokenWeights,
    late: &dyn Fn(usize, usize) -> bool,
) {
    let seed = config.seed;
    let run = train(bench, config, data, Some(weights.clone()));
    let first = &run.reports[0];
    assert!((first.loss - std::f64::consts::LN_2).abs() < 1e-12, "{}", first.loss);
    assert_eq!((first.metrics["rewards/chosen"], first.metrics["rewards/rejected"]), (0.0, 0.0));
    let last = run.reports.last().unwrap();
    assert!(last.loss < first.loss - 1e-3 && last.metrics.contains_key("logps/chosen"), "{}", last.loss);
    let (mut before, mut after) = (bench.engine(bench.warm(seed)), bench.engine(run.lora));
    let (mut fallen, mut n) = ([0.0; 2], [0; 2]);
    for sample in &data.samples {
        let rejected = sample.sequences().nth(1).unwrap();
        let [b, a] = [&mut before, &mut after].map(|e| e.log_probs(&[rejected]).unwrap().remove(0));
        for i in 0..b.len() {
            let side = usize::from(late(b.len(), i));
            fallen[side] += f64::from(b[i]) - f64::from(a[i]);
            n[side] += 1;
        }
    }
    let [others, weighted] = [0, 1].map(|side| fallen[side] / f64::from(n[side]));
    assert!(
        weighted > 0.0 && weighted > 2.0 * others,
        "seed {seed}: weighted tokens fell by {weighted}, the others by {others}"
    );
}

#[test]
fn splitting_a_step_changes_nothing_but_rounding() {
    let bench = Bench::open(Type::F32);
    let shares = [(Method::Npo, 1.0), (Method::Dpo, 0.3)];
    for (method, rejected_share) in shares {
        let data = rows(method);
        let weights = TokenWeights::from_fn(&data, |_, _, s| (0..s.n_scored()).map(|i| (i % 3) as f32).collect());
        let run = |batch_size, grad_accum| {
            let config = TrainConfig { batch_size, grad_accum, rejected_share, max_steps: 2, ..config(method) };
            train(&bench, &config, &data, Some(weights.clone()))
        };
        for (a, b) in run(8, 1).reports.iter().zip(&run(2, 4).reports) {
            assert!((a.loss / b.loss - 1.0).abs() < 1e-6, "{method:?}: {} {}", a.loss, b.loss);
        }
    }
}

/// T17: both losses through a whole model. Along its own gradient the loss rises by the gradient's norm, from a place where policy
/// and reference differ; which tokens are kept is no part of the derivative.
#[test]
fn losses_of_single_tokens_have_the_slopes_that_differences_find() {
    let bench = Bench::open(Type::F32);
    for (method, rejected_share) in [(Method::Npo, 1.0), (Method::Dpo, 0.4)] {
        let data = rows(method);
        let config = TrainConfig { rejected_share, batch_size: 12, max_steps: 2, max_grad_norm: 0.0, ..config(method) };
        let weights = TokenWeights::from_fn(&data, |_, _, s| (0..s.n_scored()).map(|i| (i % 3) as f32 / 2.0).collect());
        let mut engine = bench.engine(bench.warm(5));
        let references = Trainer::new(&config, &data, &mut engine, &mut Reports::default()).unwrap().state().references;
        // Some steps away from the reference.
        let place = train(&bench, &TrainConfig { max_steps: 6, ..config.clone() }, &data, None).lora;
        let at = |direction: Option<(&[Vec<f32>], f64)>| {
            let mut engine = bench.engine(place.clone());
            for (i, d) in direction.iter().flat_map(|(d, _)| d.iter().enumerate()) {
                let size = direction.map_or(0.0, |(_, size)| size);
                let (values, _) = Policy::tensor(&mut engine, i);
                values.iter_mut().zip(d).for_each(|(v, d)| *v = (f64::from(*v) + size * f64::from(*d)) as f32);
            }
            let state = TrainerState { references: references.clone(), ..TrainerState::unstarted(&config, &engine) };
            let mut trainer = Trainer::resume(&config, &data, &engine, state).unwrap();
            trainer.weigh(weights.clone());
            (trainer, engine)
        };
        let (mut trainer, mut engine) = at(None);
        trainer.accumulate(&mut engine, 0).unwrap();
        let n = Policy::lengths(&engine).len();
        let gradient: Vec<Vec<f32>> = (0..n).map(|i| Policy::gradient(&engine, i).to_vec()).collect();
        let norm = gradient.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let loss = |size: f64| {
            let (mut trainer, mut engine) = at(Some((&gradient, size / norm)));
            trainer.step(&mut engine, 0).unwrap().loss
        };
        let size = 1e-2;
        let found = (loss(size) - loss(-size)) / (2.0 * size);
        assert!((found / norm - 1.0).abs() < 1e-3, "{method:?}: {found} {norm}");
    }
}

/// A model of the workshop as commands open it.
struct Opened {
    model: Arc<Model>,
    trace: Arc<Trace>,
}

impl Opened {
    fn new(dir: &Path, name: &str) -> Self {
        let model = Model::open(&Runtime::linked().unwrap(), &dir.join(name)).unwrap();
        let trace = Arc::new(trace(&model).unwrap());
        Self { model, trace }
    }

    fn encode(&self, rows: &Rows) -> Dataset {
        let options = EncodeOptions { max_length: self.model.n_ctx_train().min(1024), ..EncodeOptions::default() };
        Dataset::encode(rows, self.model.as_ref(), self.model.template().unwrap().as_ref(), &options).unwrap()
    }

    fn engine(&self, adapter: Option<&Path>) -> Engine {
        let delta = |path| Delta { lora: import(&File::open(path).unwrap()).unwrap(), scale: 1.0, trainable: false };
        let deltas = adapter.map(delta).into_iter().collect();
        Engine::with_form(&self.model, &self.trace, deltas, 1, Precision::Auto.form()).unwrap()
    }
}

fn pairs(dir: &Path) -> Rows {
    Method::Dpo.rows(read_all(&dir.join("pairs.jsonl")).unwrap()).unwrap()
}

fn lines(dir: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(|v| v.as_f64().unwrap()).collect()
}

const TELL: [&str; 7] = ["token-weights", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1"];

/// Log-ratios are ln p of the aligned model less that of the base, by two sessions of their own; what is below 0 has the weight 1.
#[test]
fn log_ratios_are_those_of_two_engines() {
    let shop = workshop();
    let dir = shop.path();
    let warm =
        ["train", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "--max-steps", "6", "--lr", "3e-3", "-o", "warm"];
    done(dir, &warm);
    done(dir, &with(&TELL, &["--lora", "warm/adapter.gguf", "-o", "lora.jsonl"]));
    done(dir, &with(&TELL, &["--after", "other.gguf", "-o", "after.jsonl"]));
    let (own, other) = (Opened::new(dir, "m.gguf"), Opened::new(dir, "other.gguf"));
    let data = own.encode(&pairs(dir));
    let adapter = dir.join("warm/adapter.gguf");
    for (file, mut aligned) in [("lora.jsonl", own.engine(Some(&adapter))), ("after.jsonl", other.engine(None))] {
        let mut base = own.engine(None);
        let (mut signs, found) = ([0; 2], lines(dir, file));
        assert_eq!(found.len(), data.samples.len());
        for (line, sample) in found.iter().zip(&data.samples) {
            assert_eq!(line["line"], sample.line());
            for (k, sequence) in sample.sequences().enumerate() {
                let alone = Sequence { shared: 0, ..sequence.clone() };
                let [now, before] = [&mut aligned, &mut base].map(|e| e.log_probs(&[&alone]).unwrap().remove(0));
                let ratios = numbers(&line["log_ratios"][["chosen", "rejected"][k]]);
                assert_eq!(ratios.len(), now.len());
                for ((ratio, now), before) in ratios.iter().zip(now).zip(before) {
                    let wanted = f64::from(now) - f64::from(before);
                    assert!((ratio - wanted).abs() < 1e-4, "{file} line {}: {ratio} {wanted}", sample.line());
                    signs[usize::from(wanted < -1e-2)] += usize::from(wanted.abs() > 1e-2);
                }
            }
            let ratios = numbers(&line["log_ratios"]["rejected"]);
            let wanted: Vec<f64> = ratios.iter().map(|&r| f64::from(u8::from(r < 0.0))).collect();
            assert_eq!(numbers(&line["rejected"]), wanted, "{file}");
        }
        assert!(signs[0] > 5 && signs[1] > 5, "{file}: {signs:?} log-ratios are not 0");
    }
}

/// What a rewriter copies has the probability that one session gives the answer behind the rewriter's question.
#[test]
fn copy_probabilities_are_those_of_one_engine() {
    let shop = workshop();
    let dir = shop.path();
    done(dir, &["token-weights", "-d", "pairs.jsonl", "--rewriter-data", "lessons.jsonl"]);
    let teach = ["train", "-m", "m.gguf", "-d", "lessons.jsonl", "-t", "1", "--method", "sft", "--max-steps", "4"];
    done(dir, &with(&teach, &["--lr", "3e-3", "--max-length", "1024", "-o", "rewriter"]));
    done(dir, &with(&TELL, &["--rewriter", "rewriter/adapter.gguf", "-o", "copied.jsonl"]));
    let own = Opened::new(dir, "m.gguf");
    let mut engine = own.engine(Some(&dir.join("rewriter/adapter.gguf")));
    let mut n = 0;
    for (line, row) in lines(dir, "copied.jsonl").iter().zip(&pairs(dir).rows) {
        let Example::Pair { prompt, chosen, rejected } = &row.example else { panic!("no pair") };
        let [problem, right, wrong] = [prompt, chosen, rejected].map(rewriter::plain);
        for (side, answer) in [("chosen", &right), ("rejected", &wrong)] {
            let prompt = Text::Plain(rewriter::question(&problem, &right, answer));
            let example = Example::Completion { prompt, completion: Text::Plain(answer.clone()) };
            let rows = Rows { source: "q".into(), form: Form::Completion, rows: vec![Row { line: 1, example }] };
            let data = own.encode(&rows);
            let sequence = data.samples[0].sequences().next().unwrap();
            let wanted = engine.log_probs(&[sequence]).unwrap().remove(0);
            let found = numbers(&line["copied"][side]);
            assert_eq!(found.len(), wanted.len());
            for (q, l) in found.iter().zip(wanted) {
                assert!((q - f64::from(l).exp()).abs() < 1e-6, "{side}: {q} {}", l.exp());
                n += 1;
            }
        }
    }
    assert!(n > 40, "{n} tokens");
}

const NPO: [&str; 13] = [
    "train",
    "-m",
    "m.gguf",
    "-d",
    "pairs.jsonl",
    "-t",
    "1",
    "--method",
    "npo",
    "--lora-rank",
    "4",
    "--max-steps",
    "3",
];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

#[test]
fn the_program_forgets_and_learns() {
    let shop = workshop();
    let dir = shop.path();
    let out = ["-o", "run", "--save-steps", "1", "--save-total-limit", "0"];
    done(dir, &with(&NPO, &with(&out, &["--eval-split", "0.3"])));
    let adapter = std::fs::read(dir.join("run/adapter.gguf")).unwrap();
    let metrics = std::fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    assert!(metrics.contains("logps/chosen") && metrics.contains("eval_loss"), "{metrics}");
    done(dir, &with(&NPO, &with(&out, &["--eval-split", "0.3", "--resume", "run/checkpoint-2.gguf"])));
    assert!(std::fs::read(dir.join("run/adapter.gguf")).unwrap() == adapter, "a resumed run has other bytes");
    let learn =
        ["train", "-m", "m.gguf", "-d", "pairs.jsonl", "-t", "1", "--max-steps", "2", "--lora", "run/adapter.gguf"];
    done(dir, &with(&learn, &["--rejected-share", "0.1", "-o", "learned"]));
    let config = std::fs::read_to_string(dir.join("learned/config.toml")).unwrap();
    assert!(config.contains("rejected_share = 0.1"), "{config}");
    for (flags, says) in [
        (&["--method", "sft", "--rejected-share", "0.5"][..], "rejected-share"),
        (&["--loss-type", "simpo", "--rejected-share", "0.5"], "rejected-share"),
        (&["--rejected-share", "0"], "rejected-share"),
        (&["--rejected-share", "nan"], "rejected-share"),
    ] {
        let train = with(&learn[..9], &with(flags, &["-o", "bad"]));
        refused(dir, &train, 2, &[says]);
    }
    // A run of DPO tells tokens apart; its weights are what the next run forgets by.
    done(dir, &with(&learn[..9], &["-o", "aligned"]));
    let tell = ["token-weights", "-m", "m.gguf", "--lora", "aligned/adapter.gguf", "-d", "pairs.jsonl", "-t", "1"];
    let said = done(dir, &with(&tell, &["-o", "found.jsonl", "--html", "found.html"]));
    assert!(said.contains("tokens of the rejected answers"), "{said}");
    let page = std::fs::read_to_string(dir.join("found.html")).unwrap();
    assert!(page.contains("Rejected") && page.contains("underline") && page.contains("var(--bad)"));
    refused(dir, &with(&tell, &["-o", "found.jsonl"]), 73, &["found.jsonl"]);
    refused(dir, &with(&tell, &["-o", "x.jsonl", "--share", "2"]), 2, &["--share"]);
    done(dir, &with(&tell, &["-o", "share.jsonl", "--share", "0.2"]));
    let n = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap().lines().count();
    assert_eq!((n("found.jsonl"), n("share.jsonl")), (8, 8));
    done(dir, &with(&NPO, &["--token-weights", "found.jsonl", "-o", "weighted", "--save-steps", "1"]));
    let weighted = std::fs::read(dir.join("weighted/adapter.gguf")).unwrap();
    assert!(weighted != adapter);
    // The same file weighs what KTO and SFT make of the pairs.
    for method in ["kto", "sft", "dpo"] {
        let train = with(&learn[..9], &["--method", method, "--token-weights", "found.jsonl"]);
        let out = format!("of-{method}");
        done(dir, &with(&train, &["-o", &out]));
    }
    // As columns of the rows themselves they are the same weights.
    let rows = std::fs::read_to_string(dir.join("pairs.jsonl")).unwrap();
    let joined = rows.lines().zip(lines(dir, "found.jsonl")).map(|(row, weights)| {
        let mut row: Value = serde_json::from_str(row).unwrap();
        row["rejected_weights"] = weights["rejected"].clone();
        format!("{row}\n")
    });
    std::fs::write(dir.join("joined.jsonl"), joined.collect::<String>()).unwrap();
    let of_columns: Vec<&str> = NPO.iter().map(|a| if *a == "pairs.jsonl" { "joined.jsonl" } else { a }).collect();
    done(dir, &with(&of_columns, &["-o", "columns", "--save-steps", "1"]));
    assert!(std::fs::read(dir.join("columns/adapter.gguf")).unwrap() == weighted);
    let short =
        std::fs::read_to_string(dir.join("joined.jsonl")).unwrap().replacen("_weights\":[", "_weights\":[1,", 1);
    std::fs::write(dir.join("joined.jsonl"), short).unwrap();
    refused(dir, &with(&of_columns, &["-o", "bad"]), 65, &["joined.jsonl:1", "rejected has"]);
    let resume = ["-o", "weighted", "--save-steps", "1", "--resume", "weighted/checkpoint-2.gguf"];
    refused(dir, &with(&NPO, &with(&resume, &["--token-weights", "share.jsonl"])), 78, &["--token-weights"]);
    std::fs::write(dir.join("w.jsonl"), "{\"line\": 1, \"rejected\": [1]}\n").unwrap();
    refused(dir, &with(&NPO, &["--token-weights", "w.jsonl", "-o", "bad"]), 65, &["w.jsonl"]);
    refused(dir, &with(&NPO, &["--token-weights", "none.jsonl", "-o", "bad"]), 66, &["none.jsonl"]);
}
