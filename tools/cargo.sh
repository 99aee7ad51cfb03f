#!/usr/bin/env bash
# tools/cargo.sh deny|fuzz: builds that cargo command from crates.io, once, and prints the folder that holds it.
set -euo pipefail

case ${1:-} in
deny) version=0.20.2 ;;
fuzz) version=0.13.2 ;;
*) echo "usage: tools/cargo.sh deny|fuzz" >&2 && exit 2 ;;
esac

folder="${WHARF_CACHE:-$HOME/.cache/wharf}/cargo/$1-$version"
if [ ! -x "$folder/bin/cargo-$1" ]; then
    echo "building cargo-$1 $version (about 2 min)" >&2
    # It runs for a second: the time is better saved where it is built.
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    env --unset=CARGO_TARGET_DIR \
        cargo install --quiet --locked --no-track --root "$folder" --version "$version" "cargo-$1" >&2
fi
echo "$folder/bin"
