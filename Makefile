# Two commands for everyone: `make demo` and `make test`. Both install what is missing.
.PHONY: demo test test-full lint setup

CARGO ?= cargo

demo: setup
	sh demo/run.sh

test: setup lint
	$(CARGO) test --release --workspace
	$(CARGO) check --release --no-default-features --lib
	sh tests/real_model.sh

# Slower checks: an independent binding loads what we wrote.
test-full: test
	cd tests/oracle && $(CARGO) test --release

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

setup:
	@sh tests/setup.sh
