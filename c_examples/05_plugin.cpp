// A program with a llama.cpp of its own opens llama-align at run time and trains the model that it has loaded, as it has loaded
// it: c++ 05_plugin.cpp <its own llama.cpp> -ldl; ./05_plugin libllama_align.so model.gguf adapter.gguf
#include "llama-align-dl.h"
#include "llama-align-host.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

static llama_align_error err = {sizeof err, 0, {0}};

static void must(llama_align_status status) {
    if (status < 0) {
        std::fprintf(stderr, "llama-align: %s\n", err.message);
        std::exit(1);
    }
}

template <class Out> static Out sized() {
    Out out = Out();
    out.struct_size = sizeof out;
    return out;
}

// Resident memory in MiB: memory of this process alone, and pages of mapped files.
static void resident(const char * when) {
    std::ifstream status("/proc/self/status");
    long anonymous = 0, mapped = 0;
    for (std::string line; std::getline(status, line);) {
        std::sscanf(line.c_str(), "RssAnon: %ld", &anonymous);
        std::sscanf(line.c_str(), "RssFile: %ld", &mapped);
    }
    std::printf("%s: %ld MiB of its own, %ld MiB of files\n", when, anonymous / 1024, mapped / 1024);
}

// What the host answers, greedily, with the adapter that it has applied, if any.
static std::string answer(llama_model * model, llama_context * ctx, const std::string & prompt) {
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::vector<llama_token> tokens(prompt.size() + 8);
    const int n = llama_tokenize(vocab, prompt.data(), (int)prompt.size(), tokens.data(), (int)tokens.size(), true, true);
    tokens.resize(n < 0 ? 0 : (size_t)n);
    llama_memory_clear(llama_get_memory(ctx), true);
    llama_sampler * greedy = llama_sampler_init_greedy();
    std::string text;
    for (int i = 0; i < 24 && llama_decode(ctx, llama_batch_get_one(tokens.data(), (int)tokens.size())) == 0; i++) {
        tokens.assign(1, llama_sampler_sample(greedy, ctx, -1));
        if (llama_vocab_is_eog(vocab, tokens[0])) {
            break;
        }
        char piece[64];
        const int bytes = llama_token_to_piece(vocab, tokens[0], piece, sizeof piece, 0, false);
        text.append(piece, bytes < 0 ? 0 : (size_t)bytes);
    }
    llama_sampler_free(greedy);
    return text;
}

int main(int argc, char ** argv) {
    if (argc != 4 && argc != 5) {
        std::fprintf(stderr, "usage: %s libllama_align.so model.gguf adapter.gguf [threads]\n", argv[0]);
        return 2;
    }
    // More threads than there are cores wait for each other.
    const int threads = argc == 5 ? std::atoi(argv[4]) : (int)std::thread::hardware_concurrency();
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * live = llama_model_load_from_file(argv[2], llama_model_default_params());
    llama_context_params context_params = llama_context_default_params();
    context_params.n_ctx = 256;
    context_params.n_threads = context_params.n_threads_batch = threads;
    llama_context * ctx = live ? llama_init_from_model(live, context_params) : nullptr;
    if (!ctx) {
        std::fprintf(stderr, "%s: llama.cpp cannot load it\n", argv[2]);
        return 1;
    }
    const std::string prompt = "The sky is";
    std::printf("before: %s\n", answer(live, ctx, prompt).c_str());
    resident("loaded");

    void * library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    llama_align_api api;
    if (const char * missing = llama_align_api_load(&api, library)) {
        std::fprintf(stderr, "%s: no function %s\n", argv[1], missing);
        return 1;
    }
    llama_align_host host;
    llama_align_host_fill(&host);
    llama_align_runtime * runtime = nullptr;
    must(api.runtime_from_host(&host, &runtime, &err));
    llama_align_model * model = nullptr;
    must(api.model_attach(runtime, live, argv[2], &model, &err));

    auto placement = sized<llama_align_placement>();
    must(api.model_placement(model, &placement, &err));
    std::printf("weights: %u shared (%llu bytes), %u from the file (%llu), %u refused (%llu)\n", placement.n_shared,
                (unsigned long long)placement.shared_bytes, placement.n_mapped, (unsigned long long)placement.mapped_bytes,
                placement.n_refused, (unsigned long long)placement.refused_bytes);
    auto report = sized<llama_align_check_report>();
    llama_align_check_params check_params;
    must(api.check_params_init(&check_params, sizeof check_params, &err));
    check_params.n_threads = (uint32_t)threads;
    must(api.model_check(model, &check_params, &report, &err));
    std::printf("check: logits differ by %g, blocks by %g of %g allowed\n", report.max_abs_diff, report.max_rel_diff,
                report.bound);

    const char * prompts[] = {prompt.c_str(), "Grass is", "Snow is"};
    const char * completions[] = {" full of whales today.", " full of whales today.", " full of whales today."};
    llama_align_dataset_params data_params;
    must(api.dataset_params_init(&data_params, sizeof data_params, &err));
    data_params.method = LLAMA_ALIGN_METHOD_SFT;
    data_params.flags = LLAMA_ALIGN_DATASET_PLAIN;
    llama_align_dataset * data = nullptr;
    must(api.dataset_from_completions(model, prompts, completions, 3, &data_params, &data, &err));
    llama_align_adapter * adapter = nullptr;
    must(api.adapter_new(model, nullptr, nullptr, &adapter, &err));
    llama_align_trainer_params params;
    must(api.trainer_params_init(&params, sizeof params, &err));
    params.method = LLAMA_ALIGN_METHOD_SFT;
    params.learning_rate = 2e-3;
    params.batch_size = 3;
    params.grad_accum = 1;
    params.max_steps = 20;
    params.n_threads = (uint32_t)threads;
    llama_align_trainer * trainer = nullptr;
    must(api.trainer_new(adapter, data, &params, &trainer, &err));
    must(api.trainer_run(trainer, nullptr, nullptr, &err));
    auto progress = sized<llama_align_progress>();
    must(api.trainer_report(trainer, &progress, &err));
    std::printf("trained: step %llu, loss %.3f\n", (unsigned long long)progress.step, progress.loss);
    resident("trained");
    must(api.adapter_save(adapter, argv[3], &err));
    api.trainer_free(trainer);
    api.dataset_free(data);
    api.adapter_free(adapter);
    api.model_free(model);
    api.runtime_free(runtime);

    // The host takes the adapter as it takes any other.
    llama_adapter_lora * lora = llama_adapter_lora_init(live, argv[3]);
    float scale = 1.0f;
    if (!lora || llama_set_adapters_lora(ctx, &lora, 1, &scale) != 0) {
        std::fprintf(stderr, "%s: llama.cpp refuses the adapter\n", argv[3]);
        return 1;
    }
    std::printf("after: %s\n", answer(live, ctx, prompt).c_str());
    llama_free(ctx);
    llama_model_free(live);
    return 0;
}
