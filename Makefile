# Two commands for everyone: `make demo` and `make test`. Both install what is missing.
.PHONY: demo plugin test test-full lint setup

CARGO ?= cargo

demo: setup
	sh demo/run.sh

# The library without a llama.cpp in it, for hosts that have one.
PLUGIN := $(abspath $(or $(CARGO_TARGET_DIR),target)/plugin)

plugin: setup
	$(CARGO) build --release --lib --no-default-features --features loaded --target-dir $(PLUGIN)

test: setup lint plugin
	LLAMA_ALIGN_PLUGIN=$(PLUGIN)/release/libllama_align.so $(CARGO) test --release --workspace
	@if model=$$(sh demo/fetch.sh); then \
		LLAMA_ALIGN_TEST_MODEL="$$model" $(CARGO) test --release --test it -- --ignored real_model; \
	else \
		echo "SmolLM2 cannot be fetched here: the tests on a real model were NOT run"; \
	fi

# Slower: a ten times longer run of malformed files through the program, under a limit on memory.
test-full: test
	ulimit -v 12000000; LLAMA_ALIGN_FUZZ=10 $(CARGO) test --release --test it -- hostile::fuzz

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

setup:
	@sh tests/setup.sh
