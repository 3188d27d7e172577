//! `llama-align pairs`: prompts and a description of a style in, preference pairs out.

use super::args_data::PairsArgs;
use super::{dataset, open_model, sampling, Printer};
use crate::data::{read_prompts, Text};
use crate::error::{Error, Kind, Result};
use crate::gguf::base_hash;
use crate::journal::Journal;
use crate::pairs::{prompt_json, row_json, Outcome, PairMaker, PairsParams};
use serde_json::{json, Value};

/// Runs the command.
pub(super) fn run(args: &PairsArgs, printer: &mut Printer) -> Result<u8> {
    let generate = sampling::params(&args.sampling, args.parallel, args.threads.count())?;
    let prompts = read_prompts(&args.prompts, &dataset::columns(&args.columns)?)?;
    let (model, file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let adapters = sampling::adapters(&args.adapters, &model, &file)?;
    let (chosen_system, rejected_system) = (args.chosen_system.clone(), args.rejected_system.clone());
    let maker = PairMaker::new(&model, &adapters, PairsParams { chosen_system, rejected_system, generate })?;
    let work = json!({
        "prompts": prompts.iter().map(prompt_json).collect::<Value>(),
        "chosen_system": args.chosen_system,
        "rejected_system": args.rejected_system,
        "base": base_hash(&file),
        "adapters": digests(args)?,
        "generate": format!("{generate:?}"),
    });
    let mut journal = Journal::open(&args.output, &work, args.overwrite)?;
    if !journal.items().is_empty() {
        printer.talk(&format!("{} of {} prompts were answered before", journal.items().len(), prompts.len()));
    }
    while let Some((first, group)) = next_group(&prompts, journal.items().len(), args.parallel) {
        let outcomes = maker.answer(group, first)?;
        journal.push(group.iter().zip(&outcomes).map(|(prompt, outcome)| item(prompt, outcome)))?;
        printer.talk(&format!("{} of {} prompts answered", first + group.len(), prompts.len()));
    }
    let rows: Vec<Value> = journal.items().iter().filter_map(|item| item.get("row").cloned()).collect();
    let count = |why: &str| journal.items().iter().filter(|item| item["dropped"] == why).count();
    let dropped = ["equal", "truncated", "empty"].map(|why| format!("{} {why}", count(why))).join(", ");
    if rows.is_empty() {
        let message = format!("{}: no pairs of {} prompts: {dropped}", args.prompts.display(), prompts.len());
        return Err(Error::new(Kind::Data, message));
    }
    let n = rows.len();
    journal.publish(rows)?;
    journal.remove()?;
    printer.data(&format!("{}: {n} pairs of {} prompts; dropped: {dropped}", args.output.display(), prompts.len()));
    Ok(0)
}

/// The prompts that are answered next, and the place of their first. Groups begin at multiples of their size, so that work
/// that was interrupted goes on as if it had not been.
fn next_group(prompts: &[Text], done: usize, size: usize) -> Option<(usize, &[Text])> {
    let end = ((done / size + 1) * size).min(prompts.len());
    prompts.get(done..end).filter(|group| !group.is_empty()).map(|group| (done, group))
}

fn item(prompt: &Text, outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Pair { chosen, rejected } => json!({ "row": row_json(prompt, chosen, rejected) }),
        other => json!({ "dropped": other.dropped() }),
    }
}

/// Digests of the adapter files, with their scales.
fn digests(args: &PairsArgs) -> Result<Vec<String>> {
    let list = super::adapter_list(&args.adapters.lora, &args.adapters.lora_scaled)?;
    let digest = |(path, scale): &(std::path::PathBuf, f32)| {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "cannot read", &e))?;
        Ok(format!("{}:{scale}", blake3::hash(&bytes).to_hex()))
    };
    list.iter().map(digest).collect()
}
