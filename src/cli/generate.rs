//! `llama-align generate`: answers by llama.cpp, with or without an adapter.

use super::args::GenerateArgs;
use super::{open_model, sampling, Printer};
use crate::data::{read_prompts, Columns, EncodeOptions, Encoder, Text};
use crate::error::{Error, Kind, Result};
use crate::generate::generate;
use crate::pairs::prompt_json;

/// Runs the command.
pub(super) fn run(args: &GenerateArgs, printer: &mut Printer) -> Result<u8> {
    let params = sampling::params(&args.sampling, args.parallel, args.threads.count())?;
    if !(1..=4096).contains(&args.samples) {
        return Err(Error::new(Kind::Argument, format!("--samples {}: outside 1 to 4096", args.samples)));
    }
    let (model, file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let adapters = sampling::adapters(&args.adapters, &model, &file)?;
    let prompts = prompts(args)?;
    let template = model.template()?.filter(|_| !args.no_template);
    // What is typed to be taken as it is may name control tokens; what goes through the template may not.
    let options = EncodeOptions { parse_special: args.no_template, ..EncodeOptions::default() };
    let encoder = Encoder::new(model.as_ref(), template.as_ref(), &options)?;
    if args.no_template && prompts.iter().any(|prompt| *prompt == Text::Plain(String::new())) {
        return Err(Error::new(Kind::Argument, "the prompt has no tokens"));
    }
    let tokens = prompts.iter().map(|prompt| encoder.prompt(prompt)).collect::<Result<Vec<_>>>()?;
    // Each group is printed when it is done.
    let repeated: Vec<_> = (0..prompts.len()).flat_map(|i| std::iter::repeat_n(i, args.samples)).collect();
    for (i, group) in repeated.chunks(args.parallel).enumerate() {
        let mut params = params;
        params.sampler.seed = params.sampler.seed.wrapping_add((i * args.parallel) as u32);
        let asked: Vec<_> = group.iter().map(|&i| tokens[i].clone()).collect();
        for (answer, &i) in generate(&model, &adapters, &asked, &params)?.into_iter().zip(group) {
            if args.json {
                let row = serde_json::json!({ "prompt": prompt_json(&prompts[i]), "completion": answer.text });
                printer.data(&row.to_string());
            } else {
                printer.data(answer.text.trim());
            }
        }
    }
    Ok(0)
}

/// `-p TEXT`, or a file with one prompt per line: plain text, or JSON objects with a `prompt`.
fn prompts(args: &GenerateArgs) -> Result<Vec<Text>> {
    let mut prompts: Vec<_> = args.prompt.iter().map(|text| Text::Plain(text.clone())).collect();
    if let Some(path) = &args.prompts {
        prompts.extend(read_prompts(path, &Columns::default())?);
    }
    if prompts.is_empty() {
        return Err(Error::new(Kind::Argument, "nothing to answer: give -p TEXT or --prompts FILE"));
    }
    Ok(prompts)
}
