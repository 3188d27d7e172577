//! The steps of a run with its files: metrics and measurements as they come, checkpoints every so often and when someone
//! interrupts.

use super::interrupt::Interrupt;
use super::watch::{Keep, Watch};
use super::Printer;
use crate::data::{Dataset, TokenWeights};
use crate::engine::{Engine, Profile};
use crate::error::{Error, Kind, Result};
use crate::mask::Hold;
use crate::train::{
    Checkpoint, Course, HeldOut, Measured, MetricsFile, Observer, Origin, Outcome, Policy, StepReport, Trainer,
};
use std::cell::RefCell;
use std::path::PathBuf;

/// What a run is made of, beside what moves.
pub(super) struct Steps<'a> {
    pub(super) keep: Keep<'a>,
    pub(super) data: &'a Dataset,
    pub(super) held_out: Option<&'a HeldOut<&'a Dataset>>,
    pub(super) origin: &'a Origin,
    /// Weights of single tokens.
    pub(super) weights: Option<&'a TokenWeights>,
    /// What a mask leaves free.
    pub(super) hold: Option<&'a Hold>,
    /// Where it goes on from.
    pub(super) from: Option<&'a Checkpoint>,
    pub(super) interrupt: &'a Interrupt,
    /// Counts the arithmetic of this process.
    pub(super) profile: &'a Profile,
}

/// How the steps ended.
pub(super) enum End {
    /// All were made, or patience ended: the last one's report, what held-out rows say.
    Done(Box<(StepReport, Option<Outcome>)>),
    /// Someone interrupted; the run goes on from this checkpoint.
    Interrupted(PathBuf),
}

/// A watch that is also looked at between the steps.
struct Shared<'s, 'a> {
    watch: &'s RefCell<Watch<'a>>,
    interrupt: &'s Interrupt,
    told: bool,
}

impl Observer for Shared<'_, '_> {
    fn on_reference(&mut self, done: usize, n_sequences: usize) {
        let mut watch = self.watch.borrow_mut();
        if self.interrupt.asked() && !self.told {
            self.told = true;
            watch.say(
                "interrupted: the reference's log-probs are finished first, a checkpoint holds them; again leaves now",
            );
        }
        watch.on_reference(done, n_sequences);
    }

    fn on_step(&mut self, report: &StepReport) -> Result<bool> {
        self.watch.borrow_mut().on_step(report)
    }

    fn on_evaluation(&mut self, measured: &Measured, is_best: bool) -> Result<()> {
        self.watch.borrow_mut().on_evaluation(measured, is_best)
    }
}

impl Steps<'_> {
    /// From the beginning, or a checkpoint, to the end.
    pub(super) fn run(&self, engine: &mut Engine, metrics: &mut MetricsFile, printer: &mut Printer) -> Result<End> {
        let before = self.from.map_or((0, 0), |c| (c.state.done, c.state.num_tokens));
        let watch = RefCell::new(Watch::new(metrics, printer, self.keep, before));
        let mut shared = Shared { watch: &watch, interrupt: self.interrupt, told: false };
        let (config, best) = (self.keep.config, self.from.and_then(|c| c.best.clone()));
        let mut trainer = match self.from {
            None => Trainer::new(config, self.data, engine, &mut shared)?,
            Some(checkpoint) => Trainer::resume(config, self.data, engine, checkpoint.state.clone())?,
        };
        if let Some(weights) = self.weights {
            trainer.weigh(weights.clone());
        }
        if let Some(hold) = self.hold {
            trainer.hold(engine, hold)?;
        }
        let mut course = match self.held_out {
            None => None,
            Some(held_out) => Some(Course::resume(config, held_out, &mut shared, best, engine)?),
        };
        if let Some(checkpoint) = self.from {
            checkpoint.restore(engine)?;
            // What it took to get here again is no part of the run.
            self.profile.reset();
        }
        let mut interrupted = self.interrupt.asked();
        while !interrupted && trainer.done() < trainer.n_steps() {
            let done = trainer.done();
            let report = trainer.step(engine, done)?;
            let go_on = match &mut course {
                Some(course) => course.on_step(&report)? && course.after_step(&report, engine)?,
                None => watch.borrow_mut().on_step(&report)?,
            };
            // At its end a run needs no checkpoint: it is finished instead.
            if !go_on || trainer.done() == trainer.n_steps() {
                break;
            }
            interrupted = self.interrupt.asked();
            if !interrupted && config.save_steps > 0 && trainer.done().is_multiple_of(config.save_steps) {
                self.save(engine, &trainer, course.as_ref(), &watch)?;
            }
        }
        if interrupted {
            return self.save(engine, &trainer, course.as_ref(), &watch).map(End::Interrupted);
        }
        let outcome = course.and_then(Course::finish);
        let last = watch.into_inner().finish().ok_or_else(|| Error::new(Kind::Internal, "a run without a step"))?;
        Ok(End::Done(Box::new((last, outcome))))
    }

    /// Arithmetic of the run so far, that of earlier processes included.
    pub(super) fn flops(&self) -> u64 {
        self.from.map_or(0, |c| c.flops) + self.profile.seconds().product_flops
    }

    fn save(
        &self,
        engine: &mut Engine,
        trainer: &Trainer<&Dataset>,
        course: Option<&Course<'_, &Dataset>>,
        watch: &RefCell<Watch<'_>>,
    ) -> Result<PathBuf> {
        let config = self.keep.config;
        let checkpoint = Checkpoint {
            best: course.and_then(Course::best),
            eval_references: self.held_out.map(|h| h.start().clone()),
            metrics_lines: watch.borrow().synced_lines()?,
            flops: self.flops(),
            ..Checkpoint::take(config, self.origin, engine as &mut dyn Policy, trainer.state())?
        };
        self.keep.run_dir.save(&checkpoint, config.save_total_limit)
    }
}
