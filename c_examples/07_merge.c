/* Adapters added, shortened, folded into a model, and that merged with the model: 07_merge MODEL.gguf ONE.gguf TWO.gguf SUM.gguf
 * FOLDED.gguf HALF.gguf */
#include "llama-align.h"

#include <stdio.h>
#include <string.h>

/* 1.0 * one + 0.5 * two, at most rank 16, as a file that llama.cpp loads. */
static llama_align_status add(const char * model_path, const char * const * paths, const char * sum_path,
                              llama_align_error * err) {
    const float scales[] = {1.0f, 0.5f};
    llama_align_model * model = NULL;
    llama_align_adapter * parts[2] = {NULL, NULL};
    llama_align_adapter * sum = NULL;
    llama_align_adapter * shorter = NULL;
    llama_align_kept kept = {sizeof kept, 0, 0, 0, 0, 0};
    llama_align_status status = llama_align_model_open(model_path, &model, err);

    if (status >= 0) status = llama_align_adapter_load(model, paths[0], &parts[0], err);
    if (status >= 0) status = llama_align_adapter_load(model, paths[1], &parts[1], err);
    if (status >= 0) {
        const llama_align_adapter * const both[] = {parts[0], parts[1]};
        status = llama_align_adapter_sum(both, scales, 2, &sum, err);
    }
    if (status >= 0) status = llama_align_adapter_truncate(sum, NULL, &kept, &shorter, err);
    if (status >= 0) status = llama_align_adapter_save(shorter, sum_path, err);
    if (status >= 0) printf("rank %u keeps %.1f%% of the sum\n", (unsigned) kept.rank, 100 * kept.energy);

    llama_align_model_free(model);
    llama_align_adapter_free(parts[0]);
    llama_align_adapter_free(parts[1]);
    llama_align_adapter_free(sum);
    llama_align_adapter_free(shorter);
    return status;
}

/* One model of the model and the adapter, for programs that load no adapters. */
static llama_align_status fold(const char * model_path, const char * adapter_path, const char * output_path,
                               llama_align_error * err) {
    llama_align_merge_params params;
    llama_align_merge_report report = {sizeof report, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    llama_align_status status = llama_align_merge_params_init(&params, sizeof params, err);

    params.flags = LLAMA_ALIGN_MERGE_OVERWRITE;
    params.min_gain = 0.9;
    if (status >= 0) {
        status = llama_align_fold_files(model_path, &adapter_path, NULL, 1, "auto", &params, output_path, NULL, &report,
                                        err);
    }
    if (status >= 0) {
        printf("%llu tensors, %llu copied, %llu raised: %.1f%% of the change arrived\n",
               (unsigned long long) report.n_tensors, (unsigned long long) report.n_copied,
               (unsigned long long) report.n_raised, 100 * report.gain);
    }
    return status;
}

/* Half of the way from the model to the folded one. */
static llama_align_status halve(const char * model_path, const char * folded_path, const char * output_path,
                                llama_align_error * err) {
    char recipe[4096];
    llama_align_merge_params params;
    llama_align_merge_report report = {sizeof report, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    llama_align_status status = llama_align_merge_params_init(&params, sizeof params, err);

    params.flags = LLAMA_ALIGN_MERGE_OVERWRITE;
    if (strlen(model_path) + strlen(folded_path) > sizeof recipe - 128) {
        return LLAMA_ALIGN_ERR_ARGUMENT;
    }
    sprintf(recipe, "merge_method: slerp\nbase_model: %s\nmodels:\n  - model: %s\n  - model: %s\nparameters:\n  t: 0.5\n",
            model_path, model_path, folded_path);
    if (status >= 0) {
        status = llama_align_merge_files(recipe, 0, "Q8_0", &params, output_path, NULL, &report, err);
    }
    if (status >= 0) printf("merged into %llu bytes\n", (unsigned long long) report.n_bytes);
    return status;
}

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    if (argc != 7) {
        fprintf(stderr, "usage: %s MODEL.gguf ONE.gguf TWO.gguf SUM.gguf FOLDED.gguf HALF.gguf\n", argv[0]);
        return 2;
    }
    {
        const char * const parts[] = {argv[2], argv[3]};
        if (add(argv[1], parts, argv[4], &err) < 0 || fold(argv[1], argv[4], argv[5], &err) < 0 ||
            halve(argv[1], argv[5], argv[6], &err) < 0) {
            fprintf(stderr, "%s: %s\n", llama_align_status_name(err.status), err.message);
            return 1;
        }
    }
    return 0;
}
