//! A decoding context: logits of llama.cpp itself, adapters, and its samplers.

use super::abi::{ContextSpec, LlamaAdapter, LlamaBatch, LlamaContext, LlamaSampler, Table};
use super::guard::guarded;
use super::Model;
use crate::error::{Context as _, Error, Kind, Result};
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

/// A `llama_context`. One thread at a time.
#[derive(Debug)]
pub struct Context {
    model: Arc<Model>,
    pub(super) ptr: *mut LlamaContext,
    adapters: Vec<Arc<Adapter>>,
    n_ctx: usize,
}

/// A LoRA adapter that llama.cpp loaded.
#[derive(Debug)]
pub struct Adapter {
    model: Arc<Model>,
    ptr: *mut LlamaAdapter,
}

/// How the next token is drawn.
#[derive(Clone, Copy, Debug)]
pub struct SamplerParams {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Likeliest tokens kept, 0 keeps all.
    pub top_k: i32,
    /// Probability mass kept.
    pub top_p: f32,
    /// Least probability kept, relative to the likeliest.
    pub min_p: f32,
    /// Seed of the draw.
    pub seed: u32,
}

/// A chain of llama.cpp's samplers.
#[derive(Debug)]
pub struct Sampler {
    model: Arc<Model>,
    ptr: *mut LlamaSampler,
}

// SAFETY: llama.cpp does not change a loaded adapter; freeing it needs no particular thread.
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

impl Adapter {
    /// Loads an adapter file that `gguf::validate_adapter` accepted.
    pub fn open(model: &Arc<Model>, path: &Path) -> Result<Arc<Self>> {
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| Error::new(Kind::Argument, format!("{}: the path holds a NUL byte", path.display())))?;
        // SAFETY: live model, NUL-terminated path.
        let loaded = guarded(|| unsafe { (model.runtime.table.adapter_load)(model.ptr, c_path.as_ptr()) });
        let ptr = loaded.during(|| path.display().to_string())?;
        if ptr.is_null() {
            let message = format!("{}: llama.cpp refuses the adapter: {}", path.display(), model.runtime.last_log());
            return Err(Error::new(Kind::Mismatch, message));
        }
        Ok(Arc::new(Self { model: model.clone(), ptr }))
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // SAFETY: made by `adapter_load`; contexts that use it hold an Arc.
        unsafe { (self.model.runtime.table.adapter_free)(self.ptr) }
    }
}

impl Context {
    /// An ordinary context of `n_ctx` tokens shared by up to `n_seq_max` sequences.
    pub fn new(model: &Arc<Model>, n_ctx: usize, n_seq_max: usize, n_threads: usize) -> Result<Self> {
        let spec = ContextSpec {
            n_ctx: n_ctx as u32,
            n_seq_max: n_seq_max as u32,
            n_threads: super::n_threads_started(n_threads) as i32,
            eval: None,
            abort: None,
            user: std::ptr::null_mut(),
        };
        // SAFETY: no callbacks, no user data.
        unsafe { Self::with_spec(model, &spec) }
    }

    /// # Safety
    /// The callbacks and the user data of `spec` outlive the context.
    pub(super) unsafe fn with_spec(model: &Arc<Model>, spec: &ContextSpec) -> Result<Self> {
        // SAFETY: live model; the rest by the caller.
        let made = guarded(|| unsafe { (model.runtime.table.context_new)(model.ptr, spec) });
        let ptr = made.during(|| model.path().display().to_string())?;
        if ptr.is_null() {
            let message = format!(
                "{}: llama.cpp makes no context of {} tokens: {}",
                model.path().display(),
                spec.n_ctx,
                model.runtime.last_log()
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        Ok(Self { model: model.clone(), ptr, adapters: Vec::new(), n_ctx: spec.n_ctx as usize })
    }

    /// Applies these adapters, each with its scale, and no others.
    pub fn set_adapters(&mut self, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
        let mut pointers: Vec<_> = adapters.iter().map(|(a, _)| a.ptr).collect();
        let mut scales: Vec<f32> = adapters.iter().map(|(_, s)| *s).collect();
        // SAFETY: arrays of equal length; llama.cpp copies them; the adapters are kept alive below.
        let status = self.call(|table, ctx| unsafe {
            (table.adapters_set)(ctx, pointers.as_mut_ptr(), pointers.len(), scales.as_mut_ptr())
        })?;
        if status != 0 {
            return Err(Error::new(Kind::Mismatch, format!("llama.cpp does not apply the adapters (status {status})")));
        }
        self.adapters = adapters.iter().map(|(a, _)| a.clone()).collect();
        Ok(())
    }

    /// Forgets all sequences.
    pub fn clear(&mut self) {
        if !self.ptr.is_null() {
            // SAFETY: a live context.
            unsafe { (self.model.runtime.table.context_clear)(self.ptr) }
        }
    }

    /// Decodes tokens `(token, position, sequence)` in one batch, logits for those where `wanted` says so.
    pub fn decode(&mut self, tokens: &[(i32, usize, usize)], wanted: impl Fn(usize) -> bool) -> Result<()> {
        match self.decode_status(tokens, wanted)? {
            0 => Ok(()),
            status => {
                let log = self.model.runtime.last_log();
                Err(Error::new(
                    Kind::Internal,
                    format!("llama_decode returned {status} for {} tokens: {log}", tokens.len()),
                ))
            }
        }
    }

    pub(super) fn decode_status(
        &mut self,
        tokens: &[(i32, usize, usize)],
        wanted: impl Fn(usize) -> bool,
    ) -> Result<i32> {
        if tokens.is_empty() || tokens.len() > self.n_ctx {
            let message = format!("a batch of {} tokens does not fit a context of {}", tokens.len(), self.n_ctx);
            return Err(Error::new(Kind::Argument, message));
        }
        let mut ids: Vec<i32> = tokens.iter().map(|t| t.0).collect();
        let mut positions: Vec<i32> = tokens.iter().map(|t| t.1 as i32).collect();
        let mut sequences: Vec<i32> = tokens.iter().map(|t| t.2 as i32).collect();
        let mut n_sequences = vec![1i32; tokens.len()];
        let mut logits: Vec<i8> = (0..tokens.len()).map(|i| i8::from(wanted(i))).collect();
        let base = sequences.as_mut_ptr();
        // SAFETY: each pointer stays within `sequences`.
        let mut sequence_ptrs: Vec<*mut i32> = (0..tokens.len()).map(|i| unsafe { base.add(i) }).collect();
        let batch = LlamaBatch {
            n_tokens: tokens.len() as i32,
            token: ids.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: n_sequences.as_mut_ptr(),
            seq_id: sequence_ptrs.as_mut_ptr(),
            logits: logits.as_mut_ptr(),
        };
        // SAFETY: every array has `n_tokens` entries and outlives the call; llama.cpp checks token ids itself.
        self.call(|table, ctx| unsafe { (table.decode)(ctx, batch) })
    }

    /// Guards a call. After a failed assertion the context is in no known state: it is leaked, and refuses further calls.
    fn call<T>(&mut self, call: impl FnOnce(&Table, *mut LlamaContext) -> T) -> Result<T> {
        if self.ptr.is_null() {
            return Err(Error::new(Kind::Internal, "a context is used after an assertion of llama.cpp failed"));
        }
        let result = guarded(|| call(&self.model.runtime.table, self.ptr));
        if result.is_err() {
            self.ptr = std::ptr::null_mut();
        }
        result.during(|| self.model.path().display().to_string())
    }

    /// Logits \[V\] of the `i`-th token of the last batch, which must have been wanted.
    pub fn logits(&self, i: usize) -> Result<&[f32]> {
        let ptr = if self.ptr.is_null() {
            std::ptr::null_mut()
        } else {
            // SAFETY: NULL if there are none, otherwise `n_vocab` floats that live until the next decode.
            unsafe { (self.model.runtime.table.logits)(self.ptr, i as i32) }
        };
        if ptr.is_null() {
            return Err(Error::new(Kind::Internal, format!("llama.cpp has no logits for token {i}")));
        }
        // SAFETY: as above; the borrow of self keeps the next decode away.
        Ok(unsafe { std::slice::from_raw_parts(ptr, self.model.n_vocab()) })
    }

    /// Draws the next token from the logits of the `i`-th token of the last batch.
    pub fn sample(&mut self, sampler: &mut Sampler, i: usize) -> Result<i32> {
        self.logits(i)?;
        // SAFETY: logits exist, checked above.
        Ok(unsafe { (self.model.runtime.table.sample)(sampler.ptr, self.ptr, i as i32) })
    }

    /// Drops a sequence's tokens from position `from` on.
    pub fn truncate(&mut self, sequence: usize, from: usize) -> bool {
        // SAFETY: a live context.
        !self.ptr.is_null()
            && unsafe { (self.model.runtime.table.context_remove)(self.ptr, sequence as i32, from as i32, -1) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.ptr.is_null() {
            // SAFETY: made by `context_new`, freed once, before its adapters and its model.
            unsafe { (self.model.runtime.table.context_free)(self.ptr) }
        }
    }
}

impl Sampler {
    /// Makes the chain.
    pub fn new(model: &Arc<Model>, params: SamplerParams) -> Result<Self> {
        let SamplerParams { temperature, top_k, top_p, min_p, seed } = params;
        // SAFETY: plain call.
        let ptr = unsafe { (model.runtime.table.sampler_new)(temperature, top_k, top_p, min_p, seed) };
        if ptr.is_null() {
            return Err(Error::new(Kind::Memory, "llama.cpp makes no sampler"));
        }
        Ok(Self { model: model.clone(), ptr })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: made by `sampler_new`, freed once.
        unsafe { (self.model.runtime.table.sampler_free)(self.ptr) }
    }
}
