# What a person does with APIX here. `make help` lists it.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
APIX := $(TARGET_DIR)/release/apix

.DEFAULT_GOAL := help
.PHONY: help build run test lint fmt bench

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the binary (target/release/apix)
	$(CARGO) build --release --locked -p apix-server

run: build ## Start a server to play with; its data is in ./apix-data
	@exec $(APIX) serve --dev

test: ## Run every test; installs what the tests start (redis-server, node)
	.ci/install-test-servers
	$(CARGO) test --workspace --all-features --locked
	examples/github-events/test.sh
	sdk/test.sh

lint: ## Check the form, the lints and the documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --workspace --all-features --locked

fmt: ## Write the form that `make lint` checks
	$(CARGO) fmt --all

bench: build ## Measure the embedded broker, flushed to disk, inside one process
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		$(APIX) bench --broker embedded:$$folder --events 200000 --callers 1024
