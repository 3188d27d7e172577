# Two commands for everyone: `make demo` and `make test`. Both install what is missing.
.PHONY: demo build install install-strip plugin test test-full lint setup setup-test setup-test-full

CARGO ?= cargo

demo: setup
	sh demo/run.sh

# The program and the library, shared and static.
build: setup
	$(CARGO) build --release

# `make build`, then as whoever may write there: `make install PREFIX=/usr DESTDIR=... LIBDIR=/usr/lib64`.
# It builds nothing. KINDS="static" installs the library without a shared one, KINDS="shared" BUILT=target/plugin/release the
# library of `make plugin`. What the archive needs grows with features: STATIC_LIBS is for those of the default build.
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
DESTDIR ?=
KINDS ?= program shared static
BUILT ?= $(or $(CARGO_TARGET_DIR),target)/release
STATIC_LIBS ?= -lstdc++ -lm -ldl -lpthread -lrt -lutil

install: export PREFIX := $(PREFIX)
install: export BINDIR := $(BINDIR)
install: export LIBDIR := $(LIBDIR)
install: export INCLUDEDIR := $(INCLUDEDIR)
install: export DATADIR := $(DATADIR)
install: export DESTDIR := $(DESTDIR)
install: export KINDS := $(KINDS)
install: export BUILT := $(BUILT)
install: export STATIC_LIBS := $(STATIC_LIBS)
install:
	@sh include/package/install.sh

# Without what only a debugger reads.
install-strip: export STRIP := strip
install-strip: install

# The library without a llama.cpp in it, for hosts that have one.
PLUGIN := $(abspath $(or $(CARGO_TARGET_DIR),target)/plugin)

plugin: setup
	$(CARGO) build --release --lib --no-default-features --features loaded --target-dir $(PLUGIN)

test: setup-test lint plugin
	LLAMA_ALIGN_PLUGIN=$(PLUGIN)/release/libllama_align.so $(CARGO) test --release --workspace
	@if model=$$(sh demo/fetch.sh); then \
		LLAMA_ALIGN_TEST_MODEL="$$model" $(CARGO) test --release --test it -- --ignored real_model --skip real_rewriter --test-threads=1; \
	else \
		echo "SmolLM2 cannot be fetched here: the tests on a real model were NOT run"; \
	fi

# The library with AddressSanitizer in it.
ASAN := $(abspath $(or $(CARGO_TARGET_DIR),target)/asan)

# Slower: a ten times longer run of malformed files through the program, under a limit on memory; training inside prebuilt
# runtimes of others, which are downloaded; a rewriter that is taught on SmolLM2; and the C interface, every misuse of it and its examples, watched by
# AddressSanitizer, by Rust's checks of unsafe code, by valgrind and by gcc's sanitizers.
test-full: setup-test-full test
	ulimit -v 12000000; LLAMA_ALIGN_FUZZ=10 $(CARGO) test --release --test it -- hostile::fuzz
	@if model=$$(sh demo/fetch.sh); then \
		sh tests/hosts/run.sh $(PLUGIN)/release/libllama_align.so "$$model" $(BUILT)/llama-align; \
	else \
		echo "SmolLM2 cannot be fetched here: prebuilt hosts were NOT run"; \
	fi
	@if model=$$(sh demo/fetch.sh); then \
		LLAMA_ALIGN_TEST_MODEL="$$model" $(CARGO) test --release --test it -- --ignored real_rewriter; \
	fi
	@echo "== the C examples with gcc's AddressSanitizer and UndefinedBehaviorSanitizer in them"
	$(CARGO) test --release --test it -- --ignored --nocapture capi::memory::gcc
	@echo "== every misuse of the C interface under valgrind"
	$(CARGO) test --release --test it -- --ignored --nocapture capi::memory::valgrind
	@if ls "$$(rustc --print sysroot)"/lib/rustlib/*/lib/*rt.asan.a >/dev/null 2>&1; then \
		echo "== every use and misuse of the C interface with AddressSanitizer in the library (it is built once more)" && \
		RUSTC_WORKSPACE_WRAPPER="$(abspath tests/tools/asan-rustc.sh)" $(CARGO) test --release --test it --target-dir $(ASAN) -- \
			--ignored --nocapture capi::memory::asan; \
	else \
		echo "this rustc comes without AddressSanitizer's runtime (rustup's has it): the library was NOT run with it"; \
	fi

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

setup:
	@sh tests/setup.sh

setup-test setup-test-full: setup-%:
	@sh tests/setup.sh $*
