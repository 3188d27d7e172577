/* Supervised fine-tuning on rows in memory: 02_sft MODEL.gguf ADAPTER.gguf */
#include "llama-align.h"

#include <stdio.h>

static const char * const prompts[] = {"What is the capital of France?", "And of Italy?", "And of Spain?"};
static const char * const answers[] = {"Paris.", "Rome.", "Madrid."};

/* [readme] */
static llama_align_status train(const char * model_path, const char * adapter_path, llama_align_error * err) {
    llama_align_model * model = NULL;
    llama_align_dataset * rows = NULL;
    llama_align_adapter * adapter = NULL;
    llama_align_trainer * trainer = NULL;
    llama_align_trainer_params params;
    llama_align_status status = llama_align_trainer_params_init(&params, sizeof params, err);

    params.method = LLAMA_ALIGN_METHOD_SFT;
    params.epochs = 3;
    if (status >= 0) status = llama_align_model_open(model_path, &model, err);
    if (status >= 0) status = llama_align_dataset_from_completions(model, prompts, answers, 3, NULL, &rows, err);
    if (status >= 0) status = llama_align_adapter_new(model, NULL, NULL, &adapter, err);
    if (status >= 0) status = llama_align_trainer_new(adapter, rows, &params, &trainer, err);
    if (status >= 0) status = llama_align_trainer_run(trainer, NULL, NULL, err);
    if (status >= 0) status = llama_align_adapter_save(adapter, adapter_path, err);

    llama_align_model_free(model); /* in any order; NULL is fine */
    llama_align_dataset_free(rows);
    llama_align_adapter_free(adapter);
    llama_align_trainer_free(trainer);
    return status;
}
/* [/readme] */

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.gguf ADAPTER.gguf\n", argv[0]);
        return 2;
    }
    if (train(argv[1], argv[2], &err) < 0) {
        fprintf(stderr, "%s: %s\n", llama_align_status_name(err.status), err.message);
        return 1;
    }
    printf("saved %s\n", argv[2]);
    return 0;
}
