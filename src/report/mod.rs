//! What remains of runs, for people: the record of a run, comparisons of runs, and the page.
//!
//! **In:** run directories. **Out:** `run.json`, tables, `report.html`. **Invariant:** equal runs give equal bytes; nothing
//! that comes from a file reaches the page unescaped.

mod averaging;
mod charts;
mod compare;
mod heat;
mod html;
mod page;
mod plot;
mod record;
mod scale;
mod table;
mod tokens;
mod view;

pub use averaging::{averaging_page, GroupRecord, HmaRecord, LikelihoodRecord};
pub use compare::{compare, Cell, CompareParams, Comparison, Group};
pub use heat::mask_page;
pub use page::{page, write_page, PAGE};
pub use record::{
    config_record, file_hash, report_record, BaseRecord, BestRecord, DataRecord, FlopsRecord, ProgramRecord, RunRecord,
    TaxRecord,
};
pub use table::TableFormat;
pub use tokens::{tokens_page, TokenAnswer, TokenScale};
pub use view::{RunView, SampleAnswer};
