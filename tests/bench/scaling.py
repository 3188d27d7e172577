"""How the cost of a step grows: tokens per batch, threads, precision and models, each beside 2·N·T floating-point operations per pass.

    scaling.py LLAMA_ALIGN MODEL.gguf [MORE.gguf ...] [--tokens 256,512,1024,2048,4096,8192] [--row 256] [--steps 3] [--threads 1,2]

The first model is measured with all numbers of tokens, threads and precisions, further ones (other sizes, vocabularies, types) with the
middle of the tokens and all threads. Rows have --row tokens each, so that attention's share stays what it is. N counts the weights of
the blocks' products and of the head. A step of SFT with LoRA passes them twice, forward and back to activations (weights that do not
move need no products of their own), a third time where the blocks are computed again. "of the line" is how much of the machine's peak
(measured in the same run) 2·N·T a pass are over the whole step: a straight line would keep it. Run it on an idle machine,
with a Python that has tests/golden/requirements.txt.
"""

import argparse
import json
import subprocess

import gguf


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", default="256,512,1024,2048,4096,8192")
    parser.add_argument("--row", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    return parser.parse_args()


def n_weights(model):
    """Weights of the products of a pass: every matrix of a block, and the head (a tied one is the embeddings')."""
    shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in gguf.GGUFReader(model).tensors}
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    matrices = [shape for name, shape in shapes.items() if name.startswith("blk.") and len(shape) > 1] + [shapes[head]]
    return sum(shape[0] * shape[1] for shape in matrices)


def main():
    given = arguments()
    tokens = [int(n) for n in given.tokens.split(",")]
    threads = given.threads.split(",")
    print("| model | N, M | tokens | threads | products in | recompute | s a step | tokens/s | MiB | 2·N·T a pass, TFLOP | of the line |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for place, model in enumerate(given.models):
        n = n_weights(model)
        middle = tokens[len(tokens) // 2]
        cells = [(t, w, p) for p in ("bf16", "f32") for w in threads for t in tokens if place == 0 or (t == middle and w == threads[-1])]
        for n_tokens, n_threads, precision in cells:
            rows = max(1, n_tokens // given.row)
            command = [given.program, "bench", "-m", model, "--json", "--shape", f"{rows}x{n_tokens // rows}", "-t", n_threads]
            command += ["--precision", precision, "--steps", str(given.steps)]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1])
            work = 2 * n * n_tokens
            passes = 3 if told["recompute"] == "always" else 2
            line = passes * work / told["step_seconds"] / told["peak_gflops"] / 1e9
            name = model.rsplit("/", 1)[-1]
            print(
                f"| {name} | {n / 1e6:.0f} | {n_tokens} | {n_threads} | {precision} | {told['recompute']} | {told['step_seconds']:.2f} "
                f"| {told['tokens_per_s']:.0f} | {told['peak_rss_bytes'] >> 20} | {work / 1e12:.2f} | {line:.2f} |",
                flush=True,
            )


main()
