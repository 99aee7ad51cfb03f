#!/usr/bin/env bash
# Installs what the tests need, runs all of them, and sums up: what failed, what was skipped and why, and the counts as
# the last line. Under CI (CI=true) a skip is a failure.
set -uo pipefail
cd "$(dirname "$0")/.."

for installer in debian go python static; do
    tools/$installer.sh || echo "tools/$installer.sh did not finish: tests that need what is missing are skipped"
done
WHARF_TEST_PROGRAMS=$(tools/go.sh folder)
WHARF_TEST_PYTHON=$(tools/python.sh folder)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
WHARF_TEST_SKIPS=$scratch/skips
: >"$WHARF_TEST_SKIPS"
export WHARF_TEST_PROGRAMS WHARF_TEST_PYTHON WHARF_TEST_SKIPS

cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$scratch/log"
status=${PIPESTATUS[0]}

# count WORD: the sum over all test binaries, and over the doc tests.
count() {
    sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$scratch/log" | awk '{ sum += $1 } END { print sum + 0 }'
}
failed=$(count failed)
[ "$status" = 0 ] || [ "$failed" != 0 ] || failed=1 # It did not build, or a test binary died.

# A test that found something missing returned early, which counts as passed; one that asks for two things is one test.
{
    sort -u "$WHARF_TEST_SKIPS"
    sed -n 's/^test \(.*\) \.\.\. ignored$/\1: ignored/p; s/^test \(.*\) \.\.\. ignored, \(.*\)$/\1: \2/p' "$scratch/log"
} >"$scratch/skipped"
early=$(cut -d' ' -f1 "$WHARF_TEST_SKIPS" | sort -u | wc -l)
skipped=$((early + $(count ignored)))
passed=$(($(count passed) - early))

echo
if [ -s "$scratch/skipped" ]; then
    echo "skipped:"
    sed 's/^/  /' "$scratch/skipped"
fi
mkdir -p "${CARGO_TARGET_DIR:-target}"
echo "$passed passed, $failed failed, $skipped skipped" | tee "${CARGO_TARGET_DIR:-target}/test-counts"
[ "$failed" = 0 ] && { [ "${CI:-}" != true ] || [ "$skipped" = 0 ]; }
