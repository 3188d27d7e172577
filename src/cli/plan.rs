//! What a run may take, and what it will.

use crate::error::{Error, Kind, Result};
use crate::train::Forecast;

/// Megabytes or gigabytes, as llama-gguf-split understands them.
pub(super) fn bytes(flag: &str, text: &str) -> Result<u64> {
    let number = text.strip_suffix('M').map(|n| (n, 1_000_000)).or(text.strip_suffix('G').map(|n| (n, 1_000_000_000)));
    let bytes = number.and_then(|(n, unit)| n.parse::<u64>().ok()?.checked_mul(unit));
    bytes.filter(|&n| n > 0).ok_or_else(|| {
        let message = format!("--{flag} {text}: expected a number of megabytes or gigabytes, such as 500M or 2G");
        Error::new(Kind::Argument, message)
    })
}

/// A forecast as a comment of the configuration that it is printed behind.
pub(super) fn foretell(f: &Forecast) -> String {
    let seconds = f.seconds.round() as u64;
    let time = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut line = format!("\n# {} steps: {time} and {} MiB of memory", f.n_steps, f.peak_rss_bytes >> 20);
    line += &format!(", by two of them at {:.0} tokens/s", f.step_tokens_per_s);
    if f.forward_tokens > 0 {
        line += &format!(" ({:.0} without gradients)", f.forward_tokens_per_s);
    }
    line
}
