//! Tasks with right answers, before and after: pairs, likelihoods, multiple choice, generated answers, drift.
//!
//! **In:** a model, an adapter or none, a task's file. **Out:** means, every item's scores, a table of changes with
//! intervals. **Invariant:** the same items in the same order for all that is compared; equal seeds draw equal items and
//! equal resamples.

mod choice;
mod divergence;
mod items;
mod number;
mod squad;
mod statistics;
mod task;
mod tax;

pub use choice::{mc1, mc2, Choice, Normalisation};
pub use divergence::{between, Divergence};
pub use items::{read_answers, read_choices, read_squad, ChoiceItem, QuestionItem};
pub use number::{last as last_number, marked as marked_number};
pub use squad::{exact_match, f1, normalise};
pub use statistics::{mean, paired_bootstrap, standard_deviation, Bootstrap, RESAMPLES};
pub use task::{load, run, ItemScore, Items, Subject, Task, TaskParams, TaskReport};
pub use tax::{tax, TaxRow};
