//! The functions that a loaded runtime's table needs beside the runtime's own: those that pass a struct by value or need a
//! constant of the headers.

use super::host::{host, Host};
use super::layout::Params;
use super::symbols::InitParams;
use crate::runtime::abi::*;
use std::ffi::{c_char, c_int, c_void};

/// `GGML_BACKEND_BUFFER_USAGE_WEIGHTS`, the same since 2024.
const USAGE_WEIGHTS: c_int = 1;
/// `LLAMA_FLASH_ATTN_TYPE_ENABLED`.
const FLASH_ATTENTION: i32 = 1;
/// `GGML_TYPE_F16`.
const F16: i32 = 1;
/// `GGML_N_TASKS_MAX`: every thread of the graph takes part.
const ALL_THREADS: c_int = -1;
/// What there is to say of an error that went into a log of the host's.
const LOGGED_ELSEWHERE: &[u8] = b"the reason went to the log of the program that loaded llama.cpp";

unsafe extern "C" fn to_float<const SLOT: usize>(ty: c_int) -> Option<ToFloat> {
    let host = host::<SLOT>();
    if u32::try_from(ty).is_ok_and(|ty| ty < host.n_types) {
        // SAFETY: the number is below the count.
        unsafe { (*(host.symbols.ggml_get_type_traits)(ty)).to_float }
    } else {
        None
    }
}

unsafe extern "C" fn ctx_new<const SLOT: usize>(bytes: usize) -> *mut GgmlContext {
    let params = InitParams { mem_size: bytes, mem_buffer: std::ptr::null_mut(), no_alloc: true };
    // SAFETY: plain call.
    unsafe { (host::<SLOT>().symbols.ggml_init)(params) }
}

unsafe extern "C" fn graph_overhead<const SLOT: usize>(n_nodes: usize) -> usize {
    // SAFETY: plain call.
    unsafe { (host::<SLOT>().symbols.ggml_graph_overhead_custom)(n_nodes, false) }
}

unsafe extern "C" fn custom<const SLOT: usize>(
    ctx: *mut GgmlContext,
    ne: *const i64,
    args: *mut *mut GgmlTensor,
    n_args: c_int,
    fun: CustomOp,
    user: *mut c_void,
) -> *mut GgmlTensor {
    let make = host::<SLOT>().symbols.ggml_custom_4d;
    // SAFETY: `ne` has four entries; the rest is forwarded.
    unsafe { make(ctx, 0, *ne, *ne.add(1), *ne.add(2), *ne.add(3), args, n_args, fun, ALL_THREADS, user) }
}

unsafe extern "C" fn new_graph<const SLOT: usize>(ctx: *mut GgmlContext, n_nodes: usize) -> *mut GgmlGraph {
    // SAFETY: plain call.
    unsafe { (host::<SLOT>().symbols.ggml_new_graph_custom)(ctx, n_nodes, false) }
}

unsafe extern "C" fn backend_cpu<const SLOT: usize>(n_threads: c_int) -> *mut GgmlBackend {
    let host = host::<SLOT>();
    // SAFETY: a device of this runtime.
    unsafe {
        let backend = (host.symbols.ggml_backend_dev_init)(host.cpu, std::ptr::null());
        if !backend.is_null() {
            (host.set_n_threads)(backend, n_threads);
        }
        backend
    }
}

unsafe extern "C" fn alloc_new<const SLOT: usize>(backend: *mut GgmlBackend) -> *mut GgmlAllocator {
    let s = &host::<SLOT>().symbols;
    // SAFETY: plain calls.
    unsafe { (s.ggml_gallocr_new)((s.ggml_backend_get_default_buffer_type)(backend)) }
}

unsafe extern "C" fn alloc_bytes<const SLOT: usize>(alloc: *mut GgmlAllocator) -> usize {
    // SAFETY: plain call; one buffer type was given.
    unsafe { (host::<SLOT>().symbols.ggml_gallocr_get_buffer_size)(alloc, 0) }
}

unsafe extern "C-unwind" fn quantize<const SLOT: usize>(
    ty: c_int,
    src: *const f32,
    dst: *mut c_void,
    n_rows: i64,
    n_per_row: i64,
    imatrix: *const f32,
) -> usize {
    // SAFETY: forwarded; the caller checked type and sizes.
    unsafe { (host::<SLOT>().symbols.ggml_quantize_chunk)(ty, src, dst, 0, n_rows, n_per_row, imatrix) }
}

unsafe extern "C" fn buffer_device<const SLOT: usize>(buffer: *mut GgmlBuffer) -> *mut GgmlDevice {
    let s = &host::<SLOT>().symbols;
    // SAFETY: plain calls on a live buffer.
    unsafe { (s.ggml_backend_buft_get_device)((s.ggml_backend_buffer_get_type)(buffer)) }
}

unsafe extern "C" fn dev_backend<const SLOT: usize>(device: *mut GgmlDevice) -> *mut GgmlBackend {
    // SAFETY: plain call; the backend is freed by `backend_free`.
    unsafe { (host::<SLOT>().symbols.ggml_backend_dev_init)(device, std::ptr::null()) }
}

unsafe extern "C" fn sched_new<const SLOT: usize>(
    backends: *mut *mut GgmlBackend,
    n_backends: c_int,
    graph_size: usize,
) -> *mut GgmlScheduler {
    let types = std::ptr::null_mut();
    // SAFETY: the caller passes as many live backends; their default buffer types are taken.
    unsafe { (host::<SLOT>().symbols.ggml_backend_sched_new)(backends, types, n_backends, graph_size, false, true) }
}

unsafe extern "C-unwind" fn model_load<const SLOT: usize>(
    path: *const c_char,
    spec: *const ModelSpec,
) -> *mut LlamaModel {
    let Host { symbols, model: at, .. } = host::<SLOT>();
    let mut params = Params::filled(0);
    // SAFETY: `path` is NUL-terminated; the devices end in NULL, and none keeps every weight on the CPU.
    unsafe {
        (symbols.llama_model_default_params)(&mut params);
        params.put(at.devices, &((*spec).devices as usize).to_ne_bytes());
        params.put(at.n_gpu_layers, &(*spec).n_gpu_layers.to_ne_bytes());
        params.put(at.use_extra_bufts, &[0]);
        (symbols.llama_model_load_from_file)(path, params)
    }
}

unsafe extern "C" fn model_template<const SLOT: usize>(model: *const LlamaModel) -> *const c_char {
    // SAFETY: plain call.
    unsafe { (host::<SLOT>().symbols.llama_model_chat_template)(model, std::ptr::null()) }
}

unsafe extern "C-unwind" fn context_new<const SLOT: usize>(
    model: *mut LlamaModel,
    spec: *const ContextSpec,
) -> *mut LlamaContext {
    let Host { symbols, context: at, .. } = host::<SLOT>();
    let mut params = Params::filled(0);
    // SAFETY: `spec` lives during the call; the fields lie where the handshake found them.
    unsafe {
        let spec = *spec;
        (symbols.llama_context_default_params)(&mut params);
        for offset in [at.n_ctx, at.n_batch, at.n_ubatch] {
            params.put(offset, &spec.n_ctx.to_ne_bytes());
        }
        params.put(at.n_seq_max, &spec.n_seq_max.to_ne_bytes());
        for (offset, value) in [
            (at.n_threads, spec.n_threads),
            (at.n_threads_batch, spec.n_threads),
            (at.flash_attn_type, FLASH_ATTENTION),
            (at.type_k, F16),
            (at.type_v, F16),
        ] {
            params.put(offset, &value.to_ne_bytes());
        }
        for offset in [at.swa_full, at.kv_unified, at.no_perf] {
            params.put(offset, &[1]);
        }
        for (offset, value) in [
            (at.cb_eval, spec.eval.map_or(0, |f| f as usize)),
            (at.cb_eval_user_data, spec.user as usize),
            (at.abort_callback, spec.abort.map_or(0, |f| f as usize)),
            (at.abort_callback_data, spec.user as usize),
        ] {
            params.put(offset, &value.to_ne_bytes());
        }
        (symbols.llama_init_from_model)(model, params)
    }
}

unsafe extern "C" fn context_clear<const SLOT: usize>(ctx: *mut LlamaContext) {
    let s = &host::<SLOT>().symbols;
    // SAFETY: plain calls.
    unsafe { (s.llama_memory_clear)((s.llama_get_memory)(ctx), true) }
}

unsafe extern "C" fn context_remove<const SLOT: usize>(ctx: *mut LlamaContext, seq: i32, from: i32, to: i32) -> bool {
    let s = &host::<SLOT>().symbols;
    // SAFETY: plain calls.
    unsafe { (s.llama_memory_seq_rm)((s.llama_get_memory)(ctx), seq, from, to) }
}

unsafe extern "C" fn sampler_new<const SLOT: usize>(
    temperature: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,
    seed: u32,
) -> *mut LlamaSampler {
    let s = &host::<SLOT>().symbols;
    // SAFETY: the chain owns the samplers that are added to it.
    unsafe {
        let chain = (s.llama_sampler_chain_init)((s.llama_sampler_chain_default_params)());
        if chain.is_null() {
            return chain;
        }
        let add = s.llama_sampler_chain_add;
        if temperature <= 0.0 {
            add(chain, (s.llama_sampler_init_greedy)());
        } else {
            add(chain, (s.llama_sampler_init_top_k)(top_k));
            add(chain, (s.llama_sampler_init_top_p)(top_p, 1));
            add(chain, (s.llama_sampler_init_min_p)(min_p, 1));
            add(chain, (s.llama_sampler_init_temp)(temperature));
            add(chain, (s.llama_sampler_init_dist)(seed));
        }
        chain
    }
}

unsafe extern "C" fn last_log<const SLOT: usize>(buf: *mut c_char, bytes: usize) -> usize {
    match host::<SLOT>().log {
        // SAFETY: the caller owns `bytes` bytes at `buf`.
        Some(log) => unsafe { log.take(buf, bytes) },
        None => {
            let n = LOGGED_ELSEWHERE.len().min(bytes);
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(LOGGED_ELSEWHERE.as_ptr().cast(), buf, n) };
            n
        }
    }
}

/// The table of the runtime in this slot.
pub(super) fn table<const SLOT: usize>(host: &Host) -> Table {
    let s = &host.symbols;
    Table {
        n_ops: host.n_ops as u32,
        n_unary_ops: host.n_unary_ops as u32,
        n_glu_ops: host.n_glu_ops as u32,
        usage_weights: USAGE_WEIGHTS,
        ggml_version: s.ggml_version,
        op_name: s.ggml_op_name,
        unary_op_name: s.ggml_unary_op_name,
        glu_op_name: s.ggml_glu_op_name,
        type_name: s.ggml_type_name,
        to_float: to_float::<SLOT>,
        quantize: quantize::<SLOT>,
        ctx_new: ctx_new::<SLOT>,
        ctx_free: s.ggml_free,
        tensor_overhead: s.ggml_tensor_overhead,
        graph_overhead: graph_overhead::<SLOT>,
        new_tensor: s.ggml_new_tensor,
        custom: custom::<SLOT>,
        new_graph: new_graph::<SLOT>,
        graph_expand: s.ggml_build_forward_expand,
        graph_n_nodes: s.ggml_graph_n_nodes,
        graph_node: s.ggml_graph_node,
        set_output: s.ggml_set_output,
        backend_cpu: backend_cpu::<SLOT>,
        backend_free: s.ggml_backend_free,
        compute: s.ggml_backend_graph_compute,
        alloc_new: alloc_new::<SLOT>,
        alloc_free: s.ggml_gallocr_free,
        alloc_graph: s.ggml_gallocr_alloc_graph,
        alloc_bytes: alloc_bytes::<SLOT>,
        buffer_from_ptr: s.ggml_backend_cpu_buffer_from_ptr,
        buffer_free: s.ggml_backend_buffer_free,
        buffer_is_host: s.ggml_backend_buffer_is_host,
        buffer_usage: s.ggml_backend_buffer_get_usage,
        buffer_name: s.ggml_backend_buffer_name,
        buffer_device: buffer_device::<SLOT>,
        tensor_get: s.ggml_backend_tensor_get,
        tensor_place: s.ggml_backend_tensor_alloc,
        supports_op: s.ggml_backend_supports_op,
        dev_count: s.ggml_backend_dev_count,
        dev_get: s.ggml_backend_dev_get,
        dev_name: s.ggml_backend_dev_name,
        dev_description: s.ggml_backend_dev_description,
        dev_memory: s.ggml_backend_dev_memory,
        dev_type: s.ggml_backend_dev_type,
        dev_backend: dev_backend::<SLOT>,
        dev_supports_op: s.ggml_backend_dev_supports_op,
        sched_new: sched_new::<SLOT>,
        sched_free: s.ggml_backend_sched_free,
        sched_reset: s.ggml_backend_sched_reset,
        sched_alloc: s.ggml_backend_sched_alloc_graph,
        sched_compute: s.ggml_backend_sched_graph_compute,
        sched_backend: s.ggml_backend_sched_get_tensor_backend,
        sched_bytes: s.ggml_backend_sched_get_buffer_size,
        model_load: model_load::<SLOT>,
        model_free: s.llama_model_free,
        model_vocab: s.llama_model_get_vocab,
        model_n_swa: s.llama_model_n_swa,
        model_n_layer: s.llama_model_n_layer,
        model_n_ctx_train: s.llama_model_n_ctx_train,
        model_has_encoder: s.llama_model_has_encoder,
        model_meta: s.llama_model_meta_val_str,
        model_template: model_template::<SLOT>,
        vocab_n_tokens: s.llama_vocab_n_tokens,
        vocab_bos: s.llama_vocab_bos,
        vocab_eos: s.llama_vocab_eos,
        vocab_eot: s.llama_vocab_eot,
        vocab_add_bos: s.llama_vocab_get_add_bos,
        vocab_is_eog: s.llama_vocab_is_eog,
        vocab_text: s.llama_vocab_get_text,
        tokenize: s.llama_tokenize,
        piece: s.llama_token_to_piece,
        context_new: context_new::<SLOT>,
        context_free: s.llama_free,
        context_clear: context_clear::<SLOT>,
        context_remove: context_remove::<SLOT>,
        decode: s.llama_decode,
        logits: s.llama_get_logits_ith,
        adapter_load: s.llama_adapter_lora_init,
        adapter_free: s.llama_adapter_lora_free,
        adapters_set: s.llama_set_adapters_lora,
        sampler_new: sampler_new::<SLOT>,
        sampler_free: s.llama_sampler_free,
        sample: s.llama_sampler_sample,
        last_log: last_log::<SLOT>,
    }
}
