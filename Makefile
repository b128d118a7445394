# Two commands matter: `make dev` and `make test`. Both install what they need first; the rest is listed by `make help`.
#
# RocksDB's C++ is compiled once, outside the target folder (scripts/rocksdb.sh), and every cargo call runs through
# scripts/env.sh so that all of them see the same archive. CARGO_TARGET_DIR moves the target folder, LARDER_CACHE
# the cache (default ~/.cache/larder).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Commands that link need the archive; those that only look at the sources need its path alone.
RUN := scripts/env.sh
LOOK := scripts/env.sh --no-archive
# A changed lock file is an accident in CI and in `verify`, and a convenience elsewhere.
LOCKED := $(if $(CI),--locked)
# Further arguments for dev, test, soak and bench: make test ARGS='-E "package(storage)"'
ARGS ?=

SDK := tests/sdk
SDK_READY := $(if $(wildcard $(SDK)/package-lock.json),$(SDK)/node_modules/.package-lock.json)

.PHONY: help dev test build verify fix bench soak jepsen env clean setup setup-test setup-bench fmt-check lint doc deny

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS=$$'\t' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

dev: setup ## build, then run three nodes on loopback (ARGS="--port 7500 --data DIR")
	@$(RUN) cargo build $(LOCKED) --package larder --bin larder
	@exec $(TARGET)/debug/larder dev $(ARGS)

test: setup-test $(SDK_READY) ## the whole suite: unit, property, end-to-end, SDK
	@$(RUN) cargo build $(LOCKED) --workspace --lib --bins --tests
	@$(RUN) cargo test $(LOCKED) --workspace --doc
	@LARDER_BIN="$(abspath $(TARGET))/debug/larder" $(RUN) cargo nextest run $(LOCKED) --workspace $(ARGS)

build: setup ## the release binary, at target/release/larder
	@$(RUN) cargo build $(LOCKED) --release --package larder --bin larder
	@echo "$(TARGET)/release/larder"

verify: LOCKED := --locked
verify: fmt-check lint test doc deny ## all checks; changes no source file

fix: setup ## format, and let clippy mend what it can
	@$(LOOK) cargo fmt --all
	@$(LOOK) cargo clippy --fix --allow-dirty --allow-staged --workspace --all-targets
	@$(LOOK) cargo fmt --all

bench: setup-bench build ## the release build side by side with etcd and nginx (ARGS="--quick", ARGS="compare idle")
	@LARDER_BIN="$(abspath $(TARGET))/release/larder" $(RUN) scripts/bench.sh $(ARGS)

soak: export LARDER_SOAK := 1
soak: export NEXTEST_PROFILE := soak
soak: test ## the same tests at full size

jepsen: build ## fault injection: every workload under every group of faults (ARGS="--time 20 --seed 7")
	@$(RUN) cargo build $(LOCKED) --release --package larder-jepsen
	@$(TARGET)/release/larder-jepsen run-all --binary $(TARGET)/release/larder --out $(TARGET)/jepsen $(ARGS)

env: setup ## print the variables for a shell: eval "$(make -s env)"
	@$(RUN)

clean: ## remove the target folder; the cached RocksDB archive stays
	@cargo clean --quiet

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

setup-bench:
	@scripts/setup.sh bench

# npm writes the file itself; touched, because a later edit of the lock file is what makes it old.
$(SDK)/node_modules/.package-lock.json: $(SDK)/package-lock.json | setup-test
	@npm ci --prefix $(SDK) --no-audit --no-fund --loglevel=error </dev/null
	@touch $@

fmt-check: setup
	@$(LOOK) cargo fmt --all --check

lint: setup
	@$(LOOK) cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings

doc: setup
	@RUSTDOCFLAGS="-D warnings" $(LOOK) cargo doc $(LOCKED) --workspace --no-deps

deny:
	@if ! $(LOOK) cargo deny --version >/dev/null 2>&1; then echo "deny: skipped, cargo-deny is not installed"; \
	else $(LOOK) cargo deny check bans licenses sources; fi
