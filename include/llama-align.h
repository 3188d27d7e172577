/*
 * llama-align: trains LoRA on quantised GGUF models, on llama.cpp's own graph.
 * Generated from src/capi by cbindgen; do not edit. MIT OR Apache-2.0.
 *
 * In five lines:
 *   llama_align_model_open()      a GGUF file
 *   llama_align_dataset_open()    rows, tokenised for that model
 *   llama_align_adapter_new()     LoRA factors for that model
 *   llama_align_trainer_new(), llama_align_trainer_run()
 *   llama_align_adapter_save()    a file that llama.cpp loads
 *
 * Handles. A handle is a number in a pointer's clothes: never dereference it. NULL, a freed handle, one of another type and one
 * in use are errors, never undefined behaviour. Handles are freed in any order; a _free ignores NULL.
 *
 * Status and detail. Every function but _free and those that return strings or numbers returns a status; its last argument `err`
 * takes the detail and may be NULL. No error is kept anywhere else. Outputs are written only on success; an output
 * handle is NULL after a failure.
 *
 * Structs. The first field is the size of the struct: set it with the struct's _init, or to sizeof. Fields are only ever added
 * at the end, and what an older library does not know must be 0. NULL for parameters means the defaults.
 *
 * Pointers. Each is one of: owned (the caller frees it), borrowed (used during the call only), shared (the library keeps its own
 * reference). Strings go in as UTF-8 with a NUL at the end. Pointers must point to what their type says: that much cannot be
 * checked. Arrays are a pointer and a count; NULL only with the count 0.
 *
 * Versions. Functions, fields and values are added and never changed under one soname; a program runs with every library of the
 * same soname whose llama_align_abi() is not below its LLAMA_ALIGN_ABI. A status that a program does not know is an error if it
 * is negative. ABI.md has the rest.
 *
 * Threads. Each type says who may use it when. Callbacks run on the thread of the call that they belong to. Do not unload the
 * library.
 */


#ifndef LLAMA_ALIGN_H
#define LLAMA_ALIGN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(LLAMA_ALIGN_DLL)
#define LLAMA_ALIGN_API __declspec(dllimport)
#else
#define LLAMA_ALIGN_API
#endif

// Done.
#define LLAMA_ALIGN_OK 0

// Stopped on demand between two steps: everything is consistent, can be saved, and can go on.
#define LLAMA_ALIGN_CANCELLED 1

// Did what it was asked to; steps of the run are left.
#define LLAMA_ALIGN_MORE 2

// An argument is NULL where it may not be, out of bounds, no live handle of its type, or not UTF-8; a struct_size is wrong,
// or bytes behind what this library knows are not zero.
#define LLAMA_ALIGN_ERR_ARGUMENT -1

// The operating system refused: disk full, permission.
#define LLAMA_ALIGN_ERR_IO -2

// A file is not what it claims to be.
#define LLAMA_ALIGN_ERR_FORMAT -3

// Valid, but this build, machine or model architecture cannot do it.
#define LLAMA_ALIGN_ERR_UNSUPPORTED -4

// Model, adapter and data do not belong together.
#define LLAMA_ALIGN_ERR_MISMATCH -5

// Memory could not be had.
#define LLAMA_ALIGN_ERR_MEMORY -6

// A loss or gradient became NaN or infinite; the step was not applied.
#define LLAMA_ALIGN_ERR_NUMERIC -7

// The traced graph does not reproduce llama.cpp's results: training it would be wrong.
#define LLAMA_ALIGN_ERR_CHECK -8

// A bug in this library; the message says where. The handles of the call are poisoned.
#define LLAMA_ALIGN_ERR_INTERNAL -9

// An output exists already, or cannot be made.
#define LLAMA_ALIGN_ERR_OUTPUT -10

// An input file does not exist.
#define LLAMA_ALIGN_ERR_MISSING -11

// Training data cannot be used; the message names file and line, or the row.
#define LLAMA_ALIGN_ERR_DATA -12

// The handle is in use: by another thread, by the call whose callback this is, or (an adapter) by another trainer.
#define LLAMA_ALIGN_ERR_BUSY -13

// An earlier call on this handle ended in LLAMA_ALIGN_ERR_INTERNAL; only its _free is left.
#define LLAMA_ALIGN_ERR_POISONED -14

// Version of this interface: it grows with every addition, and a program runs with any library whose number is not
// smaller and whose soname is the same.
#define LLAMA_ALIGN_ABI 1

// Bytes of an error's message, the terminating NUL included.
#define LLAMA_ALIGN_MESSAGE_BYTES 1016

// A message of llama.cpp's insides.
#define LLAMA_ALIGN_LOG_DEBUG 1

// A message of what was done.
#define LLAMA_ALIGN_LOG_INFO 2

// A message of what works, but perhaps not as wanted.
#define LLAMA_ALIGN_LOG_WARN 3

// A message of what failed.
#define LLAMA_ALIGN_LOG_ERROR 4

// All blocks if devices are named, none otherwise.
#define LLAMA_ALIGN_GPU_LAYERS_AUTO 4294967295

// BF16 where the CPU multiplies it faster, F32 elsewhere.
#define LLAMA_ALIGN_PRECISION_AUTO 0

// Products in F32.
#define LLAMA_ALIGN_PRECISION_F32 1

// Weights and activations are rounded to BF16 before they are multiplied; sums are in F32.
#define LLAMA_ALIGN_PRECISION_BF16 2

// Rows stay as they are: for evaluation.
#define LLAMA_ALIGN_METHOD_NONE 0

// Supervised fine-tuning on completions (the chosen answers of pairs, the rows labelled 1).
#define LLAMA_ALIGN_METHOD_SFT 1

// Direct preference optimisation on pairs.
#define LLAMA_ALIGN_METHOD_DPO 2

// Kahneman-Tversky optimisation on labelled completions (a pair becomes two).
#define LLAMA_ALIGN_METHOD_KTO 3

// Negative preference optimisation of the tokens of pairs' rejected answers; chosen ones are watched.
#define LLAMA_ALIGN_METHOD_NPO 4

// String prompts are used as they are, without the model's chat template.
#define LLAMA_ALIGN_DATASET_PLAIN 1

// Names of control tokens in the data become those tokens: for rows that a template has rendered already. Without it they
// stay text.
#define LLAMA_ALIGN_DATASET_PARSE_SPECIAL 2

// Rows that are too long are left out and counted.
#define LLAMA_ALIGN_TOO_LONG_DROP 0

// Their beginning is kept; without a token that has a loss they are left out.
#define LLAMA_ALIGN_TOO_LONG_TRUNCATE 1

// They are an error, DATA.
#define LLAMA_ALIGN_TOO_LONG_ERROR 2

// The answer has the loss: of messages the last one.
#define LLAMA_ALIGN_LOSS_MASK_COMPLETION 0

// Every message of the assistant has, with the token that ends it. For completions only.
#define LLAMA_ALIGN_LOSS_MASK_ASSISTANT 1

// Everything but the first token has. For completions only.
#define LLAMA_ALIGN_LOSS_MASK_ALL 2

// Scale the update by alpha / sqrt(r) instead (rsLoRA), so that a large rank keeps its effect.
#define LLAMA_ALIGN_ADAPTER_RSLORA 1

// The norms of the blocks move as well, in F32; llama_align_adapter_save_change() writes them.
#define LLAMA_ALIGN_ADAPTER_NORMS 2

// The biases of the blocks move as well, likewise.
#define LLAMA_ALIGN_ADAPTER_BIASES 4

// There are no factors: the weights themselves move, each by a free change in F32, which takes 4 bytes for each of their numbers, and
// a trainer 16. llama_align_adapter_save_change() writes the changes, llama_align_fold_files() makes a model of them.
#define LLAMA_ALIGN_ADAPTER_FULL 8

// Output rows of weights are chosen.
#define LLAMA_ALIGN_NEURONS_ROW 0

// Input columns are.
#define LLAMA_ALIGN_NEURONS_COLUMN 1

// Whole tensors are.
#define LLAMA_ALIGN_NEURONS_TENSOR 2

// Single weights are. Factors and rows cannot hold them, whole weights can (LLAMA_ALIGN_ADAPTER_FULL).
#define LLAMA_ALIGN_NEURONS_WEIGHT 3

// What moved least is chosen.
#define LLAMA_ALIGN_NEURONS_SMALLEST 1

// Nothing was done yet.
#define LLAMA_ALIGN_PHASE_NEW 0

// The reference's log-probs are measured, before the first step of DPO and KTO.
#define LLAMA_ALIGN_PHASE_REFERENCE 1

// Optimizer steps.
#define LLAMA_ALIGN_PHASE_STEP 2

// A callback's answer: go on.
#define LLAMA_ALIGN_CONTINUE 0

// A callback's answer: stop here. The call returns LLAMA_ALIGN_CANCELLED, or LLAMA_ALIGN_OK where no step is left.
#define LLAMA_ALIGN_STOP 1

// The peak, always.
#define LLAMA_ALIGN_SCHEDULE_CONSTANT 0

// A line to 0 after the warm-up.
#define LLAMA_ALIGN_SCHEDULE_LINEAR 1

// Half a cosine to 0 after the warm-up.
#define LLAMA_ALIGN_SCHEDULE_COSINE 2

// Half a cosine to min_lr after the warm-up.
#define LLAMA_ALIGN_SCHEDULE_COSINE_WITH_MIN_LR 3

// AdamW.
#define LLAMA_ALIGN_OPTIM_ADAMW 0

// SGD with momentum.
#define LLAMA_ALIGN_OPTIM_SGD 1

// Short rows are put together to packs of the dataset's max_length tokens, which then count as rows (SFT). Attention stays
// within each row.
#define LLAMA_ALIGN_TRAINER_PACKING 1

// DPO's own loss on pairs.
#define LLAMA_ALIGN_LOSS_SIGMOID 0

// DPO with labels that are wrong at times.
#define LLAMA_ALIGN_LOSS_CDPO 1

// The same without its bias.
#define LLAMA_ALIGN_LOSS_ROBUST 2

// SLiC's hinge.
#define LLAMA_ALIGN_LOSS_HINGE 3

// IPO.
#define LLAMA_ALIGN_LOSS_IPO 4

// DPO on log-ratios per token.
#define LLAMA_ALIGN_LOSS_SIGMOID_NORM 5

// APO-zero.
#define LLAMA_ALIGN_LOSS_APO_ZERO 6

// APO-down.
#define LLAMA_ALIGN_LOSS_APO_DOWN 7

// SimPO, without a reference.
#define LLAMA_ALIGN_LOSS_SIMPO 8

// CPO, without a reference.
#define LLAMA_ALIGN_LOSS_CPO 9

// ORPO, without a reference.
#define LLAMA_ALIGN_LOSS_ORPO 10

// BCO on pairs.
#define LLAMA_ALIGN_LOSS_BCO_PAIR 11

// NCA on pairs.
#define LLAMA_ALIGN_LOSS_NCA_PAIR 12

// SPPO with hard labels.
#define LLAMA_ALIGN_LOSS_SPPO_HARD 13

// Numbers of losses at most: the length of loss_weights.
#define LLAMA_ALIGN_LOSSES_MAX 16

// The insides of blocks are computed again for the backward pass: least memory.
#define LLAMA_ALIGN_RECOMPUTE_ALWAYS 0

// They are kept: fastest.
#define LLAMA_ALIGN_RECOMPUTE_NEVER 1

// They are kept where they take less than a quarter of the memory that is free, or where max_memory has room for them.
#define LLAMA_ALIGN_RECOMPUTE_AUTO 2

// Go on although threads, kind of CPU, precision or the library's version are not the run's: with other bits.
#define LLAMA_ALIGN_RESUME_INEXACT 1

// Preference pairs: is the chosen answer likelier? Metrics accuracy, accuracy_norm, margin, margin_norm.
#define LLAMA_ALIGN_TASK_PAIRS 1

// Negative log-likelihood per token of the answers. Metrics nll, perplexity.
#define LLAMA_ALIGN_TASK_NLL 2

// Drift from the base on the answers; needs an adapter. Metrics kl, top1_agreement.
#define LLAMA_ALIGN_TASK_KL 3

// Multiple choice (TruthfulQA). Metrics mc1, mc2 by summed log-probs, mc1_norm, mc2_norm per token.
#define LLAMA_ALIGN_TASK_MC 4

// Final numbers of generated answers (GSM8K). Metrics exact_match, strict_match.
#define LLAMA_ALIGN_TASK_EXACT_MATCH 5

// Short generated answers (SQuAD). Metrics em, f1.
#define LLAMA_ALIGN_TASK_EM_F1 6

// Metrics of a task at most.
#define LLAMA_ALIGN_TASK_METRICS_MAX 8

// Flag: ask without the model's chat template.
#define LLAMA_ALIGN_TASK_NO_TEMPLATE 1

// An existing output is replaced.
#define LLAMA_ALIGN_MERGE_OVERWRITE 1

// Inputs and output are asked for likelihoods and answers, which the report then holds; it needs a report.
#define LLAMA_ALIGN_MERGE_VERIFY 2

// Exact slopes from activations.
#define LLAMA_ALIGN_SOLVER_GRADIENT 0

// Likelihoods alone: the simplex method of Nelder and Mead.
#define LLAMA_ALIGN_SOLVER_NELDER_MEAD 1

// Groups of equal size, the last ones larger where it does not divide.
#define LLAMA_ALIGN_GROUPS_PAPER 0

// Groups as the paper's authors' code makes them.
#define LLAMA_ALIGN_GROUPS_RELEASED 1

// Embeddings and norms are those of the model before.
#define LLAMA_ALIGN_OTHERS_FAITHFUL 0

// Embeddings and norms are averaged with the ratios' mean.
#define LLAMA_ALIGN_OTHERS_UNIFORM 1

// What is trained of one model: LoRA factors, rows, or whole weights. Lifetime: from its maker to _free; a trainer keeps it going, so it may be freed
// before. Threads: any number at once; while a trainer runs, each of its steps is seen whole or not at all.
typedef struct llama_align_adapter llama_align_adapter;

// Rows, tokenised for one model. Lifetime: from its maker to _free; trainers keep what they need, so it may be freed before
// them. Threads: any number at once.
typedef struct llama_align_dataset llama_align_dataset;

// What a host fills in with llama-align-host.h, which it compiles against its own llama.cpp.
typedef struct llama_align_host llama_align_host;

// A frozen model: a GGUF file, mapped, or a host's. Lifetime: from _open to _free; adapters, datasets and trainers made from it keep
// what they need, so it may be freed before them. Threads: any number at once.
typedef struct llama_align_model llama_align_model;

// A llama.cpp: the one that is built into this library, or the host's. Lifetime: models keep what they need of it. Threads: any
// number at once.
typedef struct llama_align_runtime llama_align_runtime;

// A run: graph, optimizer and position in the data. Lifetime: from _new to _free; adapter, dataset and model may be freed
// before, and a call that trains while its trainer is freed ends after its step. Threads: one call at a time trains, a second
// one gets BUSY; _set_paused, _cancel, _report and _free from any thread at any time.
typedef struct llama_align_trainer llama_align_trainer;

// Outcome of a call: 0 and positive values are no errors, negative values are. Values are added, never renumbered.
typedef int32_t llama_align_status;

// Detail of a failed call, in the caller's memory: set struct_size to sizeof(llama_align_error), pass it to any number of
// calls. Lifetime: the caller's. Threads: one call at a time may use it.
typedef struct llama_align_error {
    // sizeof(llama_align_error).
    uint32_t struct_size;
    // The status that the call returned.
    llama_align_status status;
    // What went wrong, naming file, tensor, line or argument; UTF-8, terminated, cut where it is longer; empty after success.
    char message[LLAMA_ALIGN_MESSAGE_BYTES];
} llama_align_error;

// What a runtime is. Strings are UTF-8, terminated, and cut where they are longer.
typedef struct llama_align_runtime_info {
    // sizeof(llama_align_runtime_info), set by the caller.
    uint32_t struct_size;
    // 1 if it is a host's, 0 if it is the built-in one.
    uint32_t is_host;
    // The version that ggml reports.
    char ggml_version[64];
} llama_align_runtime_info;

// Takes a message: `level` is one of LLAMA_ALIGN_LOG_*, `text` (borrowed) a line without its end, valid during the call. It runs on
// the thread of the call that has something to say, and must not throw or longjmp.
typedef void (*llama_align_log_fn)(uint32_t level, const char *text, void *user_data);

// A device of a runtime. Strings are UTF-8, terminated, and cut where they are longer.
typedef struct llama_align_device {
    // sizeof(llama_align_device), set by the caller.
    uint32_t struct_size;
    // 1 for a GPU, which weights can be moved to; 0 for the CPU and what helps it.
    uint32_t is_gpu;
    // Bytes that it has, as it says.
    uint64_t total_bytes;
    // Bytes of them that are free, as it says.
    uint64_t free_bytes;
    // The runtime's name of it, such as "CUDA0", "Vulkan0", "CPU": what llama_align_model_open_on() takes.
    char name[64];
    // What it is.
    char description[128];
} llama_align_device;

// How a model is opened. Fill it in with llama_align_model_params_init().
typedef struct llama_align_model_params {
    // sizeof(llama_align_model_params).
    uint32_t struct_size;
    // Blocks whose weights go to the devices, counted from the last, as llama.cpp counts: one more than there are takes the
    // output weights too, and so does every larger number but AUTO. Default LLAMA_ALIGN_GPU_LAYERS_AUTO.
    uint32_t n_gpu_layers;
} llama_align_model_params;

// Where a model's weights are read.
typedef struct llama_align_placement {
    // sizeof(llama_align_placement), set by the caller.
    uint32_t struct_size;
    // Tensors that are read where the runtime keeps them.
    uint32_t n_shared;
    // Tensors that are read from a map of the file, since the runtime keeps them in a layout of its own.
    uint32_t n_mapped;
    // Tensors that cannot be read.
    uint32_t n_refused;
    // Bytes of the first kind.
    uint64_t shared_bytes;
    // Bytes of the second kind.
    uint64_t mapped_bytes;
    // Bytes of the third kind.
    uint64_t refused_bytes;
} llama_align_placement;

// What a model is. Of a host's model that was attached without its file, n_tensors, gguf_version and weights_bytes are 0. Strings are UTF-8, terminated, and cut where they are longer.
typedef struct llama_align_model_info {
    // sizeof(llama_align_model_info), set by the caller.
    uint32_t struct_size;
    // Blocks.
    uint32_t n_layer;
    // Tokens of the vocabulary.
    uint32_t n_vocab;
    // Context that the model was trained with, in tokens: no row may be longer.
    uint32_t n_ctx_train;
    // Sliding window in tokens, 0 if there is none.
    uint32_t n_swa;
    // Tensors.
    uint32_t n_tensors;
    // 1 if the file has a chat template, which prompts then go through, else 0.
    uint32_t has_chat_template;
    // Version of the GGUF format.
    uint32_t gguf_version;
    // Bytes of all tensors.
    uint64_t weights_bytes;
    // general.architecture.
    char architecture[64];
    // general.name, empty where the file has none.
    char name[128];
} llama_align_model_info;

// How to check. Fill it in with llama_align_check_params_init().
typedef struct llama_align_check_params {
    // sizeof(llama_align_check_params).
    uint32_t struct_size;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // LLAMA_ALIGN_PRECISION_*, the one that training would use. Default AUTO.
    uint32_t precision;
} llama_align_check_params;

// What a check that passed has measured.
typedef struct llama_align_check_report {
    // sizeof(llama_align_check_report), set by the caller.
    uint32_t struct_size;
    // LLAMA_ALIGN_PRECISION_F32 or _BF16: what AUTO came to; AUTO where devices compute, in numbers of their own.
    uint32_t precision;
    // Linear weights of the blocks that an adapter can be put on.
    uint32_t n_trainable;
    // Operations of the traced graph.
    uint32_t n_ops;
    // Largest difference of any logit between the traced graph and llama.cpp's own decode: 0; NaN where devices compute, whose
    // bits depend on shapes: then device_rel_diff is what was compared.
    float max_abs_diff;
    // Largest relative difference of a block between the training graph and the runtime's.
    float max_rel_diff;
    // What is allowed for max_rel_diff, by the model's weight types.
    float bound;
    // Probes that were compared.
    uint32_t n_probes;
    // Where devices compute: largest relative difference of a block, or of the logits, between the traced graph and llama.cpp's own
    // decode, each block from the decode's own values; else NaN.
    float device_rel_diff;
    // What is allowed for device_rel_diff; NaN where it is.
    float device_bound;
} llama_align_check_report;

// How rows become tokens. Fill it in with llama_align_dataset_params_init().
typedef struct llama_align_dataset_params {
    // sizeof(llama_align_dataset_params).
    uint32_t struct_size;
    // LLAMA_ALIGN_METHOD_*: rows are converted to what it trains on. Default NONE.
    uint32_t method;
    // Longest row, prompt and answer together, in tokens: 2 to the model's context. 0, the default: 1024, or the model's
    // context where that is less.
    uint32_t max_length;
    // LLAMA_ALIGN_DATASET_* bits. Default 0.
    uint32_t flags;
    // LLAMA_ALIGN_TOO_LONG_*: what becomes of longer rows. Default DROP.
    uint32_t too_long;
    // LLAMA_ALIGN_LOSS_MASK_*: which tokens have a loss. Default COMPLETION.
    uint32_t loss_mask;
} llama_align_dataset_params;

// What became of the rows.
typedef struct llama_align_dataset_info {
    // sizeof(llama_align_dataset_info), set by the caller.
    uint32_t struct_size;
    // Longest row that was allowed, in tokens.
    uint32_t max_length;
    // Rows that were kept.
    uint64_t n_rows;
    // Rows that were left out because they are longer.
    uint64_t n_dropped;
    // Tokens of the rows that were kept; the prompt of a pair counts twice.
    uint64_t n_tokens;
    // Of these, tokens of answers: the ones with a loss.
    uint64_t n_answer_tokens;
    // Tokens of the longest row, as it was before it was left out or cut.
    uint64_t n_longest;
    // Rows that were cut to the longest length.
    uint64_t n_truncated;
} llama_align_dataset_info;

// A new adapter. Fill it in with llama_align_adapter_params_init().
typedef struct llama_align_adapter_params {
    // sizeof(llama_align_adapter_params).
    uint32_t struct_size;
    // r, 1 to 4096. Default 16.
    uint32_t rank;
    // The update is scaled by alpha / r; 1e-6 to 1e6. Default 32.
    float alpha;
    // LLAMA_ALIGN_ADAPTER_* bits. Default 0.
    uint32_t flags;
    // Each weight draws its factors from this and its name. Default 0.
    uint64_t seed;
} llama_align_adapter_params;

// How much of an update is kept. Fill it in with llama_align_limit_params_init().
typedef struct llama_align_limit_params {
    // sizeof(llama_align_limit_params).
    uint32_t struct_size;
    // Largest rank, 1 to 4096. Default 16.
    uint32_t rank;
    // Share of each update's squared norm that is to be kept, above 0, up to 1: the smallest rank that keeps it, and no more
    // than `rank`. Default 1.
    double energy;
} llama_align_limit_params;

// What a limit kept.
typedef struct llama_align_kept {
    // sizeof(llama_align_kept), set by the caller.
    uint32_t struct_size;
    // Largest rank of a weight's update.
    uint32_t rank;
    // Weights with an update.
    uint64_t n_weights;
    // Tensors that differ and that no adapter carries, such as norms and embeddings; of an extraction.
    uint64_t n_left_out;
    // Share of the squared norm of all updates together.
    double energy;
    // Share that the worst of them keeps.
    double energy_min;
} llama_align_kept;

// How neurons are chosen. Fill it in with llama_align_neurons_params_init().
typedef struct llama_align_neurons_params {
    // sizeof(llama_align_neurons_params).
    uint32_t struct_size;
    // LLAMA_ALIGN_NEURONS_ROW, _COLUMN, _TENSOR or _WEIGHT. Default ROW.
    uint32_t granularity;
    // LLAMA_ALIGN_NEURONS_SMALLEST, or 0. Default 0.
    uint32_t flags;
    // 0.
    uint32_t reserved;
    // Share that is chosen of all rows (columns, tensors, weights) together, 0 to 1. Default 0.05.
    double ratio;
    // Share of the ranking that is passed over first; with `ratio` at most 1. Default 0.
    double skip;
} llama_align_neurons_params;

// Which tokens of rejected answers are chosen. Fill it in with llama_align_weigh_params_init().
typedef struct llama_align_weigh_params {
    // sizeof(llama_align_weigh_params).
    uint32_t struct_size;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // LLAMA_ALIGN_PRECISION_*. Default AUTO.
    uint32_t precision;
    // 0.
    uint32_t reserved;
    // Tokens whose log-ratio is below; finite. Default 0.
    double below;
    // Instead: the share of every answer's tokens whose log-ratio is lowest, up to 1; 0, the default, means by `below`.
    double share;
} llama_align_weigh_params;

// A run's configuration. Fill it in with llama_align_trainer_params_init().
typedef struct llama_align_trainer_params {
    // sizeof(llama_align_trainer_params).
    uint32_t struct_size;
    // LLAMA_ALIGN_METHOD_SFT, _DPO, _KTO or _NPO; the dataset's rows must suit it. Default DPO.
    uint32_t method;
    // LLAMA_ALIGN_SCHEDULE_*. Default COSINE.
    uint32_t schedule;
    // LLAMA_ALIGN_PRECISION_*. Default AUTO.
    uint32_t precision;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // Rows of a micro-batch, 1 to 65536. Default 4.
    uint32_t batch_size;
    // Micro-batches of an optimizer step, 1 to 65536. Default 2.
    uint32_t grad_accum;
    // Tokens of one forward at most, 1 to 1048576; a row that is longer goes alone. Default 1024.
    uint32_t micro_batch_tokens;
    // LLAMA_ALIGN_LOSS_*: the loss on pairs of method DPO. Default SIGMOID.
    uint32_t loss;
    // LLAMA_ALIGN_OPTIM_*. Default ADAMW.
    uint32_t optim;
    // LLAMA_ALIGN_TRAINER_* bits. Default 0.
    uint32_t flags;
    // LLAMA_ALIGN_RECOMPUTE_*; the bits are the same. Default ALWAYS: the library is a guest in its process.
    uint32_t recompute;
    // Optimizer steps; 0 means by epochs. Default 0.
    uint64_t max_steps;
    // Seed of the order. Default 0.
    uint64_t seed;
    // Steps that the rate rises over; 0, the default, means by warmup_ratio.
    uint64_t warmup_steps;
    // Passes over the data. Default 1.
    double epochs;
    // Peak rate, up to 10; 0, the default, is the method's: 3e-4 for DPO, 2e-4 for SFT and KTO, 3e-5 for NPO; of adapters of rows
    // and of whole weights 5e-6, 1e-5 for SFT, 5e-7 for NPO.
    double learning_rate;
    // Share of the steps that the rate rises over, [0, 1]. Default 0.1.
    double warmup_ratio;
    // Rate that COSINE_WITH_MIN_LR ends at; 0, the default, is a tenth of the peak.
    double min_lr;
    // Rate of the factors B over that of A (LoRA+). Default 1.
    double loraplus_lr_ratio;
    // Share of what the factors A read that each step drops, drawn by seed and step, [0, 0.99]. Default 0.
    double lora_dropout;
    // Strength of the pull to the reference; 0, the default, is the loss's own: 0.1, for SimPO 2.
    double beta;
    // Share of labels that CDPO and ROBUST take to be wrong. Default 0.1.
    double label_smoothing;
    // How much better SIMPO wants the chosen answer. Default 1.
    double simpo_gamma;
    // Weight of CPO's likelihood term. Default 1.
    double cpo_alpha;
    // Weight of the chosen answer's likelihood per token, added to any loss on pairs. Default 0.
    double sft_weight;
    // KTO's weight of good answers. Default 1.
    double desirable_weight;
    // KTO's weight of bad answers. Default 1.
    double undesirable_weight;
    // Global norm that gradients are cut to; 0 means none. Default 1.
    double max_grad_norm;
    // Weight decay, beside the gradient (ADAMW) or in it (SGD). Default 0.
    double weight_decay;
    // Momentum of SGD. Default 0.9.
    double sgd_momentum;
    // AdamW's decay of the first moment. Default 0.9.
    double adam_beta1;
    // AdamW's decay of the second moment. Default 0.999.
    double adam_beta2;
    // Added to the root of the second moment. Default 1e-8.
    double adam_epsilon;
    // Share of a rejected answer's tokens that DPO sees, those of the lowest log-ratio, above 0, up to 1 (ALLO's learning: 0.1).
    // Default 1.
    double rejected_share;
    // Bytes that the run may take beside the mapped model: decides what RECOMPUTE_AUTO comes to, and one that does not fit is refused.
    // 0, the default, is no limit.
    uint64_t max_memory;
    // Weights of several losses of method DPO together, each at its LLAMA_ALIGN_LOSS_*, 0 to 1000; `loss` is then 0. All 0, the
    // default: `loss` alone. A likelihood beside them is sft_weight.
    double loss_weights[LLAMA_ALIGN_LOSSES_MAX];
} llama_align_trainer_params;

// How far a run is. Numbers that a method or phase does not have are NaN.
typedef struct llama_align_progress {
    // sizeof(llama_align_progress); set by the caller of llama_align_trainer_report(), by the library for a callback.
    uint32_t struct_size;
    // LLAMA_ALIGN_PHASE_*.
    uint32_t phase;
    // Steps done; in phase REFERENCE sequences done.
    uint64_t step;
    // Steps of the run; in phase REFERENCE all sequences.
    uint64_t n_steps;
    // Tokens trained on so far, prompts included.
    uint64_t n_tokens;
    // Passes over the data so far.
    double epoch;
    // Loss of the step, over all of its rows.
    double loss;
    // Norm of the gradient before clipping.
    double grad_norm;
    // Rate of the step.
    double learning_rate;
    // Mean reward of chosen (good) answers.
    double reward_chosen;
    // Mean reward of rejected (bad) answers.
    double reward_rejected;
    // reward_chosen - reward_rejected.
    double reward_margin;
    // Share of pairs whose chosen answer has the higher reward, [0, 1].
    double reward_accuracy;
    // Mean summed log-prob of chosen (good) answers.
    double logps_chosen;
    // Mean summed log-prob of rejected (bad) answers.
    double logps_rejected;
    // KTO's baseline.
    double kl;
    // Time that the step took.
    double step_ms;
    // Time since the first step was asked for, the reference included.
    double elapsed_ms;
} llama_align_progress;

// Called after every step and while the reference is measured, on the thread of the call that trains; `progress` is valid only
// during the callback. Returns LLAMA_ALIGN_CONTINUE or LLAMA_ALIGN_STOP; anything else ends the call with ARGUMENT. It may call
// every function of this header; those that train with the same trainer return BUSY. It must not throw or longjmp.
typedef int32_t (*llama_align_progress_fn)(const struct llama_align_progress *progress, void *user_data);

// How to measure. Fill it in with llama_align_evaluate_params_init().
typedef struct llama_align_evaluate_params {
    // sizeof(llama_align_evaluate_params).
    uint32_t struct_size;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // LLAMA_ALIGN_PRECISION_*. Default AUTO.
    uint32_t precision;
    // Tokens of one forward at most, 1 to 1048576; a row that is longer goes alone. Default 1024.
    uint32_t micro_batch_tokens;
    // A reward is beta times the difference of log-probs with and without the adapter; above 0. Default 0.1.
    double beta;
} llama_align_evaluate_params;

// What was measured. Numbers that the rows do not give are NaN: without an adapter all rewards.
typedef struct llama_align_evaluation {
    // sizeof(llama_align_evaluation), set by the caller.
    uint32_t struct_size;
    // 1 if an adapter was measured, 0 for the model alone.
    uint32_t has_adapter;
    // Rows measured.
    uint64_t n_rows;
    // Pairs among them.
    uint64_t n_pairs;
    // Tokens of the wanted answers.
    uint64_t n_tokens;
    // Mean negative log-likelihood per token of the wanted answers.
    double nll;
    // e^nll.
    double perplexity;
    // Share of pairs whose chosen answer has the higher summed log-prob, [0, 1].
    double accuracy;
    // Mean summed log-prob of chosen (good) answers.
    double logps_chosen;
    // Mean summed log-prob of rejected (bad) answers.
    double logps_rejected;
    // Share of pairs whose chosen answer has the higher reward, [0, 1].
    double reward_accuracy;
    // Mean difference of rewards.
    double reward_margin;
    // Mean reward of chosen (good) answers.
    double reward_chosen;
    // Mean reward of rejected (bad) answers.
    double reward_rejected;
} llama_align_evaluation;

// How a task runs. Fill it in with llama_align_task_params_init().
typedef struct llama_align_task_params {
    // sizeof(llama_align_task_params).
    uint32_t struct_size;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // LLAMA_ALIGN_PRECISION_*. Default AUTO.
    uint32_t precision;
    // LLAMA_ALIGN_TASK_NO_TEMPLATE or 0. Default 0.
    uint32_t flags;
    // Longer items are left out and counted, in tokens, up to the model's context. 0, the default: 1024, or the model's context
    // where that is less.
    uint32_t max_length;
    // Tokens of a generated answer at most; 0 is the task's own. Default 0.
    uint32_t n_predict;
    // Items at most, drawn by the seed; 0 takes all. Default 0.
    uint64_t limit;
    // Seed of that draw. Default 0.
    uint64_t seed;
} llama_align_task_params;

// What a task gave.
typedef struct llama_align_task_report {
    // sizeof(llama_align_task_report), set by the caller.
    uint32_t struct_size;
    // Metrics that follow.
    uint32_t n_metrics;
    // Items measured.
    uint64_t n_items;
    // Items left out as too long.
    uint64_t n_too_long;
    // Means over the items, in the order of their names.
    double values[LLAMA_ALIGN_TASK_METRICS_MAX];
    // Their names, NUL-terminated.
    char names[LLAMA_ALIGN_TASK_METRICS_MAX][24];
} llama_align_task_report;

// How a merged model is stored. Fill it in with llama_align_merge_params_init().
typedef struct llama_align_merge_params {
    // sizeof(llama_align_merge_params).
    uint32_t struct_size;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // LLAMA_ALIGN_MERGE_* bits. Default 0.
    uint32_t flags;
    // 0.
    uint32_t reserved;
    // With the type "auto": cosine of wanted and realised change below which a tensor's type is raised, [0, 1]. 0 where min_gain
    // decides; both 0 stand for a cosine of 0.9. Default 0.
    double min_cosine;
    // With the type "auto": share of the wanted change, noise aside, below which a tensor's type is raised, [0, 1]. Default 0.
    double min_gain;
} llama_align_merge_params;

// What a merge did. Numbers that there are none of are NaN: where nothing changed, all of fidelity.
typedef struct llama_align_merge_report {
    // sizeof(llama_align_merge_report), set by the caller.
    uint32_t struct_size;
    // 1 if the output has a chat template.
    uint32_t has_template;
    // Tensors of the output.
    uint64_t n_tensors;
    // Those whose bytes are an input's.
    uint64_t n_copied;
    // Those that "auto" stored in a larger type.
    uint64_t n_raised;
    // Length of the output in bytes.
    uint64_t n_bytes;
    // Cosine of the wanted and the realised change, all changed tensors together, [-1, 1].
    double cosine;
    // The realised change along the wanted one, over the wanted one.
    double gain;
    // Length of the realised change over that of the wanted one.
    double norm_ratio;
    // Root of the mean square of the difference, per value.
    double rmse;
} llama_align_merge_report;

// How ratios are searched. Fill it in with llama_align_hma_params_init().
typedef struct llama_align_hma_params {
    // sizeof(llama_align_hma_params).
    uint32_t struct_size;
    // Threads; 0 is the number of cores. Default 0.
    uint32_t n_threads;
    // LLAMA_ALIGN_PRECISION_*. Default AUTO.
    uint32_t precision;
    // Tokens of one forward at most, 1 to 1048576; a row that is longer goes alone. Default 1024.
    uint32_t micro_batch_tokens;
    // LLAMA_ALIGN_SOLVER_*. Default GRADIENT.
    uint32_t solver;
    // LLAMA_ALIGN_GROUPS_*. Default PAPER.
    uint32_t group_rule;
    // Groups of blocks with a ratio each; 0: every block. Default 3.
    uint32_t n_groups;
    // LLAMA_ALIGN_OTHERS_*: what embeddings and norms of two models are. Default FAITHFUL.
    uint32_t others;
    // Passes over the responses (GRADIENT), at most 10000; 0, the default: 3, or as many as make 50 steps.
    uint32_t epochs;
    // Responses per step (GRADIENT), 0 for all. Default 16.
    uint32_t batch_size;
    // Evaluations of all responses at most (NELDER_MEAD), 1 to 1000000. Default 60.
    uint32_t evaluations;
    // 0.
    uint32_t reserved;
    // Mean weight of the model before alignment, inside 0 to 1. Default 0.2.
    double pre_weight;
    // How little ratios may differ, from 0 on; what lets a ratio exceed 1 is an error. Default 0.2.
    double epsilon;
    // First step in the space of the ratios' logits (GRADIENT), above 0. Default 0.2.
    double learning_rate;
    // Strength of the regulariser that holds ratios near their mean, from 0 on. Default 0: none.
    double rho;
    // Seed of the order of responses. Default 0.
    uint64_t seed;
} llama_align_hma_params;

// What a search found.
typedef struct llama_align_hma_report {
    // sizeof(llama_align_hma_report), set by the caller.
    uint32_t struct_size;
    // Groups.
    uint32_t n_groups;
    // Responses.
    uint64_t n_responses;
    // Their tokens that count.
    uint64_t n_tokens;
    // Responses passed forward, once for each time.
    uint64_t n_forwards;
    // Negative log-likelihood per token of the responses under the model before.
    double nll_before;
    // Under the model after.
    double nll_after;
    // At uniform ratios.
    double nll_uniform;
    // At the ratios that were found.
    double nll;
    // The least that a ratio may be.
    double ratio_min;
    // The largest that it may be.
    double ratio_max;
} llama_align_hma_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, such as "0.1.0"; never NULL, valid as long as the library is loaded. Any thread. Since 0.1.
LLAMA_ALIGN_API
const char *llama_align_version(void);

// LLAMA_ALIGN_ABI of the library that runs, to be compared with that of the header. Any thread. Since 0.1.
LLAMA_ALIGN_API uint32_t llama_align_abi(void);

// A status as a word, such as "mismatch"; "unknown" for a number that is none. Never NULL, valid as long as the library is
// loaded. Any thread. Since 0.1.
LLAMA_ALIGN_API
const char *llama_align_status_name(llama_align_status status);

// The llama.cpp that is built into this library. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT,
// UNSUPPORTED (a build without one). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_built_in(struct llama_align_runtime **out,
                                                struct llama_align_error *err);

// The llama.cpp of a host: what llama_align_host_fill() of llama-align-host.h filled in. `host` (borrowed): not NULL. `out` (owned):
// not NULL; NULL is written on failure. The host's libraries stay loaded for good. Where an assertion of the host's ggml fails, the
// process ends as it would without this library. Errors: ARGUMENT (not filled in, or by another version of that header),
// UNSUPPORTED (a ggml whose structs are laid out differently). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_from_host(const struct llama_align_host *host,
                                                 struct llama_align_runtime **out,
                                                 struct llama_align_error *err);

// The llama.cpp that this process has loaded as a shared library, whatever its files are called and whoever loaded it, without its
// headers. Its log and the callbacks of its ggml stay with whoever loaded it; it stays loaded for good. Where an assertion of its
// ggml fails, the process ends as it would without this library. `out` (owned): not NULL; NULL is written on failure. Errors:
// ARGUMENT, UNSUPPORTED (there is none, or more than one, or a release that this library does not know: the message has the reason).
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_from_process(struct llama_align_runtime **out,
                                                    struct llama_align_error *err);

// The llama.cpp of a shared library, without its headers; it is loaded unless the process has it, and stays loaded for good. `path`
// (borrowed): the library, or a directory with one libllama and its backends; not NULL. `out` (owned): not NULL; NULL is written on
// failure. Everything else as in llama_align_runtime_from_process(). Errors: ARGUMENT, MISSING, IO, UNSUPPORTED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_from_library(const char *path,
                                                    struct llama_align_runtime **out,
                                                    struct llama_align_error *err);

// Frees a runtime; NULL is fine. Since 0.1.
LLAMA_ALIGN_API void llama_align_runtime_free(struct llama_align_runtime *runtime);

// What it is. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_describe(const struct llama_align_runtime *runtime,
                                                struct llama_align_runtime_info *out,
                                                struct llama_align_error *err);

// Sends messages of this runtime, its models and their trainers to a callback; without one they go nowhere. Messages of a host's
// llama.cpp stay with the host. `fn_`: NULL for nobody. `user_data` (shared): passed on; it must live until another callback was set
// and no call that began before is running, or all of these handles are freed. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_set_log(const struct llama_align_runtime *runtime,
                                               llama_align_log_fn fn_,
                                               void *user_data,
                                               struct llama_align_error *err);

// Devices of a runtime, the CPU among them. `runtime` (borrowed): not NULL. `out` (borrowed): not NULL; gets their number. Any
// thread, callback-safe. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_device_count(const struct llama_align_runtime *runtime,
                                                    uint64_t *out,
                                                    struct llama_align_error *err);

// Describes a device. `runtime` (borrowed): not NULL. `index`: below llama_align_runtime_device_count(). `out` (borrowed): not
// NULL, struct_size set. Any thread, callback-safe. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_runtime_device(const struct llama_align_runtime *runtime,
                                              uint64_t index,
                                              struct llama_align_device *out,
                                              struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_model_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_params_init(struct llama_align_model_params *params,
                                                 uint32_t struct_size,
                                                 struct llama_align_error *err);

// Opens a GGUF model with weights on devices, which then train: what they have no operation for runs on the CPU, and the log says
// what that was. `runtime`: shared. `path` (borrowed): not NULL. `devices` (borrowed): names separated by commas, "none" for the CPU
// alone, or NULL: every GPU if n_gpu_layers asks for blocks to be moved, else the CPU alone. `params` (borrowed): NULL for the
// defaults. Precision must be AUTO wherever such a model is used: devices form products in numbers of their own. `out` (owned): not
// NULL; NULL is written on failure. Errors: ARGUMENT (also a device that the runtime does not have), MISSING, IO, FORMAT,
// MISMATCH (an adapter), UNSUPPORTED, MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_open_on(const struct llama_align_runtime *runtime,
                                             const char *path,
                                             const char *devices,
                                             const struct llama_align_model_params *params,
                                             struct llama_align_model **out,
                                             struct llama_align_error *err);

// Validates and opens a GGUF model. `path` (borrowed): not NULL. `out` (owned): not NULL; NULL is written on failure. Errors:
// ARGUMENT, MISSING, IO, FORMAT, MISMATCH (an adapter), UNSUPPORTED, MEMORY. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_open(const char *path,
                                          struct llama_align_model **out,
                                          struct llama_align_error *err);

// The same by another llama.cpp. `runtime`: shared. Everything else as in llama_align_model_open(). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_open_with(const struct llama_align_runtime *runtime,
                                               const char *path,
                                               struct llama_align_model **out,
                                               struct llama_align_error *err);

// Takes a model that the host has open: it is trained on its live weights, and nothing of it changes. `runtime`: shared; the host's.
// `llama_model` (borrowed until this handle and all that was made from it are freed): a struct llama_model * of that runtime.
// `path` (borrowed): the file it was loaded from, or NULL; weights that the host keeps in a layout of its own (a buffer such as
// CPU_REPACK) are read from there, mapped, and without it cannot be trained: llama_align_model_placement() tells. Meanwhile the
// host may decode, but not free the model. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISSING, IO,
// FORMAT, MISMATCH (not the model's file), UNSUPPORTED, MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_attach(const struct llama_align_runtime *runtime,
                                            void *llama_model,
                                            const char *path,
                                            struct llama_align_model **out,
                                            struct llama_align_error *err);

// Where the weights that the model computes with are read. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT,
// UNSUPPORTED, MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_placement(const struct llama_align_model *model,
                                               struct llama_align_placement *out,
                                               struct llama_align_error *err);

// Frees a model; NULL is fine. Since 0.1.
LLAMA_ALIGN_API void llama_align_model_free(struct llama_align_model *model);

// What the file holds. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_describe(const struct llama_align_model *model,
                                              struct llama_align_model_info *out,
                                              struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_check_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_check_params_init(struct llama_align_check_params *params,
                                                 uint32_t struct_size,
                                                 struct llama_align_error *err);

// Traces the model through llama.cpp and compares the trace with llama.cpp's own results. OK means that it can be trained.
// Takes seconds; what passed is remembered, so that the next check, trainer or evaluation of the same precision does not
// repeat it. `params` (borrowed): NULL for the defaults. `out` (borrowed): NULL, or struct_size set. Errors: ARGUMENT, CHECK,
// UNSUPPORTED (names the operation), MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_model_check(const struct llama_align_model *model,
                                           const struct llama_align_check_params *params,
                                           struct llama_align_check_report *out,
                                           struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_dataset_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_params_init(struct llama_align_dataset_params *params,
                                                   uint32_t struct_size,
                                                   struct llama_align_error *err);

// Reads a file of one JSON object per line, or of one array of objects; their keys decide the form of the rows. `model`: shared. `path` (borrowed): not NULL. `params` (borrowed):
// NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISSING, IO, DATA (names the
// line), MISMATCH, FORMAT (the template), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_open(const struct llama_align_model *model,
                                            const char *path,
                                            const struct llama_align_dataset_params *params,
                                            struct llama_align_dataset **out,
                                            struct llama_align_error *err);

// The same where the file calls its columns otherwise. `columns` (borrowed): such as "prompt=question,chosen=right_answer"; NULL for
// none. `model`: shared. `path` (borrowed): not NULL. `params` (borrowed): NULL for the defaults. `out` (owned): not NULL; NULL is written
// on failure. Errors: ARGUMENT, MISSING, IO, DATA (names the line), MISMATCH, FORMAT (the template), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_open_columns(const struct llama_align_model *model,
                                                    const char *path,
                                                    const char *columns,
                                                    const struct llama_align_dataset_params *params,
                                                    struct llama_align_dataset **out,
                                                    struct llama_align_error *err);

// Makes a dataset of rows as a file has them: each is one JSON object, of any form that llama_align_dataset_open() reads
// (messages, pairs, labelled rows, ...). `model`: shared. `rows` (borrowed): `n_rows` strings, none NULL. `params` (borrowed):
// NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, DATA (names the row, from 1),
// MISMATCH, FORMAT (the template), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_from_json(const struct llama_align_model *model,
                                                 const char *const *rows,
                                                 size_t n_rows,
                                                 const struct llama_align_dataset_params *params,
                                                 struct llama_align_dataset **out,
                                                 struct llama_align_error *err);

// Makes a dataset of prompts and answers to imitate. `model`: shared. `prompts`, `completions` (borrowed): `n_rows` strings
// each, none NULL. `params` (borrowed): NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors:
// ARGUMENT, DATA (names the row, from 1), FORMAT (the template), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_from_completions(const struct llama_align_model *model,
                                                        const char *const *prompts,
                                                        const char *const *completions,
                                                        size_t n_rows,
                                                        const struct llama_align_dataset_params *params,
                                                        struct llama_align_dataset **out,
                                                        struct llama_align_error *err);

// Makes a dataset of prompts and answers with a verdict each. `labels` (borrowed): `n_rows` numbers, 1 for a good answer and
// 0 for a bad one. Everything else as in llama_align_dataset_from_completions(). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_from_labelled(const struct llama_align_model *model,
                                                     const char *const *prompts,
                                                     const char *const *completions,
                                                     const uint8_t *labels,
                                                     size_t n_rows,
                                                     const struct llama_align_dataset_params *params,
                                                     struct llama_align_dataset **out,
                                                     struct llama_align_error *err);

// Makes a dataset of prompts with a better and a worse answer each. `chosen`, `rejected` (borrowed): `n_rows` strings each,
// none NULL. Everything else as in llama_align_dataset_from_completions(). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_from_pairs(const struct llama_align_model *model,
                                                  const char *const *prompts,
                                                  const char *const *chosen,
                                                  const char *const *rejected,
                                                  size_t n_rows,
                                                  const struct llama_align_dataset_params *params,
                                                  struct llama_align_dataset **out,
                                                  struct llama_align_error *err);

// Makes a dataset that lacks rows of another: feedback is withdrawn with it. `dataset` (borrowed). `ids` (borrowed): `n_ids` ids of
// rows; a row's id is its number among the rows that were given, from 1, or its line in the file: the number that messages name, which
// stays with the row. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, DATA (no row has that id, or none is
// left), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_without(const struct llama_align_dataset *dataset,
                                               const uint64_t *ids,
                                               size_t n_ids,
                                               struct llama_align_dataset **out,
                                               struct llama_align_error *err);

// Frees a dataset; NULL is fine. Since 0.1.
LLAMA_ALIGN_API void llama_align_dataset_free(struct llama_align_dataset *dataset);

// Number of rows that were kept. `out` (borrowed): not NULL. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_count(const struct llama_align_dataset *dataset,
                                             uint64_t *out,
                                             struct llama_align_error *err);

// What became of the rows. `out` (borrowed): not NULL, struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_describe(const struct llama_align_dataset *dataset,
                                                struct llama_align_dataset_info *out,
                                                struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_adapter_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_params_init(struct llama_align_adapter_params *params,
                                                   uint32_t struct_size,
                                                   struct llama_align_error *err);

// Makes an adapter that changes nothing yet. `model`: shared. `targets` (borrowed): names of weights such as "attn_q,attn_v"
// or "q_proj,v_proj"; NULL for all linear weights of the blocks. `params` (borrowed): NULL for the defaults. `out` (owned): not
// NULL; NULL is written on failure. Errors: ARGUMENT, UNSUPPORTED, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_new(const struct llama_align_model *model,
                                           const char *targets,
                                           const struct llama_align_adapter_params *params,
                                           struct llama_align_adapter **out,
                                           struct llama_align_error *err);

// The same on some of the blocks, and with ranks and alphas of their own for some modules. `layers` (borrowed): numbers and ranges of
// blocks such as "0,10-29"; NULL for all. `ranks`, `alphas` (borrowed): such as "attn_q=8,ffn_down=4", where "blk.3.attn_q" means
// one block's; NULL for none. Everything else as in llama_align_adapter_new(). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_new_shaped(const struct llama_align_model *model,
                                                  const char *targets,
                                                  const char *layers,
                                                  const char *ranks,
                                                  const char *alphas,
                                                  const struct llama_align_adapter_params *params,
                                                  struct llama_align_adapter **out,
                                                  struct llama_align_error *err);

// Reads an adapter file, of this library or another's, in any type. `model`: shared. `path` (borrowed): not NULL. `out`
// (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH (made for another model),
// UNSUPPORTED, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_load(const struct llama_align_model *model,
                                            const char *path,
                                            struct llama_align_adapter **out,
                                            struct llama_align_error *err);

// Reads an adapter from the bytes of its file. `model`: shared. `buf` (borrowed): `buf_bytes` bytes. `out` (owned): not NULL; NULL
// is written on failure. Errors: ARGUMENT, FORMAT, MISMATCH (made for another model), UNSUPPORTED, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_from_memory(const struct llama_align_model *model,
                                                   const uint8_t *buf,
                                                   size_t buf_bytes,
                                                   struct llama_align_adapter **out,
                                                   struct llama_align_error *err);

// Writes a GGUF adapter that unmodified llama.cpp loads, without norms and biases that moved beside it. The file is complete under its
// name, or what was there before stays. Callback-safe. `path` (borrowed): not NULL. Errors: ARGUMENT, MISSING (the directory), IO,
// UNSUPPORTED (whole weights), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_save(const struct llama_align_adapter *adapter,
                                            const char *path,
                                            struct llama_align_error *err);

// Reads an adapter of PEFT: a directory with adapter_config.json and adapter_model.safetensors, for a base of architecture llama,
// qwen2, qwen3, gemma2 or gemma3. `model`: shared; attached with its file. `directory` (borrowed): not NULL. `out` (owned): not NULL;
// NULL is written on failure. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH, UNSUPPORTED (names what GGUF has no place for),
// POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_from_peft(const struct llama_align_model *model,
                                                 const char *directory,
                                                 struct llama_align_adapter **out,
                                                 struct llama_align_error *err);

// Writes both files of a PEFT adapter into a directory that is there, factors in F32; those of another one are replaced.
// Callback-safe. `directory` (borrowed): not NULL. `base_model` (borrowed): what the configuration calls the base, such as its
// name on the Hub; NULL for nothing. Errors: ARGUMENT, MISSING (the directory), IO, UNSUPPORTED (weights that PEFT's files have no
// name for, what is no factors, or a model that was attached without its file), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_to_peft(const struct llama_align_adapter *adapter,
                                               const char *directory,
                                               const char *base_model,
                                               struct llama_align_error *err);

// Writes the bytes that llama_align_adapter_save() would, into `buf` (borrowed) of `buf_bytes` bytes. `n_bytes` (borrowed): not
// NULL; gets the length. Ask for the length first, with `buf` NULL and `buf_bytes` 0; an adapter's first training changes it by a few
// bytes. Callback-safe. Errors: ARGUMENT (also a buffer that is too small), UNSUPPORTED (whole weights), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_to_memory(const struct llama_align_adapter *adapter,
                                                 uint8_t *buf,
                                                 size_t buf_bytes,
                                                 size_t *n_bytes,
                                                 struct llama_align_error *err);

// Frees an adapter; NULL is fine. A trainer that moves it goes on. Since 0.1.
LLAMA_ALIGN_API void llama_align_adapter_free(struct llama_align_adapter *adapter);

// Writes the changes of whole weights, of rows, or of norms and biases beside factors, in F32, as the program's runs leave them:
// `change.gguf`, which llama_align_fold_files() and `llama-align merge --change` put into a model. The file is complete under its name,
// or what was there before stays. Callback-safe; a trainer's next step waits until it is written. `path` (borrowed): not NULL. Errors:
// ARGUMENT (also where factors are all that moves), MISSING (the directory), IO, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_save_change(const struct llama_align_adapter *adapter,
                                                   const char *path,
                                                   struct llama_align_error *err);

// Takes over the changes of such a file, to go on with them; weights that it does not hold keep theirs. The reference of a trainer that
// is made afterwards is the model with them. `adapter`: no trainer moves it, and it moves all that the file changes. `path` (borrowed):
// not NULL. Errors: ARGUMENT, MISSING, IO, FORMAT (no file of changes), MISMATCH (another model's, or what the adapter does not move),
// NUMERIC, UNSUPPORTED (a model that was attached without its file), BUSY (a trainer moves the adapter), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_load_change(struct llama_align_adapter *adapter,
                                                   const char *path,
                                                   struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_limit_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_limit_params_init(struct llama_align_limit_params *params,
                                                 uint32_t struct_size,
                                                 struct llama_align_error *err);

// Makes the sum of adapters, each times its scale, exactly: their ranks are put beside each other. One adapter alone is scaled.
// `adapters` (borrowed): `n_adapters` handles, at least one, made with the same model handle; they stay as they are. `scales`
// (borrowed): as many; NULL for 1 each. `out` (owned): not NULL; NULL is written on failure. Any thread, callback-safe. Errors:
// ARGUMENT, MISMATCH (made with different model handles), NUMERIC (a product is no finite number), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_sum(const struct llama_align_adapter *const *adapters,
                                           const float *scales,
                                           size_t n_adapters,
                                           struct llama_align_adapter **out,
                                           struct llama_align_error *err);

// Makes the nearest adapter of a smaller rank. `adapter` (borrowed): not NULL; it stays as it is. `params` (borrowed): NULL for
// the defaults. `kept` (borrowed): NULL, or struct_size set. `out` (owned): not NULL; NULL is written on failure. Any thread,
// callback-safe. Errors: ARGUMENT, NUMERIC, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_truncate(const struct llama_align_adapter *adapter,
                                                const struct llama_align_limit_params *params,
                                                struct llama_align_kept *kept,
                                                struct llama_align_adapter **out,
                                                struct llama_align_error *err);

// Makes an adapter of what two models differ in, weight by weight, by a randomised decomposition. `model`: shared; the adapter is
// for it. `tuned_path` (borrowed): the model that the adapter leads to, of the same architecture, sizes and vocabulary; not NULL.
// `params` (borrowed): NULL for the defaults. `seed`: of the decomposition. `kept` (borrowed): NULL, or struct_size set. `out`
// (owned): not NULL; NULL is written on failure. Any thread. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH (also where nothing
// differs), UNSUPPORTED (also a host's model without its file), NUMERIC, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_extract(const struct llama_align_model *model,
                                               const char *tuned_path,
                                               const struct llama_align_limit_params *params,
                                               uint64_t seed,
                                               struct llama_align_kept *kept,
                                               struct llama_align_adapter **out,
                                               struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_neurons_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_neurons_params_init(struct llama_align_neurons_params *params,
                                                   uint32_t struct_size,
                                                   struct llama_align_error *err);

// Writes a mask of what an adapter changes most: after a short run of DPO these are the neurons of its preferences. By one ranking
// over all weights together, exactly the share that is asked for; of equal scores those of the earlier tensor and the lower index
// come first. Rows and columns are ranked by the norms of their changes, tensors by means. Callback-safe. `adapter` (borrowed).
// `params` (borrowed): NULL for the defaults. `path` (borrowed): not NULL; a file there is replaced. Errors: ARGUMENT, MISSING (the
// directory), IO, UNSUPPORTED (a model that was attached without its file, or norms and biases that moved), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_neurons(const struct llama_align_adapter *adapter,
                                               const struct llama_align_neurons_params *params,
                                               const char *path,
                                               struct llama_align_error *err);

// Holds all of an adapter that a mask does not leave free: whatever trains it from now on, what is masked out keeps its bits.
// Factors that have changed nothing yet are made to suit it. A later mask takes the place of this one. `adapter`: no trainer moves it.
// `path` (borrowed): a mask of rows, columns or tensors, for whole weights also of weights, of llama_align_adapter_neurons() or the
// program; not NULL. Errors: ARGUMENT (also a mask that leaves nothing free, and an adapter of rows, or with norms or biases), MISSING, IO, FORMAT, MISMATCH (another model's, or factors change what is masked out), UNSUPPORTED (a mask
// of single weights for factors), BUSY (a trainer moves the adapter), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_set_mask(struct llama_align_adapter *adapter,
                                                const char *path,
                                                struct llama_align_error *err);

// Makes an adapter that changes the rows of a mask, freely, and nothing else: a number for every weight of these rows, and none for
// others. It changes nothing yet. It trains as any other (its default learning rate is 5e-6, that of whole weights), and leaves as an
// exact LoRA whose rank is the number of rows. `model`: shared. `targets` (borrowed): as for llama_align_adapter_new(). `path`
// (borrowed): a mask of rows or tensors; not NULL. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT (also a mask
// without rows of these weights), MISSING, IO, FORMAT, MISMATCH (another model's), UNSUPPORTED (a mask of weights or columns), POISONED.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_from_rows(const struct llama_align_model *model,
                                                 const char *targets,
                                                 const char *path,
                                                 struct llama_align_adapter **out,
                                                 struct llama_align_error *err);

// Number of an answer's tokens that have a loss, the end of the answer included. `row`: below llama_align_dataset_count(). `answer`:
// 0, or 1 for the rejected one of a pair. `out` (borrowed): not NULL. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_answer_tokens(const struct llama_align_dataset *dataset,
                                                     uint64_t row,
                                                     uint32_t answer,
                                                     uint64_t *out,
                                                     struct llama_align_error *err);

// Weighs the tokens of an answer in the loss of trainers that are made afterwards; tokens that nobody weighs count 1. Rows that
// llama_align_dataset_without() leaves keep theirs. `dataset`. `row`, `answer`: as for llama_align_dataset_answer_tokens(). `weights`
// (borrowed): not NULL; `n_weights` numbers, as many as the answer has tokens with a loss, none negative or not finite. Errors:
// ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_set_weights(struct llama_align_dataset *dataset,
                                                   uint64_t row,
                                                   uint32_t answer,
                                                   const float *weights,
                                                   size_t n_weights,
                                                   struct llama_align_error *err);

// The same for all answers, from a file of `llama-align token-weights`: JSON lines with the line of a row and a number for each token.
// `path` (borrowed): not NULL. Errors: ARGUMENT, MISSING, IO, DATA (names file and line), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_load_weights(struct llama_align_dataset *dataset,
                                                    const char *path,
                                                    struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_weigh_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_weigh_params_init(struct llama_align_weigh_params *params,
                                                 uint32_t struct_size,
                                                 struct llama_align_error *err);

// Weighs the tokens of all rejected answers by what an alignment has made of them, as `llama-align token-weights` does: 1 where the
// log-ratio, ln p with the adapter less that without, is lowest, and 0 elsewhere; tokens of chosen answers count 1. Earlier weights are
// replaced; they hold for trainers that are made afterwards. `dataset`: pairs. `adapter` (borrowed): one after a short run of DPO, made
// with the same model handle, and measured as it is when the call begins. `params` (borrowed): NULL for the defaults. `n_chosen`
// (borrowed): NULL, or gets the number of tokens with a weight of 1 in rejected answers. Checks the model first, unless a check of that
// precision has passed before. Errors: ARGUMENT, MISMATCH (rows that are no pairs, or another model handle), CHECK, UNSUPPORTED, MEMORY,
// POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_dataset_weigh(struct llama_align_dataset *dataset,
                                             const struct llama_align_adapter *adapter,
                                             const struct llama_align_weigh_params *params,
                                             uint64_t *n_chosen,
                                             struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_trainer_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_params_init(struct llama_align_trainer_params *params,
                                                   uint32_t struct_size,
                                                   struct llama_align_error *err);

// Prepares a run; checks the model first, unless a check of that precision has passed before. `adapter`, `dataset`: shared,
// made with the same model handle; the trainer moves the adapter, which no other trainer may do until this one is freed.
// `params` (borrowed): NULL for the defaults. `out` (owned): not NULL; NULL is written on failure. Errors: ARGUMENT, MISMATCH,
// BUSY (another trainer moves the adapter), CHECK, UNSUPPORTED, MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_new(struct llama_align_adapter *adapter,
                                           const struct llama_align_dataset *dataset,
                                           const struct llama_align_trainer_params *params,
                                           struct llama_align_trainer **out,
                                           struct llama_align_error *err);

// Makes a trainer that stands where a checkpoint does, one of llama_align_trainer_save() or of the program's runs: its further
// steps have the bits of a run that never stopped. `adapter`: moved, as by llama_align_trainer_new(); it must have the
// checkpoint's weights, ranks and alpha, and gets its factors. `dataset`: shared; the run's rows. `params` (borrowed): NULL for
// the defaults; the run's. `path` (borrowed): not NULL. `flags`: 0 or LLAMA_ALIGN_RESUME_INEXACT. `out` (owned): not NULL; NULL is
// written on failure. Errors: as llama_align_trainer_new(), MISSING, IO, FORMAT (no checkpoint, or a damaged one), MISMATCH
// (another run's). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_resume(struct llama_align_adapter *adapter,
                                              const struct llama_align_dataset *dataset,
                                              const struct llama_align_trainer_params *params,
                                              const char *path,
                                              uint32_t flags,
                                              struct llama_align_trainer **out,
                                              struct llama_align_error *err);

// Writes a checkpoint: all that the steps to come depend on, with fingerprints of model and rows (a host's model whose file is not
// known has none). The file is complete under its name, or what was there before stays.
// `path` (borrowed): not NULL. Errors: ARGUMENT (also where no step was made), MISSING (the directory), IO, BUSY (a call trains,
// or this is its callback), POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_save(struct llama_align_trainer *trainer,
                                            const char *path,
                                            struct llama_align_error *err);

// Makes one optimizer step; the first one of DPO and KTO measures the reference before. `out` (borrowed): NULL, or
// struct_size set; gets what llama_align_trainer_report() would. Returns MORE if steps are left, OK if the run is complete (a
// complete run does nothing), CANCELLED. While the trainer is paused it returns MORE without a step. Errors: ARGUMENT, NUMERIC
// (the step was not applied), MEMORY, BUSY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_step(struct llama_align_trainer *trainer,
                                            struct llama_align_progress *out,
                                            struct llama_align_error *err);

// Makes all steps that are left. `callback`: NULL for none. `user_data`: passed to it as it is. Returns OK if the run is
// complete, CANCELLED if it was stopped; then a later call goes on with the next step. While the trainer is paused it waits.
// Errors: as llama_align_trainer_step(). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_run(struct llama_align_trainer *trainer,
                                           llama_align_progress_fn callback,
                                           void *user_data,
                                           struct llama_align_error *err);

// Makes steps until `max_ms` have passed, at least one, and ends after the step in which they pass: a host trains between two
// requests with it. `callback` and `user_data`: as in llama_align_trainer_run(). The reference of DPO and KTO belongs to the
// first step. While the trainer is paused it waits, until `max_ms` have passed at most, if need be without a step. Returns MORE
// if steps are left; otherwise as llama_align_trainer_run(). Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_run_for(struct llama_align_trainer *trainer,
                                               uint64_t max_ms,
                                               llama_align_progress_fn callback,
                                               void *user_data,
                                               struct llama_align_error *err);

// Pauses or goes on: while a trainer is paused, a call that trains makes no step, and llama_align_trainer_run() waits, after its step
// or its batch of the reference, without using the CPU. What it trains is the same as without a pause, bit for bit. A call whose
// time ends in the reference measures that anew the next time. _cancel and _free end the waiting. `paused`: 1 or 0. Any thread,
// callback-safe; a callback that pauses its own llama_align_trainer_run() leaves it to another thread to go on. Errors: ARGUMENT,
// POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_set_paused(struct llama_align_trainer *trainer,
                                                  uint32_t paused,
                                                  struct llama_align_error *err);

// Stops the call that trains, after its step or its batch of the reference; if none does, the next one returns CANCELLED
// before its first step. Any thread, callback-safe. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_cancel(struct llama_align_trainer *trainer,
                                              struct llama_align_error *err);

// What the last step reported. Any thread, also while another one trains; callback-safe. `out` (borrowed): not NULL,
// struct_size set. Errors: ARGUMENT, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_trainer_report(const struct llama_align_trainer *trainer,
                                              struct llama_align_progress *out,
                                              struct llama_align_error *err);

// Frees a trainer; NULL is fine. A call that trains ends after its step. The adapter keeps what was trained. Since 0.1.
LLAMA_ALIGN_API
void llama_align_trainer_free(struct llama_align_trainer *trainer);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_evaluate_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_evaluate_params_init(struct llama_align_evaluate_params *params,
                                                    uint32_t struct_size,
                                                    struct llama_align_error *err);

// Measures a dataset under its model, and under an adapter. Checks the model first, unless a check of that precision has
// passed before. `dataset` (borrowed): not NULL. `adapter` (borrowed): NULL for the model alone; made with the same model handle
// as the dataset, and measured as it is when the call begins. `params` (borrowed): NULL for the defaults. `out` (borrowed): not
// NULL, struct_size set. Any thread, callback-safe. Errors: ARGUMENT, MISMATCH, CHECK, UNSUPPORTED, MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_evaluate(const struct llama_align_dataset *dataset,
                                        const struct llama_align_adapter *adapter,
                                        const struct llama_align_evaluate_params *params,
                                        struct llama_align_evaluation *out,
                                        struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_task_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_task_params_init(struct llama_align_task_params *params,
                                                uint32_t struct_size,
                                                struct llama_align_error *err);

// Runs one task. Tasks that score check the model first, unless a check of that precision has passed before. `model`
// (borrowed): not NULL. `adapter` (borrowed): NULL for the model alone; made with the same model handle, and measured as it
// is when the call begins; a task that generates writes it to a temporary file, which llama.cpp loads. `task`:
// LLAMA_ALIGN_TASK_*. `path` (borrowed): the task's items, UTF-8. `params` (borrowed): NULL for the defaults. `out`
// (borrowed): not NULL, struct_size set. Any thread, callback-safe. Errors: ARGUMENT, MISSING, IO, DATA, MISMATCH, CHECK,
// UNSUPPORTED (also a task that generates with norms, biases or whole weights that moved: llama.cpp loads no such adapter), MEMORY,
// POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_task_run(const struct llama_align_model *model,
                                        const struct llama_align_adapter *adapter,
                                        uint32_t task,
                                        const char *path,
                                        const struct llama_align_task_params *params,
                                        struct llama_align_task_report *out,
                                        struct llama_align_error *err);

// Writes report.html into a run directory, as `llama-align train` made it, from what else lies there. `directory` (borrowed):
// not NULL. Any thread, callback-safe. Errors: ARGUMENT, MISSING, IO, FORMAT, UNSUPPORTED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_report_write(const char *directory,
                                            struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_merge_params). Errors: ARGUMENT.
// Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_merge_params_init(struct llama_align_merge_params *params,
                                                 uint32_t struct_size,
                                                 struct llama_align_error *err);

// Merges model files as a recipe says, tensor by tensor in bounded memory. The output is complete under its name, or what was there
// before stays; inputs are never written to. `recipe` (borrowed): a document in YAML in mergekit's words (merge_method, models,
// base_model, parameters, slices), whose models are paths of GGUF files; not NULL. `seed`: of methods that draw. `out_type`
// (borrowed): "keep", "auto", or a type such as "Q8_0" for every matrix; NULL for the recipe's, or "keep". `params` (borrowed): NULL
// for the defaults. `output_path` (borrowed): not NULL. `report_path` (borrowed): a file for all that is known of the result, in
// JSON, or NULL; it replaces what is there. `report` (borrowed): NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISSING, IO,
// FORMAT, MISMATCH, UNSUPPORTED, NUMERIC, OUTPUT. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_merge_files(const char *recipe,
                                           uint64_t seed,
                                           const char *out_type,
                                           const struct llama_align_merge_params *params,
                                           const char *output_path,
                                           const char *report_path,
                                           struct llama_align_merge_report *report,
                                           struct llama_align_error *err);

// Folds adapter files, and a file of changes (llama_align_adapter_save_change()), into a model file, tensor by tensor in bounded memory. The output is complete under its name, or what was
// there before stays; inputs are never written to. `model_path` (borrowed): not NULL. `adapter_paths` (borrowed): `n_adapters`
// files, at least one, one of changes at most. `scales` (borrowed): as many; NULL for 1 each; 1 for changes. `out_type` (borrowed): "keep", "auto", or a type such as
// "Q8_0" for every matrix that changes; NULL is "keep". `params` (borrowed): NULL for the defaults. `output_path` (borrowed): not
// NULL. `report_path` (borrowed): a file for all that is known of the result, in JSON, or NULL; it replaces what is there. `report`
// (borrowed): NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH, UNSUPPORTED, NUMERIC,
// OUTPUT. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_fold_files(const char *model_path,
                                          const char *const *adapter_paths,
                                          const float *scales,
                                          size_t n_adapters,
                                          const char *out_type,
                                          const struct llama_align_merge_params *params,
                                          const char *output_path,
                                          const char *report_path,
                                          struct llama_align_merge_report *report,
                                          struct llama_align_error *err);

// Writes the defaults. `params` (borrowed): not NULL. `struct_size`: sizeof(llama_align_hma_params). Errors: ARGUMENT. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_hma_params_init(struct llama_align_hma_params *params,
                                               uint32_t struct_size,
                                               struct llama_align_error *err);

// Finds, between a model before and after alignment, a weight for each group of blocks (heterogeneous model averaging), so that
// the blend still finds the aligned model's responses likely. No model is written. `responses` (borrowed): the aligned model's
// answers; its model is the one before alignment; of pairs the chosen answer counts. `adapter` (borrowed): what aligns the model,
// made with the same model handle, or NULL. `after` (borrowed): the aligned model, of the same architecture, sizes and vocabulary,
// or NULL; exactly one of both is given. `params` (borrowed): NULL for the defaults. `ratios` (borrowed): room for a weight of the
// model before for every block, 1 minus which is that of the model after; `n_ratios` is the number of blocks. `report` (borrowed):
// NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISMATCH, CHECK, UNSUPPORTED (also a host's model without its file),
// NUMERIC, MEMORY, POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_hma(const struct llama_align_dataset *responses,
                                   const struct llama_align_adapter *adapter,
                                   const struct llama_align_model *after,
                                   const struct llama_align_hma_params *params,
                                   double *ratios,
                                   size_t n_ratios,
                                   struct llama_align_hma_report *report,
                                   struct llama_align_error *err);

// Makes an adapter whose part in every block is multiplied by a number, folded into its factors: 1 minus a ratio of
// llama_align_hma(). `adapter` (borrowed): not NULL; it stays as it is. `scales` (borrowed): finite, one for each of the model's
// `n_scales` blocks. `out` (owned): not NULL; NULL is written on failure. Any thread, callback-safe. Errors: ARGUMENT, NUMERIC,
// POISONED. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_adapter_scale_blocks(const struct llama_align_adapter *adapter,
                                                    const double *scales,
                                                    size_t n_scales,
                                                    struct llama_align_adapter **out,
                                                    struct llama_align_error *err);

// Writes the weighted mean of a model before and after alignment, tensor by tensor in bounded memory. Keys and types are those of
// the model after. The output is complete under its name, or what was there before stays; inputs are never written to.
// `before_path`, `after_path` (borrowed): not NULL. `ratios` (borrowed): weight of the model before in every block, 0 to 1;
// `n_ratios`: 1, for the same everywhere, or the number of blocks; the head has their mean. `others`: LLAMA_ALIGN_OTHERS_*.
// `out_type` (borrowed): as for llama_align_fold_files(). `params` (borrowed): NULL for the defaults; without VERIFY. `output_path`
// (borrowed): not NULL. `report_path` (borrowed): a file for all that is known of the result, in JSON, or NULL; it replaces what is
// there. `report` (borrowed): NULL, or struct_size set. Any thread. Errors: ARGUMENT, MISSING, IO, FORMAT, MISMATCH, UNSUPPORTED,
// NUMERIC, OUTPUT. Since 0.1.
LLAMA_ALIGN_API
llama_align_status llama_align_average_files(const char *before_path,
                                             const char *after_path,
                                             const double *ratios,
                                             size_t n_ratios,
                                             uint32_t others,
                                             const char *out_type,
                                             const struct llama_align_merge_params *params,
                                             const char *output_path,
                                             const char *report_path,
                                             struct llama_align_merge_report *report,
                                             struct llama_align_error *err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LLAMA_ALIGN_H */
