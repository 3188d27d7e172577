//! `llama-align rate`: two answers are shown, a person says which is better, pairs come out.

use super::args_data::{RateArgs, Sampling};
use super::{dataset, open_model, sampling, Printer};
use crate::data::{read_all_with, read_prompts, Columns, EncodeOptions, Encoder, Message, Text};
use crate::error::{Error, Kind, Result};
use crate::generate::generate;
use crate::journal::Journal;
use crate::rate::{questions, rated, shuffled, verdict_json, verdict_of, Question, Verdict};
use serde_json::{json, Value};
use std::io::BufRead;
use std::path::Path;

/// Prompts that are answered at once.
const PROMPTS_AT_ONCE: usize = 2;

/// Runs the command.
pub(super) fn run(args: &RateArgs, printer: &mut Printer) -> Result<u8> {
    let columns = dataset::columns(&args.columns)?;
    let questions = match &args.model {
        None => questions(read_all_with(&args.file, &columns)?, u64::from(args.seed))?,
        Some(model) => answered(args, model, &columns, printer)?,
    };
    let shown = |q: &Question| json!([crate::pairs::prompt_json(&q.prompt), q.answers]);
    let work = json!({ "questions": questions.iter().map(shown).collect::<Value>() });
    let mut journal = Journal::open(&args.output, &work, args.overwrite)?;
    let ended = ask(&questions, &mut journal, &mut std::io::stdin().lock(), printer)?;
    let verdicts = journal.items().iter().map(verdict_of).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Value> = questions.iter().zip(&verdicts).filter_map(|(q, verdict)| rated(q, *verdict)).collect();
    let n = rows.len();
    if n > 0 {
        journal.publish(rows)?;
    }
    let (n_questions, out) = (questions.len(), args.output.display().to_string());
    if ended {
        journal.remove()?;
    } else {
        printer.talk(&format!("{} of {n_questions} were asked; the same command goes on", verdicts.len()));
    }
    if n > 0 {
        printer.data(&format!("{out}: {n} pairs of {n_questions}"));
    } else {
        printer.data(&format!("no pairs of {n_questions}; {out} was not written"));
    }
    Ok(0)
}

/// Asks what was not asked before; `false` where the person had enough.
fn ask(questions: &[Question], journal: &mut Journal, input: &mut dyn BufRead, printer: &mut Printer) -> Result<bool> {
    for (i, question) in questions.iter().enumerate().skip(journal.items().len()) {
        printer.talk(&format!("\n--- {} of {} ---\n{}", i + 1, questions.len(), readable(&question.prompt)));
        for (number, answer) in question.answers.iter().enumerate() {
            printer.talk(&format!("\n[{}] {}", number + 1, visible(answer.trim())));
        }
        loop {
            printer.talk("\nwhich is better? 1, 2, s to skip, q to stop:");
            let mut line = String::new();
            let read = input.read_line(&mut line).map_err(|e| Error::io("stdin", "cannot read", &e))?;
            if read == 0 || matches!(line.trim(), "q" | "quit" | "Q") {
                return Ok(false);
            }
            if let Some(verdict) = Verdict::parse(&line) {
                journal.push([verdict_json(verdict)])?;
                break;
            }
        }
    }
    Ok(true)
}

/// A prompt for a person to read.
fn readable(prompt: &Text) -> String {
    let turn = |m: &Message| format!("{}: {}", visible(&m.role), visible(m.content.trim()));
    match prompt {
        Text::Plain(text) => visible(text.trim()),
        Text::Messages(messages) => messages.iter().map(turn).collect::<Vec<_>>().join("\n"),
    }
}

/// Text that cannot command a terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Answers each prompt twice; what is equal, cut or empty is left out.
fn answered(args: &RateArgs, path: &Path, columns: &Columns, printer: &mut Printer) -> Result<Vec<Question>> {
    let draw =
        Sampling { predict: args.predict, temp: args.temp, top_k: 40, top_p: 0.95, min_p: 0.05, seed: args.seed };
    let params = sampling::params(&draw, 2 * PROMPTS_AT_ONCE, args.threads.count())?;
    let prompts = read_prompts(&args.file, columns)?;
    let (model, _) = open_model(path, args.devices.names(), args.devices.n_gpu_layers())?;
    let template = model.template()?;
    let encoder = Encoder::new(model.as_ref(), template.as_ref(), &EncodeOptions::default())?;
    let tokens = prompts.iter().map(|prompt| encoder.prompt(prompt)).collect::<Result<Vec<_>>>()?;
    let mut pairs = Vec::new();
    for (i, group) in prompts.chunks(PROMPTS_AT_ONCE).enumerate() {
        let first = i * PROMPTS_AT_ONCE;
        let twice: Vec<_> = (first..first + group.len()).flat_map(|i| [tokens[i].clone(), tokens[i].clone()]).collect();
        let mut params = params;
        params.sampler.seed = params.sampler.seed.wrapping_add(2 * first as u32);
        let answers = generate(&model, &[], &twice, &params)?;
        for (prompt, both) in group.iter().zip(answers.chunks(2)) {
            let texts: Vec<_> = both.iter().map(|a| a.text.trim().to_owned()).collect();
            if let ([a, b], true) = (texts.as_slice(), both.iter().all(|a| a.ended)) {
                if a != b && !a.is_empty() && !b.is_empty() {
                    pairs.push((prompt.clone(), [a.clone(), b.clone()]));
                }
            }
        }
        printer.talk(&format!("{} of {} prompts answered twice", first + group.len(), prompts.len()));
    }
    if pairs.is_empty() {
        let message = format!("{}: no prompt has two different whole answers", args.file.display());
        return Err(Error::new(Kind::Data, message));
    }
    printer.talk(&format!("{} have two different whole answers", pairs.len()));
    Ok(shuffled(pairs.into_iter(), u64::from(args.seed)))
}
