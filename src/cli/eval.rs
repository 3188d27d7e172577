//! `llama-align eval`: a model, with or without an adapter, on held-out rows.

use super::args::EvalArgs;
use super::{dataset, devices, open_model, Printer};
use crate::adapter::{import, import_changes, Change, Lora};
use crate::check::checked_trace;
use crate::data::{EncodeOptions, TooLong};
use crate::engine::{Delta, Engine, Form};
use crate::error::{Error, Kind, Result};
use crate::gguf;
use crate::loss::Preference;
use crate::runtime::Model;
use crate::trace::Trace;
use crate::train::{evaluate, Precision, References, TrainConfig};
use std::sync::Arc;

/// Runs the command.
pub(super) fn run(args: &EvalArgs, printer: &mut Printer) -> Result<u8> {
    let beta = args.beta.unwrap_or(0.1);
    if !(beta > 0.0 && beta.is_finite()) {
        return Err(Error::new(Kind::Argument, format!("--beta {beta}: not a positive number")));
    }
    let Some(data) = args.data.as_ref().filter(|_| args.tasks.task.is_none() && args.tasks.tax.is_empty()) else {
        return super::task::run_tasks(args, printer);
    };
    args.tasks.params(args.max_length)?;
    let (model, file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let subject = Adapted::read(args, &file)?;
    let max_length = dataset::max_length(args.max_length, &model, printer);
    let too_long = TooLong::from_name(&args.too_long)?;
    let encoding = EncodeOptions { max_length, too_long, ..EncodeOptions::default() };
    let data = dataset::load(data, &model, None, &dataset::columns(&args.columns)?, &encoding)?;
    let (threads, form) = (args.threads.count(), Precision::from_name(&args.precision)?.form_for(&model)?);
    let (trace, _) = checked_trace(&model, threads, form)?;
    let max_tokens = TrainConfig::default().micro_batch_tokens;
    // The base is the reference: rewards tell how far the adapter moved.
    let mut base = Engine::with_form(&model, &trace, Vec::new(), threads, form)?;
    let now = References::measure(&mut base, &data.samples, max_tokens)?;
    let report = if subject.is_base() {
        devices::report(printer, &model, base.tally());
        evaluate(&data, &now, None, &Preference::dpo(beta))?
    } else {
        drop(base);
        let mut adapted = subject.engine(&model, &trace, threads, form)?;
        let then = References::measure(&mut adapted, &data.samples, max_tokens)?;
        devices::report(printer, &model, adapted.tally());
        evaluate(&data, &then, Some(&now), &Preference::dpo(beta))?
    };
    let value = serde_json::to_value(&report).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    if args.json {
        printer.data(&value.to_string());
    } else {
        for (name, value) in value.as_object().into_iter().flatten() {
            match value.as_f64().filter(|_| value.is_f64()) {
                Some(number) => printer.data(&format!("{name:22} {number:.4}")),
                None => printer.data(&format!("{name:22} {value}")),
            }
        }
    }
    if data.report.dropped_too_long > 0 {
        printer.talk(&format!(
            "{} rows were longer than {} tokens and left out",
            data.report.dropped_too_long, max_length
        ));
    }
    Ok(0)
}

/// What is measured beside the base: an adapter, or changes of whole weights, or neither.
#[derive(Clone, Debug, Default)]
pub(super) struct Adapted {
    lora: Option<Lora>,
    changes: Vec<Change>,
}

impl Adapted {
    /// Reads what the flags name.
    pub(super) fn read(args: &EvalArgs, file: &gguf::File) -> Result<Self> {
        let mut read = Self::default();
        if let Some(path) = &args.lora {
            let adapter = gguf::File::open(path)?;
            gguf::check_fits(&gguf::validate_adapter(&adapter)?, file)?;
            read.lora = Some(import(&adapter)?);
        }
        if let Some(path) = &args.change {
            read.changes = import_changes(&gguf::File::open(path)?, file)?;
        }
        Ok(read)
    }

    fn is_base(&self) -> bool {
        self.lora.is_none() && self.changes.is_empty()
    }

    /// The session of it.
    pub(super) fn engine(self, model: &Arc<Model>, trace: &Arc<Trace>, threads: usize, form: Form) -> Result<Engine> {
        let deltas = self.lora.into_iter().map(|lora| Delta { lora, scale: 1.0, trainable: false }).collect();
        match self.changes.is_empty() {
            true => Engine::with_form(model, trace, deltas, threads, form),
            false => Engine::with_changes(model, trace, deltas, self.changes, threads, form),
        }
    }
}
