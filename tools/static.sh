#!/usr/bin/env bash
# Builds the server as a program that needs no library, as the Dockerfile does, for the test of the image: without the
# optimisations of a release, which take minutes. It is kept as `static/wharf` beside cargo's other output.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc --version --verbose | sed -n 's/^host: //p')
target="${CARGO_TARGET_DIR:-target}"
RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --bin wharf --target "$host"
mkdir -p "$target/static"
ln -f "$target/$host/debug/wharf" "$target/static/wharf"
