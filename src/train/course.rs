//! A run that is measured on its way: every `eval_steps` optimizer steps and at its end; the best adapter is remembered,
//! and the run ends when patience does.

use super::config::TrainConfig;
use super::evaluate::{EvalReport, RowScore};
use super::held_out::HeldOut;
use super::policy::{set_parameters, Policy};
use super::selection::Selection;
use super::trainer::{Observer, StepReport};
use crate::adapter::{Change, Lora};
use crate::data::Dataset;
use crate::error::Result;
use std::ops::Deref;

/// One measurement of held-out rows.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Optimizer steps made before it.
    pub step: usize,
    /// What was measured.
    pub report: EvalReport,
    /// Every row's own scores.
    pub rows: Vec<RowScore>,
    /// The adapter at that time, for a policy that moves one.
    pub adapter: Option<Lora>,
    /// The changes of whole weights at that time, where they may become the result.
    pub changes: Vec<Change>,
}

/// An observer around another one: it measures, and tells the inner one of steps and measurements.
pub struct Course<'a, D> {
    config: &'a TrainConfig,
    held_out: &'a HeldOut<D>,
    inner: &'a mut dyn Observer,
    selection: Selection,
    best: Option<Measured>,
    last: Option<Measured>,
    stopped: bool,
}

impl<D> std::fmt::Debug for Course<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Course").field("selection", &self.selection).finish_non_exhaustive()
    }
}

/// The best measurement so far, as a checkpoint holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// After this step.
    pub step: usize,
    /// The value that decided.
    pub value: f64,
    /// Measurements in a row since that were no better.
    pub misses: usize,
    /// Names and values of what was trained, where they may become the result.
    pub parameters: Vec<(String, Vec<f32>)>,
}

/// How a measured run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The measurement that the run's result is taken from: the best one with `load_best_model_at_end`, else the last.
    pub result: Measured,
    /// Step, metric and value of the best measurement.
    pub best: (usize, String, f64),
    /// Patience ended the run.
    pub stopped_early: bool,
}

impl<'a, D: Deref<Target = Dataset>> Course<'a, D> {
    /// A course around `inner`. An unknown `metric_for_best_model` is refused here, before the run.
    pub fn new(config: &'a TrainConfig, held_out: &'a HeldOut<D>, inner: &'a mut dyn Observer) -> Result<Self> {
        let selection = Selection::of(config);
        selection.value(held_out.before())?;
        Ok(Self { config, held_out, inner, selection, best: None, last: None, stopped: false })
    }

    /// A course that stood at `best`. The policy is used to measure that again, and left with its parameters.
    pub fn resume(
        config: &'a TrainConfig,
        held_out: &'a HeldOut<D>,
        inner: &'a mut dyn Observer,
        best: Option<Best>,
        policy: &mut dyn Policy,
    ) -> Result<Self> {
        let mut course = Self::new(config, held_out, inner)?;
        let Some(best) = best else { return Ok(course) };
        course.selection.restore((best.step, best.value), best.misses);
        if !best.parameters.is_empty() {
            set_parameters(policy, &best.parameters)?;
            let (report, rows) = held_out.measure(config, policy)?;
            let (adapter, changes) = (policy.adapter(), policy.changes());
            course.best = Some(Measured { step: best.step, report, rows, adapter, changes });
        }
        Ok(course)
    }

    /// The best measurement so far.
    pub fn best(&self) -> Option<Best> {
        let (step, value) = self.selection.best()?;
        let adapter = self.best.as_ref().and_then(|measured| measured.adapter.as_ref());
        let name = |weight: &str, half: char| format!("{weight}.lora_{half}");
        let factors = adapter.into_iter().flat_map(|lora| &lora.factors);
        let halves = factors.flat_map(|f| [(name(&f.weight, 'a'), f.a.clone()), (name(&f.weight, 'b'), f.b.clone())]);
        let changes = self.best.iter().flat_map(|measured| &measured.changes);
        let changes = changes.map(|c| (format!("{}.change", c.weight), c.values.clone()));
        Some(Best { step, value, misses: self.selection.misses(), parameters: halves.chain(changes).collect() })
    }

    /// How it ended; nothing if no step was made.
    pub fn finish(self) -> Option<Outcome> {
        let (step, value) = self.selection.best()?;
        let best = (step, self.selection.metric().to_owned(), value);
        let result = if self.config.load_best_model_at_end { self.best } else { self.last }?;
        Some(Outcome { result, best, stopped_early: self.stopped })
    }
}

impl<D: Deref<Target = Dataset>> Observer for Course<'_, D> {
    fn on_reference(&mut self, done: usize, n_sequences: usize) {
        self.inner.on_reference(done, n_sequences);
    }

    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.inner.on_step(report)
    }

    fn after_step(&mut self, step: &StepReport, policy: &mut dyn Policy) -> Result<bool> {
        let due = self.config.eval_steps > 0 && step.step.is_multiple_of(self.config.eval_steps);
        if due || step.step == step.n_steps {
            let (report, rows) = self.held_out.measure(self.config, policy)?;
            let verdict = self.selection.offer(step.step, &report)?;
            let changes = if self.config.load_best_model_at_end { policy.changes() } else { Vec::new() };
            let measured = Measured { step: step.step, report, rows, adapter: policy.adapter(), changes };
            self.inner.on_evaluation(&measured, verdict.is_best)?;
            if verdict.is_best && self.config.load_best_model_at_end {
                self.best = Some(measured.clone());
            }
            self.last = Some(measured);
            self.stopped = verdict.stop && step.step < step.n_steps;
        }
        Ok(!self.stopped && self.inner.after_step(step, policy)?)
    }
}
