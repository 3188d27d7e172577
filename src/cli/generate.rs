//! `llama-align generate`: answers by llama.cpp, with or without an adapter.

use super::args::GenerateArgs;
use super::{adapter_list, open_adapter, open_model, Printer};
use crate::data::Message;
use crate::error::{Error, Kind, Result};
use crate::generate::{generate, prompt_tokens, GenerateParams};
use crate::runtime::{Model, SamplerParams};

/// Runs the command.
pub(super) fn run(args: &GenerateArgs, printer: &mut Printer) -> Result<u8> {
    check_sampling(args)?;
    let (model, file) = open_model(&args.model, args.devices.names(), args.devices.n_gpu_layers())?;
    let mut adapters = Vec::new();
    for (path, scale) in adapter_list(&args.lora, &args.lora_scaled)? {
        adapters.push((open_adapter(&path, &model, &file)?, scale));
    }
    let params = GenerateParams {
        n_predict: args.predict,
        n_threads: args.threads.count(),
        sampler: SamplerParams {
            temperature: args.temp,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            seed: args.seed,
        },
    };
    for prompt in prompts(args)? {
        let tokens = prompt_tokens(&model, &rendered(&model, &prompt, args.no_template)?)?;
        let answer = generate(&model, &adapters, &tokens, &params)?;
        if args.json {
            printer.data(&serde_json::json!({ "prompt": prompt, "completion": answer }).to_string());
        } else {
            printer.data(answer.trim());
        }
    }
    Ok(0)
}

fn check_sampling(args: &GenerateArgs) -> Result<()> {
    for (flag, value, max) in [("temp", args.temp, 100.0), ("top-p", args.top_p, 1.0), ("min-p", args.min_p, 1.0)] {
        if !(0.0..=max).contains(&value) {
            return Err(Error::new(Kind::Argument, format!("--{flag} {value}: outside 0 to {max}")));
        }
    }
    Ok(())
}

fn rendered(model: &Model, prompt: &str, plain: bool) -> Result<String> {
    let Some(template) = model.template()?.filter(|_| !plain) else { return Ok(prompt.to_owned()) };
    template.render(&[Message::new("user", prompt)], true)
}

/// `-p TEXT`, or a file with one prompt per line: plain text, or JSON objects with a `prompt`.
fn prompts(args: &GenerateArgs) -> Result<Vec<String>> {
    let mut prompts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the prompts", &e))?;
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            prompts.push(match line.trim_start().starts_with('{') {
                true => prompt_of(line).ok_or_else(|| {
                    Error::new(
                        Kind::Data,
                        format!("{}:{}: expected an object with a string `prompt`", path.display(), i + 1),
                    )
                })?,
                false => line.to_owned(),
            });
        }
    }
    if prompts.is_empty() {
        return Err(Error::new(Kind::Argument, "nothing to answer: give -p TEXT or --prompts FILE"));
    }
    Ok(prompts)
}

fn prompt_of(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(value.get("prompt")?.as_str()?.to_owned())
}
