// A chat that learns from thumbs: llama.cpp answers, /good and /bad judge the last answer, and between two answers an adapter is
// trained from all judgements in slices of time. A new adapter goes live only if it does better on judgements that were held out and
// stays near the model; otherwise the live one stays. Everything happens on the model that the chat has open.
//
//     c++ -std=c++17 06_live_chat.cpp <llama.cpp> -lllama_align; ./06_live_chat model.gguf [threads [KL limit]]
//
// Lines: a question; /good or 👍; /bad or 👎; /undo ID (a judgement is withdrawn, and the adapter made anew without it); /new (a new
// conversation); /train (waits until it has learned); /pause and /resume (no training between answers); /busy (trains while it answers); /speed; /quit.
#include "llama-align-host.h"
#include "llama-align.hpp"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

const int N_CTX = 1024, N_ANSWER = 96, SLICE_MS = 300;
const std::size_t EVERY = 4;  // each fourth judgement is held out
const double KL_MAX = 1.0;    // nats per token of an answer, where nothing else is asked for

std::string text_of(const llama_vocab * vocab, llama_token token) {
    char piece[128];
    const int n = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, false);
    return std::string(piece, n < 0 ? 0 : static_cast<std::size_t>(n));
}

// An answer may end within a character.
std::string whole_characters(const std::string & text) {
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
        const unsigned char c = static_cast<unsigned char>(text[i]);
        const std::size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        bool whole = c < 0x80 || (c >= 0xc2 && c < 0xf5 && i + n <= text.size());
        for (std::size_t k = 1; whole && k < n; k++) {
            whole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
        }
        if (whole) {
            out.append(text, i, n);
        }
        i += whole ? n : 1;
    }
    return out;
}

// The host: a model, a context, a conversation, and the adapter that is live.
class chat {
public:
    chat(const char * path, int n_threads) {
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        llama_backend_init();
        model_ = llama_model_load_from_file(path, llama_model_default_params());
        auto params = llama_context_default_params();
        params.n_ctx = params.n_batch = N_CTX;
        params.n_threads = params.n_threads_batch = n_threads;
        ctx_ = model_ ? llama_init_from_model(model_, params) : nullptr;
        probe_ = ctx_ ? llama_init_from_model(model_, params) : nullptr;
        if (!probe_) {
            throw std::runtime_error(std::string(path) + ": llama.cpp cannot load it");
        }
        vocab_ = llama_model_get_vocab(model_);
    }

    ~chat() {
        llama_free(ctx_);
        llama_free(probe_);
        llama_model_free(model_);
    }

    llama_model * model() { return model_; }
    const std::string & prompt() const { return prompt_; }

    std::vector<llama_token> tokens(const std::string & text) const {
        std::vector<llama_token> out(text.size() + 8);
        const int n = llama_tokenize(vocab_, text.data(), static_cast<int>(text.size()), out.data(),
                                     static_cast<int>(out.size()), true, true);
        out.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
        return out;
    }

    // The next question begins a new conversation.
    void forget() { turns_.clear(); }

    // Answers greedily; `on_token` runs after every token.
    template <class OnToken> std::string answer(const std::string & question, OnToken on_token) {
        turns_.push_back({"user", question});
        prompt_ = rendered();
        auto wanted = tokens(prompt_);
        if (wanted.size() + N_ANSWER > N_CTX) {  // forget the oldest turns
            turns_.erase(turns_.begin(), turns_.end() - 1);
            prompt_ = rendered();
            wanted = tokens(prompt_);
        }
        // What the cache holds already is not decoded again.
        std::size_t same = 0;
        while (same + 1 < wanted.size() && same < cached_.size() && cached_[same] == wanted[same]) {
            same++;
        }
        llama_memory_seq_rm(llama_get_memory(ctx_), 0, static_cast<llama_pos>(same), -1);
        cached_.resize(same);
        std::vector<llama_token> next(wanted.begin() + static_cast<std::ptrdiff_t>(same), wanted.end());
        std::string answer;
        const auto greedy = std::unique_ptr<llama_sampler, void (*)(llama_sampler *)>(llama_sampler_init_greedy(), llama_sampler_free);
        for (int i = 0; i < N_ANSWER; i++) {
            if (llama_decode(ctx_, llama_batch_get_one(next.data(), static_cast<int>(next.size()))) != 0) {
                throw std::runtime_error("llama_decode failed");
            }
            cached_.insert(cached_.end(), next.begin(), next.end());
            next.assign(1, llama_sampler_sample(greedy.get(), ctx_, -1));
            if (llama_vocab_is_eog(vocab_, next[0])) {
                break;
            }
            answer += text_of(vocab_, next[0]);
            on_token();
        }
        answer = whole_characters(answer);
        turns_.push_back({"assistant", answer});
        return answer;
    }

    // Puts an adapter in place on the decoding thread, from memory. What the cache holds was computed without it: it is stale.
    void put(const std::vector<std::uint8_t> & file) {
        llama_adapter_lora * next = file.empty() ? nullptr : from_memory(file);
        float scale = 1.0f;
        llama_set_adapters_lora(ctx_, &next, next ? 1 : 0, &scale);
        llama_memory_clear(llama_get_memory(ctx_), true);
        std::vector<llama_token> history;
        history.swap(cached_);
        if (!history.empty() && llama_decode(ctx_, llama_batch_get_one(history.data(), static_cast<int>(history.size()))) == 0) {
            cached_ = history;
        }
        if (live_) {
            llama_adapter_lora_free(live_);
        }
        live_ = next;
    }

    // Mean divergence of the model with an adapter from the model alone, in nats per token of the answer.
    double divergence(const std::vector<std::uint8_t> & file, const std::string & prompt, const std::string & answer) {
        llama_adapter_lora * adapter = from_memory(file);
        auto all = tokens(prompt);
        const std::size_t first = all.size() - 1;
        const auto rest = tokens(answer);
        all.insert(all.end(), rest.begin(), rest.end());
        all.resize(std::min<std::size_t>(all.size(), N_CTX));
        const auto without = log_probs(nullptr, all, first), with = log_probs(adapter, all, first);
        llama_adapter_lora_free(adapter);
        double sum = 0.0;
        for (std::size_t i = 0; i < with.size(); i++) {
            sum += std::exp(with[i]) * (with[i] - without[i]);
        }
        return sum / static_cast<double>(all.size() - first);
    }

private:
    struct turn {
        std::string role, text;
    };

    std::string rendered() const {
        std::vector<llama_chat_message> messages;
        for (const turn & t : turns_) {
            messages.push_back({t.role.c_str(), t.text.c_str()});
        }
        const char * own = llama_model_chat_template(model_, nullptr);
        std::string out(16384, '\0');
        const int n = llama_chat_apply_template(own ? own : "chatml", messages.data(), messages.size(), true, &out[0], 16384);
        if (n < 0 || n > 16384) {  // a template that llama.cpp does not know, or a long talk
            out = turns_.back().text + "\n";
        } else {
            out.resize(static_cast<std::size_t>(n));
        }
        return out;
    }

    // llama.cpp loads adapters from files: this one lies in memory.
    llama_adapter_lora * from_memory(const std::vector<std::uint8_t> & bytes) {
        const int fd = memfd_create("adapter", 0);
        const bool written = fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
        const std::string path = "/proc/self/fd/" + std::to_string(fd);
        llama_adapter_lora * adapter = written ? llama_adapter_lora_init(model_, path.c_str()) : nullptr;
        close(fd);
        if (!adapter) {
            throw std::runtime_error("llama.cpp refuses the adapter");
        }
        return adapter;
    }

    std::vector<double> log_probs(llama_adapter_lora * adapter, std::vector<llama_token> & all, std::size_t first) {
        float scale = 1.0f;
        llama_set_adapters_lora(probe_, &adapter, adapter ? 1 : 0, &scale);
        llama_memory_clear(llama_get_memory(probe_), true);
        llama_batch batch = llama_batch_init(static_cast<int>(all.size()), 0, 1);
        batch.n_tokens = static_cast<int>(all.size());
        for (std::size_t i = 0; i < all.size(); i++) {
            batch.token[i] = all[i];
            batch.pos[i] = static_cast<llama_pos>(i);
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = i >= first;
        }
        std::vector<double> out;
        const int n_vocab = llama_vocab_n_tokens(vocab_);
        if (llama_decode(probe_, batch) == 0) {
            for (std::size_t i = first; i < all.size(); i++) {
                const float * logits = llama_get_logits_ith(probe_, static_cast<int>(i));
                double most = logits[0], sum = 0.0;
                for (int v = 0; v < n_vocab; v++) {
                    most = std::max(most, static_cast<double>(logits[v]));
                }
                for (int v = 0; v < n_vocab; v++) {
                    sum += std::exp(logits[v] - most);
                }
                for (int v = 0; v < n_vocab; v++) {
                    out.push_back(logits[v] - most - std::log(sum));
                }
            }
        }
        llama_batch_free(batch);
        return out;
    }

    llama_model * model_ = nullptr;
    llama_context *ctx_ = nullptr, *probe_ = nullptr;
    const llama_vocab * vocab_ = nullptr;
    llama_adapter_lora * live_ = nullptr;
    std::vector<turn> turns_;
    std::vector<llama_token> cached_;
    std::string prompt_;
};

// Judgements, each under an id, and the adapter that is made of them.
class teacher {
public:
    teacher(chat & host, const char * path, unsigned n_threads, double kl_max) : host_(host), n_threads_(n_threads), kl_max_(kl_max) {
        llama_align_host table;
        llama_align_host_fill(&table);
        model_.reset(new llama_align::model(llama_align::model::attach(llama_align::runtime(table), host.model(), path)));
        const auto at = model_->placement();
        std::printf("[weights: %u shared, %u from the file, %u refused]\n", at.n_shared, at.n_mapped, at.n_refused);
        auto params = llama_align::check_params();
        params.n_threads = n_threads;
        model_->check(params);
    }

    std::size_t judge(const std::string & prompt, const std::string & answer, bool good) {
        prompts_.push_back(prompt);
        answers_.push_back(answer);
        labels_.push_back(good);
        stale_ = true;
        return prompts_.size();
    }

    bool withdraw(std::size_t id) {
        if (id < 1 || id > prompts_.size() || !withdrawn_.emplace(id, true).second) {
            return false;
        }
        stale_ = true;
        return true;
    }

    // Whether there is something to learn.
    bool has_work() const { return trainer_ || stale_ || is_done_; }

    // One slice of training, on any thread but one at a time.
    void work() {
        if (!trainer_ && stale_) {
            begin();
        }
        if (trainer_ && trainer_->run_for(SLICE_MS) != LLAMA_ALIGN_MORE) {
            is_done_ = true;
        }
    }

    bool is_done() const { return is_done_; }

    // On the decoding thread: the candidate goes live, or the live adapter stays.
    void decide() {
        is_done_ = false;
        if (!adapter_) {
            host_.put({});
            return;
        }
        const auto candidate = adapter_->bytes();
        double gain = 0.0, kl = 0.0;
        const std::size_t n = held_out_.size();
        if (n > 0) {
            std::vector<std::uint64_t> others;
            for (std::uint64_t id = 1; id <= prompts_.size(); id++) {
                if (!is_held_out(id) && !withdrawn_.count(id)) {
                    others.push_back(id);
                }
            }
            const auto rows = withdrawn_dataset().without(others);
            auto params = llama_align::evaluate_params();
            params.n_threads = n_threads_;
            const auto found = llama_align::evaluate(rows, adapter_.get(), params);
            gain += std::isnan(found.reward_chosen) ? 0.0 : found.reward_chosen;
            gain -= std::isnan(found.reward_rejected) ? 0.0 : found.reward_rejected;
        }
        for (std::uint64_t id : held_out_.empty() ? trained_ : held_out_) {
            kl += host_.divergence(candidate, prompts_[id - 1], answers_[id - 1]) / static_cast<double>(held_out_.empty() ? trained_.size() : n);
        }
        const bool accepted = (n == 0 || gain > 0.0) && kl <= kl_max_;
        std::printf("[%zu judgements, %zu held out: reward %+.3f, KL %.3f of %.1f: %s]\n", trained_.size(), n, gain, kl,
                    kl_max_, accepted ? "live" : "rolled back");
        if (accepted) {
            host_.put(candidate);
        }
        trainer_.reset();
    }

private:
    bool is_held_out(std::uint64_t id) const { return id % EVERY == 0; }

    llama_align::dataset withdrawn_dataset() const {
        auto params = llama_align::dataset_params();
        params.method = LLAMA_ALIGN_METHOD_KTO;
        // The prompts are those that the host decoded, template and all.
        params.flags = LLAMA_ALIGN_DATASET_PLAIN | LLAMA_ALIGN_DATASET_PARSE_SPECIAL;
        auto all = llama_align::dataset::labelled(*model_, prompts_, answers_, labels_, params);
        std::vector<std::uint64_t> ids;
        for (const auto & row : withdrawn_) {
            ids.push_back(row.first);
        }
        return all.without(ids);
    }

    // Always from the start and from all judgements: the adapter depends on nothing else.
    void begin() {
        stale_ = false;
        trained_.clear();
        held_out_.clear();
        for (std::uint64_t id = 1; id <= prompts_.size(); id++) {
            if (!withdrawn_.count(id)) {
                (is_held_out(id) ? held_out_ : trained_).push_back(id);
            }
        }
        if (trained_.empty()) {  // everything was withdrawn
            adapter_.reset();
            is_done_ = true;
            return;
        }
        adapter_.reset(new llama_align::adapter(*model_));
        auto params = llama_align::trainer_params();
        params.method = LLAMA_ALIGN_METHOD_KTO;
        params.n_threads = n_threads_;
        params.batch_size = 4;
        params.grad_accum = 1;
        params.epochs = 10;
        params.learning_rate = 1e-3;
        trainer_.reset(new llama_align::trainer(*adapter_, held_out_.empty() ? withdrawn_dataset() : withdrawn_dataset().without(held_out_), params));
    }

    chat & host_;
    unsigned n_threads_;
    double kl_max_;
    std::unique_ptr<llama_align::model> model_;
    std::unique_ptr<llama_align::adapter> adapter_;
    std::unique_ptr<llama_align::trainer> trainer_;
    std::vector<std::string> prompts_, answers_;
    std::vector<std::uint8_t> labels_;
    std::map<std::uint64_t, bool> withdrawn_;
    std::vector<std::uint64_t> trained_, held_out_;
    bool stale_ = false;
    std::atomic<bool> is_done_{false};
};

// Tokens per second of the answers under one condition.
struct speed {
    double seconds = 0.0;
    int n = 0;
    double rate() const { return seconds > 0.0 ? n / seconds : 0.0; }
};

void serve(const char * path, unsigned n_threads, double kl_max) {
    chat host(path, static_cast<int>(n_threads));
    teacher learns(host, path, n_threads, kl_max);
    std::map<std::string, speed> speeds;
    bool paused = false, busy = false;
    std::string line, last;
    const auto train = [&](bool to_the_end) {
        while (learns.has_work()) {
            learns.work();
            if (learns.is_done()) {
                learns.decide();
            }
            pollfd input = {0, POLLIN, 0};
            if (!to_the_end && (std::cin.rdbuf()->in_avail() > 0 || poll(&input, 1, 0) > 0)) {
                return;  // somebody has typed: the rest comes later
            }
        }
    };
    while (true) {
        std::printf("> ");
        std::fflush(stdout);
        if (!paused) {
            train(false);
        }
        if (!std::getline(std::cin, line) || line == "/quit") {
            break;
        }
        if (!isatty(0)) {
            std::printf("%s\n", line.c_str());
        }
        const bool good = line == "/good" || line == "👍";
        if (good || line == "/bad" || line == "👎") {
            if (last.find_first_not_of(" \t\n") != std::string::npos) {
                std::printf("[judgement %zu]\n", learns.judge(host.prompt(), last, good));
            }
        } else if (line.compare(0, 6, "/undo ") == 0) {
            std::printf("%s\n", learns.withdraw(std::strtoul(line.c_str() + 6, nullptr, 10)) ? "[withdrawn]" : "[no such judgement]");
        } else if (line == "/new") {
            host.forget();
            last.clear();
        } else if (line == "/train") {
            train(true);
        } else if (line == "/pause" || line == "/resume") {
            paused = line == "/pause";
        } else if (line == "/busy") {
            busy = !busy;
        } else if (line == "/speed") {
            for (const auto & s : speeds) {
                std::printf("[%s: %.1f tokens/s]\n", s.first.c_str(), s.second.rate());
            }
        } else if (!line.empty()) {
            // Only where it is asked for: beside a decode on the same cores both are slower.
            std::atomic<bool> stop{false};
            const bool trains = busy && learns.has_work();
            std::thread worker;
            if (trains) {
                worker = std::thread([&] {
                    while (!stop && !learns.is_done() && learns.has_work()) {
                        learns.work();
                    }
                });
            }
            speed & s = speeds[trains ? "while training" : learns.has_work() ? "training paused" : "idle"];
            const auto begin = std::chrono::steady_clock::now();
            last = host.answer(line, [&] { s.n++; });
            s.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            std::printf("%s\n", last.c_str());
            if (trains) {
                stop = true;
                worker.join();
            }
        }
    }
}

} // namespace

int main(int argc, char ** argv) {
    if (argc < 2 || argc > 4) {
        std::fprintf(stderr, "usage: %s model.gguf [threads [KL limit]]\n", argv[0]);
        return 2;
    }
    try {
        // Half of the cores answer, half train; more threads than there are cores wait for each other.
        const unsigned n_cores = std::max(1u, std::thread::hardware_concurrency() / 2);
        serve(argv[1], argc > 2 ? static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10)) : n_cores,
              argc > 3 ? std::strtod(argv[3], nullptr) : KL_MAX);
    } catch (const std::exception & e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 0;
}
