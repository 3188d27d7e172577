//! The program: parses flags, calls the library's public interface, prints.
//!
//! **Invariant:** nothing here that a library user could not do; data goes to stdout, talk to stderr.

mod adapter;
mod allo;
mod args;
mod args_adapter;
mod args_algebra;
mod args_allo;
mod args_data;
mod args_devices;
mod args_held_out;
mod args_loss;
mod args_mask;
mod args_merge;
mod args_optim;
mod args_rows;
mod args_runs;
mod args_saving;
mod args_task;
mod bench;
mod check;
mod data;
mod dataset;
mod devices;
mod eval;
mod evidence;
mod finish;
mod generate;
mod grid;
mod hma;
mod initial;
mod inspect;
mod interrupt;
mod mask;
mod merge;
mod moving;
mod neurons;
mod output;
mod pairs;
mod plan;
mod rate;
mod resume;
mod runs;
mod sample;
mod samples;
mod sampling;
mod serving;
mod steps;
mod task;
mod token_weights;
mod train;
mod watch;

use crate::error::{Error, Kind, Result};
use crate::gguf;
use crate::runtime::{Adapter, Model, Offload, Runtime};
use args::{Command, Options};
use args_data::DataCommand;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

pub use output::Printer;

/// Runs the program with these arguments; returns the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut printer = Printer::new();
    interrupt::keep_writing_errors();
    let arguments: Vec<String> = match arguments.into_iter().map(OsString::into_string).collect() {
        Ok(arguments) => arguments,
        Err(other) => {
            printer.error(&Error::new(Kind::Argument, format!("argument {other:?}: not UTF-8")));
            return Kind::Argument.exit_code();
        }
    };
    if args_devices::wants_list(&arguments) {
        return devices::list(&mut printer);
    }
    let options = match Options::parse_from(arguments) {
        Ok(options) => options,
        Err(usage) => return printer.usage(&usage),
    };
    let result = match options.command {
        Command::Check(args) => check::run(&args, &mut printer),
        Command::Train(args) => train::run(*args, &mut printer),
        Command::Eval(args) => eval::run(&args, &mut printer),
        Command::Generate(args) => generate::run(&args, &mut printer),
        Command::Data(DataCommand::Check(args)) => data::run(&args, &mut printer),
        Command::Pairs(args) => pairs::run(&args, &mut printer),
        Command::Sample(args) => sample::run(&args, &mut printer),
        Command::Rate(args) => rate::run(&args, &mut printer),
        Command::Merge(args) => merge::run(&args, &mut printer),
        Command::Neurons(args) => neurons::run(&args, &mut printer),
        Command::TokenWeights(args) => token_weights::run(&args, &mut printer),
        Command::Mask(command) => mask::run(&command, &mut printer),
        Command::Hma(args) => hma::run(&args, &mut printer),
        Command::Adapter(command) => adapter::run(&command, &mut printer),
        Command::Inspect(args) => inspect::run(&args, &mut printer),
        Command::Bench(args) => bench::run(&args, &mut printer),
        Command::Report(args) => runs::report(&args, &mut printer),
        Command::Compare(args) => runs::compare_runs(&args, &mut printer),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            printer.error(&error);
            error.kind().exit_code()
        }
    }
}

/// Validates a model file, then opens it, its weights where the flags say.
fn open_model(path: &Path, names: Option<&str>, n_gpu_layers: Option<u32>) -> Result<(Arc<Model>, gguf::File)> {
    let runtime = Runtime::linked()?;
    let offload = Offload::parse(&runtime, names, n_gpu_layers)?;
    let file = gguf::File::open(path)?;
    gguf::validate_model(&file)?;
    let model = Model::open_on(&runtime, path, &offload)?;
    Ok((model, file))
}

/// Validates an adapter file against a model and lets llama.cpp load it.
fn open_adapter(path: &Path, model: &Arc<Model>, base: &gguf::File) -> Result<Arc<Adapter>> {
    let file = gguf::File::open(path)?;
    let info = gguf::validate_adapter(&file)?;
    gguf::check_fits(&info, base)?;
    Adapter::open(model, path)
}

/// `--lora FILE` and `--lora-scaled FILE:SCALE`.
fn adapter_list(plain: &[std::path::PathBuf], scaled: &[String]) -> Result<Vec<(std::path::PathBuf, f32)>> {
    let mut list: Vec<_> = plain.iter().map(|p| (p.clone(), 1.0)).collect();
    for text in scaled {
        let parsed = text.rsplit_once(':').and_then(|(path, scale)| Some((path.into(), scale.parse::<f32>().ok()?)));
        list.push(
            parsed
                .filter(|(_, scale)| scale.is_finite())
                .ok_or_else(|| Error::new(Kind::Argument, format!("--lora-scaled {text}: expected FILE:SCALE")))?,
        );
    }
    Ok(list)
}
