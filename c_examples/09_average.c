/* Between a model and its aligned self: 09_average MODEL.gguf ADAPTER.gguf RESPONSES.jsonl OUT.gguf */
#include "llama-align.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    llama_align_model_info info;
    llama_align_hma_params params;
    llama_align_hma_report report;
    llama_align_model * model = NULL;
    llama_align_adapter * aligned = NULL;
    llama_align_adapter * averaged = NULL;
    llama_align_dataset * responses = NULL;
    llama_align_status status;
    double * ratios = NULL;
    size_t i, n_layer = 0;

    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL.gguf ADAPTER.gguf RESPONSES.jsonl OUT.gguf\n", argv[0]);
        return 2;
    }
    info.struct_size = sizeof info;
    report.struct_size = sizeof report;
    status = llama_align_model_open(argv[1], &model, &err);
    if (status >= 0) status = llama_align_model_describe(model, &info, &err);
    if (status >= 0) status = llama_align_adapter_load(model, argv[2], &aligned, &err);
    if (status >= 0) status = llama_align_dataset_open(model, argv[3], NULL, &responses, &err);
    if (status >= 0) status = llama_align_hma_params_init(&params, sizeof params, &err);
    if (status >= 0) {
        n_layer = info.n_layer;
        ratios = calloc(n_layer, sizeof *ratios);
        params.n_groups = 2;
        params.pre_weight = 0.2; /* 20 % of the model before, on average */
        status = llama_align_hma(responses, aligned, NULL, &params, ratios, n_layer, &report, &err);
    }
    if (status >= 0) {
        printf("NLL per token: %.4f before, %.4f after, %.4f uniform, %.4f found\n", report.nll_before, report.nll_after,
               report.nll_uniform, report.nll);
        for (i = 0; i < n_layer; i++) {
            printf("block %u: %.3f of the model before\n", (unsigned) i, ratios[i]);
            ratios[i] = 1 - ratios[i];
        }
        status = llama_align_adapter_scale_blocks(aligned, ratios, n_layer, &averaged, &err);
    }
    if (status >= 0) status = llama_align_adapter_save(averaged, argv[4], &err);
    if (status < 0) fprintf(stderr, "%s: %s\n", llama_align_status_name(err.status), err.message);

    free(ratios);
    llama_align_model_free(model);
    llama_align_adapter_free(aligned);
    llama_align_adapter_free(averaged);
    llama_align_dataset_free(responses);
    return status < 0;
}
