//! Merging models and folding adapters: golden values, files, what llama.cpp computes with them, and refusals.

mod algebra;
mod evidence;
mod files;
mod fold;
mod golden;
mod methods;
pub(crate) mod program;
mod recipes;
mod refusals;
mod storage;
mod throughput;

use crate::models::runtime;
use crate::tiny;
use llama_align::error::Result;
use llama_align::gguf::{File, Value, Writer};
use llama_align::merge::{merge, Method, Options, OutType, Report};
use quant::Type;
use std::path::{Path, PathBuf};

/// Keys and tensors of a file: name, type, shape, bytes.
pub(crate) struct Content {
    keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(String, Type, Vec<u64>, Vec<u8>)>,
}

impl Content {
    fn of(path: &Path) -> Self {
        Self::of_file(&File::open(path).unwrap())
    }

    fn of_file(file: &File) -> Self {
        let tensors = file.tensors().iter();
        let tensors =
            tensors.map(|t| (t.name.clone(), t.ty, t.ne[..t.n_dims as usize].to_vec(), file.data(t).to_vec()));
        Self { keys: file.keys().map(|(k, v)| (k.to_owned(), v.clone())).collect(), tensors: tensors.collect() }
    }

    /// The keys of a tiny model, without its tensors.
    fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        tiny::find("llama-tied").write(&path, Type::F32).unwrap();
        Self { tensors: Vec::new(), ..Self::of(&path) }
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.to_owned(), value));
    }

    fn f32(mut self, name: &str, ne: &[u64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push((name.to_owned(), Type::F32, ne.to_vec(), bytes));
        self
    }

    fn write(&self, path: &Path) {
        let mut writer = Writer::new();
        self.keys.iter().for_each(|(key, value)| writer.set(key, value.clone()));
        for (name, ty, ne, data) in &self.tensors {
            writer.tensor(name, *ty, ne, data.clone()).unwrap();
        }
        writer.write(path).unwrap();
    }
}

/// A directory of models.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn tiny(&self, model: &str, ty: Type, name: &str) -> PathBuf {
        tiny::find(model).write(&self.path(name), ty).unwrap();
        self.path(name)
    }

    /// A copy of a model with other contents.
    pub(crate) fn edited(&self, from: &str, to: &str, edit: impl FnOnce(&mut Content)) -> PathBuf {
        let mut content = Content::of(&self.path(from));
        edit(&mut content);
        content.write(&self.path(to));
        self.path(to)
    }

    /// A copy of a model whose every F32 value is another by some rule.
    pub(crate) fn varied(&self, from: &str, to: &str, rule: impl Fn(usize, f32) -> f32) -> PathBuf {
        self.edited(from, to, |content| {
            for (_, ty, _, data) in &mut content.tensors {
                let mut values = vec![0.0; data.len() / ty.block_bytes() * ty.block_len()];
                quant::dequantize_row(*ty, data, &mut values).unwrap();
                values.iter_mut().enumerate().for_each(|(i, v)| *v = rule(i, *v));
                *data = quant::quantize_row(*ty, &values).unwrap();
            }
        })
    }

    /// Merges files of this directory, the output's name last; inputs are as before.
    fn merge(
        &self,
        models: &[&str],
        base: Option<&str>,
        method: &Method,
        options: &Options,
        to: &str,
    ) -> Result<Report> {
        let names = models.iter().copied().chain(base);
        let before: Vec<_> = names.clone().map(|name| std::fs::read(self.path(name)).unwrap()).collect();
        let files: Vec<File> = models.iter().map(|name| File::open(&self.path(name))).collect::<Result<_>>()?;
        let files: Vec<&File> = files.iter().collect();
        let base = base.map(|name| File::open(&self.path(name))).transpose()?;
        let output = self.path(to);
        let report = merge(&runtime(), &files, base.as_ref(), method, options, Some(&output), &mut |_| {});
        let after: Vec<_> = names.map(|name| std::fs::read(self.path(name)).unwrap()).collect();
        assert!(before == after, "an input changed");
        report
    }

    /// Names of what lies here.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn options(out: OutType) -> Options {
    Options { out, threads: 2, ..Options::default() }
}

fn keep() -> Options {
    options(OutType::Keep)
}

fn linear(weights: &[f64]) -> Method {
    Method::linear(weights)
}

/// A tensor's values by the readable decoders.
pub(crate) fn values(file: &File, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let mut out = vec![0.0; tensor.ne.iter().product::<u64>() as usize];
    quant::dequantize_row(tensor.ty, file.data(tensor), &mut out).unwrap();
    out
}
