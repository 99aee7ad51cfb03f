#!/usr/bin/env bash
# Builds the Go programs of go.txt that are not in the cache yet, and checks each against its checksum; then those of
# Kubernetes and etcd, which modules of our own pin, in kubernetes/ and etcd/.
#   tools/go.sh          builds what is missing
#   tools/go.sh folder   prints the folder that holds them
set -euo pipefail
cd "$(dirname "$0")"

cache="${WHARF_CACHE:-$HOME/.cache/wharf}"
built="$cache/go/built"
key() { cat "$@" | sha256sum | cut -c1-12; }
folder="$cache/go/$(key go.txt kubernetes/* etcd/*)"
declare -A seconds=([etcd]=60 [kubernetes]=500) # of each module of our own
programs_of() { echo "$built/$1@$(key "$1"/*)"; }

if [ "${1:-}" = folder ]; then
    echo "$folder"
    exit
fi

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

# build_module MODULE FLAG… PACKAGE…: leaves the programs of a module of our own in the folder that programs_of names. There
# is one where theirs replaces others by folders of its tree, which `go install` refuses.
build_module() {
    local module=$1 work
    shift
    work=$(mktemp -d "$cache/go/work.XXXXXX")
    (cd "$module" && go build -o "$work/" "$@") >"$work.log" 2>&1 ||
        { cat "$work.log" >&2; rm -rf "$work" "$work.log"; return 1; }
    mv -T "$work" "$(programs_of "$module")"
    rm "$work.log"
}

build_etcd() { build_module etcd "${flags[@]}" .; }

# One build, because they have most of their code in common.
build_kubernetes() {
    local version major minor programs
    version=$(sed -n 's/^require k8s.io\/kubernetes v//p' kubernetes/go.mod)
    IFS=. read -r major minor _ <<<"$version"
    local set="-X k8s.io/component-base/version.git" # Without it they take themselves for v0.0.0, and refuse each other.
    mapfile -t programs < <(sed -n 's/^\t_ "\(.*\)"$/\1/p' kubernetes/programs.go)
    build_module kubernetes -trimpath \
        -ldflags "-s -w ${set}Version=v$version ${set}Major=$major ${set}Minor=$minor" "${programs[@]}"
}

table() { grep -v '^#' go.txt; }

all_are_built() {
    local module
    for module in "${!seconds[@]}"; do
        [ -e "$(programs_of "$module")" ] || return 1
    done
    table | while read -r program _ _ version _; do [ -e "$built/$program@$version" ] || exit 1; done
}

link_all() {
    local module
    mkdir -p "$folder"
    table | while read -r program _ _ version _; do
        [ ! -e "$built/$program@$version" ] || ln -f "$built/$program@$version" "$folder/$program"
    done
    for module in "${!seconds[@]}"; do
        [ ! -e "$(programs_of "$module")" ] || ln -f "$(programs_of "$module")"/* "$folder"
    done
    ln -sfn "$folder" "$cache/go/current" # Where a plain `cargo test` looks.
}

mkdir -p "$built"
exec 9>"$cache/go/lock"
flock --nonblock 9 || { echo "waiting for another build of the Go programs"; flock 9; }

if all_are_built; then
    link_all
    exit
fi
if ! command -v go >/dev/null; then
    link_all
    echo "go is not installed: tests that need the programs of tools/go.txt, tools/kubernetes and tools/etcd are skipped"
    exit
fi
# Only Go's public checksum database and this table decide what is built, not the settings of whoever builds it: neither variables nor
# what `go env -w` keeps, which counts wherever a variable is empty. Where modules come from is theirs to say: it decides nothing.
GOPROXY=$(go env GOPROXY)
export GOPROXY GOENV=off GOSUMDB=sum.golang.org GOPRIVATE='' GONOSUMDB='' GOINSECURE=''
export GOFLAGS=-buildvcs=false GOWORK=off GOTOOLCHAIN=local CGO_ENABLED=0
while read -r program about module version package checksum; do
    [ ! -e "$built/$program@$version" ] || continue
    echo "building $program $version (about $about s)"
    SECONDS=0
    build "$program" "$module" "$version" "$package" "$checksum"
    link_all
    echo "built $program in $SECONDS s"
done < <(table)
for module in "${!seconds[@]}"; do
    [ ! -e "$(programs_of "$module")" ] || continue
    echo "building $module (about ${seconds[$module]} s)"
    SECONDS=0
    "build_$module"
    link_all
    echo "built $module in $SECONDS s"
done
