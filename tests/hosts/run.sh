#!/bin/sh
# Trains inside prebuilt runtimes that others made: sh tests/hosts/run.sh libllama_align.so model.gguf
# What it downloads is kept in the user's cache; what cannot be had is named and not run. Exits with 1 if a host fails.
set -u
unset CDPATH

align=$(realpath "$1")
model=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/llama-align/hosts"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
failed=""

# ggml's threads spin while they wait for each other: no more of them than there are cores.
threads=$(nproc)
export OMP_NUM_THREADS="$threads" OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

missing() { echo "== $1: NOT run: $2"; }
run() { # run NAME COMMAND...
    name=$1
    shift
    echo "== $name, $(basename "$model")"
    "$@" >"$work/out" 2>"$work/err" && ok=1 || ok=0
    cat "$work/out"
    if [ "$ok" = 0 ]; then
        tail -n 20 "$work/err"
        failed="$failed $name"
    fi
}

npm_package() { # npm_package NAME VERSION: prints where it lies
    at="$cache/$(echo "$1" | tr '/@' '__')-$2"
    if [ ! -d "$at/package" ]; then
        command -v npm >/dev/null 2>&1 || return 1
        mkdir -p "$at"
        archive=$(npm pack --silent --pack-destination "$at" "$1@$2" 2>"$work/npm") || return 1
        tar -xzf "$at/$archive" -C "$at" && rm "$at/$archive" || return 1
    fi
    echo "$at/package"
}
pip_package() { # pip_package NAME VERSION OPTIONS...: prints where it lies
    at="$cache/$1-$2"
    name="$1==$2"
    shift 2
    if [ ! -f "$at/.complete" ]; then
        python3 -m pip install --quiet --disable-pip-version-check --target "$at" "$@" "$name" >"$work/pip" 2>&1 || return 1
        touch "$at/.complete"
    fi
    echo "$at"
}

# A C program and node-llama-cpp's llama.cpp: separate libraries under names with versions, backends loaded by ggml itself.
cc -std=gnu99 -Wall -Wextra -Werror -I "$here/../../include" "$here/host.c" -o "$work/host" -ldl || exit 1
for version in 3.22.1 3.21.1 3.20.0; do
    name="C, node-llama-cpp $version"
    if package=$(npm_package @node-llama-cpp/linux-x64 "$version"); then
        library=$(find "$package/bins" -name 'libllama.*.so' | head -n 1)
        run "$name" "$work/host" "$library" "$align" "$model" "$work/node.gguf"
    else
        missing "$name" "the npm package cannot be had"
    fi
done

# Python and xllamacpp: one module with everything inside.
for version in 2026.10.11549 2026.9.11063 2026.8.10566 2026.8.10229; do
    name="Python, xllamacpp $version"
    if package=$(pip_package xllamacpp "$version" --no-deps --only-binary :all:); then
        run "$name" env PYTHONPATH="$package" python3 "$here/host.py" "$align" "$model" "$work/x.gguf"
    else
        missing "$name" "the wheel cannot be had"
    fi
done

if [ -n "$failed" ]; then
    echo "FAILED:$failed"
    exit 1
fi
