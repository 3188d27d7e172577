//! `llama-align sample`: a model answers questions whose answers are known, several times each; its right and wrong answers become
//! pairs, and its wrong ones what is to be forgotten.

use super::args_data::SampleArgs;
use super::{adapter_list, open_model, sampling, Printer};
use crate::data::{EncodeOptions, Encoder, Text};
use crate::error::{Error, Kind, Result};
use crate::evaluate::{read_answers, QuestionItem};
use crate::generate::generate;
use crate::gguf::{base_hash, check_output, write_atomically};
use crate::journal::Journal;
use crate::judged::Judged;
use serde_json::{json, Value};

/// Temperature where none is given; the paper's.
const TEMPERATURE: f32 = 0.7;

/// Runs the command.
pub(super) fn run(args: &SampleArgs, printer: &mut Printer) -> Result<u8> {
    let mut params = sampling::params(&args.sampling, args.parallel, args.threads.count())?;
    if params.sampler.temperature == 0.0 {
        // The likeliest tokens are the same each time.
        params.sampler.temperature = TEMPERATURE;
    }
    if !(2..=4096).contains(&args.samples) || !(1..=4096).contains(&args.pairs_per_question) {
        let message = "--samples: outside 2 to 4096, or --pairs-per-question: outside 1 to 4096";
        return Err(Error::new(Kind::Argument, message));
    }
    if let Some(path) = &args.forget {
        check_output(path, [args.data.as_path(), args.output.as_path()], args.overwrite)?;
    }
    let questions = read_answers(&args.data)?;
    let n = if args.limit == 0 { questions.len() } else { args.limit.min(questions.len()) };
    let questions = &questions[..n];
    let (model, file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let adapters = sampling::adapters(&args.adapters, &model, &file)?;
    let template = model.template()?;
    let encoder = Encoder::new(model.as_ref(), template.as_ref(), &EncodeOptions::default())?;
    let digest = |(path, scale): (std::path::PathBuf, f32)| {
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "cannot read", &e))?;
        Ok(format!("{}:{scale}", blake3::hash(&bytes).to_hex()))
    };
    let list = adapter_list(&args.adapters.lora, &args.adapters.lora_scaled)?;
    let work = json!({
        "questions": questions.iter().map(|q| json!([q.prompt, q.gold])).collect::<Value>(),
        "append": args.append, "samples": args.samples, "pairs": args.pairs_per_question,
        "base": base_hash(&file), "adapters": list.into_iter().map(digest).collect::<Result<Vec<_>>>()?,
        "generate": format!("{params:?}"),
    });
    let mut journal = Journal::open(&args.output, &work, args.overwrite)?;
    if !journal.items().is_empty() {
        printer.talk(&format!("{} of {n} questions were answered before", journal.items().len()));
    }
    let begun = journal.items().len();
    for (i, question) in questions.iter().enumerate().skip(begun) {
        let asked = prompt(args, question);
        let tokens = encoder.prompt(&Text::Plain(asked))?;
        // Every question has draws of its own, whatever came before it.
        let mut own = params;
        own.sampler.seed = params.sampler.seed.wrapping_add((i * args.samples) as u32);
        let answers = generate(&model, &adapters, &vec![tokens; args.samples], &own)?;
        let judged = Judged::new(answers.iter().map(|answer| answer.text.as_str()), known(question));
        let told = format!("{} of {n}: {} right, {} wrong", i + 1, judged.right.len(), judged.wrong.len());
        journal.push([json!({ "right": judged.right, "wrong": judged.wrong })])?;
        printer.talk(&told);
    }
    let (mut pairs, mut forgetting, mut counts) = (Vec::new(), String::new(), [0usize; 2]);
    for (question, item) in questions.iter().zip(journal.items()) {
        let texts = |key: &str| -> Vec<String> {
            item[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let judged = Judged { right: texts("right"), wrong: texts("wrong") };
        counts = [counts[0] + judged.right.len(), counts[1] + judged.wrong.len()];
        let asked = prompt(args, question);
        pairs.extend(judged.pairs(&asked, args.pairs_per_question, u64::from(args.sampling.seed)));
        judged.forgetting(&asked, known(question)).iter().for_each(|row| forgetting += &format!("{row}\n"));
    }
    let ([right, wrong], n_pairs) = (counts, pairs.len());
    if let Some(path) = &args.forget {
        write_atomically(path, forgetting.as_bytes())?;
        printer.data(&format!("{}: {wrong} wrong answers of {n} questions", path.display()));
    }
    if pairs.is_empty() {
        let what = format!("no question has a right and a wrong answer: {right} right, {wrong} wrong of {n} questions");
        return Err(Error::new(Kind::Data, format!("{}: {what}", args.data.display())));
    }
    journal.publish(pairs)?;
    journal.remove()?;
    let output = args.output.display();
    printer
        .data(&format!("{output}: {n_pairs} pairs of {n} questions; different answers: {right} right, {wrong} wrong"));
    Ok(0)
}

fn prompt(args: &SampleArgs, question: &QuestionItem) -> String {
    match args.append.as_deref() {
        None => question.prompt.clone(),
        Some(text) => format!("{}\n{text}", question.prompt),
    }
}

fn known(question: &QuestionItem) -> &str {
    question.gold.first().map_or("", String::as_str)
}
