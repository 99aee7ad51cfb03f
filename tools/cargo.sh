#!/usr/bin/env bash
# Builds the programs from crates.io that `make` calls, once, and prints the folder that holds them.
set -euo pipefail

deny=0.20.2

folder="${WHARF_CACHE:-$HOME/.cache/wharf}/cargo/deny-$deny"
if [ ! -x "$folder/bin/cargo-deny" ]; then
    echo "building cargo-deny $deny (about 2 min)" >&2
    # It runs for a second: the time is better saved where it is built.
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    env --unset=CARGO_TARGET_DIR \
        cargo install --quiet --locked --no-track --root "$folder" --version "$deny" cargo-deny >&2
fi
echo "$folder/bin"
