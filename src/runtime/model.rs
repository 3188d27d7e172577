//! A loaded model: facts, vocabulary, and where its weights lie.

use super::abi::{GgmlBuffer, GgmlTensor, LlamaModel, LlamaVocab, ModelSpec, ToFloat};
use super::attach::FileWeights;
use super::guard::guarded;
use super::{text, Device, Offload, Runtime};
use crate::data::{Controls, Template, Tokenize};
use crate::error::{Context, Error, Kind, Result};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// An open model. Immutable; it may be shared between threads.
#[derive(Debug)]
pub struct Model {
    pub(super) runtime: Arc<Runtime>,
    pub(super) ptr: *mut LlamaModel,
    pub(super) vocab: *const LlamaVocab,
    pub(super) path: PathBuf,
    pub(super) devices: Vec<Device>,
    /// False for a host's model, which is not ours to free.
    pub(super) is_owned: bool,
    /// A host's model's file.
    pub(super) file: Option<FileWeights>,
    pub(super) controls: OnceLock<Controls>,
}

// SAFETY: llama.cpp does not change a loaded model; contexts of several threads may use it.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

/// A weight where the runtime keeps it: valid as long as its [`Model`].
#[derive(Clone, Copy, Debug)]
pub struct WeightData {
    /// Where the runtime's own products find it.
    pub(super) tensor: *mut GgmlTensor,
    /// The buffer that `data` lies in, if that is not the tensor's: a map of the model's file.
    pub(super) mapped: *mut GgmlBuffer,
    /// First byte, in the file's layout; NULL on a device, where only graphs read it.
    pub data: *const u8,
    /// Bytes between rows.
    pub row_bytes: usize,
    /// ggml's row decoder; `None` for F32.
    pub to_float: Option<ToFloat>,
}

impl WeightData {
    /// True if the bytes are the runtime's own; false if they come from a map of the file.
    pub fn is_shared(&self) -> bool {
        self.mapped.is_null()
    }
}

// SAFETY: points into a model's read-only weights.
unsafe impl Send for WeightData {}
// SAFETY: as above.
unsafe impl Sync for WeightData {}

/// Longest text that is tokenised, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// llama.cpp splits words with `std::regex`, which recurses for every character of a run: some 400 bytes of stack each.
/// Longer texts than this get a thread whose stack holds that.
const TEXT_BYTES_SMALL: usize = 512;
const STACK_PER_BYTE: usize = 1024;

impl Model {
    /// Opens a GGUF file, mapped, on the CPU, its weights in the file's own layout. The file must have been validated
    /// (`gguf::validate_model`): the runtime aborts on some malformed files.
    pub fn open(runtime: &Arc<Runtime>, path: &Path) -> Result<Arc<Self>> {
        Self::open_on(runtime, path, &Offload::default())
    }

    /// The same, with weights moved to devices.
    pub fn open_on(runtime: &Arc<Runtime>, path: &Path, offload: &Offload) -> Result<Arc<Self>> {
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| Error::new(Kind::Argument, format!("{}: the path holds a NUL byte", path.display())))?;
        let mut devices: Vec<_> = offload.devices.iter().map(|d| d.ptr).chain([std::ptr::null_mut()]).collect();
        let n_gpu_layers = match offload.n_gpu_layers {
            _ if offload.devices.is_empty() => 0,
            Some(n) => i32::try_from(n).unwrap_or(i32::MAX),
            None => -1,
        };
        let spec = ModelSpec { devices: devices.as_mut_ptr(), n_gpu_layers };
        // SAFETY: the path is NUL-terminated, the devices end in NULL; the pointers are checked before use.
        let loaded = guarded(|| unsafe {
            let ptr = (runtime.table.model_load)(c_path.as_ptr(), &spec);
            (ptr, if ptr.is_null() { std::ptr::null() } else { (runtime.table.model_vocab)(ptr) })
        });
        let (ptr, vocab) = loaded.during(|| path.display().to_string())?;
        if ptr.is_null() {
            let message = format!("{}: llama.cpp cannot load this model: {}", path.display(), runtime.last_log());
            return Err(Error::new(Kind::Unsupported, message));
        }
        let (path, devices, is_owned, file) = (path.to_owned(), offload.devices.clone(), true, None);
        let controls = OnceLock::new();
        Ok(Arc::new(Self { runtime: runtime.clone(), ptr, vocab, path, devices, is_owned, file, controls }))
    }

    /// Devices that it may lie on, beside the CPU.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The runtime it was opened with.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// The file it came from; for a host's model without a file, what stands for one in messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A metadata value as text.
    pub fn meta(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        let mut buf = vec![0u8; 256];
        // SAFETY: the buffer has the length that is passed; the result is NUL-terminated within it.
        let n = unsafe { (self.runtime.table.model_meta)(self.ptr, key.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
        let n = usize::try_from(n).ok()?.min(buf.len() - 1);
        buf.truncate(n);
        String::from_utf8(buf).ok()
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> String {
        self.meta("general.architecture").unwrap_or_default()
    }

    /// Entries of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: plain call on a live vocabulary.
        unsafe { (self.runtime.table.vocab_n_tokens)(self.vocab) }.max(0) as usize
    }

    /// Sliding window in tokens, 0 if there is none. A window that no context of the model reaches past is none.
    pub fn n_swa(&self) -> usize {
        // SAFETY: plain call.
        let window = unsafe { (self.runtime.table.model_n_swa)(self.ptr) }.max(0) as usize;
        if window < self.n_ctx_train() {
            window
        } else {
            0
        }
    }

    /// Number of blocks.
    pub fn n_layer(&self) -> usize {
        // SAFETY: plain call.
        unsafe { (self.runtime.table.model_n_layer)(self.ptr) }.max(0) as usize
    }

    /// Context that the model was trained with, in tokens.
    pub fn n_ctx_train(&self) -> usize {
        // SAFETY: plain call.
        unsafe { (self.runtime.table.model_n_ctx_train)(self.ptr) }.max(0) as usize
    }

    /// True for encoder-decoder models, which have no single decoder graph.
    pub fn has_encoder(&self) -> bool {
        // SAFETY: plain call.
        unsafe { (self.runtime.table.model_has_encoder)(self.ptr) }
    }

    /// The chat template in the file.
    pub fn chat_template(&self) -> Option<String> {
        // SAFETY: NULL or a string that lives as long as the model.
        let template = unsafe { text((self.runtime.table.model_template)(self.ptr)) };
        (!template.is_empty()).then_some(template)
    }

    /// The chat template, ready to render.
    pub fn template(&self) -> Result<Option<Template>> {
        let text = |token: Option<i32>| token.map(|t| self.text_of(t)).unwrap_or_default();
        self.chat_template().map(|source| Template::new(&source, &text(self.bos()), &text(self.eos()))).transpose()
    }

    /// True if generation ends at this token.
    pub fn is_end(&self, token: i32) -> bool {
        // SAFETY: the vocabulary checks the range itself.
        unsafe { (self.runtime.table.vocab_is_eog)(self.vocab, token) }
    }

    /// The text a token stands for; control tokens give nothing unless `special`.
    pub fn piece(&self, token: i32, special: bool) -> Vec<u8> {
        let mut buf = vec![0u8; 64];
        loop {
            // SAFETY: the buffer has the length that is passed.
            let n = unsafe {
                (self.runtime.table.piece)(self.vocab, token, buf.as_mut_ptr().cast(), buf.len() as i32, 0, special)
            };
            if n >= 0 {
                buf.truncate(n as usize);
                return buf;
            }
            buf.resize(n.unsigned_abs() as usize, 0);
        }
    }

    fn tokenize_here(&self, text: &str, parse_special: bool) -> Result<Vec<i32>> {
        let too_long = || Error::new(Kind::Data, format!("a text of {} bytes is too long to tokenise", text.len()));
        let bytes = i32::try_from(text.len()).map_err(|_| too_long())?;
        let mut out = vec![0i32; text.len() + 8];
        // SAFETY: pointer and length belong together on both sides.
        let n = guarded(|| unsafe {
            let (n_max, tokenize) = (out.len() as i32, self.runtime.table.tokenize);
            tokenize(self.vocab, text.as_ptr().cast(), bytes, out.as_mut_ptr(), n_max, false, parse_special)
        })?;
        out.truncate(usize::try_from(n).map_err(|_| too_long())?);
        Ok(out)
    }

    /// A token as the vocabulary spells it: not what it stands for, unless it is a control token.
    fn name_of(&self, token: i32) -> String {
        // SAFETY: the caller's token is in range; the string lives as long as the model.
        unsafe { text((self.runtime.table.vocab_text)(self.vocab, token)) }
    }

    fn token(&self, token: i32) -> Option<i32> {
        (token >= 0 && (token as usize) < self.n_vocab()).then_some(token)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if self.is_owned {
            // SAFETY: made by `model_load`, freed once; contexts hold an Arc of the model.
            unsafe { (self.runtime.table.model_free)(self.ptr) }
        }
    }
}

impl Tokenize for Model {
    fn tokenize(&self, text: &str, parse_special: bool) -> Result<Vec<i32>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::new(
                Kind::Data,
                format!("a text of {} bytes is longer than {TEXT_BYTES_MAX}", text.len()),
            ));
        }
        if text.len() <= TEXT_BYTES_SMALL {
            return self.tokenize_here(text, parse_special);
        }
        let stack_bytes = (text.len() + TEXT_BYTES_SMALL) * STACK_PER_BYTE;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(stack_bytes);
            let thread = thread.spawn_scoped(scope, || self.tokenize_here(text, parse_special));
            let failed = |what: &str| Error::new(Kind::Memory, format!("tokenising {} bytes: {what}", text.len()));
            let thread = thread.map_err(|e| failed(&format!("no thread with a stack of {stack_bytes} bytes: {e}")))?;
            thread.join().map_err(|_| failed("the thread panicked"))?
        })
    }

    fn controls(&self) -> &Controls {
        self.controls.get_or_init(|| {
            // Control tokens are those that have a text only where special ones are asked for.
            let tokens = (0..self.n_vocab() as i32).filter(|&t| self.piece(t, false).is_empty());
            Controls::new(tokens.filter(|&t| !self.piece(t, true).is_empty()).map(|t| self.name_of(t)))
        })
    }

    fn bos(&self) -> Option<i32> {
        // SAFETY: plain call.
        self.token(unsafe { (self.runtime.table.vocab_bos)(self.vocab) })
    }

    fn eos(&self) -> Option<i32> {
        // SAFETY: plain call.
        self.token(unsafe { (self.runtime.table.vocab_eos)(self.vocab) })
    }

    fn eot(&self) -> Option<i32> {
        // SAFETY: plain call.
        self.token(unsafe { (self.runtime.table.vocab_eot)(self.vocab) })
    }

    fn adds_bos(&self) -> bool {
        // SAFETY: plain call.
        unsafe { (self.runtime.table.vocab_add_bos)(self.vocab) }
    }

    fn text_of(&self, token: i32) -> String {
        let Some(token) = self.token(token) else { return String::new() };
        String::from_utf8_lossy(&self.piece(token, true)).into_owned()
    }
}
