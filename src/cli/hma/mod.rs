//! `llama-align hma`: between a model before and after alignment, a weight for every group of blocks.

mod args;
mod models;
mod responses;
mod show;
mod write;

pub(super) use args::HmaArgs;

use super::{serving, Printer};
use crate::error::{Error, Kind, Result};
use crate::evaluate::{load, Items, Task};
use crate::gguf::{base_hash, check_output, write_atomically};
use crate::hma::{search, Blended, Found, GroupRule, Groups, Others, Point, PointKind, Ratios, Responses, Shares};
use crate::hma::{Gauge, SearchParams};
use crate::report::{averaging_page, GroupRecord, HmaRecord, LikelihoodRecord};
use models::Pair;
use responses::{max_tokens, responses, Chosen};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs the command.
pub(super) fn run(args: &HmaArgs, printer: &mut Printer) -> Result<u8> {
    check(args)?;
    let pair = Pair::open(args)?;
    let mut blended = pair.session()?;
    let searches = args.responses.prompts.is_some() || args.responses.responses.is_some();
    // An average has one weight, whatever groups there would be.
    let given = &args.groups.ratios;
    let text = if searches || !given.is_empty() { args.groups.groups.as_str() } else { "1" };
    let groups = Groups::parse(text, GroupRule::from_name(&args.groups.group_rule)?, blended.n_layers())?;
    if !given.is_empty() && given.len() != groups.n_groups() {
        let message = format!("--ratios: {} for the {} groups of --groups {text}", given.len(), groups.n_groups());
        return Err(Error::new(Kind::Argument, message));
    }
    let mean = args.groups.mean(args.pre_weight);
    let plan = Plan { args, groups, params: args.search.params()?, others: others(args)? };
    if plan.searches() {
        // Refused before responses are sampled.
        plan.ratios(mean, printer)?;
        plan.check_sweep()?;
    }
    let tasks = tasks(args, &pair)?;
    let chosen = responses(args, &pair, &mut blended, printer)?;
    let begun = Instant::now();
    let found = plan.found(mean, &mut blended, chosen.as_ref(), printer)?;
    let seconds = begun.elapsed().as_secs_f64();
    let shares = plan.shares(mean, found.as_ref());
    let points = points(&plan, &pair, &tasks, &mut blended, chosen.as_ref(), found.as_ref(), printer)?;
    let likelihoods = chosen.as_ref().map(|c| likelihoods(&mut blended, c, found.as_ref(), seconds)).transpose()?;
    let merged = write::output(args, &pair, &shares, printer)?;
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let record = HmaRecord {
        before: name(&args.model),
        after: name(pair.after_file().path()),
        before_hash: base_hash(&pair.before.file),
        after_hash: base_hash(pair.after_file()),
        pre_weight: mean,
        epsilon: match &found {
            Some(_) => Some(plan.ratios(mean, printer)?.epsilon()),
            None => None,
        },
        bounds: match &found {
            Some(_) => Some(plan.ratios(mean, printer)?.bounds()),
            None => None,
        },
        groups: plan.group_records(&shares),
        responses: chosen.as_ref().map(Chosen::digest),
        seed: args.search.seed,
        likelihoods,
        search: found,
        points,
        output: args.output.as_ref().map(|path| name(path)),
        fidelity: merged.as_ref().map(|report| report.to_json()),
    };
    if let Some(path) = &args.report {
        write_atomically(path, averaging_page(&record).as_bytes())?;
    }
    if args.json {
        let line = serde_json::to_string(&record).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        printer.data(&line);
    } else {
        show::record(&record, printer);
    }
    Ok(0)
}

/// What can be refused before any work.
fn check(args: &HmaArgs) -> Result<()> {
    args.responses.validate()?;
    args.sweep.tasks()?;
    args.sweep.params(args.responses.max_length, args.search.seed)?;
    others(args)?;
    args.groups.validate()?;
    if !(0.0..=1.0).contains(&args.pre_weight) {
        return Err(Error::new(Kind::Argument, format!("--pre-weight {}: outside 0 to 1", args.pre_weight)));
    }
    let searches = args.responses.prompts.is_some() || args.responses.responses.is_some();
    if !searches && args.output.is_none() && args.sweep.tax.is_empty() {
        let message = "nothing to do: give --prompts or --responses to search by, -o, or --tax";
        return Err(Error::new(Kind::Argument, message));
    }
    if let (Some(name), true) = (&args.groups.others, args.after.is_none()) {
        return Err(Error::new(Kind::Argument, format!("--others {name}: for the tensors of two models, --after")));
    }
    if let (Some(name), false) = (&args.outtype, args.after.is_some() || args.fold) {
        return Err(Error::new(Kind::Argument, format!("--outtype {name}: an adapter is made; --fold makes a model")));
    }
    let tasks: Vec<PathBuf> = args.sweep.tasks()?.into_iter().map(|(_, path)| path).collect();
    let scores = args.responses.score.iter().filter(|score| *score != "implicit").map(PathBuf::from);
    let scores: Vec<PathBuf> = scores.collect();
    let inputs = args.after.iter().chain(&args.lora).chain([&args.model]).chain(&tasks).chain(&scores);
    let inputs = inputs.chain(&args.responses.prompts).chain(&args.responses.responses);
    let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    if let Some(output) = &args.output {
        check_output(output, inputs.iter().copied(), args.overwrite)?;
    }
    let beside: Vec<&Path> = args.report.iter().chain(&args.responses.responses_out).map(PathBuf::as_path).collect();
    serving::check_new(&beside, args.output.as_deref(), &inputs, args.overwrite)
}

fn others(args: &HmaArgs) -> Result<Option<Others>> {
    args.groups.others.as_deref().map(Others::from_name).transpose()
}

/// What was asked for.
struct Plan<'a> {
    args: &'a HmaArgs,
    groups: Groups,
    params: SearchParams,
    others: Option<Others>,
}

impl Plan<'_> {
    fn searches(&self) -> bool {
        self.args.responses.prompts.is_some() || self.args.responses.responses.is_some()
    }

    /// The ratios' bounds. An ε that nobody named grows to what keeps ratios within 1.
    fn ratios(&self, mean: f64, printer: &mut Printer) -> Result<Ratios> {
        let n = self.groups.n_groups();
        let epsilon = self.args.groups.epsilon.unwrap_or_else(|| {
            let least = Ratios::least_epsilon(mean, n);
            if least > Ratios::EPSILON && least.is_finite() {
                printer
                    .talk(&format!("epsilon is {least:.4} instead of {}, so that no ratio exceeds 1", Ratios::EPSILON));
            }
            least.max(Ratios::EPSILON)
        });
        Ratios::new(mean, epsilon, n)
    }

    /// Refuses an ε that was named where it does not do for a mean of the sweep.
    fn check_sweep(&self) -> Result<()> {
        let Some(epsilon) = self.args.groups.epsilon else { return Ok(()) };
        let mut inner = self.args.sweep.sweep.iter().filter(|mean| **mean > 0.0 && **mean < 1.0);
        inner.try_for_each(|mean| Ratios::new(*mean, epsilon, self.groups.n_groups()).map(|_| ()))
    }

    /// The search at a mean, where there are responses.
    fn found(
        &self,
        mean: f64,
        blended: &mut Blended,
        chosen: Option<&Chosen>,
        printer: &mut Printer,
    ) -> Result<Option<Found>> {
        let Some(chosen) = chosen else { return Ok(None) };
        let ratios = self.ratios(mean, printer)?;
        let n_linears = blended.n_linears();
        let shares =
            Shares { layers: vec![mean; blended.n_layers()], mean, others: self.others.unwrap_or(Others::Faithful) };
        let mut objective = Responses { sequences: chosen.sequences(), blended, shares, max_tokens: max_tokens() };
        let mut tell = |told: &crate::hma::Told| {
            let list: Vec<String> = told.ratios.iter().take(6).map(|a| format!("{a:.3}")).collect();
            let more = if told.ratios.len() > 6 { " …" } else { "" };
            let line =
                format!("{}/{}: {:.5}, ratios {}{more}", told.step, told.n_steps, told.objective, list.join(" "));
            printer.talk(&line);
            true
        };
        search(&mut objective, &self.groups, &ratios, &n_linears, &self.params, &mut tell).map(Some)
    }

    /// A blend with the ratios that were found or given, or plain averaging.
    fn shares(&self, mean: f64, found: Option<&Found>) -> Shares {
        let given = Some(&self.args.groups.ratios).filter(|ratios| !ratios.is_empty());
        match found.map(|found| &found.ratios).or(given) {
            Some(ratios) => {
                Shares { layers: self.groups.spread(ratios), mean, others: self.others.unwrap_or(Others::Faithful) }
            }
            None => self.average(mean),
        }
    }

    fn group_records(&self, shares: &Shares) -> Vec<GroupRecord> {
        let of = |(first, last): (usize, usize)| {
            let before = shares.layers[first];
            GroupRecord { first, last, before, after: 1.0 - before }
        };
        self.groups.spans().into_iter().map(of).collect()
    }
}

/// Likelihoods of the responses under the models themselves, and at uniform and found ratios.
fn likelihoods(
    blended: &mut Blended,
    chosen: &Chosen,
    found: Option<&Found>,
    seconds: f64,
) -> Result<LikelihoodRecord> {
    let sequences = chosen.sequences();
    let mut alone = |share: f64| {
        let n_layers = blended.n_layers();
        blended.set(&Shares::uniform(share, n_layers));
        blended.nll(&sequences, max_tokens())
    };
    let (before, after) = (alone(1.0)?, alone(0.0)?);
    Ok(LikelihoodRecord {
        n_responses: sequences.len(),
        n_tokens: after.n_tokens,
        before: before.mean(),
        after: after.mean(),
        uniform: found.map_or(f64::NAN, |f| f.nll_uniform),
        found: found.map_or(f64::NAN, |f| f.nll),
        seconds,
        peak_rss_bytes: crate::os::peak_rss_bytes(),
    })
}

/// The tasks with their items: read before there is any work to lose.
fn tasks(args: &HmaArgs, pair: &Pair) -> Result<Vec<(Task, Items)>> {
    let params = args.sweep.params(args.responses.max_length, args.search.seed)?;
    let read = |(task, path): (Task, PathBuf)| {
        Gauge::check(task, pair.adapter().is_some())?;
        Ok((task, load(task, &path, &pair.before.model, &params)?))
    };
    args.sweep.tasks()?.into_iter().map(read).collect()
}

/// Points of the sweep, and what was asked for itself.
fn points(
    plan: &Plan,
    pair: &Pair,
    tasks: &[(Task, Items)],
    blended: &mut Blended,
    chosen: Option<&Chosen>,
    found: Option<&Found>,
    printer: &mut Printer,
) -> Result<Vec<Point>> {
    let args = plan.args;
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let params = args.sweep.params(args.responses.max_length, args.search.seed)?;
    let make = || pair.session();
    let mut gauge = Gauge::new(&make, pair.adapter(), tasks, &params, args.threads.count())?;
    let (own_mean, given) = (args.groups.mean(args.pre_weight), &args.groups.ratios);
    let mut means = args.sweep.sweep.clone();
    if means.is_empty() && given.is_empty() {
        means.push(own_mean);
    }
    means.sort_by(f64::total_cmp);
    means.dedup();
    let mut wanted = Vec::new();
    for mean in means {
        wanted.push((PointKind::Average, plan.average(mean), vec![mean]));
        if chosen.is_some() && mean > 0.0 && mean < 1.0 {
            let own = match found.filter(|_| mean == own_mean) {
                Some(found) => Some(found.clone()),
                None => plan.found(mean, blended, chosen, printer)?,
            };
            let ratios = own.as_ref().map_or_else(Vec::new, |f| f.ratios.clone());
            wanted.push((PointKind::Hma, plan.shares(mean, own.as_ref()), ratios));
        }
    }
    if !given.is_empty() {
        wanted.push((PointKind::Given, plan.shares(own_mean, None), given.clone()));
    }
    let mut points = Vec::with_capacity(wanted.len());
    for (kind, shares, ratios) in wanted {
        let mean = shares.mean;
        let mut told: Option<(Task, usize)> = None;
        let mut tell = |task: Task, done: usize, all: usize| {
            let tenth = done * 10 / all.max(1);
            if told != Some((task, tenth)) {
                told = Some((task, tenth));
                printer.talk(&format!("{} at {mean}: {done} of {all}", task.name()));
            }
        };
        let metrics = gauge.at(&shares, &mut tell)?;
        let nll = match chosen {
            Some(chosen) => {
                blended.set(&shares);
                Some(blended.nll(&chosen.sequences(), max_tokens())?.mean())
            }
            None => None,
        };
        points.push(Point { kind, pre_weight: mean, ratios, nll, metrics });
    }
    Ok(points)
}

impl Plan<'_> {
    fn average(&self, mean: f64) -> Shares {
        Shares { others: self.others.unwrap_or(Others::Uniform), ..Shares::uniform(mean, self.groups.n_layers()) }
    }
}
