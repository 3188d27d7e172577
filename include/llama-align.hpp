// llama-align for C++11 and later: owners and exceptions over llama-align.h, header only.
//
// Every class owns one handle, can be moved and not copied, and frees it in any order. A failed call throws
// llama_align::error, which carries the status. What a progress callback throws comes out of run() and run_for().
#ifndef LLAMA_ALIGN_HPP
#define LLAMA_ALIGN_HPP

#include "llama-align.h"

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace llama_align {

class error : public std::runtime_error {
public:
    error(llama_align_status status, const std::string & message)
        : std::runtime_error(std::string(llama_align_status_name(status)) + ": " + message), status_(status) {}
    llama_align_status status() const noexcept { return status_; }

private:
    llama_align_status status_;
};

namespace detail {

// Runs one call of the C interface; what is no error is returned.
template <class Call> llama_align_status check(Call call) {
    llama_align_error err = llama_align_error();
    err.struct_size = sizeof err;
    const llama_align_status status = call(&err);
    if (status < 0) {
        throw error(status, err.message);
    }
    return status;
}

template <class Params> Params defaults(llama_align_status (*init)(Params *, std::uint32_t, llama_align_error *)) {
    Params params = Params();
    check([&](llama_align_error * err) { return init(&params, static_cast<std::uint32_t>(sizeof params), err); });
    return params;
}

// A struct that a call fills in.
template <class Out> Out sized() {
    Out out = Out();
    out.struct_size = static_cast<std::uint32_t>(sizeof out);
    return out;
}

template <class T, void (*Free)(T *)> struct deleter {
    void operator()(T * handle) const noexcept { Free(handle); }
};

template <class T, void (*Free)(T *)> using owner = std::unique_ptr<T, deleter<T, Free>>;

inline std::vector<const char *> pointers(const std::vector<std::string> & texts) {
    std::vector<const char *> list;
    list.reserve(texts.size());
    for (const std::string & text : texts) {
        list.push_back(text.c_str());
    }
    return list;
}

inline void same_length(std::size_t a, std::size_t b) {
    if (a != b) {
        throw error(LLAMA_ALIGN_ERR_ARGUMENT, "lists of different lengths");
    }
}

} // namespace detail

inline llama_align_model_params model_params() { return detail::defaults(llama_align_model_params_init); }
inline llama_align_check_params check_params() { return detail::defaults(llama_align_check_params_init); }
inline llama_align_dataset_params dataset_params() { return detail::defaults(llama_align_dataset_params_init); }
inline llama_align_adapter_params adapter_params() { return detail::defaults(llama_align_adapter_params_init); }
inline llama_align_trainer_params trainer_params() { return detail::defaults(llama_align_trainer_params_init); }
inline llama_align_limit_params limit_params() { return detail::defaults(llama_align_limit_params_init); }
inline llama_align_merge_params merge_params() { return detail::defaults(llama_align_merge_params_init); }
inline llama_align_neurons_params neurons_params() { return detail::defaults(llama_align_neurons_params_init); }
inline llama_align_weigh_params weigh_params() { return detail::defaults(llama_align_weigh_params_init); }

inline llama_align_hma_params hma_params() { return detail::defaults(llama_align_hma_params_init); }
inline llama_align_evaluate_params evaluate_params() { return detail::defaults(llama_align_evaluate_params_init); }
inline llama_align_task_params task_params() { return detail::defaults(llama_align_task_params_init); }

// Whose llama.cpp is used. Without one, models are opened by the one that is built in.
class runtime {
public:
    // The one that is built in.
    runtime() {
        llama_align_runtime * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_runtime_built_in(&out, err); });
        handle_.reset(out);
    }

    // The host's: what llama_align_host_fill() of llama-align-host.h filled in.
    explicit runtime(const llama_align_host & host) {
        llama_align_runtime * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_runtime_from_host(&host, &out, err); });
        handle_.reset(out);
    }

    // The one that this process has loaded, without its headers.
    static runtime from_process() {
        llama_align_runtime * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_runtime_from_process(&out, err); });
        return runtime(out);
    }

    // The one of a shared library, or of a directory with one libllama, without its headers.
    static runtime from_library(const std::string & path) {
        llama_align_runtime * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_runtime_from_library(path.c_str(), &out, err); });
        return runtime(out);
    }

    llama_align_runtime_info describe() const {
        auto out = detail::sized<llama_align_runtime_info>();
        detail::check([&](llama_align_error * err) { return llama_align_runtime_describe(get(), &out, err); });
        return out;
    }

    // All devices, the CPU among them.
    std::vector<llama_align_device> devices() const {
        std::uint64_t n = 0;
        detail::check([&](llama_align_error * err) { return llama_align_runtime_device_count(get(), &n, err); });
        std::vector<llama_align_device> list;
        for (std::uint64_t i = 0; i < n; i++) {
            list.push_back(detail::sized<llama_align_device>());
            detail::check([&](llama_align_error * err) {
                return llama_align_runtime_device(get(), i, &list.back(), err);
            });
        }
        return list;
    }

    void set_log(llama_align_log_fn listener, void * user_data) {
        detail::check([&](llama_align_error * err) {
            return llama_align_runtime_set_log(get(), listener, user_data, err);
        });
    }

    llama_align_runtime * get() const noexcept { return handle_.get(); }

private:
    explicit runtime(llama_align_runtime * handle) : handle_(handle) {}

    detail::owner<llama_align_runtime, llama_align_runtime_free> handle_;
};

class model {
public:
    explicit model(const std::string & path) {
        llama_align_model * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_model_open(path.c_str(), &out, err); });
        handle_.reset(out);
    }

    model(const runtime & by, const std::string & path) {
        llama_align_model * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_model_open_with(by.get(), path.c_str(), &out, err);
        });
        handle_.reset(out);
    }

    // With weights on devices: names separated by commas, "none", or NULL for what `params` asks for.
    model(const runtime & by, const std::string & path, const char * devices,
          const llama_align_model_params & params = model_params()) {
        llama_align_model * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_model_open_on(by.get(), path.c_str(), devices, &params, &out, err);
        });
        handle_.reset(out);
    }

    // A model that the host has open, and the file it was loaded from, or NULL. The host must not free it before this and what was
    // made from it.
    static model attach(const runtime & by, void * llama_model, const char * path) {
        llama_align_model * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_model_attach(by.get(), llama_model, path, &out, err);
        });
        return model(out);
    }

    llama_align_placement placement() const {
        auto out = detail::sized<llama_align_placement>();
        detail::check([&](llama_align_error * err) { return llama_align_model_placement(get(), &out, err); });
        return out;
    }

    llama_align_model_info describe() const {
        auto out = detail::sized<llama_align_model_info>();
        detail::check([&](llama_align_error * err) { return llama_align_model_describe(get(), &out, err); });
        return out;
    }

    llama_align_check_report check(const llama_align_check_params & params = check_params()) const {
        auto out = detail::sized<llama_align_check_report>();
        detail::check([&](llama_align_error * err) { return llama_align_model_check(get(), &params, &out, err); });
        return out;
    }

    llama_align_model * get() const noexcept { return handle_.get(); }

private:
    explicit model(llama_align_model * handle) : handle_(handle) {}
    detail::owner<llama_align_model, llama_align_model_free> handle_;
};

class adapter;

class dataset {
public:
    dataset(const model & of, const std::string & path, const llama_align_dataset_params & params = dataset_params()) {
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_open(of.get(), path.c_str(), &params, &out, err);
        });
        handle_.reset(out);
    }

    /** A file that calls its columns otherwise: "prompt=question,chosen=right_answer". */
    static dataset columns(const model & of, const std::string & path, const std::string & columns,
                           const llama_align_dataset_params & params = dataset_params()) {
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_open_columns(of.get(), path.c_str(), columns.c_str(), &params, &out, err);
        });
        return dataset(out);
    }

    /** Rows as a file has them: one JSON object each. */
    static dataset json(const model & of, const std::vector<std::string> & rows,
                        const llama_align_dataset_params & params = dataset_params()) {
        const auto r = detail::pointers(rows);
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_from_json(of.get(), r.data(), r.size(), &params, &out, err);
        });
        return dataset(out);
    }

    static dataset completions(const model & of, const std::vector<std::string> & prompts,
                               const std::vector<std::string> & completions,
                               const llama_align_dataset_params & params = dataset_params()) {
        detail::same_length(prompts.size(), completions.size());
        const auto p = detail::pointers(prompts), c = detail::pointers(completions);
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_from_completions(of.get(), p.data(), c.data(), p.size(), &params, &out, err);
        });
        return dataset(out);
    }

    static dataset labelled(const model & of, const std::vector<std::string> & prompts,
                            const std::vector<std::string> & completions, const std::vector<std::uint8_t> & labels,
                            const llama_align_dataset_params & params = dataset_params()) {
        detail::same_length(prompts.size(), completions.size());
        detail::same_length(prompts.size(), labels.size());
        const auto p = detail::pointers(prompts), c = detail::pointers(completions);
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_from_labelled(of.get(), p.data(), c.data(), labels.data(), p.size(), &params,
                                                     &out, err);
        });
        return dataset(out);
    }

    static dataset pairs(const model & of, const std::vector<std::string> & prompts,
                         const std::vector<std::string> & chosen, const std::vector<std::string> & rejected,
                         const llama_align_dataset_params & params = dataset_params()) {
        detail::same_length(prompts.size(), chosen.size());
        detail::same_length(prompts.size(), rejected.size());
        const auto p = detail::pointers(prompts), c = detail::pointers(chosen), r = detail::pointers(rejected);
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_from_pairs(of.get(), p.data(), c.data(), r.data(), p.size(), &params, &out, err);
        });
        return dataset(out);
    }

    // The rows but these: a row's id is its number, from 1.
    dataset without(const std::vector<std::uint64_t> & ids) const {
        llama_align_dataset * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_without(get(), ids.data(), ids.size(), &out, err);
        });
        return dataset(out);
    }

    std::uint64_t count() const {
        std::uint64_t out = 0;
        detail::check([&](llama_align_error * err) { return llama_align_dataset_count(get(), &out, err); });
        return out;
    }

    // Tokens of an answer that have a loss; 1 is the rejected one of a pair.
    std::uint64_t answer_tokens(std::uint64_t row, std::uint32_t answer = 0) const {
        std::uint64_t out = 0;
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_answer_tokens(get(), row, answer, &out, err);
        });
        return out;
    }

    // A number for each of them, in trainers that are made afterwards.
    void set_weights(std::uint64_t row, std::uint32_t answer, const std::vector<float> & weights) {
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_set_weights(get(), row, answer, weights.data(), weights.size(), err);
        });
    }

    // 1 for the rejected tokens that an adapter has made less likely, 0 for the others; how many are 1.
    std::uint64_t weigh(const adapter & by, const llama_align_weigh_params & params = weigh_params());

    // Those of a file that llama-align token-weights wrote.
    void load_weights(const std::string & path) {
        detail::check([&](llama_align_error * err) {
            return llama_align_dataset_load_weights(get(), path.c_str(), err);
        });
    }

    llama_align_dataset_info describe() const {
        auto out = detail::sized<llama_align_dataset_info>();
        detail::check([&](llama_align_error * err) { return llama_align_dataset_describe(get(), &out, err); });
        return out;
    }

    llama_align_dataset * get() const noexcept { return handle_.get(); }

private:
    explicit dataset(llama_align_dataset * handle) : handle_(handle) {}
    detail::owner<llama_align_dataset, llama_align_dataset_free> handle_;
};

class adapter {
public:
    // A new one on all linear weights of the blocks, or on those that `targets` names.
    explicit adapter(const model & of, const llama_align_adapter_params & params = adapter_params(),
                     const char * targets = nullptr) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_new(of.get(), targets, &params, &out, err);
        });
        handle_.reset(out);
    }

    // On some blocks ("0,10-29"), with ranks and alphas of some modules ("attn_q=8,ffn_down=4"); NULL for all, and for none.
    static adapter shaped(const model & of, const char * targets, const char * layers, const char * ranks = nullptr,
                          const char * alphas = nullptr, const llama_align_adapter_params & params = adapter_params()) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_new_shaped(of.get(), targets, layers, ranks, alphas, &params, &out, err);
        });
        return adapter(out);
    }

    static adapter load(const model & of, const std::string & path) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_load(of.get(), path.c_str(), &out, err);
        });
        return adapter(out);
    }

    static adapter from_bytes(const model & of, const std::vector<std::uint8_t> & bytes) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_from_memory(of.get(), bytes.data(), bytes.size(), &out, err);
        });
        return adapter(out);
    }

    // One of PEFT, from its directory.
    static adapter from_peft(const model & of, const std::string & directory) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_from_peft(of.get(), directory.c_str(), &out, err);
        });
        return adapter(out);
    }

    // A free change of the rows of a mask.
    static adapter from_rows(const model & of, const std::string & mask, const char * targets = nullptr) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_from_rows(of.get(), targets, mask.c_str(), &out, err);
        });
        return adapter(out);
    }

    // Whatever trains it from now on moves what the mask leaves free, and nothing else.
    void set_mask(const std::string & mask) {
        detail::check([&](llama_align_error * err) { return llama_align_adapter_set_mask(get(), mask.c_str(), err); });
    }

    // Changes of whole weights, of rows, or of norms and biases: out, and in, to go on with them.
    void save_change(const std::string & path) const {
        detail::check([&](llama_align_error * err) { return llama_align_adapter_save_change(get(), path.c_str(), err); });
    }

    void load_change(const std::string & path) {
        detail::check([&](llama_align_error * err) { return llama_align_adapter_load_change(get(), path.c_str(), err); });
    }

    // Writes the mask of what it changes most.
    void neurons(const std::string & mask, const llama_align_neurons_params & params = neurons_params()) const {
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_neurons(get(), &params, mask.c_str(), err);
        });
    }

    // The sum of two, each times its scale, exactly.
    static adapter sum(const adapter & a, float scale_a, const adapter & b, float scale_b) {
        const llama_align_adapter * const parts[] = {a.get(), b.get()};
        const float scales[] = {scale_a, scale_b};
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_adapter_sum(parts, scales, 2, &out, err); });
        return adapter(out);
    }

    adapter scaled(float scale) const {
        const llama_align_adapter * const part = get();
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) { return llama_align_adapter_sum(&part, &scale, 1, &out, err); });
        return adapter(out);
    }

    // The nearest of a smaller rank; `kept` may be NULL, or has its struct_size set.
    adapter truncated(const llama_align_limit_params & params = limit_params(), llama_align_kept * kept = nullptr) const {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_truncate(get(), &params, kept, &out, err);
        });
        return adapter(out);
    }

    // What leads from a model to the one in a file.
    static adapter extract(const model & of, const std::string & tuned, std::uint64_t seed = 0,
                           const llama_align_limit_params & params = limit_params(), llama_align_kept * kept = nullptr) {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_extract(of.get(), tuned.c_str(), &params, seed, kept, &out, err);
        });
        return adapter(out);
    }

    // Every block's part times its own number: 1 minus a ratio of hma().
    adapter scaled_blocks(const std::vector<double> & scales) const {
        llama_align_adapter * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_scale_blocks(get(), scales.data(), scales.size(), &out, err);
        });
        return adapter(out);
    }

    void save(const std::string & path) const {
        detail::check([&](llama_align_error * err) { return llama_align_adapter_save(get(), path.c_str(), err); });
    }

    // PEFT's two files, into a directory that is there.
    void to_peft(const std::string & directory, const char * base_model = nullptr) const {
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_to_peft(get(), directory.c_str(), base_model, err);
        });
    }

    std::vector<std::uint8_t> bytes() const {
        std::size_t n = 0;
        detail::check([&](llama_align_error * err) { return llama_align_adapter_to_memory(get(), nullptr, 0, &n, err); });
        std::vector<std::uint8_t> out(n);
        detail::check([&](llama_align_error * err) {
            return llama_align_adapter_to_memory(get(), out.data(), out.size(), &n, err);
        });
        out.resize(n);
        return out;
    }

    llama_align_adapter * get() const noexcept { return handle_.get(); }

private:
    explicit adapter(llama_align_adapter * handle) : handle_(handle) {}
    detail::owner<llama_align_adapter, llama_align_adapter_free> handle_;
};

inline std::uint64_t dataset::weigh(const adapter & by, const llama_align_weigh_params & params) {
    std::uint64_t n = 0;
    detail::check([&](llama_align_error * err) { return llama_align_dataset_weigh(get(), by.get(), &params, &n, err); });
    return n;
}

class trainer {
public:
    // Returns false to stop.
    using progress_fn = std::function<bool(const llama_align_progress &)>;

    trainer(const adapter & moved, const dataset & rows, const llama_align_trainer_params & params = trainer_params()) {
        llama_align_trainer * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_trainer_new(moved.get(), rows.get(), &params, &out, err);
        });
        handle_.reset(out);
    }

    // A trainer that stands where a checkpoint does.
    trainer(const adapter & moved, const dataset & rows, const llama_align_trainer_params & params,
            const std::string & checkpoint, std::uint32_t flags = 0) {
        llama_align_trainer * out = nullptr;
        detail::check([&](llama_align_error * err) {
            return llama_align_trainer_resume(moved.get(), rows.get(), &params, checkpoint.c_str(), flags, &out, err);
        });
        handle_.reset(out);
    }

    void save(const std::string & checkpoint) {
        detail::check([&](llama_align_error * err) { return llama_align_trainer_save(get(), checkpoint.c_str(), err); });
    }

    // LLAMA_ALIGN_OK, _MORE or _CANCELLED, as for all that train.
    llama_align_status step() {
        return detail::check([&](llama_align_error * err) { return llama_align_trainer_step(get(), nullptr, err); });
    }

    llama_align_status run(const progress_fn & progress = progress_fn()) {
        return driven(progress, [&](llama_align_progress_fn fn, void * user_data, llama_align_error * err) {
            return llama_align_trainer_run(get(), fn, user_data, err);
        });
    }

    llama_align_status run_for(std::uint64_t max_ms, const progress_fn & progress = progress_fn()) {
        return driven(progress, [&](llama_align_progress_fn fn, void * user_data, llama_align_error * err) {
            return llama_align_trainer_run_for(get(), max_ms, fn, user_data, err);
        });
    }

    // Any thread: no step is made until it is called with false; a run() waits.
    void pause(bool paused = true) {
        detail::check([&](llama_align_error * err) {
            return llama_align_trainer_set_paused(get(), paused ? 1 : 0, err);
        });
    }

    void cancel() {
        detail::check([&](llama_align_error * err) { return llama_align_trainer_cancel(get(), err); });
    }

    llama_align_progress report() const {
        auto out = detail::sized<llama_align_progress>();
        detail::check([&](llama_align_error * err) { return llama_align_trainer_report(get(), &out, err); });
        return out;
    }

    llama_align_trainer * get() const noexcept { return handle_.get(); }

private:
    // Nothing may be thrown through the library: it is kept, and thrown behind it.
    struct call {
        const progress_fn * progress;
        std::exception_ptr thrown;
    };

    static int32_t tell(const llama_align_progress * progress, void * user_data) {
        call * const of = static_cast<call *>(user_data);
        try {
            return (*of->progress)(*progress) ? LLAMA_ALIGN_CONTINUE : LLAMA_ALIGN_STOP;
        } catch (...) {
            of->thrown = std::current_exception();
            return LLAMA_ALIGN_STOP;
        }
    }

    template <class Drive> llama_align_status driven(const progress_fn & progress, Drive drive) {
        call of = {&progress, nullptr};
        const llama_align_status status = detail::check(
            [&](llama_align_error * err) { return drive(progress ? &trainer::tell : nullptr, &of, err); });
        if (of.thrown) {
            std::rethrow_exception(of.thrown);
        }
        return status;
    }

    detail::owner<llama_align_trainer, llama_align_trainer_free> handle_;
};

// One model of several, by a recipe in mergekit's words. `report_path` may be NULL.
inline llama_align_merge_report merge_files(const std::string & recipe, const std::string & output_path,
                                            std::uint64_t seed = 0, const char * out_type = nullptr,
                                            const llama_align_merge_params & params = merge_params(),
                                            const char * report_path = nullptr) {
    auto out = detail::sized<llama_align_merge_report>();
    detail::check([&](llama_align_error * err) {
        return llama_align_merge_files(recipe.c_str(), seed, out_type, &params, output_path.c_str(), report_path, &out,
                                       err);
    });
    return out;
}

// One model of a model and adapters. `report_path` may be NULL.
inline llama_align_merge_report fold_files(const std::string & model_path, const std::vector<std::string> & adapters,
                                           const std::vector<float> & scales, const std::string & output_path,
                                           const char * out_type = nullptr,
                                           const llama_align_merge_params & params = merge_params(),
                                           const char * report_path = nullptr) {
    detail::same_length(adapters.size(), scales.size());
    const auto paths = detail::pointers(adapters);
    auto out = detail::sized<llama_align_merge_report>();
    detail::check([&](llama_align_error * err) {
        return llama_align_fold_files(model_path.c_str(), paths.data(), scales.data(), paths.size(), out_type, &params,
                                      output_path.c_str(), report_path, &out, err);
    });
    return out;
}

// Weights of the model before alignment, one for every block: `ratios` has room for them all.
inline llama_align_hma_report hma(const dataset & responses, const adapter & aligned, std::vector<double> & ratios,
                                  const llama_align_hma_params & params = hma_params()) {
    auto out = detail::sized<llama_align_hma_report>();
    detail::check([&](llama_align_error * err) {
        return llama_align_hma(responses.get(), aligned.get(), nullptr, &params, ratios.data(), ratios.size(), &out, err);
    });
    return out;
}

inline llama_align_hma_report hma(const dataset & responses, const model & after, std::vector<double> & ratios,
                                  const llama_align_hma_params & params = hma_params()) {
    auto out = detail::sized<llama_align_hma_report>();
    detail::check([&](llama_align_error * err) {
        return llama_align_hma(responses.get(), nullptr, after.get(), &params, ratios.data(), ratios.size(), &out, err);
    });
    return out;
}

// The mean of two models, with a weight of the first for each block, or one for all. `report_path` may be NULL.
inline llama_align_merge_report average_files(const std::string & before_path, const std::string & after_path,
                                              const std::vector<double> & ratios, const std::string & output_path,
                                              std::uint32_t others = LLAMA_ALIGN_OTHERS_FAITHFUL,
                                              const char * out_type = nullptr,
                                              const llama_align_merge_params & params = merge_params(),
                                              const char * report_path = nullptr) {
    auto out = detail::sized<llama_align_merge_report>();
    detail::check([&](llama_align_error * err) {
        return llama_align_average_files(before_path.c_str(), after_path.c_str(), ratios.data(), ratios.size(), others,
                                         out_type, &params, output_path.c_str(), report_path, &out, err);
    });
    return out;
}

inline llama_align_evaluation evaluate(const dataset & rows, const adapter * moved = nullptr,
                                       const llama_align_evaluate_params & params = evaluate_params()) {
    auto out = detail::sized<llama_align_evaluation>();
    detail::check([&](llama_align_error * err) {
        return llama_align_evaluate(rows.get(), moved ? moved->get() : nullptr, &params, &out, err);
    });
    return out;
}

// A task on its items; metrics by their names.
inline std::map<std::string, double> task(const model & of, std::uint32_t number, const std::string & path,
                                          const adapter * moved = nullptr,
                                          const llama_align_task_params & params = task_params()) {
    auto out = detail::sized<llama_align_task_report>();
    detail::check([&](llama_align_error * err) {
        return llama_align_task_run(of.get(), moved ? moved->get() : nullptr, number, path.c_str(), &params, &out, err);
    });
    std::map<std::string, double> metrics;
    for (std::uint32_t i = 0; i < out.n_metrics; i++) {
        metrics[out.names[i]] = out.values[i];
    }
    return metrics;
}

// report.html of a run's directory.
inline void write_report(const std::string & directory) {
    detail::check([&](llama_align_error * err) { return llama_align_report_write(directory.c_str(), err); });
}

} // namespace llama_align

#endif
