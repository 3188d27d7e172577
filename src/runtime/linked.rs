//! Fills the table from the llama.cpp that is built into this library.
//!
//! Whatever passes a parameter struct by value, or needs a constant of the headers, is a small function here, because
//! those structs change from release to release.

use super::abi::*;
use super::guard::{on_abort, OnAbort};
use super::log::{keep_errors, Log};
use ggml_sys as sys;
use std::ffi::{c_char, c_int, c_void};

/// What llama.cpp logged; its log is process-wide.
static LOG: Log = Log::new();

unsafe extern "C" fn last_log(buf: *mut c_char, bytes: usize) -> usize {
    // SAFETY: the caller owns `bytes` bytes at `buf`.
    unsafe { LOG.take(buf, bytes) }
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, user: *mut c_void) {
    // SAFETY: forwarded; `user` is the log below.
    unsafe { keep_errors(level as c_int, text, user) }
}

unsafe extern "C" fn to_float(ty: c_int) -> Option<ToFloat> {
    // SAFETY: the runtime module only asks for types below the type count.
    unsafe { (*sys::ggml_get_type_traits(ty as sys::ggml_type)).to_float }
}

unsafe extern "C" fn ctx_new(bytes: usize) -> *mut GgmlContext {
    let params = sys::ggml_init_params { mem_size: bytes, mem_buffer: std::ptr::null_mut(), no_alloc: true };
    // SAFETY: plain call.
    unsafe { sys::ggml_init(params).cast() }
}

unsafe extern "C" fn graph_overhead(n_nodes: usize) -> usize {
    // SAFETY: plain call.
    unsafe { sys::ggml_graph_overhead_custom(n_nodes, false) }
}

unsafe extern "C" fn custom(
    ctx: *mut GgmlContext,
    ne: *const i64,
    args: *mut *mut GgmlTensor,
    n_args: c_int,
    fun: CustomOp,
    user: *mut c_void,
) -> *mut GgmlTensor {
    // SAFETY: `ne` has four entries; CustomOp differs from the binding's type only in the name of the tensor struct.
    unsafe {
        let fun = Some(std::mem::transmute::<
            CustomOp,
            unsafe extern "C" fn(*mut sys::ggml_tensor, c_int, c_int, *mut c_void),
        >(fun));
        let (ne0, ne1, ne2, ne3) = (*ne, *ne.add(1), *ne.add(2), *ne.add(3));
        // GGML_N_TASKS_MAX: every thread of the graph takes part.
        sys::ggml_custom_4d(ctx.cast(), sys::GGML_TYPE_F32, ne0, ne1, ne2, ne3, args.cast(), n_args, fun, -1, user)
            .cast()
    }
}

unsafe extern "C" fn new_graph(ctx: *mut GgmlContext, n_nodes: usize) -> *mut GgmlGraph {
    // SAFETY: plain call.
    unsafe { sys::ggml_new_graph_custom(ctx.cast(), n_nodes, false).cast() }
}

unsafe extern "C" fn backend_cpu(n_threads: c_int) -> *mut GgmlBackend {
    // SAFETY: the backend is freed by `backend_free`.
    unsafe {
        let backend = sys::ggml_backend_cpu_init();
        if !backend.is_null() {
            sys::ggml_backend_cpu_set_n_threads(backend, n_threads);
        }
        backend.cast()
    }
}

unsafe extern "C" fn alloc_new(backend: *mut GgmlBackend) -> *mut GgmlAllocator {
    // SAFETY: plain calls.
    unsafe { sys::ggml_gallocr_new(sys::ggml_backend_get_default_buffer_type(backend.cast())).cast() }
}

unsafe extern "C" fn alloc_bytes(alloc: *mut GgmlAllocator) -> usize {
    // SAFETY: plain call; one buffer type was given.
    unsafe { sys::ggml_gallocr_get_buffer_size(alloc.cast(), 0) }
}

unsafe extern "C" fn supports_op(backend: *mut GgmlBackend, tensor: *const GgmlTensor) -> bool {
    // SAFETY: plain call on a node of a graph under construction.
    unsafe { sys::ggml_backend_supports_op(backend.cast(), tensor.cast()) }
}

/// A binding as a function that a failed assertion may unwind through.
macro_rules! unwinding {
    ($f:ident: fn($($arg:ty),*) -> $ret:ty) => {
        std::mem::transmute::<unsafe extern "C" fn($($arg),*) -> $ret, unsafe extern "C-unwind" fn($($arg),*) -> $ret>(sys::$f)
    };
}

unsafe extern "C-unwind" fn quantize(
    ty: c_int,
    src: *const f32,
    dst: *mut c_void,
    n_rows: i64,
    n_per_row: i64,
    imatrix: *const f32,
) -> usize {
    // SAFETY: forwarded; the caller checked type and sizes.
    unsafe {
        let chunk = unwinding!(ggml_quantize_chunk: fn(sys::ggml_type, *const f32, *mut c_void, i64, i64, i64, *const f32) -> usize);
        chunk(ty as sys::ggml_type, src, dst, 0, n_rows, n_per_row, imatrix)
    }
}

unsafe extern "C" fn buffer_device(buffer: *mut GgmlBuffer) -> *mut GgmlDevice {
    // SAFETY: plain calls on a live buffer.
    unsafe { sys::ggml_backend_buft_get_device(sys::ggml_backend_buffer_get_type(buffer.cast())).cast() }
}

unsafe extern "C" fn dev_backend(device: *mut GgmlDevice) -> *mut GgmlBackend {
    // SAFETY: plain call; the backend is freed by `backend_free`.
    unsafe { sys::ggml_backend_dev_init(device.cast(), std::ptr::null()).cast() }
}

unsafe extern "C" fn sched_new(
    backends: *mut *mut GgmlBackend,
    n_backends: c_int,
    graph_size: usize,
) -> *mut GgmlScheduler {
    // SAFETY: the caller passes as many live backends; their default buffer types are taken.
    unsafe {
        let types = std::ptr::null_mut();
        sys::ggml_backend_sched_new(backends.cast(), types, n_backends, graph_size, false, true).cast()
    }
}

unsafe extern "C-unwind" fn model_load(path: *const c_char, spec: *const ModelSpec) -> *mut LlamaModel {
    // SAFETY: `path` is NUL-terminated; the devices end in NULL, and none keeps every weight on the CPU.
    unsafe {
        let mut params = sys::llama_model_default_params();
        params.devices = (*spec).devices.cast();
        params.n_gpu_layers = (*spec).n_gpu_layers;
        params.use_extra_bufts = false;
        let load =
            unwinding!(llama_model_load_from_file: fn(*const c_char, sys::llama_model_params) -> *mut sys::llama_model);
        load(path, params).cast()
    }
}

unsafe extern "C" fn model_template(model: *const LlamaModel) -> *const c_char {
    // SAFETY: plain call.
    unsafe { sys::llama_model_chat_template(model.cast(), std::ptr::null()) }
}

unsafe extern "C-unwind" fn context_new(model: *mut LlamaModel, spec: *const ContextSpec) -> *mut LlamaContext {
    // SAFETY: `spec` lives during the call; the callbacks differ from the binding's only in the tensor struct's name.
    unsafe {
        let spec = *spec;
        let mut params = sys::llama_context_default_params();
        params.n_ctx = spec.n_ctx;
        params.n_batch = spec.n_ctx;
        params.n_ubatch = spec.n_ctx;
        params.n_seq_max = spec.n_seq_max;
        params.n_threads = spec.n_threads;
        params.n_threads_batch = spec.n_threads;
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.type_k = sys::GGML_TYPE_F16;
        params.type_v = sys::GGML_TYPE_F16;
        params.swa_full = true;
        params.kv_unified = true;
        params.no_perf = true;
        params.cb_eval = spec.eval.map(|f| std::mem::transmute(f));
        params.cb_eval_user_data = spec.user;
        params.abort_callback = spec.abort;
        params.abort_callback_data = spec.user;
        let init = unwinding!(llama_init_from_model: fn(*mut sys::llama_model, sys::llama_context_params) -> *mut sys::llama_context);
        init(model.cast(), params).cast()
    }
}

unsafe extern "C" fn context_clear(ctx: *mut LlamaContext) {
    // SAFETY: plain calls.
    unsafe { sys::llama_memory_clear(sys::llama_get_memory(ctx.cast()), true) }
}

unsafe extern "C" fn context_remove(ctx: *mut LlamaContext, seq: i32, from: i32, to: i32) -> bool {
    // SAFETY: plain calls.
    unsafe { sys::llama_memory_seq_rm(sys::llama_get_memory(ctx.cast()), seq, from, to) }
}

unsafe extern "C" fn sampler_new(temperature: f32, top_k: i32, top_p: f32, min_p: f32, seed: u32) -> *mut LlamaSampler {
    // SAFETY: the chain owns the samplers that are added to it.
    unsafe {
        let chain = sys::llama_sampler_chain_init(sys::llama_sampler_chain_default_params());
        if chain.is_null() {
            return std::ptr::null_mut();
        }
        if temperature <= 0.0 {
            sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_greedy());
        } else {
            sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_top_k(top_k));
            sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_top_p(top_p, 1));
            sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_min_p(min_p, 1));
            sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_temp(temperature));
            sys::llama_sampler_chain_add(chain, sys::llama_sampler_init_dist(seed));
        }
        chain.cast()
    }
}

#[allow(clippy::missing_transmute_annotations)] // the target type is the field's
/// The table of the built-in llama.cpp. Installs the log sink and the abort callback, once per process.
pub(super) fn table() -> Table {
    static READY: std::sync::Once = std::sync::Once::new();
    READY.call_once(|| {
        // SAFETY: both are plain functions; only guarded threads unwind, through functions that are declared to.
        unsafe {
            sys::llama_backend_init();
            sys::llama_log_set(Some(on_log), std::ptr::from_ref(&LOG).cast_mut().cast());
            sys::ggml_set_abort_callback(Some(std::mem::transmute::<OnAbort, unsafe extern "C" fn(*const c_char)>(
                on_abort,
            )));
        }
    });
    /// A binding's function as the table's type: the same C signature, with this crate's names for the structs.
    macro_rules! same {
        ($f:ident) => {
            // SAFETY: both sides declare the same C function; only the names of the pointees differ.
            unsafe { std::mem::transmute::<*const (), _>(sys::$f as *const ()) }
        };
    }
    Table {
        n_ops: sys::GGML_OP_COUNT,
        n_unary_ops: sys::GGML_UNARY_OP_COUNT,
        n_glu_ops: sys::GGML_GLU_OP_COUNT,
        usage_weights: sys::GGML_BACKEND_BUFFER_USAGE_WEIGHTS as c_int,
        ggml_version: sys::ggml_version,
        op_name: same!(ggml_op_name),
        unary_op_name: same!(ggml_unary_op_name),
        glu_op_name: same!(ggml_glu_op_name),
        type_name: same!(ggml_type_name),
        to_float,
        quantize,
        ctx_new,
        ctx_free: same!(ggml_free),
        tensor_overhead: sys::ggml_tensor_overhead,
        graph_overhead,
        new_tensor: same!(ggml_new_tensor),
        custom,
        new_graph,
        graph_expand: same!(ggml_build_forward_expand),
        graph_n_nodes: same!(ggml_graph_n_nodes),
        graph_node: same!(ggml_graph_node),
        set_output: same!(ggml_set_output),
        backend_cpu,
        backend_free: same!(ggml_backend_free),
        compute: same!(ggml_backend_graph_compute),
        alloc_new,
        alloc_free: same!(ggml_gallocr_free),
        alloc_graph: same!(ggml_gallocr_alloc_graph),
        alloc_bytes,
        buffer_from_ptr: same!(ggml_backend_cpu_buffer_from_ptr),
        buffer_free: same!(ggml_backend_buffer_free),
        buffer_is_host: same!(ggml_backend_buffer_is_host),
        buffer_usage: same!(ggml_backend_buffer_get_usage),
        buffer_name: same!(ggml_backend_buffer_name),
        buffer_device,
        tensor_get: same!(ggml_backend_tensor_get),
        tensor_place: same!(ggml_backend_tensor_alloc),
        supports_op,
        dev_count: sys::ggml_backend_dev_count,
        dev_get: same!(ggml_backend_dev_get),
        dev_name: same!(ggml_backend_dev_name),
        dev_description: same!(ggml_backend_dev_description),
        dev_memory: same!(ggml_backend_dev_memory),
        dev_type: same!(ggml_backend_dev_type),
        dev_backend,
        dev_supports_op: same!(ggml_backend_dev_supports_op),
        sched_new,
        sched_free: same!(ggml_backend_sched_free),
        sched_reset: same!(ggml_backend_sched_reset),
        sched_alloc: same!(ggml_backend_sched_alloc_graph),
        sched_compute: same!(ggml_backend_sched_graph_compute),
        sched_backend: same!(ggml_backend_sched_get_tensor_backend),
        sched_bytes: same!(ggml_backend_sched_get_buffer_size),
        model_load,
        model_free: same!(llama_model_free),
        model_vocab: same!(llama_model_get_vocab),
        model_n_swa: same!(llama_model_n_swa),
        model_n_layer: same!(llama_model_n_layer),
        model_n_ctx_train: same!(llama_model_n_ctx_train),
        model_has_encoder: same!(llama_model_has_encoder),
        model_meta: same!(llama_model_meta_val_str),
        model_template,
        vocab_n_tokens: same!(llama_vocab_n_tokens),
        vocab_bos: same!(llama_vocab_bos),
        vocab_eos: same!(llama_vocab_eos),
        vocab_eot: same!(llama_vocab_eot),
        vocab_add_bos: same!(llama_vocab_get_add_bos),
        vocab_is_eog: same!(llama_vocab_is_eog),
        vocab_text: same!(llama_vocab_get_text),
        tokenize: same!(llama_tokenize),
        piece: same!(llama_token_to_piece),
        context_new,
        context_free: same!(llama_free),
        context_clear,
        context_remove,
        decode: same!(llama_decode),
        logits: same!(llama_get_logits_ith),
        adapter_load: same!(llama_adapter_lora_init),
        adapter_free: same!(llama_adapter_lora_free),
        adapters_set: same!(llama_set_adapters_lora),
        sampler_new,
        sampler_free: same!(llama_sampler_free),
        sample: same!(llama_sampler_sample),
        last_log,
    }
}
