#!/usr/bin/env bash
# Installs the Debian packages of debian.txt that are missing, and starts none of their services.
set -euo pipefail
cd "$(dirname "$0")"

mapfile -t wanted < <(grep -v -e '^#' -e '^$' debian.txt)
missing=()
if command -v dpkg-query >/dev/null; then
    for package in "${wanted[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "not root, so these Debian packages stay missing, and tests that need them are skipped: ${missing[*]}"
    exit
fi

# A package's own script asks this file before it starts a service, and is told no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
quietly() { "$@" >"$log" 2>&1 </dev/null; }
install=(apt-get install --yes --no-install-recommends "${missing[@]}")

echo "installing Debian packages (about 1 min): ${missing[*]}"
# Lists of packages that are absent or old are fetched only when the installation fails without.
quietly "${install[@]}" || { quietly apt-get update && quietly "${install[@]}"; } || { cat "$log" >&2; exit 1; }
rm -f "$log"
