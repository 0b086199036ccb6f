# What a person or a gate runs; `make` alone lists it.

.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint

# Debian keeps nats-server, runc and mmdebstrap where only root's PATH looks.
export PATH := $(PATH):/usr/sbin:/sbin

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install with apt what is missing on Debian 12
	@deploy/setup.sh

build: ## build every crate in release mode
	cargo build --workspace --release --locked

demo: setup ## take a JAR, a WAR and a binary through the queue and run the images
	cargo build --package slipway --release --locked
	@deploy/demo.sh

test: setup ## run all tests, against a real nats-server and a real registry
	@deploy/base-images.sh --prepare
	@# With all targets, so that programs and tests share one build of every dependency.
	cargo build --workspace --all-targets --locked
	cargo test --workspace --locked

lint: ## check formatting, lints, documentation and shell scripts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked
	@if command -v shellcheck >/dev/null; then \
	  shellcheck .ci/run deploy/*.sh deploy/demo/*.sh; \
	else \
	  echo "shellcheck is not installed: shell scripts not checked"; \
	fi
