# Two commands for everyone: `make demo` and `make test`. Both install what is missing.
.PHONY: demo test test-full lint setup

CARGO ?= cargo

demo: setup
	sh demo/run.sh

test: setup lint
	$(CARGO) test --release --workspace
	$(CARGO) check --release --no-default-features --lib
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
