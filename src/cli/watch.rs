//! A run as a person watches it: a bar on a terminal, plain lines otherwise, and what it will cost after two steps.

use super::Printer;
use crate::adapter::{export, export_changes, Lineage};
use crate::error::Result;
use crate::os::peak_rss_bytes;
use crate::train::{Measured, MetricsFile, Observer, RunDir, StepReport, TrainConfig};
use indicatif::{ProgressBar, ProgressStyle};

/// Where adapters of measurements on the way go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) run_dir: &'a RunDir,
    pub(super) lineage: &'a Lineage,
}

/// Writes metrics and talks about progress.
pub(super) struct Watch<'a> {
    metrics: &'a mut MetricsFile,
    printer: &'a mut Printer,
    keep: Keep<'a>,
    /// Steps and tokens before this process took the run up.
    before: (usize, usize),
    bar: Option<ProgressBar>,
    /// Sums over the steps so far.
    step_seconds: f64,
    last: Option<StepReport>,
    /// Tenths of the reference pass that were announced.
    tenths: usize,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        metrics: &'a mut MetricsFile,
        printer: &'a mut Printer,
        keep: Keep<'a>,
        before: (usize, usize),
    ) -> Self {
        let bar = printer.is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(1).with_style(style)
        });
        Self { metrics, printer, keep, before, bar, step_seconds: 0.0, last: None, tenths: 0 }
    }

    /// Lines of the metrics file, once they are safe on the disk.
    pub(super) fn synced_lines(&self) -> Result<u64> {
        self.metrics.synced_lines()
    }

    /// Ends the bar and sums the run up.
    pub(super) fn finish(mut self) -> Option<StepReport> {
        let last = self.last.take()?;
        let (steps, tokens) = (last.step - self.before.0, last.num_tokens - self.before.1);
        let per_second = tokens as f64 / last.seconds.max(1e-9);
        self.say(&format!(
            "{steps} steps, {tokens} tokens in {:.0} s: {per_second:.0} tokens/s with everything; peak memory {} MiB",
            last.seconds,
            peak_rss_bytes() >> 20
        ));
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        Some(last)
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.printer.talk(line)),
            None => self.printer.talk(line),
        }
    }

    /// A line that the next one may replace.
    fn show(&mut self, done: usize, all: usize, line: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
                bar.set_message(line);
            }
            None => self.printer.talk(&line),
        }
    }
}

impl Observer for Watch<'_> {
    fn on_reference(&mut self, done: usize, n_sequences: usize) {
        let tenths = done * 10 / n_sequences.max(1);
        if self.bar.is_some() || tenths > self.tenths {
            self.tenths = tenths;
            self.show(done, n_sequences, format!("reference log-probs: {done} of {n_sequences} sequences"));
        }
    }

    fn on_step(&mut self, r: &StepReport) -> Result<bool> {
        self.metrics.step(r)?;
        let new_tokens = r.num_tokens - self.last.as_ref().map_or(self.before.1, |l| l.num_tokens);
        self.step_seconds += r.step_seconds;
        let left = self.step_seconds / (r.step - self.before.0) as f64 * (r.n_steps - r.step) as f64;
        let per_second = new_tokens as f64 / r.step_seconds.max(1e-9);
        let margin = r.metrics.get("rewards/margins").map_or(String::new(), |m| format!(", margin {m:.3}"));
        let (step, n_steps) = (r.step, r.n_steps);
        let line =
            format!("step {step}/{n_steps}: loss {:.4}{margin}, {per_second:.0} tokens/s, {left:.0} s left", r.loss);
        self.show(step, n_steps, line);
        if step == (self.before.0 + 2).min(n_steps) {
            let (tokens, peak) = (r.num_tokens, peak_rss_bytes() >> 20);
            self.say(&format!(
                "after {step} steps: {tokens} tokens, {peak} MiB at the peak, the mapped model included; \
                 about {left:.0} s left of {n_steps} steps"
            ));
        }
        self.last = Some(r.clone());
        Ok(true)
    }

    fn on_evaluation(&mut self, measured: &Measured, is_best: bool) -> Result<()> {
        let Keep { config, run_dir, lineage } = self.keep;
        self.metrics.evaluation(measured.step, &measured.report)?;
        if config.eval_steps > 0 {
            let report = &measured.report;
            let loss = report.loss.map_or(String::new(), |l| format!("loss {l:.4}, "));
            let margin = report.reward_margin.map_or(String::new(), |m| format!(", margin {m:.3}"));
            let best = if is_best { " (best so far)" } else { "" };
            self.say(&format!("held out, step {}: {loss}nll {:.4}{margin}{best}", measured.step, report.nll));
        }
        if let Some(lora) = &measured.adapter {
            if config.keep_adapters > 0 {
                export(lora, lineage, &run_dir.kept_adapter(measured.step)?)?;
                run_dir.prune_adapters(config.keep_adapters)?;
            }
            if is_best && config.eval_steps > 0 && (config.keep_adapters > 0 || config.load_best_model_at_end) {
                export(lora, lineage, &run_dir.best_adapter()?)?;
                if !measured.changes.is_empty() {
                    export_changes(&measured.changes, lineage, &run_dir.best_change()?)?;
                }
            }
        }
        Ok(())
    }
}
