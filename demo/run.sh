#!/bin/sh
# Aligns a small quantised chat model on this folder's pairs and shows what changed. `make demo` builds what it needs.
set -eu
cd "$(dirname "$0")/.."

cargo build --release --quiet
target="${CARGO_TARGET_DIR:-target}/release"
align="$target/llama-align"
out="${DEMO_OUT:-runs/demo}"

if model=$(sh demo/fetch.sh); then
    echo "model: $model"
else
    echo "SmolLM2 cannot be fetched here, so this runs on a tiny generated model with random weights:"
    echo "the numbers move as they should, but its answers are noise before and after."
    cargo build --release --quiet --example tiny_model
    mkdir -p runs
    model="runs/tiny.gguf"
    "$target/examples/tiny_model" llama-deep q8_0 "$model"
fi

prompt="What is a plot twist?"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
head -n 8 demo/pairs-eval.jsonl > "$work/prompts.jsonl"

# One prompt as text, then how many of eight held-out prompts are answered in the wanted style.
answers() {
    echo "$prompt"
    "$align" generate -m "$model" "$@" -p "$prompt" -n 90 | sed 's/^/    /'
    "$align" generate -m "$model" "$@" -f "$work/prompts.jsonl" -n 24 --json > "$work/answers.jsonl"
    echo "answers that begin with \"In short:\": $(grep -c '"completion":"In short:' "$work/answers.jsonl" || true) of 8 held-out prompts"
}

started=$(date +%s)
echo
echo "== before, answered by llama.cpp"
answers
echo
echo "== training with default settings on 174 pairs, 48 others held out"
"$align" train -m "$model" -d demo/pairs-train.jsonl --eval-data demo/pairs-eval.jsonl -o "$out" --overwrite
echo
echo "== after, answered by llama.cpp with the exported adapter"
answers --lora "$out/adapter.gguf"
echo
echo "== held-out pairs once more, with the adapter read back from its file"
"$align" eval -m "$model" --lora "$out/adapter.gguf" -d demo/pairs-eval.jsonl
echo
echo "The demo took $(($(date +%s) - started)) s after the build."
