#!/usr/bin/env python3
"""A short run whose weights exceed what the kernel lets the process hold, next to the same run without a limit.

Both must end with the same adapter. By hand, as root, on Linux with memory cgroups (v1):

    tests/bench/memory_limit.py MODEL.gguf ROWS.jsonl --limit 400 [flags of train]
"""
import argparse
import os
import pathlib
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("rows", type=pathlib.Path)
parser.add_argument("--limit", type=int, required=True, help="MiB")
parser.add_argument("--program", default="target/release/llama-align")
args, flags = parser.parse_known_args()


def stat(group):
    lines = (group / "memory.stat").read_text().splitlines()
    return {key: int(value) for key, value in (line.split() for line in lines)}


def train(work, name, group=None):
    out = work / name
    command = [args.program, "train", "-m", args.model, "-d", args.rows, "-o", out, "--samples", "0"]
    command += ["--max-steps", "3", "--recompute", "always", *flags]
    # Pages count for the group that touches them first, so the file must not lie in the cache already.
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    join = (lambda: (group / "tasks").write_text(str(os.getpid()))) if group else None
    begun, most = time.time(), {"rss": 0}
    with open(work / "log", "w") as log:
        run = subprocess.Popen(command, preexec_fn=join, stdout=log, stderr=log)
        while run.poll() is None:
            if group and (now := stat(group))["rss"] >= most["rss"]:
                most = now
            time.sleep(0.1)
    if run.returncode:
        raise SystemExit(f"{name}: status {run.returncode}\n{(work / 'log').read_text()}")
    return time.time() - begun, most, (out / "adapter.gguf").read_bytes()


group = pathlib.Path(f"/sys/fs/cgroup/memory/llama-align.{os.getpid()}")
group.mkdir()
try:
    (group / "memory.limit_in_bytes").write_text(f"{args.limit}M")
    with tempfile.TemporaryDirectory() as work:
        free_seconds, _, free = train(pathlib.Path(work), "free")
        seconds, most, limited = train(pathlib.Path(work), "limited", group)
    faults = stat(group)["pgmajfault"]
finally:
    group.rmdir()
size = args.model.stat().st_size >> 20
print(f"file of {size} MiB: {free_seconds:.1f} s; limited to {args.limit} MiB: {seconds:.1f} s, {faults} major faults")
print(f"at its most: {most['rss'] >> 20} MiB anonymous, {most['mapped_file'] >> 20} MiB of files mapped")
print("the same adapter" if limited == free else "ANOTHER ADAPTER")
raise SystemExit(limited != free)
