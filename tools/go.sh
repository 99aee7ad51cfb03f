#!/usr/bin/env bash
# Builds the Go programs of go.txt that are not in the cache yet, and checks each against its checksum; then those of
# Kubernetes, which the module in kubernetes/ pins.
#   tools/go.sh          builds what is missing
#   tools/go.sh folder   prints the folder that holds them
set -euo pipefail
cd "$(dirname "$0")"

cache="${WHARF_CACHE:-$HOME/.cache/wharf}"
built="$cache/go/built"
key() { cat "$@" | sha256sum | cut -c1-12; }
folder="$cache/go/$(key go.txt kubernetes/*)"
kubernetes="$built/kubernetes@$(key kubernetes/*)"

if [ "${1:-}" = folder ]; then
    echo "$folder"
    exit
fi

# Only Go's public checksum database and this table decide what is built, not the settings of whoever builds it.
export GOFLAGS='' GOPRIVATE='' GONOSUMDB='' GOINSECURE='' GOWORK=off GOTOOLCHAIN=local CGO_ENABLED=0
flags=(-trimpath -ldflags '-s -w')

# build PROGRAM MODULE VERSION PACKAGE CHECKSUM: leaves the program in $built/PROGRAM@VERSION.
build() {
    local program=$1 module=$2 version=$3 package=$module/$4 checksum=$5 found
    package=${package%/.}
    found=$(go mod download -json "$module@$version" | sed -n 's/^\t"Sum": "\(.*\)",$/\1/p')
    if [ "$found" != "$checksum" ]; then
        echo "$module@$version has the checksum ${found:-(none)}, but tools/go.txt says $checksum: not built" >&2
        return 1
    fi
    local work
    work=$(mktemp -d "$cache/go/work.XXXXXX")
    if [ "$program" = conformance-legacy ]; then # A package of tests, which `go install` does not take.
        (cd "$work" && go mod init build && GOFLAGS=-mod=mod go get -t "$package@$version" &&
            GOFLAGS=-mod=mod go test -c "${flags[@]}" -o "$program" "$package")
    else
        GOBIN="$work" go install "${flags[@]}" "$package@$version" && mv -n "$work/${package##*/}" "$work/$program"
    fi >"$work/log" 2>&1 || { cat "$work/log" >&2; rm -rf "$work"; return 1; }
    mv "$work/$program" "$built/$program@$version"
    rm -rf "$work"
}

# Leaves all programs of Kubernetes in the folder $kubernetes. It is one build, because they have most of their code in
# common, and one of a module of our own: theirs replaces others by folders of its tree, which `go install` refuses.
build_kubernetes() {
    local version major minor work
    version=$(sed -n 's/^require k8s.io\/kubernetes v//p' kubernetes/go.mod)
    IFS=. read -r major minor _ <<<"$version"
    local set="-X k8s.io/component-base/version.git" # Without it they take themselves for v0.0.0, and refuse each other.
    work=$(mktemp -d "$cache/go/work.XXXXXX")
    (cd kubernetes && sed -n 's/^\t_ "\(.*\)"$/\1/p' programs.go | xargs \
        go build -trimpath -ldflags "-s -w ${set}Version=v$version ${set}Major=$major ${set}Minor=$minor" -o "$work/"
    ) >"$work.log" 2>&1 || { cat "$work.log" >&2; rm -rf "$work" "$work.log"; return 1; }
    mv -T "$work" "$kubernetes"
    rm "$work.log"
}

table() { grep -v '^#' go.txt; }

link_all() {
    mkdir -p "$folder"
    table | while read -r program _ _ version _; do
        [ ! -e "$built/$program@$version" ] || ln -f "$built/$program@$version" "$folder/$program"
    done
    [ ! -e "$kubernetes" ] || ln -f "$kubernetes"/* "$folder"
    ln -sfn "$folder" "$cache/go/current" # Where a plain `cargo test` looks.
}

mkdir -p "$built"
exec 9>"$cache/go/lock"
flock --nonblock 9 || { echo "waiting for another build of the Go programs"; flock 9; }

if [ -e "$kubernetes" ] && table | while read -r program _ _ version _; do
    [ -e "$built/$program@$version" ] || exit 1
done; then
    link_all
    exit
fi
if ! command -v go >/dev/null; then
    link_all
    echo "go is not installed: tests that need the programs of tools/go.txt and tools/kubernetes are skipped"
    exit
fi
while read -r program seconds module version package checksum; do
    [ ! -e "$built/$program@$version" ] || continue
    echo "building $program $version (about $seconds s)"
    SECONDS=0
    build "$program" "$module" "$version" "$package" "$checksum"
    link_all
    echo "built $program in $SECONDS s"
done < <(table)
if [ ! -e "$kubernetes" ]; then
    echo "building Kubernetes (about 500 s)"
    SECONDS=0
    build_kubernetes
    link_all
    echo "built Kubernetes in $SECONDS s"
fi
