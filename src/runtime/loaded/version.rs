//! What is known of releases of ggml and llama.cpp: their numbers, and how they lay out what is passed by value.
//!
//! A release enters this list when a runtime of it was loaded and passed the tests in `tests/hosts`.

use super::layout::{flag, float, int, word, Field};

/// One way of laying things out, and the releases that have it.
#[derive(Debug)]
pub(super) struct Version {
    /// First and last `ggml_version()` that was tried.
    pub(super) ggml: [[u32; 3]; 2],
    /// `GGML_OP_COUNT`; the last one is `GLU`.
    pub(super) n_ops: usize,
    /// All of `ggml_unary_op_name`.
    pub(super) unary: &'static [&'static str],
    /// All of `ggml_glu_op_name`.
    pub(super) glu: &'static [&'static str],
    /// `GGML_TYPE_COUNT`.
    pub(super) n_types: u32,
    /// `llama_model_params`.
    pub(super) model: fn() -> Vec<Field>,
    /// `llama_context_params`.
    pub(super) context: fn() -> Vec<Field>,
}

const UNARY: &[&str] = &[
    "ABS",
    "SGN",
    "NEG",
    "STEP",
    "TANH",
    "ELU",
    "RELU",
    "SIGMOID",
    "GELU",
    "GELU_QUICK",
    "SILU",
    "HARDSWISH",
    "HARDSIGMOID",
    "EXP",
    "EXPM1",
    "SOFTPLUS",
    "GELU_ERF",
    "XIELU",
    "FLOOR",
    "CEIL",
    "ROUND",
    "TRUNC",
];

const GLU: &[&str] = &["REGLU", "GEGLU", "SWIGLU", "SWIGLU_OAI", "GEGLU_ERF", "GEGLU_QUICK", "SWIGLU_CLAMP"];

const GLU_BEFORE_CLAMP: &[&str] = &["REGLU", "GEGLU", "SWIGLU", "SWIGLU_OAI", "GEGLU_ERF", "GEGLU_QUICK"];

/// All that is known, newest first.
pub(super) const KNOWN: &[Version] = &[
    // llama.cpp 0.6.0-dev with a cache of experts (b11549).
    Version { context: context_with_moe_cache, ..known([0, 26, 0], [0, 26, 0]) },
    // llama.cpp 0.4.0-dev to 0.6.0-dev.
    known([0, 23, 0], [0, 26, 0]),
    // llama.cpp 0.2.0-dev (b10566): no lazy reading yet.
    Version { model: model_without_lazy_mode, ..known_before_clamp([0, 21, 0]) },
    // b10361: mapped by default.
    Version { model: model_that_maps, ..known_before_clamp([0, 19, 0]) },
    // b10229
    Version { model: model_that_maps, context: context_of_all_outputs, ..known_before_clamp([0, 18, 0]) },
];

/// The releases from `first` to `last` if they are like ggml 0.26.
const fn known(first: [u32; 3], last: [u32; 3]) -> Version {
    Version { ggml: [first, last], n_ops: 101, unary: UNARY, glu: GLU, n_types: 43, model, context }
}

/// One release before SWIGLU_CLAMP.
const fn known_before_clamp(release: [u32; 3]) -> Version {
    Version { glu: GLU_BEFORE_CLAMP, ..known(release, release) }
}

fn model() -> Vec<Field> {
    vec![
        word("devices"),
        word("tensor_buft_overrides"),
        int("n_gpu_layers", -1),
        int("split_mode", 1),
        int("load_mode", -1),
        int("lazy_mode", 1),
        int("main_gpu", 0),
        word("tensor_split"),
        word("progress_callback"),
        word("progress_callback_user_data"),
        word("kv_overrides"),
        flag("vocab_only", false),
        flag("check_tensors", false),
        flag("use_extra_bufts", true),
        flag("no_host", false),
        flag("no_alloc", false),
        flag("load_mtp", false),
    ]
}

fn model_without_lazy_mode() -> Vec<Field> {
    model().into_iter().filter(|f| f.name != "lazy_mode").collect()
}

fn model_that_maps() -> Vec<Field> {
    let mapped = |f: Field| if f.name == "load_mode" { int("load_mode", 1) } else { f };
    model_without_lazy_mode().into_iter().map(mapped).collect()
}

fn context_of_all_outputs() -> Vec<Field> {
    context().into_iter().filter(|f| f.name != "n_outputs_max_per_seq").collect()
}

fn context_with_moe_cache() -> Vec<Field> {
    let mut fields = context();
    if let Some(i) = fields.iter().position(|f| f.name == "abort_callback") {
        fields.insert(i, word("moe_cache_size"));
    }
    fields
}

fn context() -> Vec<Field> {
    vec![
        int("n_ctx", 512),
        int("n_batch", 2048),
        int("n_ubatch", 512),
        int("n_seq_max", 1),
        int("n_rs_seq", 0),
        int("n_outputs_max", 0),
        int("n_outputs_max_per_seq", 1),
        int("n_threads", 4),
        int("n_threads_batch", 4),
        int("ctx_type", 0),
        int("rope_scaling_type", -1),
        int("pooling_type", -1),
        int("attention_type", -1),
        int("flash_attn_type", -1),
        float("rope_freq_base", 0.0),
        float("rope_freq_scale", 0.0),
        float("yarn_ext_factor", -1.0),
        float("yarn_attn_factor", -1.0),
        float("yarn_beta_fast", -1.0),
        float("yarn_beta_slow", -1.0),
        int("yarn_orig_ctx", 0),
        float("defrag_thold", -1.0),
        word("cb_eval"),
        word("cb_eval_user_data"),
        int("type_k", 1),
        int("type_v", 1),
        word("abort_callback"),
        word("abort_callback_data"),
        flag("embeddings", false),
        flag("offload_kqv", true),
        flag("no_perf", true),
        flag("op_offload", true),
        flag("swa_full", true),
        flag("kv_unified", false),
        word("samplers"),
        word("n_samplers"),
        word("ctx_other"),
    ]
}
