#!/usr/bin/env python3
"""The decider's policy with real processes: what users wait for under `serve --schedule slo`, measure by measure with its target.

  schedule.py [ROW ...] [--quick] [--rounds N] [--save FILE.json]

Starts `sluice serve` on the bundled model (2 stages of one thread, a decode worker) in a directory of its own, once with
`--schedule slo` and once with `--schedule fifo`, and loads them with `sluice bench serve`: one is loaded while the other is idle,
in turn, round after round. Figures are ratios within a round, and their medians over rounds. What compares times says the noise
beside it: by how much one and the same request varies on the idle server, in the same minutes (sigma, of logarithms, by the middle
two thirds). Requests of all rows but `growth` and `chat` ask for one token: they measure prefill, and on a small machine the
decode worker competes for the processors of the stages. Where there is the right to say so, the servers go before other programs
(--first), and under `chrt -r 1` coordinator, links and load before the computing of the stages, as if they had processors of their own.

Rows: cost, calm, mix, short, overload, tenants, prefix, chat, growth, decide. Without any: all, about 20 min. --quick takes a few
seconds for each load: to see whether it runs, not what comes of it.
"""
import argparse
import concurrent.futures
import contextlib
import json
import math
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench/peers"))
import engines  # noqa: E402: servers of this comparison and of others are started alike

INVALID, UNANSWERED = 3, 69  # exit codes of the harness after which its results are written
CONTEXT = 16384
REFUSED = re.compile(r"can't be there in time|would make others late|are queued|has as much in the queue|had passed when it came")
# Of overload and tenants: many short prompts and few long ones. Shares of the requests.
CLASSES = {64: 0.30, 128: 0.28, 256: 0.24, 512: 0.16, 4096: 0.02}


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, math.ceil(q * len(values)) - 1)] if values else math.nan


def median(values):
    values = [v for v in values if not math.isnan(v)]
    return statistics.median(values) if values else math.nan


def share(some, all_):
    return some / all_ if all_ else math.nan


def deviation(values):
    """Of the logarithms, by the distance of the 1/6 and 5/6 quantiles: a pause of the machine is no noise of all."""
    logs = [math.log(v) for v in values if v > 0]
    return (quantile(logs, 5 / 6) - quantile(logs, 1 / 6)) / 1.935 if len(logs) > 5 else math.nan


# ---- servers and loads ----

class Node:
    """A server and what is asked of it."""

    def __init__(self, args, name, *options, tls=()):
        """tls: the options with which its callers are let in."""
        self.args, self.name, self.tls = args, name, [*tls]
        self.endpoint, self.ops = (f"{host}:{engines.free_port()}" for host in ("localhost" if tls else "127.0.0.1", "127.0.0.1"))
        command = [args.sluice, "serve", args.pack, "--listen", self.endpoint, "--ops", self.ops, "--name", "m", "--stages", 2,
                   "--threads", 1, "--decode-threads", 1, "--context", CONTEXT, *options]
        self.log = args.folder / f"{name}.log"
        self.running = engines.Running(name, [*args.first, *command], self.log)
        health = [args.sluice, "health", "--endpoint", self.endpoint, *self.tls]

        def serving():
            self.running.lives()
            return subprocess.run(health, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        engines.wait_until(serving, f"{name} serving")
        self.put_stages_last()

    def put_stages_last(self):
        """Whatever is no computing of a stage goes before it, as where the stages have processors of their own: what a coordinator
        or a link waits for one is part of no prediction."""
        for role, pid, tid in threads(self.running.process.pid):
            if role == "stage" and pid == tid:
                continue  # which is the one that computes
            with contextlib.suppress(ProcessLookupError):
                go_first(tid)

    def stop(self):
        self.running.stop()

    def text(self, path, method="GET"):
        request = urllib.request.Request(f"http://{self.ops}{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.read().decode()

    def metric(self, line):
        for text in self.text("/metrics").splitlines():
            if text.startswith(line + " "):
                return float(text.split()[-1])
        raise SystemExit(f"/metrics of {self.name} has no {line}")

    def flush(self):
        self.text("/debug/flush_prefix_cache", "POST")

    def told(self, since):
        """What the log has about requests, behind so many bytes: [{name: value}]."""
        lines = []
        for line in self.log.read_bytes()[since:].decode(errors="replace").splitlines():
            if '"request ' in line or "predicted_ttft_ms" in line:
                text = json.loads(line)["message"]
                found = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', text))
                if "predicted_ttft_ms" in found:
                    lines.append(found)
        return lines

    def load(self, classes, seconds=0, seed=1):
        """Sends a mix; what became of each request that was measured, with its waits in ms. No prompt has been here before: with
        the same seed a load would find its own."""
        folder = self.args.folder
        self.flush()
        (folder / "mix.json").write_text(json.dumps({"classes": classes}))
        out = folder / "requests.jsonl"
        out.unlink(missing_ok=True)
        command = [self.args.sluice, "bench", "serve", "--grpc", self.endpoint, "--mix", folder / "mix.json", "--seed", seed,
                   "--duration", seconds, "--progress", "off", "--save", folder / "result.json", "--save-requests", out]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              preexec_fn=go_first)
        if done.returncode not in (0, INVALID, UNANSWERED) or not out.exists():
            raise SystemExit(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{done.stderr}")
        if done.returncode == INVALID:
            self.args.invalid += 1
        self.running.lives()
        requests = [json.loads(line) for line in out.read_text().splitlines()]
        for r in requests:
            r["ttft"] = (r["first_ns"] - r["due_ns"]) / 1e6 if r["first_ns"] is not None else math.inf
            r["refused"] = r["ending"] == "failed" and bool(REFUSED.search(r["error"] or ""))
            if r["ending"] == "failed" and not r["refused"]:
                raise SystemExit(f"{self.name}: a request failed: {r['error']}")
        return requests




def allowed(words):
    """What makes a server go before other programs' work; nothing where that is not allowed."""
    fine = subprocess.run([*words, "true"], stderr=subprocess.PIPE, text=True)
    return [] if fine.returncode or fine.stderr else words


def threads(session):
    """Of the processes of a session: role, process, thread."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # it ended
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                role = (process / "cmdline").read_bytes().decode().split("\0")[1]
                yield from [(role, int(process.name), int(thread.name)) for thread in process.glob("task/*")]


def go_first(thread=0):
    """Before those with which it was started, under `chrt -r 1`: between others, priorities are weights, and a thread that weighs much
    drives both stages to the other processor. Not allowed: as it is."""
    with contextlib.suppress(PermissionError):
        if os.sched_getscheduler(thread) == os.SCHED_RR:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(2))


def ttfts(requests, name=None):
    return [r["ttft"] for r in requests if name is None or r["class"] == name]


# ---- what the rows share ----

class Figures:
    """The table, as it grows; and what several rows need, measured once: servers, times alone, the capacity."""

    def __init__(self, args):
        self.args, self.rows, self.nodes, self.alone, self.noise = args, [], {}, {}, {}
        self.capacity_ = None

    def say(self, measure, value, target="", good=None, noise="", unit=""):
        verdict = "" if good is None else "yes" if good else "NO"
        self.rows.append({"measure": measure, "target": target, "value": value, "verdict": verdict, "noise": noise})
        print(f"{measure:62} {target:>14} {value:10.4g}{unit:3} {verdict:4} {noise}", flush=True)

    def node(self, name, *options, tls=()):
        if name not in self.nodes:
            self.nodes[name] = Node(self.args, name, *options, tls=tls)
        return self.nodes[name]

    def slo(self):
        return self.node("slo", "--schedule", "slo")

    def fifo(self):
        return self.node("fifo", "--schedule", "fifo")

    def end(self, name):
        self.nodes.pop(name).stop()

    def iso(self, n):
        """ms: the time to the first token of a prompt of n on the idle server; `noise` has its deviation."""
        if n not in self.alone:
            times = ttfts(self.slo().load([{"concurrency": 1, "requests": 6 + self.args.n(24 if n <= 1024 else 8), "input": n,
                                            "output": 1}], seed=1000 + n))[6:]
            self.alone[n], self.noise[n] = median(times), deviation(times)
        return self.alone[n]

    def sigma(self, n=128):
        self.iso(n)
        return f"sigma of one request {100 * self.noise[n]:.0f} %"

    def work(self, n):
        """Of n uncached tokens, us of the slowest stage, by what `sluice calibrate` says here."""
        return max(c["b"] * n + c["a"] * n * n for c in self.args.costs)

    def capacity(self):
        """Requests a second of CLASSES that this machine does when there are always some: all of a load at once, in any order."""
        if self.capacity_ is None:
            n = self.args.n(400)
            rates = []
            for k in range(self.args.n(3)):
                classes = [{"name": str(t), "rate": 2000 * p, "input": t, "output": 1, "requests": max(1, round(n * p))}
                           for t, p in CLASSES.items()]
                requests = self.slo().load(classes, seed=50 + k)
                done = [r for r in requests if r["ending"] == "done"]
                took = (max(r["end_ns"] for r in done) - min(r["due_ns"] for r in done)) / 1e9
                rates.append(sum(self.work(r["input_tokens"]) for r in done) / took)
            mean = sum(p * self.work(t) for t, p in CLASSES.items())
            self.capacity_ = median(rates) / mean
            self.say("capacity: requests/s of the mix", self.capacity_)
        return self.capacity_

    def page_ms(self, pos):
        """What a chunk of 64 tokens behind so many others takes on the slowest stage, by `sluice calibrate`."""
        return max(c["c"] + c["w"] + c["gamma"] * pos + c["b"] * 64 + c["a"] * (2 * pos + 64) * 64 for c in self.args.costs) / 1e3

    def target(self, n):
        """D(n) = D0 + 3 iso(n), ms. D0 is that of eight chunks of the least that the longest prompt can be cut into, a page behind 4k
        tokens: four are under way or next, a fifth is the headroom that admission keeps, and the rest is the machine's noise."""
        return 8 * max(self.page_ms(4096), self.iso(64) / 2) + 3 * self.iso(n)

    def classes(self, rate, tenant=None):
        """Of CLASSES at a rate, each with its target, told to the server."""
        return [{"name": f"{tenant or ''}{n}", "rate": rate * p, "input": n, "output": 1, "slo": {"ttft": round(self.target(n))},
                 "headers": {"x-slo-ttft-ms": str(round(self.target(n))), **({"x-tenant-id": tenant} if tenant else {})}}
                for n, p in CLASSES.items()]

    def in_time(self, r):
        return r["ending"] == "done" and r["ttft"] <= r["limits_ms"]["ttft"]


# ---- how much a chunk's time varies under a load ----

def probe(f, ids):
    """Chunks of a prompt among others' chunks: (stage, where it begins, tokens, operations) and microseconds."""
    (f.args.folder / "probe.json").write_text(json.dumps(ids))
    done = subprocess.run([f.args.sluice, "generate", "--endpoint", f.slo().endpoint, "--token-ids", f.args.folder / "probe.json",
                           "--max-tokens", "1", "--output", "json"], capture_output=True, text=True, check=True)
    return [((s["stage"], s["pos"], s["tokens"], s["at_peak_us"]), s["end_us"] - s["begin_us"])
            for s in json.loads(done.stdout)["timeline"]]


def repeats(spans, stage):
    """Deviation of the times of chunks that are the same: where they begin, their tokens, and their operations, which others'
    slices would add to."""
    groups = {}
    for key, us in spans:
        if key[0] == stage:
            groups.setdefault(key, []).append(math.log(max(us, 1)))
    groups = [of for of in groups.values() if len(of) >= 4]
    return deviation([math.exp(log - statistics.median(of)) for of in groups for log in of]), sum(map(len, groups))


def waited(session, role):
    """Of the threads of a role's processes: seconds that they ran, and that they could have and had no processor."""
    ran = queued = 0
    for of, pid, tid in threads(session):
        with contextlib.suppress(OSError):  # it ended
            own = pathlib.Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split() if of == role else (0, 0)
            ran, queued = ran + int(own[0]) / 1e9, queued + int(own[1]) / 1e9
    return ran, queued


# ---- rows ----

def row_cost(f):
    """Chunks: what the stages were predicted to take and took, over the last 256 under a mixed load; and by how much the time of
    one and the same chunk varies under it, for which prompts are sent among the others, and their chunks compared."""
    node, spans, session = f.slo(), [], f.slo().running.process.pid
    classes, draw = f.classes(0.8 * f.capacity()), random.Random(1)
    before = waited(session, "stage")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        load = pool.submit(node.load, classes, f.args.seconds(40), 3)
        time.sleep(2)  # the first chunks correct the costs
        while not load.done():
            spans += probe(f, [draw.randrange(2, 250) for _ in range(512)])
            time.sleep(0.2)
        load.result()
    ran, queued = (now - then for now, then in zip(waited(session, "stage"), before))
    f.say("stages: time without a processor / time that they ran", queued / ran,
          noise="two stages, the coordinator, its clients and the load share the processors")
    for k in range(2):
        sigma, n = repeats(spans, k)
        p50, p90 = (node.metric(f'sluice_stage_chunk_error_ratio{{role="stage {k}",percentile="{q}"}}') for q in (50, 90))
        for name, value, most, in_sigma in (("median", p50, 0.07, 0.8), ("p90", p90, 0.2, 2)):
            most = max(most, in_sigma * sigma) if not math.isnan(sigma) else most
            f.say(f"stage {k}: error of predicted chunk times, {name}", value, f"<= {most:.3f}", value <= most,
                  f"sigma of one chunk {100 * sigma:.0f} % ({n} repeats), {value / sigma:.2f} of it")


def row_calm(f):
    """At 0.6 and at 1x: refusals, late ones, and how far predicted times to first token are off."""
    for scale in 0.6, 1.0:
        refused, late, accepted, n, errors, biases = 0, 0, 0, 0, [], []
        for k in range(f.args.rounds):
            since = f.slo().log.stat().st_size
            requests = f.slo().load(f.classes(scale * f.capacity()), f.args.seconds(20), seed=100 + k)
            n += len(requests)
            refused += sum(r["refused"] for r in requests)
            taken = [r for r in requests if not r["refused"]]
            accepted += len(taken)
            late += sum(not f.in_time(r) for r in taken)
            for line in f.slo().told(since):
                if line["status"] == "ok" and "-" not in (line["ttft_ms"], line["predicted_ttft_ms"]):
                    ratio = float(line["predicted_ttft_ms"]) / float(line["ttft_ms"])
                    errors.append(abs(ratio - 1))
                    biases.append(ratio - 1)
        name = f"{scale:g}x"
        f.say(f"{name}: refused", share(refused, n), "<= 0.01" if scale < 1 else "", refused <= 0.01 * n if scale < 1 else None,
              f"{n} requests")
        if scale == 1:
            sigma = f.noise[128]
            f.say(f"{name}: accepted but late", share(late, accepted), "<= 0.01", late <= 0.01 * accepted, f"{accepted} requests")
            for what, value, most in (("median", median(errors), 0.06), ("p90", quantile(errors, 0.9), 0.2)):
                f.say(f"{name}: error of predicted TTFT, {what}", value, f"<= {most}", value <= most,
                      f.sigma() + f", {value / sigma:.1f} of it")
            f.say(f"{name}: bias of predicted TTFT", median(biases))


def rows_per_s(requests):
    """Prompt tokens a second; who was under way when the load ended counts by its share of the time."""
    over = max(r["due_ns"] for r in requests if r["class"] == "short")
    tokens = 0
    for r in requests:
        if r["end_ns"] is not None and r["ending"] == "done":
            took = max(1, r["end_ns"] - r["due_ns"])
            tokens += r["input_tokens"] * min(1, max(0, over - r["due_ns"]) / took)
    return tokens / (over / 1e9)


def mix_of(f, name, least, most, targets):
    """64-token prompts at 0.3 of what they alone would use, beside two of `least` to `most` that are always outstanding."""
    seconds = f.args.seconds(30)
    rate = 0.3 / (f.iso(64) / 2 / 1e3)  # two stages of the same time
    shorts = {"name": "short", "rate": rate, "input": 64, "output": 1}
    longs = {"name": "long", "concurrency": 2, "requests": 10000, "input": f"{least}-{most}", "output": 1}
    ratios = {"alone": [], "fifo": [], "rows": []}
    for k in range(f.args.rounds):
        alone = quantile(ttfts(f.slo().load([shorts], seconds / 2, seed=200 + k), "short"), 0.99)
        of = {}
        for node in (f.slo(), f.fifo()) if k % 2 == 0 else (f.fifo(), f.slo()):
            requests = node.load([shorts, longs], seconds, seed=200 + k)
            of[node.name] = quantile(ttfts(requests, "short"), 0.99), rows_per_s(requests)
            node.running.rest()
        ratios["alone"].append(of["slo"][0] / alone)
        ratios["fifo"].append(of["slo"][0] / of["fifo"][0])
        ratios["rows"].append(of["slo"][1] / of["fifo"][1])
        f.args.note(f"{name}, round {k + 1}: {rate:.0f}/s; p99 alone {alone:.1f} ms, slo {of['slo'][0]:.1f}, fifo {of['fifo'][0]:.0f};"
                    f" prompt tokens/s {of['slo'][1]:.0f}, {of['fifo'][1]:.0f}")
    # What bounds it: a chunk has no less than a page of its head, and a newcomer waits for those that are cut
    page = f.page_ms((least + most) / 2) / f.page_ms(0)
    for what, key, sign, target in (("p99 TTFT of 64 tokens / alone", "alone", "<=", targets[0]),
                                    ("p99 TTFT of 64 tokens / fifo", "fifo", "<=", targets[1]),
                                    ("throughput / fifo", "rows", ">=", targets[2])):
        value = median(ratios[key])
        good = None if target is None else value <= target if sign == "<=" else value >= target
        noise = f"{min(ratios[key]):.3g} to {max(ratios[key]):.3g}"
        if key == "alone":
            noise += f"; {f.sigma(64)}; 64 tokens behind {(least + most) // 2} others take {page:.1f} times as long as alone"
        f.say(f"{name}: {what}", value, f"{sign} {target}" if target else "", good, noise)


def row_mix(f):
    """The lengths of the target; and lengths whose attention is as much of the work as it is in 8k to 16k of Qwen3-30B-A3B: in the
    bundled model, which is small, it is ten times as much."""
    mix_of(f, "mix with 8-16k", 8192, CONTEXT - 64, (3, 0.05, 1))
    mix_of(f, "mix with 1-2k", 1024, 2048, (3, None, 1))


def row_short(f):
    """Short prompts alone, as fast as they go."""
    ratios = []
    for k in range(f.args.rounds):
        of = {}
        for node in (f.slo(), f.fifo()) if k % 2 == 0 else (f.fifo(), f.slo()):
            requests = node.load([{"name": "short", "concurrency": 128, "requests": f.args.n(600), "input": "64-512", "output": 1}],
                                 seed=300 + k)
            ends = sorted(r["end_ns"] for r in requests)
            of[node.name] = sum(r["input_tokens"] for r in requests) / (ends[-1] / 1e9)
        ratios.append(of["slo"] / of["fifo"])
        f.args.note(f"short, round {k + 1}: prompt tokens/s slo {of['slo']:.0f}, fifo {of['fifo']:.0f}")
    # one a chunk, or many: what a chunk costs beside its rows is all that can be saved
    most = max((c["c"] + c["w"] + 64 * c["b"]) / (64 * c["b"]) for c in f.args.costs)
    f.say("short prompts only: throughput / fifo", median(ratios), ">= 2.5", median(ratios) >= 2.5,
          f"{min(ratios):.2f} to {max(ratios):.2f}; by the costs of chunks on this model at most {most:.2f}, and what a frame costs")


def row_overload(f):
    """Open loop with targets, at rates up to four times the capacity: answers in time, by requests and by uncached work."""
    by_requests, by_work, late, refused = ({} for _ in range(4))
    scales = (0.6, 0.8, 1.0, 1.2, 2.0, 4.0)
    for k in range(f.args.rounds):
        for scale in scales if k % 2 == 0 else scales[::-1]:
            seconds = f.args.seconds(20)
            requests = f.slo().load(f.classes(scale * f.capacity()), seconds, seed=400 + k)
            good = [r for r in requests if f.in_time(r)]
            taken = sum(not r["refused"] for r in requests)
            by_requests.setdefault(scale, []).append(len(good) / seconds)
            by_work.setdefault(scale, []).append(sum(f.work(r["input_tokens"]) for r in good) / seconds / 1e6)
            late.setdefault(scale, []).append(share(taken - len(good), taken))
            refused.setdefault(scale, []).append(share(len(requests) - taken, len(requests)))
            f.args.note(f"overload, round {k + 1}, {scale:g}x: {len(requests)} requests, {len(good)} in time, "
                        f"{len(requests) - taken} refused, {taken - len(good)} late; work in time {by_work[scale][-1]:.2f}")
            f.slo().running.rest()
    for name, of, targets in (("uncached work", by_work, (0.9, 0.75)), ("requests", by_requests, (1.0, None))):
        best = max(median(of[s]) for s in scales[:4])
        for scale, target in zip((2.0, 4.0), targets):
            value = median(of[scale]) / best
            f.say(f"overload {scale:g}x: goodput by {name} / best rate's", value, f">= {target}" if target else "",
                  value >= target if target else None, f.sigma())
    for scale in 2.0, 4.0:
        f.say(f"overload {scale:g}x: accepted but late", median(late[scale]))
        f.say(f"overload {scale:g}x: refused", median(refused[scale]))


def row_tenants(f):
    """A tenant at 0.3 of the capacity, and one at 3 times it."""
    met, work, alone = [], [], []
    for k in range(f.args.rounds):
        quiet = f.slo().load(f.classes(0.3 * f.capacity(), "calm"), f.args.seconds(20), seed=500 + k)
        alone.append(share(sum(f.in_time(r) for r in quiet), len(quiet)))
        requests = f.slo().load(f.classes(0.3 * f.capacity(), "calm") + f.classes(3 * f.capacity(), "flood"), f.args.seconds(20),
                                seed=500 + k)
        own = [r for r in requests if r["class"].startswith("calm")]
        met.append(share(sum(f.in_time(r) for r in own), len(own)))
        done = [r for r in own if r["ending"] == "done"]
        work.append(share(sum(f.work(r["input_tokens"]) for r in done), sum(f.work(r["input_tokens"]) for r in own)))
        f.args.note(f"tenants, round {k + 1}: of {len(own)} requests {sum(r['refused'] for r in own)} refused, in time {met[-1]:.3f} "
                    f"(alone {alone[-1]:.3f}), of its work {work[-1]:.3f}")
        f.slo().running.rest()
    f.say("tenant at 0.3 beside a flood at 3x: answers in time", median(met), ">= 0.95", median(met) >= 0.95,
          f"without the flood {median(alone):.3f}; {f.sigma()}")
    f.say("tenant at 0.3 beside a flood at 3x: of its work, answered", median(work), ">= 0.85", median(work) >= 0.85)


def row_prefix(f):
    """A prompt of 8k and the longest one whose beginning is there, over one whose beginning is not."""
    for prefix, target in ((8192, 0.1), (CONTEXT - 128, None)):
        f.slo().flush()
        groups = f.args.n(3)
        requests = f.slo().load([{"name": "p", "concurrency": 1, "requests": 4 * groups, "input": prefix + 32, "output": 1,
                                  "prefix_groups": groups, "prefix_tokens": prefix}], seed=600)
        requests.sort(key=lambda r: r["due_ns"])
        miss, hits = median(ttfts(requests[:groups])), ttfts(requests[groups:])
        value = median(hits) / miss
        f.say(f"prefix of {prefix} tokens there: TTFT / miss", value, f"<= {target}" if target else "",
              value <= target if target else None, f"{median(hits):.1f} of {miss:.0f} ms; sigma of a hit {100 * deviation(hits):.0f} %")


def row_chat(f):
    """The second turn of a conversation: what of it is prefilled."""
    words, answer = 2000, 1000 if not f.args.quick else 100
    f.slo().flush()
    names = [f'sluice_prompt_tokens_total{{source="{source}"}}' for source in ("cached", "computed")]
    uncached = []
    for k in range(f.args.n(3)):
        before = [f.slo().metric(name) for name in names]
        requests = f.slo().load([{"name": "c", "concurrency": 1, "requests": 2, "input": words, "output": answer, "turns": 2,
                                   "think_ms": 2000}],
                                seed=700 + k)
        cached, computed = (f.slo().metric(name) - old for name, old in zip(names, before))
        first, second = ([r["input_tokens"] for r in requests if (r["input_tokens"] > words) == later] for later in (False, True))
        message = second[0] - words - answer
        uncached.append((computed - sum(first)) / len(second) - message)
    value = median(uncached)
    f.say(f"second turn ({words} + {answer} of answer): uncached beside the message", value, "<= 64", value <= 64,
          f"{second[0]} tokens of prompt, {answer} of them the answer before, 2 s after it")


def row_growth(f):
    """Answers of which nobody knows how long they become, in a pool of one context: pauses, and output over one at a time."""
    context, n = 4096, f.args.n(60)
    # cut off by their clients after 60, 180 and 500 tokens; their limit is the rest of the context, as without max_tokens
    classes = [{"name": str(tokens), "concurrency": c, "requests": max(2, round(n * c / 32)), "input": "64-512",
                "output": context - 512, "cancel": {"share": 1, "tokens": tokens}} for tokens, c in ((60, 16), (180, 12), (500, 4))]
    rates = {}
    for name, running in (("grow", 32), ("reserve", 1)):
        node = f.node(name, "--context", context, "--kv-tokens", context, "--max-running", running)
        requests = node.load(classes, seed=800)
        rates[name] = sum(r["output_tokens"] for r in requests) / (max(r["end_ns"] for r in requests) / 1e9)
        if name == "grow":
            gaps = [g for r in requests for g in r["gaps_ms"]]
            pauses = [max(r["gaps_ms"]) for r in requests if r["gaps_ms"]]
            back = node.metric("sluice_answers_set_back_total")
        f.end(name)
    step = median(gaps)
    f.say("no max_tokens, pool of one context: output rate / one at a time", rates["grow"] / rates["reserve"],
          noise="the worlds of `bench schedule` hold the target (>= 20, B4)")
    f.say("no max_tokens: p99 of the longest pause of a stream, in steps", quantile(pauses, 0.99) / step,
          noise=f"a step is {step:.1f} ms; {back:.0f} of {len(requests)} answers were set back, none waited for ever")


def row_decide(f):
    done = subprocess.run([*f.args.first, f.args.sluice, "bench", "decide", "--requests", "256", "--cached-pages", "100000", "--json"],
                          capture_output=True, text=True)
    us = 1e6 / json.loads(done.stdout)["records_per_s"]
    f.say("decider: a record with 256 requests, 100k cached pages", us, "<= 20", us <= 20, unit="us")


ROWS = {name[4:]: row for name, row in list(globals().items()) if name.startswith("row_")}


def parse(doc, rows):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(rows))
    parser.add_argument("--sluice", default=str(ROOT / "build/sluice"))
    parser.add_argument("--model", default=str(ROOT / "demo"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scale", type=float, default=1, help="so many times as long loads")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--first", default="nice -n -10", help="words before the servers' command, where they are allowed: how "
                        "they go before other programs; `chrt -r 1` on a machine that is busy with others' work, where the kernel then "
                        "stops all of them for 50 ms in a second that has no other idle time: see the p99 of mix by that")
    parser.add_argument("--pause", type=float, default=0, help="s between the loads of a row that takes all processors for minutes, for "
                        "others' work")
    parser.add_argument("--folder", type=pathlib.Path, help="for logs and files; without it, one that is removed")
    parser.add_argument("--save", type=pathlib.Path, help="the table as JSON")
    args = parser.parse_args()
    if wrong := set(args.rows) - set(rows):
        parser.error(f"no row {', '.join(sorted(wrong))}; there are {', '.join(rows)}")
    args.rounds = args.rounds or (1 if args.quick else 3)
    scale = args.scale * (0.25 if args.quick else 1)
    args.seconds = lambda s: max(3, s * scale)
    args.n = lambda n: max(1, round(n * scale))
    args.note = lambda text: print(f"  {text}", file=sys.stderr, flush=True)
    args.first, args.invalid = allowed(args.first.split()), 0
    return args


def main(doc, rows, default):
    """Takes the rows that the command line names, else the default ones."""
    args = parse(doc, rows)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended then, too
    with tempfile.TemporaryDirectory(prefix="sluice-figures-") as folder:
        args.folder = (args.folder or pathlib.Path(folder)).resolve()
        args.folder.mkdir(parents=True, exist_ok=True)
        args.pack = args.folder / "model.pack"
        if not args.pack.exists():
            subprocess.run([args.sluice, "pack", args.model, args.pack], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        told = subprocess.run([*args.first, args.sluice, "calibrate", args.pack, "--stages", "2", "--threads", "1", "--json"],
                              capture_output=True, text=True)
        args.costs = [stage["coefficients"] for stage in json.loads(told.stdout)["stages"]]
        figures = Figures(args)
        try:
            for name in args.rows or default:
                rows[name](figures)
        finally:
            for node in figures.nodes.values():
                node.stop()
        if args.invalid:
            print(f"{args.invalid} runs in which the harness itself was late (INVALID)")
        if args.save:
            args.save.write_text(json.dumps(figures.rows, indent=1))


if __name__ == "__main__":
    main(__doc__, ROWS, ROWS)
