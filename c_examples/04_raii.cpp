// The same from C++: owners, exceptions, a lambda as callback: 04_raii MODEL.gguf ADAPTER.gguf
#include "llama-align.hpp"

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

static void train(const std::string & model_path, const std::string & adapter_path) {
    const llama_align::model model(model_path);
    const std::vector<std::string> prompts = {"Is water wet?", "Is fire cold?"};
    auto params = llama_align::dataset_params();
    params.method = LLAMA_ALIGN_METHOD_KTO;
    const auto rows = llama_align::dataset::labelled(model, prompts, {"Yes.", "Yes."}, {1, 0}, params);
    const llama_align::adapter adapter(model);

    auto config = llama_align::trainer_params();
    config.method = LLAMA_ALIGN_METHOD_KTO;
    config.max_steps = 4;
    llama_align::trainer trainer(adapter, rows, config);
    // In slices, as a server would between two requests.
    while (trainer.run_for(0, [](const llama_align_progress & p) {
        if (p.phase == LLAMA_ALIGN_PHASE_STEP) {
            std::printf("step %d loss %.4f\n", static_cast<int>(p.step), p.loss);
        }
        return true;
    }) == LLAMA_ALIGN_MORE) {
    }
    adapter.save(adapter_path);

    // A checkpoint, and a trainer that stands where it does.
    trainer.save(adapter_path + ".run");
    const llama_align::trainer again(llama_align::adapter(model), rows, config, adapter_path + ".run");
    std::printf("taken up after step %d\n", static_cast<int>(again.report().step));

    const auto loaded = llama_align::adapter::load(model, adapter_path);
    const auto measured = llama_align::evaluate(rows, &loaded);
    std::printf("%zu bytes, %d rows, nll %.4f\n", loaded.bytes().size(), static_cast<int>(measured.n_rows), measured.nll);
}

// Errors are exceptions, and so is what a callback throws.
static bool errors_arrive(const std::string & model_path) {
    try {
        llama_align::model missing("/nowhere/model.gguf");
        return false;
    } catch (const llama_align::error & e) {
        if (e.status() != LLAMA_ALIGN_ERR_MISSING) {
            return false;
        }
    }
    const llama_align::model model(model_path);
    const auto rows = llama_align::dataset::completions(model, {"one"}, {"two"});
    auto config = llama_align::trainer_params();
    config.method = LLAMA_ALIGN_METHOD_SFT;
    llama_align::trainer trainer(llama_align::adapter(model), rows, config);
    try {
        trainer.run([](const llama_align_progress &) -> bool { throw 42; });
    } catch (int thrown) {
        return thrown == 42;
    }
    return false;
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s MODEL.gguf ADAPTER.gguf\n", argv[0]);
        return 2;
    }
    try {
        train(argv[1], argv[2]);
        if (!errors_arrive(argv[1])) {
            std::fprintf(stderr, "an error got lost\n");
            return 1;
        }
    } catch (const std::exception & e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 0;
}
