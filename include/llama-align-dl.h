/*
 * The functions of llama-align.h for programs that open the library at run time (dlopen, LoadLibrary):
 *
 *     llama_align_api api;
 *     const char * missing = llama_align_api_load(&api, dlopen("libllama_align.so.0", RTLD_NOW | RTLD_LOCAL));
 *
 * Load it once and never unload it. Generated from src/capi with llama-align.h; do not edit. MIT OR Apache-2.0.
 */
#ifndef LLAMA_ALIGN_DL_H
#define LLAMA_ALIGN_DL_H

#include "llama-align.h"

#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#define LLAMA_ALIGN_API_SYMBOL(library, name) ((void *)GetProcAddress((HMODULE)(library), name))
#else
#include <dlfcn.h>
#define LLAMA_ALIGN_API_SYMBOL(library, name) dlsym(library, name)
#endif

/* Each function under its name without llama_align_. */
typedef struct llama_align_api {
    const char * (*version)(void);
    uint32_t (*abi)(void);
    const char * (*status_name)(llama_align_status status);
    llama_align_status (*runtime_built_in)(struct llama_align_runtime **out, struct llama_align_error *err);
    llama_align_status (*runtime_from_host)(const struct llama_align_host *host, struct llama_align_runtime **out, struct llama_align_error *err);
    llama_align_status (*runtime_from_process)(struct llama_align_runtime **out, struct llama_align_error *err);
    llama_align_status (*runtime_from_library)(const char *path, struct llama_align_runtime **out, struct llama_align_error *err);
    void (*runtime_free)(struct llama_align_runtime *runtime);
    llama_align_status (*runtime_describe)(const struct llama_align_runtime *runtime, struct llama_align_runtime_info *out, struct llama_align_error *err);
    llama_align_status (*runtime_set_log)(const struct llama_align_runtime *runtime, llama_align_log_fn fn_, void *user_data, struct llama_align_error *err);
    llama_align_status (*runtime_device_count)(const struct llama_align_runtime *runtime, uint64_t *out, struct llama_align_error *err);
    llama_align_status (*runtime_device)(const struct llama_align_runtime *runtime, uint64_t index, struct llama_align_device *out, struct llama_align_error *err);
    llama_align_status (*model_params_init)(struct llama_align_model_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*model_open_on)(const struct llama_align_runtime *runtime, const char *path, const char *devices, const struct llama_align_model_params *params, struct llama_align_model **out, struct llama_align_error *err);
    llama_align_status (*model_open)(const char *path, struct llama_align_model **out, struct llama_align_error *err);
    llama_align_status (*model_open_with)(const struct llama_align_runtime *runtime, const char *path, struct llama_align_model **out, struct llama_align_error *err);
    llama_align_status (*model_attach)(const struct llama_align_runtime *runtime, void *llama_model, const char *path, struct llama_align_model **out, struct llama_align_error *err);
    llama_align_status (*model_placement)(const struct llama_align_model *model, struct llama_align_placement *out, struct llama_align_error *err);
    void (*model_free)(struct llama_align_model *model);
    llama_align_status (*model_describe)(const struct llama_align_model *model, struct llama_align_model_info *out, struct llama_align_error *err);
    llama_align_status (*check_params_init)(struct llama_align_check_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*model_check)(const struct llama_align_model *model, const struct llama_align_check_params *params, struct llama_align_check_report *out, struct llama_align_error *err);
    llama_align_status (*dataset_params_init)(struct llama_align_dataset_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*dataset_open)(const struct llama_align_model *model, const char *path, const struct llama_align_dataset_params *params, struct llama_align_dataset **out, struct llama_align_error *err);
    llama_align_status (*dataset_open_columns)(const struct llama_align_model *model, const char *path, const char *columns, const struct llama_align_dataset_params *params, struct llama_align_dataset **out, struct llama_align_error *err);
    llama_align_status (*dataset_from_json)(const struct llama_align_model *model, const char *const *rows, size_t n_rows, const struct llama_align_dataset_params *params, struct llama_align_dataset **out, struct llama_align_error *err);
    llama_align_status (*dataset_from_completions)(const struct llama_align_model *model, const char *const *prompts, const char *const *completions, size_t n_rows, const struct llama_align_dataset_params *params, struct llama_align_dataset **out, struct llama_align_error *err);
    llama_align_status (*dataset_from_labelled)(const struct llama_align_model *model, const char *const *prompts, const char *const *completions, const uint8_t *labels, size_t n_rows, const struct llama_align_dataset_params *params, struct llama_align_dataset **out, struct llama_align_error *err);
    llama_align_status (*dataset_from_pairs)(const struct llama_align_model *model, const char *const *prompts, const char *const *chosen, const char *const *rejected, size_t n_rows, const struct llama_align_dataset_params *params, struct llama_align_dataset **out, struct llama_align_error *err);
    llama_align_status (*dataset_without)(const struct llama_align_dataset *dataset, const uint64_t *ids, size_t n_ids, struct llama_align_dataset **out, struct llama_align_error *err);
    void (*dataset_free)(struct llama_align_dataset *dataset);
    llama_align_status (*dataset_count)(const struct llama_align_dataset *dataset, uint64_t *out, struct llama_align_error *err);
    llama_align_status (*dataset_describe)(const struct llama_align_dataset *dataset, struct llama_align_dataset_info *out, struct llama_align_error *err);
    llama_align_status (*adapter_params_init)(struct llama_align_adapter_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*adapter_new)(const struct llama_align_model *model, const char *targets, const struct llama_align_adapter_params *params, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_new_shaped)(const struct llama_align_model *model, const char *targets, const char *layers, const char *ranks, const char *alphas, const struct llama_align_adapter_params *params, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_load)(const struct llama_align_model *model, const char *path, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_from_memory)(const struct llama_align_model *model, const uint8_t *buf, size_t buf_bytes, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_save)(const struct llama_align_adapter *adapter, const char *path, struct llama_align_error *err);
    llama_align_status (*adapter_from_peft)(const struct llama_align_model *model, const char *directory, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_to_peft)(const struct llama_align_adapter *adapter, const char *directory, const char *base_model, struct llama_align_error *err);
    llama_align_status (*adapter_to_memory)(const struct llama_align_adapter *adapter, uint8_t *buf, size_t buf_bytes, size_t *n_bytes, struct llama_align_error *err);
    void (*adapter_free)(struct llama_align_adapter *adapter);
    llama_align_status (*adapter_save_change)(const struct llama_align_adapter *adapter, const char *path, struct llama_align_error *err);
    llama_align_status (*adapter_load_change)(struct llama_align_adapter *adapter, const char *path, struct llama_align_error *err);
    llama_align_status (*limit_params_init)(struct llama_align_limit_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*adapter_sum)(const struct llama_align_adapter *const *adapters, const float *scales, size_t n_adapters, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_truncate)(const struct llama_align_adapter *adapter, const struct llama_align_limit_params *params, struct llama_align_kept *kept, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*adapter_extract)(const struct llama_align_model *model, const char *tuned_path, const struct llama_align_limit_params *params, uint64_t seed, struct llama_align_kept *kept, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*neurons_params_init)(struct llama_align_neurons_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*adapter_neurons)(const struct llama_align_adapter *adapter, const struct llama_align_neurons_params *params, const char *path, struct llama_align_error *err);
    llama_align_status (*adapter_set_mask)(struct llama_align_adapter *adapter, const char *path, struct llama_align_error *err);
    llama_align_status (*adapter_from_rows)(const struct llama_align_model *model, const char *targets, const char *path, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*dataset_answer_tokens)(const struct llama_align_dataset *dataset, uint64_t row, uint32_t answer, uint64_t *out, struct llama_align_error *err);
    llama_align_status (*dataset_set_weights)(struct llama_align_dataset *dataset, uint64_t row, uint32_t answer, const float *weights, size_t n_weights, struct llama_align_error *err);
    llama_align_status (*dataset_load_weights)(struct llama_align_dataset *dataset, const char *path, struct llama_align_error *err);
    llama_align_status (*weigh_params_init)(struct llama_align_weigh_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*dataset_weigh)(struct llama_align_dataset *dataset, const struct llama_align_adapter *adapter, const struct llama_align_weigh_params *params, uint64_t *n_chosen, struct llama_align_error *err);
    llama_align_status (*trainer_params_init)(struct llama_align_trainer_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*trainer_new)(struct llama_align_adapter *adapter, const struct llama_align_dataset *dataset, const struct llama_align_trainer_params *params, struct llama_align_trainer **out, struct llama_align_error *err);
    llama_align_status (*trainer_resume)(struct llama_align_adapter *adapter, const struct llama_align_dataset *dataset, const struct llama_align_trainer_params *params, const char *path, uint32_t flags, struct llama_align_trainer **out, struct llama_align_error *err);
    llama_align_status (*trainer_save)(struct llama_align_trainer *trainer, const char *path, struct llama_align_error *err);
    llama_align_status (*trainer_step)(struct llama_align_trainer *trainer, struct llama_align_progress *out, struct llama_align_error *err);
    llama_align_status (*trainer_run)(struct llama_align_trainer *trainer, llama_align_progress_fn callback, void *user_data, struct llama_align_error *err);
    llama_align_status (*trainer_run_for)(struct llama_align_trainer *trainer, uint64_t max_ms, llama_align_progress_fn callback, void *user_data, struct llama_align_error *err);
    llama_align_status (*trainer_set_paused)(struct llama_align_trainer *trainer, uint32_t paused, struct llama_align_error *err);
    llama_align_status (*trainer_cancel)(struct llama_align_trainer *trainer, struct llama_align_error *err);
    llama_align_status (*trainer_report)(const struct llama_align_trainer *trainer, struct llama_align_progress *out, struct llama_align_error *err);
    void (*trainer_free)(struct llama_align_trainer *trainer);
    llama_align_status (*evaluate_params_init)(struct llama_align_evaluate_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*evaluate)(const struct llama_align_dataset *dataset, const struct llama_align_adapter *adapter, const struct llama_align_evaluate_params *params, struct llama_align_evaluation *out, struct llama_align_error *err);
    llama_align_status (*task_params_init)(struct llama_align_task_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*task_run)(const struct llama_align_model *model, const struct llama_align_adapter *adapter, uint32_t task, const char *path, const struct llama_align_task_params *params, struct llama_align_task_report *out, struct llama_align_error *err);
    llama_align_status (*report_write)(const char *directory, struct llama_align_error *err);
    llama_align_status (*merge_params_init)(struct llama_align_merge_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*merge_files)(const char *recipe, uint64_t seed, const char *out_type, const struct llama_align_merge_params *params, const char *output_path, const char *report_path, struct llama_align_merge_report *report, struct llama_align_error *err);
    llama_align_status (*fold_files)(const char *model_path, const char *const *adapter_paths, const float *scales, size_t n_adapters, const char *out_type, const struct llama_align_merge_params *params, const char *output_path, const char *report_path, struct llama_align_merge_report *report, struct llama_align_error *err);
    llama_align_status (*hma_params_init)(struct llama_align_hma_params *params, uint32_t struct_size, struct llama_align_error *err);
    llama_align_status (*hma)(const struct llama_align_dataset *responses, const struct llama_align_adapter *adapter, const struct llama_align_model *after, const struct llama_align_hma_params *params, double *ratios, size_t n_ratios, struct llama_align_hma_report *report, struct llama_align_error *err);
    llama_align_status (*adapter_scale_blocks)(const struct llama_align_adapter *adapter, const double *scales, size_t n_scales, struct llama_align_adapter **out, struct llama_align_error *err);
    llama_align_status (*average_files)(const char *before_path, const char *after_path, const double *ratios, size_t n_ratios, uint32_t others, const char *out_type, const struct llama_align_merge_params *params, const char *output_path, const char *report_path, struct llama_align_merge_report *report, struct llama_align_error *err);
} llama_align_api;

/* Fills in the table. `library`: what dlopen() or LoadLibrary() gave. NULL, or the name of the first function that it lacks. */
static const char * llama_align_api_load(llama_align_api * api, void * library) {
    void * symbol;
/* An object's pointer may not be cast to a function's. */
#define LLAMA_ALIGN_API_FIND(name)                                       \
    symbol = LLAMA_ALIGN_API_SYMBOL(library, "llama_align_" #name);      \
    if (symbol == NULL) {                                                \
        return "llama_align_" #name;                                     \
    }                                                                    \
    memcpy(&api->name, &symbol, sizeof symbol);
    LLAMA_ALIGN_API_FIND(version)
    LLAMA_ALIGN_API_FIND(abi)
    LLAMA_ALIGN_API_FIND(status_name)
    LLAMA_ALIGN_API_FIND(runtime_built_in)
    LLAMA_ALIGN_API_FIND(runtime_from_host)
    LLAMA_ALIGN_API_FIND(runtime_from_process)
    LLAMA_ALIGN_API_FIND(runtime_from_library)
    LLAMA_ALIGN_API_FIND(runtime_free)
    LLAMA_ALIGN_API_FIND(runtime_describe)
    LLAMA_ALIGN_API_FIND(runtime_set_log)
    LLAMA_ALIGN_API_FIND(runtime_device_count)
    LLAMA_ALIGN_API_FIND(runtime_device)
    LLAMA_ALIGN_API_FIND(model_params_init)
    LLAMA_ALIGN_API_FIND(model_open_on)
    LLAMA_ALIGN_API_FIND(model_open)
    LLAMA_ALIGN_API_FIND(model_open_with)
    LLAMA_ALIGN_API_FIND(model_attach)
    LLAMA_ALIGN_API_FIND(model_placement)
    LLAMA_ALIGN_API_FIND(model_free)
    LLAMA_ALIGN_API_FIND(model_describe)
    LLAMA_ALIGN_API_FIND(check_params_init)
    LLAMA_ALIGN_API_FIND(model_check)
    LLAMA_ALIGN_API_FIND(dataset_params_init)
    LLAMA_ALIGN_API_FIND(dataset_open)
    LLAMA_ALIGN_API_FIND(dataset_open_columns)
    LLAMA_ALIGN_API_FIND(dataset_from_json)
    LLAMA_ALIGN_API_FIND(dataset_from_completions)
    LLAMA_ALIGN_API_FIND(dataset_from_labelled)
    LLAMA_ALIGN_API_FIND(dataset_from_pairs)
    LLAMA_ALIGN_API_FIND(dataset_without)
    LLAMA_ALIGN_API_FIND(dataset_free)
    LLAMA_ALIGN_API_FIND(dataset_count)
    LLAMA_ALIGN_API_FIND(dataset_describe)
    LLAMA_ALIGN_API_FIND(adapter_params_init)
    LLAMA_ALIGN_API_FIND(adapter_new)
    LLAMA_ALIGN_API_FIND(adapter_new_shaped)
    LLAMA_ALIGN_API_FIND(adapter_load)
    LLAMA_ALIGN_API_FIND(adapter_from_memory)
    LLAMA_ALIGN_API_FIND(adapter_save)
    LLAMA_ALIGN_API_FIND(adapter_from_peft)
    LLAMA_ALIGN_API_FIND(adapter_to_peft)
    LLAMA_ALIGN_API_FIND(adapter_to_memory)
    LLAMA_ALIGN_API_FIND(adapter_free)
    LLAMA_ALIGN_API_FIND(adapter_save_change)
    LLAMA_ALIGN_API_FIND(adapter_load_change)
    LLAMA_ALIGN_API_FIND(limit_params_init)
    LLAMA_ALIGN_API_FIND(adapter_sum)
    LLAMA_ALIGN_API_FIND(adapter_truncate)
    LLAMA_ALIGN_API_FIND(adapter_extract)
    LLAMA_ALIGN_API_FIND(neurons_params_init)
    LLAMA_ALIGN_API_FIND(adapter_neurons)
    LLAMA_ALIGN_API_FIND(adapter_set_mask)
    LLAMA_ALIGN_API_FIND(adapter_from_rows)
    LLAMA_ALIGN_API_FIND(dataset_answer_tokens)
    LLAMA_ALIGN_API_FIND(dataset_set_weights)
    LLAMA_ALIGN_API_FIND(dataset_load_weights)
    LLAMA_ALIGN_API_FIND(weigh_params_init)
    LLAMA_ALIGN_API_FIND(dataset_weigh)
    LLAMA_ALIGN_API_FIND(trainer_params_init)
    LLAMA_ALIGN_API_FIND(trainer_new)
    LLAMA_ALIGN_API_FIND(trainer_resume)
    LLAMA_ALIGN_API_FIND(trainer_save)
    LLAMA_ALIGN_API_FIND(trainer_step)
    LLAMA_ALIGN_API_FIND(trainer_run)
    LLAMA_ALIGN_API_FIND(trainer_run_for)
    LLAMA_ALIGN_API_FIND(trainer_set_paused)
    LLAMA_ALIGN_API_FIND(trainer_cancel)
    LLAMA_ALIGN_API_FIND(trainer_report)
    LLAMA_ALIGN_API_FIND(trainer_free)
    LLAMA_ALIGN_API_FIND(evaluate_params_init)
    LLAMA_ALIGN_API_FIND(evaluate)
    LLAMA_ALIGN_API_FIND(task_params_init)
    LLAMA_ALIGN_API_FIND(task_run)
    LLAMA_ALIGN_API_FIND(report_write)
    LLAMA_ALIGN_API_FIND(merge_params_init)
    LLAMA_ALIGN_API_FIND(merge_files)
    LLAMA_ALIGN_API_FIND(fold_files)
    LLAMA_ALIGN_API_FIND(hma_params_init)
    LLAMA_ALIGN_API_FIND(hma)
    LLAMA_ALIGN_API_FIND(adapter_scale_blocks)
    LLAMA_ALIGN_API_FIND(average_files)
#undef LLAMA_ALIGN_API_FIND
    return NULL;
}

#endif
