/* DPO on the neurons that matter, with weights for single tokens: a short run finds the rows that the preferences move, a
 * second one trains these alone and looks at the first half of every rejected answer only:
 * 11_neurons MODEL.gguf PAIRS.jsonl MASK.gguf ADAPTER.gguf */
#include "llama-align.h"

#include <stdio.h>
#include <stdlib.h>

static int failed(const llama_align_error * err) {
    fprintf(stderr, "%s: %s\n", llama_align_status_name(err->status), err->message);
    return 1;
}

/* Steps to the end; the trainer is freed, what it moved stays. */
static llama_align_status train(llama_align_adapter * adapter, const llama_align_dataset * pairs,
                                const llama_align_trainer_params * params, llama_align_error * err) {
    llama_align_trainer * trainer = NULL;
    llama_align_status status = llama_align_trainer_new(adapter, pairs, params, &trainer, err);
    if (status >= 0) {
        status = llama_align_trainer_run(trainer, NULL, NULL, err);
    }
    llama_align_trainer_free(trainer);
    return status;
}

/* 1 for the first half of a rejected answer's tokens, 0 for the others. `llama-align token-weights` finds better ones. */
static llama_align_status weigh(llama_align_dataset * pairs, llama_align_error * err) {
    uint64_t n_rows = 0, row, i;
    llama_align_status status = llama_align_dataset_count(pairs, &n_rows, err);
    for (row = 0; status >= 0 && row < n_rows; row++) {
        uint64_t n = 0;
        float * weights = NULL;
        status = llama_align_dataset_answer_tokens(pairs, row, 1, &n, err);
        if (status < 0 || (weights = malloc((size_t) n * sizeof *weights)) == NULL) {
            break;
        }
        for (i = 0; i < n; i++) {
            weights[i] = 2 * i < n ? 1.0f : 0.0f;
        }
        status = llama_align_dataset_set_weights(pairs, row, 1, weights, (size_t) n, err);
        free(weights);
    }
    return status;
}

int main(int argc, char ** argv) {
    llama_align_error err = {sizeof err, LLAMA_ALIGN_OK, ""};
    llama_align_model * model = NULL;
    llama_align_dataset * pairs = NULL;
    llama_align_adapter * warm = NULL, * adapter = NULL, * rows_only = NULL;
    llama_align_dataset_params rows;
    llama_align_trainer_params params;
    llama_align_neurons_params neurons;
    llama_align_evaluation measured = {0};
    int result = 0;

    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL.gguf PAIRS.jsonl MASK.gguf ADAPTER.gguf\n", argv[0]);
        return 2;
    }
    measured.struct_size = sizeof measured;
    if (llama_align_dataset_params_init(&rows, sizeof rows, &err) < 0 ||
        llama_align_trainer_params_init(&params, sizeof params, &err) < 0 ||
        llama_align_neurons_params_init(&neurons, sizeof neurons, &err) < 0) {
        return failed(&err);
    }
    rows.method = LLAMA_ALIGN_METHOD_DPO;
    params.batch_size = 2;
    params.max_steps = 6;
    params.learning_rate = 1e-3;
    neurons.ratio = 0.1;

    if (llama_align_model_open(argv[1], &model, &err) < 0 ||
        llama_align_dataset_open(model, argv[2], &rows, &pairs, &err) < 0 ||
        /* What moves most in plain DPO ... */
        llama_align_adapter_new(model, NULL, NULL, &warm, &err) < 0 || train(warm, pairs, &params, &err) < 0 ||
        llama_align_adapter_neurons(warm, &neurons, argv[3], &err) < 0 ||
        /* ... is all that may move now. */
        llama_align_adapter_new(model, NULL, NULL, &adapter, &err) < 0 ||
        llama_align_adapter_set_mask(adapter, argv[3], &err) < 0 || weigh(pairs, &err) < 0 ||
        train(adapter, pairs, &params, &err) < 0 || llama_align_adapter_save(adapter, argv[4], &err) < 0 ||
        llama_align_evaluate(pairs, adapter, NULL, &measured, &err) < 0) {
        result = failed(&err);
    } else {
        printf("%.0f%% of %llu pairs preferred, margin %.4f\n", 100 * measured.reward_accuracy,
               (unsigned long long) measured.n_pairs, measured.reward_margin);
        /* The same rows with a free number for every weight instead of factors. */
        if (llama_align_adapter_from_rows(model, NULL, argv[3], &rows_only, &err) < 0 ||
            train(rows_only, pairs, &params, &err) < 0 ||
            llama_align_evaluate(pairs, rows_only, NULL, &measured, &err) < 0) {
            result = failed(&err);
        } else {
            printf("rows: %.0f%% preferred, margin %.4f\n", 100 * measured.reward_accuracy, measured.reward_margin);
        }
    }
    llama_align_adapter_free(rows_only);
    llama_align_adapter_free(adapter);
    llama_align_adapter_free(warm);
    llama_align_dataset_free(pairs);
    llama_align_model_free(model);
    return result;
}
