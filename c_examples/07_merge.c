/* Adapters added, shortened, and folded into a model: 07_merge MODEL.gguf ONE.gguf TWO.gguf SUM.gguf OUT.gguf */
#include "llama-align.h"

#include <stdio.h>

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

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    if (argc != 6) {
        fprintf(stderr, "usage: %s MODEL.gguf ONE.gguf TWO.gguf SUM.gguf OUT.gguf\n", argv[0]);
        return 2;
    }
    {
        const char * const parts[] = {argv[2], argv[3]};
        if (add(argv[1], parts, argv[4], &err) < 0 || fold(argv[1], argv[4], argv[5], &err) < 0) {
            fprintf(stderr, "%s: %s\n", llama_align_status_name(err.status), err.message);
            return 1;
        }
    }
    return 0;
}
