// A model on a task's items, without and with an adapter: 10_measure MODEL.gguf TASK ITEMS [ADAPTER.gguf | PEFT_DIRECTORY]
// TASK is pairs, nll, kl, mc, exact-match or em-f1; ITEMS are rows, or a file such as TruthfulQA's mc_task.json.
#include "llama-align.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char * name;
    uint32_t number;
} tasks[] = {
    {"pairs", LLAMA_ALIGN_TASK_PAIRS}, {"nll", LLAMA_ALIGN_TASK_NLL},
    {"kl", LLAMA_ALIGN_TASK_KL},       {"mc", LLAMA_ALIGN_TASK_MC},
    {"exact-match", LLAMA_ALIGN_TASK_EXACT_MATCH}, {"em-f1", LLAMA_ALIGN_TASK_EM_F1},
};

static int ends_with(const char * text, const char * end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static int measure(const llama_align_model * model, const llama_align_adapter * adapter, uint32_t task, const char * items,
                   llama_align_error * err) {
    llama_align_task_report report = {0};
    report.struct_size = sizeof report;
    if (llama_align_task_run(model, adapter, task, items, NULL, &report, err) < 0) {
        return 0;
    }
    for (uint32_t i = 0; i < report.n_metrics; i++) {
        printf("%-8s %-16s %8.4f\n", adapter ? "adapted" : "model", report.names[i], report.values[i]);
    }
    printf("%d items\n", (int) report.n_items);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: %s MODEL.gguf TASK ITEMS [ADAPTER]\n", argv[0]);
        return 2;
    }
    uint32_t task = 0;
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
        task = strcmp(argv[2], tasks[i].name) == 0 ? tasks[i].number : task;
    }
    llama_align_error err = {0};
    err.struct_size = sizeof err;
    llama_align_model * model = NULL;
    llama_align_adapter * adapter = NULL;
    int good = llama_align_model_open(argv[1], &model, &err) == LLAMA_ALIGN_OK;
    if (good && argc == 5) {
        const char * from = argv[4];
        good = (ends_with(from, ".gguf") ? llama_align_adapter_load(model, from, &adapter, &err)
                                         : llama_align_adapter_from_peft(model, from, &adapter, &err)) == LLAMA_ALIGN_OK;
    }
    // Drift from the model is 0 for the model itself.
    good = good && (task == LLAMA_ALIGN_TASK_KL || measure(model, NULL, task, argv[3], &err));
    good = good && (adapter == NULL || measure(model, adapter, task, argv[3], &err));
    if (!good) {
        fprintf(stderr, "%s: %s\n", llama_align_status_name(err.status), err.message);
    }
    llama_align_adapter_free(adapter);
    llama_align_model_free(model);
    return good ? 0 : 1;
}
