#!/usr/bin/env bash
# Builds the server as a program that needs no library, as the Dockerfile does, for the test of the image: without the
# optimisations of a release, which take minutes, and from the libraries of a plain build, since only its linking differs.
# It is kept as `static/wharf` beside cargo's other output.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
cargo rustc --quiet --locked --bin wharf -- -C target-feature=+crt-static
mkdir -p "$target/static"
ln -f "$target/debug/wharf" "$target/static/wharf" # The next build has its own `debug/wharf` again.
