#!/usr/bin/env python3
"""What it costs to cut a decode worker by layers: output rate of `serve --decode-stages D` with one thread each over that of one
process with D threads, for a full batch.

  decode_stages.py PACK [--parts D] [--batch N] [--rounds N] [--output TOKENS]

Both servers stand side by side, one is loaded while the other is idle, in turn, round after round: so many requests at once as the batch
has places, of one length. The rate is the sum of theirs, each from its first token to its last. It is a ratio within a round; the median over rounds is said, and the smallest and largest.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/peers"))
import engines  # noqa: E402: servers of this comparison and of others are started alike


class Node:
    def __init__(self, args, folder, name, parts, threads):
        self.args, self.folder = args, folder
        self.endpoint, ops = (f"127.0.0.1:{engines.free_port()}" for _ in range(2))
        command = [args.sluice, "serve", args.pack, "--listen", self.endpoint, "--ops", ops, "--stages", 1, "--threads", 1,
                   "--decode-stages", parts, "--decode-threads", threads, "--context", 2048, "--max-running", args.batch]
        self.running = engines.Running(name, command, folder / f"{name}.log")
        health = [args.sluice, "health", "--endpoint", self.endpoint]

        def serving():
            self.running.lives()
            return subprocess.run(health, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        engines.wait_until(serving, f"{name} serving")

    def rate(self, seed):
        """Tokens a second of the batch, and the time between two of one answer in ms."""
        out, n = self.folder / "requests.jsonl", self.args.output
        out.unlink(missing_ok=True)
        command = [self.args.sluice, "bench", "serve", "--grpc", self.endpoint, "--concurrency", self.args.batch, "--requests",
                   self.args.batch, "--input-length", 16, "--output-length", n, "--warm-up", 0, "--seed", seed, "--progress", "off",
                   "--save-requests", out]
        done = subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode not in (0, 3) or not out.exists():
            raise SystemExit(f"the load ended with {done.returncode}:\n{done.stderr}")
        requests = [json.loads(line) for line in out.read_text().splitlines()]
        if len(requests) != self.args.batch or any(r["ending"] != "done" for r in requests):
            raise SystemExit(f"not all of the batch was answered: {requests[:2]}")
        each = [(n - 1) / (r["end_ns"] - r["first_ns"]) * 1e9 for r in requests]
        return sum(each), 1e3 * self.args.batch / sum(each)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack")
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=int, default=200)
    parser.add_argument("--sluice", default=ROOT / "build/sluice")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one = Node(args, pathlib.Path(folder), "one", 1, args.parts)
        cut = Node(args, pathlib.Path(folder), "cut", args.parts, 1)
        ratios = []
        for k in range(-1, args.rounds):
            (a, step_a), (b, step_b) = one.rate(100 + k), cut.rate(100 + k)
            if k < 0:
                continue  # caches are warm now
            ratios.append(b / a)
            print(f"one process {a:7.1f} tokens/s, {step_a:6.2f} ms a token; {args.parts} processes {b:7.1f} tokens/s, "
                  f"{step_b:6.2f} ms a token; ratio {b / a:.3f}", flush=True)
        print(f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
        one.running.stop()
        cut.running.stop()


if __name__ == "__main__":
    main()
