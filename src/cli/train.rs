//! `llama-align train`: rows and a quantised model in, a run directory with an adapter out.

use super::args::TrainArgs;
use super::finish::{data_record, finish, Finished};
use super::interrupt::{Interrupt, INTERRUPTED};
use super::moving::{self, Moving};
use super::resume::Start;
use super::samples::{first_prompts, samples};
use super::steps::{End, Steps};
use super::watch::Keep;
use super::{allo, dataset, devices, initial, open_model, plan, Printer};
use crate::adapter::Lineage;
use crate::check::checked_trace;
use crate::data::{read_all_with, Dataset, Rows, Text, TokenWeights};
use crate::engine::{Layout, Profile};
use crate::error::{Error, Kind, Result};
use crate::gguf::{self, base_hash, Value};
use crate::mask::Hold;
use crate::report::{write_page, PAGE};
use crate::runtime::Model;
use crate::train::{
    DeltaKind, EvalReport, Grid, HeldOut, MetricsFile, Origin, Outcome, Recompute, RunDir, Selection, TrainConfig,
    TrainOverrides, Trainer,
};
use std::path::Path;
use std::sync::Arc;

/// What `--eval-split` draws by: not the run's seed, so that runs of several seeds are measured on the same rows.
const SPLIT: u64 = 0;

/// Runs the command.
pub(super) fn run(args: TrainArgs, printer: &mut Printer) -> Result<u8> {
    if let Some(text) = allo::wanted(&args)? {
        return allo::run(&args, &text, printer);
    }
    if let Some(flag) = args.allo.overrides().given() {
        return Err(Error::new(Kind::Argument, format!("{flag}: belongs to method allo")));
    }
    if let Some(grid) = grid(&args)? {
        return super::grid::run(&args, &grid, printer);
    }
    let start = Start::find(&args.saving, &args.output, printer)?;
    let config = configuration(&args, &start)?;
    let (output, from, overwrite) = (&args.output, args.adapter.from(), args.overwrite);
    one(&args, config, Job { start, output, from, overwrite, samples: args.samples, is_stage: false }, printer)
}

/// Where a run begins and where its files go.
pub(super) struct Job<'a> {
    pub(super) start: Start,
    pub(super) output: &'a Path,
    /// An adapter, or changes, that it goes on from.
    pub(super) from: Option<&'a Path>,
    pub(super) overwrite: bool,
    /// Prompts that are answered before and after.
    pub(super) samples: usize,
    /// It is one of several whose results are told at their end.
    pub(super) is_stage: bool,
}

/// One run into one directory: 0, or the status of an interrupted one. A dry run stops before it makes anything.
pub(super) fn one(args: &TrainArgs, mut config: TrainConfig, job: Job<'_>, printer: &mut Printer) -> Result<u8> {
    let Job { start, output, from: starts_from, overwrite, samples: n_samples, is_stage } = job;
    if let Start::Complete(begun) = &start {
        begun.check(&config)?;
        // Written last: the run may have been killed before it was.
        if !output.join(PAGE).exists() {
            write_page(output)?;
        }
        printer.talk(&format!("{}: the run ended already, its adapter is there", output.display()));
        return Ok(0);
    }
    if args.saving.resume.is_none() && output.exists() && !overwrite && !args.dry_run && !is_empty(output) {
        let message = format!(
            "{}: the run directory exists; --overwrite replaces the run in it, --resume auto goes on with it",
            output.display()
        );
        return Err(Error::new(Kind::Output, message));
    }
    let (model, file) = open_model(&args.model, config.device.as_deref(), config.n_gpu_layers)?;
    config.max_length = dataset::max_length(config.max_length, &model, printer);
    let Loaded { data, held_out, prompts } = rows(args, &config, &model, n_samples)?;
    report_data(printer, &args.data, &data);
    let weights = match &config.token_weights {
        Some(path) => Some(TokenWeights::read(path, &data)?),
        None => TokenWeights::of_columns(&args.data, &data)?,
    };
    let form = config.precision.form_for(&model)?;
    let (trace, check) = checked_trace(&model, config.threads, form)?;
    if let Some(op) = check.unsupported.first() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{}: {op}: no gradient rule for this op", args.model.display()),
        ));
    }
    let (mut moving, lora_hash) = Moving::start(&config, &trace, &file, starts_from)?;
    let (hold, mask_hash) = match &config.mask {
        None => (None, None),
        Some(path) => {
            let (hold, hash) = moving.hold(path, &file)?;
            (Some(hold), Some(hash))
        }
    };
    let vectors = moving::vectors(&config, &trace)?;
    let n_vectors: u64 = vectors.iter().map(|v| v.values.len() as u64).sum();
    let n_trainable = hold.as_ref().map_or(moving.n_numbers(), Hold::n_free) + n_vectors;
    let packs = config.packs(&data.samples);
    let n_steps = config.n_steps(packs.len());
    let unit = if config.packing { "packs" } else { "rows" };
    printer.talk(&format!(
        "{} on {}: {}, {n_trainable} trainable numbers, {n_steps} steps of {} {unit}, learning rate {:e}",
        config.method.name(),
        check.architecture,
        moving::describe(&moving, &vectors, &config),
        config.rows_per_step(),
        config.learning_rate
    ));
    let mut engine = moving.engine(&model, &trace, &config, form, vectors)?;
    let longest = data.samples.iter().map(|s| Layout::padded(s.sequences())).max().unwrap_or(0);
    let (n_tokens, on_devices) = (config.micro_batch_tokens.max(longest), !model.devices().is_empty());
    let memory = args.memory.as_deref().map(|text| plan::bytes("memory", text)).transpose()?;
    config.recompute = config.recompute.plan(memory, &engine, n_tokens, on_devices)?;
    engine.set_recompute(config.recompute == Recompute::Always);
    let profile = Arc::new(Profile::default());
    engine.set_profile(profile.clone());
    if args.dry_run {
        printer.data(&config.to_toml()?);
        let forecast = Trainer::forecast(&config, &data, held_out.as_ref(), &mut engine)?;
        printer.data(&plan::foretell(&forecast));
        return Ok(0);
    }
    let mut origin = Origin::here(&config, base_hash(&file), &data, held_out.as_ref());
    (origin.lora, origin.mask) = (lora_hash, mask_hash);
    origin.token_weights = weights.as_ref().map(TokenWeights::digest);
    model.devices().iter().for_each(|d| origin.kernels += &format!(", {}", d.description));
    let (run_dir, mut metrics) = match &start {
        Start::From(begun) => {
            begun.checkpoint.check(&config, &origin, args.saving.resume_inexact)?;
            let run_dir = RunDir::reopen(output)?;
            let metrics = MetricsFile::resume(&run_dir.metrics(), begun.checkpoint.metrics_lines)?;
            (run_dir, metrics)
        }
        Start::Fresh { unfinished } => {
            let run_dir = RunDir::create(output, overwrite || *unfinished)?;
            run_dir.write_config(&config)?;
            let metrics = MetricsFile::create(&run_dir.metrics())?;
            (run_dir, metrics)
        }
        Start::Complete(_) => return Ok(0),
    };
    let (interrupt, from) = (Interrupt::listen()?, start.checkpoint());
    let held_out = match (&held_out, from) {
        (None, _) => None,
        (Some(rows), None) => Some(HeldOut::new(&config, rows, &mut engine)?),
        (Some(rows), Some(c)) => Some(HeldOut::resume(&config, rows, c.eval_references.clone().unwrap_or_default())?),
    };
    if let (Some(held_out), None) = (&held_out, from) {
        Selection::of(&config).value(held_out.before())?;
        metrics.evaluation(0, held_out.before())?;
    }
    let lineage = lineage(&model, &file, &config);
    let keep = Keep { config: &config, run_dir: &run_dir, lineage: &lineage };
    let held = held_out.as_ref();
    let steps = Steps {
        keep,
        data: &data,
        held_out: held,
        origin: &origin,
        weights: weights.as_ref(),
        hold: hold.as_ref(),
        from,
        interrupt: &interrupt,
        profile: &profile,
    };
    let (last, outcome) = match steps.run(&mut engine, &mut metrics, printer)? {
        End::Done(done) => *done,
        End::Interrupted(checkpoint) => {
            printer
                .talk(&format!("stopped; the same command with --resume auto goes on from {}", checkpoint.display()));
            return Ok(INTERRUPTED);
        }
    };
    let written = moving::write(&config, &engine, outcome.as_ref(), &lineage, &run_dir)?;
    run_dir.prune_checkpoints(usize::MAX, config.save_total_limit + usize::from(config.save_total_limit > 0))?;
    let eval_data = match (&held_out, &config.eval_data) {
        (Some(held_out), path) => Some(data_record(path.as_ref().unwrap_or(&args.data), held_out.data())?),
        (None, _) => None,
    };
    devices::report(printer, &model, engine.tally());
    drop(engine);
    let answers = match (config.delta, &written.beside) {
        (DeltaKind::Lora, None) => samples(&model, &written.result, &prompts, config.threads)?,
        (DeltaKind::Rows, _) if run_dir.adapter().exists() => {
            samples(&model, &run_dir.adapter(), &prompts, config.threads)?
        }
        // The changed model is a file that is still to be made.
        _ => Vec::new(),
    };
    let has_change = written.beside.is_some();
    run_dir.write_lines("samples.jsonl", &answers)?;
    finish(&Finished {
        run_dir: &run_dir,
        config: &config,
        file: &file,
        base_hash: lineage.base_hash.as_deref().unwrap_or_default(),
        trace: &trace,
        data: data_record(&args.data, &data)?,
        eval_data,
        before: held_out.as_ref().map(HeldOut::before),
        last: &last,
        outcome: outcome.as_ref(),
        flops: steps.flops(),
        written,
    })?;
    let page = write_page(run_dir.path())?;
    if is_stage {
        return Ok(0);
    }
    if let (Some(held_out), Some(outcome)) = (&held_out, &outcome) {
        compare(printer, held_out.before(), &outcome.result.report);
        chosen(printer, &config, outcome, last.step);
    }
    serve(printer, &args.model, &run_dir, config.delta, has_change);
    printer.data(&format!("report:  {}", page.display()));
    Ok(0)
}

/// A run's rows, and prompts to answer before and after.
pub(super) struct Loaded {
    pub(super) data: Dataset,
    pub(super) held_out: Option<Dataset>,
    pub(super) prompts: Vec<Text>,
}

/// Training rows, and the held-out ones of a file of their own or split off.
pub(super) fn rows(args: &TrainArgs, config: &TrainConfig, model: &Model, n_prompts: usize) -> Result<Loaded> {
    let read = |path: &Path| config.method.rows(read_all_with(path, &config.columns)?);
    let (rows, held_out) = match &config.eval_data {
        Some(path) => (read(&args.data)?, Some(read(path)?)),
        None if config.eval_split > 0.0 => {
            let (rest, held_out) = read(&args.data)?.split(config.eval_split, SPLIT)?;
            (rest, Some(held_out))
        }
        None => (read(&args.data)?, None),
    };
    let encode = |rows: &Rows| dataset::encode(rows, model, &config.encoding());
    let prompts = first_prompts(held_out.as_ref().unwrap_or(&rows), n_prompts);
    Ok(Loaded { data: encode(&rows)?, held_out: held_out.as_ref().map(encode).transpose()?, prompts })
}

/// Says where the result was taken from, where that was not the run's planned end.
fn chosen(printer: &mut Printer, config: &TrainConfig, outcome: &Outcome, last_step: usize) {
    let (step, metric, value) = &outcome.best;
    if outcome.stopped_early {
        let patience = config.early_stopping_patience;
        printer.talk(&format!("stopped after step {last_step}: {patience} measurements were no better"));
    }
    if config.load_best_model_at_end {
        printer.talk(&format!("the adapter is that of step {step}: {metric} {value:.4} was the best"));
    }
}

pub(super) fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// The configuration's grid, if it has one.
fn grid(args: &TrainArgs) -> Result<Option<Grid>> {
    let Some(path) = &args.config else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the configuration", &e))?;
    Grid::from_toml(&text, &path.display().to_string())
}

fn configuration(args: &TrainArgs, start: &Start) -> Result<TrainConfig> {
    let (mut config, given) = match start.text(args)? {
        None => Default::default(),
        Some(text) => text.parse()?,
    };
    config.apply(overrides(args))?;
    config.refuse_unused(&given)?;
    if let Some(path) = &args.adapter.lora {
        // A run's own configuration, which a resumed one goes on with, says what the file says.
        let written = if args.config.is_some() { &given[..] } else { &[] };
        initial::claim(path, &mut config, written)?;
    }
    start.fill(&mut config);
    config.resolve()
}

/// The flags of the command.
pub(super) fn overrides(args: &TrainArgs) -> TrainOverrides {
    TrainOverrides {
        method: args.method.clone(),
        learning_rate: args.learning_rate,
        epochs: args.epochs,
        max_steps: args.max_steps,
        batch_size: args.batch_size,
        grad_accum: args.grad_accum,
        seed: args.seed,
        threads: args.threads.given(),
        precision: args.precision.clone(),
        recompute: args.recompute.clone(),
        device: args.devices.names().map(str::to_owned),
        n_gpu_layers: args.devices.n_gpu_layers(),
        ..args.adapter.overrides(args.loss.overrides(args.rows.overrides(
            args.saving.overrides(args.optim.overrides(args.held_out.overrides(TrainOverrides::default()))),
        )))
    }
}

fn report_data(printer: &mut Printer, path: &Path, data: &Dataset) {
    let r = &data.report;
    let cut = if r.truncated > 0 { format!(", {} cut", r.truncated) } else { String::new() };
    printer.talk(&format!(
        "{}: {} rows, {} tokens of which {} are scored, longest {}, {} dropped as too long{cut}",
        path.display(),
        r.rows,
        r.tokens,
        r.answer_tokens,
        r.longest,
        r.dropped_too_long
    ));
}

pub(super) fn lineage(model: &Model, file: &gguf::File, config: &TrainConfig) -> Lineage {
    let base_name = file.get("general.name").and_then(Value::as_str).map(str::to_owned);
    let (architecture, method) = (model.architecture(), config.method.name().to_owned());
    Lineage { architecture, base_name, base_hash: Some(base_hash(file)), method }
}

pub(super) fn compare(printer: &mut Printer, before: &EvalReport, after: &EvalReport) {
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

pub(super) fn serve(printer: &mut Printer, model: &Path, run_dir: &RunDir, delta: DeltaKind, beside: bool) {
    if delta != DeltaKind::Lora {
        let (model, change) = (model.display(), run_dir.change());
        printer.data(&format!("change:  {}", change.display()));
        printer.data(&format!("metrics: {}", run_dir.metrics().display()));
        printer.data(&format!(
            "model:   llama-align merge -m {model} --change {} --outtype auto -o tuned.gguf",
            change.display()
        ));
        let adapter = run_dir.adapter();
        if delta == DeltaKind::Rows {
            let adapter =
                adapter.exists().then(|| format!("serve:   llama-server -m {model} --lora {}", adapter.display()));
            let change = change.display();
            printer.data(&adapter.unwrap_or_else(|| {
                format!("adapter: too many rows for an exact one; llama-align adapter extract --base {model} --change {change} --rank 64 -o adapter.gguf")
            }));
        }
        return;
    }
    let (model, adapter) = (model.display(), run_dir.adapter());
    let adapter = adapter.display();
    printer.data(&format!("adapter: {adapter}"));
    printer.data(&format!("metrics: {}", run_dir.metrics().display()));
    if beside {
        let change = run_dir.change();
        printer.data(&format!("change:  {}", change.display()));
        printer.data("norms and biases are no part of an adapter, and llama.cpp's --lora does not load them:");
        printer.data(&format!("model:   llama-align merge -m {model} --change {} -o norms.gguf", change.display()));
        printer.data(&format!("serve:   llama-server -m norms.gguf --lora {adapter}"));
        printer.data(&format!(
            "or both: llama-align merge -m {model} --lora {adapter} --change {} --outtype auto -o tuned.gguf",
            change.display()
        ));
        return;
    }
    printer.data(&format!("serve:   llama-server -m {model} --lora {adapter}"));
    printer.data(&format!("         llama-cli    -m {model} --lora {adapter}"));
}
