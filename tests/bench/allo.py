#!/usr/bin/env python3
"""ALLO beside what it is made of: DPO, DPO under random, top and bottom masks, NPO + DPO without masks, ALLO on whole weights,
ALLO on rows. Every arm with every seed, at equal steps of the last stage and, for plain DPO, also with as many steps as all of
ALLO's stages have together (equal tokens). Held-out accuracy and margin, KL to the base, TruthfulQA.

    tests/bench/allo.py -m model.gguf --train train.jsonl --eval eval.jsonl --mc mc_task.json -o out

What is finished is not made again; a table is printed after each seed, so that a run that is stopped has one too.
"""

import argparse
import json
import math
import pathlib
import re
import statistics
import subprocess
import sys
import time

METRICS = ["accuracy", "reward accuracy", "margin", "kl", "mc1", "mc2"]
BETA = 0.1


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--train", required=True, help="pairs")
    p.add_argument("--eval", required=True, help="held-out pairs")
    p.add_argument("--mc", help="TruthfulQA's mc_task.json; left out without it")
    p.add_argument("-o", "--output", required=True, type=pathlib.Path)
    p.add_argument("--program", default="target/release/llama-align")
    p.add_argument("-t", "--threads", default="2")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--pairs", type=int, default=8, help="pairs of a step")
    p.add_argument("--stage-steps", default="6,3,8", help="of warm-up, forgetting and learning; the last is every arm's")
    p.add_argument("--ratio", default="0.1", help="share of all weights, or rows, that masks hold")
    p.add_argument("--rates", default="3e-4", help="grid of learning rates of factors; each is a row of the table")
    p.add_argument("--full-rates", default="1e-4", help="the same of whole weights")
    p.add_argument("--train-rows", type=int, default=96, help="the first ones; ALLO tells the tokens of all of them apart")
    p.add_argument("--eval-rows", type=int, default=32)
    p.add_argument("--limit", default="60", help="TruthfulQA's questions")
    p.add_argument("--arms", default="", help="only these, with semicolons between")
    return p.parse_args()


class Bench:
    def __init__(self, args):
        self.args = args
        self.out = args.output
        self.out.mkdir(parents=True, exist_ok=True)
        self.rows, self.eval = self.out / "train.jsonl", self.out / "eval.jsonl"
        for path, source, n in [(self.rows, args.train, args.train_rows), (self.eval, args.eval, args.eval_rows)]:
            rows = pathlib.Path(source).read_text().splitlines()[:n]
            path.write_text("".join(row + "\n" for row in rows))
        self.steps = [int(n) for n in args.stage_steps.split(",")]

    def call(self, *words):
        """Runs the program; returns stdout, stderr and seconds."""
        words = [self.args.program, *map(str, words), "-t", self.args.threads]
        begun = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}\n{done.stderr}")
        return done.stdout, done.stderr, time.monotonic() - begun

    def train(self, run, seed, *flags):
        """A run that leaves its time and memory beside its results; a finished one is left alone."""
        if (run / "cost.json").exists():
            return
        _, said, seconds = self.call(
            "train", "-m", self.args.model, "-d", self.rows, "-o", run, "--overwrite", "--samples", 0, "-s", seed,
            "--batch-size", min(4, self.args.pairs), "--grad-accum", math.ceil(self.args.pairs / 4), *flags)
        peaks = [int(n) for n in re.findall(r"peak memory (\d+) MiB", said)]
        record = json.loads((run / "run.json").read_text())
        cost = {"seconds": seconds, "MiB": max(peaks), "steps": record["steps"], "tokens": record["tokens"]}
        (run / "cost.json").write_text(json.dumps(cost))

    def items(self, task, data, path, *flags):
        if not path.exists():
            self.call("eval", "-m", self.args.model, "--task", task, "-d", data, "--per-item", path, *flags)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def arms(self, seed, rate, full_rate):
        """Names, what an arm takes beside the steps' number, and which arms it needs: masks come from ALLO-rows' warm-up."""
        warm, forget, learn = self.steps
        ratio = ["--mask-ratio", self.args.ratio, "--stage-steps", self.args.stage_steps]
        lora = ["--learning-rate", rate]
        home = self.out / f"seed-{seed}-rate-{rate}"
        home.mkdir(exist_ok=True)
        rows = self.run("ALLO-rows", seed, rate)
        yield "ALLO-rows", rows, [*lora, "--method", "allo", *ratio]
        yield "ALLO", self.run("ALLO", seed, full_rate), ["--learning-rate", full_rate, "--method", "allo", "--delta", "full", *ratio]
        yield "DPO", self.run("DPO", seed, rate), [*lora, "--max-steps", learn]
        yield "DPO, equal tokens", self.run("DPO-long", seed, rate), [*lora, "--max-steps", warm + forget + learn]
        top, bottom, random = home / "top.gguf", home / "bottom.gguf", home / "random.gguf"
        if (rows / "warm-up/adapter.gguf").exists():
            neurons = ["neurons", "-m", self.args.model, "--lora", rows / "warm-up/adapter.gguf", "--ratio", self.args.ratio]
            if not top.exists():
                self.call(*neurons, "-o", top)
            if not bottom.exists():
                self.call(*neurons, "--smallest", "-o", bottom)
            if not random.exists():
                self.bare("mask", "random", top, "-o", random, "--seed", seed)
        for mask in (top, bottom, random):
            name = f"DPO, {mask.stem} mask"
            yield name, self.run(f"DPO-{mask.stem}", seed, rate), [*lora, "--max-steps", learn, "--mask", mask]
        npo = home / "npo"
        if not self.args.arms or "NPO + DPO" in self.args.arms:
            self.train(npo, seed, "--method", "npo", "--max-steps", forget, "--learning-rate", float(rate) / 10)
        yield "NPO + DPO", self.run("NPO-DPO", seed, rate), [*lora, "--max-steps", learn, "--lora", npo / "adapter.gguf"]

    def bare(self, *words):
        """A command without threads."""
        done = subprocess.run([self.args.program, *map(str, words)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)

    def run(self, arm, seed, rate):
        return self.out / f"{arm}-rate-{rate}" / f"seed-{seed}"

    def measure(self, run):
        """Means over items, against the base."""
        found = run / "scores.json"
        if found.exists():
            return json.loads(found.read_text())
        delta = ["--change", run / "change.gguf"] if (run / "change.gguf").exists() else ["--lora", run / "adapter.gguf"]
        base = {item["item"]: item for item in self.items("pairs", self.eval, self.out / "base-pairs.jsonl")}
        pairs = self.items("pairs", self.eval, run / "pairs.jsonl", *delta)
        gains = [BETA * (item["margin"] - base[item["item"]]["margin"]) for item in pairs]
        scores = {
            "accuracy": statistics.mean(item["accuracy"] for item in pairs),
            "reward accuracy": statistics.mean(float(gain > 0) for gain in gains),
            "margin": statistics.mean(gains),
        }
        drift = self.items("kl", self.eval, run / "kl.jsonl", *delta)
        scores["kl"] = sum(i["kl"] * i["weight"] for i in drift) / sum(i["weight"] for i in drift)
        if self.args.mc:
            asked = self.items("mc", self.args.mc, run / "mc.jsonl", "--limit", self.args.limit, *delta)
            scores |= {key: statistics.mean(item[key] for item in asked) for key in ("mc1", "mc2")}
        found.write_text(json.dumps(scores))
        return scores


def spread(values):
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def table(rows):
    """Means and standard deviations over seeds."""
    names = [m for m in METRICS if all(m in scores for _, runs in rows.items() for scores, _ in runs)]
    lines = ["| arm | seeds | steps | tokens | seconds | MiB | " + " | ".join(names) + " |", "|" + "---|" * (6 + len(names))]
    for name, runs in rows.items():
        mean = lambda key: f"{statistics.mean(cost[key] for _, cost in runs):.0f}"
        cells = [name, str(len(runs)), mean("steps"), mean("tokens"), mean("seconds"), mean("MiB")]
        lines.append("| " + " | ".join(cells + [spread([scores[m] for scores, _ in runs]) for m in names]) + " |")
    return "\n".join(lines)


def main():
    args = arguments()
    bench, rows = Bench(args), {}
    rates = list(zip(args.rates.split(","), args.full_rates.split(","), strict=True))
    for seed in range(args.seeds):
        for rate, full_rate in rates:
            for name, run, flags in bench.arms(seed, rate, full_rate):
                if args.arms and name not in args.arms.split(";"):
                    continue
                begun = time.monotonic()
                bench.train(run, seed, *flags)
                scores = bench.measure(run)
                shown = name if len(rates) == 1 else f"{name}, {full_rate if name == 'ALLO' else rate}"
                rows.setdefault(shown, []).append((scores, json.loads((run / "cost.json").read_text())))
                print(f"seed {seed}, {shown}: {time.monotonic() - begun:.0f} s, {scores}", file=sys.stderr, flush=True)
        text = table(rows)
        (args.output / "table.md").write_text(text + "\n")
        print(text, flush=True)
    runs = sorted(str(path.parent) for path in args.output.glob("*-rate-*/seed-*/run.json"))
    for items in ("pairs.jsonl", "kl.jsonl", "mc.jsonl"):
        if len(runs) > 1 and all((pathlib.Path(run) / items).exists() for run in runs):
            done = subprocess.run([args.program, "compare", *runs, "--items", items], capture_output=True, text=True)
            print(f"\ncompare --items {items}\n{done.stdout or done.stderr}")


if __name__ == "__main__":
    main()
