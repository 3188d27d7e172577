//! `llama-align neurons`: which weights the preferences move, as a mask (ALLO's steps 1 and 2).

use super::args_mask::NeuronsArgs;
use super::moving::Moving;
use super::{dataset, mask, open_model, Printer};
use crate::adapter::{import, import_changes, one_hot, Change, Lora};
use crate::check::checked_trace;
use crate::data::Dataset;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, check_fits, check_output, validate_adapter, validate_model, File};
use crate::mask::{pool, select, select_as_released, Band, Granularity, LowRank, Mask, Moved, Order, Scores};
use crate::train::{DeltaKind, Method, Observer, Policy, StepReport, TrainConfig, TrainOverrides, Trainer};
use std::collections::BTreeMap;
use std::path::Path;

/// Runs the command.
pub(super) fn run(args: &NeuronsArgs, printer: &mut Printer) -> Result<u8> {
    let wanted = args.granularity.as_deref().map(Granularity::from_name).transpose()?;
    let score = Score::from_name(&args.score)?;
    if !(0.0..=1.0).contains(&args.ratio) || !(0.0..=1.0).contains(&args.skip) || args.skip + args.ratio > 1.0 {
        let message = format!("--ratio {} behind --skip {}: no share of a ranking", args.ratio, args.skip);
        return Err(Error::new(Kind::Argument, message));
    }
    let inputs = [Some(&args.model), args.data.as_ref(), args.lora.as_ref(), args.change.as_ref()];
    check_output(&args.output, inputs.into_iter().flatten().map(|path| path.as_path()), args.overwrite)?;
    let Warm { moved, mut provenance, architecture, base } = match (&args.lora, &args.change, &args.data) {
        (Some(path), ..) => from_file(&args.model, path, false)?,
        (_, Some(path), _) => from_file(&args.model, path, true)?,
        (_, _, Some(data)) => warm_up(args, score, data, printer)?,
        _ => return Err(Error::new(Kind::Argument, "--data, --lora or --change: nothing to take scores from")),
    };
    let how = How {
        granularity: wanted,
        order: if args.smallest { Order::Smallest } else { Order::Largest },
        ..How::default()
    };
    let how =
        How { band: Band { from: args.skip, to: args.skip + args.ratio }, as_released: args.as_released, score, ..how };
    provenance.insert("ratio", args.ratio.to_string());
    let chosen = choose(&moved, &how, provenance)?;
    chosen.write(&args.output, &architecture, &base)?;
    mask::tell(&chosen, &args.output, printer);
    Ok(0)
}

/// How a mask is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Absent means what a LoRA can hold at least, or single weights of others.
    pub(super) granularity: Option<Granularity>,
    pub(super) order: Order,
    pub(super) band: Band,
    pub(super) as_released: bool,
    pub(super) score: Score,
}

impl Default for How {
    fn default() -> Self {
        let (order, band, score) = (Order::Largest, Band::first(0.05), Score::Change);
        Self { granularity: None, order, band, as_released: false, score }
    }
}

/// The mask of what moved.
pub(super) fn choose(moved: &Moving, how: &How, mut provenance: BTreeMap<&'static str, String>) -> Result<Mask> {
    let lora = match moved {
        Moving::Factors(lora) => Some(lora.clone()),
        Moving::Rows(rows) => Some(one_hot(rows)),
        Moving::Weights(_) => None,
    };
    let shapes = lora.as_ref().map(Lora::shapes).unwrap_or_default();
    let of_weights: Box<dyn Scores + '_> = match (&lora, moved) {
        (Some(lora), _) => Box::new(LowRank::new(lora, &shapes)),
        (None, Moving::Weights(changes)) => Box::new(Moved::new(changes)),
        (None, _) => return Err(Error::new(Kind::Internal, "nothing has moved")),
    };
    let granularity = how.granularity.unwrap_or(match moved {
        Moving::Factors(_) | Moving::Rows(_) => Granularity::Row,
        Moving::Weights(_) => Granularity::Weight,
    });
    let pooled = (granularity != Granularity::Weight).then(|| pool(&*of_weights, granularity)).transpose()?;
    let scores: &dyn Scores = pooled.as_ref().map_or(&*of_weights, |table| table as &dyn Scores);
    let mut chosen = match how.as_released {
        true => select_as_released(scores, how.band.to)?,
        false => select(scores, how.order, how.band)?,
    };
    let order = if how.order == Order::Smallest { "smallest" } else { "largest" };
    let rule = if how.as_released { "as released".to_owned() } else { format!("{order}, skip {}", how.band.from) };
    let of = match granularity {
        Granularity::Weight => "",
        Granularity::Row | Granularity::Column => "norm of ",
        Granularity::Tensor => "mean ",
    };
    provenance.extend([("score", format!("{of}{}", how.score.name())), ("rule", rule)]);
    chosen.provenance = provenance.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(chosen)
}

/// What a weight is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Score {
    Change,
    Gradient,
    Gradient2,
}

impl Score {
    fn from_name(name: &str) -> Result<Self> {
        match name {
            "change" => Ok(Self::Change),
            "gradient" => Ok(Self::Gradient),
            "gradient2" => Ok(Self::Gradient2),
            _ => Err(Error::new(Kind::Argument, format!("--score: {name} is none of change, gradient, gradient2"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Change => "|change|",
            Self::Gradient => "sum of |gradient|",
            Self::Gradient2 => "sum of gradient²",
        }
    }
}

/// A warm-up's changes, or other numbers of the weights that are ranked, and what they come from.
pub(super) struct Warm {
    pub(super) moved: Moving,
    pub(super) provenance: BTreeMap<&'static str, String>,
    pub(super) architecture: String,
    pub(super) base: String,
}

/// Those of a run that was made before.
pub(super) fn from_file(model: &Path, path: &Path, whole: bool) -> Result<Warm> {
    let (base, file) = (File::open(model)?, File::open(path)?);
    validate_model(&base)?;
    let moved = if whole {
        Moving::Weights(import_changes(&file, &base)?)
    } else {
        check_fits(&validate_adapter(&file)?, &base)?;
        Moving::Factors(import(&file)?)
    };
    let provenance = BTreeMap::from([(if whole { "change" } else { "adapter" }, base_hash(&file))]);
    let architecture = base.architecture()?.to_owned();
    Ok(Warm { moved, provenance, architecture, base: base_hash(&base) })
}

/// Plain DPO on the pairs, or its gradients where it stands.
fn warm_up(args: &NeuronsArgs, score: Score, data: &Path, printer: &mut Printer) -> Result<Warm> {
    let mut config = configuration(args)?;
    if config.delta == DeltaKind::Rows {
        let message = "--delta: rows move when they have been found; lora or full finds them";
        return Err(Error::new(Kind::Argument, message));
    }
    if score != Score::Change && config.delta == DeltaKind::Lora {
        let message = format!("--score {}: gradients of weights are formed with --delta full", args.score);
        return Err(Error::new(Kind::Argument, message));
    }
    let (model, file) = open_model(&args.model, None, None)?;
    config.max_length = dataset::max_length(config.max_length, &model, printer);
    let data = dataset::load(data, &model, Some(Method::Dpo), &config.columns, &config.encoding())?;
    let form = config.precision.form_for(&model)?;
    let (trace, _) = checked_trace(&model, config.threads, form)?;
    let (moving, _) = Moving::start(&config, &trace, &file, None)?;
    let mut engine = moving.engine(&model, &trace, &config, form, Vec::new())?;
    let mut progress = Progress(printer);
    let mut trainer = Trainer::new(&config, &data, &mut engine, &mut progress)?;
    let moved = if score == Score::Change {
        trainer.run(&mut engine, &mut progress)?;
        moved(&engine, config.delta)?
    } else {
        Moving::Weights(gradients(&mut trainer, &mut engine, score, progress.0)?)
    };
    let steps = trainer.n_steps().to_string();
    let provenance = BTreeMap::from([("data", data.digest()), ("steps", steps), ("config", config.to_toml()?)]);
    Ok(Warm { moved, provenance, architecture: model.architecture(), base: base_hash(&file) })
}

fn moved(engine: &Engine, delta: DeltaKind) -> Result<Moving> {
    match delta {
        DeltaKind::Full => Ok(Moving::Weights(engine.changes())),
        DeltaKind::Rows | DeltaKind::Lora => {
            let lora = engine.adapter().ok_or_else(|| Error::new(Kind::Internal, "the engine lost its delta"))?;
            Ok(Moving::Factors(lora))
        }
    }
}

/// Σ |g| or Σ g² over the steps, of every weight.
fn gradients(
    trainer: &mut Trainer<&Dataset>,
    engine: &mut Engine,
    score: Score,
    printer: &mut Printer,
) -> Result<Vec<Change>> {
    let mut sums = engine.changes();
    for step in 0..trainer.n_steps() {
        trainer.accumulate(engine, step)?;
        for (i, sum) in sums.iter_mut().enumerate() {
            let gradient = Policy::gradient(engine, i);
            sum.values
                .iter_mut()
                .zip(gradient)
                .for_each(|(s, g)| *s += if score == Score::Gradient { g.abs() } else { g * g });
        }
        printer.talk(&format!("gradients of step {} of {}", step + 1, trainer.n_steps()));
    }
    Ok(sums)
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
        delta: args.delta.clone(),
        seed: args.seed,
        threads: args.threads.given(),
        ..TrainOverrides::default()
    })?;
    config.refuse_unused(&given)?;
    if config.train_norms || config.train_biases {
        let message = "train-norms, train-biases: a mask is of matrices; leave them out of the configuration";
        return Err(Error::new(Kind::Argument, message));
    }
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
