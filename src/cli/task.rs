//! `llama-align eval --task` and `--tax`.

use super::args::EvalArgs;
use super::eval::Adapted;
use super::{dataset, open_adapter, open_model, Printer};
use crate::check::checked_trace;
use crate::engine::Form;
use crate::error::{Error, Kind, Result};
use crate::evaluate::{load, run, tax, Items, Subject, Task, TaskParams, TaskReport, TaxRow};
use crate::gguf::{self, write_atomically};
use crate::report::TaxRecord;
use crate::runtime::Model;
use crate::trace::Trace;
use crate::train::{json_lines, Precision};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What every subject of one call shares.
struct Bench {
    model: Arc<Model>,
    file: gguf::File,
    /// Traced where a task needs log-probs.
    trace: Option<Arc<Trace>>,
    threads: usize,
    form: Form,
}

impl Bench {
    /// The base alone.
    fn base(&self) -> Result<Subject> {
        self.subject(Adapted::default(), None)
    }

    fn subject(&self, adapted: Adapted, lora: Option<&Path>) -> Result<Subject> {
        let opened = lora.map(|path| open_adapter(path, &self.model, &self.file)).transpose()?;
        let engine = match &self.trace {
            Some(trace) => Some(adapted.engine(&self.model, trace, self.threads, self.form)?),
            None => None,
        };
        let adapters = opened.into_iter().map(|adapter| (adapter, 1.0)).collect();
        Ok(Subject { model: self.model.clone(), engine, adapters, n_threads: self.threads })
    }
}

/// Runs one task, or the table of several.
pub(super) fn run_tasks(args: &EvalArgs, printer: &mut Printer) -> Result<u8> {
    let tasks = tasks(args)?;
    for output in [&args.tasks.per_item, &args.tasks.output].into_iter().flatten() {
        if output.exists() && !args.tasks.overwrite {
            let message = format!("{}: the file exists; --overwrite replaces it", output.display());
            return Err(Error::new(Kind::Output, message));
        }
    }
    let (model, file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let params = args.tasks.params(dataset::max_length(args.max_length, &model, printer))?;
    let (threads, form) = (args.threads.count(), Precision::from_name(&args.precision)?.form_for(&model)?);
    let items = tasks.iter().map(|(task, path)| Ok((*task, load(*task, path, &model, &params)?)));
    let items = items.collect::<Result<Vec<_>>>()?;
    let trace = match tasks.iter().any(|(task, _)| task.scores()) {
        true => Some(checked_trace(&model, threads, form)?.0),
        false => None,
    };
    let bench = Bench { model, file, trace, threads, form };
    let mut subject = bench.subject(Adapted::read(args, &bench.file)?, args.lora.as_deref())?;
    if args.tasks.tax.is_empty() {
        single(args, &bench, &items[0], &mut subject, &params, printer)
    } else {
        table(args, &bench, &items, &mut subject, &params, printer)
    }
}

/// Tasks and their files, as the flags name them.
fn tasks(args: &EvalArgs) -> Result<Vec<(Task, PathBuf)>> {
    let tasks = named(args)?;
    let asks = tasks.iter().find(|(task, _)| !task.scores());
    if let (Some((task, _)), Some(change)) = (asks, &args.change) {
        let (task, change) = (task.name(), change.display());
        let message =
            format!("--change {change}: {task} lets llama.cpp answer, which knows no such files; merge it first");
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(tasks)
}

fn named(args: &EvalArgs) -> Result<Vec<(Task, PathBuf)>> {
    let has_other = args.lora.is_some() || args.change.is_some();
    if let Some(name) = &args.tasks.task {
        let task = Task::from_name(name)?;
        if task == Task::Kl && !has_other {
            let message = "--task kl: needs --lora or --change, whose drift from the base it measures";
            return Err(Error::new(Kind::Argument, message));
        }
        let data = args.data.clone().ok_or_else(|| Error::new(Kind::Argument, "--task: needs --data"))?;
        return Ok(vec![(task, data)]);
    }
    if !has_other {
        return Err(Error::new(Kind::Argument, "--tax: needs --lora or --change, which is compared with the base"));
    }
    let parse = |text: &String| match text.split_once('=') {
        Some((task, file)) if !file.is_empty() => Ok((Task::from_name(task)?, PathBuf::from(file))),
        _ => Err(Error::new(Kind::Argument, format!("--tax {text}: expected TASK=FILE"))),
    };
    args.tasks.tax.iter().map(parse).collect()
}

fn single(
    args: &EvalArgs,
    bench: &Bench,
    (task, items): &(Task, Items),
    subject: &mut Subject,
    params: &TaskParams,
    printer: &mut Printer,
) -> Result<u8> {
    let mut base = if *task == Task::Kl { Some(bench.base()?) } else { None };
    let mut ticks = Ticks::default();
    let mut told = |done, all| ticks.tell(printer, *task, done, all);
    let report = run(*task, items, subject, base.as_mut(), params, &mut told)?;
    if let Some(path) = &args.tasks.per_item {
        write_atomically(path, json_lines(&report.items)?.as_bytes())?;
    }
    show(args, &report, printer)?;
    Ok(0)
}

fn show(args: &EvalArgs, report: &TaskReport, printer: &mut Printer) -> Result<()> {
    let value = serde_json::to_value(report).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    if args.json {
        printer.data(&value.to_string());
        return Ok(());
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        match value.as_f64().filter(|_| value.is_f64()) {
            Some(number) => printer.data(&format!("{name:22} {number:.4}")),
            None => printer.data(&format!("{name:22} {}", value.as_str().map_or(value.to_string(), str::to_owned))),
        }
    }
    Ok(())
}

fn table(
    args: &EvalArgs,
    bench: &Bench,
    items: &[(Task, Items)],
    adapted: &mut Subject,
    params: &TaskParams,
    printer: &mut Printer,
) -> Result<u8> {
    let mut base = bench.base()?;
    let mut ticks = Ticks::default();
    let mut told = |task, done, all| ticks.tell(printer, task, done, all);
    let table = tax(items, &mut base, adapted, params, &mut told)?;
    let record = TaxRecord { base: gguf::base_hash(&bench.file), table };
    if let Some(path) = &args.tasks.output {
        record.write(path)?;
    }
    if args.json {
        printer.data(&serde_json::to_string(&record).map_err(|e| Error::new(Kind::Internal, e.to_string()))?);
        return Ok(0);
    }
    printer.data("task         metric            items   before    after   change  95 % interval         p");
    for row in &record.table {
        let TaxRow { task, metric, n_items, before, after, change } = row;
        let interval = format!("{:+.4} to {:+.4}", change.low, change.high);
        let change_p = format!("{:+8.4}  {interval:20} {:.3}", change.difference, change.p);
        printer.data(&format!("{task:12} {metric:16} {n_items:6} {before:8.4} {after:8.4} {change_p}"));
    }
    Ok(0)
}

/// Tells of every tenth of a task.
#[derive(Default)]
struct Ticks {
    told: Option<usize>,
}

impl Ticks {
    fn tell(&mut self, printer: &mut Printer, task: Task, done: usize, all: usize) {
        let tenth = done * 10 / all.max(1);
        if self.told != Some(tenth) {
            self.told = Some(tenth);
            printer.talk(&format!("{}: {done} of {all}", task.name()));
        }
    }
}
