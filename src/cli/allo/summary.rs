//! What remains of all stages together: learning's result, metrics one after another, and one record against the model that the run
//! began with.

use super::super::args::TrainArgs;
use super::super::train::{compare, rows, serve, Loaded};
use super::super::{dataset, open_model, Printer};
use super::Output;
use crate::adapter::{import, import_changes};
use crate::check::checked_trace;
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File};
use crate::report::{config_record, file_hash, report_record, write_page, FlopsRecord, RunRecord};
use crate::train::{Allo, DeltaKind, EvalReport, HeldOut, RowScore, RunDir, ALLO, STAGES};
use serde_json::{json, Map, Value};
use std::path::Path;

/// Writes all of it and tells it.
pub(super) fn write(args: &TrainArgs, plan: &Allo, output: &Output, printer: &mut Printer) -> Result<()> {
    let run = RunDir::open(output.path());
    if run.record().exists() {
        printer.talk(&format!("{}: the run ended already, its result is there", output.path().display()));
        return Ok(());
    }
    let last = output.result(2, plan.delta);
    let result = match plan.delta {
        DeltaKind::Lora => run.adapter(),
        DeltaKind::Full | DeltaKind::Rows => run.change(),
    };
    place(&last, &result)?;
    let exact = RunDir::open(&output.directory(2)).adapter();
    if plan.delta == DeltaKind::Rows && exact.exists() {
        place(&exact, &run.adapter())?;
    }
    let records = (0..STAGES.len())
        .map(|stage| RunRecord::read(&RunDir::open(&output.directory(stage)).record()))
        .collect::<Result<Vec<_>>>()?;
    let stages = metrics(output, &records, &run)?;
    let samples = output.directory(2).join("samples.jsonl");
    let text = std::fs::read(&samples).map_err(|e| Error::io(&samples, "cannot read", &e))?;
    write_atomically(&output.path().join("samples.jsonl"), &text)?;
    let measured = measure(args, plan, &result)?;
    if let Some(Measured { items, .. }) = &measured {
        run.write_lines("eval-items.jsonl", items)?;
    }
    let reports = measured.as_ref().map(|m| (&m.before, &m.after));
    record(plan, &records, &stages, reports, &result)?.write(&run.record())?;
    let page = write_page(output.path())?;
    for line in told(&stages) {
        printer.data(&line);
    }
    if let Some((before, after)) = reports {
        compare(printer, before, after);
    }
    serve(printer, &args.model, &run, plan.delta, false);
    printer.data(&format!("report:  {}", page.display()));
    Ok(())
}

/// Gives a finished file a second name, or copies it where the file system knows no such thing.
fn place(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_file(to).map_err(|e| Error::io(to, "cannot replace", &e))?;
    }
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let bytes = std::fs::read(from).map_err(|e| Error::io(from, "cannot read", &e))?;
    write_atomically(to, &bytes)
}

/// Writes the stages' metrics one after another: steps and tokens go on counting, and each line says of which stage it is.
/// Returns what each stage did.
fn metrics(output: &Output, records: &[RunRecord], run: &RunDir) -> Result<Vec<Value>> {
    let (mut text, mut stages, mut before) = (String::new(), Vec::new(), [0u64; 2]);
    for (stage, record) in records.iter().enumerate() {
        let path = RunDir::open(&output.directory(stage)).metrics();
        let lines = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
        let mut chosen = Vec::new();
        for (i, line) in lines.lines().enumerate() {
            let fault = |e: serde_json::Error| Error::new(Kind::Format, format!("{}:{}: {e}", path.display(), i + 1));
            let mut line: Map<String, Value> = serde_json::from_str(line).map_err(fault)?;
            for (key, before) in ["global_step", "num_tokens"].iter().zip(before) {
                if let Some(n) = line.get(*key).and_then(Value::as_u64) {
                    line.insert((*key).to_owned(), (before + n).into());
                }
            }
            chosen.extend(line.get("logps/chosen").and_then(Value::as_f64));
            line.insert("stage".to_owned(), STAGES[stage].into());
            text += &format!("{}\n", Value::Object(line));
        }
        before = [before[0] + record.steps as u64, before[1] + record.tokens as u64];
        stages.push(json!({
            "stage": STAGES[stage], "steps": record.steps, "tokens": record.tokens, "loss": record.train.get("loss"),
            "logps/chosen": chosen,
        }));
    }
    write_atomically(&run.metrics(), text.as_bytes())?;
    Ok(stages)
}

/// A line for each stage. What becomes of the chosen answers while others are forgotten is watched: nothing in forgetting holds
/// them.
fn told(stages: &[Value]) -> Vec<String> {
    let line = |stage: &Value| {
        let chosen: Vec<f64> =
            stage["logps/chosen"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let ends = chosen.first().zip(chosen.last());
        let watched = ends.map_or(String::new(), |(a, b)| format!(", log-prob of chosen answers {a:.2} to {b:.2}"));
        let loss = stage["loss"].as_f64().unwrap_or(f64::NAN);
        let name = stage["stage"].as_str().unwrap_or_default().replace('_', "-");
        format!("{name:10} {} steps, {} tokens, loss {loss:.4}{watched}", stage["steps"], stage["tokens"])
    };
    stages.iter().map(line).collect()
}

struct Measured {
    before: EvalReport,
    after: EvalReport,
    items: Vec<RowScore>,
}

/// Held-out rows with the result, against the model that the warm-up began with: learning's own reference has forgotten already.
fn measure(args: &TrainArgs, plan: &Allo, result: &Path) -> Result<Option<Measured>> {
    let mut config = plan.stages[2].clone();
    if config.eval_data.is_none() && config.eval_split == 0.0 {
        return Ok(None);
    }
    let (model, file) = open_model(&args.model, config.device.as_deref(), config.n_gpu_layers)?;
    config.max_length = dataset::max_length(config.max_length, &model, &mut Printer::new());
    let Loaded { held_out, .. } = rows(args, &config, &model, 0)?;
    let Some(held_out) = held_out else { return Ok(None) };
    let (threads, form) = (config.threads, config.precision.form_for(&model)?);
    let (trace, _) = checked_trace(&model, threads, form)?;
    let mut base = Engine::with_form(&model, &trace, Vec::new(), threads, form)?;
    let start = HeldOut::new(&config, &held_out, &mut base)?;
    drop(base);
    let left = File::open(result)?;
    let mut engine = match plan.delta {
        DeltaKind::Full | DeltaKind::Rows => {
            Engine::with_changes(&model, &trace, Vec::new(), import_changes(&left, &file)?, threads, form)?
        }
        DeltaKind::Lora => {
            let delta = Delta { lora: import(&left)?, scale: 1.0, trainable: false };
            Engine::with_form(&model, &trace, vec![delta], threads, form)?
        }
    };
    let (after, items) = start.measure(&config, &mut engine)?;
    Ok(Some(Measured { before: start.before().clone(), after, items }))
}

fn record(
    plan: &Allo,
    records: &[RunRecord],
    stages: &[Value],
    reports: Option<(&EvalReport, &EvalReport)>,
    result: &Path,
) -> Result<RunRecord> {
    let last = records.last().ok_or_else(|| Error::new(Kind::Internal, "allo without stages"))?;
    let mut config = config_record(&plan.stages[2])?;
    ["mask", "token_weights"].iter().for_each(|key| drop(config.remove(*key)));
    let [forget_ratio, mask_ratio] = plan.ratios();
    config.extend([
        ("method".to_owned(), ALLO.into()),
        ("mask_ratio".to_owned(), mask_ratio.into()),
        ("forget_ratio".to_owned(), forget_ratio.into()),
        ("granularity".to_owned(), plan.granularity()?.name().into()),
        ("stage_rates".to_owned(), plan.stages.each_ref().map(|s| s.learning_rate).to_vec().into()),
        ("stage_steps".to_owned(), records.iter().map(|r| r.steps).collect::<Vec<_>>().into()),
    ]);
    match plan.choice.tokens_share {
        Some(share) => config.insert("tokens_share".to_owned(), share.into()),
        None => config.insert("tokens_below".to_owned(), plan.choice.tokens_below.into()),
    };
    let mut train = last.train.clone();
    train.insert("stages".to_owned(), stages.to_vec().into());
    Ok(RunRecord {
        config,
        train,
        steps: records.iter().map(|r| r.steps).sum(),
        tokens: records.iter().map(|r| r.tokens).sum(),
        flops: FlopsRecord {
            executed: records.iter().map(|r| r.flops.executed).sum(),
            estimated_per_pass: records.iter().map(|r| r.flops.estimated_per_pass).sum(),
        },
        before: reports.map(|(before, _)| report_record(before)).transpose()?,
        after: reports.map(|(_, after)| report_record(after)).transpose()?,
        adapter: file_hash(result)?,
        ..last.clone()
    })
}
