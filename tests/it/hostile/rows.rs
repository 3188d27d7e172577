//! Bad rows.
pub(super) const PAIR: &str = "{\"prompt\":\"one\",\"chosen\":\"two\",\"rejected\":\"three\"}\n";
