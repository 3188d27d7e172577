"""Every loss on the same pairs, model, steps and seed: what it does to held-out rows.

    losses.py PROGRAM MODEL.gguf TRAIN.jsonl HELD_OUT.jsonl OUTPUT [--steps 15] [--rows 8] [--held-out 80] [--seed 0] [--threads 1]

Each run takes the program's defaults for its loss. Finished runs are kept: the same command goes on. Prints a table in Markdown:
the share of held-out pairs whose chosen answer is likelier (summed, and per token), the share and mean of reward margins (by the
loss's own rewards), KL(after || before) per token of the chosen answers, and the run's time.
"""

import argparse
import json
import pathlib
import subprocess
import time

# What the program is told. A mixture stands for the weighted sums: MPO's.
LOSSES = {
    "sigmoid": ["--loss-type", "sigmoid"],
    "cdpo": ["--loss-type", "cdpo"],
    "robust": ["--loss-type", "robust"],
    "hinge": ["--loss-type", "hinge"],
    "ipo": ["--loss-type", "ipo"],
    "sigmoid_norm": ["--loss-type", "sigmoid_norm"],
    "apo_zero": ["--loss-type", "apo_zero"],
    "apo_down": ["--loss-type", "apo_down"],
    "bco_pair": ["--loss-type", "bco_pair"],
    "nca_pair": ["--loss-type", "nca_pair"],
    "sppo_hard": ["--loss-type", "sppo_hard"],
    "simpo": ["--loss-type", "simpo"],
    "cpo": ["--loss-type", "cpo"],
    "orpo": ["--loss-type", "orpo"],
    "kto": ["--method", "kto"],
    "sigmoid + sft": ["--loss-type", "sigmoid", "--sft-weight", "1"],
    "mpo": ["--loss-type", "sigmoid,bco_pair,sft", "--loss-weights", "0.8,0.2,1"],
}


def run(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def one(given, loss, flags, held_out, output):
    directory = output / loss.replace(" ", "")
    record = directory / "measured.json"
    if not record.exists():
        # KTO unrolls a pair into two rows.
        batch = 2 * given.rows if loss == "kto" else given.rows
        common = ["-m", given.model, "-t", given.threads]
        begun = time.monotonic()
        run(given.program, "train", *common, "-d", given.train, "-o", directory, "--overwrite", "--eval-data", held_out, *flags,
            "--max-steps", given.steps, "--batch-size", batch, "--grad-accum", 1, "--seed", given.seed, "--samples", 0)
        seconds = time.monotonic() - begun
        adapter = ["--lora", directory / "adapter.gguf"]
        pairs = json.loads(run(given.program, "eval", *common, *adapter, "-d", held_out, "--task", "pairs", "--json"))
        kl = json.loads(run(given.program, "eval", *common, *adapter, "-d", held_out, "--task", "kl", "--json"))
        record.write_text(json.dumps({"seconds": seconds, "pairs": pairs, "kl": kl}) + "\n")
    return json.loads(record.read_text()), json.loads((directory / "run.json").read_text())


def main():
    arguments = argparse.ArgumentParser()
    for name in ("program", "model", "train", "held_out", "output"):
        arguments.add_argument(name)
    arguments.add_argument("--steps", type=int, default=15)
    arguments.add_argument("--rows", type=int, default=8)
    arguments.add_argument("--held-out", type=int, default=80, dest="limit")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    output = pathlib.Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    held_out = output / "held-out.jsonl"
    lines = pathlib.Path(given.held_out).read_text().splitlines(keepends=True)
    held_out.write_text("".join(lines[: given.limit]))

    print("| loss | accuracy | per token | reward accuracy | reward margin | nll | KL | seconds |\n|---|---|---|---|---|---|---|---|")
    shown_base = False
    for loss, flags in LOSSES.items():
        measured, record = one(given, loss, flags, held_out, output)
        before, after = record["before"], record["after"]
        pairs, kl = measured["pairs"], measured["kl"]
        if not shown_base and "accuracy" in before:
            print(f"| before | {before['accuracy']:.3f} | | | | {before['nll']:.3f} | | |")
            shown_base = True
        rewards = [after.get(key) for key in ("rewards/accuracies", "rewards/margins")]
        rewards = [f"{value:.3f}" if value is not None else "" for value in rewards]
        cells = [f"{pairs['accuracy']:.3f}", f"{pairs['accuracy_norm']:.3f}", *rewards, f"{after['nll']:.3f}", f"{kl['kl']:.4f}", f"{measured['seconds']:.0f}"]
        print(f"| {loss} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
