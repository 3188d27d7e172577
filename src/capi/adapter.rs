//! `llama_align_adapter`: LoRA factors for one model.

use super::guard::{create, free, guard};
use super::handle::{get, Object};
use super::model::{llama_align_model, ModelObject};
use super::params::{init, read, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, text};
use super::LLAMA_ALIGN_OK;
use crate::adapter::{
    export, import, one_hot, peft, resolve_targets, to_bytes, Lineage, Linear, Lora, RowChange, METHOD,
};
use crate::error::{Error, Kind, Result};
use crate::gguf::{self, Value};
use crate::mask::{hold, hold_rows, Granularity, Hold, Mask};
use crate::trace::trace;
use crate::train::TrainConfig;
use std::ffi::c_char;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// LoRA factors for one model: what is trained. Lifetime: from its maker to _free; a trainer keeps it going, so it may be freed
/// before. Threads: any number at once; while a trainer runs, each of its steps is seen whole or not at all.
#[derive(Debug)]
pub struct llama_align_adapter {
    _never: (),
}

/// Scale the update by alpha / sqrt(r) instead (rsLoRA), so that a large rank keeps its effect.
pub const LLAMA_ALIGN_ADAPTER_RSLORA: u32 = 1;

/// A new adapter. Fill it in with llama_align_adapter_params_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct llama_align_adapter_params {
    /// sizeof(llama_align_adapter_params).
    pub struct_size: u32,
    /// r, 1 to 4096. Default 16.
    pub rank: u32,
    /// The update is scaled by alpha / r; 1e-6 to 1e6. Default 32.
    pub alpha: f32,
    /// LLAMA_ALIGN_ADAPTER_* bits. Default 0.
    pub flags: u32,
    /// Each weight draws its factors from this and its name. Default 0.
    pub seed: u64,
}

// SAFETY: numbers only; no padding, as a test compares.
unsafe impl Struct for llama_align_adapter_params {
    const NAME: &'static str = "llama_align_adapter_params";
    const BYTES_V1: usize = size_of::<Self>();
}

impl Params for llama_align_adapter_params {
    fn defaults() -> Self {
        let TrainConfig { lora_rank, lora_alpha, seed, .. } = TrainConfig::default();
        Self { struct_size: size_of::<Self>() as u32, rank: lora_rank as u32, alpha: lora_alpha, flags: 0, seed }
    }
}

/// Factors and what they were trained by.
#[derive(Clone)]
pub(super) struct Factors {
    pub(super) lora: Lora,
    pub(super) method: String,
    /// What a mask leaves free of them, if one holds the rest.
    pub(super) held: Option<Held>,
}

/// What of an adapter may move.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) hold: Hold,
    /// A fingerprint of the mask, as the program's runs have it.
    pub(super) mask: String,
    /// It changes rows: B says where they belong, and stays.
    pub(super) rows: bool,
}

impl Held {
    fn new(hold: Hold, file: &gguf::File, granularity: Granularity, rows: bool) -> Self {
        Self { hold, mask: format!("{} {}s", gguf::base_hash(file), granularity.name()), rows }
    }
}

/// An adapter, its model, and whether a trainer moves it.
pub(super) struct AdapterObject {
    pub(super) model: Arc<ModelObject>,
    pub(super) in_training: AtomicBool,
    factors: Mutex<Factors>,
}

impl Object for AdapterObject {
    type C = llama_align_adapter;
    const NAME: &'static str = "adapter";
}

impl AdapterObject {
    pub(super) fn new(model: Arc<ModelObject>, lora: Lora, method: &str) -> Self {
        let factors = Mutex::new(Factors { lora, method: method.to_owned(), held: None });
        Self { model, in_training: AtomicBool::new(false), factors }
    }

    /// An adapter of rows.
    pub(super) fn of_rows(model: Arc<ModelObject>, rows: &[RowChange], file: &gguf::File, of: Granularity) -> Self {
        let object = Self::new(model, one_hot(rows), "untrained");
        object.factors().held = Some(Held::new(hold_rows(rows), file, of, true));
        object
    }

    /// Holds what a mask does not leave free.
    pub(super) fn hold(&self, file: &gguf::File) -> Result<()> {
        let mask = Mask::from_file(file)?;
        if let Some(base) = self.model.hash() {
            Mask::check_base(file, base)?;
        }
        let mut factors = self.factors();
        if self.in_training.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Busy, "adapter: a trainer moves it"));
        }
        if factors.held.as_ref().is_some_and(|held| held.rows) {
            return Err(argument("adapter: it changes the rows of a mask already"));
        }
        let mut lora = factors.lora.clone();
        let free = hold(&mask, &mut lora)?;
        (factors.lora, factors.held) = (lora, Some(Held::new(free, file, mask.granularity(), false)));
        Ok(())
    }

    fn fresh(model: Arc<ModelObject>, targets: &str, params: llama_align_adapter_params) -> Result<Self> {
        let llama_align_adapter_params { struct_size: _, rank, alpha, flags, seed } = params;
        if flags & !LLAMA_ALIGN_ADAPTER_RSLORA != 0 {
            return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
        }
        let use_rslora = flags & LLAMA_ALIGN_ADAPTER_RSLORA != 0;
        // The bounds of a run's configuration.
        let config = TrainConfig { lora_rank: rank as usize, lora_alpha: alpha, use_rslora, ..TrainConfig::default() };
        let config = config.resolve()?;
        let targets = resolve_targets(targets, &Linear::all(&trace(&model.model)?))?;
        let lora = config.shape().init(&targets, seed)?;
        Ok(Self::new(model, lora, "untrained"))
    }

    fn read(model: Arc<ModelObject>, file: &gguf::File) -> Result<Self> {
        model.check_fits(&gguf::validate_adapter(file)?)?;
        let method = file.get(METHOD).and_then(Value::as_str).unwrap_or("untrained").to_owned();
        Ok(Self::new(model, import(file)?, &method))
    }

    /// The factors as they are now. Held for as long as it takes to copy them.
    pub(super) fn factors(&self) -> MutexGuard<'_, Factors> {
        self.factors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the factors, and where they come from.
    pub(super) fn snapshot(&self) -> (Lora, Lineage) {
        let Factors { lora, method, held: _ } = self.factors().clone();
        let base_name = self.model.name();
        let (architecture, base_hash) = (self.model.model.architecture(), self.model.hash().map(str::to_owned));
        (lora, Lineage { architecture, base_name, base_hash, method })
    }
}

/// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_adapter_params). Errors: ARGUMENT.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_params_init(
    params: *mut llama_align_adapter_params,
    struct_size: u32,
    err: *mut llama_align_error,
) -> llama_align_status {
    // SAFETY: pointers are what the header asks for.
    unsafe { guard(err, || init(params, struct_size)) }
}

/// Makes an adapter that changes nothing yet. `model`: shared. `targets` (borrowed): names of weights such as "attn_q,attn_v"
/// or "q_proj,v_proj"; NULL for all linear weights of the blocks. `params` (borrowed): NULL for the defaults. `out` (owned): not
/// NULL; NULL is written on failure. Errors: ARGUMENT, UNSUPPORTED, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_new(
    model: *const llama_align_model,
    targets: *const c_char,
    params: *const llama_align_adapter_params,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let targets = if targets.is_null() { "all-linear" } else { unsafe { text(targets, "targets") }? };
        // SAFETY: as above.
        AdapterObject::fresh(model.share(), targets, unsafe { read(params) }?)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Reads an adapter file, of this library or another's, in any type. `model`: shared. `path` (borrowed): not NULL. `out`
/// (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH (made for another model),
/// UNSUPPORTED, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_load(
    model: *const llama_align_model,
    path: *const c_char,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let file = gguf::File::open(Path::new(unsafe { text(path, "path") }?))?;
        AdapterObject::read(model.share(), &file)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Reads an adapter from the bytes of its file. `model`: shared. `buf` (borrowed): `buf_bytes` bytes. `out` (owned): not NULL; NULL
/// is written on failure. Errors: ARGUMENT, FORMAT, MISMATCH (made for another model), UNSUPPORTED, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_from_memory(
    model: *const llama_align_model,
    buf: *const u8,
    buf_bytes: usize,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let bytes = unsafe { array(buf, buf_bytes, "buf") }?.to_vec();
        AdapterObject::read(model.share(), &gguf::File::from_bytes(bytes, "the adapter in memory")?)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Writes a GGUF adapter that unmodified llama.cpp loads. The file is complete under its name, or what was there before stays.
/// Callback-safe. `path` (borrowed): not NULL. Errors: ARGUMENT, MISSING (the directory), IO, POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_save(
    adapter: *const llama_align_adapter,
    path: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        let path = unsafe { text(path, "path") }?;
        let (lora, lineage) = adapter.snapshot();
        export(&lora, &lineage, Path::new(path))?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Reads an adapter of PEFT: a directory with adapter_config.json and adapter_model.safetensors, for a base of architecture llama,
/// qwen2, qwen3, gemma2 or gemma3. `model`: shared; attached with its file. `directory` (borrowed): not NULL. `out` (owned): not NULL;
/// NULL is written on failure. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH, UNSUPPORTED (names what GGUF has no place for),
/// POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_from_peft(
    model: *const llama_align_model,
    directory: *const c_char,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let directory = Path::new(unsafe { text(directory, "directory") }?);
        let lora = peft::read(directory, model.file()?)?;
        Ok(AdapterObject::new(model.share(), lora, "peft"))
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// Writes both files of a PEFT adapter into a directory that is there, factors in F32; those of another one are replaced.
/// Callback-safe. `directory` (borrowed): not NULL. `base_model` (borrowed): what the configuration calls the base, such as its
/// name on the Hub; NULL for nothing. Errors: ARGUMENT, MISSING (the directory), IO, UNSUPPORTED (weights that PEFT's files have no
/// name for, or a model that was attached without its file), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_to_peft(
    adapter: *const llama_align_adapter,
    directory: *const c_char,
    base_model: *const c_char,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        // SAFETY: pointers are what the header asks for.
        let directory = Path::new(unsafe { text(directory, "directory") }?);
        // SAFETY: as above.
        let base_model = (!base_model.is_null()).then(|| unsafe { text(base_model, "base_model") }).transpose()?;
        let (lora, _) = adapter.snapshot();
        peft::write(&lora, adapter.model.file()?, base_model, directory)?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Writes the bytes that llama_align_adapter_save() would, into `buf` (borrowed) of `buf_bytes` bytes. `n_bytes` (borrowed): not
/// NULL; gets the length. Ask for the length first, with `buf` NULL and `buf_bytes` 0; an adapter's first training changes it by a few
/// bytes. Callback-safe. Errors: ARGUMENT (also a buffer that is too small), POISONED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_to_memory(
    adapter: *const llama_align_adapter,
    buf: *mut u8,
    buf_bytes: usize,
    n_bytes: *mut usize,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let adapter = get::<AdapterObject>(adapter)?;
        if n_bytes.is_null() {
            return Err(argument("n_bytes is NULL"));
        }
        if buf.is_null() && buf_bytes > 0 {
            return Err(argument(format!("buf is NULL, but has {buf_bytes} bytes")));
        }
        let (lora, lineage) = adapter.snapshot();
        let bytes = to_bytes(&lora, &lineage)?;
        if !buf.is_null() {
            if buf_bytes < bytes.len() {
                return Err(argument(format!("buf: {buf_bytes} bytes are too few, the adapter has {}", bytes.len())));
            }
            // SAFETY: `buf` has room for `buf_bytes`, as the header asks for.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf, bytes.len()) };
        }
        // SAFETY: `n_bytes` is what the header asks for.
        unsafe { n_bytes.write(bytes.len()) };
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: `err` is what the header asks for.
    unsafe { guard(err, call) }
}

/// Frees an adapter; NULL is fine. A trainer that moves it goes on. Since 0.1.
#[no_mangle]
pub extern "C" fn llama_align_adapter_free(adapter: *mut llama_align_adapter) {
    free::<AdapterObject>(adapter);
}
