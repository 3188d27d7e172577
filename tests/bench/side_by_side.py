"""llama-align and PyTorch side by side on one llama model: paired runs, medians, one table.

    side_by_side.py LLAMA_ALIGN MODEL.gguf [--repeats 3] [--threads 2] [--precision bf16,f32] [--recompute never,always]

Run it with a Python that has tests/golden/requirements.txt installed, on an otherwise idle machine.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

TORCH = pathlib.Path(__file__).parent / "torch_lora.py"


def run(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("model")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--shape", default="4x512")
    arguments.add_argument("--precision", default="bf16,f32")
    arguments.add_argument("--recompute", default="never,always")
    given = arguments.parse_args()
    shape, threads = ["--shape", given.shape], ["-t", str(given.threads)]
    print("| method | precision | recompute | llama-align tokens/s | MiB | PyTorch tokens/s | MiB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for method in ["sft", "dpo"]:
        for precision in given.precision.split(","):
            for word in given.recompute.split(","):
                recompute = word == "always"
                ours, theirs = [], []
                for _ in range(given.repeats):
                    what = ["--method", method, "--precision", precision]
                    kept = ["--recompute", "always" if recompute else "never"]
                    ours.append(run([given.program, "bench", "-m", given.model, "--json", *what, *kept, *shape, *threads]))
                    again = ["--recompute"] if recompute else []
                    threaded = ["--threads", str(given.threads)]
                    theirs.append(run([sys.executable, str(TORCH), given.model, *what, *again, *shape, *threaded]))
                rate = [statistics.median(r["tokens_per_s"] for r in runs) for runs in (ours, theirs)]
                memory = [max(r["peak_rss_bytes"] for r in runs) >> 20 for runs in (ours, theirs)]
                print(f"| {method} | {precision} | {word} | {rate[0]:.0f} | {memory[0]} | {rate[1]:.0f} | {memory[1]} | {rate[0] / rate[1]:.2f} |", flush=True)
                print(f"peaks: llama-align {ours[-1]['peak_gflops']:.0f} ({ours[-1]['share_of_peak_products']:.2f} in products), torch.mm {max(r['mm_gflops'] for r in theirs):.0f} GFLOP/s", file=sys.stderr)


if __name__ == "__main__":
    main()
