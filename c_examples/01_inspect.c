/* Opens a model, says what it is, and checks that it can be trained: 01_inspect MODEL.gguf */
#include "llama-align.h"

#include <stdio.h>

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    llama_align_model * model = NULL;
    llama_align_model_info info = {0};
    llama_align_check_report report = {0};

    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 2;
    }
    if (llama_align_abi() < LLAMA_ALIGN_ABI) {
        fprintf(stderr, "llama-align %s is older than the header\n", llama_align_version());
        return 1;
    }
    info.struct_size = sizeof info;
    report.struct_size = sizeof report;
    if (llama_align_model_open(argv[1], &model, &err) == LLAMA_ALIGN_OK &&
        llama_align_model_describe(model, &info, &err) == LLAMA_ALIGN_OK) {
        printf("%s: %u blocks, %u tokens of context, %.1f MiB of weights\n", info.architecture, info.n_layer,
               info.n_ctx_train, (double) info.weights_bytes / 1048576);
        if (llama_align_model_check(model, NULL, &report, &err) == LLAMA_ALIGN_OK) {
            printf("can be trained: %u linear weights; logits differ from llama.cpp's by %g\n", report.n_trainable,
                   (double) report.max_abs_diff);
        }
    }
    if (err.status < 0) {
        fprintf(stderr, "%s: %s\n", llama_align_status_name(err.status), err.message);
    }
    llama_align_model_free(model);
    return err.status < 0;
}
