//! `llama-align neurons`: which weights the preferences move, as a mask (ALLO's steps 1 and 2).

use super::args_mask::NeuronsArgs;
use super::moving::Moving;
use super::{dataset, mask, open_model, Printer};
use crate::adapter::{import, import_changes, one_hot, Lora, RowChange};
use crate::check::checked_trace;
use crate::data::Dataset;
use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::gguf::{base_hash, check_fits, check_output, validate_adapter, validate_model, File};
use crate::mask::{pool, select, select_as_released, Band, Granularity, LowRank, Mask, Moved, Order, Scores, Table};
use crate::train::{
    gradient_sums, DeltaKind, GradientScore, Method, Observer, Policy, StepReport, TrainConfig, TrainOverrides, Trainer,
};
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
    let inputs = [Some(&args.model), args.data.as_ref(), args.lora.as_ref(), args.change.as_ref(), args.mask.as_ref()];
    check_output(&args.output, inputs.into_iter().flatten().map(|path| path.as_path()), args.overwrite)?;
    let Warm { scored, mut provenance, architecture, base } = match (&args.lora, &args.change, &args.data) {
        (Some(path), ..) => from_file(&args.model, path, false)?,
        (_, Some(path), _) => from_file(&args.model, path, true)?,
        (_, _, Some(data)) => warm_up(args, (score, wanted), data, printer)?,
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
    let chosen = choose(&scored, &how, provenance)?;
    if let Some(path) = args.mask.as_deref() {
        let within = Mask::read(path).during(|| path.display().to_string())?;
        check_within(&chosen, &within, args)?;
    }
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

/// What is ranked.
pub(super) enum Scored {
    /// How far something moved, or sums of gradients in its shape.
    Weights(Moving),
    /// Numbers of rows.
    Rows(Table),
}

/// Refuses a mask that names more than the rows that had scores.
fn check_within(chosen: &Mask, within: &Mask, args: &NeuronsArgs) -> Result<()> {
    for tensor in chosen.tensors() {
        let own = tensor.weights(chosen.granularity());
        let all = within.tensor(&tensor.shape.name).map(|t| t.weights(within.granularity()));
        if own.runs().flatten().any(|i| !all.as_ref().is_some_and(|all| all.get(i))) {
            let message = format!(
                "--ratio {}: {} of {} {}s are not within the rows of {}, which alone have scores",
                args.ratio,
                chosen.count(),
                chosen.n(),
                chosen.granularity().name(),
                args.mask.as_deref().unwrap_or(Path::new("--mask")).display(),
            );
            return Err(Error::new(Kind::Argument, message));
        }
    }
    Ok(())
}

/// The mask of what moved.
pub(super) fn choose(scored: &Scored, how: &How, mut provenance: BTreeMap<&'static str, String>) -> Result<Mask> {
    let lora = match scored {
        Scored::Weights(Moving::Factors(lora)) => Some(lora.clone()),
        Scored::Weights(Moving::Rows(rows)) => Some(one_hot(rows)),
        Scored::Weights(Moving::Weights(_)) | Scored::Rows(_) => None,
    };
    let shapes = lora.as_ref().map(Lora::shapes).unwrap_or_default();
    let numbers: Box<dyn Scores + '_> = match (&lora, scored) {
        (Some(lora), _) => Box::new(LowRank::new(lora, &shapes)),
        (None, Scored::Weights(Moving::Weights(changes))) => Box::new(Moved::new(changes)),
        (None, Scored::Rows(table)) => Box::new(table.clone()),
        (None, _) => return Err(Error::new(Kind::Internal, "nothing has moved")),
    };
    let granularity = how.granularity.unwrap_or(match scored {
        Scored::Weights(Moving::Weights(_)) => Granularity::Weight,
        _ => Granularity::Row,
    });
    let pooled = (granularity != numbers.granularity()).then(|| pool(&*numbers, granularity)).transpose()?;
    let scores: &dyn Scores = pooled.as_ref().map_or(&*numbers, |table| table as &dyn Scores);
    let mut chosen = match how.as_released {
        true => select_as_released(scores, how.band.to)?,
        false => select(scores, how.order, how.band)?,
    };
    let order = if how.order == Order::Smallest { "smallest" } else { "largest" };
    let rule = if how.as_released { "as released".to_owned() } else { format!("{order}, skip {}", how.band.from) };
    let of = match granularity {
        _ if matches!(scored, Scored::Rows(_)) => "rows of B: ",
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

    fn of_gradients(self) -> Option<GradientScore> {
        match self {
            Self::Change => None,
            Self::Gradient => Some(GradientScore::Absolute),
            Self::Gradient2 => Some(GradientScore::Squared),
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
    pub(super) scored: Scored,
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
    Ok(Warm { scored: Scored::Weights(moved), provenance, architecture, base: base_hash(&base) })
}

/// Plain DPO on the pairs, or its gradients where it stands.
fn warm_up(
    args: &NeuronsArgs,
    (score, wanted): (Score, Option<Granularity>),
    data: &Path,
    printer: &mut Printer,
) -> Result<Warm> {
    let mut config = configuration(args)?;
    let of_rows = wanted.is_none_or(|granularity| granularity == Granularity::Row);
    if score != Score::Change && config.delta == DeltaKind::Lora && !of_rows {
        let message = format!(
            "--score {}, --granularity {}: with --delta lora gradients are formed of factors, and only a row of B is a row of its \
             weight; A has no gradient while B is 0. --delta full forms those of all weights",
            args.score,
            args.granularity.as_deref().unwrap_or("row")
        );
        return Err(Error::new(Kind::Argument, message));
    }
    let (model, file) = open_model(&args.model, None, None)?;
    config.max_length = dataset::max_length(config.max_length, &model, printer);
    let data = dataset::load(data, &model, Some(Method::Dpo), &config.columns, &config.encoding())?;
    let form = config.precision.form_for(&model)?;
    let (trace, _) = checked_trace(&model, config.threads, form)?;
    if let Some(path) = &config.mask {
        Mask::check_base(&File::open(path)?, &base_hash(&file))?;
    }
    let (moving, _) = Moving::start(&config, &trace, &file, None)?;
    let rows = if let Moving::Rows(rows) = &moving { rows.clone() } else { Vec::new() };
    let mut engine = moving.engine(&model, &trace, &config, form, Vec::new())?;
    let mut progress = Progress(printer);
    let mut trainer = Trainer::new(&config, &data, &mut engine, &mut progress)?;
    let scored = match score.of_gradients() {
        None => {
            trainer.run(&mut engine, &mut progress)?;
            Scored::Weights(moved(&engine, config.delta)?)
        }
        Some(score) => gradients(&mut trainer, &mut engine, rows, score, progress.0)?,
    };
    let steps = trainer.n_steps().to_string();
    let provenance = BTreeMap::from([("data", data.digest()), ("steps", steps), ("config", config.to_toml()?)]);
    Ok(Warm { scored, provenance, architecture: model.architecture(), base: base_hash(&file) })
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

/// Sums of the steps' gradients: of every weight, of those of the rows that move, or of the rows of B.
fn gradients(
    trainer: &mut Trainer<&Dataset>,
    engine: &mut Engine,
    mut rows: Vec<RowChange>,
    score: GradientScore,
    printer: &mut Printer,
) -> Result<Scored> {
    let (mut changes, lora) = (engine.changes(), engine.adapter().filter(|_| rows.is_empty()));
    let names: Vec<String> = (0..Policy::lengths(engine).len()).map(|i| Policy::name(engine, i)).collect();
    let rank = |name: &String| {
        let factor = lora.iter().flat_map(|l| &l.factors).find(|f| name.strip_prefix(&f.weight) == Some(".lora_b"));
        factor.map_or(usize::from(lora.is_none()), |factor| factor.rank)
    };
    let (widths, n): (Vec<usize>, usize) = (names.iter().map(rank).collect(), trainer.n_steps());
    let mut tell = |step| printer.talk(&format!("gradients of step {step} of {n}"));
    let sums = gradient_sums(trainer, engine, score, &widths, &mut tell)?;
    if let Some(lora) = lora {
        let of_b = sums.into_iter().zip(&widths).filter(|(_, width)| **width > 0).map(|(sum, _)| sum).collect();
        return Table::new(Granularity::Row, lora.shapes(), of_b).map(Scored::Rows);
    }
    if rows.is_empty() {
        changes.iter_mut().zip(sums).for_each(|(change, sum)| change.values = sum);
        return Ok(Scored::Weights(Moving::Weights(changes)));
    }
    rows.iter_mut().zip(sums).for_each(|(row, sum)| row.values = sum);
    Ok(Scored::Weights(Moving::Rows(rows)))
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
        mask: args.mask.clone(),
        seed: args.seed,
        threads: args.threads.given(),
        ..TrainOverrides::default()
    })?;
    config.refuse_unused(&given)?;
    if config.train_norms || config.train_biases {
        let message = "train-norms, train-biases: a mask is of matrices; leave them out of the configuration";
        return Err(Error::new(Kind::Argument, message));
    }
    if config.mask.is_some() && (config.delta != DeltaKind::Rows || args.mask.is_none()) {
        let message = "mask: neurons are found among all weights; a mask is for --delta rows, by the flag --mask";
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
