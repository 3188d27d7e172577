//! The functions that are taken from a loaded runtime, with their C signatures.

use super::layout::Params;
use super::library::Library;
use crate::error::{Error, Kind, Result};
use crate::runtime::abi::*;
use std::ffi::{c_char, c_int, c_void};

/// `ggml_init_params`, the same since 2023.
#[repr(C)]
pub(super) struct InitParams {
    pub(super) mem_size: usize,
    pub(super) mem_buffer: *mut c_void,
    pub(super) no_alloc: bool,
}

/// `ggml_type_traits`, the same since February 2025.
#[repr(C)]
pub(super) struct TypeTraits {
    pub(super) type_name: *const c_char,
    pub(super) block_len: i64,
    pub(super) block_len_interleave: i64,
    pub(super) block_bytes: usize,
    pub(super) is_quantized: bool,
    pub(super) to_float: Option<ToFloat>,
}

/// `llama_sampler_chain_params`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ChainParams {
    pub(super) no_perf: bool,
}

/// Buffer types, registries, a context's memory: only passed on.
pub(super) type Opaque = *mut c_void;

macro_rules! symbols {
    ($($abi:literal { $($name:ident($($arg:ty),*) $(-> $ret:ty)?;)+ })+) => {
        /// A loaded runtime's functions, under their own names.
        #[derive(Clone, Copy)]
        pub(super) struct Symbols {
            $($(pub(super) $name: unsafe extern $abi fn($($arg),*) $(-> $ret)?,)+)+
        }

        impl Symbols {
            /// Looks all of them up.
            ///
            /// # Errors
            /// Names everything that is missing.
            pub(super) fn resolve(library: &Library) -> Result<Self> {
                struct Addresses {
                    $($($name: *mut c_void,)+)+
                }
                let mut missing = Vec::new();
                let mut find = |name: &'static str| {
                    library.address(name).unwrap_or_else(|| {
                        missing.push(name);
                        std::ptr::null_mut()
                    })
                };
                let found = Addresses { $($($name: find(stringify!($name)),)+)+ };
                if !missing.is_empty() {
                    let message = format!("{}: it exports no {}", library.path().display(), missing.join(", "));
                    return Err(Error::new(Kind::Unsupported, message));
                }
                Ok(Self {$($(
                    // SAFETY: not NULL, and the function of this name; that its signature is the one declared here is what
                    // the version and the probes stand for.
                    $name: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern $abi fn($($arg),*) $(-> $ret)?>(found.$name)
                    },
                )+)+})
            }
        }
    };
}

type Device = *mut GgmlDevice;
type Scheduler = *mut GgmlScheduler;
type Tensor = *mut GgmlTensor;
type ConstModel = *const LlamaModel;
type ConstVocab = *const LlamaVocab;

symbols! {
    "C" {
        ggml_version() -> *const c_char;
        ggml_op_name(c_int) -> *const c_char;
        ggml_unary_op_name(c_int) -> *const c_char;
        ggml_glu_op_name(c_int) -> *const c_char;
        ggml_type_name(c_int) -> *const c_char;
        ggml_get_type_traits(c_int) -> *const TypeTraits;
        ggml_init(InitParams) -> *mut GgmlContext;
        ggml_free(*mut GgmlContext);
        ggml_tensor_overhead() -> usize;
        ggml_graph_overhead_custom(usize, bool) -> usize;
        ggml_new_tensor(*mut GgmlContext, c_int, c_int, *const i64) -> Tensor;
        ggml_set_name(Tensor, *const c_char) -> Tensor;
        ggml_view_2d(*mut GgmlContext, Tensor, i64, i64, usize, usize) -> Tensor;
        ggml_mul_mat(*mut GgmlContext, Tensor, Tensor) -> Tensor;
        ggml_set_input(Tensor);
        ggml_set_output(Tensor);
        ggml_custom_4d(*mut GgmlContext, c_int, i64, i64, i64, i64, *mut Tensor, c_int, CustomOp, c_int, *mut c_void) -> Tensor;
        ggml_new_graph_custom(*mut GgmlContext, usize, bool) -> *mut GgmlGraph;
        ggml_build_forward_expand(*mut GgmlGraph, Tensor);
        ggml_graph_n_nodes(*mut GgmlGraph) -> c_int;
        ggml_graph_node(*mut GgmlGraph, c_int) -> Tensor;
        ggml_backend_load_all_from_path(*const c_char);
        ggml_backend_dev_count() -> usize;
        ggml_backend_dev_get(usize) -> Device;
        ggml_backend_dev_by_type(c_int) -> Device;
        ggml_backend_dev_name(Device) -> *const c_char;
        ggml_backend_dev_description(Device) -> *const c_char;
        ggml_backend_dev_memory(Device, *mut usize, *mut usize);
        ggml_backend_dev_type(Device) -> c_int;
        ggml_backend_dev_init(Device, *const c_char) -> *mut GgmlBackend;
        ggml_backend_dev_supports_op(Device, *const GgmlTensor) -> bool;
        ggml_backend_dev_backend_reg(Device) -> Opaque;
        ggml_backend_reg_get_proc_address(Opaque, *const c_char) -> Opaque;
        ggml_backend_free(*mut GgmlBackend);
        ggml_backend_graph_compute(*mut GgmlBackend, *mut GgmlGraph) -> c_int;
        ggml_backend_get_default_buffer_type(*mut GgmlBackend) -> Opaque;
        ggml_backend_supports_op(*mut GgmlBackend, *const GgmlTensor) -> bool;
        ggml_backend_cpu_buffer_from_ptr(*mut c_void, usize) -> *mut GgmlBuffer;
        ggml_backend_buffer_free(*mut GgmlBuffer);
        ggml_backend_buffer_is_host(*mut GgmlBuffer) -> bool;
        ggml_backend_buffer_get_usage(*mut GgmlBuffer) -> c_int;
        ggml_backend_buffer_name(*mut GgmlBuffer) -> *const c_char;
        ggml_backend_buffer_get_type(*mut GgmlBuffer) -> Opaque;
        ggml_backend_buft_get_device(Opaque) -> Device;
        ggml_backend_tensor_get(*const GgmlTensor, *mut c_void, usize, usize);
        ggml_backend_tensor_alloc(*mut GgmlBuffer, Tensor, *mut c_void) -> c_int;
        ggml_gallocr_new(Opaque) -> *mut GgmlAllocator;
        ggml_gallocr_free(*mut GgmlAllocator);
        ggml_gallocr_alloc_graph(*mut GgmlAllocator, *mut GgmlGraph) -> bool;
        ggml_gallocr_get_buffer_size(*mut GgmlAllocator, c_int) -> usize;
        ggml_backend_sched_new(*mut *mut GgmlBackend, *mut Opaque, c_int, usize, bool, bool) -> Scheduler;
        ggml_backend_sched_free(Scheduler);
        ggml_backend_sched_reset(Scheduler);
        ggml_backend_sched_get_tensor_backend(Scheduler, Tensor) -> *mut GgmlBackend;
        ggml_backend_sched_get_buffer_size(Scheduler, *mut GgmlBackend) -> usize;
        llama_backend_init();
        llama_log_set(unsafe extern "C" fn(c_int, *const c_char, *mut c_void), *mut c_void);
        // A struct that is returned in memory is written through a hidden first argument (System V, x86-64), which lets
        // the caller see what was written.
        llama_model_default_params(*mut Params) -> *mut Params;
        llama_context_default_params(*mut Params) -> *mut Params;
        llama_model_free(*mut LlamaModel);
        llama_model_get_vocab(ConstModel) -> ConstVocab;
        llama_model_n_swa(ConstModel) -> i32;
        llama_model_n_layer(ConstModel) -> i32;
        llama_model_n_ctx_train(ConstModel) -> i32;
        llama_model_has_encoder(ConstModel) -> bool;
        llama_model_meta_val_str(ConstModel, *const c_char, *mut c_char, usize) -> i32;
        llama_model_chat_template(ConstModel, *const c_char) -> *const c_char;
        llama_vocab_n_tokens(ConstVocab) -> i32;
        llama_vocab_bos(ConstVocab) -> i32;
        llama_vocab_eos(ConstVocab) -> i32;
        llama_vocab_eot(ConstVocab) -> i32;
        llama_vocab_get_add_bos(ConstVocab) -> bool;
        llama_vocab_is_eog(ConstVocab, i32) -> bool;
        llama_vocab_get_text(ConstVocab, i32) -> *const c_char;
        llama_token_to_piece(ConstVocab, i32, *mut c_char, i32, i32, bool) -> i32;
        llama_free(*mut LlamaContext);
        llama_get_memory(*mut LlamaContext) -> Opaque;
        llama_memory_clear(Opaque, bool);
        llama_memory_seq_rm(Opaque, i32, i32, i32) -> bool;
        llama_get_logits_ith(*mut LlamaContext, i32) -> *mut f32;
        llama_adapter_lora_free(*mut LlamaAdapter);
        llama_sampler_chain_default_params() -> ChainParams;
        llama_sampler_chain_init(ChainParams) -> *mut LlamaSampler;
        llama_sampler_chain_add(*mut LlamaSampler, *mut LlamaSampler);
        llama_sampler_init_greedy() -> *mut LlamaSampler;
        llama_sampler_init_top_k(i32) -> *mut LlamaSampler;
        llama_sampler_init_top_p(f32, usize) -> *mut LlamaSampler;
        llama_sampler_init_min_p(f32, usize) -> *mut LlamaSampler;
        llama_sampler_init_temp(f32) -> *mut LlamaSampler;
        llama_sampler_init_dist(u32) -> *mut LlamaSampler;
        llama_sampler_free(*mut LlamaSampler);
        llama_sampler_sample(*mut LlamaSampler, *mut LlamaContext, i32) -> i32;
    }
    "C-unwind" {
        ggml_backend_sched_alloc_graph(Scheduler, *mut GgmlGraph) -> bool;
        ggml_backend_sched_graph_compute(Scheduler, *mut GgmlGraph) -> c_int;
        ggml_quantize_chunk(c_int, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize;
        llama_model_load_from_file(*const c_char, Params) -> *mut LlamaModel;
        llama_tokenize(ConstVocab, *const c_char, i32, *mut i32, i32, bool, bool) -> i32;
        llama_init_from_model(*mut LlamaModel, Params) -> *mut LlamaContext;
        llama_decode(*mut LlamaContext, LlamaBatch) -> i32;
        llama_adapter_lora_init(*mut LlamaModel, *const c_char) -> *mut LlamaAdapter;
        llama_set_adapters_lora(*mut LlamaContext, *mut *mut LlamaAdapter, usize, *mut f32) -> i32;
    }
}
