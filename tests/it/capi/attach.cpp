// A host that attaches the model it has open under another name, or none: attach libllama_align.so model.gguf [file].
// Prints where weights were found, then what attaching and the check say: a status and the message.
#include "llama-align-dl.h"
#include "llama-align-host.h"

#include <dlfcn.h>

#include <cstdio>

int main(int argc, char ** argv) {
    if (argc != 3 && argc != 4) {
        return 2;
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * live = llama_model_load_from_file(argv[2], llama_model_default_params());
    void * library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    llama_align_api api;
    if (!live || !library || llama_align_api_load(&api, library)) {
        return 3;
    }
    llama_align_error err = {sizeof err, 0, {0}};
    llama_align_host host;
    llama_align_host_fill(&host);
    llama_align_runtime * runtime = nullptr;
    if (api.runtime_from_host(&host, &runtime, &err) < 0) {
        return 4;
    }
    llama_align_model * model = nullptr;
    llama_align_status status = api.model_attach(runtime, live, argc == 4 ? argv[3] : nullptr, &model, &err);
    std::printf("attach: %d %s\n", status, status < 0 ? err.message : "");
    if (status >= 0) {
        llama_align_placement at = {sizeof at, 0, 0, 0, 0, 0, 0};
        at.struct_size = sizeof at;
        status = api.model_placement(model, &at, &err);
        std::printf("placement: %u %u %u %llu %llu %llu\n", at.n_shared, at.n_mapped, at.n_refused,
                    (unsigned long long)at.shared_bytes, (unsigned long long)at.mapped_bytes,
                    (unsigned long long)at.refused_bytes);
        llama_align_check_params params;
        api.check_params_init(&params, sizeof params, &err);
        params.n_threads = 1;
        status = api.model_check(model, &params, nullptr, &err);
        std::printf("check: %d %s\n", status, status < 0 ? err.message : "");
        api.model_free(model);
    }
    api.runtime_free(runtime);
    llama_model_free(live);
    return 0;
}
