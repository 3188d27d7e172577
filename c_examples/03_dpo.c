/* DPO on a file of pairs, with progress; stops early once the margin is wide, saves, and measures:
 * 03_dpo MODEL.gguf PAIRS.jsonl ADAPTER.gguf [MARGIN] */
#include "llama-align.h"

#include <stdio.h>
#include <stdlib.h>

struct watch {
    llama_align_trainer * trainer;
    double margin;
};

/* Runs on the thread of llama_align_trainer_run(). Cancelling from here or from any other thread is the same;
 * returning LLAMA_ALIGN_STOP would do, too. */
static int32_t on_progress(const llama_align_progress * p, void * user_data) {
    const struct watch * watch = user_data;
    if (p->phase == LLAMA_ALIGN_PHASE_REFERENCE) {
        printf("reference %llu/%llu\n", (unsigned long long) p->step, (unsigned long long) p->n_steps);
        return LLAMA_ALIGN_CONTINUE;
    }
    printf("step %llu/%llu loss %.4f margin %.4f\n", (unsigned long long) p->step, (unsigned long long) p->n_steps,
           p->loss, p->reward_margin);
    if (p->reward_margin > watch->margin) {
        llama_align_trainer_cancel(watch->trainer, NULL);
    }
    return LLAMA_ALIGN_CONTINUE;
}

static int failed(const llama_align_error * err) {
    fprintf(stderr, "%s: %s\n", llama_align_status_name(err->status), err->message);
    return 1;
}

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    llama_align_model * model = NULL;
    llama_align_dataset * pairs = NULL;
    llama_align_adapter * adapter = NULL;
    llama_align_dataset_params rows;
    llama_align_trainer_params params;
    llama_align_evaluation measured = {0};
    llama_align_status ran = LLAMA_ALIGN_OK;
    struct watch watch = {NULL, 1e9};
    int result = 0;

    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: %s MODEL.gguf PAIRS.jsonl ADAPTER.gguf [MARGIN]\n", argv[0]);
        return 2;
    }
    if (argc == 5) {
        watch.margin = strtod(argv[4], NULL);
    }
    measured.struct_size = sizeof measured;
    if (llama_align_dataset_params_init(&rows, sizeof rows, &err) < 0 ||
        llama_align_trainer_params_init(&params, sizeof params, &err) < 0) {
        return failed(&err);
    }
    rows.method = LLAMA_ALIGN_METHOD_DPO;
    params.batch_size = 2;
    params.epochs = 4;
    params.learning_rate = 1e-3;

    if (llama_align_model_open(argv[1], &model, &err) < 0 ||
        llama_align_dataset_open(model, argv[2], &rows, &pairs, &err) < 0 ||
        llama_align_adapter_new(model, "attn_q,attn_v", NULL, &adapter, &err) < 0 ||
        llama_align_trainer_new(adapter, pairs, &params, &watch.trainer, &err) < 0 ||
        (ran = llama_align_trainer_run(watch.trainer, on_progress, &watch, &err)) < 0 ||
        llama_align_adapter_save(adapter, argv[3], &err) < 0 ||
        llama_align_evaluate(pairs, adapter, NULL, &measured, &err) < 0) {
        result = failed(&err);
    } else {
        printf("%s: %.0f%% of %llu pairs preferred, margin %.4f\n", llama_align_status_name(ran),
               100 * measured.reward_accuracy, (unsigned long long) measured.n_pairs, measured.reward_margin);
    }
    llama_align_trainer_free(watch.trainer);
    llama_align_adapter_free(adapter);
    llama_align_dataset_free(pairs);
    llama_align_model_free(model);
    return result;
}
