#!/usr/bin/env python3
"""How far `sluice plan` can be trusted: what it predicts for pipelines of this machine, beside what they take.

  plan.py [--quick] [--rounds N] [--first WORDS] [--save FILE.json]

Two stages of one thread run the bundled model as they are. What their chunks cost is what the coordinator has learnt of their traces
(/metrics) while both were at work, at one chunk size; what a frame takes between them, and a stage between two chunks, are medians of the
same traces, as is what a request takes before its first chunk and behind its last. With that
`plan --from-cost` predicts the time to a first token for three chunk sizes and three lengths, each of which is then measured.
A machine rarely has processors for more stages: pipelines of three and four are real processes, too, whose stages wait for what
their layers were measured to cost and compute nothing (`sluice stage --waits`); what is predicted for them is queues, frames,
links and the cut of the prompt, with medians of frames, gaps and late awakenings of their own traces. Each point says which of the two it is, its error, and the noise: by how much one and the
same request varies (sigma, of logarithms, by the middle two thirds). A point is good within 10 %, or within two of those.
--first: words before each process, as "chrt -r 1" beside others' work.
"""
import argparse
import contextlib
import json
import math
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/peers"))
import engines  # noqa: E402: servers of other comparisons are started alike
import schedule  # noqa: E402: so is who goes first among their threads

TERMS = {"chunk": "c", "position": "gamma", "row": "b", "pair": "a", "experts": "w", "end": "e"}
NAMES = [*TERMS.values(), "hit"]
LAYERS, VOCABULARY, LAST = 6, 4000, 0.1  # of the bundled model; LAST: of a layer, what the model's last costs


class Pipeline:
    """Processes that answer at an endpoint; the first is asked for its health."""

    def __init__(self, args, name, commands, endpoint, ops):
        self.args, self.endpoint, self.ops = args, endpoint, ops
        self.running = [engines.Running(f"{name}{i}", [*args.first, *command], args.folder / f"{name}{i}.log")
                        for i, command in enumerate(commands)]

    def wait(self):
        def serving():
            for process in self.running:
                process.lives()
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"http://{self.ops}/readyz", timeout=2).status == 200
            return False
        engines.wait_until(serving, "a pipeline")
        for process in self.running:  # all but what computes goes first, as where stages have processors of their own
            for role, pid, tid in schedule.threads(process.process.pid):
                if role != "stage" or pid != tid:
                    with contextlib.suppress(ProcessLookupError):
                        schedule.go_first(tid)
        return self

    def ask(self, n, seed):
        ids = self.args.folder / "ids.json"
        draw = random.Random(seed)
        ids.write_text(json.dumps([draw.randrange(10, VOCABULARY) for _ in range(n)]))
        done = subprocess.run([*self.args.first, self.args.sluice, "generate", "--endpoint", self.endpoint, "--token-ids", ids,
                               "--max-tokens", "1", "--output", "json"], capture_output=True, text=True, check=True,
                              preexec_fn=schedule.go_first)
        return json.loads(done.stdout)

    def metrics(self):
        return urllib.request.urlopen(f"http://{self.ops}/metrics", timeout=10).read().decode()

    def stop(self):
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.process.pid, signal.SIGTERM)
        for process in self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.process.pid, signal.SIGKILL)


def serve(args, chunk):
    endpoint, ops = (f"127.0.0.1:{engines.free_port()}" for _ in range(2))
    return Pipeline(args, f"serve{chunk}-", [[args.sluice, "serve", args.pack, "--stages", 2, "--threads", 1, "--decode-threads", 1,
                                              "--chunk", chunk, "--listen", endpoint, "--ops", ops]], endpoint, ops).wait()


def waiting(args, costs, chunk):
    """Stages that wait, a process each, with what joins them."""
    endpoint, ops = (f"127.0.0.1:{engines.free_port()}" for _ in range(2))
    join = f"plan-{os.getpid()}-{endpoint[-5:]}"
    stages = [[args.sluice, "stage", args.pack, "--stage", k, "--threads", 1, "--join-socket", join,
               "--waits", ",".join(repr(cost[name]) for name in NAMES)] for k, cost in enumerate(costs)]
    coordinator = [args.sluice, "coordinator", args.pack, "--stages", len(costs), "--chunk", chunk, "--listen", endpoint, "--ops", ops,
                   "--join-socket", join]
    decode = [args.sluice, "decode", args.pack, "--threads", 1, "--join-socket", join]
    return Pipeline(args, f"waits{len(costs)}-{chunk}-", [coordinator, *stages, decode], endpoint, ops).wait()


def costs_of(metrics):
    """Microseconds, by stage."""
    costs = {}
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("sluice_stage_cost_seconds{"):
            labels = dict(part.split("=") for part in name[name.index("{") + 1:-1].replace('"', "").split(","))
            costs.setdefault(int(labels["role"].split()[1]), {})[TERMS[labels["of"]]] = 1e6 * float(value)
        if name.startswith("sluice_stage_expert_hit_ratio{"):
            costs.setdefault(int(name.split("stage ")[1].split('"')[0]), {})["hit"] = float(value)
    return [costs[k] for k in sorted(costs)]


def hop_us(answers):
    """What a frame takes from one stage to the next when that is free: the middle of the traces."""
    hops = []
    for answer in answers:
        spans = {(s["stage"], s["chunk"]): s for s in answer["timeline"]}
        hops += [spans[k + 1, i]["recv_us"] - s["end_us"] for (k, i), s in spans.items() if (k + 1, i) in spans]
    return statistics.median(hops)


def gap_us(answers, stage):
    """Between two chunks of a stage, when the second was there already: frames, seals and pages, which are no chunk's time."""
    gaps = []
    for answer in answers:
        spans = {s["chunk"]: s for s in answer["timeline"] if s["stage"] == stage}
        gaps += [spans[i + 1]["begin_us"] - s["end_us"] for i, s in spans.items()
                 if i + 1 in spans and spans[i + 1]["recv_us"] <= s["end_us"]]
    return statistics.median(gaps) if gaps else 0


def late_us(answers, stage, cost):
    """By how much a stage that waits wakes up too late."""
    return statistics.median(s["end_us"] - s["begin_us"] - waited_us(cost, s) for a in answers for s in a["timeline"]
                             if s["stage"] == stage)


def waited_us(cost, span):
    pos, n = span["pos"], span["tokens"]
    return (cost["c"] + cost["gamma"] * pos + cost["b"] * n + cost["a"] * (2 * pos + n) * n
            + cost["w"] * (1 - (1 - cost["hit"]) ** n))


def with_gaps(answers, costs, waits):
    """What a chunk keeps its stage from the next one, and not only what it takes."""
    return [{**cost, "c": cost["c"] + gap_us(answers, k) + (max(late_us(answers, k, cost), 0) if waits else 0)}
            for k, cost in enumerate(costs)]


def edge_ms(answers, hop, n_stages):
    """What a request takes before its first chunk begins and behind its last, beside the frames that are counted."""
    first = statistics.median(min(s["begin_us"] for s in a["timeline"]) for a in answers)
    last = statistics.median(1000 * a["ttft_ms"] - max(s["end_us"] for s in a["timeline"] if s["stage"] == n_stages - 1)
                             for a in answers)
    return max(first + last - 2 * hop, 0) / 1000


def write_costs(args, costs, begin):
    path = args.folder / f"cost{len(costs)}.json"
    path.write_text(json.dumps({"stages": [{"layers": [begin[k], begin[k + 1]], "coefficients": cost}
                                           for k, cost in enumerate(costs)]}))
    return path


def predict(args, costs, begin, hop, chunk, n):
    nodes = args.folder / "nodes.yaml"
    nodes.write_text(f"link: {{gbit: 100, latency-us: {hop:.0f}}}\nnodes:\n  - {{count: {len(costs)}, memory-gb: 8, matrix-tflops: 1, "
                     "attention-tflops: 1, memory-gbs: 10}\n")
    done = subprocess.run([args.sluice, "plan", args.pack, "--from-cost", write_costs(args, costs, begin), "--nodes", nodes, "--stages",
                           str(len(costs)), "--chunk", str(chunk), "--load", f"{n}:0", "--json"], capture_output=True, text=True,
                          check=True)
    return json.loads(done.stdout)["ttft_ms"]


def deviation(values):
    logs = sorted(math.log(v) for v in values)
    low, high = (logs[min(len(logs) - 1, math.ceil(q * len(logs)) - 1)] for q in (1 / 6, 5 / 6))
    return (high - low) / 1.935 if len(logs) > 3 else math.nan


def points(args, pipeline, costs, begin, hop, edge, chunk, kind, found):
    for n in args.lengths:
        pipeline.ask(n, -n)
        took = [pipeline.ask(n, 1000 * n + i)["ttft_ms"] for i in range(args.rounds)]
        said, median, sigma = edge + predict(args, costs, begin, hop, chunk, n), statistics.median(took), deviation(took)
        error = said / median - 1
        good = abs(error) <= max(0.10, 2 * sigma if not math.isnan(sigma) else 0)
        found.append({"stages": len(costs), "compute": kind, "chunk": chunk, "tokens": n, "predicted_ms": said, "measured_ms": median,
                      "least_ms": min(took), "error": error, "sigma": sigma, "good": good})
        print(f"figure: {len(costs)} stages, compute {kind}, chunks of {chunk:4} rows, {n:5} tokens: predicted {said:7.1f} ms, "
              f"took {median:7.1f} ms, at least {min(took):7.1f} ({100 * error:+5.1f} %, sigma {100 * sigma:.1f} %){'' if good else '  too far'}", flush=True)


def learn(args, pipeline):
    """Prompts of other lengths than those that are predicted."""
    return [pipeline.ask(n, i) for i in range(2 if args.quick else 6) for n in (640, 1536, 3072)]


def layers_of(costs):
    """Of a layer, by the first stage, which has three whole ones; and what an end costs."""
    return {name: costs[0][name] / 3 for name in NAMES[:5]} | {"e": costs[-1]["e"], "hit": costs[0]["hit"]}


def cut(layer, n_stages):
    begin = [LAYERS * k // n_stages for k in range(n_stages + 1)]
    costs = []
    for k in range(n_stages):
        n = begin[k + 1] - begin[k]
        whole = n - 1 + LAST if k + 1 == n_stages else n
        costs.append({"c": layer["c"] * n, **{name: layer[name] * whole for name in NAMES[1:5]},
                      "e": layer["e"] if k + 1 == n_stages else 0, "hit": layer["hit"]})
    return costs, begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=pathlib.Path, default=ROOT / os.environ.get("SLUICE_BUILD", "build") / "sluice")
    parser.add_argument("--quick", action="store_true", help="one chunk size and one length of each: to see whether it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--stages", type=int, nargs="*", default=[2, 3, 4], help="which pipelines; two stages compute, more wait")
    parser.add_argument("--first", default="", help="words before each process")
    parser.add_argument("--save", type=pathlib.Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # pipelines are ended then, too
    args.first = schedule.allowed(args.first.split()) if args.first else []
    args.lengths = [1024] if args.quick else [1024, 2048, 4096]
    chunks = [256] if args.quick else [128, 256, 512]
    found = []
    args.folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-plan-"))
    args.pack = args.folder / "demo.pack"
    subprocess.run([args.sluice, "pack", ROOT / "demo", args.pack], check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, args.folder)
        learning = serve(args, 256)
        stack.callback(learning.stop)
        answers = learn(args, learning)
        learnt, hop = costs_of(learning.metrics()), hop_us(answers)
        costs, edge = with_gaps(answers, learnt, False), edge_ms(answers, hop, 2)
        learning.stop()
        print(f"figure: learnt with chunks of 256 rows: {json.dumps(costs)}; a frame takes {hop:.0f} us, the edge "
              f"{edge:.2f} ms", flush=True)
        for chunk in chunks if 2 in args.stages else []:
            pipeline = serve(args, chunk)
            stack.callback(pipeline.stop)
            points(args, pipeline, costs, [0, 3, 6], hop, edge, chunk, "measured", found)
            pipeline.stop()
        layer = layers_of(learnt)
        for n_stages in [n for n in args.stages if n > 2]:
            waited, begin = cut(layer, n_stages)
            learning = waiting(args, waited, 256)
            stack.callback(learning.stop)
            answers = learn(args, learning)
            known, hop = with_gaps(answers, waited, True), hop_us(answers)
            edge = edge_ms(answers, hop, n_stages)
            learning.stop()
            for chunk in chunks:
                pipeline = waiting(args, waited, chunk)
                stack.callback(pipeline.stop)
                points(args, pipeline, known, begin, hop, edge, chunk, "simulated", found)
                pipeline.stop()
    bad = [p for p in found if not p["good"]]
    print(f"figure: {len(found) - len(bad)} of {len(found)} points within 10 % or two sigma; the largest error is "
          f"{100 * max(abs(p['error']) for p in found):.1f} %")
    if args.save:
        args.save.write_text(json.dumps({"costs": costs, "hop_us": hop, "points": found}, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
