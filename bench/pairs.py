#!/usr/bin/env python3
"""Is this binary slower than that one? Runs both in turn (A B, B A, A B, ...), takes figures out of what they print as JSON, and
says the ratio new/base of each: mean of the paired logarithms and its 95 % interval, and the median with that of a bootstrap.

    bench/pairs.py BASE NEW -f results.pp_tok_s -n 30 -- bench prefill --model PACK --prompt-tokens 512,2048 --threads 1 --json

-f names a figure by the keys that lead to it; a list on the way stands for each of its elements. Repeatable. One thread and
several rounds a run are quieter than two threads on a machine of two processors which others share.
"""
import argparse
import json
import math
import random
import statistics
import subprocess
import sys


def figures(value, keys):
    """Every number at keys, with the place where it lies: [("results[0].pp_tok_s", 812.5), ...]."""
    if isinstance(value, list):
        return [(f"[{i}]{name}", x) for i, item in enumerate(value) for name, x in figures(item, keys)]
    if not keys:
        return [("", float(value))]
    return [(f".{keys[0]}{name}", x) for name, x in figures(value[keys[0]], keys[1:])]


def measure(binary, arguments, wanted):
    run = subprocess.run([binary, *arguments], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"pairs: {binary} ended with {run.returncode}: {run.stderr.strip()[-300:]}")
    out = json.loads(run.stdout)
    return dict(pair for path in wanted for pair in figures(out, path.split(".")))


def percent(log_ratio):
    return f"{100 * math.expm1(log_ratio):+.2f}"


def summary(logs):
    mean, half = statistics.mean(logs), 2.04 * statistics.stdev(logs) / math.sqrt(len(logs))
    medians = sorted(statistics.median(random.choices(logs, k=len(logs))) for _ in range(4000))
    return (f"new/base {percent(mean)} % (95 %: {percent(mean - half)} .. {percent(mean + half)}), "
            f"median {percent(statistics.median(logs))} % ({percent(medians[100])} .. {percent(medians[3899])}), {len(logs)} pairs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("new")
    parser.add_argument("-f", "--figure", action="append", required=True)
    parser.add_argument("-n", "--pairs", type=int, default=30)
    parser.add_argument("arguments", nargs="+")
    a = parser.parse_args()
    random.seed(1)
    logs = {}
    for i in range(a.pairs):
        order = [a.base, a.new] if i % 2 == 0 else [a.new, a.base]
        of = {binary: measure(binary, a.arguments, a.figure) for binary in order}
        for name, x in of[a.base].items():
            logs.setdefault(name, []).append(math.log(of[a.new][name] / x))
        print(f"\r{i + 1}/{a.pairs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for name, values in logs.items():
        print(f"{name[1:]}: {summary(values)}")


if __name__ == "__main__":
    main()
