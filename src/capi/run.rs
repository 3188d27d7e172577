//! A run behind a trainer's handle: one call at a time moves it, any thread may stop it.

use super::adapter::{AdapterObject, Factors, Held};
use super::dataset::DatasetObject;
use super::handle::Object;
use super::progress::{llama_align_progress, Callback};
use super::status::llama_align_status;
use super::trainer::llama_align_trainer;
use super::{LLAMA_ALIGN_CANCELLED, LLAMA_ALIGN_MORE, LLAMA_ALIGN_OK};
use crate::adapter::RowChange;
use crate::data::{Dataset, Sequence, TokenWeights};
use crate::engine::{where_it_ran, Delta, Engine, Layout};
use crate::error::{Error, Kind, Result};
use crate::log::{say, Level};
use crate::train::{
    Checkpoint, DeltaKind, Observer, Origin, Policy, Recompute, StepReport, TrainConfig, Trainer, TrainerState,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// When a call returns although steps are left.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    /// Only at the run's end.
    None,
    /// After one step.
    OneStep,
    /// After the step in which this time has passed.
    Time(Duration),
}

/// A trainer, the adapter that it moves, and what other threads may touch while it runs.
pub(super) struct TrainerObject {
    run: Mutex<Run>,
    cancel: AtomicBool,
    paused: Mutex<bool>,
    /// Told when a pause or the run ends.
    go_on: Condvar,
    last: Mutex<llama_align_progress>,
    adapter: Claim,
}

/// The right to move an adapter: one trainer at a time has it.
struct Claim(Arc<AdapterObject>);

impl Claim {
    fn new(adapter: Arc<AdapterObject>) -> Result<Self> {
        if adapter.in_training.swap(true, Ordering::AcqRel) {
            return Err(Error::new(Kind::Busy, "adapter: another trainer moves it"));
        }
        Ok(Self(adapter))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.in_training.store(false, Ordering::Release);
    }
}

struct Run {
    engine: Engine,
    config: TrainConfig,
    data: Arc<Dataset>,
    /// What the adapter's mask leaves free.
    held: Option<Held>,
    weights: Option<TokenWeights>,
    /// Made by the first step, which measures the reference.
    trainer: Option<Trainer<Arc<Dataset>>>,
    /// Steps done.
    done: usize,
    n_steps: usize,
}

impl Object for TrainerObject {
    type C = llama_align_trainer;
    const NAME: &'static str = "trainer";

    // A call that still runs would train for nobody.
    fn on_free(&self) {
        self.cancel();
    }
}

impl TrainerObject {
    /// `memory`: bytes that the run may take.
    pub(super) fn new(
        adapter: Arc<AdapterObject>,
        rows: &DatasetObject,
        mut config: TrainConfig,
        memory: Option<u64>,
    ) -> Result<Self> {
        if !Arc::ptr_eq(&adapter.model, &rows.model) {
            let message = "adapter and dataset were made with different model handles";
            return Err(Error::new(Kind::Mismatch, message));
        }
        if let Some(row) = rows.data.samples.iter().find(|s| !config.method.suits(s)) {
            let message = format!(
                "dataset: the row of line {} does not suit method {}; set the method when the dataset is made",
                row.line(),
                config.method.name()
            );
            return Err(Error::new(Kind::Mismatch, message));
        }
        let claim = Claim::new(adapter)?;
        let adapter = &claim.0;
        let form = config.precision.form_for(&adapter.model.model)?;
        let (trace, _) = adapter.model.checked(form, config.threads)?;
        let Factors { lora, changes, held, .. } = adapter.factors().clone();
        let weights = rows.weights();
        if config.delta == DeltaKind::Lora {
            config.lora_rank = lora.factors.iter().map(|f| f.rank).max().unwrap_or(config.lora_rank);
            config.lora_alpha = lora.alpha;
        }
        let (model, n_threads) = (&adapter.model.model, config.threads);
        let mut engine = match config.delta {
            DeltaKind::Rows => {
                let rows: Option<Vec<RowChange>> = lora.factors.iter().map(RowChange::of_factor).collect();
                let rows = rows.ok_or_else(|| Error::new(Kind::Internal, "rows have lost their places"))?;
                Engine::with_rows(model, &trace, &rows, n_threads, form)?
            }
            DeltaKind::Lora | DeltaKind::Full => {
                let has_factors = config.delta == DeltaKind::Lora;
                let deltas = has_factors.then_some(Delta { lora, scale: 1.0, trainable: true }).into_iter().collect();
                Engine::with_all(model, &trace, (deltas, changes), n_threads, form, config.lora_dropout)?
            }
        };
        let longest = rows.data.samples.iter().map(|s| Layout::padded(s.sequences())).max().unwrap_or(0);
        let (n_tokens, on_devices) = (config.micro_batch_tokens.max(longest), !model.devices().is_empty());
        config.recompute = config.recompute.plan(memory, &engine, n_tokens, on_devices)?;
        engine.set_recompute(config.recompute == Recompute::Always);
        let n_steps = config.n_steps(config.packs(&rows.data.samples).len());
        let data = rows.data.clone();
        let run = Run { engine, config, data, held, weights, trainer: None, done: 0, n_steps };
        Ok(Self {
            run: Mutex::new(run),
            cancel: AtomicBool::new(false),
            paused: Mutex::new(false),
            go_on: Condvar::new(),
            last: Mutex::new(llama_align_progress::new(n_steps)),
            adapter: claim,
        })
    }

    /// A trainer that stands where a checkpoint does; the adapter gets its factors.
    pub(super) fn resume(
        adapter: Arc<AdapterObject>,
        rows: &DatasetObject,
        (mut config, memory): (TrainConfig, Option<u64>),
        path: &Path,
        inexact: bool,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::read(path)?;
        if config.recompute == Recompute::Auto {
            // Whatever is free now: the run's own.
            let was = checkpoint.config.get("recompute").and_then(|value| value.as_str());
            config.recompute = was.map_or(Ok(Recompute::Auto), Recompute::from_name)?;
        }
        let object = Self::new(adapter, rows, config, memory)?;
        object.take_up(checkpoint, inexact)?;
        Ok(object)
    }

    fn take_up(&self, checkpoint: Checkpoint, inexact: bool) -> Result<()> {
        let mut run = self.lock()?;
        checkpoint.check(&run.config, &self.origin(&run), inexact)?;
        let Run { engine, config, data, held, weights, trainer, done, n_steps } = &mut *run;
        checkpoint.restore(engine)?;
        self.follow(engine, config)?;
        // Before its first step a run has measured no reference, and measures it then.
        if checkpoint.state == TrainerState::unstarted(config, engine) {
            return Ok(());
        }
        let (step, n_tokens) = (checkpoint.state.done as u64, checkpoint.state.num_tokens as u64);
        *done = checkpoint.state.done;
        let mut resumed = Trainer::resume(config, data.clone(), engine, checkpoint.state)?;
        restrain(&mut resumed, engine, held.as_ref(), weights.as_ref())?;
        *trainer = Some(resumed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            llama_align_progress { step, n_tokens, ..llama_align_progress::new(*n_steps) };
        Ok(())
    }

    /// Writes the run's state as it is between two steps.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut run = self.lock()?;
        let origin = self.origin(&run);
        let Run { engine, config, trainer, .. } = &mut *run;
        let state = trainer.as_ref().map_or_else(|| TrainerState::unstarted(config, engine), Trainer::state);
        Checkpoint::take(config, &origin, engine, state)?.write(path)
    }

    fn origin(&self, run: &Run) -> Origin {
        // A host's model whose file is not known has no fingerprint.
        let model = self.adapter.0.model.hash().unwrap_or("unknown").to_owned();
        let mut origin = Origin::here(&run.config, model, &run.data, None);
        origin.mask = run.held.as_ref().map(|held| held.mask.clone());
        origin.token_weights = run.weights.as_ref().map(TokenWeights::digest);
        origin
    }

    /// The run, unless another call has it.
    fn lock(&self) -> Result<MutexGuard<'_, Run>> {
        match self.run.try_lock() {
            Ok(run) => Ok(run),
            Err(TryLockError::Poisoned(run)) => Ok(run.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(Kind::Busy, "trainer: another call on this handle is training"))
            }
        }
    }

    /// Gives the adapter the factors as they are.
    fn follow(&self, engine: &Engine, config: &TrainConfig) -> Result<()> {
        let lora = engine.deltas().pop().map(|delta| delta.lora);
        if lora.is_none() && config.delta != DeltaKind::Full {
            return Err(Error::new(Kind::Internal, "the engine lost its delta"));
        }
        let mut factors = self.adapter.0.factors();
        if let Some(lora) = lora {
            factors.lora = lora;
        }
        engine.write_changes(&mut factors.changes);
        config.method.name().clone_into(&mut factors.method);
        Ok(())
    }

    /// Stops the call that runs, or the next one.
    pub(super) fn cancel(&self) {
        // Under the lock, so that it does not pass between a look at the flag and the waiting.
        let _paused = self.paused();
        self.cancel.store(true, Ordering::Release);
        self.go_on.notify_all();
    }

    /// Makes the call that runs wait before its next step, or go on.
    pub(super) fn set_paused(&self, paused: bool) {
        *self.paused() = paused;
        self.go_on.notify_all();
    }

    fn paused(&self) -> MutexGuard<'_, bool> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while there is a pause that nobody cancels; false if the time was up before.
    fn wait(&self, until: Option<Instant>) -> bool {
        let mut paused = self.paused();
        while *paused && !self.cancel.load(Ordering::Acquire) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            paused = match left {
                Some(Duration::ZERO) => return false,
                Some(left) => self.go_on.wait_timeout(paused, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.go_on.wait(paused).unwrap_or_else(PoisonError::into_inner),
            };
        }
        true
    }

    /// What the last step, or the reference's last batch, reported.
    pub(super) fn last(&self) -> llama_align_progress {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps until the run's end, the limit, or a stop.
    pub(super) fn drive(&self, limit: Limit, callback: Callback) -> Result<llama_align_status> {
        self.adapter.0.model.log.during(|| self.run(limit, callback))
    }

    fn run(&self, limit: Limit, callback: Callback) -> Result<llama_align_status> {
        let mut run = self.lock()?;
        let (begun, mut moved) = (Instant::now(), false);
        // A time that no clock reaches is none.
        let until = match limit {
            Limit::None => None,
            Limit::OneStep => Some(begun),
            Limit::Time(time) => begun.checked_add(time),
        };
        while run.done < run.n_steps {
            let enough = moved && until.is_some_and(|until| Instant::now() >= until);
            let waited = enough || self.wait(until);
            if self.cancel.swap(false, Ordering::AcqRel) {
                return Ok(LLAMA_ALIGN_CANCELLED);
            }
            if enough || !waited {
                return Ok(LLAMA_ALIGN_MORE);
            }
            if run.trainer.is_none() {
                if let Some(status) = self.prepare(&mut run, callback, until)? {
                    return Ok(status);
                }
            }
            let report = self.step(&mut run)?;
            moved = true;
            say(Level::Info, || format!("step {}/{}: loss {:.4}", report.step, run.n_steps, report.loss));
            self.tell(llama_align_progress::step(&report), callback)?;
        }
        if moved {
            let lines = run.engine.tally().map(|tally| where_it_ran(self.adapter.0.model.model.devices(), tally));
            lines.into_iter().flatten().for_each(|line| say(Level::Info, || line.clone()));
        }
        Ok(LLAMA_ALIGN_OK)
    }

    /// Measures the reference; a status if it was stopped. Then the next call begins it anew.
    fn prepare(&self, run: &mut Run, callback: Callback, until: Option<Instant>) -> Result<Option<llama_align_status>> {
        let Run { engine, config, data, held, weights, trainer, .. } = run;
        let mut watch = Watch { object: self, callback, begun: Instant::now(), fault: None };
        let mut policy = Stoppable { engine, object: self, until, stopped: None };
        let made = Trainer::new(config, data.clone(), &mut policy, &mut watch);
        if let Some(fault) = watch.fault {
            // The callback's stop was the consequence of its fault.
            self.cancel.store(false, Ordering::Release);
            return Err(fault);
        }
        if policy.stopped == Some(LLAMA_ALIGN_CANCELLED) {
            self.cancel.store(false, Ordering::Release);
        }
        if policy.stopped.is_some() {
            return Ok(policy.stopped);
        }
        let mut made = made?;
        restrain(&mut made, engine, held.as_ref(), weights.as_ref())?;
        *trainer = Some(made);
        Ok(None)
    }

    /// One step; the adapter follows before anyone is told.
    fn step(&self, run: &mut Run) -> Result<StepReport> {
        let Run { engine, trainer, done, config, .. } = run;
        let trainer = trainer.as_mut().ok_or_else(|| Error::new(Kind::Internal, "a step without a trainer"))?;
        let report = trainer.step(engine, *done)?;
        *done += 1;
        self.follow(engine, config)?;
        Ok(report)
    }

    fn tell(&self, progress: llama_align_progress, callback: Callback) -> Result<()> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        if !callback.tell(&progress)? {
            self.cancel();
        }
        Ok(())
    }
}

/// Gives a trainer what the adapter and the rows bring along.
fn restrain(
    trainer: &mut Trainer<Arc<Dataset>>,
    engine: &Engine,
    held: Option<&Held>,
    weights: Option<&TokenWeights>,
) -> Result<()> {
    if let Some(weights) = weights {
        trainer.weigh(weights.clone());
    }
    held.map_or(Ok(()), |held| trainer.hold(engine, &held.hold))
}

/// Passes the reference's progress on.
struct Watch<'a> {
    object: &'a TrainerObject,
    callback: Callback,
    begun: Instant,
    fault: Option<Error>,
}

impl Observer for Watch<'_> {
    fn on_reference(&mut self, done: usize, n_sequences: usize) {
        let elapsed_ms = self.begun.elapsed().as_secs_f64() * 1e3;
        let progress = llama_align_progress::reference(done, n_sequences, elapsed_ms);
        if let Err(fault) = self.object.tell(progress, self.callback) {
            self.fault.get_or_insert(fault);
            self.object.cancel();
        }
    }

    fn on_step(&mut self, _: &StepReport) -> Result<bool> {
        Ok(true)
    }
}

/// A policy whose reference pass can be stopped, and waits, between two batches.
struct Stoppable<'a> {
    engine: &'a mut Engine,
    object: &'a TrainerObject,
    /// When the call's time is up; it only counts in a pause.
    until: Option<Instant>,
    stopped: Option<llama_align_status>,
}

impl Policy for Stoppable<'_> {
    fn log_probs(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        let waited = self.object.wait(self.until);
        let cancelled = self.object.cancel.load(Ordering::Acquire);
        if cancelled || !waited {
            self.stopped = Some(if cancelled { LLAMA_ALIGN_CANCELLED } else { LLAMA_ALIGN_MORE });
            return Err(Error::new(Kind::Busy, "stopped"));
        }
        self.engine.log_probs(sequences)
    }

    fn forward(&mut self, sequences: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        self.engine.forward(sequences)
    }

    fn backward(&mut self, gradients: &[Vec<f32>]) -> Result<()> {
        self.engine.backward(gradients)
    }

    fn lengths(&self) -> Vec<usize> {
        Policy::lengths(self.engine)
    }

    fn tensor(&mut self, i: usize) -> (&mut [f32], &[f32]) {
        self.engine.tensor(i)
    }

    fn gradient(&self, i: usize) -> &[f32] {
        Policy::gradient(self.engine, i)
    }

    fn zero_gradients(&mut self) {
        self.engine.zero_gradients();
    }
}
