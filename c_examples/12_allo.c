/* ALLO, the run of `llama-align train --method allo --delta full --stage-steps 6,3,6`, made of single calls: a short DPO finds the
 * weights and tokens that matter, the worst tokens of the rejected answers are forgotten, and the pairs are learned again:
 * 12_allo MODEL.gguf PAIRS.jsonl CHANGE.gguf TUNED.gguf
 * Beside CHANGE.gguf lie the two masks. The weights of the model and what a trainer keeps of them take 16 bytes for each number. */
#include "llama-align.h"

#include <stdio.h>
#include <string.h>

static int failed(const llama_align_error * err) {
    fprintf(stderr, "%s: %s\n", llama_align_status_name(err->status), err->message);
    return 1;
}

/* A stage: steps to the end; the trainer is freed, what it moved stays. */
static llama_align_status stage(const char * name, llama_align_adapter * adapter, const llama_align_dataset * pairs,
                                const llama_align_trainer_params * params, llama_align_error * err) {
    llama_align_trainer * trainer = NULL;
    llama_align_progress last;
    llama_align_status status = llama_align_trainer_new(adapter, pairs, params, &trainer, err);
    memset(&last, 0, sizeof last);
    last.struct_size = sizeof last;
    if (status >= 0) status = llama_align_trainer_run(trainer, NULL, NULL, err);
    if (status >= 0) status = llama_align_trainer_report(trainer, &last, err);
    if (status >= 0) printf("%s: %llu steps, loss %.4f\n", name, (unsigned long long) last.step, last.loss);
    llama_align_trainer_free(trainer);
    return status;
}

/* The share of all weights that moved most. Masks of one ranking are nested: the smaller lies within the larger. */
static llama_align_status choose(const llama_align_adapter * warm, double ratio, const char * path, llama_align_error * err) {
    llama_align_neurons_params params;
    llama_align_status status = llama_align_neurons_params_init(&params, sizeof params, err);
    params.granularity = LLAMA_ALIGN_NEURONS_WEIGHT;
    params.ratio = ratio;
    return status < 0 ? status : llama_align_adapter_neurons(warm, &params, path, err);
}

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    llama_align_model * model = NULL;
    llama_align_dataset * pairs = NULL, * bad = NULL;
    llama_align_adapter * warm = NULL, * policy = NULL;
    llama_align_dataset_params rows;
    llama_align_adapter_params full;
    llama_align_trainer_params warm_up, forgetting, learning;
    char masks[2][4096];
    uint64_t n_tokens = 0;
    int result = 0;

    if (argc != 5 || strlen(argv[3]) > 4000) {
        fprintf(stderr, "usage: %s MODEL.gguf PAIRS.jsonl CHANGE.gguf TUNED.gguf\n", argv[0]);
        return 2;
    }
    sprintf(masks[0], "%s.forgetting-mask", argv[3]);
    sprintf(masks[1], "%s.learning-mask", argv[3]);
    if (llama_align_dataset_params_init(&rows, sizeof rows, &err) < 0 ||
        llama_align_adapter_params_init(&full, sizeof full, &err) < 0 ||
        llama_align_trainer_params_init(&learning, sizeof learning, &err) < 0) {
        return failed(&err);
    }
    rows.method = LLAMA_ALIGN_METHOD_DPO;
    full.flags = LLAMA_ALIGN_ADAPTER_FULL;
    warm_up = forgetting = learning;
    warm_up.max_steps = 6;
    warm_up.learning_rate = 1e-6;
    forgetting.method = LLAMA_ALIGN_METHOD_NPO;
    forgetting.max_steps = 3;
    forgetting.learning_rate = 5e-7;
    forgetting.warmup_ratio = 0.03;
    learning.max_steps = 6;
    learning.learning_rate = 5e-6;
    learning.rejected_share = 0.1; /* of a rejected answer, the tokens that the policy likes least */

    if (llama_align_model_open(argv[1], &model, &err) < 0 ||
        llama_align_dataset_open(model, argv[2], &rows, &pairs, &err) < 0 ||
        /* The same rows: their tokens are weighed in forgetting, and in learning they are not. */
        llama_align_dataset_open(model, argv[2], &rows, &bad, &err) < 0 ||
        llama_align_adapter_new(model, NULL, &full, &warm, &err) < 0 ||
        stage("warm-up", warm, pairs, &warm_up, &err) < 0 || choose(warm, 0.025, masks[0], &err) < 0 ||
        choose(warm, 0.05, masks[1], &err) < 0 || llama_align_dataset_weigh(bad, warm, NULL, &n_tokens, &err) < 0) {
        result = failed(&err);
    } else {
        printf("%llu tokens to forget\n", (unsigned long long) n_tokens);
        /* The warm-up has told what it was for: both stages begin with the model itself. */
        llama_align_adapter_free(warm);
        warm = NULL;
        if (llama_align_adapter_new(model, NULL, &full, &policy, &err) < 0 ||
            llama_align_adapter_set_mask(policy, masks[0], &err) < 0 ||
            stage("forgetting", policy, bad, &forgetting, &err) < 0 ||
            llama_align_adapter_set_mask(policy, masks[1], &err) < 0 ||
            stage("learning", policy, pairs, &learning, &err) < 0 ||
            llama_align_adapter_save_change(policy, argv[3], &err) < 0 ||
            llama_align_fold_files(argv[1], (const char * const *) &argv[3], NULL, 1, NULL, NULL, argv[4], NULL, NULL,
                                   &err) < 0) {
            result = failed(&err);
        }
    }
    llama_align_adapter_free(policy);
    llama_align_adapter_free(warm);
    llama_align_dataset_free(bad);
    llama_align_dataset_free(pairs);
    llama_align_model_free(model);
    return result;
}
