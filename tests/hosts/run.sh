#!/bin/sh
# Trains inside prebuilt runtimes that others made: sh tests/hosts/run.sh libllama_align.so model.gguf [llama-align [more.gguf ...]]
# With the program it also makes a Q4_0 file of the model, which hosts repack by default; the newest host of each kind then gets that
# one and all further models. What it downloads is kept in the user's cache; what cannot be had is named and not run. Exits with 1
# if a host fails, and if no C, no Python or no Vulkan host could be had, unless HOSTS_OPTIONAL is set.
set -u
unset CDPATH

align=$(realpath "$1")
model=$(realpath "$2")
shift 2
program=""
if [ $# -gt 0 ]; then
    program=$(realpath "$1")
    shift
fi
here=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/llama-align/hosts"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
failed=""
kinds=""

# ggml's threads spin while they wait for each other: no more of them than there are cores.
threads=$(nproc)
export OMP_NUM_THREADS="$threads" OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

missing() { echo "== $1: NOT run: $2"; }
run() { # run NAME COMMAND...
    running=$1
    kinds="$kinds ${1%%,*}"
    case $1 in *Vulkan*) kinds="$kinds Vulkan" ;; esac
    shift
    echo "== $running"
    "$@" >"$work/out" 2>"$work/err" && ok=1 || ok=0
    cat "$work/out"
    if [ "$ok" = 0 ]; then
        tail -n 20 "$work/err"
        failed="$failed, $running"
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
        run "$name, $(basename "$model")" "$work/host" "$library" "$align" "$model" "$work/adapter.gguf"
        # A file that is repacked by default: a breath of the adapter that was just made, so that every weight is encoded anew.
        if [ -n "$program" ] && [ ! -f "$work/model-Q4_0.gguf" ] && [ -f "$work/adapter.gguf" ]; then
            "$program" merge -m "$model" --lora-scaled "$work/adapter.gguf:0.001" --outtype Q4_0 --no-verify \
                -o "$work/model-Q4_0.gguf" >"$work/err" 2>&1 || { cat "$work/err"; failed="$failed, merge"; }
            for more in "$work/model-Q4_0.gguf" "$@"; do
                run "$name, $(basename "$more")" "$work/host" "$library" "$align" "$more" "$work/more.gguf"
            done
        fi
    else
        missing "$name" "the npm package cannot be had"
    fi
done

# The same with its Vulkan backend, which the host uses by default: its weights lie on the GPU. Where there is no GPU, Mesa's
# software driver stands for one; ggml leaves such devices out unless they are named.
name="C, node-llama-cpp 3.22.1 on Vulkan"
driver=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' 2>/dev/null | head -n 1)
if ! package=$(npm_package @node-llama-cpp/linux-x64-vulkan 3.22.1); then
    missing "$name" "the npm package cannot be had"
elif [ ! -e /dev/dri/renderD128 ] && [ -z "$driver" ]; then
    missing "$name" "there is no GPU, and Mesa's software driver is not installed (mesa-vulkan-drivers)"
else
    [ -e /dev/dri/renderD128 ] || export GGML_VK_VISIBLE_DEVICES=0 VK_ICD_FILENAMES="$driver"
    library=$(find "$package/bins" -name 'libllama.*.so' | head -n 1)
    # Software compiles and runs shaders of this size for minutes: a tiny model there.
    small="$model"
    [ -e /dev/dri/renderD128 ] || small="$work/tiny.gguf"
    [ "$small" = "$model" ] || (cd "$here/../.." && ${CARGO:-cargo} run --quiet --release --example tiny_model -- llama-untied q8_0 "$small")
    run "$name, $(basename "$small")" "$work/host" "$library" "$align" "$small" "$work/vulkan.gguf"
    # Against the CPU, one process for each weight type: Mesa 22.3's software driver breaks down in some of them (a signal is no
    # difference, and is tried again).
    (cd "$here/../.." && ${CARGO:-cargo} test --quiet --release --test it --no-run)
    for type in f32 f16 q8_0 q4_1 q4_0 q8_0:2; do
        for try in 1 2 3 4; do
            env LLAMA_ALIGN_TEST_RUNTIME="$library" LLAMA_ALIGN_TEST_TYPE="$type" sh -c 'cd "$0" && exec "$@"' "$here/../.." \
                ${CARGO:-cargo} test --quiet --release --test it -- --ignored --nocapture devices::compute_what >"$work/out" 2>"$work/err"
            status=$?
            grep -q "signal: " "$work/err" || break
            echo "== $name, $type: the driver ended the process (try $try)"
        done
        echo "== $name, $type against the CPU"
        grep -E "^(ggml|f32|f16|q[0-9]|  )" "$work/out"
        [ "$status" = 0 ] || { tail -n 20 "$work/err"; failed="$failed, $name, $type"; }
    done
fi

# Python and xllamacpp: one module with everything inside.
for version in 2026.10.11549 2026.9.11063 2026.8.10566 2026.8.10229; do
    name="Python, xllamacpp $version"
    if package=$(pip_package xllamacpp "$version" --no-deps --only-binary :all:); then
        run "$name, $(basename "$model")" env PYTHONPATH="$package" python3 "$here/host.py" "$align" "$model" "$work/x.gguf"
        [ "$version" = 2026.10.11549 ] && [ -f "$work/model-Q4_0.gguf" ] && for more in "$work/model-Q4_0.gguf" "$@"; do
            run "$name, $(basename "$more")" env PYTHONPATH="$package" python3 "$here/host.py" "$align" "$more" "$work/x.gguf"
        done
    else
        missing "$name" "the wheel cannot be had"
    fi
done

for kind in C Python Vulkan; do
    case " $kinds " in
    *" $kind "*) ;;
    *)
        echo "== no $kind host was run"
        [ -n "${HOSTS_OPTIONAL:-}" ] || failed="$failed, no $kind host"
        ;;
    esac
done
if [ -n "$failed" ]; then
    echo "FAILED${failed}"
    exit 1
fi
