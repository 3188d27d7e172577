//! What remains of runs, for people: the record of a run, comparisons of runs, and the page.
//!
//! **In:** run directories. **Out:** `run.json`, tables, `report.html`. **Invariant:** equal runs give equal bytes; nothing
//! that comes from a file reaches the page unescaped.

mod record;

pub use record::{
    config_record, file_hash, report_record, BaseRecord, BestRecord, DataRecord, FlopsRecord, ProgramRecord, RunRecord,
};
