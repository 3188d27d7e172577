//! Carrying a plan out: tensor after tensor, each read, combined, stored and measured, in bounded memory.

use super::blend::{Blend, Update};
use super::compat::Source;
use super::outtype::file_type;
use super::pass::{Chunk, Pass, Workers, LOOK_VALUES, STORE_VALUES};
use super::sink::Sink;
use super::{codec, Fidelity, Method, Options, OutType, Progress, TensorReport};
use crate::adapter::Change;
use crate::error::{Context, Error, Kind, Result};
use crate::gguf::{check_output, validate_model, Entry, File, Header, Imatrix, Stream, Value};
use crate::runtime::Runtime;
use quant::Type;
use rayon::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes that a copy writes at once.
const COPY_BYTES: usize = 1 << 16;
/// Bytes of a copy whose pages are given back at once.
const RELEASE_BYTES: usize = 1 << 22;
/// Values of the tensors that are worked on at the same time; a larger tensor has all threads for itself.
const WINDOW_VALUES: u64 = 1 << 22;
/// `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;
/// What llama.cpp tells of the importance matrix that a file was quantised with.
const IMATRIX_KEYS: &str = "quantize.imatrix.";

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
    /// The first source's bytes, or its values where another type was asked for by name.
    Copy,
    Merge(Method),
    Fold(Vec<Update<'a>>),
    Change(&'a Change),
}

/// Jobs with all that is needed to do them.
pub(super) struct Run<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) jobs: Vec<Job<'a>>,
    pub(super) options: &'a Options,
    pub(super) workers: &'a Workers,
    /// Every file that is read.
    pub(super) inputs: Vec<&'a File>,
}

/// What came of one tensor.
struct Tensor {
    report: TensorReport,
    /// Its bytes, where they are not in the file yet.
    pieces: Option<Vec<Vec<u8>>>,
}

/// What came of a run.
pub(super) struct Done {
    pub(super) tensors: Vec<TensorReport>,
    /// Bytes of the files together.
    pub(super) bytes: u64,
    /// The files, or those that would be written.
    pub(super) files: Vec<PathBuf>,
}

impl Run<'_> {
    /// Does every job; without an output nothing is written, but everything is computed. Tells each tensor's end to `each`.
    pub(super) fn run(
        &self,
        mut header: Header,
        output: Option<&Path>,
        each: &mut dyn FnMut(&Progress),
    ) -> Result<Done> {
        let rungs = self.rungs()?;
        let sizes: Vec<u64> = self.jobs.iter().zip(&rungs).map(|(job, rungs)| most(job, rungs)).collect();
        let limit = self.options.split_max_bytes;
        let files = output.map_or_else(Vec::new, |path| Stream::paths(path, &sizes, limit));
        let read = self.inputs.iter().flat_map(|file| file.paths().iter().map(PathBuf::as_path));
        let inputs: Vec<&Path> = read.chain(self.options.imatrix.iter().map(Imatrix::path)).collect();
        files.iter().try_for_each(|path| check_output(path, inputs.iter().copied(), self.options.overwrite))?;
        self.jobs.iter().try_for_each(|job| header.push(job.entry.clone()))?;
        self.describe(&mut header, &rungs);
        let (start, alignment) = (header.to_bytes().len() as u64, header.alignment());
        let counts_types = matches!(header.get("general.file_type"), Some(Value::U32(_)));
        let mut stream = match (output, limit) {
            (None, _) => None,
            (Some(path), None) => Some(Stream::create(path, header)?),
            (Some(path), Some(limit)) => Some(Stream::create_split(path, header, &sizes, limit)?),
        };
        let mut reports = Vec::with_capacity(self.jobs.len());
        let (mut done, all) = (0, self.jobs.iter().map(|job| job.entry.bytes()).sum());
        for window in self.windows() {
            for (index, Tensor { report, pieces }) in window.clone().zip(self.window(window, &rungs, &mut stream)?) {
                if let (Some(stream), Some(pieces)) = (&mut stream, pieces) {
                    stream.begin(index, report.to)?;
                    pieces.into_iter().try_for_each(|bytes| stream.write(bytes))?;
                }
                let job = &self.jobs[index];
                job.sources.iter().for_each(|source| source.file.release(source.tensor));
                done += job.entry.bytes();
                each(&Progress { tensor: &report, bytes: done, bytes_all: all });
                reports.push(report);
            }
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
        Ok(Done { tensors: reports, bytes, files })
    }

    /// Tensors that are worked on together.
    fn windows(&self) -> Vec<Range<usize>> {
        let mut windows: Vec<Range<usize>> = Vec::new();
        let mut values = 0;
        for (index, job) in self.jobs.iter().enumerate() {
            values += job.values();
            match windows.last_mut().filter(|_| values <= WINDOW_VALUES) {
                Some(window) => window.end = index + 1,
                None => {
                    windows.push(index..index + 1);
                    values = job.values();
                }
            }
        }
        windows
    }

    /// Does the jobs of a window. Bytes of several tensors are kept in memory; those of one alone are in the file already.
    fn window(&self, window: Range<usize>, rungs: &[Vec<Type>], stream: &mut Option<Stream>) -> Result<Vec<Tensor>> {
        let one = |index: usize, mut sink: Sink| {
            let job = &self.jobs[index];
            let report = self.tensor(job, &rungs[index], &mut sink).map_err(|e| self.blamed(job, e));
            let report = report.during(|| format!("tensor {}", job.entry.name))?;
            let pieces = if let Sink::Memory(pieces) = sink { Some(pieces) } else { None };
            Ok(Tensor { report, pieces })
        };
        if window.len() == 1 {
            let sink = stream.as_mut().map_or(Sink::Nowhere, |stream| Sink::File(stream, window.start));
            return Ok(vec![one(window.start, sink)?]);
        }
        let writes = stream.is_some();
        let sink = || if writes { Sink::Memory(Vec::new()) } else { Sink::Nowhere };
        let results: Vec<Result<_>> =
            self.workers.pool().install(|| window.into_par_iter().map(|index| one(index, sink())).collect());
        results.into_iter().collect()
    }

    /// The types to try for every tensor.
    fn rungs(&self) -> Result<Vec<Vec<Type>>> {
        let all_f32 = self.jobs.iter().all(|job| job.entry.ty == Type::F32);
        for wanted in &self.options.types {
            if !self.jobs.iter().any(|job| wanted.of(&job.entry).is_some()) {
                let found = self.jobs.iter().any(|job| wanted.fits(&job.entry));
                let what =
                    if found { "vectors alone have such a name; they stay F32" } else { "no tensor has such a name" };
                return Err(Error::new(Kind::Argument, format!("--tensor-type {}: {what}", wanted.text())));
            }
        }
        self.jobs.iter().map(|job| self.rungs_of(job, all_f32)).collect()
    }

    fn rungs_of(&self, job: &Job, all_f32: bool) -> Result<Vec<Type>> {
        let entry = &job.entry;
        let importance = self.importance(entry)?.is_some();
        if let Some((wanted, ty)) = self.options.types.iter().find_map(|w| Some((w, w.of(entry)?))) {
            let refuse = |what: &str| {
                let message = format!("--tensor-type {}: tensor {} {what}", wanted.text(), entry.name);
                Err(Error::new(Kind::Argument, message))
            };
            if entry.bytes_as(ty).is_none() {
                return refuse(&format!("has rows of {}, no whole number of blocks", entry.ne[0]));
            }
            if ty != entry.ty && Runtime::needs_imatrix(ty) && !importance {
                return refuse("is in no importance matrix that was given (--imatrix)");
            }
            return Ok(vec![ty]);
        }
        match job.rule {
            Rule::Copy => Ok(vec![entry.ty]),
            // A type that ggml cannot encode stays where nothing has to be encoded.
            _ if !(matches!(self.options.out, OutType::Named(_)) || Runtime::can_quantize(entry.ty) || importance)
                && job.copies(entry.ty).is_some() =>
            {
                Ok(vec![entry.ty])
            }
            _ => self.options.out.rungs(entry, all_f32, importance),
        }
    }

    /// The importances of a tensor's inputs, where there are any.
    fn importance(&self, entry: &Entry) -> Result<Option<&[f32]>> {
        match &self.options.imatrix {
            Some(imatrix) => imatrix.of(&entry.name, &entry.ne),
            None => Ok(None),
        }
    }

    /// Keys that tell how the file is stored.
    fn describe(&self, header: &mut Header, rungs: &[Vec<Type>]) {
        header.remove(|key| key.starts_with("split."));
        let quantized = rungs.iter().flatten().any(|ty| ty.is_quantized());
        if quantized && header.get("general.quantization_version").is_none() {
            header.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        }
        let tells = |header: &Header| {
            ["file", "dataset", "entries_count", "chunks_count"]
                .iter()
                .any(|key| header.get(&format!("{IMATRIX_KEYS}{key}")).is_some())
        };
        let copies = |(job, rungs): (&Job, &Vec<Type>)| job.copies(rungs[0]).is_some();
        if tells(header) && !self.jobs.iter().zip(rungs).all(copies) {
            header.remove(|key| key.starts_with(IMATRIX_KEYS));
        }
        if let Some(imatrix) = &self.options.imatrix {
            header.set(&format!("{IMATRIX_KEYS}entries_count"), Value::U32(imatrix.len() as u32));
            if let Some(dataset) = imatrix.dataset() {
                header.set(&format!("{IMATRIX_KEYS}dataset"), Value::String(dataset.to_owned()));
            }
            if let Some(chunks) = imatrix.chunks() {
                header.set(&format!("{IMATRIX_KEYS}chunks_count"), Value::U32(chunks));
            }
        }
    }

    /// Adds to an error about numbers whose numbers they are.
    fn blamed(&self, job: &Job, error: Error) -> Error {
        if error.kind() != Kind::Numeric {
            return error;
        }
        let mut bad = None;
        let is_bad = |values: &Vec<f32>| values.iter().any(|v| !v.is_finite());
        let look = |chunk: &mut Chunk| Ok(chunk.values.iter().position(is_bad));
        let seen = self.pass(job).run(LOOK_VALUES, look, |found| {
            bad = bad.or(found);
            Ok(())
        });
        match bad.and_then(|i| job.sources.get(i)) {
            Some(source) if seen.is_ok() => error.during(source.file.path().display().to_string()),
            _ => error,
        }
    }

    fn pass<'a>(&'a self, job: &'a Job) -> Pass<'a> {
        let n_per_row = job.entry.ne[0] as usize;
        let n_rows = job.entry.ne[1..].iter().product::<u64>() as usize;
        Pass { runtime: self.runtime, workers: self.workers, sources: &job.sources, n_per_row, n_rows }
    }

    fn tensor(&self, job: &Job, rungs: &[Type], sink: &mut Sink) -> Result<TensorReport> {
        let (name, from) = (job.entry.name.clone(), job.entry.ty);
        if let Some(source) = job.copies(rungs[0]) {
            sink.begin(source.tensor.ty)?;
            if !sink.is_nowhere() {
                for (i, part) in source.data().chunks(RELEASE_BYTES).enumerate() {
                    part.chunks(COPY_BYTES).try_for_each(|bytes| sink.write(bytes.to_vec()))?;
                    source.file.release_range(source.tensor, i * RELEASE_BYTES..(i + 1) * RELEASE_BYTES);
                }
            }
            return Ok(TensorReport { name, from, to: rungs[0], copied: true, raised: false, fidelity: None });
        }
        let pass = self.pass(job);
        let blend = match &job.rule {
            Rule::Merge(method) => Blend::new(method, &job.entry.name, &pass)?,
            Rule::Fold(updates) => Blend::Fold(updates),
            Rule::Change(change) => Blend::Change(change),
            Rule::Copy => Blend::Sum(vec![1.0]),
        };
        let store = Store {
            pass: &pass,
            blend: &blend,
            importance: self.importance(&job.entry)?,
            rows_per_matrix: job.entry.ne.get(1).copied().unwrap_or(1) as usize,
        };
        let bound = self.options.out.bound();
        let mut last = (rungs[0], Fidelity::default());
        for &ty in rungs {
            sink.begin(ty)?;
            last = (ty, store.run(ty, sink)?);
            if bound.is_none_or(|bound| bound.holds(&last.1)) {
                break;
            }
        }
        let (to, fidelity) = last;
        // A type that had to be raised because ggml does not encode the own one counts as well.
        let raised = bound.is_some() && to != from;
        Ok(TensorReport { name, from, to, copied: false, raised, fidelity: Some(fidelity) })
    }
}

/// The largest that a tensor can become.
fn most(job: &Job, rungs: &[Type]) -> u64 {
    rungs.iter().filter_map(|ty| job.entry.bytes_as(*ty)).max().unwrap_or(0)
}

impl<'a> Job<'a> {
    fn values(&self) -> u64 {
        self.entry.ne.iter().product()
    }

    /// The source whose bytes are the result as this type: the only one that counts, or any where all are equal.
    fn copies(&self, ty: Type) -> Option<&Source<'a>> {
        let first = self.sources.first()?;
        let source = match &self.rule {
            Rule::Copy => first,
            Rule::Fold(_) | Rule::Change(_) => return None,
            Rule::Merge(method) => {
                let alone = method.coefficients().and_then(|c| {
                    let only = c.iter().position(|&c| c == 1.0)?;
                    c.iter().enumerate().all(|(i, &c)| i == only || c == 0.0).then_some(only)
                });
                match alone {
                    Some(i) => self.sources.get(i)?,
                    None if !method.keeps_equals() => return None,
                    None => self.sources.iter().all(|s| s.tensor.ty == ty && s.equals(first)).then_some(first)?,
                }
            }
        };
        (source.tensor.ty == ty).then_some(source)
    }
}

/// How a tensor is computed and stored.
struct Store<'a> {
    pass: &'a Pass<'a>,
    blend: &'a Blend<'a>,
    /// A row of importances per matrix of a stack.
    importance: Option<&'a [f32]>,
    rows_per_matrix: usize,
}

impl Store<'_> {
    /// Computes the tensor, encodes it as `ty`, decodes that again to measure it, and writes it.
    fn run(&self, ty: Type, sink: &mut Sink) -> Result<Fidelity> {
        let (runtime, n_per_row) = (self.pass.runtime, self.pass.n_per_row);
        let work = |chunk: &mut Chunk| {
            self.blend.apply(chunk, n_per_row)?;
            let Chunk { first_row, values, target, stored } = chunk;
            let mut bytes = self.encode(ty, *first_row, target)?;
            self.keep_rows(ty, *first_row, [&values[0], target], &mut bytes);
            stored.resize(target.len(), 0.0);
            codec::decode(runtime, ty, &bytes, stored)?;
            let mut fidelity = Fidelity::default();
            fidelity.add(&values[0], target, stored);
            if !fidelity.is_finite() {
                if let Some(i) = stored.iter().position(|v| !v.is_finite()) {
                    let message = format!("{} is too large for {}", target[i], ty.name());
                    return Err(Error::new(Kind::Numeric, message));
                }
            }
            Ok((bytes, fidelity))
        };
        let mut total = Fidelity::default();
        self.pass.run(STORE_VALUES, work, |(bytes, fidelity)| {
            total.merge(&fidelity);
            sink.write(bytes)
        })?;
        Ok(total)
    }

    /// Rows without a change keep the first source's bytes: to decode and encode them again could move them.
    fn keep_rows(&self, ty: Type, first_row: usize, [before, target]: [&[f32]; 2], bytes: &mut [u8]) {
        let Some(source) = self.pass.sources.first().filter(|source| source.tensor.ty == ty) else { return };
        let (n, row_bytes) = (self.pass.n_per_row, bytes.len() * self.pass.n_per_row / target.len().max(1));
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        let rows = target.chunks_exact(n).zip(before.chunks_exact(n)).zip(bytes.chunks_exact_mut(row_bytes));
        for (i, ((target, before), bytes)) in rows.enumerate() {
            if same(target, before) {
                let at = (first_row + i) * row_bytes;
                bytes.copy_from_slice(&source.data()[at..at + row_bytes]);
            }
        }
    }

    /// Encodes rows from `first_row` on; each matrix of a stack has importances of its own.
    fn encode(&self, ty: Type, first_row: usize, values: &[f32]) -> Result<Vec<u8>> {
        let (runtime, n) = (self.pass.runtime, self.pass.n_per_row);
        let Some(importance) = self.importance else { return codec::encode(runtime, ty, values, n, None) };
        let mut out = Vec::new();
        let (mut row, mut rest) = (first_row, values);
        while !rest.is_empty() {
            let matrix = row / self.rows_per_matrix;
            let rows = (self.rows_per_matrix - row % self.rows_per_matrix).min(rest.len() / n);
            let (here, after) = rest.split_at(rows * n);
            out.extend(codec::encode(runtime, ty, here, n, Some(&importance[matrix * n..(matrix + 1) * n]))?);
            (row, rest) = (row + rows, after);
        }
        Ok(out)
    }
}
