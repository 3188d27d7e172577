//! What remains of a run beside its adapter: scores of held-out rows, the record.

use super::moving::Written;
use crate::error::Result;
use crate::gguf::{self, Value};
use crate::report::{
    config_record, file_hash, report_record, BaseRecord, BestRecord, DataRecord, FlopsRecord, ProgramRecord, RunRecord,
};
use crate::trace::Trace;
use crate::train::{EvalReport, Outcome, RunDir, StepReport, TrainConfig};
use serde_json::Map;
use std::path::Path;

/// A finished run's parts.
pub(super) struct Finished<'a> {
    pub(super) run_dir: &'a RunDir,
    pub(super) config: &'a TrainConfig,
    pub(super) file: &'a gguf::File,
    pub(super) base_hash: &'a str,
    pub(super) trace: &'a Trace,
    pub(super) data: DataRecord,
    pub(super) eval_data: Option<DataRecord>,
    pub(super) before: Option<&'a EvalReport>,
    pub(super) last: &'a StepReport,
    pub(super) outcome: Option<&'a Outcome>,
    pub(super) flops: u64,
    /// The files that hold what was trained.
    pub(super) written: Written,
}

/// Writes `eval-items.jsonl`, where rows were held out, and `run.json`, which says that the run is complete.
pub(super) fn finish(run: &Finished<'_>) -> Result<RunRecord> {
    if let Some(outcome) = run.outcome {
        run.run_dir.write_lines("eval-items.jsonl", &outcome.result.rows)?;
    }
    let record = record(run)?;
    record.write(&run.run_dir.record())?;
    Ok(record)
}

fn record(run: &Finished<'_>) -> Result<RunRecord> {
    let parameters = run.file.tensors().iter().map(|t| t.ne.iter().product::<u64>()).sum();
    let text = |key: &str| run.file.get(key).and_then(Value::as_str).map(str::to_owned);
    let (last, tokens) = (run.last, run.last.num_tokens);
    let mut train = Map::new();
    train.insert("loss".into(), last.loss.into());
    train.insert("grad_norm".into(), last.grad_norm.into());
    train.extend(last.metrics.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())));
    Ok(RunRecord {
        format: RunRecord::format(),
        program: ProgramRecord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            executable: std::env::current_exe().ok().and_then(|path| file_hash(&path).ok()),
            graph: blake3::hash(format!("{:?}", run.trace.program).as_bytes()).to_hex().to_string(),
        },
        base: BaseRecord {
            hash: run.base_hash.to_owned(),
            architecture: text("general.architecture").unwrap_or_default(),
            name: text("general.name"),
            parameters,
        },
        data: run.data.clone(),
        eval_data: run.eval_data.clone(),
        config: config_record(run.config)?,
        steps: last.step,
        stopped_early: run.outcome.is_some_and(|o| o.stopped_early),
        best: run.outcome.filter(|_| run.config.eval_steps > 0).map(|o| {
            let (step, metric, value) = o.best.clone();
            BestRecord { step, metric, value }
        }),
        tokens,
        flops: FlopsRecord { executed: run.flops, estimated_per_pass: 2 * parameters * tokens as u64 },
        train,
        before: run.before.map(report_record).transpose()?,
        after: run.outcome.map(|o| report_record(&o.result.report)).transpose()?,
        adapter: file_hash(&run.written.result)?,
        change: run.written.beside.as_deref().map(file_hash).transpose()?,
    })
}

/// A file of rows as the record keeps it.
pub(super) fn data_record(path: &Path, data: &crate::data::Dataset) -> Result<DataRecord> {
    Ok(DataRecord { hash: file_hash(path)?, rows: data.samples.len(), tokens: data.report.tokens })
}
