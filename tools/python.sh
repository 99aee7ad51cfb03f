#!/usr/bin/env bash
# Installs the Python clients of python.txt into a virtual environment in the cache.
#   tools/python.sh          installs what is missing
#   tools/python.sh folder   prints the folder that holds their programs
set -euo pipefail
cd "$(dirname "$0")"

cache="${WHARF_CACHE:-$HOME/.cache/wharf}"
environment="$cache/python/$(sha256sum python.txt | cut -c1-12)"

if [ "${1:-}" = folder ]; then
    echo "$environment/bin"
    exit
fi

mkdir -p "$cache/python"
exec 9>"$cache/python/lock"
flock 9

if [ ! -e "$environment/complete" ]; then
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        echo "python3 with venv is not installed: tests that need the clients of tools/python.txt are skipped"
        exit
    fi
    echo "installing Python clients (about 15 s)"
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement python.txt
    touch "$environment/complete"
fi
ln -sfn "$environment" "$cache/python/current" # Where a plain `cargo test` looks.
