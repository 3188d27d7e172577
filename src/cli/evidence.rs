//! The end of a merge: what inputs and output say themselves.

use super::output::plain;
use super::Printer;
use crate::error::Result;
use crate::merge::{Evidence, Findings, PROMPTS};
use crate::runtime::Runtime;
use std::path::{Path, PathBuf};

/// Asks every model that went in, one with the adapters that were folded, and the output.
pub(super) fn measure(
    models: &[&Path],
    adapters: &[(PathBuf, f32)],
    output: &Path,
    n_threads: usize,
    printer: &mut Printer,
) -> Result<Evidence> {
    let adapters: Vec<(&Path, f32)> = adapters.iter().map(|(path, scale)| (path.as_path(), *scale)).collect();
    printer.talk("asking inputs and output for likelihoods and answers (--no-verify leaves this out)");
    Ok(Evidence::of_merge(&Runtime::linked()?, models, &adapters, output, n_threads))
}

/// Likelihoods first, then the answers to each prompt under each other.
pub(super) fn print(evidence: &Evidence, printer: &mut Printer) {
    let width = evidence.models.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let from = evidence.reference.and_then(|i| evidence.models.get(i)).map(|(name, _)| name.as_str());
    let line = |name: &str, text: &str| format!("  {name:width$}  {text}");
    printer.data("llama.cpp on a text of some 250 words, per token:");
    for (name, found) in &evidence.models {
        let text = match found {
            Err(reason) => format!("not measured: {reason}"),
            Ok(Findings { nll, kl, n_tokens, .. }) => {
                let kl = kl.map(|kl| format!(", KL {kl:.5} from {}", from.unwrap_or_default()));
                format!("NLL {nll:.4} ({n_tokens} tokens){}", kl.unwrap_or_default())
            }
        };
        printer.data(&line(name, &text));
    }
    for (i, prompt) in PROMPTS.iter().enumerate() {
        printer.data(prompt);
        for (name, found) in &evidence.models {
            if let Some(answer) = found.as_ref().ok().and_then(|f| f.answers.get(i)) {
                printer.data(&line(name, &plain(&answer.trim().replace('\n', "⏎"))));
            }
        }
    }
}
