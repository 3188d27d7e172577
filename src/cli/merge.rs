//! `llama-align merge`: one model of several, or of a model and its adapters.

use super::args_merge::MergeArgs;
use super::{adapter_list, evidence, plan, serving, Printer};
use crate::adapter::import_changes;
use crate::error::{Error, Kind, Result};
use crate::gguf::{write_atomically, File, Imatrix};
use crate::merge::{cook, fold_all, merge, Bound, Fidelity, Options, OutType, Progress, Recipe, Report, TensorReport};
use crate::merge::{Method, TaskVectors, TensorType, Thinning, Vectors, EPSILON, GAMMA};
use crate::runtime::Runtime;
use indicatif::{ProgressBar, ProgressStyle};
use quant::Type;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Methods that flags can spell; recipes know more.
const METHODS: [&str; 12] = [
    "linear",
    "slerp",
    "nuslerp",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "breadcrumbs",
    "breadcrumbs_ties",
    "model_stock",
];
/// Tensors that are shown as those whose change survived least.
const WORST: usize = 10;

/// Runs the command.
pub(super) fn run(args: &MergeArgs, printer: &mut Printer) -> Result<u8> {
    let recipe = args.recipe.as_deref().map(Recipe::open).transpose()?;
    let options = options(args, recipe.as_ref())?;
    let output = args.output.as_deref().filter(|_| !args.dry_run);
    let lines = args.dry_run && !args.json;
    let bar = (printer.is_terminal() && !lines).then(bar);
    let mut show = |progress: &Progress| {
        if lines {
            printer.data(&line(progress.tensor));
        }
        if let Some(bar) = &bar {
            bar.set_length(progress.bytes_all);
            bar.set_position(progress.bytes);
            bar.set_message(progress.tensor.name.clone());
        }
    };
    let beside: Vec<&Path> = args.report.iter().chain(&args.modelfile).map(PathBuf::as_path).collect();
    let adapters = adapter_list(&args.lora, &args.lora_scaled)?;
    let of_recipe: Vec<PathBuf> = recipe.iter().flat_map(Recipe::models).map(PathBuf::from).collect();
    let single = args.recipe.iter().chain(&args.base).chain(&args.change).chain(&args.imatrix);
    let inputs = single.chain(&args.model).chain(&of_recipe).chain(adapters.iter().map(|(path, _)| path));
    let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
    serving::check_new(&beside, args.output.as_deref(), &inputs, args.overwrite)?;
    // The models are looked at where the output's names are known.
    if let Some(output) = args.output.as_deref().filter(|o| args.recipe.iter().any(|r| serving::is_same(o, r))) {
        return Err(Error::new(Kind::Output, format!("{}: is one of the inputs", output.display())));
    }
    let report = match recipe {
        Some(recipe) => cooked(args, recipe, &options, output, &mut show),
        None if args.change.is_none() && adapters.is_empty() => merged(args, &options, output, &mut show),
        None => folded(args, &adapters, &options, output, &mut show),
    };
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let mut report = report?;
    let peak = crate::os::peak_rss_bytes();
    // The first of several files stands for all.
    let output = report.files.first().cloned();
    if let Some(output) = output.as_ref().filter(|_| !args.no_verify) {
        let models: Vec<&Path> = args.base.iter().chain(&args.model).chain(&of_recipe).map(PathBuf::as_path).collect();
        // What llama.cpp applies as an adapter is not all that was folded where weights changed as well.
        let applied = if args.change.is_some() { &[][..] } else { &adapters[..] };
        report.evidence = Some(evidence::measure(&models, applied, output, options.threads, printer)?);
    }
    let mut described = report.to_json();
    described["output"] = json!(output.as_ref().map(|path| path.display().to_string()));
    // That of the merge itself: the models' own graphs map whole files.
    described["peak_rss_bytes"] = json!(peak);
    if let Some(path) = &args.report {
        // Names of split files are known only now.
        if report.files.iter().any(|file| serving::is_same(file, path)) {
            return Err(Error::new(Kind::Output, format!("{}: is one of the output's files", path.display())));
        }
        write_atomically(path, format!("{described:#}\n").as_bytes())?;
    }
    if args.json {
        printer.data(&described.to_string());
    } else {
        print(&report, &options, printer);
    }
    match &output {
        // Ollama takes no split files.
        Some(output) if report.files.len() > 1 => {
            printer.talk(&format!("serve it: llama-server -m {}", output.display()))
        }
        Some(output) => serving::tell(output, args.modelfile.as_deref(), printer)?,
        None => {}
    }
    Ok(0)
}

/// A bar over the tensors' bytes.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {eta} left: {msg}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // Shown before the first tensor is done: fingerprints come first.
    bar.tick();
    bar
}

fn options(args: &MergeArgs, recipe: Option<&Recipe>) -> Result<Options> {
    Ok(Options {
        out: outtype(args, recipe.and_then(Recipe::out_type))?,
        types: args.tensor_type.iter().map(|text| TensorType::parse(text)).collect::<Result<_>>()?,
        imatrix: args.imatrix.as_deref().map(Imatrix::open).transpose()?,
        split_max_bytes: args.split_max_size.as_deref().map(|text| plan::bytes("split-max-size", text)).transpose()?,
        threads: args.threads.count(),
        overwrite: args.overwrite,
    })
}

/// The flag wins over the recipe.
fn outtype(args: &MergeArgs, of_recipe: Option<Type>) -> Result<OutType> {
    let (name, value, bound) = match (args.min_cosine, args.min_gain) {
        (Some(min), _) => ("min-cosine", Some(min), Bound::Cosine(min)),
        (None, Some(min)) => ("min-gain", Some(min), Bound::Gain(min)),
        (None, None) => ("min-cosine", None, Bound::default()),
    };
    let out = match (&args.outtype, of_recipe) {
        (Some(name), _) => OutType::from_name(name, bound)?,
        (None, Some(ty)) => OutType::Named(ty),
        (None, None) => OutType::Keep,
    };
    if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
        return Err(Error::new(Kind::Argument, format!("--{name} {value}: outside 0 to 1")));
    }
    if value.is_some() && out.bound().is_none() {
        return Err(Error::new(Kind::Argument, format!("--{name} is for --outtype auto")));
    }
    Ok(out)
}

fn cooked(
    args: &MergeArgs,
    mut recipe: Recipe,
    options: &Options,
    output: Option<&Path>,
    show: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    recipe.seed = args.seed.unwrap_or(0);
    let open = |model: &str| {
        let path = Path::new(model);
        match model.split_once('+') {
            // mergekit's MODEL+LORA.
            Some((_, lora)) if !path.exists() => {
                let message =
                    format!("{model}: an adapter ({lora}) is no part of a recipe: fold it into its model first");
                Err(Error::new(Kind::Unsupported, message))
            }
            _ => File::open(path),
        }
    };
    let files = recipe.models().into_iter().map(open).collect::<Result<Vec<_>>>()?;
    cook(&*Runtime::linked()?, &recipe, &files, options, output, show)
}

fn merged(
    args: &MergeArgs,
    options: &Options,
    output: Option<&Path>,
    show: &mut dyn FnMut(&Progress),
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
    let thins = ["weight", "density", "lambda"];
    let (takes, more): (&[&str], &[&str]) = match name {
        "linear" | "nuslerp" => (&["weight"], &[]),
        "slerp" => (&["slerp-t"], &[]),
        "model_stock" => (&[], &[]),
        "task_arithmetic" => (&["weight", "lambda"], &[]),
        "ties" => (&thins, &[]),
        "dare_linear" | "dare_ties" => (&thins, &["seed"]),
        "della_linear" | "della" => (&thins, &["epsilon", "seed"]),
        "breadcrumbs" | "breadcrumbs_ties" => (&thins, &["gamma"]),
        _ => return Err(refuse(&format!("none of {}", METHODS.join(", ")))),
    };
    let given = [
        ("weight", !args.weight.is_empty()),
        ("slerp-t", args.slerp_t.is_some()),
        ("density", args.density.is_some()),
        ("lambda", args.lambda.is_some()),
        ("epsilon", args.epsilon.is_some()),
        ("gamma", args.gamma.is_some()),
        ("seed", args.seed.is_some()),
    ];
    if let Some((flag, _)) = given.iter().find(|(flag, given)| *given && !takes.contains(flag) && !more.contains(flag))
    {
        return Err(refuse(&format!("takes no --{flag}")));
    }
    let n = args.model.len();
    let weights = if args.weight.is_empty() { vec![1.0; n] } else { args.weight.clone() };
    let (lambda, seed, rescale) = (args.lambda.unwrap_or(1.0), args.seed.unwrap_or(0), true);
    let density = || args.density.map(|d| vec![d; n]).ok_or_else(|| refuse("needs --density"));
    let (elect, normalize) = (matches!(name, "ties" | "dare_ties" | "della" | "breadcrumbs_ties"), name == "ties");
    let thinning = match name {
        "linear" => return Ok(Method::Linear { weights, normalize: true }),
        "slerp" => return Ok(Method::Slerp { t: args.slerp_t.ok_or_else(|| refuse("needs --slerp-t"))? }),
        "nuslerp" => return Ok(Method::NuSlerp { weights, of: Vectors::Whole }),
        "model_stock" => return Ok(Method::ModelStock { filter_wise: false }),
        "task_arithmetic" => Thinning::None,
        "ties" => Thinning::Largest { density: density()? },
        "dare_linear" | "dare_ties" => Thinning::Random { density: density()?, rescale, seed },
        "della_linear" | "della" => {
            let epsilon = vec![args.epsilon.unwrap_or(EPSILON); n];
            Thinning::ByRank { density: density()?, epsilon, rescale, seed }
        }
        _ => Thinning::WithoutOutliers { density: density()?, gamma: vec![args.gamma.unwrap_or(GAMMA); n] },
    };
    let normalize = normalize || name == "della";
    Ok(Method::TaskVectors(TaskVectors { weights, thinning, elect, normalize, lambda }))
}

fn folded(
    args: &MergeArgs,
    list: &[(PathBuf, f32)],
    options: &Options,
    output: Option<&Path>,
    show: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    let refuse = |what: &str| Err(Error::new(Kind::Argument, what));
    let [model] = args.model.as_slice() else { return refuse("adapters and changes go into one model: give one -m") };
    let numbers = [args.slerp_t, args.density, args.lambda, args.epsilon, args.gamma].iter().any(Option::is_some)
        || !args.weight.is_empty();
    if numbers || args.method.is_some() || args.base.is_some() || args.seed.is_some() {
        return refuse("--lora takes no --method, --base, --seed, nor any of a method's numbers");
    }
    let base = File::open(model)?;
    let files = list.iter().map(|(path, scale)| Ok((File::open(path)?, *scale))).collect::<Result<Vec<_>>>()?;
    let adapters: Vec<(&File, f32)> = files.iter().map(|(file, scale)| (file, *scale)).collect();
    let change = args.change.as_deref().map(File::open).transpose()?;
    let changes = change.as_ref().map(|file| Ok((file, import_changes(file, &base)?))).transpose()?;
    let changes = changes.as_ref().map(|(file, changes)| (*file, changes.as_slice()));
    fold_all(&*Runtime::linked()?, &base, &adapters, changes, options, output, show)
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

fn print(report: &Report, options: &Options, printer: &mut Printer) {
    let worst = report.worst(WORST);
    if !worst.is_empty() {
        printer.data(&format!("The changes that survive storage least ({} of {}):", worst.len(), report.tensors.len()));
        worst.iter().for_each(|tensor| printer.data(&format!("  {}", line(tensor))));
        printer.data(&format!("all changed tensors together: {}", figures(&report.overall())));
    }
    match report.overall().leaked() {
        n if n > 0 && report.method == "fold" => printer.data(&format!(
            "{n} weights that were to stay what they are did not: their blocks hold others that change; --outtype F32 keeps them"
        )),
        _ => {}
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
    match report.files.first() {
        None => printer.data(&format!("{} bytes would be written", report.bytes)),
        Some(path) => {
            let others = match report.files.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            printer.data(&format!("{} bytes in {}{others}", report.bytes, path.display()));
        }
    }
    if let Some(evidence) = &report.evidence {
        evidence::print(evidence, printer);
    }
}
