/*
 * llama-align for hosts that have a llama.cpp of their own: include it in one source file, after your llama.h, ggml.h and
 * ggml-backend.h can be found, and hand over what it fills in:
 *
 *     llama_align_host host;
 *     llama_align_host_fill(&host);
 *     llama_align_runtime_from_host(&host, &runtime, &err);
 *     llama_align_model_attach(runtime, your_llama_model, "model.gguf", &model, &err);
 *
 * Your compiler tells this library how your ggml lays out its structs, and the library calls your functions only: there is one
 * ggml in the process, static or shared. What differs from what the library knows is refused, never guessed.
 *
 * C99 and C++11. In C++ an exception that leaves llama.cpp is caught here and becomes a failure.
 * MIT OR Apache-2.0.
 */
#ifndef LLAMA_ALIGN_HOST_H
#define LLAMA_ALIGN_HOST_H

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include "llama-align.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Version of struct llama_align_host. */
#define LLAMA_ALIGN_HOST_ABI 1u

#ifdef __cplusplus
#define LLAMA_ALIGN_TRY(failure, expression) \
    try { return expression; } catch (...) { return failure; }
#else
#define LLAMA_ALIGN_TRY(failure, expression) return expression;
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a context is made for. */
struct llama_align_host_context {
    uint32_t n_ctx, n_seq_max;
    int32_t n_threads;
    ggml_backend_sched_eval_callback eval;
    ggml_abort_callback abort;
    void * user;
};

/* How a model is loaded. */
struct llama_align_host_model {
    ggml_backend_dev_t * devices;
    int32_t n_gpu_layers;
};

/* The facts, then the functions, in the order in which the library reads them. */
struct llama_align_host {
    uint32_t abi, struct_size;

    uint32_t tensor_bytes, tensor_type, tensor_buffer, tensor_ne, tensor_nb, tensor_op, tensor_op_params, tensor_flags, tensor_src,
        tensor_view_src, tensor_view_offs, tensor_data, tensor_name, n_src, name_bytes, flag_input, status_success, batch_bytes;

    uint32_t n_ops, n_unary_ops, n_glu_ops;
    int32_t usage_weights;

    const char * (*ggml_version)(void);
    const char * (*op_name)(enum ggml_op op);
    const char * (*unary_op_name)(enum ggml_unary_op op);
    const char * (*glu_op_name)(enum ggml_glu_op op);
    const char * (*type_name)(enum ggml_type type);
    ggml_to_float_t (*to_float)(int type);
    struct ggml_context * (*ctx_new)(size_t bytes);
    void (*ctx_free)(struct ggml_context * ctx);
    size_t (*tensor_overhead)(void);
    size_t (*graph_overhead)(size_t n_nodes);
    struct ggml_tensor * (*new_tensor)(struct ggml_context * ctx, enum ggml_type type, int n_dims, const int64_t * ne);
    struct ggml_tensor * (*custom)(struct ggml_context * ctx, const int64_t * ne, struct ggml_tensor ** args, int n_args,
                                   ggml_custom_op_t fun, void * user);
    struct ggml_cgraph * (*new_graph)(struct ggml_context * ctx, size_t n_nodes);
    void (*graph_expand)(struct ggml_cgraph * graph, struct ggml_tensor * tensor);
    int (*graph_n_nodes)(struct ggml_cgraph * graph);
    struct ggml_tensor * (*graph_node)(struct ggml_cgraph * graph, int i);
    void (*set_output)(struct ggml_tensor * tensor);
    ggml_backend_t (*backend_cpu)(int n_threads);
    void (*backend_free)(ggml_backend_t backend);
    enum ggml_status (*compute)(ggml_backend_t backend, struct ggml_cgraph * graph);
    ggml_gallocr_t (*alloc_new)(ggml_backend_t backend);
    void (*alloc_free)(ggml_gallocr_t alloc);
    bool (*alloc_graph)(ggml_gallocr_t alloc, struct ggml_cgraph * graph);
    size_t (*alloc_bytes)(ggml_gallocr_t alloc);
    ggml_backend_buffer_t (*buffer_from_ptr)(void * ptr, size_t bytes);
    void (*buffer_free)(ggml_backend_buffer_t buffer);
    bool (*buffer_is_host)(ggml_backend_buffer_t buffer);
    enum ggml_backend_buffer_usage (*buffer_usage)(ggml_backend_buffer_t buffer);
    const char * (*buffer_name)(ggml_backend_buffer_t buffer);
    ggml_backend_dev_t (*buffer_device)(ggml_backend_buffer_t buffer);
    void (*tensor_get)(const struct ggml_tensor * tensor, void * data, size_t offset, size_t bytes);
    enum ggml_status (*tensor_place)(ggml_backend_buffer_t buffer, struct ggml_tensor * tensor, void * addr);
    bool (*supports_op)(ggml_backend_t backend, const struct ggml_tensor * tensor);
    size_t (*dev_count)(void);
    ggml_backend_dev_t (*dev_get)(size_t i);
    const char * (*dev_name)(ggml_backend_dev_t device);
    const char * (*dev_description)(ggml_backend_dev_t device);
    void (*dev_memory)(ggml_backend_dev_t device, size_t * free, size_t * total);
    enum ggml_backend_dev_type (*dev_type)(ggml_backend_dev_t device);
    ggml_backend_t (*dev_backend)(ggml_backend_dev_t device);
    bool (*dev_supports_op)(ggml_backend_dev_t device, const struct ggml_tensor * tensor);
    ggml_backend_sched_t (*sched_new)(ggml_backend_t * backends, int n_backends, size_t graph_size);
    void (*sched_free)(ggml_backend_sched_t sched);
    void (*sched_reset)(ggml_backend_sched_t sched);
    ggml_backend_t (*sched_backend)(ggml_backend_sched_t sched, struct ggml_tensor * node);
    size_t (*sched_bytes)(ggml_backend_sched_t sched, ggml_backend_t backend);
    void (*model_free)(struct llama_model * model);
    const struct llama_vocab * (*model_vocab)(const struct llama_model * model);
    int32_t (*model_n_swa)(const struct llama_model * model);
    int32_t (*model_n_layer)(const struct llama_model * model);
    int32_t (*model_n_ctx_train)(const struct llama_model * model);
    bool (*model_has_encoder)(const struct llama_model * model);
    int32_t (*model_meta)(const struct llama_model * model, const char * key, char * buf, size_t bytes);
    const char * (*model_template)(const struct llama_model * model);
    int32_t (*vocab_n_tokens)(const struct llama_vocab * vocab);
    llama_token (*vocab_bos)(const struct llama_vocab * vocab);
    llama_token (*vocab_eos)(const struct llama_vocab * vocab);
    llama_token (*vocab_eot)(const struct llama_vocab * vocab);
    bool (*vocab_add_bos)(const struct llama_vocab * vocab);
    bool (*vocab_is_eog)(const struct llama_vocab * vocab, llama_token token);
    const char * (*vocab_text)(const struct llama_vocab * vocab, llama_token token);
    int32_t (*piece)(const struct llama_vocab * vocab, llama_token token, char * buf, int32_t bytes, int32_t lstrip,
                     bool special);
    void (*context_free)(struct llama_context * ctx);
    void (*context_clear)(struct llama_context * ctx);
    bool (*context_remove)(struct llama_context * ctx, llama_seq_id seq, llama_pos from, llama_pos to);
    float * (*logits)(struct llama_context * ctx, int32_t i);
    void (*adapter_free)(struct llama_adapter_lora * adapter);
    struct llama_sampler * (*sampler_new)(float temperature, int32_t top_k, float top_p, float min_p, uint32_t seed);
    void (*sampler_free)(struct llama_sampler * sampler);
    llama_token (*sample)(struct llama_sampler * sampler, struct llama_context * ctx, int32_t i);
    size_t (*last_log)(char * buf, size_t bytes);

    size_t (*quantize)(enum ggml_type type, const float * src, void * dst, int64_t n_rows, int64_t n_per_row,
                       const float * imatrix);
    bool (*sched_alloc)(ggml_backend_sched_t sched, struct ggml_cgraph * graph);
    enum ggml_status (*sched_compute)(ggml_backend_sched_t sched, struct ggml_cgraph * graph);
    struct llama_model * (*model_load)(const char * path, const struct llama_align_host_model * spec);
    int32_t (*tokenize)(const struct llama_vocab * vocab, const char * text, int32_t bytes, llama_token * out, int32_t n_max,
                        bool add_special, bool parse_special);
    struct llama_context * (*context_new)(struct llama_model * model, const struct llama_align_host_context * spec);
    int32_t (*decode)(struct llama_context * ctx, struct llama_batch batch);
    struct llama_adapter_lora * (*adapter_load)(struct llama_model * model, const char * path);
    int32_t (*adapters_set)(struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n, float * scales);
};

static ggml_to_float_t llama_align_host_to_float(int type) { return ggml_get_type_traits((enum ggml_type)type)->to_float; }

static struct ggml_context * llama_align_host_ctx_new(size_t bytes) {
    struct ggml_init_params params;
    memset(&params, 0, sizeof params);
    params.mem_size = bytes;
    params.no_alloc = true;
    return ggml_init(params);
}

static size_t llama_align_host_graph_overhead(size_t n_nodes) { return ggml_graph_overhead_custom(n_nodes, false); }

static struct ggml_tensor * llama_align_host_custom(struct ggml_context * ctx, const int64_t * ne, struct ggml_tensor ** args,
                                                    int n_args, ggml_custom_op_t fun, void * user) {
    return ggml_custom_4d(ctx, GGML_TYPE_F32, ne[0], ne[1], ne[2], ne[3], args, n_args, fun, GGML_N_TASKS_MAX, user);
}

static struct ggml_cgraph * llama_align_host_new_graph(struct ggml_context * ctx, size_t n_nodes) {
    return ggml_new_graph_custom(ctx, n_nodes, false);
}

/* Through the registry: where backends are loaded at run time, ggml-cpu.h names functions that cannot be linked. */
static ggml_backend_t llama_align_host_backend_cpu(int n_threads) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_t backend = device == NULL ? NULL : ggml_backend_dev_init(device, NULL);
    if (backend != NULL) {
        ggml_backend_set_n_threads_t set = NULL;
        void * found = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads");
        memcpy(&set, &found, sizeof set); /* an object pointer may not be cast to a function's */
        if (set != NULL) {
            set(backend, n_threads);
        }
    }
    return backend;
}

static ggml_gallocr_t llama_align_host_alloc_new(ggml_backend_t backend) {
    return ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
}

static size_t llama_align_host_alloc_bytes(ggml_gallocr_t alloc) { return ggml_gallocr_get_buffer_size(alloc, 0); }

static const char * llama_align_host_model_template(const struct llama_model * model) {
    return llama_model_chat_template(model, NULL);
}

static void llama_align_host_context_clear(struct llama_context * ctx) { llama_memory_clear(llama_get_memory(ctx), true); }

static bool llama_align_host_context_remove(struct llama_context * ctx, llama_seq_id seq, llama_pos from, llama_pos to) {
    return llama_memory_seq_rm(llama_get_memory(ctx), seq, from, to);
}

static struct llama_sampler * llama_align_host_sampler_new(float temperature, int32_t top_k, float top_p, float min_p,
                                                           uint32_t seed) {
    struct llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    if (chain == NULL) {
        return NULL;
    }
    if (temperature <= 0.0f) {
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    } else {
        llama_sampler_chain_add(chain, llama_sampler_init_top_k(top_k));
        llama_sampler_chain_add(chain, llama_sampler_init_top_p(top_p, 1));
        llama_sampler_chain_add(chain, llama_sampler_init_min_p(min_p, 1));
        llama_sampler_chain_add(chain, llama_sampler_init_temp(temperature));
        llama_sampler_chain_add(chain, llama_sampler_init_dist(seed));
    }
    return chain;
}

/* The log is the host's; nothing is kept of it. */
static size_t llama_align_host_last_log(char * buf, size_t bytes) {
    (void)buf;
    (void)bytes;
    return 0;
}

static size_t llama_align_host_quantize(enum ggml_type type, const float * src, void * dst, int64_t n_rows,
                                        int64_t n_per_row, const float * imatrix) {
    return ggml_quantize_chunk(type, src, dst, 0, n_rows, n_per_row, imatrix);
}

static ggml_backend_dev_t llama_align_host_buffer_device(ggml_backend_buffer_t buffer) {
    return ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
}

static ggml_backend_t llama_align_host_dev_backend(ggml_backend_dev_t device) { return ggml_backend_dev_init(device, NULL); }

static ggml_backend_sched_t llama_align_host_sched_new(ggml_backend_t * backends, int n_backends, size_t graph_size) {
    return ggml_backend_sched_new(backends, NULL, n_backends, graph_size, false, true);
}

static struct llama_model * llama_align_host_model_load(const char * path, const struct llama_align_host_model * spec) {
    struct llama_model_params params = llama_model_default_params();
    params.devices = spec->devices;
    params.n_gpu_layers = spec->n_gpu_layers;
    params.use_extra_bufts = false;
    LLAMA_ALIGN_TRY(NULL, llama_model_load_from_file(path, params))
}

static int32_t llama_align_host_tokenize(const struct llama_vocab * vocab, const char * text, int32_t bytes, llama_token * out,
                                         int32_t n_max, bool add_special, bool parse_special) {
    LLAMA_ALIGN_TRY(INT32_MIN, llama_tokenize(vocab, text, bytes, out, n_max, add_special, parse_special))
}

static struct llama_context * llama_align_host_context_new(struct llama_model * model,
                                                           const struct llama_align_host_context * spec) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = spec->n_ctx;
    params.n_batch = spec->n_ctx;
    params.n_ubatch = spec->n_ctx;
    params.n_seq_max = spec->n_seq_max;
    params.n_threads = spec->n_threads;
    params.n_threads_batch = spec->n_threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = GGML_TYPE_F16;
    params.type_v = GGML_TYPE_F16;
    params.swa_full = true;
    params.kv_unified = true;
    params.no_perf = true;
    params.cb_eval = spec->eval;
    params.cb_eval_user_data = spec->user;
    params.abort_callback = spec->abort;
    params.abort_callback_data = spec->user;
    LLAMA_ALIGN_TRY(NULL, llama_init_from_model(model, params))
}

static int32_t llama_align_host_decode(struct llama_context * ctx, struct llama_batch batch) {
    LLAMA_ALIGN_TRY(-1000, llama_decode(ctx, batch))
}

static struct llama_adapter_lora * llama_align_host_adapter_load(struct llama_model * model, const char * path) {
    LLAMA_ALIGN_TRY(NULL, llama_adapter_lora_init(model, path))
}

static int32_t llama_align_host_adapters_set(struct llama_context * ctx, struct llama_adapter_lora ** adapters, size_t n,
                                             float * scales) {
    LLAMA_ALIGN_TRY(-1000, llama_set_adapters_lora(ctx, adapters, n, scales))
}

/* Fills in everything. `host`: not NULL. */
static void llama_align_host_fill(llama_align_host * host) {
    host->abi = LLAMA_ALIGN_HOST_ABI;
    host->struct_size = (uint32_t)sizeof *host;

    host->tensor_bytes = (uint32_t)sizeof(struct ggml_tensor);
    host->tensor_type = (uint32_t)offsetof(struct ggml_tensor, type);
    host->tensor_buffer = (uint32_t)offsetof(struct ggml_tensor, buffer);
    host->tensor_ne = (uint32_t)offsetof(struct ggml_tensor, ne);
    host->tensor_nb = (uint32_t)offsetof(struct ggml_tensor, nb);
    host->tensor_op = (uint32_t)offsetof(struct ggml_tensor, op);
    host->tensor_op_params = (uint32_t)offsetof(struct ggml_tensor, op_params);
    host->tensor_flags = (uint32_t)offsetof(struct ggml_tensor, flags);
    host->tensor_src = (uint32_t)offsetof(struct ggml_tensor, src);
    host->tensor_view_src = (uint32_t)offsetof(struct ggml_tensor, view_src);
    host->tensor_view_offs = (uint32_t)offsetof(struct ggml_tensor, view_offs);
    host->tensor_data = (uint32_t)offsetof(struct ggml_tensor, data);
    host->tensor_name = (uint32_t)offsetof(struct ggml_tensor, name);
    host->n_src = GGML_MAX_SRC;
    host->name_bytes = GGML_MAX_NAME;
    host->flag_input = GGML_TENSOR_FLAG_INPUT;
    host->status_success = GGML_STATUS_SUCCESS;
    host->batch_bytes = (uint32_t)sizeof(struct llama_batch);

    host->n_ops = GGML_OP_COUNT;
    host->n_unary_ops = GGML_UNARY_OP_COUNT;
    host->n_glu_ops = GGML_GLU_OP_COUNT;
    host->usage_weights = GGML_BACKEND_BUFFER_USAGE_WEIGHTS;

    host->ggml_version = ggml_version;
    host->op_name = ggml_op_name;
    host->unary_op_name = ggml_unary_op_name;
    host->glu_op_name = ggml_glu_op_name;
    host->type_name = ggml_type_name;
    host->to_float = llama_align_host_to_float;
    host->ctx_new = llama_align_host_ctx_new;
    host->ctx_free = ggml_free;
    host->tensor_overhead = ggml_tensor_overhead;
    host->graph_overhead = llama_align_host_graph_overhead;
    host->new_tensor = ggml_new_tensor;
    host->custom = llama_align_host_custom;
    host->new_graph = llama_align_host_new_graph;
    host->graph_expand = ggml_build_forward_expand;
    host->graph_n_nodes = ggml_graph_n_nodes;
    host->graph_node = ggml_graph_node;
    host->set_output = ggml_set_output;
    host->backend_cpu = llama_align_host_backend_cpu;
    host->backend_free = ggml_backend_free;
    host->compute = ggml_backend_graph_compute;
    host->alloc_new = llama_align_host_alloc_new;
    host->alloc_free = ggml_gallocr_free;
    host->alloc_graph = ggml_gallocr_alloc_graph;
    host->alloc_bytes = llama_align_host_alloc_bytes;
    host->buffer_from_ptr = ggml_backend_cpu_buffer_from_ptr;
    host->buffer_free = ggml_backend_buffer_free;
    host->buffer_is_host = ggml_backend_buffer_is_host;
    host->buffer_usage = ggml_backend_buffer_get_usage;
    host->buffer_name = ggml_backend_buffer_name;
    host->buffer_device = llama_align_host_buffer_device;
    host->tensor_get = ggml_backend_tensor_get;
    host->tensor_place = ggml_backend_tensor_alloc;
    host->supports_op = ggml_backend_supports_op;
    host->dev_count = ggml_backend_dev_count;
    host->dev_get = ggml_backend_dev_get;
    host->dev_name = ggml_backend_dev_name;
    host->dev_description = ggml_backend_dev_description;
    host->dev_memory = ggml_backend_dev_memory;
    host->dev_type = ggml_backend_dev_type;
    host->dev_backend = llama_align_host_dev_backend;
    host->dev_supports_op = ggml_backend_dev_supports_op;
    host->sched_new = llama_align_host_sched_new;
    host->sched_free = ggml_backend_sched_free;
    host->sched_reset = ggml_backend_sched_reset;
    host->sched_backend = ggml_backend_sched_get_tensor_backend;
    host->sched_bytes = ggml_backend_sched_get_buffer_size;
    host->model_free = llama_model_free;
    host->model_vocab = llama_model_get_vocab;
    host->model_n_swa = llama_model_n_swa;
    host->model_n_layer = llama_model_n_layer;
    host->model_n_ctx_train = llama_model_n_ctx_train;
    host->model_has_encoder = llama_model_has_encoder;
    host->model_meta = llama_model_meta_val_str;
    host->model_template = llama_align_host_model_template;
    host->vocab_n_tokens = llama_vocab_n_tokens;
    host->vocab_bos = llama_vocab_bos;
    host->vocab_eos = llama_vocab_eos;
    host->vocab_eot = llama_vocab_eot;
    host->vocab_add_bos = llama_vocab_get_add_bos;
    host->vocab_is_eog = llama_vocab_is_eog;
    host->vocab_text = llama_vocab_get_text;
    host->piece = llama_token_to_piece;
    host->context_free = llama_free;
    host->context_clear = llama_align_host_context_clear;
    host->context_remove = llama_align_host_context_remove;
    host->logits = llama_get_logits_ith;
    host->adapter_free = llama_adapter_lora_free;
    host->sampler_new = llama_align_host_sampler_new;
    host->sampler_free = llama_sampler_free;
    host->sample = llama_sampler_sample;
    host->last_log = llama_align_host_last_log;

    host->quantize = llama_align_host_quantize;
    host->sched_alloc = ggml_backend_sched_alloc_graph;
    host->sched_compute = ggml_backend_sched_graph_compute;
    host->model_load = llama_align_host_model_load;
    host->tokenize = llama_align_host_tokenize;
    host->context_new = llama_align_host_context_new;
    host->decode = llama_align_host_decode;
    host->adapter_load = llama_align_host_adapter_load;
    host->adapters_set = llama_align_host_adapters_set;
}

#ifdef __cplusplus
}
#endif

#undef LLAMA_ALIGN_TRY

#endif
