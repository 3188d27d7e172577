//! Model averaging by blocks: blended evaluation against the f64 oracle and against written models, slopes against
//! differences, files, and the command.

mod files;
mod likelihood;
mod program;
mod responses;

use crate::merge::Bench;
use crate::models::runtime;
use llama_align::gguf::{validate_model, File};
use llama_align::hma::Side;
use llama_align::runtime::Model;
use llama_align::trace::{trace, Trace};
use std::sync::Arc;

/// An open model with its file.
struct Opened {
    model: Arc<Model>,
    file: File,
    trace: Arc<Trace>,
}

impl Opened {
    fn new(bench: &Bench, name: &str) -> Self {
        let path = bench.path(name);
        let file = File::open(&path).unwrap();
        validate_model(&file).unwrap();
        let model = Model::open(&runtime(), &path).unwrap();
        Self { trace: Arc::new(trace(&model).unwrap()), model, file }
    }

    fn side(&self) -> Side<'_> {
        Side { model: &self.model, trace: &self.trace, file: &self.file }
    }
}
