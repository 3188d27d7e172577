//! Carrying a plan out: tensor after tensor, each read, combined, stored and measured, in bounded memory.

use super::blend::{Blend, Update};
use super::compat::Source;
use super::outtype::file_type;
use super::pass::{Chunk, Pass};
use super::{Fidelity, Method, Options, OutType, TensorReport};
use crate::error::{Context, Error, Kind, Result};
use crate::gguf::{validate_model, Entry, Header, Stream, Value};
use crate::runtime::Runtime;
use quant::Type;
use std::path::Path;

/// Bytes that a copy writes at once.
const COPY_BYTES: usize = 1 << 20;
/// `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;

/// What is to become of one tensor.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Name, shape, and type in the first model.
    pub(super) entry: Entry,
    /// Where its values come from; changes are measured from the first of them.
    pub(super) sources: Vec<Source<'a>>,
    pub(super) rule: Rule<'a>,
}

/// How its values follow from the sources.
#[derive(Debug)]
pub(super) enum Rule<'a> {
    /// The first source's bytes.
    Copy,
    Merge(&'a Method),
    Fold(Vec<Update<'a>>),
}

/// Jobs with all that is needed to do them.
pub(super) struct Run<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) jobs: Vec<Job<'a>>,
    pub(super) options: &'a Options,
    /// Every file that is read.
    pub(super) inputs: Vec<&'a Path>,
}

impl Run<'_> {
    /// Does every job; without an output nothing is written, but everything is computed. Tells each tensor's end to `each`.
    /// Returns the reports and the length of the file.
    pub(super) fn run(
        &self,
        mut header: Header,
        output: Option<&Path>,
        each: &mut dyn FnMut(&TensorReport),
    ) -> Result<(Vec<TensorReport>, u64)> {
        if let Some(path) = output {
            self.check_output(path)?;
        }
        let all_f32 = self.jobs.iter().all(|job| job.entry.ty == Type::F32);
        let mut rungs = Vec::with_capacity(self.jobs.len());
        for job in &self.jobs {
            rungs.push(match job.rule {
                Rule::Copy => vec![job.entry.ty],
                _ if self.only_copied(job) => vec![job.entry.ty],
                _ => self.options.out.rungs(&job.entry, all_f32)?,
            });
            header.push(job.entry.clone())?;
        }
        let quantized = rungs.iter().flatten().any(|ty| ty.is_quantized());
        if quantized && header.get("general.quantization_version").is_none() {
            header.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        }
        let (start, alignment) = (header.to_bytes().len() as u64, header.alignment());
        let counts_types = matches!(header.get("general.file_type"), Some(Value::U32(_)));
        let mut stream = output.map(|path| Stream::create(path, header)).transpose()?;
        let mut reports = Vec::with_capacity(self.jobs.len());
        for (index, (job, rungs)) in self.jobs.iter().zip(&rungs).enumerate() {
            let report = self.tensor(index, job, rungs, &mut stream).during(|| format!("tensor {}", job.entry.name))?;
            job.sources.iter().for_each(|source| source.file.release(source.tensor));
            each(&report);
            reports.push(report);
        }
        let stored = self.jobs.iter().zip(&reports).map(|(job, r)| Entry { ty: r.to, ..job.entry.clone() });
        let stored: Vec<Entry> = stored.collect();
        let bytes = match stream {
            None => start + stored.iter().map(|t| t.bytes().next_multiple_of(alignment)).sum::<u64>(),
            Some(mut stream) => {
                if counts_types && reports.iter().any(|r| r.from != r.to) {
                    stream.set("general.file_type", Value::U32(file_type(&stored)));
                }
                stream.finish(self.options.overwrite, validate_model)?
            }
        };
        Ok((reports, bytes))
    }

    /// A type that ggml cannot encode stays where nothing has to be encoded.
    fn only_copied(&self, job: &Job) -> bool {
        let own = job.entry.ty;
        !matches!(self.options.out, OutType::Named(_)) && !Runtime::can_quantize(own) && job.copies(own).is_some()
    }

    /// An input is never written to, and nothing that exists is replaced unasked.
    fn check_output(&self, path: &Path) -> Result<()> {
        let refuse = |what: &str| Err(Error::new(Kind::Output, format!("{}: {what}", path.display())));
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return refuse("its directory does not exist");
        }
        let Ok(meta) = std::fs::metadata(path) else { return Ok(()) };
        let real = path.canonicalize().ok();
        if self.inputs.iter().any(|input| input.canonicalize().ok() == real) {
            return refuse("is one of the inputs");
        }
        if !meta.is_file() {
            return refuse("exists and is no file");
        }
        if !self.options.overwrite {
            return refuse("exists already (--overwrite replaces it)");
        }
        Ok(())
    }

    fn tensor(&self, index: usize, job: &Job, rungs: &[Type], stream: &mut Option<Stream>) -> Result<TensorReport> {
        let (name, from) = (job.entry.name.clone(), job.entry.ty);
        if let Some(source) = job.copies(rungs[0]) {
            if let Some(stream) = stream {
                stream.begin(index, source.tensor.ty)?;
                source.data().chunks(COPY_BYTES).try_for_each(|bytes| stream.write(bytes))?;
            }
            return Ok(TensorReport { name, from, to: rungs[0], copied: true, raised: false, fidelity: None });
        }
        let n_per_row = job.entry.ne[0] as usize;
        let n_rows = job.entry.ne[1..].iter().product::<u64>() as usize;
        let (runtime, threads) = (self.runtime, self.options.threads);
        let pass = Pass { runtime, sources: &job.sources, threads, n_per_row, n_rows };
        let blend = match &job.rule {
            Rule::Merge(method) => Blend::new(method, &job.entry.name, &pass)?,
            Rule::Fold(updates) => Blend::Fold(updates),
            Rule::Copy => return Err(Error::new(Kind::Internal, "a copy without a source")),
        };
        let mut last = (rungs[0], Fidelity::default());
        for &ty in rungs {
            if let Some(stream) = stream {
                stream.begin(index, ty)?;
            }
            last = (ty, store(&pass, &blend, ty, stream)?);
            let enough = self.options.out.bound().is_none_or(|bound| bound.holds(&last.1));
            if enough {
                break;
            }
        }
        let (to, fidelity) = last;
        // A type that had to be raised because ggml does not encode the own one counts as well.
        let raised = self.options.out.bound().is_some() && to != from;
        Ok(TensorReport { name, from, to, copied: false, raised, fidelity: Some(fidelity) })
    }
}

impl<'a> Job<'a> {
    /// The source whose bytes are the result as this type: the only one that counts, or any where all are equal.
    fn copies(&self, ty: Type) -> Option<&Source<'a>> {
        let first = self.sources.first()?;
        let source = match &self.rule {
            Rule::Copy => first,
            Rule::Fold(_) => return None,
            Rule::Merge(method) => {
                let alone = method.coefficients().and_then(|c| {
                    let only = c.iter().position(|&c| c == 1.0)?;
                    c.iter().enumerate().all(|(i, &c)| i == only || c == 0.0).then_some(only)
                });
                match alone {
                    Some(i) => self.sources.get(i)?,
                    // Every method leaves equal tensors as they are.
                    None => self.sources.iter().all(|s| s.tensor.ty == ty && s.equals(first)).then_some(first)?,
                }
            }
        };
        (source.tensor.ty == ty).then_some(source)
    }
}

/// Computes the tensor, encodes it as `ty`, decodes that again to measure it, and writes it.
fn store(pass: &Pass, blend: &Blend, ty: Type, stream: &mut Option<Stream>) -> Result<Fidelity> {
    let work = |chunk: &Chunk| {
        let target = blend.apply(chunk, pass.n_per_row);
        let bytes = pass.runtime.quantize(ty, &target, pass.n_per_row)?;
        let mut stored = vec![0.0; target.len()];
        pass.runtime.dequantize(ty, &bytes, &mut stored)?;
        if let Some(i) = stored.iter().position(|v| !v.is_finite()) {
            let message = format!("{} is too large for {}", target[i], ty.name());
            return Err(Error::new(Kind::Numeric, message));
        }
        let mut fidelity = Fidelity::default();
        fidelity.add(&chunk.values[0], &target, &stored);
        Ok((bytes, fidelity))
    };
    let mut total = Fidelity::default();
    pass.run(work, |(bytes, fidelity)| {
        total.merge(&fidelity);
        stream.as_mut().map_or(Ok(()), |stream| stream.write(&bytes))
    })?;
    Ok(total)
}
