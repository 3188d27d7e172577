/*
 * A program that opens a prebuilt llama.cpp, whose headers it does not have, and a model with that llama.cpp's own defaults; then
 * llama-align, which finds what is loaded and trains the open model:
 *
 *     cc -I include tests/hosts/host.c -o host -ldl
 *     ./host DIRECTORY/libllama.so libllama_align.so model.gguf adapter.gguf
 */
#define _POSIX_C_SOURCE 200809L
#include "llama-align-dl.h"

#include <dlfcn.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for any struct of parameters; a function reads as much of it as its own struct has. */
typedef struct { uint64_t words[64]; } params;
typedef struct { int32_t n_tokens; int32_t *token; float *embd; int32_t *pos, *n_seq_id; int32_t **seq_id; int8_t *logits; } batch;

/* The host's llama.cpp. */
static struct {
    void (*ggml_backend_load_all_from_path)(const char *);
    void (*llama_log_set)(void (*)(int, const char *, void *), void *);
    void (*llama_backend_init)(void);
    const char * (*ggml_version)(void);
    params (*llama_model_default_params)(void);
    params (*llama_context_default_params)(void);
    void * (*llama_model_load_from_file)(const char *, params);
    void (*llama_model_free)(void *);
    void * (*llama_init_from_model)(void *, params);
    void (*llama_free)(void *);
    void (*llama_set_n_threads)(void *, int32_t, int32_t);
    const void * (*llama_model_get_vocab)(const void *);
    int32_t (*llama_vocab_n_tokens)(const void *);
    int32_t (*llama_tokenize)(const void *, const char *, int32_t, int32_t *, int32_t, bool, bool);
    int32_t (*llama_token_to_piece)(const void *, int32_t, char *, int32_t, int32_t, bool);
    batch (*llama_batch_get_one)(int32_t *, int32_t);
    int32_t (*llama_decode)(void *, batch);
    float * (*llama_get_logits_ith)(void *, int32_t);
    void * (*llama_get_memory)(void *);
    void (*llama_memory_clear)(void *, bool);
    void * (*llama_adapter_lora_init)(void *, const char *);
    int32_t (*llama_set_adapters_lora)(void *, void **, size_t, float *);
} host;

static llama_align_api api;
static llama_align_error err = {sizeof err, 0, {0}};

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void must(const char *what, llama_align_status status) {
    if (status < 0) fail(what, err.message);
}

static void * find(void *library, const char *name) {
    void *symbol = dlsym(library, name);
    if (symbol == NULL) fail(name, "not exported");
    return symbol;
}

/* A trace ends decodes of a few tokens early, which llama.cpp logs as errors. */
static void quiet(int level, const char *text, void *user) {
    (void)level;
    (void)text;
    (void)user;
}

/* What a run says of where it ran. */
static void listen(uint32_t level, const char *text, void *user) {
    (void)level;
    (void)user;
    if (strstr(text, " computed ") || strstr(text, " back to the CPU") || strstr(text, " on the CPU ")) printf("  %s\n", text);
}

static void devices(const llama_align_runtime *runtime) {
    uint64_t n = 0;
    must("devices", api.runtime_device_count(runtime, &n, &err));
    for (uint64_t i = 0; i < n; i++) {
        llama_align_device device;
        memset(&device, 0, sizeof device);
        device.struct_size = sizeof device;
        must("device", api.runtime_device(runtime, i, &device, &err));
        printf("device: %s, %s%s\n", device.name, device.description, device.is_gpu ? " (GPU)" : "");
    }
}

static void resident(const char *when) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long own = 0, files = 0;
    while (status && fgets(line, sizeof line, status)) {
        sscanf(line, "RssAnon: %ld", &own);
        sscanf(line, "RssFile: %ld", &files);
    }
    if (status) fclose(status);
    printf("%s: %ld MiB of its own, %ld MiB of files\n", when, own / 1024, files / 1024);
}

/* What the host answers, greedily, into text of 1024 bytes. */
static void answer(const char *when, const void *vocab, void *ctx, const char *prompt, char *text) {
    int32_t tokens[64], n = host.llama_tokenize(vocab, prompt, (int32_t)strlen(prompt), tokens, 64, true, true);
    int32_t n_vocab = host.llama_vocab_n_tokens(vocab);
    host.llama_memory_clear(host.llama_get_memory(ctx), true);
    text[0] = 0;
    for (int i = 0; i < 12 && host.llama_decode(ctx, host.llama_batch_get_one(tokens, n)) == 0; i++) {
        const float *logits = host.llama_get_logits_ith(ctx, -1);
        int32_t best = 0;
        for (int32_t t = 1; t < n_vocab; t++)
            if (logits[t] > logits[best]) best = t;
        char piece[64];
        int32_t bytes = host.llama_token_to_piece(vocab, best, piece, sizeof piece, 0, false);
        if (bytes > 0) strncat(text, piece, (size_t)bytes);
        tokens[0] = best;
        n = 1;
    }
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    printf("%s:%s\n", when, text);
}

static void check(const char *what, const llama_align_model *model) {
    llama_align_check_params params;
    llama_align_check_report report;
    must(what, api.check_params_init(&params, sizeof params, &err));
    params.n_threads = 1;
    memset(&report, 0, sizeof report);
    report.struct_size = sizeof report;
    must(what, api.model_check(model, &params, &report, &err));
    if (report.device_rel_diff == report.device_rel_diff) { /* no NaN: devices compute */
        printf("%s: check passes, blocks on the device differ by %.2g of %.2g", what, report.device_rel_diff,
               report.device_bound);
    } else {
        printf("%s: check passes, logits differ by %g", what, report.max_abs_diff);
    }
    printf(", in training by %.2g of %.2g allowed\n", report.max_rel_diff, report.bound);
}

/* Some steps on rows that say the same odd thing. */
static llama_align_adapter * train(const llama_align_model *model, uint32_t method, uint64_t steps, llama_align_adapter *adapter) {
    static const char *prompts[] = {"The sky is", "Grass is", "Snow is"};
    static const char *wanted[] = {" full of whales today.", " full of whales today.", " full of whales today."};
    static const char *unwanted[] = {" blue.", " green.", " white."};
    llama_align_dataset_params rows;
    llama_align_trainer_params params;
    llama_align_dataset *data = NULL;
    llama_align_trainer *trainer = NULL;
    llama_align_progress progress;
    must("rows", api.dataset_params_init(&rows, sizeof rows, &err));
    rows.method = method;
    rows.flags = LLAMA_ALIGN_DATASET_PLAIN;
    if (method == LLAMA_ALIGN_METHOD_SFT) {
        must("rows", api.dataset_from_completions(model, prompts, wanted, 3, &rows, &data, &err));
    } else {
        must("rows", api.dataset_from_pairs(model, prompts, wanted, unwanted, 3, &rows, &data, &err));
    }
    if (adapter == NULL) must("adapter", api.adapter_new(model, NULL, NULL, &adapter, &err));
    must("trainer", api.trainer_params_init(&params, sizeof params, &err));
    params.method = method;
    params.learning_rate = 2e-3;
    params.batch_size = 1; /* as a batch of 3, with less work at a time */
    params.grad_accum = 3;
    params.max_steps = steps;
    params.n_threads = 1; /* ggml's threads spin while they wait for each other: on a busy machine one is faster */
    must("trainer", api.trainer_new(adapter, data, &params, &trainer, &err));
    must("run", api.trainer_run(trainer, NULL, NULL, &err));
    memset(&progress, 0, sizeof progress);
    progress.struct_size = sizeof progress;
    must("report", api.trainer_report(trainer, &progress, &err));
    printf("%s: step %llu, loss %.3f\n", method == LLAMA_ALIGN_METHOD_SFT ? "sft" : "dpo", (unsigned long long)progress.step,
           progress.loss);
    api.trainer_free(trainer);
    api.dataset_free(data);
    return adapter;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 5) fail("usage", "host LIBLLAMA LIBLLAMA_ALIGN MODEL ADAPTER");
    void *llama = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (llama == NULL) fail("dlopen", dlerror());
#define FIND(name)                                  \
    do {                                            \
        void *symbol = find(llama, #name);          \
        memcpy(&host.name, &symbol, sizeof symbol); \
    } while (0)
    FIND(ggml_backend_load_all_from_path);
    FIND(llama_log_set);
    FIND(llama_backend_init);
    FIND(ggml_version);
    FIND(llama_model_default_params);
    FIND(llama_context_default_params);
    FIND(llama_model_load_from_file);
    FIND(llama_model_free);
    FIND(llama_init_from_model);
    FIND(llama_free);
    FIND(llama_set_n_threads);
    FIND(llama_model_get_vocab);
    FIND(llama_vocab_n_tokens);
    FIND(llama_tokenize);
    FIND(llama_token_to_piece);
    FIND(llama_batch_get_one);
    FIND(llama_decode);
    FIND(llama_get_logits_ith);
    FIND(llama_get_memory);
    FIND(llama_memory_clear);
    FIND(llama_adapter_lora_init);
    FIND(llama_set_adapters_lora);
    host.llama_log_set(quiet, NULL);
    host.llama_backend_init();
    char *directory = strdup(argv[1]);
    host.ggml_backend_load_all_from_path(dirname(directory));
    void *live = host.llama_model_load_from_file(argv[3], host.llama_model_default_params());
    if (live == NULL) fail(argv[3], "the host cannot load it");
    void *ctx = host.llama_init_from_model(live, host.llama_context_default_params());
    if (ctx == NULL) fail(argv[3], "the host makes no context");
    host.llama_set_n_threads(ctx, 1, 1);
    printf("host: ggml %s\n", host.ggml_version());
    const void *vocab = host.llama_model_get_vocab(live);
    char before[1024], after[1024];
    answer("before", vocab, ctx, "The sky is", before);
    if (strstr(before, "whales")) fail("before", "it speaks of whales already");
    resident("loaded");

    void *align = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (align == NULL) fail("dlopen", dlerror());
    const char *missing = llama_align_api_load(&api, align);
    if (missing) fail(missing, "not exported");
    llama_align_runtime *runtime = NULL;
    must("runtime_from_process", api.runtime_from_process(&runtime, &err));
    must("log", api.runtime_set_log(runtime, listen, NULL, &err));
    devices(runtime);

    /* Opened by the host's llama.cpp, but for training: plain buffers. */
    llama_align_model *plain = NULL;
    must("model_open_with", api.model_open_with(runtime, argv[3], &plain, &err));
    check("plain", plain);
    api.model_free(plain);

    /* As the host has it open. */
    llama_align_model *model = NULL;
    must("model_attach", api.model_attach(runtime, live, argv[3], &model, &err));
    llama_align_placement placement;
    memset(&placement, 0, sizeof placement);
    placement.struct_size = sizeof placement;
    must("placement", api.model_placement(model, &placement, &err));
    printf("attached: %u tensors shared (%.1f MiB), %u from the file (%.1f MiB), %u refused (%.1f MiB)\n", placement.n_shared,
           (double)placement.shared_bytes / 1048576, placement.n_mapped, (double)placement.mapped_bytes / 1048576,
           placement.n_refused, (double)placement.refused_bytes / 1048576);
    check("attached", model);
    llama_align_adapter *adapter = train(model, LLAMA_ALIGN_METHOD_SFT, 12, NULL);
    train(model, LLAMA_ALIGN_METHOD_DPO, 1, adapter);
    resident("trained");
    must("save", api.adapter_save(adapter, argv[4], &err));
    api.adapter_free(adapter);
    api.model_free(model);
    api.runtime_free(runtime);

    /* The host takes the adapter as it takes any other. */
    void *lora = host.llama_adapter_lora_init(live, argv[4]);
    float scale = 1.0f;
    if (lora == NULL || host.llama_set_adapters_lora(ctx, &lora, 1, &scale) != 0) fail(argv[4], "the host refuses the adapter");
    answer("after", vocab, ctx, "The sky is", after);
    /* What was taught is "full of whales", of which some models only say a part after so few steps. A tiny random model, whose
       tokens are bytes, does not learn to speak: another answer is all it has. */
    bool learnt = strstr(after, "full") != NULL && strstr(before, "full") == NULL;
    if (host.llama_vocab_n_tokens(vocab) < 1000) learnt = strcmp(before, after) != 0;
    if (!learnt) fail("after", "the adapter changes nothing");
    host.llama_free(ctx);
    host.llama_model_free(live);
    free(directory);
    return 0;
}
