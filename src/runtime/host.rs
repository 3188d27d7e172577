//! What a host hands over that compiled `include/llama-align-host.h` against its own llama.cpp: facts about its structs as
//! its compiler laid them out, and the table of functions.

use super::abi::{self, GgmlTensor, LlamaBatch, Table};
use super::Runtime;
use crate::error::{Error, Kind, Result};
use std::mem::{offset_of, MaybeUninit};
use std::sync::Arc;

/// Version of [`Host`]; `LLAMA_ALIGN_HOST_ABI` of the header.
pub const HOST_ABI: u32 = 1;

macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident = $ours:expr),+ $(,)?) => {
        /// Sizes, places and constants of the host's headers.
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct Layout {
            $($(#[$doc])* pub $field: u32,)+
        }

        impl Layout {
            /// What this library was written for.
            pub const OURS: Self = Self { $($field: $ours as u32),+ };

            /// The first fact that differs: its name, the host's value, ours.
            fn difference(&self) -> Option<(&'static str, u32, u32)> {
                let facts = [$((stringify!($field), self.$field, Self::OURS.$field)),+];
                facts.into_iter().find(|(_, theirs, ours)| theirs != ours)
            }
        }
    };
}

layout! {
    /// `sizeof(struct ggml_tensor)`; the next are `offsetof` its fields.
    tensor_bytes = size_of::<GgmlTensor>(),
    /// `type`
    tensor_type = offset_of!(GgmlTensor, ty),
    /// `buffer`
    tensor_buffer = offset_of!(GgmlTensor, buffer),
    /// `ne`
    tensor_ne = offset_of!(GgmlTensor, ne),
    /// `nb`
    tensor_nb = offset_of!(GgmlTensor, nb),
    /// `op`
    tensor_op = offset_of!(GgmlTensor, op),
    /// `op_params`
    tensor_op_params = offset_of!(GgmlTensor, op_params),
    /// `flags`
    tensor_flags = offset_of!(GgmlTensor, flags),
    /// `src`
    tensor_src = offset_of!(GgmlTensor, src),
    /// `view_src`
    tensor_view_src = offset_of!(GgmlTensor, view_src),
    /// `view_offs`
    tensor_view_offs = offset_of!(GgmlTensor, view_offs),
    /// `data`
    tensor_data = offset_of!(GgmlTensor, data),
    /// `name`
    tensor_name = offset_of!(GgmlTensor, name),
    /// `GGML_MAX_SRC`
    n_src = abi::N_SRC,
    /// `GGML_MAX_NAME`
    name_bytes = abi::NAME_BYTES,
    /// `GGML_TENSOR_FLAG_INPUT`
    flag_input = abi::FLAG_INPUT,
    /// `GGML_STATUS_SUCCESS`
    status_success = abi::STATUS_SUCCESS,
    /// `sizeof(struct llama_batch)`
    batch_bytes = size_of::<LlamaBatch>(),
}

/// `struct llama_align_host`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// [`HOST_ABI`].
    pub abi: u32,
    /// `sizeof(struct llama_align_host)`.
    pub struct_size: u32,
    /// Facts of the host's headers.
    pub layout: Layout,
    /// The host's functions.
    pub table: Table,
}

impl Runtime {
    /// A host's runtime.
    ///
    /// # Errors
    /// [`Kind::Argument`] for a table that is incomplete or of another version, [`Kind::Unsupported`] for a ggml whose structs
    /// are laid out differently.
    ///
    /// # Safety
    /// `host` points to as many readable bytes as it says, filled by `llama_align_host_fill`; what it names stays loaded as long
    /// as the result lives.
    pub unsafe fn from_host(host: *const Host) -> Result<Arc<Self>> {
        // SAFETY: by the caller; two numbers come first.
        let [abi, bytes] = unsafe { host.cast::<[u32; 2]>().read() };
        if (abi, bytes as usize) != (HOST_ABI, size_of::<Host>()) {
            let message = format!(
                "the host was compiled with version {abi} of llama-align-host.h ({bytes} bytes), this library needs \
                 {HOST_ABI} ({})",
                size_of::<Host>()
            );
            return Err(Error::new(Kind::Argument, message));
        }
        // SAFETY: the size is right, and numbers have no invalid values.
        let layout = unsafe { (&raw const (*host).layout).read() };
        if let Some((fact, theirs, ours)) = layout.difference() {
            let message = format!("the host's ggml is laid out differently: {fact} is {theirs}, not {ours}");
            return Err(Error::new(Kind::Unsupported, message));
        }
        const FUNCTIONS: usize = offset_of!(Table, ggml_version);
        let mut table = MaybeUninit::<Table>::uninit();
        // SAFETY: as above; the words behind the numbers are the functions, none of which may be NULL.
        let table = unsafe {
            std::ptr::copy_nonoverlapping(&raw const (*host).table, table.as_mut_ptr(), 1);
            let words = table.as_ptr().cast::<u8>().add(FUNCTIONS).cast::<usize>();
            let n = (size_of::<Table>() - FUNCTIONS) / size_of::<usize>();
            if let Some(i) = (0..n).find(|&i| words.add(i).read() == 0) {
                let message = format!("the host left function {i} of its table empty: call llama_align_host_fill()");
                return Err(Error::new(Kind::Argument, message));
            }
            table.assume_init()
        };
        // SAFETY: the host's compiler vouches for the structs, the caller for the functions.
        unsafe { Self::from_table(table) }
    }
}
