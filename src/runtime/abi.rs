//! The layout of what crosses into ggml and llama.cpp, and the one table of functions that may be called.
//!
//! The types are ours, not a binding's: a host that brings its own llama.cpp fills the same table.

#![allow(missing_docs)] // fields are named as in ggml.h and llama.h

use std::ffi::{c_char, c_int, c_void};

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name { _private: [u8; 0] }
    )+};
}

opaque! {
    /// `llama_model`
    LlamaModel,
    /// `llama_context`
    LlamaContext,
    /// `llama_vocab`
    LlamaVocab,
    /// `llama_adapter_lora`
    LlamaAdapter,
    /// `llama_sampler`
    LlamaSampler,
    /// `ggml_context`
    GgmlContext,
    /// `ggml_cgraph`
    GgmlGraph,
    /// `ggml_backend`
    GgmlBackend,
    /// `ggml_backend_buffer`
    GgmlBuffer,
    /// `ggml_gallocr`
    GgmlAllocator,
    /// `ggml_backend_device`
    GgmlDevice,
    /// `ggml_backend_sched`
    GgmlScheduler,
}

/// Number of sources of a tensor (`GGML_MAX_SRC`).
pub const N_SRC: usize = 10;
/// Bytes of a tensor's name (`GGML_MAX_NAME`).
pub const NAME_BYTES: usize = 64;
/// `GGML_TENSOR_FLAG_INPUT`.
pub const FLAG_INPUT: i32 = 1;
/// `GGML_STATUS_SUCCESS`.
pub const STATUS_SUCCESS: c_int = 0;
/// `GGML_BACKEND_DEVICE_TYPE_CPU`.
pub const DEVICE_CPU: c_int = 0;
/// `GGML_BACKEND_DEVICE_TYPE_GPU`.
pub const DEVICE_GPU: c_int = 1;
/// `GGML_BACKEND_DEVICE_TYPE_IGPU`.
pub const DEVICE_IGPU: c_int = 2;

/// `ggml_tensor`: 336 bytes, the same layout since November 2024.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GgmlTensor {
    pub ty: c_int,
    pub buffer: *mut GgmlBuffer,
    pub ne: [i64; 4],
    pub nb: [usize; 4],
    pub op: c_int,
    pub op_params: [i32; 16],
    pub flags: i32,
    pub src: [*mut GgmlTensor; N_SRC],
    pub view_src: *mut GgmlTensor,
    pub view_offs: usize,
    pub data: *mut c_void,
    pub name: [c_char; NAME_BYTES],
    pub extra: *mut c_void,
    pub padding: [c_char; 8],
}

const _: () = assert!(size_of::<GgmlTensor>() == 336, "ggml_tensor has the layout this module was written for");

/// `llama_batch`, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LlamaBatch {
    pub n_tokens: i32,
    pub token: *mut i32,
    pub embd: *mut f32,
    pub pos: *mut i32,
    pub n_seq_id: *mut i32,
    pub seq_id: *mut *mut i32,
    pub logits: *mut i8,
}

/// `ggml_to_float_t`: decodes `n` elements, whole blocks, to F32.
pub type ToFloat = unsafe extern "C" fn(src: *const c_void, dst: *mut f32, n: i64);
/// `ggml_backend_sched_eval_callback`.
pub type EvalCallback = unsafe extern "C" fn(tensor: *mut GgmlTensor, ask: bool, user: *mut c_void) -> bool;
/// `ggml_abort_callback`: true stops the computation.
pub type AbortCallback = unsafe extern "C" fn(user: *mut c_void) -> bool;
/// `ggml_custom_op_t`: called on every thread.
pub type CustomOp = unsafe extern "C" fn(dst: *mut GgmlTensor, ith: c_int, nth: c_int, user: *mut c_void);

/// What a context is made for; whoever fills the table turns it into `llama_context_params`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ContextSpec {
    /// Tokens of context; batch and micro-batch are as large.
    pub n_ctx: u32,
    /// Sequences that may be decoded in parallel.
    pub n_seq_max: u32,
    /// Threads.
    pub n_threads: i32,
    /// Called for every node; `None` for an ordinary decode.
    pub eval: Option<EvalCallback>,
    /// Asked whether to stop.
    pub abort: Option<AbortCallback>,
    /// Passed to both callbacks.
    pub user: *mut c_void,
}

/// How a model is loaded; whoever fills the table turns it into `llama_model_params`: mapped, without extra buffer types.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ModelSpec {
    /// Devices that weights may lie on, NULL-terminated; an empty list keeps everything on the CPU.
    pub devices: *mut *mut GgmlDevice,
    /// Blocks whose weights go to the devices, counted from the last; negative for all, and the output weights.
    pub n_gpu_layers: i32,
}

macro_rules! table {
    (
        $($(#[$doc:meta])* $field:ident : fn($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)?),+ $(,)?;
        $($(#[$g_doc:meta])* $g_field:ident : fn($($g_arg:ident : $g_ty:ty),* $(,)?) $(-> $g_ret:ty)?),+ $(,)?
    ) => {
        /// The functions of ggml and llama.cpp that this library calls, and the facts it must know about them.
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct Table {
            /// `GGML_OP_COUNT`.
            pub n_ops: u32,
            /// `GGML_UNARY_OP_COUNT`.
            pub n_unary_ops: u32,
            /// `GGML_GLU_OP_COUNT`.
            pub n_glu_ops: u32,
            /// `GGML_BACKEND_BUFFER_USAGE_WEIGHTS`.
            pub usage_weights: c_int,
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?,)+
            $($(#[$g_doc])* pub $g_field: unsafe extern "C-unwind" fn($($g_arg: $g_ty),*) $(-> $g_ret)?,)+
        }
    };
}

table! {
    /// `ggml_version`
    ggml_version: fn() -> *const c_char,
    /// `ggml_op_name`
    op_name: fn(op: c_int) -> *const c_char,
    /// `ggml_unary_op_name`
    unary_op_name: fn(op: c_int) -> *const c_char,
    /// `ggml_glu_op_name`
    glu_op_name: fn(op: c_int) -> *const c_char,
    /// `ggml_type_name`
    type_name: fn(ty: c_int) -> *const c_char,
    /// `to_float` of the type's traits, NULL where there is none.
    to_float: fn(ty: c_int) -> Option<ToFloat>,
    /// `ggml_init` with `no_alloc`.
    ctx_new: fn(bytes: usize) -> *mut GgmlContext,
    /// `ggml_free`
    ctx_free: fn(ctx: *mut GgmlContext),
    /// `ggml_tensor_overhead`
    tensor_overhead: fn() -> usize,
    /// `ggml_graph_overhead_custom` without gradients.
    graph_overhead: fn(n_nodes: usize) -> usize,
    /// `ggml_new_tensor`
    new_tensor: fn(ctx: *mut GgmlContext, ty: c_int, n_dims: c_int, ne: *const i64) -> *mut GgmlTensor,
    /// `ggml_custom_4d` with F32 result and all threads.
    custom: fn(ctx: *mut GgmlContext, ne: *const i64, args: *mut *mut GgmlTensor, n_args: c_int, fun: CustomOp, user: *mut c_void) -> *mut GgmlTensor,
    /// `ggml_new_graph_custom` without gradients.
    new_graph: fn(ctx: *mut GgmlContext, n_nodes: usize) -> *mut GgmlGraph,
    /// `ggml_build_forward_expand`
    graph_expand: fn(graph: *mut GgmlGraph, tensor: *mut GgmlTensor),
    /// `ggml_graph_n_nodes`
    graph_n_nodes: fn(graph: *mut GgmlGraph) -> c_int,
    /// `ggml_graph_node`
    graph_node: fn(graph: *mut GgmlGraph, i: c_int) -> *mut GgmlTensor,
    /// `ggml_set_output`: the allocator keeps the tensor's memory.
    set_output: fn(tensor: *mut GgmlTensor),
    /// A CPU backend with this many threads that live as long as it does; NULL on failure.
    backend_cpu: fn(n_threads: c_int) -> *mut GgmlBackend,
    /// Frees what `backend_cpu` made.
    backend_free: fn(backend: *mut GgmlBackend),
    /// `ggml_backend_graph_compute`
    compute: fn(backend: *mut GgmlBackend, graph: *mut GgmlGraph) -> c_int,
    /// `ggml_gallocr_new` on the backend's default buffer type.
    alloc_new: fn(backend: *mut GgmlBackend) -> *mut GgmlAllocator,
    /// `ggml_gallocr_free`
    alloc_free: fn(alloc: *mut GgmlAllocator),
    /// `ggml_gallocr_alloc_graph`
    alloc_graph: fn(alloc: *mut GgmlAllocator, graph: *mut GgmlGraph) -> bool,
    /// `ggml_gallocr_get_buffer_size` of buffer 0.
    alloc_bytes: fn(alloc: *mut GgmlAllocator) -> usize,
    /// `ggml_backend_cpu_buffer_from_ptr`
    buffer_from_ptr: fn(ptr: *mut c_void, bytes: usize) -> *mut GgmlBuffer,
    /// `ggml_backend_buffer_free`
    buffer_free: fn(buffer: *mut GgmlBuffer),
    /// `ggml_backend_buffer_is_host`
    buffer_is_host: fn(buffer: *mut GgmlBuffer) -> bool,
    /// `ggml_backend_buffer_get_usage`
    buffer_usage: fn(buffer: *mut GgmlBuffer) -> c_int,
    /// `ggml_backend_buffer_name`
    buffer_name: fn(buffer: *mut GgmlBuffer) -> *const c_char,
    /// The device that a buffer's type belongs to; NULL where ggml names none.
    buffer_device: fn(buffer: *mut GgmlBuffer) -> *mut GgmlDevice,
    /// `ggml_backend_tensor_get`: from wherever the tensor lies.
    tensor_get: fn(tensor: *const GgmlTensor, data: *mut c_void, offset: usize, bytes: usize),
    /// `ggml_backend_tensor_alloc`
    tensor_place: fn(buffer: *mut GgmlBuffer, tensor: *mut GgmlTensor, addr: *mut c_void) -> c_int,
    /// True if a CPU device can run this node.
    supports_op: fn(backend: *mut GgmlBackend, tensor: *const GgmlTensor) -> bool,
    /// `ggml_backend_dev_count`
    dev_count: fn() -> usize,
    /// `ggml_backend_dev_get`
    dev_get: fn(i: usize) -> *mut GgmlDevice,
    /// `ggml_backend_dev_name`
    dev_name: fn(device: *mut GgmlDevice) -> *const c_char,
    /// `ggml_backend_dev_description`
    dev_description: fn(device: *mut GgmlDevice) -> *const c_char,
    /// `ggml_backend_dev_memory`
    dev_memory: fn(device: *mut GgmlDevice, free: *mut usize, total: *mut usize),
    /// `ggml_backend_dev_type`
    dev_type: fn(device: *mut GgmlDevice) -> c_int,
    /// `ggml_backend_dev_init` without parameters; NULL on failure. `backend_free` frees it.
    dev_backend: fn(device: *mut GgmlDevice) -> *mut GgmlBackend,
    /// `ggml_backend_dev_supports_op`
    dev_supports_op: fn(device: *mut GgmlDevice, tensor: *const GgmlTensor) -> bool,
    /// `ggml_backend_sched_new` over these backends, the last one a CPU's, in their default buffer types, not pipelined, with
    /// operations on host weights offloaded where a device wants them.
    sched_new: fn(backends: *mut *mut GgmlBackend, n_backends: c_int, graph_size: usize) -> *mut GgmlScheduler,
    /// `ggml_backend_sched_free`
    sched_free: fn(sched: *mut GgmlScheduler),
    /// `ggml_backend_sched_reset`
    sched_reset: fn(sched: *mut GgmlScheduler),
    /// `ggml_backend_sched_get_tensor_backend`
    sched_backend: fn(sched: *mut GgmlScheduler, node: *mut GgmlTensor) -> *mut GgmlBackend,
    /// `ggml_backend_sched_get_buffer_size`
    sched_bytes: fn(sched: *mut GgmlScheduler, backend: *mut GgmlBackend) -> usize,
    /// `llama_model_free`
    model_free: fn(model: *mut LlamaModel),
    /// `llama_model_get_vocab`
    model_vocab: fn(model: *const LlamaModel) -> *const LlamaVocab,
    /// `llama_model_n_swa`
    model_n_swa: fn(model: *const LlamaModel) -> i32,
    /// `llama_model_n_layer`
    model_n_layer: fn(model: *const LlamaModel) -> i32,
    /// `llama_model_n_ctx_train`
    model_n_ctx_train: fn(model: *const LlamaModel) -> i32,
    /// `llama_model_has_encoder`
    model_has_encoder: fn(model: *const LlamaModel) -> bool,
    /// `llama_model_meta_val_str`
    model_meta: fn(model: *const LlamaModel, key: *const c_char, buf: *mut c_char, bytes: usize) -> i32,
    /// `llama_model_chat_template` of the default template.
    model_template: fn(model: *const LlamaModel) -> *const c_char,
    /// `llama_vocab_n_tokens`
    vocab_n_tokens: fn(vocab: *const LlamaVocab) -> i32,
    /// `llama_vocab_bos`
    vocab_bos: fn(vocab: *const LlamaVocab) -> i32,
    /// `llama_vocab_eos`
    vocab_eos: fn(vocab: *const LlamaVocab) -> i32,
    /// `llama_vocab_eot`
    vocab_eot: fn(vocab: *const LlamaVocab) -> i32,
    /// `llama_vocab_get_add_bos`
    vocab_add_bos: fn(vocab: *const LlamaVocab) -> bool,
    /// `llama_vocab_is_eog`
    vocab_is_eog: fn(vocab: *const LlamaVocab, token: i32) -> bool,
    /// `llama_vocab_get_text`
    vocab_text: fn(vocab: *const LlamaVocab, token: i32) -> *const c_char,
    /// `llama_token_to_piece`
    piece: fn(vocab: *const LlamaVocab, token: i32, buf: *mut c_char, bytes: i32, lstrip: i32, special: bool) -> i32,
    /// `llama_free`
    context_free: fn(ctx: *mut LlamaContext),
    /// `llama_memory_clear` of the context's memory.
    context_clear: fn(ctx: *mut LlamaContext),
    /// `llama_memory_seq_rm`
    context_remove: fn(ctx: *mut LlamaContext, seq: i32, from: i32, to: i32) -> bool,
    /// `llama_get_logits_ith`
    logits: fn(ctx: *mut LlamaContext, i: i32) -> *mut f32,
    /// `llama_adapter_lora_free`
    adapter_free: fn(adapter: *mut LlamaAdapter),
    /// A sampler chain: temperature 0 is greedy, otherwise top-k, top-p, min-p, temperature, seed.
    sampler_new: fn(temperature: f32, top_k: i32, top_p: f32, min_p: f32, seed: u32) -> *mut LlamaSampler,
    /// `llama_sampler_free`
    sampler_free: fn(sampler: *mut LlamaSampler),
    /// `llama_sampler_sample`, which also accepts the token.
    sample: fn(sampler: *mut LlamaSampler, ctx: *mut LlamaContext, i: i32) -> i32,
    /// Copies the last error lines that ggml or llama.cpp logged into `buf`; returns the bytes written.
    last_log: fn(buf: *mut c_char, bytes: usize) -> usize;

    /// `ggml_quantize_chunk`; `imatrix` is NULL or has `n_per_row` numbers.
    quantize: fn(ty: c_int, src: *const f32, dst: *mut c_void, n_rows: i64, n_per_row: i64, imatrix: *const f32) -> usize,
    /// `ggml_backend_sched_alloc_graph`
    sched_alloc: fn(sched: *mut GgmlScheduler, graph: *mut GgmlGraph) -> bool,
    /// `ggml_backend_sched_graph_compute`
    sched_compute: fn(sched: *mut GgmlScheduler, graph: *mut GgmlGraph) -> c_int,
    /// Loads a model mapped, without extra buffer types; NULL on failure.
    model_load: fn(path: *const c_char, spec: *const ModelSpec) -> *mut LlamaModel,
    /// `llama_tokenize`
    tokenize: fn(vocab: *const LlamaVocab, text: *const c_char, bytes: i32, out: *mut i32, n_max: i32, add_special: bool, parse_special: bool) -> i32,
    /// A context with flash attention, F16 K and V, a full-size sliding-window cache; NULL on failure.
    context_new: fn(model: *mut LlamaModel, spec: *const ContextSpec) -> *mut LlamaContext,
    /// `llama_decode`
    decode: fn(ctx: *mut LlamaContext, batch: LlamaBatch) -> i32,
    /// `llama_adapter_lora_init`
    adapter_load: fn(model: *mut LlamaModel, path: *const c_char) -> *mut LlamaAdapter,
    /// `llama_set_adapters_lora`
    adapters_set: fn(ctx: *mut LlamaContext, adapters: *mut *mut LlamaAdapter, n: usize, scales: *mut f32) -> i32,
}
