//! A loaded runtime that was found sound, in one of the few slots that a process has for them.
//!
//! The functions of a table carry no data: each slot has its own set of them ([`super::table`]).

use super::probe::Facts;
use super::symbols::{Opaque, Symbols};
use super::table::table;
use crate::error::{Error, Kind, Result};
use crate::runtime::abi::{GgmlBackend, GgmlDevice, Table, DEVICE_CPU};
use crate::runtime::log::Log;
use std::ffi::c_int;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Runtimes that one process may have; two are rare.
const N_SLOTS: usize = 4;

/// A runtime that was found sound.
pub(super) struct Host {
    pub(super) symbols: Symbols,
    pub(super) n_ops: usize,
    pub(super) n_unary_ops: usize,
    pub(super) n_glu_ops: usize,
    pub(super) n_types: u32,
    pub(super) cpu: *mut GgmlDevice,
    pub(super) set_n_threads: unsafe extern "C" fn(*mut GgmlBackend, c_int),
    pub(super) model: ModelFields,
    pub(super) context: ContextFields,
    /// Where its errors are kept, if this library loaded it; a host's own log is left alone.
    pub(super) log: Option<&'static Log>,
}

// SAFETY: functions and a device that live as long as the process.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

macro_rules! offsets {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ $(,)? }) => {
        $(#[$doc])*
        pub(super) struct $name { $(pub(super) $field: usize),+ }

        impl $name {
            fn of(layout: &super::layout::Layout) -> Result<Self> {
                Ok(Self { $($field: layout.offset(stringify!($field)).ok_or_else(|| {
                    Error::new(Kind::Internal, concat!("a known layout has no ", stringify!($field)))
                })?),+ })
            }
        }
    };
}

offsets! {
    /// Offsets in `llama_model_params` of what is set there.
    ModelFields { devices, n_gpu_layers, use_extra_bufts }
}

offsets! {
    /// Offsets in `llama_context_params` of what is set there.
    ContextFields {
        n_ctx, n_batch, n_ubatch, n_seq_max, n_threads, n_threads_batch, flash_attn_type, type_k, type_v, swa_full,
        kv_unified, no_perf, cb_eval, cb_eval_user_data, abort_callback, abort_callback_data,
    }
}

impl Host {
    /// # Safety
    /// The symbols are those of one loaded runtime that the facts are true of.
    pub(super) unsafe fn new(symbols: Symbols, facts: &Facts, log: Option<&'static Log>) -> Result<Self> {
        // SAFETY: plain questions; the function that is looked up has had this signature since 2024.
        let (cpu, set_n_threads) = unsafe {
            let cpu = (symbols.ggml_backend_dev_by_type)(DEVICE_CPU);
            if cpu.is_null() {
                let message = "this llama.cpp has no CPU device: its program has not loaded the backends \
                     (ggml_backend_load_all)";
                return Err(Error::new(Kind::Unsupported, message));
            }
            let registry = (symbols.ggml_backend_dev_backend_reg)(cpu);
            let found = (symbols.ggml_backend_reg_get_proc_address)(registry, c"ggml_backend_set_n_threads".as_ptr());
            if found.is_null() {
                let message = "the CPU backend of this ggml has no ggml_backend_set_n_threads";
                return Err(Error::new(Kind::Unsupported, message));
            }
            (cpu, std::mem::transmute::<Opaque, unsafe extern "C" fn(*mut GgmlBackend, c_int)>(found))
        };
        let (model, context) = (ModelFields::of(&facts.model)?, ContextFields::of(&facts.context)?);
        let (n_ops, n_types) = (facts.version.n_ops, facts.version.n_types);
        let (n_unary_ops, n_glu_ops) = (facts.version.unary.len(), facts.version.glu.len());
        Ok(Self { symbols, n_ops, n_unary_ops, n_glu_ops, n_types, cpu, set_n_threads, model, context, log })
    }

    fn is_of(&self, symbols: &Symbols) -> bool {
        self.symbols.llama_decode as usize == symbols.llama_decode as usize
            && self.symbols.ggml_init as usize == symbols.ggml_init as usize
    }
}

static HOSTS: [OnceLock<Host>; N_SLOTS] = [const { OnceLock::new() }; N_SLOTS];

fn slot_of(symbols: &Symbols) -> Option<usize> {
    HOSTS.iter().position(|h| h.get().is_some_and(|h| h.is_of(symbols)))
}

/// True for a runtime that was bound before.
pub(super) fn is_bound(symbols: &Symbols) -> bool {
    slot_of(symbols).is_some()
}

/// Puts a runtime into a slot, for good, and makes its table; one that was bound before keeps its slot.
///
/// # Errors
/// If the process has too many.
pub(super) fn bind(host: Host) -> Result<Table> {
    static BINDING: Mutex<()> = Mutex::new(());
    let _one = BINDING.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = slot_of(&host.symbols).or_else(|| {
        let free = HOSTS.iter().position(|h| h.get().is_none())?;
        HOSTS[free].set(host).is_ok().then_some(free)
    });
    let table = slot.and_then(table_of);
    table
        .ok_or_else(|| Error::new(Kind::Unsupported, format!("{N_SLOTS} llama.cpp are in use in this process already")))
}

fn table_of(slot: usize) -> Option<Table> {
    let table = [table::<0>, table::<1>, table::<2>, table::<3>].get(slot).copied();
    HOSTS.get(slot).and_then(OnceLock::get).and_then(|host| table.map(|table| table(host)))
}

/// The runtime in a slot. Only the functions of a slot's table ask, and a table is made of a filled slot.
pub(super) fn host<const SLOT: usize>() -> &'static Host {
    HOSTS[SLOT].get().expect("a table is made of a filled slot")
}
