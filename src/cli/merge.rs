//! `llama-align merge`: one model of several, or of a model and its adapters.

use super::args::MergeArgs;
use super::{adapter_list, evidence, serving, Printer};
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File};
use crate::merge::{fold, merge, Bound, Fidelity, Method, Options, OutType, Report, TensorReport};
use crate::runtime::Runtime;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Tensors that are shown as those whose change survived least.
const WORST: usize = 10;

/// Runs the command.
pub(super) fn run(args: &MergeArgs, printer: &mut Printer) -> Result<u8> {
    let options = Options { out: outtype(args)?, threads: args.threads.count(), overwrite: args.overwrite };
    let output = args.output.as_deref().filter(|_| !args.dry_run);
    let lines = args.dry_run && !args.json;
    let mut show = |tensor: &TensorReport| {
        if lines {
            printer.data(&line(tensor));
        }
    };
    let beside: Vec<&Path> = args.report.iter().chain(&args.modelfile).map(PathBuf::as_path).collect();
    serving::check_new(&beside, args.output.as_deref(), args.overwrite)?;
    let adapters = adapter_list(&args.lora, &args.lora_scaled)?;
    let mut report = match adapters.is_empty() {
        true => merged(args, &options, output, &mut show)?,
        false => folded(args, &adapters, &options, output, &mut show)?,
    };
    let peak = crate::os::peak_rss_bytes();
    if let Some(output) = output.filter(|_| !args.no_verify) {
        let models: Vec<&Path> = args.base.iter().chain(&args.model).map(PathBuf::as_path).collect();
        report.evidence = Some(evidence::measure(&models, &adapters, output, options.threads, printer)?);
    }
    let mut described = report.to_json();
    described["output"] = json!(output.map(|path| path.display().to_string()));
    // That of the merge itself: the models' own graphs map whole files.
    described["peak_rss_bytes"] = json!(peak);
    if let Some(path) = &args.report {
        write_atomically(path, format!("{described:#}\n").as_bytes())?;
    }
    if args.json {
        printer.data(&described.to_string());
    } else {
        print(&report, args, &options, printer);
    }
    if let Some(output) = output {
        serving::tell(output, args.modelfile.as_deref(), printer)?;
    }
    Ok(0)
}

fn outtype(args: &MergeArgs) -> Result<OutType> {
    let (name, value, bound) = match (args.min_cosine, args.min_gain) {
        (Some(min), _) => ("min-cosine", Some(min), Bound::Cosine(min)),
        (None, Some(min)) => ("min-gain", Some(min), Bound::Gain(min)),
        (None, None) => ("min-cosine", None, Bound::default()),
    };
    let out = OutType::from_name(&args.outtype, bound)?;
    if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
        return Err(Error::new(Kind::Argument, format!("--{name} {value}: outside 0 to 1")));
    }
    if value.is_some() && out.bound().is_none() {
        return Err(Error::new(Kind::Argument, format!("--{name} is for --outtype auto")));
    }
    Ok(out)
}

fn merged(
    args: &MergeArgs,
    options: &Options,
    output: Option<&Path>,
    show: &mut dyn FnMut(&TensorReport),
) -> Result<Report> {
    let method = method(args)?;
    method.validate(args.model.len(), args.base.is_some())?;
    if args.model.len() == 1 && args.base.is_none() {
        return Err(Error::new(Kind::Argument, "one model alone: give another -m, or --lora to fold an adapter in"));
    }
    let models = args.model.iter().map(|path| File::open(path)).collect::<Result<Vec<_>>>()?;
    let base = args.base.as_deref().map(File::open).transpose()?;
    let models: Vec<&File> = models.iter().collect();
    merge(&*Runtime::linked()?, &models, base.as_ref(), &method, options, output, show)
}

/// The method with its parameters; a flag that it has no use for is refused.
fn method(args: &MergeArgs) -> Result<Method> {
    let name = args.method.as_deref().unwrap_or("linear");
    let refuse = |what: &str| Error::new(Kind::Argument, format!("--method {name}: {what}"));
    let takes: &[&str] = match name {
        "linear" => &["weight"],
        "slerp" => &["slerp-t"],
        "task_arithmetic" => &["weight", "lambda"],
        "ties" => &["weight", "density", "lambda"],
        "dare_linear" => &["weight", "density", "lambda", "seed"],
        _ => return Err(refuse("none of linear, slerp, task_arithmetic, ties, dare_linear")),
    };
    let given = [
        ("weight", !args.weight.is_empty()),
        ("slerp-t", args.slerp_t.is_some()),
        ("density", args.density.is_some()),
        ("lambda", args.lambda.is_some()),
        ("seed", args.seed.is_some()),
    ];
    if let Some((flag, _)) = given.iter().find(|(flag, given)| *given && !takes.contains(flag)) {
        return Err(refuse(&format!("takes no --{flag}")));
    }
    let weights = if args.weight.is_empty() { vec![1.0; args.model.len()] } else { args.weight.clone() };
    let lambda = args.lambda.unwrap_or(1.0);
    let density = || args.density.ok_or_else(|| refuse("needs --density"));
    Ok(match name {
        "linear" => Method::Linear { weights },
        "slerp" => Method::Slerp { t: args.slerp_t.ok_or_else(|| refuse("needs --slerp-t"))? },
        "task_arithmetic" => Method::TaskArithmetic { weights, lambda },
        "ties" => Method::Ties { weights, density: density()?, lambda },
        _ => Method::DareLinear { weights, density: density()?, lambda, seed: args.seed.unwrap_or(0) },
    })
}

fn folded(
    args: &MergeArgs,
    list: &[(PathBuf, f32)],
    options: &Options,
    output: Option<&Path>,
    show: &mut dyn FnMut(&TensorReport),
) -> Result<Report> {
    let refuse = |what: &str| Err(Error::new(Kind::Argument, what));
    let [model] = args.model.as_slice() else { return refuse("adapters are folded into one model: give one -m") };
    let numbers = [args.slerp_t, args.density, args.lambda].iter().any(Option::is_some) || !args.weight.is_empty();
    if numbers || args.method.is_some() || args.base.is_some() || args.seed.is_some() {
        return refuse("--lora takes no --method, --weight, --base, --slerp-t, --density, --lambda or --seed");
    }
    let base = File::open(model)?;
    let files = list.iter().map(|(path, scale)| Ok((File::open(path)?, *scale))).collect::<Result<Vec<_>>>()?;
    let adapters: Vec<(&File, f32)> = files.iter().map(|(file, scale)| (file, *scale)).collect();
    fold(&*Runtime::linked()?, &base, &adapters, options, output, show)
}

/// One tensor: types, what was done, and how much of the change survived.
fn line(tensor: &TensorReport) -> String {
    let types = match tensor.from == tensor.to {
        true => tensor.to.name().to_owned(),
        false => format!("{} → {}", tensor.from.name(), tensor.to.name()),
    };
    let done = match &tensor.fidelity {
        None => "copied".to_owned(),
        Some(fidelity) => figures(fidelity),
    };
    format!("{:40} {types:14} {done}", tensor.name)
}

fn figures(fidelity: &Fidelity) -> String {
    let (rmse, wanted) = (fidelity.rmse(), fidelity.wanted_rms());
    match (fidelity.cosine(), fidelity.norm_ratio(), fidelity.gain()) {
        (Some(cosine), Some(ratio), Some(gain)) => {
            format!("cosine {cosine:.4}, norm ratio {ratio:.4}, gain {gain:.4}, wanted {wanted:.2e}, RMSE {rmse:.2e}")
        }
        _ => format!("no change wanted, RMSE {rmse:.2e}"),
    }
}

fn print(report: &Report, args: &MergeArgs, options: &Options, printer: &mut Printer) {
    let worst = report.worst(WORST);
    if !worst.is_empty() {
        printer.data(&format!("The changes that survive storage least ({} of {}):", worst.len(), report.tensors.len()));
        worst.iter().for_each(|tensor| printer.data(&format!("  {}", line(tensor))));
        printer.data(&format!("all changed tensors together: {}", figures(&report.overall())));
    }
    let (copied, raised) = (report.copied(), report.raised());
    let changed = report.tensors.iter().filter(|t| t.from != t.to).count() - raised;
    let kept = report.tensors.len() - copied - raised - changed;
    printer.data(&format!(
        "tensors: {copied} copied, {kept} combined in their own type, {raised} raised, {changed} in another type"
    ));
    let bound = options.out.bound().unwrap_or_default();
    match report.below(bound) {
        0 => {}
        n if options.out.bound().is_some() => {
            printer.data(&format!("{n} tensors stay below {bound} in the largest type allowed"));
        }
        n => printer
            .data(&format!("{n} tensors realise their change with less than {bound}; --outtype auto raises them")),
    }
    let template =
        if report.has_template { "tokenizer and chat template" } else { "tokenizer (it has no chat template)" };
    printer.data(&format!("{template} from {}", report.keys_from));
    report.notes.iter().for_each(|note| printer.data(&format!("note: {note}")));
    match args.output.as_deref().filter(|_| !args.dry_run) {
        None => printer.data(&format!("{} bytes would be written", report.bytes)),
        Some(path) => {
            printer.data(&format!("{} bytes in {}", report.bytes, path.display()));
        }
    }
    if let Some(evidence) = &report.evidence {
        evidence::print(evidence, printer);
    }
}
