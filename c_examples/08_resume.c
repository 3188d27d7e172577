/* A run that may be stopped at any time and goes on with the same bits: begins, or takes its checkpoint up if there is one:
 * 08_resume MODEL.gguf PAIRS.jsonl CHECKPOINT.gguf ADAPTER.gguf [STEPS_AT_MOST] */
#include "llama-align.h"

#include <stdio.h>
#include <stdlib.h>

static int failed(const llama_align_error * err) {
    fprintf(stderr, "%s: %s\n", llama_align_status_name(err->status), err->message);
    return 1;
}

static llama_align_status begin(llama_align_adapter * adapter, const llama_align_dataset * pairs, const char * checkpoint,
                                llama_align_trainer ** trainer, llama_align_error * err) {
    /* Whatever decides the steps must be what it was: the library compares it with the checkpoint. */
    llama_align_trainer_params params;
    llama_align_status status = llama_align_trainer_params_init(&params, sizeof params, err);
    if (status < 0) {
        return status;
    }
    params.loss = LLAMA_ALIGN_LOSS_IPO;
    params.batch_size = 2;
    params.epochs = 4;
    params.learning_rate = 1e-3;
    status = llama_align_trainer_resume(adapter, pairs, &params, checkpoint, 0, trainer, err);
    return status == LLAMA_ALIGN_ERR_MISSING ? llama_align_trainer_new(adapter, pairs, &params, trainer, err) : status;
}

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    llama_align_model * model = NULL;
    llama_align_dataset * pairs = NULL;
    llama_align_adapter * adapter = NULL;
    llama_align_trainer * trainer = NULL;
    llama_align_dataset_params rows;
    llama_align_progress at = {0};
    llama_align_status status;
    long left;
    int result = 0;

    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: %s MODEL.gguf PAIRS.jsonl CHECKPOINT.gguf ADAPTER.gguf [STEPS_AT_MOST]\n", argv[0]);
        return 2;
    }
    left = argc == 6 ? strtol(argv[5], NULL, 10) : -1;
    at.struct_size = sizeof at;
    if (llama_align_dataset_params_init(&rows, sizeof rows, &err) < 0) {
        return failed(&err);
    }
    rows.method = LLAMA_ALIGN_METHOD_DPO;
    if (llama_align_model_open(argv[1], &model, &err) < 0 ||
        llama_align_dataset_open(model, argv[2], &rows, &pairs, &err) < 0 ||
        llama_align_adapter_new(model, "attn_q,attn_v", NULL, &adapter, &err) < 0 ||
        begin(adapter, pairs, argv[3], &trainer, &err) < 0 || llama_align_trainer_report(trainer, &at, &err) < 0) {
        result = failed(&err);
        goto end;
    }
    printf("begins after step %llu\n", (unsigned long long) at.step);
    status = LLAMA_ALIGN_MORE;
    while (status == LLAMA_ALIGN_MORE && left-- != 0) {
        status = llama_align_trainer_step(trainer, &at, &err);
        /* Complete under its name, or the checkpoint before it stays: a process may be killed here. */
        if (status < 0 || llama_align_trainer_save(trainer, argv[3], &err) < 0) {
            result = failed(&err);
            goto end;
        }
    }
    printf("%s after step %llu\n", status == LLAMA_ALIGN_MORE ? "stopped" : "complete", (unsigned long long) at.step);
    if (status == LLAMA_ALIGN_OK && llama_align_adapter_save(adapter, argv[4], &err) < 0) {
        result = failed(&err);
    }
end:
    llama_align_trainer_free(trainer);
    llama_align_adapter_free(adapter);
    llama_align_dataset_free(pairs);
    llama_align_model_free(model);
    return result;
}
