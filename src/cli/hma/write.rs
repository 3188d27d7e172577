//! What the command makes: an adapter with its scales folded in, or a model.

use super::args::HmaArgs;
use super::models::{After, Pair};
use crate::adapter::export;
use crate::cli::{serving, Printer};
use crate::error::{Error, Kind, Result};
use crate::gguf::File;
use crate::hma::Shares;
use crate::merge::{average, fold, Bound, Options, OutType, Report};

/// Writes what `-o` asks for; the report of a model that was made.
pub(super) fn output(args: &HmaArgs, pair: &Pair, shares: &Shares, printer: &mut Printer) -> Result<Option<Report>> {
    let Some(output) = args.output.as_deref() else { return Ok(None) };
    let out = OutType::from_name(args.outtype.as_deref().unwrap_or("keep"), Bound::default())?;
    let options = Options { out, threads: args.threads.count(), overwrite: args.overwrite, ..Options::default() };
    let runtime = pair.before.model.runtime();
    match &pair.after {
        After::Model(after) => {
            let tied = [&pair.before, after.as_ref()].iter().all(|half| half.file.tensor("output.weight").is_none());
            let share = |name: &str| shares.of(name, tied);
            let files = [&pair.before.file, &after.file];
            let numbers = [("pre_weight", shares.mean)];
            let report = average(runtime, files, &share, &numbers, &options, Some(output), &mut |_| {})?;
            serving::tell(output, None, printer)?;
            Ok(Some(report))
        }
        After::Adapter(aligner) => {
            let (lora, lineage) = (&aligner.lora, &aligner.lineage);
            let scaled = lora.scaled_by(&|weight| 1.0 - shares.of(weight, false))?;
            if !args.fold {
                export(&scaled, lineage, output)?;
                let (model, adapter) = (args.model.display(), output.display());
                printer.talk(&format!("serve it: llama-server -m {model} --lora {adapter}"));
                return Ok(None);
            }
            let failed = |e: std::io::Error| Error::new(Kind::Io, format!("a temporary adapter: {e}"));
            let directory = tempfile::tempdir().map_err(failed)?;
            let path = directory.path().join("hma.gguf");
            export(&scaled, lineage, &path)?;
            let file = File::open(&path)?;
            let report = fold(runtime, &pair.before.file, &[(&file, 1.0)], &options, Some(output), &mut |_| {})?;
            serving::tell(output, None, printer)?;
            Ok(Some(report))
        }
    }
}
