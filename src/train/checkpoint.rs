//! A run's state as a file. It is a GGUF: the values that are trained, what the optimizer remembers of each, the
//! reference's log-probs, and keys for the rest. Equal runs give equal bytes, whatever their directories, clocks and process
//! numbers. The file appears under its name complete and synced, or not at all; a digest of all it holds finds damage that
//! came later.

use super::config::TrainConfig;
use super::course::Best;
use super::evaluate::References;
use super::origin::Origin;
use super::policy::{parameters, set_parameters, Policy};
use super::trainer::TrainerState;
use crate::error::{Error, Kind, Result};
use crate::gguf::{base_hash, File, TensorInfo, Value, Writer};
use crate::optim::OptimizerState;
use quant::Type;
use std::path::Path;

const KIND: &str = "general.type";
const CONFIG: &str = "llama_align.checkpoint.config";
const ORIGIN: &str = "llama_align.checkpoint.origin";
const COUNTS: [&str; 5] = [
    "llama_align.checkpoint.steps",
    "llama_align.checkpoint.num_tokens",
    "llama_align.checkpoint.optimizer_steps",
    "llama_align.checkpoint.metrics_lines",
    "llama_align.checkpoint.flops",
];
const BEST: [&str; 3] =
    ["llama_align.checkpoint.best_step", "llama_align.checkpoint.best_misses", "llama_align.checkpoint.best_value"];
/// What the best measurement's parameters are called, before their own names.
const BEST_PREFIX: &str = "best.";
const DIGEST: &str = "llama_align.checkpoint.digest";
const REFERENCE: &str = "reference";
const EVAL_REFERENCE: &str = "eval_reference";

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The configuration's keys that decide the steps.
    pub config: toml::Table,
    /// What the run comes from.
    pub origin: Origin,
    /// Names and values of what is trained.
    pub parameters: Vec<(String, Vec<f32>)>,
    /// Where the trainer stands.
    pub state: TrainerState,
    /// What the reference gave on the held-out rows, if there are any.
    pub eval_references: Option<References>,
    /// Lines of the metrics file that belong to the steps made; what comes after them is repeated.
    pub metrics_lines: u64,
    /// Floating-point operations of products so far.
    pub flops: u64,
    /// The best measurement of held-out rows so far.
    pub best: Option<Best>,
}

impl Checkpoint {
    /// The state of a run without held-out rows and metrics.
    pub fn take(config: &TrainConfig, origin: &Origin, policy: &mut dyn Policy, state: TrainerState) -> Result<Self> {
        Ok(Self {
            config: config.decisive()?,
            origin: origin.clone(),
            parameters: parameters(policy),
            state,
            eval_references: None,
            metrics_lines: 0,
            flops: 0,
            best: None,
        })
    }

    /// Refuses to go on under another configuration or from another origin; see [`Origin::check`].
    pub fn check(&self, config: &TrainConfig, origin: &Origin, inexact: bool) -> Result<()> {
        config.check_resumes(&self.config, inexact)?;
        self.origin.check(origin, inexact)
    }

    /// Gives the parameters the values of the checkpoint.
    pub fn restore(&self, policy: &mut dyn Policy) -> Result<()> {
        set_parameters(policy, &self.parameters)
    }

    /// Writes the file; `path` holds it complete, or what it held before.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.writer()?.write(path)
    }

    fn writer(&self) -> Result<Writer> {
        let internal = |e: String| Error::new(Kind::Internal, format!("the checkpoint cannot be written: {e}"));
        let mut writer = Writer::new();
        let mut keys: Vec<(&str, Value)> = vec![
            (KIND, Value::String("checkpoint".into())),
            (CONFIG, Value::String(toml::to_string(&self.config).map_err(|e| internal(e.to_string()))?)),
            (ORIGIN, Value::String(serde_json::to_string(&self.origin).map_err(|e| internal(e.to_string()))?)),
        ];
        let counts = [
            self.state.done as u64,
            self.state.num_tokens as u64,
            self.state.optimizer.steps,
            self.metrics_lines,
            self.flops,
        ];
        keys.extend(COUNTS.into_iter().zip(counts.map(Value::U64)));
        if let Some(best) = &self.best {
            let values = [Value::U64(best.step as u64), Value::U64(best.misses as u64), Value::F64(best.value)];
            keys.extend(BEST.into_iter().zip(values));
        }
        let mut tensors = Vec::new();
        for (i, (name, values)) in self.parameters.iter().enumerate() {
            tensors.push((name.clone(), Type::F32, bytes32(values)));
            for (slot, memories) in &self.state.optimizer.slots {
                let memory = memories.get(i).ok_or_else(|| internal(format!("no {slot} of {name}")))?;
                tensors.push((format!("{name}.{slot}"), Type::F32, bytes32(memory)));
            }
        }
        for (name, values) in self.best.iter().flat_map(|best| &best.parameters) {
            tensors.push((format!("{BEST_PREFIX}{name}"), Type::F32, bytes32(values)));
        }
        let references = [(REFERENCE, Some(&self.state.references)), (EVAL_REFERENCE, self.eval_references.as_ref())];
        for (name, table) in references.into_iter().filter_map(|(n, r)| Some((n, r.filter(|r| !r.is_empty())?))) {
            let bytes = table.to_numbers().iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push((name.to_owned(), Type::F64, bytes));
        }
        keys.iter().for_each(|(key, value)| writer.set(key, value.clone()));
        for (name, ty, bytes) in tensors {
            let width = if ty == Type::F64 { 8 } else { 4 };
            writer.tensor(&name, ty, &[bytes.len() as u64 / width], bytes)?;
        }
        let whole = File::from_bytes(writer.to_bytes(), "checkpoint")?;
        writer.set(DIGEST, Value::String(digest(&whole)));
        Ok(writer)
    }

    /// Reads a file and finds what is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let fault = |what: &str| Error::new(Kind::Format, format!("{}: {what}", path.display()));
        let text = |key: &str| {
            file.get(key).and_then(Value::as_str).ok_or_else(|| fault(&format!("key {key} is missing or no text")))
        };
        if file.get(KIND).and_then(Value::as_str) != Some("checkpoint") {
            return Err(fault("is no checkpoint"));
        }
        if text(DIGEST)? != digest(&file) {
            return Err(fault("a damaged checkpoint: its contents do not have the digest that it names"));
        }
        let count = |key: &str| {
            let found = file.get(key).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
            found.ok_or_else(|| fault(&format!("key {key} is missing or no count")))
        };
        let config = text(CONFIG)?.parse().map_err(|e| fault(&format!("key {CONFIG}: {e}")))?;
        let origin = serde_json::from_str(text(ORIGIN)?).map_err(|e| fault(&format!("key {ORIGIN}: {e}")))?;
        let references = |name: &str| match file.tensor(name) {
            None => Ok(None),
            Some(t) => References::from_numbers(&numbers(&file, t))
                .map(Some)
                .ok_or_else(|| fault(&format!("tensor {name} is no table of log-probs"))),
        };
        let mut optimizer = OptimizerState { steps: count(COUNTS[2])?, slots: Vec::new() };
        let mut parameters: Vec<(String, Vec<f32>)> = Vec::new();
        let mut best_parameters = Vec::new();
        for tensor in file.tensors().iter().filter(|t| t.ty == Type::F32) {
            let values = floats(&file, tensor);
            if let Some(name) = tensor.name.strip_prefix(BEST_PREFIX) {
                best_parameters.push((name.to_owned(), values));
                continue;
            }
            let slot = parameters.last().and_then(|(name, _)| tensor.name.strip_prefix(name)?.strip_prefix('.'));
            let Some(slot) = slot else {
                parameters.push((tensor.name.clone(), values));
                continue;
            };
            match optimizer.slots.iter_mut().find(|(name, _)| name == slot) {
                Some((_, memories)) => memories.push(values),
                None => optimizer.slots.push((slot.to_owned(), vec![values])),
            }
        }
        let size = |key: &str| usize::try_from(count(key)?).map_err(|_| fault(&format!("key {key} is too large")));
        let best = match file.get(BEST[2]) {
            None => None,
            Some(Value::F64(value)) => {
                let (step, misses, value) = (size(BEST[0])?, size(BEST[1])?, *value);
                Some(Best { step, value, misses, parameters: best_parameters })
            }
            Some(_) => return Err(fault(&format!("key {} is no 64-bit number", BEST[2]))),
        };
        let state = TrainerState {
            done: size(COUNTS[0])?,
            num_tokens: size(COUNTS[1])?,
            optimizer,
            references: references(REFERENCE)?.unwrap_or_default(),
        };
        let (metrics_lines, flops) = (count(COUNTS[3])?, count(COUNTS[4])?);
        let eval_references = references(EVAL_REFERENCE)?;
        Ok(Self { config, origin, parameters, state, eval_references, metrics_lines, flops, best })
    }
}

/// Of all keys but the digest's own, and all tensors.
fn digest(file: &File) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in file.keys().filter(|(key, _)| *key != DIGEST) {
        hasher.update(key.as_bytes()).update(&[0]).update(format!("{value:?}").as_bytes()).update(&[0]);
    }
    hasher.update(base_hash(file).as_bytes());
    hasher.finalize().to_hex().to_string()
}

fn bytes32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(file: &File, tensor: &TensorInfo) -> Vec<f32> {
    let four = |b: &[u8]| b.try_into().map_or(0.0, f32::from_le_bytes);
    file.data(tensor).chunks_exact(4).map(four).collect()
}

fn numbers(file: &File, tensor: &TensorInfo) -> Vec<f64> {
    let eight = |b: &[u8]| b.try_into().map_or(0.0, f64::from_le_bytes);
    file.data(tensor).chunks_exact(8).map(eight).collect()
}
