//! `llama_align_adapter`: what is trained of one model: LoRA factors, rows, or whole weights.

use super::guard::{create, free, guard};
use super::handle::{get, Object};
use super::model::{llama_align_model, ModelObject};
use super::params::{init, read, Params, Struct};
use super::status::{argument, llama_align_error, llama_align_status};
use super::text::{array, text};
use super::trainer_params::Decided;
use super::LLAMA_ALIGN_OK;
use crate::adapter::{
    export, import, in_layers, norms_and_biases, one_hot, peft, resolve_targets, to_bytes, Change, Lineage, Linear,
    Lora, RowChange, METHOD,
};
use crate::engine::Delta;
use crate::error::{Error, Kind, Result};
use crate::gguf::{self, Value};
use crate::mask::{hold, hold_changes, hold_rows, Granularity, Hold, Mask};
use crate::trace::trace;
use crate::train::{DeltaKind, TrainConfig};
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is trained of one model: LoRA factors, rows, or whole weights. Lifetime: from its maker to _free; a trainer keeps it going, so it may be freed
/// before. Threads: any number at once; while a trainer runs, each of its steps is seen whole or not at all.
#[derive(Debug)]
pub struct llama_align_adapter {
    _never: (),
}

/// Scale the update by alpha / sqrt(r) instead (rsLoRA), so that a large rank keeps its effect.
pub const LLAMA_ALIGN_ADAPTER_RSLORA: u32 = 1;
/// The norms of the blocks move as well, in F32; llama_align_adapter_save_change() writes them.
pub const LLAMA_ALIGN_ADAPTER_NORMS: u32 = 2;
/// The biases of the blocks move as well, likewise.
pub const LLAMA_ALIGN_ADAPTER_BIASES: u32 = 4;
/// There are no factors: the weights themselves move, each by a free change in F32, which takes 4 bytes for each of their numbers, and
/// a trainer 16. llama_align_adapter_save_change() writes the changes, llama_align_fold_files() makes a model of them.
pub const LLAMA_ALIGN_ADAPTER_FULL: u32 = 8;

/// What stands for NULL where weights are named.
const ALL: &str = "all-linear";

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

/// What has moved, and what it was trained by.
#[derive(Clone)]
pub(super) struct Factors {
    /// Factors; none where whole weights move.
    pub(super) lora: Lora,
    /// Changes of whole weights, and those of norms and biases behind them.
    pub(super) changes: Vec<Change>,
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
}

impl Held {
    fn new(hold: Hold, file: &gguf::File, granularity: Granularity) -> Self {
        Self { hold, mask: format!("{} {}s", gguf::base_hash(file), granularity.name()) }
    }
}

/// An adapter, its model, and whether a trainer moves it.
pub(super) struct AdapterObject {
    pub(super) model: Arc<ModelObject>,
    /// What moves.
    pub(super) delta: DeltaKind,
    /// Whether norms, and whether biases move beside it.
    vectors: [bool; 2],
    pub(super) in_training: AtomicBool,
    factors: Mutex<Factors>,
}

impl Object for AdapterObject {
    type C = llama_align_adapter;
    const NAME: &'static str = "adapter";
}

/// What an adapter is made for, beside its params: names of weights, blocks, and modules with ranks or alphas of their own.
pub(super) struct Wanted<'a> {
    pub(super) targets: &'a str,
    pub(super) layers: &'a str,
    pub(super) ranks: BTreeMap<String, usize>,
    pub(super) alphas: BTreeMap<String, f32>,
}

impl AdapterObject {
    pub(super) fn new(model: Arc<ModelObject>, lora: Lora, method: &str) -> Self {
        let factors = Factors { lora, changes: Vec::new(), method: method.to_owned(), held: None };
        let (in_training, factors) = (AtomicBool::new(false), Mutex::new(factors));
        Self { model, delta: DeltaKind::Lora, vectors: [false; 2], in_training, factors }
    }

    /// An adapter of rows.
    pub(super) fn of_rows(model: Arc<ModelObject>, rows: &[RowChange], file: &gguf::File, of: Granularity) -> Self {
        let object = Self { delta: DeltaKind::Rows, ..Self::new(model, one_hot(rows), "untrained") };
        object.factors().held = Some(Held::new(hold_rows(rows), file, of));
        object
    }

    /// What it decides of a run's configuration.
    pub(super) fn decides(&self) -> Decided {
        let device = self.model.model.devices().first().map(|d| d.name.clone());
        Decided { device, delta: self.delta, vectors: self.vectors }
    }

    /// Holds what a mask does not leave free.
    pub(super) fn hold(&self, file: &gguf::File) -> Result<()> {
        let mask = Mask::from_file(file)?;
        if let Some(base) = self.model.hash() {
            Mask::check_base(file, base)?;
        }
        let mut factors = self.idle()?;
        if self.vectors != [false; 2] {
            return Err(argument("adapter: norms or biases move beside it, and a mask names none"));
        }
        let free = match self.delta {
            DeltaKind::Rows => return Err(argument("adapter: it changes the rows of a mask already")),
            DeltaKind::Full => hold_changes(&mask, &factors.changes)?,
            DeltaKind::Lora => {
                let mut lora = factors.lora.clone();
                let free = hold(&mask, &mut lora)?;
                factors.lora = lora;
                free
            }
        };
        factors.held = Some(Held::new(free, file, mask.granularity()));
        Ok(())
    }

    /// What has moved, to change it.
    ///
    /// # Errors
    /// BUSY while a trainer has it.
    pub(super) fn idle(&self) -> Result<MutexGuard<'_, Factors>> {
        let factors = self.factors();
        match self.in_training.load(Ordering::Acquire) {
            true => Err(Error::new(Kind::Busy, "adapter: a trainer moves it")),
            false => Ok(factors),
        }
    }

    fn fresh(model: Arc<ModelObject>, wanted: Wanted<'_>, params: llama_align_adapter_params) -> Result<Self> {
        let llama_align_adapter_params { struct_size: _, rank, alpha, flags, seed } = params;
        let has = |bit: u32| flags & bit != 0;
        let (norms, biases) = (LLAMA_ALIGN_ADAPTER_NORMS, LLAMA_ALIGN_ADAPTER_BIASES);
        if has(!(LLAMA_ALIGN_ADAPTER_RSLORA | norms | biases | LLAMA_ALIGN_ADAPTER_FULL)) {
            return Err(argument(format!("flags: {flags:#x} has a bit without a meaning")));
        }
        let (use_rslora, vectors) = (has(LLAMA_ALIGN_ADAPTER_RSLORA), [has(norms), has(biases)]);
        let delta = if has(LLAMA_ALIGN_ADAPTER_FULL) { DeltaKind::Full } else { DeltaKind::Lora };
        let Wanted { targets, layers, ranks: rank_pattern, alphas: alpha_pattern } = wanted;
        let defaults = llama_align_adapter_params::defaults();
        let given = [
            ("lora_rank", rank != defaults.rank),
            ("lora_alpha", alpha != defaults.alpha),
            ("use_rslora", use_rslora),
            ("rank_pattern", !rank_pattern.is_empty()),
            ("alpha_pattern", !alpha_pattern.is_empty()),
        ];
        // The bounds of a run's configuration.
        let config = TrainConfig { delta, lora_rank: rank as usize, lora_alpha: alpha, ..TrainConfig::default() };
        let config = TrainConfig { use_rslora, rank_pattern, alpha_pattern, ..config };
        let given: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(key, _)| *key).collect();
        config.refuse_unused(&given)?;
        let config = config.resolve()?;
        let trace = trace(&model.model)?;
        let linears = resolve_targets(targets, &in_layers(layers, Linear::all(&trace))?)?;
        let beside = in_layers(layers, norms_and_biases(&trace, vectors[0], vectors[1])?)?;
        let (lora, whole) = match delta {
            DeltaKind::Full => {
                if let Some(stack) = linears.iter().find(|t| t.n_experts != 1) {
                    let what = format!("targets: FULL does not move experts ({})", stack.name);
                    return Err(Error::new(Kind::Unsupported, what));
                }
                (Lora::plain(Vec::new()), linears)
            }
            _ => (config.shape().init(&linears, seed)?, Vec::new()),
        };
        let object = Self { delta, vectors, ..Self::new(model, lora, "untrained") };
        object.factors().changes = whole.iter().chain(&beside).map(Change::zero).collect();
        Ok(object)
    }

    fn read(model: Arc<ModelObject>, file: &gguf::File) -> Result<Self> {
        model.check_fits(&gguf::validate_adapter(file)?)?;
        let method = file.get(METHOD).and_then(Value::as_str).unwrap_or("untrained").to_owned();
        Ok(Self::new(model, import(file)?, &method))
    }

    /// What has moved as it is now. Held for as long as it takes to copy it.
    pub(super) fn factors(&self) -> MutexGuard<'_, Factors> {
        self.factors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of all that has moved, to measure it.
    pub(super) fn moved(&self) -> (Vec<Delta>, Vec<Change>) {
        let Factors { lora, changes, .. } = self.factors().clone();
        let has_factors = self.delta != DeltaKind::Full;
        (has_factors.then_some(Delta { lora, scale: 1.0, trainable: false }).into_iter().collect(), changes)
    }

    /// A copy of the factors, and where they come from; norms and biases beside them have a file of their own.
    ///
    /// # Errors
    /// UNSUPPORTED for whole weights, which have no factors.
    pub(super) fn snapshot(&self) -> Result<(Lora, Lineage)> {
        if self.delta == DeltaKind::Full {
            let what = "adapter: whole weights have no factors; llama_align_adapter_save_change() writes their changes";
            return Err(Error::new(Kind::Unsupported, what));
        }
        let Factors { lora, method, .. } = &*self.factors();
        Ok((lora.clone(), self.lineage(method)))
    }

    /// A copy of the factors, which are all that moves.
    ///
    /// # Errors
    /// UNSUPPORTED for whole weights, and for norms and biases beside factors: what is made of the factors would lack them.
    pub(super) fn only_factors(&self) -> Result<Lora> {
        let (lora, _) = self.snapshot()?;
        if self.vectors != [false; 2] {
            let what = "adapter: it moves norms or biases, which only llama_align_adapter_save_change() and _fold_files() keep";
            return Err(Error::new(Kind::Unsupported, what));
        }
        Ok(lora)
    }

    /// A copy of the changes of whole weights, which are all that moves.
    ///
    /// # Errors
    /// UNSUPPORTED where norms or biases move as well: they are no matrices.
    pub(super) fn only_weights(&self) -> Result<Vec<Change>> {
        match self.vectors {
            [false, false] => Ok(self.factors().changes.clone()),
            _ => Err(Error::new(
                Kind::Unsupported,
                "adapter: norms or biases moved as well, and neurons are of matrices",
            )),
        }
    }

    /// Where what was trained by this method comes from.
    pub(super) fn lineage(&self, method: &str) -> Lineage {
        let base_name = self.model.name();
        let (architecture, base_hash) = (self.model.model.architecture(), self.model.hash().map(str::to_owned));
        Lineage { architecture, base_name, base_hash, method: method.to_owned() }
    }
}

/// "attn_q=8,ffn_down=4": values of some modules; empty for NULL.
///
/// # Safety
/// `ptr` is NULL or a string.
unsafe fn patterns<T: std::str::FromStr>(ptr: *const c_char, name: &str) -> Result<BTreeMap<String, T>> {
    if ptr.is_null() {
        return Ok(BTreeMap::new());
    }
    // SAFETY: by the caller.
    let list = unsafe { text(ptr, name) }?;
    let pair = |pair: &str| {
        let parts =
            pair.split_once('=').and_then(|(of, value)| Some((of.trim().to_owned(), value.trim().parse().ok()?)));
        parts.ok_or_else(|| argument(format!("{name}: {pair:?} is not MODULE=NUMBER")))
    };
    list.split(',').map(pair).collect()
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
        let targets = if targets.is_null() { ALL } else { unsafe { text(targets, "targets") }? };
        let wanted = Wanted { targets, layers: "", ranks: BTreeMap::new(), alphas: BTreeMap::new() };
        // SAFETY: as above.
        AdapterObject::fresh(model.share(), wanted, unsafe { read(params) }?)
    };
    // SAFETY: as above.
    unsafe { create(out, err, call) }
}

/// The same on some of the blocks, and with ranks and alphas of their own for some modules. `layers` (borrowed): numbers and ranges of
/// blocks such as "0,10-29"; NULL for all. `ranks`, `alphas` (borrowed): such as "attn_q=8,ffn_down=4", where "blk.3.attn_q" means
/// one block's; NULL for none. Everything else as in llama_align_adapter_new(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn llama_align_adapter_new_shaped(
    model: *const llama_align_model,
    targets: *const c_char,
    layers: *const c_char,
    ranks: *const c_char,
    alphas: *const c_char,
    params: *const llama_align_adapter_params,
    out: *mut *mut llama_align_adapter,
    err: *mut llama_align_error,
) -> llama_align_status {
    let call = || {
        let model = get::<ModelObject>(model)?;
        // SAFETY: pointers are what the header asks for.
        let or = |ptr: *const c_char, name, other| if ptr.is_null() { Ok(other) } else { unsafe { text(ptr, name) } };
        let (targets, blocks) = (or(targets, "targets", ALL)?, or(layers, "layers", "")?);
        if !layers.is_null() && blocks.trim().is_empty() {
            return Err(argument("layers: names no block; NULL stands for all"));
        }
        // SAFETY: as above.
        let (ranks, alphas) = unsafe { (patterns(ranks, "ranks")?, patterns(alphas, "alphas")?) };
        let wanted = Wanted { targets, layers: blocks, ranks, alphas };
        // SAFETY: as above.
        AdapterObject::fresh(model.share(), wanted, unsafe { read(params) }?)
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

/// Writes a GGUF adapter that unmodified llama.cpp loads, without norms and biases that moved beside it. The file is complete under its
/// name, or what was there before stays. Callback-safe. `path` (borrowed): not NULL. Errors: ARGUMENT, MISSING (the directory), IO,
/// UNSUPPORTED (whole weights), POISONED. Since 0.1.
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
        let (lora, lineage) = adapter.snapshot()?;
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
/// name for, what is no factors, or a model that was attached without its file), POISONED. Since 0.1.
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
        let lora = adapter.only_factors()?;
        peft::write(&lora, adapter.model.file()?, base_model, directory)?;
        Ok(LLAMA_ALIGN_OK)
    };
    // SAFETY: as above.
    unsafe { guard(err, call) }
}

/// Writes the bytes that llama_align_adapter_save() would, into `buf` (borrowed) of `buf_bytes` bytes. `n_bytes` (borrowed): not
/// NULL; gets the length. Ask for the length first, with `buf` NULL and `buf_bytes` 0; an adapter's first training changes it by a few
/// bytes. Callback-safe. Errors: ARGUMENT (also a buffer that is too small), UNSUPPORTED (whole weights), POISONED. Since 0.1.
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
        let (lora, lineage) = adapter.snapshot()?;
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
