"""What alignment costs and which averages win it back: hma.py --help.

For every seed: a DPO run whose adapter is kept along the way (early stopping), averages of base and adapter at several ratios, and
ratios found for three groups of blocks and for single blocks at the same means. Every adapter is measured by the same items: held-out
pairs for what was gained, other tasks for what it cost. What a run left in WORK is not computed again; the tables go to stdout, the
numbers to WORK/results.json, the plot to WORK/pareto.svg. `--cost BEFORE.gguf AFTER.gguf` measures time and memory of the search
instead, on the first seed's adapter and on these two files.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

GROUPS = {"hma3": "3", "layers": "layers"}
KINDS = {"stop": "early stopping", "average": "average", "hma3": "HMA, 3 groups", "layers": "HMA, per block", "given": "by hand"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model", help="model before alignment, in GGUF")
    parser.add_argument("train", help="pairs to align by, JSON lines")
    parser.add_argument("held_out", help="pairs to measure by")
    parser.add_argument("work", help="directory for everything that is made")
    parser.add_argument("--tax", action="append", default=[], metavar="TASK=FILE[:ITEMS]", help="what alignment costs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--lr", default="5e-4")
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--stops", type=int, default=3, help="adapters kept along the way, the last one included")
    parser.add_argument("--sweep", default="0,0.2,0.5,0.8", help="means of averages; ratios are searched at --found")
    parser.add_argument("--found", default="0.2,0.5", help="means at which ratios are searched")
    parser.add_argument("--by-hand", default="0.2", help="means that one third of the blocks is given alone, as far as it goes")
    parser.add_argument("--prompts", type=int, default=20, help="shortest of the training pairs' that the aligned model answers")
    parser.add_argument("--predict", default="40", help="tokens of an answer at most")
    parser.add_argument("--search", default="--epochs 3 --batch-size 5 --learning-rate 0.4", help="flags of every search")
    parser.add_argument("--held-out-items", type=int, default=0)
    parser.add_argument("-t", "--threads", default="1")
    parser.add_argument("--cost", nargs=2, metavar=("BEFORE", "AFTER"))
    return parser.parse_args()


def part(path, items, work):
    """The first rows of a file of rows or of a JSON list, as a file of its own."""
    if not items:
        return path
    made = os.path.join(work, f"{items}-of-{os.path.basename(path)}")
    with open(path) as file, open(made, "w") as out:
        if path.endswith(".json"):
            json.dump(json.load(file)[:items], out)
        else:
            out.writelines(line for line, _ in zip(file, range(items)))
    return made


class Bench:
    def __init__(self, options):
        self.options = options
        self.tasks = ["--tax", "pairs=" + part(options.held_out, options.held_out_items, options.work)]
        for text in options.tax:
            task, rest = text.split("=", 1)
            file, _, items = rest.rpartition(":")
            file, items = (file, int(items)) if file else (rest, 0)
            self.tasks += ["--tax", f"{task}={part(file, items, options.work)}"]

    def run(self, *line):
        """The program's answer in JSON; what it says besides goes to WORK/log."""
        with open(os.path.join(self.options.work, "log"), "ab") as log:
            log.write((" ".join(map(str, line)) + "\n").encode())
            log.flush()
            command = [self.options.program, *map(str, line), "-t", self.options.threads]
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=log)
        if ran.returncode:
            sys.exit(f"{' '.join(map(str, command))}: status {ran.returncode}, see {self.options.work}/log")
        lines = ran.stdout.decode().strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None

    def kept(self, path, make):
        """What `make` returned, from a file if it was there already."""
        if not os.path.exists(path):
            value = make()
            with open(path + ".part", "w") as file:
                json.dump(value, file)
            os.rename(path + ".part", path)
        with open(path) as file:
            return json.load(file)

    def hma(self, path, adapter, *more):
        """A search or a sweep between the model and an adapter."""
        line = ["hma", "-m", self.options.model, "--lora", adapter, *more, "--overwrite", "--json"]
        return self.kept(path, lambda: self.run(*line))

    def measured(self, path, adapter, mean="0"):
        """Every task's metrics at one mean weight of the model before."""
        return self.hma(path, adapter, "--pre-weight", mean, *self.tasks)["points"][0]["metrics"]

    def trained(self, seed, directory):
        """A run's directory; its adapters along the way with their steps."""
        options, run = self.options, os.path.join(directory, "run")
        if not os.path.exists(os.path.join(run, "adapter.gguf")):
            rows = sum(1 for line in open(options.train) if line.strip())
            steps = int(-(-rows // 8) * float(options.epochs))
            few = os.path.join(options.work, "few.jsonl")
            line = ["train", "-m", options.model, "-d", options.train, "-o", run, "--overwrite", "--lr", options.lr]
            line += ["--epochs", options.epochs, "--seed", seed, "--samples", "0", "--save-steps", "0"]
            line += ["--eval-data", few, "--eval-steps", -(-steps // options.stops), "--keep-adapters", "99"]
            self.run(*line)
        kept = os.path.join(run, "adapters")
        # The best one is among them under a name of its own.
        steps = [(re.search(r"\d+", name), os.path.join(kept, name)) for name in os.listdir(kept)]
        return run, sorted((int(step.group()), path) for step, path in steps if step)

    def seed(self, seed):
        options, points = self.options, []
        directory = os.path.join(options.work, f"seed-{seed}")
        os.makedirs(directory, exist_ok=True)
        here = lambda name: os.path.join(directory, name)
        run, stops = self.trained(seed, directory)
        adapter = os.path.join(run, "adapter.gguf")
        for step, path in stops:
            points.append(("stop", step, None, self.measured(here(f"stop-{step}.json"), path)))
        responses = here("responses.jsonl")
        if not os.path.exists(responses):
            prompts = os.path.join(options.work, "prompts.jsonl")
            draw = ["--prompts", prompts, "-n", options.predict, "--responses-out", responses + ".part", "--seed", seed]
            self.run("hma", "-m", options.model, "--lora", adapter, *draw, "--groups", "1", "--epochs", "1", "--json")
            os.rename(responses + ".part", responses)
        source = ["--responses", responses, *options.search.split(), "--seed", seed]
        # Averages without responses: a search at each of them would be made otherwise.
        found = self.hma(here("averages.json"), adapter, "--sweep", options.sweep, *self.tasks)
        points += [("average", p["pre_weight"], p["ratios"], p["metrics"]) for p in found["points"]]
        for kind, groups in GROUPS.items():
            for mean in options.found.split(","):
                out = here(f"{kind}-{mean}.gguf")
                line = [*source, "--groups", groups, "--pre-weight", mean, "-o", out]
                found = self.hma(here(f"{kind}-{mean}.found.json"), adapter, *line)
                ratios = [group["before"] for group in found["groups"]]
                told = {f"nll {name}": value for name, value in found["likelihoods"].items()}
                points.append((kind, float(mean), ratios, {**self.measured(here(f"{kind}-{mean}.json"), out), **told}))
        for mean in filter(None, options.by_hand.split(",")):
            for third in range(3):
                ratios = [0.0] * 3
                ratios[third] = min(1.0, 3 * float(mean))
                line = ["--groups", "3", "--ratios", ",".join(map(str, ratios)), *self.tasks]
                found = self.hma(here(f"given-{mean}-{third}.json"), adapter, *line)
                points.append(("given", float(mean), ratios, found["points"][0]["metrics"]))
        return points


def prepare(options):
    os.makedirs(options.work, exist_ok=True)
    with open(options.held_out) as file:
        few = [next(file) for _ in range(4)]
    with open(os.path.join(options.work, "few.jsonl"), "w") as file:
        file.writelines(few)
    with open(options.train) as rows:
        prompts = sorted({json.loads(line)["prompt"] for line in rows}, key=lambda prompt: (len(prompt), prompt))
    with open(os.path.join(options.work, "prompts.jsonl"), "w") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts[: options.prompts])


def columns(results):
    """What is shown of every task: first what alignment is for, then what it costs (True: smaller is better)."""
    names = next(iter(results.values()))[-1][3].keys()
    wanted = [("pairs/accuracy", False), ("pairs/accuracy_norm", False), ("pairs/margin", False), ("nll/nll", True), ("mc/mc1", False), ("mc/mc2", False)]
    wanted += [("em-f1/f1", False), ("exact-match/exact_match", False), ("kl/kl", True)]
    return [(name, small) for name, small in wanted if name in names]


def spread(values):
    middle = statistics.mean(values)
    return f"{middle:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{middle:.3f}"


def table(results, before):
    shown = columns(results)
    print("| blend | mean weight before | " + " | ".join(name for name, _ in shown) + " |")
    print("|" + "---|" * (len(shown) + 2))
    line = lambda head, mean, cells: print(f"| {head} | {mean} | " + " | ".join(cells) + " |")
    line("model before", "1", [f"{before[name]:.3f}" for name, _ in shown])
    rows = {}
    for points in results.values():
        for kind, mean, ratios, metrics in points:
            key = (kind, mean, tuple(ratios) if kind == "given" else ())
            rows.setdefault(key, []).append(metrics)
    for (kind, mean, ratios), list in rows.items():
        head = KINDS[kind] + (f" ({', '.join(f'{r:.1f}' for r in ratios)})" if ratios else "")
        mean = f"step {mean}" if kind == "stop" else f"{mean:g}"
        line(head, mean, [spread([m[name] for m in list]) for name, _ in shown])


def front(averages, tax, gain, at):
    """The most that averages gain at a tax, in straight lines from mean to mean; none outside of what they reach."""
    found = []
    for a, b in zip(averages, averages[1:]):
        x0, x1 = a[tax], b[tax]
        if min(x0, x1) <= at <= max(x0, x1):
            share = (at - x0) / (x1 - x0) if x1 != x0 else 0
            found.append(a[gain] + share * (b[gain] - a[gain]))
    return max(found, default=None)


def comparisons(results, before):
    """Found ratios against equal ones of the same mean, and against the averages' front."""
    shown = columns(results)
    print("\n| ratios | mean | " + " | ".join(f"{name} − average's" for name, _ in shown) + " | responses' NLL: uniform, found |")
    print("|" + "---|" * (len(shown) + 3))
    keys = {(k, m, tuple(r) if k == "given" else ()) for points in results.values() for k, m, r, _ in points if k not in ("stop", "average")}
    order = list(KINDS)
    pick = lambda points, key: next(p for p in points if (p[0], p[1], tuple(p[2]) if p[0] == "given" else ()) == key)
    for key in sorted(keys, key=lambda key: (order.index(key[0]), key[1:])):
        pairs = [(pick(points, key)[3], pick(points, ("average", key[1], ()))[3]) for points in results.values()]
        cells = [spread([found[name] - mean[name] for found, mean in pairs]) for name, _ in shown]
        likelihood = ""
        if "nll found" in pairs[0][0]:
            likelihood = ", ".join(f"{statistics.mean(p[0][name] for p in pairs):.4f}" for name in ("nll uniform", "nll found"))
        head = KINDS[key[0]] + (f" ({', '.join(f'{r:.1f}' for r in key[2])})" if key[2] else "")
        print(f"| {head} | {key[1]:g} | " + " | ".join(cells) + f" | {likelihood} |")
    for tax, small in [c for c in shown if not c[0].startswith("pairs/")]:
        print(f"\nMargin above what averages reach at the same {tax} (mean over seeds and points, those in reach):")
        for kind in order:
            gains = []
            for points in results.values():
                line = sorted(((mean, m) for k, mean, _, m in points if k == "average"), key=lambda p: p[0])
                averages = [m for _, m in line] + [before]
                for k, _, _, m in points:
                    at = front(averages, tax, "pairs/margin", m[tax]) if k == kind and k != "average" else None
                    if at is not None:
                        gains.append(m["pairs/margin"] - at)
            if gains:
                print(f"- {KINDS[kind]}: {spread(gains)} ({len(gains)} points)")
    for kind in GROUPS:
        for mean in sorted({m for points in results.values() for k, m, _, _ in points if k == kind}):
            each = [pick(points, (kind, mean, ()))[2] for points in results.values()]
            middle = [statistics.mean(ratios) for ratios in zip(*each)]
            print(f"\n{KINDS[kind]} at {mean:g}: " + ", ".join(f"{r:.3f}" for r in middle))


def plot(results, before, path):
    """Margin against every tax, a panel each."""
    taxes = [name for name, _ in columns(results) if not name.startswith("pairs/") and name != "mc/mc1"]
    colours = {"stop": "#888888", "average": "#1f6feb", "hma3": "#d1242f", "layers": "#1a7f37", "given": "#9a6700"}
    width, height, gap = 360, 300, 60
    total = max(len(taxes) * (width + gap), len(colours) * 130) + gap
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + 110}" font-family="sans-serif" font-size="11">']
    svg.append(f'<rect width="{total}" height="{height + 110}" fill="white"/>')
    rows = {}
    for points in results.values():
        for kind, mean, ratios, metrics in points:
            rows.setdefault((kind, mean, tuple(ratios) if kind == "given" else ()), []).append(metrics)
    middle = lambda key, name: statistics.mean(m[name] for m in rows[key])
    for panel, tax in enumerate(taxes):
        left, top = gap + panel * (width + gap), 30
        xs = [middle(key, tax) for key in rows] + [before[tax]]
        ys = [middle(key, "pairs/margin") for key in rows] + [before["pairs/margin"]]
        at = lambda v, low, high, size: (v - low) / ((high - low) or 1) * size
        x = lambda v: left + at(v, min(xs), max(xs), width)
        y = lambda v: top + height - at(v, min(ys), max(ys), height)
        svg.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>')
        for value, anchor in ((min(xs), "start"), (max(xs), "end")):
            svg.append(f'<text x="{x(value):.1f}" y="{top + height + 14}" text-anchor="{anchor}">{value:.3f}</text>')
        for value in (min(ys), max(ys)):
            svg.append(f'<text x="{left - 4}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>')
        svg.append(f'<text x="{left + width / 2}" y="{top + height + 28}" text-anchor="middle">{tax}</text>')
        svg.append(f'<text x="{left}" y="{top - 8}">margin of held-out pairs</text>')
        for kind in ("stop", "average", "hma3", "layers"):
            keys = sorted(key for key in rows if key[0] == kind)
            ends = [(x(before[tax]), y(before["pairs/margin"]))] if kind in ("stop", "average") else []
            line = [(x(middle(key, tax)), y(middle(key, "pairs/margin"))) for key in keys]
            line = ends + line if kind == "stop" else line + ends
            svg.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in line)}" fill="none" stroke="{colours[kind]}"/>')
        for key in rows:
            title = f"{KINDS[key[0]]} {key[1]:g} {' '.join(f'{r:.1f}' for r in key[2])}"
            a, b = x(middle(key, tax)), y(middle(key, "pairs/margin"))
            svg.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colours[key[0]]}"><title>{title}</title></circle>')
    for i, (kind, colour) in enumerate(colours.items()):
        svg.append(f'<circle cx="{gap + i * 130}" cy="{height + 85}" r="4" fill="{colour}"/>')
        svg.append(f'<text x="{gap + i * 130 + 8}" y="{height + 89}">{KINDS[kind]}</text>')
    with open(path, "w") as file:
        file.write("\n".join([*svg, "</svg>\n"]))


def cost(bench):
    """Time and memory of the search, and of one pass, on the adapter and on two files."""
    options = bench.options
    directory = os.path.join(options.work, f"seed-{options.seeds.split(',')[0]}")
    adapter, responses = os.path.join(directory, "run", "adapter.gguf"), os.path.join(directory, "responses.jsonl")
    print("| models | groups | solver | search, s | passes forward | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    before, after = options.cost
    for name, models in (("adapter", ["-m", options.model, "--lora", adapter]), ("two files", ["-m", before, "--after", after])):
        gradient, simplex = options.search.split(), ["--solver", "nelder-mead", "--evaluations", "15"]
        for groups, more in (("3", gradient), ("3", simplex), ("layers", gradient)):
            found = bench.run("hma", *models, "--responses", responses, "--groups", groups, *more, "--json")
            told = found["likelihoods"]
            solver = more[1] if more[0] == "--solver" else "gradient"
            print(f"| {name} | {groups} | {solver} | {told['seconds']:.1f} | {found['search']['n_forwards']} | {told['peak_rss_bytes'] >> 20} |")


def main():
    options = arguments()
    prepare(options)
    bench = Bench(options)
    if options.cost:
        cost(bench)
        return
    results = {seed: bench.seed(seed) for seed in options.seeds.split(",")}
    adapter = os.path.join(options.work, f"seed-{options.seeds.split(',')[0]}", "run", "adapter.gguf")
    before = bench.measured(os.path.join(options.work, "before.json"), adapter, "1")
    with open(os.path.join(options.work, "results.json"), "w") as file:
        json.dump({"before": before, "seeds": results}, file)
    table(results, before)
    comparisons(results, before)
    plot(results, before, os.path.join(options.work, "pareto.svg"))


main()
