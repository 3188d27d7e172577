//! `llama-align train --method allo`: warm-up, mask, forgetting and learning, one after another. Each stage is a run in a directory
//! of its own below the output, with its own metrics and checkpoints: what is finished is not made again, what was interrupted is
//! taken up. At the end the output holds what learning left, and one record of all.

mod summary;

use super::args::TrainArgs;
use super::interrupt::{Interrupt, INTERRUPTED};
use super::neurons::{choose, from_file, How, Warm};
use super::resume::Start;
use super::token_weights::{Source, Tell};
use super::train::{is_empty, one, overrides, Job};
use super::{initial, mask, Printer};
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, write_atomically, File};
use crate::mask::{Band, Mask};
use crate::report::{file_hash, RunRecord};
use crate::token_scores::TokenChoice;
use crate::train::{Allo, DeltaKind, RunDir, TrainConfig, ALLO, STAGES};
use std::path::{Path, PathBuf};

/// What the stages make for one another, beside their directories.
const MASKS: [&str; 2] = ["forgetting-mask.gguf", "learning-mask.gguf"];
const WEIGHTS: &str = "token-weights.jsonl";
const WEIGHTS_PAGE: &str = "token-weights.html";

/// The configuration's text, with its name, if it or a flag says that the method is this.
pub(super) fn wanted(args: &TrainArgs) -> Result<Option<Text>> {
    let path = match &args.config {
        Some(path) => Some(path.clone()),
        None if args.saving.resume.is_some() => Some(args.output.join("config.toml")).filter(|path| path.exists()),
        None => None,
    };
    let text = match &path {
        None => String::new(),
        Some(path) => {
            std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the configuration", &e))?
        }
    };
    // What is no TOML is refused where it is read in earnest.
    let said = text.parse::<toml::Table>().ok().and_then(|t| Some(t.get("method")?.as_str()?.to_ascii_lowercase()));
    let method = args.method.as_ref().map(|name| name.to_ascii_lowercase()).or(said);
    let source = path.map_or_else(|| "flags".to_owned(), |path| path.display().to_string());
    Ok((method.as_deref() == Some(ALLO)).then_some(Text { text, source }))
}

/// A configuration's text.
pub(super) struct Text {
    text: String,
    source: String,
}

impl Text {
    fn plan(&self, args: &TrainArgs) -> Result<Allo> {
        Allo::from_toml(&self.text, &self.source, &overrides(args), &args.allo.overrides())
    }
}

/// Runs the stages: 0, or the status of an interrupted run.
pub(super) fn run(args: &TrainArgs, text: &Text, printer: &mut Printer) -> Result<u8> {
    if args.adapter.from().is_some() {
        return Err(Error::new(Kind::Argument, "lora, change: method allo begins with the model itself"));
    }
    if args.saving.resume.as_ref().is_some_and(|resume| resume.as_os_str() != "auto") {
        return Err(Error::new(Kind::Argument, "--resume: method allo has three runs: give auto"));
    }
    let plan = text.plan(args)?;
    if args.dry_run {
        return dry(args, &plan, printer);
    }
    let output = Output(args.output.clone());
    output.prepare(args, &plan)?;
    let interrupt = Interrupt::listen()?;
    let hashes = (base_hash(&File::open(&args.model)?), file_hash(&args.data)?);
    let status = output.stage(0, args, plan.stages[0].clone(), &hashes, None, printer)?;
    if status != 0 {
        return Ok(status);
    }
    output.choose(args, &plan, printer)?;
    if interrupt.asked() {
        return Ok(INTERRUPTED);
    }
    let [mask_of_forgetting, mask_of_learning] = MASKS.map(|name| Some(output.0.join(name)));
    let token_weights = Some(output.0.join(WEIGHTS));
    let forgetting = TrainConfig { mask: mask_of_forgetting, token_weights, ..plan.stages[1].clone() };
    let status = output.stage(1, args, forgetting, &hashes, None, printer)?;
    if status != 0 {
        return Ok(status);
    }
    let learning = TrainConfig { mask: mask_of_learning, ..plan.stages[2].clone() };
    let forgotten = output.result(1, plan.delta);
    let status = output.stage(2, args, learning, &hashes, Some(&forgotten), printer)?;
    if status != 0 {
        return Ok(status);
    }
    summary::write(args, &plan, &output, printer)?;
    Ok(0)
}

/// The plan, and what each stage will take: without masks and token weights, which are not there yet and change neither.
fn dry(args: &TrainArgs, plan: &Allo, printer: &mut Printer) -> Result<u8> {
    for (name, config) in STAGES.iter().zip(&plan.stages) {
        printer.data(&format!("# {name}"));
        if config.delta == DeltaKind::Rows {
            printer.data(&config.to_toml()?);
            printer.data("# which rows move, and what that takes, is known after the warm-up");
            continue;
        }
        let start = Start::Fresh { unfinished: false };
        let job = Job { start, output: &args.output, from: None, overwrite: false, samples: 0, is_stage: true };
        one(args, config.clone(), job, printer)?;
    }
    Ok(0)
}

/// The directory of all stages.
pub(super) struct Output(PathBuf);

impl Output {
    /// A stage's directory.
    pub(super) fn directory(&self, stage: usize) -> PathBuf {
        self.0.join(STAGES[stage].replace('_', "-"))
    }

    /// The directory of all.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What a stage left.
    pub(super) fn result(&self, stage: usize, delta: DeltaKind) -> PathBuf {
        let run = RunDir::open(&self.directory(stage));
        match delta {
            DeltaKind::Lora => run.adapter(),
            DeltaKind::Full | DeltaKind::Rows => run.change(),
        }
    }

    /// Makes the directory and writes the plan, or finds the plan of a run that is taken up to be this one.
    fn prepare(&self, args: &TrainArgs, plan: &Allo) -> Result<()> {
        let config = RunDir::open(&self.0).config();
        if args.saving.resume.is_some() && self.0.is_dir() {
            // What a killed process left half written goes.
            RunDir::reopen(&self.0)?;
        }
        if args.saving.resume.is_some() && config.exists() {
            let begun = Text {
                text: std::fs::read_to_string(&config).map_err(|e| Error::io(&config, "cannot read", &e))?,
                source: config.display().to_string(),
            };
            let begun = Allo::from_toml(&begun.text, &begun.source, &Default::default(), &Default::default())?;
            if begun.choice != plan.choice || begun.delta != plan.delta {
                let (is, was) = (format!("{:?}", plan.choice), format!("{:?}", begun.choice));
                let message = format!("{}: the run was begun with {was}, not with {is}", config.display());
                return Err(Error::new(Kind::Mismatch, message));
            }
            return Ok(());
        }
        if self.0.exists() && !is_empty(&self.0) {
            if !args.overwrite {
                let message = format!(
                    "{}: the run directory exists; --overwrite replaces the run in it, --resume auto goes on with it",
                    self.0.display()
                );
                return Err(Error::new(Kind::Output, message));
            }
            for stage in 0..STAGES.len() {
                let directory = self.directory(stage);
                if directory.exists() {
                    RunDir::create(&directory, true)?;
                }
            }
            for file in
                MASKS.iter().chain(&[WEIGHTS, WEIGHTS_PAGE]).map(|name| self.0.join(name)).filter(|f| f.exists())
            {
                std::fs::remove_file(&file).map_err(|e| Error::io(&file, "cannot remove the former run's file", &e))?;
            }
        }
        RunDir::create(&self.0, true)?;
        write_atomically(&config, plan.to_toml()?.as_bytes())
    }

    /// Runs a stage, or what is left of it.
    fn stage(
        &self,
        stage: usize,
        args: &TrainArgs,
        mut config: TrainConfig,
        hashes: &(String, String),
        from: Option<&Path>,
        printer: &mut Printer,
    ) -> Result<u8> {
        let (directory, name) = (self.directory(stage), STAGES[stage].replace('_', "-"));
        printer.talk(&format!("stage {} of {}, {name}:", stage + 1, STAGES.len()));
        let start = Start::find(&args.saving, &directory, printer)?;
        start.fill(&mut config);
        if let (Some(path), DeltaKind::Lora) = (from, config.delta) {
            initial::claim(path, &mut config, &[])?;
        }
        if matches!(start, Start::Complete(_)) {
            self.belongs(stage, hashes)?;
        }
        // Answers are learning's: what comes before it is on the way.
        let samples = if stage == 2 { args.samples } else { 0 };
        one(args, config, Job { start, output: &directory, from, overwrite: false, samples, is_stage: true }, printer)
    }

    /// Refuses to take a finished stage of another model, or of other rows, for this run's.
    fn belongs(&self, stage: usize, (base, data): &(String, String)) -> Result<()> {
        let path = RunDir::open(&self.directory(stage)).record();
        let record = RunRecord::read(&path)?;
        let differs = [("model", &record.base.hash, base), ("data", &record.data.hash, data)];
        let other = differs.into_iter().find(|(_, was, is)| was != is).map(|(what, ..)| what);
        other.map_or(Ok(()), |what| {
            let message = format!("{}: the run was begun with another {what}", path.display());
            Err(Error::new(Kind::Mismatch, message))
        })
    }

    /// Between the runs: both masks by one ranking, and the tokens to forget. A file that is there is complete, and this run's.
    fn choose(&self, args: &TrainArgs, plan: &Allo, printer: &mut Printer) -> Result<()> {
        let warm_up = &plan.stages[0];
        let moved = self.result(0, warm_up.delta);
        let masks = MASKS.map(|name| self.0.join(name));
        if !masks.iter().all(|path| path.exists()) {
            let Warm { scored, provenance, architecture, base } =
                from_file(&args.model, &moved, warm_up.delta == DeltaKind::Full)?;
            for (path, ratio) in masks.iter().zip(plan.ratios()) {
                let mut provenance = provenance.clone();
                provenance.insert("ratio", ratio.to_string());
                let how = How { granularity: Some(plan.granularity()?), band: Band::first(ratio), ..How::default() };
                let mask: Mask = choose(&scored, &how, provenance)?;
                mask.write(path, &architecture, &base)?;
                mask::tell(&mask, path, printer);
            }
        }
        // The page is written last: where it is missing, both are made again, with the same bytes.
        let (weights, page) = (self.0.join(WEIGHTS), self.0.join(WEIGHTS_PAGE));
        if weights.exists() && page.exists() {
            return Ok(());
        }
        let source = match warm_up.delta {
            DeltaKind::Lora => Source::Lora(&moved),
            DeltaKind::Full | DeltaKind::Rows => Source::Change(&moved),
        };
        let (columns, encoding) = (&warm_up.columns, warm_up.encoding());
        let tell = Tell { model: &args.model, source, data: &args.data, columns, encoding, threads: warm_up.threads };
        let choice = plan.choice.tokens_share.map_or(TokenChoice::Below(plan.choice.tokens_below), TokenChoice::Share);
        tell.write(choice, &weights, Some(&page), printer)
    }
}
