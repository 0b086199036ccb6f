# What a person or a gate runs; `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help setup build demo test jvm-test chaos bench bench-image bench-queue bench-history bench-programs fuzz test-s3 test-registries lint

# Debian installs nats-server, runc and mmdebstrap in directories that only root's PATH holds.
export PATH := $(PATH):/usr/sbin:/sbin

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install with apt what is missing on Debian 12
	@dev/setup.sh

build: ## build the three programs in release mode, stripped
	cargo build --release --locked --package slipway --package slipway-dispatcher \
	  --package slipway-worker --bin slipway --bin slipway-dispatcher --bin slipway-worker

demo: setup ## take a JAR, a WAR and a binary through the queue and run the images
	@# Not in release mode, which compiles for longer and is of no use to the tests after it.
	cargo build --package slipway --locked
	@dev/demo.sh

test: setup ## run all tests, against a real nats-server and a real registry
	@dev/base-images.sh --prepare
	@# With all targets, so that programs and tests share one build of every dependency.
	cargo build --workspace --all-targets --locked
	@# A second registry takes seconds where there is a recent Go.
	registry=; if command -v go >/dev/null && path=$$(dev/registry.sh ggcr); then \
	  registry=ggcr=$$path; \
	else \
	  echo "go-containerregistry's registry is not compiled: builds go to docker-registry alone"; \
	fi; \
	SLIPWAY_TEST_REGISTRIES=$$registry cargo test --workspace --locked

# Which rows of tests/jvm/rows.sh; all if there is none.
ROWS ?=

# Not part of `make test`: it takes half an hour the first time, and Maven fetches the frameworks.
jvm-test: setup ## build and run projects of JVM frameworks; ROWS="ktor vertx" for some
	@dev/setup.sh --jvm
	cargo build --package slipway --locked
	@tests/jvm/run.sh $(ROWS)

# The length, the seed (random if not given), the version of nats-server (Debian's if not given;
# others are fetched once), and the number of servers. Newer servers also go through a power
# failure.
SECONDS_ ?= 600
SEED ?=
SERVER ?=
REPLICAS ?= 1

chaos: setup ## break everything for SECONDS_=600, from SEED=, with SERVER=2.15.1, REPLICAS=3
	cargo build --package slipway-dispatcher --package slipway-worker --package slipway-tests --bins --locked
	@if [ -n "$(SERVER)" ]; then dev/nats-server.sh $(SERVER) >/dev/null; fi
	target/debug/slipway-chaos --seconds $(SECONDS_) --replicas $(REPLICAS) \
	  $(if $(SEED),--seed $(SEED)) $(if $(SERVER),--server $(SERVER))
	@if [ -n "$(SERVER)" ]; then \
	  target/debug/slipway-chaos --power-loss --seconds 20 --replicas $(REPLICAS) \
	    $(if $(SEED),--seed $(SEED)) --server $(SERVER); \
	fi

# More options, such as BENCH="--rounds 3 --only jar"; `target/release/slipway-bench image --help`
# lists them. Reports go to loadtest/results. The machine should be idle.
BENCH ?=

bench: bench-programs ## measure images and the queue, and hold them against the goals
	target/release/slipway-bench all $(BENCH)

bench-image: bench-programs ## measure images alone, beside umoci with skopeo, and buildah
	target/release/slipway-bench image $(BENCH)

bench-queue: bench-programs ## measure the queue alone
	target/release/slipway-bench queue $(BENCH)

# The number of builds. A million take 13 GB of disk.
BUILDS ?= 100000

bench-history: setup ## measure a history of BUILDS=100000: rebuild, restart, lists, 5,000 events/s
	cargo build --release --locked --package slipway-dispatcher --package slipway-loadtest \
	  --bin slipway-dispatcher --bin slipway-history
	target/release/slipway-history --builds $(BUILDS) --sustained 60 --followers 40

bench-programs: setup
	cargo build --release --locked --package slipway --package slipway-dispatcher \
	  --package slipway-worker --package slipway-loadtest --bin slipway --bin slipway-dispatcher \
	  --bin slipway-worker --bin slipway-bench

# Which targets of tests/fuzz; all if there is none.
TARGETS ?=

fuzz: SECONDS_ = 60
fuzz: ## run each fuzz target for SECONDS_=60; TARGETS="zip elf" for some
	@dev/fuzz.sh $(SECONDS_) $(TARGETS)

# Not part of `make test`: the server is compiled from source, for minutes, and needs a recent Go.
test-s3: setup ## test the artifact store and one build against a real S3 server
	@dev/test-s3.sh

# Not part of `make test`: distribution is compiled from source, for minutes, and needs a recent Go.
test-registries: setup ## test pushes to distribution 3 and go-containerregistry's registry too
	cargo build --package slipway --locked
	SLIPWAY_TEST_REGISTRIES=distribution=$$(dev/registry.sh distribution),ggcr=$$(dev/registry.sh ggcr) \
	  cargo test --package slipway-tests --locked --test e2e registries::matrix

# With every cloud, because the tests compile the store without any.
CLOUDS := --features s3,gcs,azure

lint: ## check formatting, lints, documentation, dependencies and shell scripts
	cargo fmt --all --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked $(CLOUDS) -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked $(CLOUDS)
	@if command -v cargo-deny >/dev/null; then \
	  dev/deny.sh; \
	else \
	  echo "cargo-deny is not installed: dependencies not checked"; \
	fi
	@if command -v shellcheck >/dev/null; then \
	  shellcheck --external-sources --check-sourced .ci/run dev/*.sh dev/demo/*.sh tests/jvm/run.sh; \
	else \
	  echo "shellcheck is not installed: shell scripts not checked"; \
	fi
