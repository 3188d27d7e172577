//! A host's open model: its live weights, and the file for those that the host keeps in a private layout.
//!
//! Hosts load models with defaults that repack weights for their own products (buffers named `CPU_REPACK`, `AMX`, …). The
//! runtime's products still run on those, so its own form of the program uses the live tensor; whatever needs the weight's
//! numbers takes the file's bytes, mapped: the pages are those of the host's own map.

use super::abi::{GgmlBuffer, LlamaModel};
use super::capture::{capture, RawKind};
use super::guard::guarded;
use super::{Device, Model, Runtime};
use crate::error::{Context, Error, Kind, Result};
use crate::gguf::{File, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// A model file, and ggml's view of its map.
#[derive(Debug)]
pub(super) struct FileWeights {
    runtime: Arc<Runtime>,
    pub(super) file: Arc<File>,
    pub(super) buffer: *mut GgmlBuffer,
}

impl FileWeights {
    fn new(runtime: &Arc<Runtime>, file: Arc<File>) -> Result<Self> {
        if file.paths().len() > 1 {
            let message = format!("{}: a host's model in {} files", file.path().display(), file.paths().len());
            return Err(Error::new(Kind::Unsupported, message + " cannot be attached to yet"));
        }
        let all = file.all();
        // ggml takes buffers that start where a vector register may be loaded from.
        if !(all.as_ptr() as usize).is_multiple_of(super::graph::ALIGNMENT) {
            let message = format!("{}: the file is not mapped, but lies in memory", file.path().display());
            return Err(Error::new(Kind::Argument, message));
        }
        // SAFETY: the buffer wraps the map, which lives longer; nothing writes to a weight.
        let buffer = unsafe { (runtime.table.buffer_from_ptr)(all.as_ptr().cast_mut().cast(), all.len()) };
        if buffer.is_null() {
            return Err(Error::new(Kind::Memory, format!("ggml wraps no buffer of {} bytes", all.len())));
        }
        Ok(Self { runtime: runtime.clone(), file, buffer })
    }
}

impl Drop for FileWeights {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once; it only points into the map.
        unsafe { (self.runtime.table.buffer_free)(self.buffer) }
    }
}

impl Model {
    /// Takes a model that a host has open, on whatever devices it lies; it stays the host's. `file` is what it was loaded
    /// from, validated.
    ///
    /// # Errors
    /// [`Kind::Mismatch`] if the file is not that model's.
    ///
    /// # Safety
    /// `ptr` is a live model of that runtime, and lives as long as the result.
    pub unsafe fn attach(runtime: &Arc<Runtime>, ptr: *mut LlamaModel, file: Option<Arc<File>>) -> Result<Arc<Self>> {
        // SAFETY: by the caller.
        let vocab = guarded(|| unsafe { (runtime.table.model_vocab)(ptr) })?;
        let weights = file.as_ref().map(|f| FileWeights::new(runtime, f.clone())).transpose()?;
        let path = file.as_ref().map_or_else(|| PathBuf::from("the host's model"), |f| f.path().to_owned());
        // Where it lies is only seen in a graph, whose nodes on other devices than these are not.
        let gpus: Vec<_> = runtime.devices().into_iter().filter(Device::is_gpu).collect();
        let (devices, is_owned) = (gpus, false);
        let model = Self {
            runtime: runtime.clone(),
            ptr,
            vocab,
            path,
            devices,
            is_owned,
            file: weights,
            controls: std::sync::OnceLock::new(),
        };
        if let Some(file) = &file {
            model.belongs_to(file).during(|| file.path().display().to_string())?;
        }
        let mut model = Arc::new(model);
        if !model.devices.is_empty() {
            let devices = model.devices_of_weights()?;
            let own = Arc::get_mut(&mut model);
            own.ok_or_else(|| Error::new(Kind::Internal, "a capture keeps its model"))?.devices = devices;
        }
        Ok(model)
    }

    /// The devices that hold weights.
    fn devices_of_weights(self: &Arc<Self>) -> Result<Vec<Device>> {
        let nodes = capture(self, &[0], 0, true)?;
        let holds = |device: &Device| {
            nodes.iter().any(|node| {
                let RawKind::Weight(Some(data)) = &node.kind else { return false };
                // SAFETY: a weight of a live model, whose buffer lives with it.
                let at = unsafe { (self.runtime.table.buffer_device)((*data.tensor).buffer) };
                at == device.ptr && data.data.is_null()
            })
        };
        Ok(self.devices.iter().filter(|d| holds(d)).cloned().collect())
    }

    /// What can be compared without reading weights; the self-check compares the rest.
    fn belongs_to(&self, file: &File) -> Result<()> {
        let mismatch = |what: &str, file: &str, live: &str| {
            let message = format!("not the file of the host's model: {what} {file} in the file, {live} in the model");
            Err(Error::new(Kind::Mismatch, message))
        };
        let (architecture, live) = (file.architecture()?, self.architecture());
        if architecture != live {
            return mismatch("general.architecture is", architecture, &live);
        }
        let blocks = file.get(&format!("{architecture}.block_count")).and_then(Value::as_int);
        if blocks != i128::try_from(self.n_layer()).ok() {
            let blocks = blocks.map_or_else(|| "missing".to_owned(), |n| n.to_string());
            return mismatch("the number of blocks is", &blocks, &self.n_layer().to_string());
        }
        Ok(())
    }

    /// The file of an attached model.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref().map(|f| &f.file)
    }

    /// True if the model is a host's.
    pub fn is_attached(&self) -> bool {
        !self.is_owned
    }
}
