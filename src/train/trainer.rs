//! The loop over optimizer steps.

use super::config::TrainConfig;
use super::course::Measured;
use super::evaluate::{summed_log_probs, References};
use super::method::Method;
use super::objective::{baseline, count_units, mismatched, row_loss, RowLogps, Tally};
use super::policy::Policy;
use crate::data::{order, Dataset, Sequence, TokenWeights};
use crate::engine::Layout;
use crate::error::{Error, Kind, Result};
use crate::mask::{Bits, Hold};
use crate::optim::{clip_factor, sum_of_squares, Optimizer, OptimizerState, Schedule};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::time::Instant;

/// What one optimizer step did; keys are TRL's.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// From 1.
    pub step: usize,
    /// Steps of the run.
    pub n_steps: usize,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Loss of the step.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The same of every block's trainable tensors, before clipping; empty for a policy without blocks.
    pub block_grad_norms: Vec<f64>,
    /// Rate of the step.
    pub learning_rate: f64,
    /// Tokens seen so far, prompts included.
    pub num_tokens: usize,
    /// Method-specific means, such as `rewards/margins`.
    pub metrics: BTreeMap<&'static str, f64>,
    /// Seconds that the step took.
    pub step_seconds: f64,
    /// Seconds since the run began, the reference pass included.
    pub seconds: f64,
}

/// Watches a run.
pub trait Observer {
    /// Called while the reference is measured: sequences done, and all of them.
    fn on_reference(&mut self, _done: usize, _n_sequences: usize) {}
    /// Called after every step; false ends the run.
    fn on_step(&mut self, report: &StepReport) -> Result<bool>;
    /// Called after `on_step` with what was moved, to measure or to save it; false ends the run.
    fn after_step(&mut self, _report: &StepReport, _policy: &mut dyn Policy) -> Result<bool> {
        Ok(true)
    }
    /// Called after a measurement of held-out rows, by a [`Course`](super::Course).
    fn on_evaluation(&mut self, _measured: &Measured, _is_best: bool) -> Result<()> {
        Ok(())
    }
}

/// A run in progress. `D` is how it holds its rows: `&Dataset`, or `Arc<Dataset>` for a run that outlives its caller's frame.
pub struct Trainer<D> {
    pub(super) config: TrainConfig,
    pub(super) data: D,
    /// What counts as a row: each alone, or packs of short ones.
    packs: Vec<Vec<usize>>,
    /// What of every trainable tensor may move, where a mask holds the rest.
    free: Vec<Bits>,
    /// Weights of single tokens.
    weights: TokenWeights,
    pub(super) references: References,
    optimizer: Optimizer,
    schedule: Schedule,
    n_steps: usize,
    /// Steps that were made.
    done: usize,
    num_tokens: usize,
    started: Instant,
}

/// Where a run stands between two steps: with the values of the parameters, all that the steps to come depend on. Order and
/// schedule follow from the step, random draws from seed and step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainerState {
    /// Steps that were made.
    pub done: usize,
    /// Tokens that were seen.
    pub num_tokens: usize,
    /// What the optimizer remembers.
    pub optimizer: OptimizerState,
    /// What the reference gave at the run's beginning.
    pub references: References,
}

impl TrainerState {
    /// That of a run before its first step, and before its reference.
    pub fn unstarted(config: &TrainConfig, policy: &dyn Policy) -> Self {
        let optimizer = Optimizer::new(config.optimizer(), policy.lengths().into_iter()).state();
        Self { optimizer, ..Self::default() }
    }
}

impl<D> std::fmt::Debug for Trainer<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("n_steps", &self.n_steps).finish_non_exhaustive()
    }
}

impl<D: Deref<Target = Dataset>> Trainer<D> {
    /// Prepares a run: measures the reference where the method has one, on the rows that the run will see.
    pub fn new(config: &TrainConfig, data: D, policy: &mut dyn Policy, observer: &mut dyn Observer) -> Result<Self> {
        let mut trainer = Self::prepare(config, data, policy)?;
        if trainer.config.has_reference()? {
            trainer.references = trainer.reference(policy, observer)?;
        }
        Ok(trainer)
    }

    /// Takes a run up where it stood. The policy holds the parameters of that moment already; configuration and rows are those
    /// of the run (`Checkpoint` compares them).
    pub fn resume(config: &TrainConfig, data: D, policy: &dyn Policy, state: TrainerState) -> Result<Self> {
        let mut trainer = Self::prepare(config, data, policy)?;
        let TrainerState { done, num_tokens, optimizer, references } = state;
        if done > trainer.n_steps {
            let message = format!("{done} steps were made already, the run has {}", trainer.n_steps);
            return Err(Error::new(Kind::Mismatch, message));
        }
        trainer.optimizer.restore(optimizer)?;
        (trainer.done, trainer.num_tokens, trainer.references) = (done, num_tokens, references);
        Ok(trainer)
    }

    pub(super) fn prepare(config: &TrainConfig, data: D, policy: &dyn Policy) -> Result<Self> {
        if data.samples.is_empty() {
            return Err(Error::new(Kind::Data, "no rows to train on"));
        }
        let packs = config.packs(&data.samples);
        let n_steps = config.n_steps(packs.len());
        let optimizer = Optimizer::new(config.optimizer(), policy.lengths().into_iter());
        let (references, schedule) = (References::default(), config.schedule(n_steps));
        let (config, started) = (config.clone(), Instant::now());
        let (free, weights) = (Vec::new(), TokenWeights::default());
        Ok(Self {
            config,
            data,
            packs,
            free,
            weights,
            references,
            optimizer,
            schedule,
            n_steps,
            done: 0,
            num_tokens: 0,
            started,
        })
    }

    /// Weighs single tokens of the rows; without it each counts 1.
    pub fn weigh(&mut self, weights: TokenWeights) {
        self.weights = weights;
    }

    /// Holds all that a mask does not leave free: from now on it keeps its bits.
    ///
    /// # Errors
    /// If the policy trains other tensors than those that the mask was made to hold.
    pub fn hold(&mut self, policy: &dyn Policy, hold: &Hold) -> Result<()> {
        let of = |(i, len): (usize, usize)| {
            let name = policy.name(i);
            let found = hold.of(&name).filter(|bits| bits.len() == len).cloned();
            found.ok_or_else(|| Error::new(Kind::Mismatch, format!("mask: it does not fit tensor {name}")))
        };
        self.free = policy.lengths().into_iter().enumerate().map(of).collect::<Result<_>>()?;
        Ok(())
    }

    /// Where the run stands.
    pub fn state(&self) -> TrainerState {
        TrainerState {
            done: self.done,
            num_tokens: self.num_tokens,
            optimizer: self.optimizer.state(),
            references: self.references.clone(),
        }
    }

    /// Steps that were made.
    pub fn done(&self) -> usize {
        self.done
    }

    fn reference(&self, policy: &mut dyn Policy, observer: &mut dyn Observer) -> Result<References> {
        let samples = &self.data.samples;
        let per_epoch = self.steps_per_epoch();
        let seen: BTreeSet<usize> = (0..self.n_steps.min(per_epoch)).flat_map(|step| self.rows(step)).collect();
        let rows: Vec<usize> = seen.into_iter().collect();
        let mismatched_length = (self.config.method == Method::Kto).then_some(self.config.max_length);
        let own: usize = rows.iter().map(|&r| samples[r].sequences().count()).sum();
        let n_sequences = own + mismatched_length.map_or(0, |_| rows.len());
        let mut progress = |done| observer.on_reference(done, n_sequences);
        References::of_rows(policy, samples, &rows, mismatched_length, self.config.micro_batch_tokens, &mut progress)
    }

    /// Steps of the run.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// Runs the steps that are left, or until the observer has enough.
    pub fn run(&mut self, policy: &mut dyn Policy, observer: &mut dyn Observer) -> Result<()> {
        for step in self.done..self.n_steps {
            let report = self.step(policy, step)?;
            if !observer.on_step(&report)? || !observer.after_step(&report, policy)? {
                break;
            }
        }
        Ok(())
    }

    /// Steps that see every row once.
    pub(super) fn steps_per_epoch(&self) -> usize {
        self.packs.len().div_ceil(self.config.rows_per_step())
    }

    /// Rows of a step: each epoch has an order of its own; its last step may be smaller.
    pub(super) fn rows(&self, step: usize) -> Vec<usize> {
        let (n, per_step, per_epoch) = (self.packs.len(), self.config.rows_per_step(), self.steps_per_epoch());
        let (epoch, within) = (step / per_epoch, step % per_epoch);
        let order = order(n as u32, self.config.seed, epoch as u64);
        let chosen = &order[within * per_step..((within + 1) * per_step).min(n)];
        chosen.iter().flat_map(|&i| self.packs[i as usize].iter().copied()).collect()
    }

    /// Forms the gradients of a step's rows, from 0, and moves nothing: the policy holds them.
    pub fn accumulate(&mut self, policy: &mut dyn Policy, step: usize) -> Result<()> {
        self.gradients(policy, step).map(drop)
    }

    fn gradients(&mut self, policy: &mut dyn Policy, step: usize) -> Result<Tally> {
        let rows = self.rows(step);
        let samples = &self.data.samples;
        let kl = self.kl(policy, &rows)?;
        let units = count_units(samples, &rows, &self.weights, kl);
        let mut tally = Tally { kl: units.kl, ..Tally::default() };
        policy.zero_gradients();
        policy.begin_step(self.config.seed, step as u64);
        for batch in self.micro_batches(&rows) {
            let sequences: Vec<&Sequence> = batch.iter().flat_map(|&r| samples[r].sequences()).collect();
            let mut logps = policy.forward(&sequences)?.into_iter();
            let mut gradients = Vec::with_capacity(sequences.len());
            for &row in batch {
                let own: Vec<_> = logps.by_ref().take(samples[row].sequences().count()).collect();
                let (references, weights) = (&self.references, &self.weights);
                let logps = RowLogps { row, policy: &own, references, weights };
                gradients.extend(row_loss(&self.config, &samples[row], &logps, &units, &mut tally)?);
            }
            if !tally.loss.is_finite() {
                return Err(self.numeric(step, batch, "the loss", tally.loss));
            }
            policy.backward(&gradients)?;
            self.num_tokens += sequences.iter().map(|s| s.tokens.len()).sum::<usize>();
        }
        Ok(tally)
    }

    /// One optimizer step, from 0.
    pub fn step(&mut self, policy: &mut dyn Policy, step: usize) -> Result<StepReport> {
        let begun = Instant::now();
        let tally = self.gradients(policy, step)?;
        let rows = self.rows(step);
        let n_tensors = policy.lengths().len();
        let squares: Vec<f64> = (0..n_tensors).map(|i| sum_of_squares(policy.gradient(i))).collect();
        let grad_norm = squares.iter().sum::<f64>().sqrt();
        if !grad_norm.is_finite() {
            return Err(self.numeric(step, &rows, "the gradient's norm", grad_norm));
        }
        let (factor, learning_rate) = (clip_factor(grad_norm, self.config.max_grad_norm), self.schedule.at(step));
        self.optimizer.begin();
        for i in 0..n_tensors {
            // LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B learns faster than A.
            let ratio = if policy.name(i).ends_with(".lora_b") { self.config.loraplus_lr_ratio } else { 1.0 };
            let (values, gradient) = policy.tensor(i);
            let learning_rate = learning_rate * ratio;
            match self.free.get(i) {
                Some(free) => self.optimizer.update_free(i, values, gradient, factor, learning_rate, free),
                None => self.optimizer.update(i, values, gradient, factor, learning_rate),
            }
        }
        self.done = step + 1;
        let (block_grad_norms, step_seconds) = (block_norms(policy, &squares), begun.elapsed().as_secs_f64());
        Ok(StepReport { block_grad_norms, step_seconds, ..self.report(step, &tally, grad_norm, learning_rate) })
    }

    /// Rows in runs that fit one forward, none larger than a batch; packed rows fill a forward whatever their number.
    pub(super) fn micro_batches<'r>(&self, rows: &'r [usize]) -> Vec<&'r [usize]> {
        let mut batches = Vec::new();
        let size = if self.config.packing { rows.len().max(1) } else { self.config.batch_size };
        for batch in rows.chunks(size) {
            let (mut start, mut used) = (0, 0);
            for (i, &row) in batch.iter().enumerate() {
                let need = Layout::padded(self.data.samples[row].sequences());
                if i > start && used + need > self.config.micro_batch_tokens {
                    batches.push(&batch[start..i]);
                    (start, used) = (i, 0);
                }
                used += need;
            }
            batches.push(&batch[start..]);
        }
        batches
    }

    fn kl(&self, policy: &mut dyn Policy, rows: &[usize]) -> Result<f64> {
        if self.config.method != Method::Kto {
            return Ok(0.0);
        }
        let pair = |&r: &usize| mismatched(&self.data.samples, r, self.config.max_length);
        let pairs = rows.iter().map(pair).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<&Sequence> = pairs.iter().collect();
        let sums = summed_log_probs(policy, &pairs, self.config.micro_batch_tokens, &mut |_| {})?;
        let reference = rows.iter().map(|&r| self.references.of_mismatched(r)).collect::<Result<Vec<_>>>()?;
        Ok(baseline(&sums, &reference))
    }

    fn numeric(&self, step: usize, rows: &[usize], what: &str, value: f64) -> Error {
        let lines: Vec<_> = rows.iter().map(|&r| self.data.samples[r].line().to_string()).collect();
        let message = format!(
            "step {}: {what} is {value}, rows of lines {}; the step was not applied",
            step + 1,
            lines.join(", ")
        );
        Error::new(Kind::Numeric, message)
    }

    fn report(&self, step: usize, tally: &Tally, grad_norm: f64, learning_rate: f64) -> StepReport {
        let mut metrics = BTreeMap::new();
        let mut mean = |key, sum: f64, n: usize| {
            if n > 0 {
                metrics.insert(key, sum / n as f64);
            }
        };
        if self.config.method != Method::Sft {
            mean("rewards/chosen", tally.reward_chosen, tally.n_chosen);
            mean("rewards/rejected", tally.reward_rejected, tally.n_rejected);
            mean("logps/chosen", tally.logps_chosen, tally.n_chosen);
            mean("logps/rejected", tally.logps_rejected, tally.n_rejected);
            mean("rewards/accuracies", tally.wins as f64, tally.n_pairs);
            if let (Some(c), Some(r)) = (metrics.get("rewards/chosen"), metrics.get("rewards/rejected")) {
                metrics.insert("rewards/margins", c - r);
            }
        }
        if self.config.method == Method::Kto {
            metrics.insert("kl", tally.kl);
        }
        StepReport {
            step: step + 1,
            n_steps: self.n_steps,
            epoch: (step + 1) as f64 / self.steps_per_epoch() as f64,
            loss: tally.loss,
            grad_norm,
            block_grad_norms: Vec::new(),
            learning_rate,
            num_tokens: self.num_tokens,
            metrics,
            step_seconds: 0.0,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

/// Norms by block from the sums of squares of the tensors.
fn block_norms(policy: &dyn Policy, squares: &[f64]) -> Vec<f64> {
    let mut sums = Vec::new();
    for (i, square) in squares.iter().enumerate() {
        let Some(block) = policy.block(i) else { continue };
        if sums.len() <= block {
            sums.resize(block + 1, 0.0);
        }
        sums[block] += square;
    }
    sums.into_iter().map(f64::sqrt).collect()
}
