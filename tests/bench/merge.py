"""How fast merging two files is beside copying them: merge.py PROGRAM A.gguf B.gguf [ROUNDS [THREADS]].

A round copies A, copies B and merges both (linear, 0.3 and 0.7), each until its bytes are on the disk: `cp` is followed by `sync` of
the copy, as a merge ends with one; everything is in the page cache before. The merge's verification, which runs models, is left out
(--no-verify). Printed are medians over the rounds of wall and of processor time, and the ratios of rates on the two input files and on
one of them. `merge.py --memory PROGRAM A.gguf B.gguf` prints the most that a merge had resident instead.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def run(commands):
    """Seconds on the wall, and of user and system together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def merge(program, a, b, out, threads):
    models = ["-m", a, "-m", b, "--weight", "0.3", "--weight", "0.7"]
    return [program, "merge", *models, "-o", out, "--overwrite", "--no-verify", "-t", str(threads)]


def main():
    arguments = sys.argv[1:]
    memory = arguments[0] == "--memory"
    program, a, b = arguments[memory : memory + 3]
    rest = arguments[memory + 3 :]
    rounds, threads = int(rest[0]) if rest else 5, int(rest[1]) if len(rest) > 1 else os.cpu_count()
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(a))) as directory:
        out = os.path.join(directory, "out.gguf")
        if memory:
            wall, cpu = run([merge(program, a, b, out, threads)])
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            print(f"{os.path.getsize(a) + os.path.getsize(b)} bytes in, {os.path.getsize(out)} out, {wall:.1f} s, {cpu:.1f} CPU s")
            print(f"{peak / 2**20:.0f} MiB resident at most, mapped files included")
            return
        copies, merges, singles = [], [], []
        for path in (a, b):
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass
        for _ in range(rounds):
            parts = []
            for path in (a, b):
                parts.append(run([["cp", path, out], ["sync", out]]))
                os.remove(out)
            singles.append(parts[0])
            copies.append([sum(x) for x in zip(*parts)])
            merges.append(run([merge(program, a, b, out, threads)]))
            os.remove(out)
        middle = lambda list, i: statistics.median(x[i] for x in list)
        size = os.path.getsize(a) + os.path.getsize(b)
        for name, list in (("cp A, cp B", copies), ("merge", merges)):
            wall, cpu = middle(list, 0), middle(list, 1)
            print(f"{name:10} {wall:.3f} s, {size / wall / 1e6:.0f} MB/s of input; {cpu:.3f} CPU s")
        for i, name in enumerate(("wall", "CPU")):
            both = statistics.median(c[i] / m[i] for c, m in zip(copies, merges))
            one = statistics.median(s[i] / m[i] for s, m in zip(singles, merges))
            print(f"{name}: merging both at {both:.2f} of the rate of copying both; {one:.2f} where only what is written counts")


main()
