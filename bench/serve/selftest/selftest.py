#!/usr/bin/env python3
"""The harness measured by servers that know the truth: `selftest.py [--sluice build/sluice] [CASE ...]`.

Each case starts `sluice bench scripted`, sends it a load with `sluice bench serve`, and lays what the harness says beside what the
server wrote down. Requests are paired by number; a true TTFT is when the server gave the first token to its transport minus when
the request was due. What is printed are figures, and a machine that is busy makes them worse; the tests are in tests/."""
import argparse
import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

QUANTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}
WAYS = ("grpc", "openai")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as it:
        return it.getsockname()[1]


class Scripted:
    def __init__(self, sluice, folder, *args):
        self.truth = folder / "truth.jsonl"
        self.ports = {way: free_port() for way in WAYS}
        self.process = subprocess.Popen(
            [sluice, "bench", "scripted", "--grpc-listen", f"127.0.0.1:{self.ports['grpc']}", "--http-listen",
             f"127.0.0.1:{self.ports['openai']}", "--truth", self.truth, *map(str, args)], stderr=subprocess.DEVNULL)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.ports["openai"])).close()
                return
            except OSError:
                time.sleep(0.01)
        sys.exit("the scripted server does not listen")

    def target(self, way):
        return ["--grpc", f"127.0.0.1:{self.ports['grpc']}"] if way == "grpc" else ["--openai", f"http://127.0.0.1:{self.ports['openai']}"]

    def stop(self):
        """Its truth, by number."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        return sorted((json.loads(line) for line in self.truth.read_text().splitlines()), key=lambda t: t["number"])


def measure(args, way, load, script):
    """(result of --save, requests of --save-requests, truth, standard output)"""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Scripted(args.sluice, folder, *script)
        done = subprocess.run([args.sluice, "bench", "serve", *server.target(way), "--save", folder / "s", "--save-requests", folder / "r",
                               *map(str, load), *(["--cpus", args.cpus] if args.cpus else [])], capture_output=True, text=True)
        truth = server.stop()
        if done.returncode not in (0, 3):
            sys.exit(done.stderr)
        result = json.loads((folder / "s").read_text())
        requests = [json.loads(line) for line in (folder / "r").read_text().splitlines()]
        return result, requests, truth, done


def nearest_rank(values, q):
    values = sorted(values)
    return values[max(0, math.ceil(q * len(values)) - 1)]


def true_values(requests, truth):
    began = requests[0]["run"]["began_ns"]
    ttft, tpot, itl, e2e = [], [], [], []
    for r, t in zip(requests, truth):
        if not t["token_ns"]:
            ttft.append(math.inf)
            continue
        due = began + r["due_ns"]
        tokens = t["token_ns"]
        ttft.append((tokens[0] - due) * 1e-6)
        e2e.append((tokens[-1] - due) * 1e-6)
        itl += [(b - a) * 1e-6 for a, b in zip(tokens, tokens[1:])]
        if len(tokens) > 1:
            tpot.append((tokens[-1] - tokens[0]) * 1e-6 / (len(tokens) - 1))
    return {"ttft": ttft, "tpot": tpot, "itl": itl, "e2el": e2e}


def lag_of(result):
    lag = result["sluice"]["all"]["send_lag"]["p99"]["value"]
    return f"{lag:.3f} ms" if lag is not None else "n/a"


# ---- the cases ----

LAWS = {
    "constant": (["--ttft", 300, "--tpot", 30], ["--rate", 20, "--requests", 1200, "--output-length", 8]),
    "exponential": (["--ttft", 100, "--tpot", 20, "--ttft-law", "exponential", "--tpot-law", "exponential"],
                    ["--rate", 40, "--requests", 1600, "--output-length", 8]),
    "lognormal": (["--ttft", 100, "--tpot", 20, "--ttft-law", "lognormal:1", "--tpot-law", "lognormal:0.5"],
                  ["--rate", 40, "--requests", 1600, "--output-length", 8]),
    "queue at 0.8": (["--ttft", 20, "--tpot", 1, "--ttft-law", "exponential", "--servers", 1],
                     ["--rate", 40, "--requests", 2400, "--output-length", 1]),
}


def percentiles(args):
    """Every percentile within 1 % of what the server knows."""
    print(f"{'percentiles':22} {'way':7} {'measure':8} " + " ".join(f"{q:>22}" for q in QUANTILES) + "   worst")
    for name, (script, load) in LAWS.items():
        for way in WAYS:
            result, requests, truth, _ = measure(args, way, load, script)
            for key, values in true_values(requests, truth).items():
                figure, cells, worst = result["sluice"]["all"][key], [], 0
                for label, q in QUANTILES.items():
                    if not values or figure[label]["value"] is None:
                        cells.append("n/a")
                        continue
                    true, told = nearest_rank(values, q), figure[label]["value"]
                    worst = max(worst, abs(told / true - 1))
                    cells.append(f"{told:.2f} of {true:.2f}")
                if any(c != "n/a" for c in cells):
                    print(f"{name:22} {way:7} {key:8} " + " ".join(f"{c:>22}" for c in cells) + f"   {100 * worst:.2f} %", flush=True)


def stall(args):
    """A second in which everything stands still, at 100 requests a second: a hundred requests are late."""
    for way in WAYS:
        result, requests, truth, _ = measure(args, way, ["--rate", 100, "--arrivals", "constant", "--requests", 500, "--output-length", 1],
                                             ["--ttft", 20, "--tpot", 1, "--stall", "2:1"])
        late = sum(r["first_ns"] - r["due_ns"] > 25e6 for r in requests)
        true = sum(t > 25 for t in true_values(requests, truth)["ttft"])
        print(f"stall of 1 s at 100/s   {way:7} {late} requests late, by the server's clock {true}; send lag p99 {lag_of(result)}", flush=True)


def cost(args):
    """2,000 streams, 20,000 tokens a second: what the harness takes, and how late it sends."""
    for way in WAYS:
        result, requests, truth, done = measure(
            args, way, ["--rate", 100, "--duration", 40, "--warm-up", 20, "--output-length", 200, "--input-length", 16],
            ["--ttft", 100, "--tpot", 100])
        told = re.search(r"harness (\d+) % of a processor", done.stdout).group(1)
        ours = result["sluice"]["all"]
        true = sum(t["output_tokens"] for t in truth)
        print(f"2,000 streams           {way:7} at most {ours['max_in_flight']} in flight, {ours['max_output_tokens_in_a_second']:.0f} tokens in a second; "
              f"harness {told} % of a processor; send lag p50 {ours['send_lag']['p50']['value']:.3f}, p99 {lag_of(result)}; "
              f"{sum(r['output_tokens'] for r in requests)} of {true} tokens; TPOT p50 {ours['tpot']['p50']['value']:.2f} ms", flush=True)


def start(args):
    """From the start of the command to the first request at the server."""
    for way in WAYS:
        times = []
        for _ in range(10):
            with tempfile.TemporaryDirectory() as folder:
                server = Scripted(args.sluice, pathlib.Path(folder), "--ttft", 1, "--tpot", 1)
                began = time.monotonic_ns()
                subprocess.run([args.sluice, "bench", "serve", *server.target(way), "--concurrency", "1", "--requests", "1", "--output-length", "1"],
                               capture_output=True, check=False)
                times.append((server.stop()[0]["arrival_ns"] - began) * 1e-6)
        print(f"start to first request  {way:7} median {nearest_rank(times, 0.5):.1f} ms, most {max(times):.1f} ms of 10", flush=True)


CASES = {case.__name__: case for case in (percentiles, stall, cost, start)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default="build/sluice")
    parser.add_argument("--cpus", help="processors for the harness")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    args = parser.parse_args()
    for name in args.cases or CASES:
        if name not in CASES:
            parser.error(f"{name} is none of {', '.join(CASES)}")
        CASES[name](args)
    print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
