//! `llama-align neurons`: which weights the preferences move, as a mask (ALLO's steps 1 and 2).

use super::args_mask::NeuronsArgs;
use super::{dataset, initial, mask, open_model, Printer};
use crate::adapter::{import, Lora};
use crate::check::checked_trace;
use crate::engine::{Delta, Engine};
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, check_fits, check_output, validate_adapter, validate_model, File};
use crate::mask::{pool, select, select_as_released, Band, Granularity, LowRank, Order, Scores};
use crate::train::{Method, Observer, Policy, StepReport, TrainConfig, TrainOverrides, Trainer};
use std::collections::BTreeMap;
use std::path::Path;

/// Runs the command.
pub(super) fn run(args: &NeuronsArgs, printer: &mut Printer) -> Result<u8> {
    let granularity = Granularity::from_name(&args.granularity)?;
    if !(0.0..=1.0).contains(&args.ratio) || !(0.0..=1.0).contains(&args.skip) || args.skip + args.ratio > 1.0 {
        let message = format!("--ratio {} behind --skip {}: no share of a ranking", args.ratio, args.skip);
        return Err(Error::new(Kind::Argument, message));
    }
    let inputs = [Some(&args.model), args.data.as_ref(), args.lora.as_ref()];
    check_output(&args.output, inputs.into_iter().flatten().map(|path| path.as_path()), args.overwrite)?;
    let Warm { lora, mut provenance, architecture, base } = match (&args.lora, &args.data) {
        (Some(path), _) => from_adapter(&args.model, path)?,
        (None, Some(data)) => warm_up(args, data, printer)?,
        (None, None) => return Err(Error::new(Kind::Argument, "--data or --lora: nothing to warm up on")),
    };
    let shapes = lora.shapes();
    let of_weights = LowRank::new(&lora, &shapes);
    let pooled = (granularity != Granularity::Weight).then(|| pool(&of_weights, granularity)).transpose()?;
    let scores: &dyn Scores = pooled.as_ref().map_or(&of_weights, |table| table as &dyn Scores);
    let order = if args.smallest { Order::Smallest } else { Order::Largest };
    let mut chosen = match args.as_released {
        true => select_as_released(scores, args.ratio)?,
        false => select(scores, order, Band { from: args.skip, to: args.skip + args.ratio })?,
    };
    let order = if args.smallest { "smallest" } else { "largest" };
    let rule = if args.as_released { "as released".to_owned() } else { format!("{order}, skip {}", args.skip) };
    let score = match granularity {
        Granularity::Weight => "|change|",
        _ => "mean |change|",
    };
    provenance.extend([("score", score.to_owned()), ("rule", rule), ("ratio", args.ratio.to_string())]);
    chosen.provenance = provenance.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    chosen.write(&args.output, &architecture, &base)?;
    mask::tell(&chosen, &args.output, printer);
    Ok(0)
}

/// A warm-up's changes and what they come from.
struct Warm {
    lora: Lora,
    provenance: BTreeMap<&'static str, String>,
    architecture: String,
    base: String,
}

/// Those of a run that was made before.
fn from_adapter(model: &Path, path: &Path) -> Result<Warm> {
    let (base, file) = (File::open(model)?, File::open(path)?);
    validate_model(&base)?;
    check_fits(&validate_adapter(&file)?, &base)?;
    let provenance = BTreeMap::from([("adapter", base_hash(&file))]);
    let architecture = base.architecture()?.to_owned();
    Ok(Warm { lora: import(&file)?, provenance, architecture, base: base_hash(&base) })
}

/// Plain DPO on the pairs.
fn warm_up(args: &NeuronsArgs, data: &Path, printer: &mut Printer) -> Result<Warm> {
    let mut config = configuration(args)?;
    let (model, file) = open_model(&args.model, None, None)?;
    config.max_length = dataset::max_length(config.max_length, &model, printer);
    let data = dataset::load(data, &model, Some(Method::Dpo), &config.columns, &config.encoding())?;
    let form = config.precision.form_for(&model)?;
    let (trace, _) = checked_trace(&model, config.threads, form)?;
    let delta = Delta { lora: initial::fresh(&config, &trace)?, scale: 1.0, trainable: true };
    let mut engine = Engine::with_form(&model, &trace, vec![delta], config.threads, form)?;
    let mut progress = Progress(printer);
    let mut trainer = Trainer::new(&config, &data, &mut engine, &mut progress)?;
    trainer.run(&mut engine, &mut progress)?;
    let lora = engine.adapter().ok_or_else(|| Error::new(Kind::Internal, "the engine lost its delta"))?;
    let provenance =
        BTreeMap::from([("data", data.digest()), ("steps", trainer.done().to_string()), ("config", config.to_toml()?)]);
    Ok(Warm { lora, provenance, architecture: model.architecture(), base: base_hash(&file) })
}

fn configuration(args: &NeuronsArgs) -> Result<TrainConfig> {
    let (mut config, given) = match &args.config {
        None => Default::default(),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the configuration", &e))?;
            TrainConfig::from_toml_with_keys(&text, &path.display().to_string())?
        }
    };
    config.apply(TrainOverrides {
        max_steps: args.max_steps,
        learning_rate: args.learning_rate,
        lora_rank: args.lora_rank,
        seed: args.seed,
        threads: args.threads.given(),
        ..TrainOverrides::default()
    })?;
    config.refuse_unused(&given)?;
    if config.method != Method::Dpo {
        let message = format!("method: {} finds no neurons, dpo does", config.method.name());
        return Err(Error::new(Kind::Argument, message));
    }
    config.resolve()
}

/// A line for every step.
struct Progress<'a>(&'a mut Printer);

impl Observer for Progress<'_> {
    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.0.talk(&format!("warm-up, step {} of {}: loss {:.4}", report.step, report.n_steps, report.loss));
        Ok(true)
    }
}
