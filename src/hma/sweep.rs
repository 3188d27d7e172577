//! Blends measured by tasks: the points of a plot of what alignment gained against what it cost.

use super::{Blended, Shares};
use crate::adapter::{export, Lineage, Lora};
use crate::error::{Error, Kind, Result};
use crate::evaluate::{run, Items, Subject, Task, TaskParams};
use crate::runtime::Adapter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PointKind {
    /// One weight everywhere.
    Average,
    /// A ratio found for every group.
    Hma,
    /// A ratio given for every group.
    Given,
}

impl PointKind {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Hma => "HMA",
            Self::Given => "given",
        }
    }
}

/// A blend that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What it is.
    pub kind: PointKind,
    /// Weight of the model before: the mean of the ratios.
    pub pre_weight: f64,
    /// Weight of the model before, by group; one number for an average.
    pub ratios: Vec<f64>,
    /// Negative log-likelihood per token of the responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// What tasks gave, by `task/metric`.
    pub metrics: BTreeMap<String, f64>,
}

/// Tasks that blends are measured by, in sessions of their own.
#[derive(Debug)]
pub struct Gauge<'a> {
    subject: Subject,
    base: Option<Subject>,
    is_tied: bool,
    adapter: Option<(&'a Lora, &'a Lineage)>,
    tasks: &'a [(Task, Items)],
    params: &'a TaskParams,
}

impl<'a> Gauge<'a> {
    /// `make` gives a session; one is for the blend and one, where a task needs it, for the model before. `adapter`: what makes the
    /// model after, where an adapter does; tasks that generate need one, because the runtime takes no blend of two models.
    ///
    /// # Errors
    /// [`Kind::Argument`] for such a task without one.
    pub fn new(
        make: &dyn Fn() -> Result<Blended>,
        adapter: Option<(&'a Lora, &'a Lineage)>,
        tasks: &'a [(Task, Items)],
        params: &'a TaskParams,
        n_threads: usize,
    ) -> Result<Self> {
        tasks.iter().try_for_each(|(task, _)| Self::check(*task, adapter.is_some()))?;
        let blended = make()?;
        let is_tied = blended.is_tied();
        let subject = |blended: Blended| {
            let model = blended.model().clone();
            Subject { model, engine: Some(blended.into_engine()), adapters: Vec::new(), n_threads }
        };
        let base = match tasks.iter().any(|(task, _)| *task == Task::Kl) {
            true => {
                let mut blended = make()?;
                let n_layers = blended.n_layers();
                blended.set(&Shares::uniform(1.0, n_layers));
                Some(subject(blended))
            }
            false => None,
        };
        Ok(Self { subject: subject(blended), base, is_tied, adapter, tasks, params })
    }

    /// Whether a task can measure blends of an adapter, or of two models.
    ///
    /// # Errors
    /// As [`Gauge::new`].
    pub fn check(task: Task, has_adapter: bool) -> Result<()> {
        if task.scores() || has_adapter {
            return Ok(());
        }
        let (name, what) = (task.name(), "it generates, which takes a written model");
        Err(Error::new(Kind::Argument, format!("--tax {name}: {what}: write the blend and measure it with eval")))
    }

    /// Measures a blend. `tell` hears of each task's items.
    pub fn at(&mut self, shares: &Shares, tell: &mut dyn FnMut(Task, usize, usize)) -> Result<BTreeMap<String, f64>> {
        if let Some(engine) = &mut self.subject.engine {
            shares.set(engine, self.is_tied);
        }
        self.subject.adapters = match self.adapter {
            Some((lora, lineage)) if self.tasks.iter().any(|(task, _)| !task.scores()) => {
                let folded = lora.scaled_by(&|weight| 1.0 - shares.of(weight, self.is_tied))?;
                let failed = |e: std::io::Error| Error::new(Kind::Io, format!("a temporary adapter: {e}"));
                let directory = tempfile::tempdir().map_err(failed)?;
                let path = directory.path().join("blend.gguf");
                export(&folded, lineage, &path)?;
                vec![(Adapter::open(&self.subject.model, &path)?, 1.0)]
            }
            _ => Vec::new(),
        };
        let mut metrics = BTreeMap::new();
        for (task, items) in self.tasks {
            let mut told = |done, all| tell(*task, done, all);
            let report = run(*task, items, &mut self.subject, self.base.as_mut(), self.params, &mut told)?;
            metrics.extend(report.metrics.iter().map(|(name, value)| (format!("{}/{name}", task.name()), *value)));
        }
        Ok(metrics)
    }
}
