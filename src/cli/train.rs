//! `llama-align train`: rows and a quantised model in, a run directory with an adapter out.

use super::args::TrainArgs;
use super::watch::Watch;
use super::{dataset, open_model, Printer};
use crate::adapter::{export, resolve_targets, Lineage, Linear, Lora};
use crate::check::checked_trace;
use crate::data::Dataset;
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{self, base_hash, Value};
use crate::runtime::Model;
use crate::train::{evaluate, EvalReport, MetricsFile, References, RunDir, TrainConfig, TrainOverrides, Trainer};
use std::path::Path;

/// Runs the command.
pub(super) fn run(args: TrainArgs, printer: &mut Printer) -> Result<u8> {
    let config = configuration(&args)?;
    if args.output.exists() && !args.overwrite && !args.dry_run && !is_empty(&args.output) {
        let message =
            format!("{}: the run directory exists; --overwrite replaces the run in it", args.output.display());
        return Err(Error::new(Kind::Output, message));
    }
    let (model, file) = open_model(&args.model)?;
    let max_length = dataset::max_length(config.max_length, &model, printer);
    let data = dataset::load(&args.data, &model, Some(config.method), max_length)?;
    report_data(printer, &args.data, &data);
    let held_out = match &config.eval_data {
        Some(path) => Some(dataset::load(path, &model, Some(config.method), max_length)?),
        None => None,
    };
    let (trace, check) = checked_trace(&model, config.threads, config.precision.form())?;
    if let Some(op) = check.unsupported.first() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{}: {op}: no gradient rule for this op", args.model.display()),
        ));
    }
    let targets = resolve_targets(&config.lora_targets, &Linear::of(&trace))?;
    let lora = Lora::init(&targets, config.lora_rank, config.lora_alpha, config.seed);
    let n_trainable: usize = lora.factors.iter().map(|f| f.a.len() + f.b.len()).sum();
    let n_steps = config.n_steps(data.samples.len());
    printer.talk(&format!(
        "{} on {}: {} weights adapted with r = {}, {n_trainable} trainable numbers, {n_steps} steps of {} rows, learning rate {:e}",
        config.method.name(), check.architecture, targets.len(), config.lora_rank, config.rows_per_step(), config.learning_rate
    ));
    if args.dry_run {
        printer.data(&config.to_toml()?);
        return Ok(0);
    }
    let run_dir = RunDir::create(&args.output, args.overwrite)?;
    run_dir.write_config(&config)?;
    let delta = Delta { lora, scale: 1.0, trainable: true };
    let mut engine = Engine::with_form(&model, &trace, vec![delta], config.threads, config.precision.form())?;
    let mut metrics = MetricsFile::create(&run_dir.metrics())?;
    let before = held_out.as_ref().map(|h| measure(&mut engine, h, None, &config, 0, &mut metrics)).transpose()?;
    train(&config, &data, &mut engine, &mut metrics, printer)?;
    let after = match (&held_out, &before) {
        (Some(held_out), Some((_, references))) => {
            Some(measure(&mut engine, held_out, Some(references), &config, n_steps, &mut metrics)?.0)
        }
        _ => None,
    };
    let trained = engine.deltas().into_iter().next().map(|d| d.lora);
    let trained = trained.ok_or_else(|| Error::new(Kind::Internal, "the engine lost its delta"))?;
    export(&trained, &lineage(&model, &file, &config), &run_dir.adapter())?;
    if let (Some((before, _)), Some(after)) = (&before, &after) {
        compare(printer, before, after);
    }
    serve(printer, &args.model, &run_dir);
    Ok(0)
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn configuration(args: &TrainArgs) -> Result<TrainConfig> {
    let mut config = match &args.config {
        None => TrainConfig::default(),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the configuration", &e))?;
            TrainConfig::from_toml(&text, &path.display().to_string())?
        }
    };
    config.apply(TrainOverrides {
        method: args.method.clone(),
        lora_rank: args.lora_rank,
        lora_alpha: args.lora_alpha,
        lora_targets: args.lora_targets.clone(),
        learning_rate: args.learning_rate,
        epochs: args.epochs,
        max_steps: args.max_steps,
        batch_size: args.batch_size,
        grad_accum: args.grad_accum,
        max_length: args.max_length,
        beta: args.beta,
        seed: args.seed,
        threads: args.threads.given(),
        precision: args.precision.clone(),
        eval_data: args.eval_data.clone(),
    })?;
    config.resolve()
}

fn report_data(printer: &mut Printer, path: &Path, data: &Dataset) {
    let r = &data.report;
    printer.talk(&format!(
        "{}: {} rows, {} tokens of which {} are scored, longest {}, {} dropped as too long",
        path.display(),
        r.rows,
        r.tokens,
        r.answer_tokens,
        r.longest,
        r.dropped_too_long
    ));
}

/// Measures held-out rows, and says so in the metrics; without a reference what was measured is its own.
fn measure(
    engine: &mut Engine,
    held_out: &Dataset,
    reference: Option<&References>,
    config: &TrainConfig,
    step: usize,
    metrics: &mut MetricsFile,
) -> Result<(EvalReport, References)> {
    let now = References::measure(engine, &held_out.samples, config.micro_batch_tokens)?;
    let report = evaluate(held_out, &now, Some(reference.unwrap_or(&now)), config.beta)?;
    metrics.evaluation(step, &report)?;
    Ok((report, now))
}

fn train(
    config: &TrainConfig,
    data: &Dataset,
    engine: &mut Engine,
    metrics: &mut MetricsFile,
    printer: &mut Printer,
) -> Result<()> {
    let mut watch = Watch::new(metrics, printer);
    let mut trainer = Trainer::new(config, data, engine, &mut watch)?;
    trainer.run(engine, &mut watch)?;
    watch.finish();
    Ok(())
}

fn lineage(model: &Model, file: &gguf::File, config: &TrainConfig) -> Lineage {
    let base_name = file.get("general.name").and_then(Value::as_str).map(str::to_owned);
    let (architecture, method) = (model.architecture(), config.method.name().to_owned());
    Lineage { architecture, base_name, base_hash: base_hash(file), method }
}

fn compare(printer: &mut Printer, before: &EvalReport, after: &EvalReport) {
    printer.data("held-out rows               before    after");
    let mut line = |name: &str, a: Option<f64>, b: Option<f64>| {
        if let (Some(a), Some(b)) = (a, b) {
            printer.data(&format!("{name:26} {a:8.4} {b:8.4}"));
        }
    };
    line("accuracy", before.accuracy, after.accuracy);
    line("reward accuracy", before.reward_accuracy, after.reward_accuracy);
    line("reward margin", before.reward_margin, after.reward_margin);
    line("logps chosen", before.logps_chosen, after.logps_chosen);
    line("logps rejected", before.logps_rejected, after.logps_rejected);
    line("nll per token", Some(before.nll), Some(after.nll));
}

fn serve(printer: &mut Printer, model: &Path, run_dir: &RunDir) {
    let (model, adapter) = (model.display(), run_dir.adapter());
    let adapter = adapter.display();
    printer.data(&format!("adapter: {adapter}"));
    printer.data(&format!("metrics: {}", run_dir.metrics().display()));
    printer.data(&format!("serve:   llama-server -m {model} --lora {adapter}"));
    printer.data(&format!("         llama-cli    -m {model} --lora {adapter}"));
}
