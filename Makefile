# `make` alone prints the targets. CI calls the same ones.

.PHONY: help run test build lint fmt doc deny audit ci fuzz bench
.DEFAULT_GOAL := help

help: ## print this list
	@sed -n 's/^\([a-z]*\): ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

run: ## build the server and start it on 127.0.0.1:5000
	cargo run --release -- serve

test: ## install what the tests need, and run all of them
	@tools/test.sh

build: ## build the server: target/release/wharf
	cargo build --release

lint: ## check formatting, code, dependencies and documentation, as CI does
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@$(MAKE) --no-print-directory deny doc

fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

doc: ## build the code's documentation: target/doc/wharf/index.html
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

deny: ## check the dependencies' licences and sources
	@PATH="$$(tools/cargo.sh deny):$$PATH" && cargo deny --locked --log-level warn check licenses bans sources

audit: ## check the dependencies for known vulnerabilities (fetches the advisory database)
	@PATH="$$(tools/cargo.sh deny):$$PATH" && cargo deny --locked check advisories

ci: ## do all that CI does: lint, then test, with nothing skipped
	.ci/run

fuzz: ## feed each parser with made-up input for a minute
	fuzz/run

bench: ## measure Wharf beside nginx, docker-registry and distribution 3; PARTS="pull push" measures some
	@tools/debian.sh
	@tools/go.sh
	cargo build --release --locked
	bench/run $(PARTS)
