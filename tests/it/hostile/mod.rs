//! Bad files, bad rows, bad flags: each is refused with an error that names the offender, by the library and by the
//! program, which never ends by a signal and leaves nothing half-written.

mod adapters;
mod flags;
mod fuzz;
mod image;
mod models;
mod outputs;
mod program;
mod rows;
mod runs;

use llama_align::error::{Kind, Result};

/// A bad file: how it came about, its bytes, and what must be said about it.
struct Case {
    what: String,
    bytes: Vec<u8>,
    kind: Kind,
    says: String,
}

impl Case {
    fn new(what: impl Into<String>, bytes: Vec<u8>, kind: Kind, says: impl Into<String>) -> Self {
        Self { what: what.into(), bytes, kind, says: says.into() }
    }

    /// What is wrong with a verdict on the file called `label`, if anything is.
    fn objection(&self, label: &str, verdict: Result<()>) -> Option<String> {
        let error = match verdict {
            Ok(()) => return Some(format!("{}: accepted", self.what)),
            Err(error) => error,
        };
        let text = error.to_string();
        let good = error.kind() == self.kind && text.contains(&self.says) && text.contains(label);
        (!good).then(|| format!("{}: {error:?}, expected {:?} with {:?}", self.what, self.kind, self.says))
    }
}
