#!/usr/bin/env python3
"""Our harness beside aiperf and guidellm: the same load by each, on a server whose times are known, in the same minutes.

  harnesses.py --python PYTHON --smg PROGRAM [--sluice build/sluice] [--json FILE] [--keep FOLDER]

PYTHON has the packages of tests/requirements-harnesses.txt, PROGRAM is the gateway smg of tests/requirements.txt. Behind it stands
`sluice bench scripted`, which sends the first token after --ttft ms and the others every --tpot ms. Each round, every tool asks
for the same number of completions of fixed lengths, so many at a time; who goes first changes from round to round.

A tool's medians are computed anew from its records of single requests by the definitions in bench/serve/README.md, since tools
mean different things by one word (printed below the table). In a closed loop a request is due when the one before it has ended:
ends and begins are in the records. Every request is also found in what the server wrote down, by its id.

Medians are the nearest rank; printed are the medians over rounds of them, and of the ratio to ours within a round.
Exit codes: 0; 3 a ratio is off by more than --within, or what was measured cannot be (said in sentences). No hub is asked for
anything: the tokenizer is that of --model.
"""
import argparse
import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
OFF = 3
INVALID = 3  # of `sluice bench serve`: it was late itself, which the table shows as send lag
MEASURES = {"ttft": "TTFT", "ttft_sent": "TTFT sent", "itl": "ITL", "tpot": "TPOT", "e2el": "E2E", "lag": "send lag"}
JUDGED = ("ttft", "ttft_sent", "itl", "tpot", "e2el")
PATIENCE = 600 * float(os.environ.get("SLUICE_SLOW_FACTOR", 1))  # s; bounds what hangs


# ---- the server ----

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as it:
        return it.getsockname()[1]


def wait_until(condition, what, processes=()):
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        for process in processes:
            if process.poll() is not None:
                sys.exit(f"{what} did not come, because {process.args[0]} ended with {process.returncode}")
        if time.monotonic() > end:
            sys.exit(f"{what} did not come within {PATIENCE:.0f} s")
        time.sleep(0.05)
    return value


def ask(url, body=None):
    """None: it refused, or nobody is there."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return json.load(reply)
    except (OSError, urllib.error.URLError):
        return None


class Served:
    """The scripted server and smg before it, both running; a context manager that ends them."""

    def __init__(self, args, folder, port=free_port):
        self.args, self.truth_path, self.processes, self.logs = args, folder / "truth.jsonl", [], []
        self.folder, worker, http, metrics = folder, port(), port(), port()
        self.url = f"http://127.0.0.1:{http}"
        self.start("scripted", args.sluice, "bench", "scripted", "--model", args.model, "--grpc-listen", f"127.0.0.1:{worker}",
                   "--ttft", args.ttft, "--tpot", args.tpot, "--truth", self.truth_path)
        self.start("smg", args.smg, "launch", "--host", "127.0.0.1", "--port", http, "--prometheus-host", "127.0.0.1",
                   "--prometheus-port", metrics, "--worker-urls", f"grpc://127.0.0.1:{worker}")

    def start(self, name, *words):
        self.logs.append(open(self.folder / f"{name}.log", "wb"))
        self.processes.append(subprocess.Popen(list(map(str, words)), stdout=self.logs[-1], stderr=self.logs[-1]))

    def __enter__(self):
        def answers():
            """Listed is not ready: the gateway fetches the tokenizer behind its list, and refuses until it has it."""
            listed = ((ask(f"{self.url}/v1/models") or {}).get("data") or [{}])[0].get("id")
            return listed if ask(f"{self.url}/v1/completions", {"model": listed or "", "prompt": "A", "max_tokens": 1}) else None
        try:
            self.model = wait_until(answers, "an answer through smg", self.processes)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self.logs:
            log.close()

    def truth(self):
        """What was written down until now."""
        whole = self.truth_path.read_text()
        return [json.loads(line) for line in whole[:whole.rfind("\n") + 1].splitlines()]


# ---- the tools: each runs a load, and gives its own medians {measure: ms} and its records ----
# A record: the id by which the server knows the request, and times in ms of the tool's own clock (those of arrivals as many as it
# has written down): {id, due, sent, first, last, end, gaps or None, tokens, done}. due None: it does not say.

def command_of(words, folder, name, environment=None, codes=(0,)):
    """To its end. Others have processes of their own, which must not outlive them."""
    path = folder / f"{name}.log"
    with open(path, "wb") as log:
        process = subprocess.Popen(list(map(str, words)), cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, **(environment or {})}, start_new_session=True)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = f"nothing after {PATIENCE:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code not in codes:
        sys.exit(f"{name} ended with {code}; it said last:\n{path.read_text(errors='replace').strip()[-1500:]}")


def offline(folder):
    """Nobody outside can be asked, and caches stay in the run's folder."""
    return {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder / "cache"),
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def run_sluice(args, served, folder):
    command_of([args.sluice, "bench", "serve", "--openai", f"{served.url}/v1", "--concurrency", args.concurrency, "--requests",
                args.requests, "--input-length", args.input, "--output-length", args.output, "--progress", "off", "--save",
                folder / "s.json", "--save-requests", folder / "s.jsonl"], folder, "sluice", codes=(0, INVALID))
    told = json.loads((folder / "s.json").read_text())["sluice"]["all"]
    own = {key: told[key]["p50"]["value"] for key in JUDGED} | {"lag": told["send_lag"]["p50"]["value"]}
    lines = [json.loads(line) for line in (folder / "s.jsonl").read_text().splitlines()]
    began = lines[0]["run"]["began_ns"] if lines else 0

    def ms(line, key):
        return None if line[key] is None else (began + line[key]) / 1e6
    # its id is bench-RANDOM-RUN-NUMBER, to which the gateway adds: see number_of
    return own, [{"id": str(line["request"]), "due": ms(line, "due_ns"), "sent": ms(line, "sent_ns"), "first": ms(line, "first_ns"),
                  "last": ms(line, "last_ns"), "end": ms(line, "end_ns"), "gaps": line["gaps_ms"], "tokens": line["output_tokens"],
                  "done": line["ending"] == "done"} for line in lines]


def aiperf_record(line):
    """Of its raw export: the bytes of every message, and when it came (perf_ns, the monotonic clock)."""
    arrivals, tokens = [], None
    for response in line["responses"] or []:
        for packet in response.get("packets", []):
            if packet["name"] != "data" or packet["value"] == "[DONE]":
                continue
            body = json.loads(packet["value"])
            if any(choice.get("text") for choice in body.get("choices", [])):
                arrivals.append(response["perf_ns"] / 1e6)
            tokens = (body.get("usage") or {}).get("completion_tokens", tokens)
    about, sent = line["metadata"], line["start_perf_ns"] / 1e6
    lasted = (about["request_end_ns"] - about["request_start_ns"]) / 1e6
    return {"id": about["x_request_id"], "due": None, "sent": sent, "first": arrivals[0] if arrivals else None,
            "last": arrivals[-1] if arrivals else None, "end": sent + lasted, "tokens": tokens or len(arrivals),
            "gaps": [b - a for a, b in zip(arrivals, arrivals[1:])], "done": line.get("error") is None and not about["was_cancelled"]}


def run_aiperf(args, served, folder):
    # HF_HUB_OFFLINE stays unset: with it, aiperf takes the path of a tokenizer for the name of one in a cache
    environment = {k: "" for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")} | offline(folder)
    command_of([args.python, "-m", "aiperf", "profile", "--model", served.model, "--url", served.url, "--endpoint-type",
                "completions", "--streaming", "--tokenizer", args.model, "--isl", args.input, "--isl-stddev", 0, "--osl",
                args.output, "--osl-stddev", 0, "--concurrency", args.concurrency, "--request-count", args.requests,
                "--use-legacy-max-tokens", "--use-server-token-count", "--extra-inputs", "ignore_eos:true", "--random-seed", 1,
                "--no-gpu-telemetry", "--no-server-metrics", "--ui", "none", "--export-level", "raw", "--output-artifact-dir",
                folder / "aiperf"], folder, "aiperf", environment)
    told = json.loads((folder / "aiperf/profile_export_aiperf.json").read_text())
    names = {"ttft_sent": "time_to_first_token", "itl": "inter_token_latency", "e2el": "request_latency"}
    own = {key: told[name]["p50"] for key, name in names.items() if name in told}
    lines = (folder / "aiperf/profile_export_raw.jsonl").read_text().splitlines()
    return own, [aiperf_record(json.loads(line)) for line in lines]


def guidellm_record(request, done):
    """Of its report: no gaps are in it, and times are of the wall clock."""
    times = {key: value and 1e3 * value for key, value in request["info"]["timings"].items()}
    return {"id": request["response_id"] or "", "due": None, "sent": times["request_start"], "first": times["first_token_iteration"],
            "last": times["last_token_iteration"], "end": times["request_end"], "gaps": None,
            "tokens": request["output_metrics"]["total_tokens"], "done": done}


def run_guidellm(args, served, folder):
    report = folder / "guidellm.json"
    command_of([args.python, "-m", "guidellm", "run", "--backend",
                f"kind=openai_http,target={served.url},model={served.model},request_format=/v1/completions", "--profile",
                f"kind=concurrent,streams={args.concurrency}", "--constraint", f"kind=max_requests,count={args.requests}",
                "--tokenizer", f"kind=huggingface_auto,model={args.model}", "--data",
                f"kind=synthetic_text,prompt_tokens={args.input},output_tokens={args.output}", "--output",
                f"kind=json,path={report}", "--disable-console"], folder, "guidellm",
               offline(folder) | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    told = json.loads(report.read_text())["benchmarks"][0]
    names = {"ttft_sent": ("time_to_first_token_ms", 1), "itl": ("inter_token_latency_ms", 1), "tpot": ("time_per_output_token_ms", 1),
             "e2el": ("request_latency", 1e3)}
    own = {key: scale * told["metrics"][name]["successful"]["median"] for key, (name, scale) in names.items()}
    records = [guidellm_record(request, ending == "successful") for ending in ("successful", "errored", "incomplete")
               for request in told["requests"][ending]]
    return own, records


TOOLS = {"sluice": run_sluice, "aiperf": run_aiperf, "guidellm": run_guidellm}
DIFFERENT = """\
sluice    TTFT and E2E from when a request was due; "sent" from when it was sent
aiperf    TTFT and E2E (request_latency) from the send; its ITL is our TPOT, gaps are its inter_chunk_latency
guidellm  TTFT from the first byte of the send; E2E until the connection is read to its end, from the send; its TPOT is
          (last token - send) / tokens, with the wait for the first in it; its ITL is our TPOT, each request weighing as many
          times as it has gaps; gaps themselves are not recorded; its clock is the wall's
both      the time from a request's end to the send of the next is in neither's TTFT (credit_to_start_latency of aiperf and
          request_dispatch_delay of guidellm have parts of it)"""


def versions(args):
    script = "import importlib.metadata as m; print(*(m.version(p) for p in ('aiperf', 'guidellm')))"
    done = subprocess.run([args.python, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{args.python} does not have aiperf and guidellm: make it an environment with tests/requirements-harnesses.txt")
    return dict(zip(("aiperf", "guidellm"), done.stdout.split()))


# ---- what is computed ----

def nearest_rank(values, q=0.5):
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)] if values else None


def with_due(records, concurrency):
    """Closed loop: the k-th to be sent was due when the (k - concurrency)-th had ended; the first ones have nobody before them."""
    records = sorted(records, key=lambda r: r["sent"])
    ends = sorted(r["end"] for r in records if r["end"] is not None)
    for k, record in enumerate(records):
        if record["due"] is None:
            before = k - concurrency
            record["due"] = min(ends[before], record["sent"]) if 0 <= before < len(ends) else record["sent"]
    return records


def values_of(records):
    """{measure: [ms]} by our definitions; requests that failed have an infinite latency."""
    values = {key: [] for key in MEASURES}
    for r in records:
        first, last = (math.inf if r[key] is None else r[key] for key in ("first", "last"))
        last = last if r["done"] else math.inf
        values["ttft"].append(first - r["due"])
        values["ttft_sent"].append(first - r["sent"])
        values["e2el"].append(last - r["due"])
        values["lag"].append(r["sent"] - r["due"])
        values["itl"] += r["gaps"] or []
        if (r["tokens"] or 0) > 1:
            values["tpot"].append(last if last == math.inf else (last - first) / (r["tokens"] - 1))
    return values


def medians(records):
    return {key: nearest_rank(values) for key, values in values_of(records).items()}


def number_of(identity):
    """The server's id of a request of ours, bench-RANDOM-RUN-NUMBER-..., says which it was."""
    words = identity.split("-")
    return words[3] if words[0] == "bench" and len(words) > 3 else None


def pair(tool, records, truth):
    """{record's id: line of the server}; the gateway adds to the id that it is given."""
    if tool == "sluice":
        return {number_of(line["id"]): line for line in truth}
    known = {line["id"]: line for line in truth}
    return {r["id"]: known[k] for r in records for k in known if r["id"] and k.startswith(r["id"])}


def truth_record(line):
    at = [ns / 1e6 for ns in line["token_ns"]]
    return {"due": line["arrival_ns"] / 1e6, "sent": line["arrival_ns"] / 1e6, "first": at[0], "last": at[-1], "tokens": len(at),
            "gaps": [b - a for a, b in zip(at, at[1:])], "done": line["ending"] == "done"}


SLEW_MS = {"sluice": 1e-3, "aiperf": 1e-3, "guidellm": 2.0}  # what a clock may be off: rounding, or the wall's being put right
# Where a tool's median is of what we mean, by whatever name: the middle of our values, half-way between the middle two for some.
SAME = {"sluice": {key: key for key in JUDGED}, "aiperf": {"ttft_sent": "ttft_sent", "itl": "tpot"},
        "guidellm": {"ttft_sent": "ttft_sent", "itl": "tpot"}}


def misread(tool, run):
    """Sentences; none when a tool's records mean what we take them for: its own median comes out of them."""
    wrong, values = [], values_of(run["records"])
    for theirs, ours in SAME[tool].items():
        told, ranked = run["own"].get(theirs), sorted(values[ours])
        if told is None or not ranked:
            continue
        low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
        if not 0.999 * low <= told <= 1.001 * high:  # ours is of a histogram
            wrong.append(f"{tool}: it says that its median {MEASURES[theirs]} is {told:.3f} ms, and its records say {low:.3f} to {high:.3f}")
    return wrong


def impossible(args, tool, run):
    """Sentences; none when all is as it must be, however busy the machine is."""
    records, truth = run["records"], run["truth"]
    wrong = []
    if len(records) != args.requests or len(truth) != args.requests:
        wrong.append(f"{tool}: {args.requests} requests were asked for, {len(records)} are in its records, and {len(truth)} came")
    pairs = pair(tool, records, truth)
    for r in records:
        line = pairs.get(r["id"])
        if not r["done"] or r["tokens"] != args.output or not line:
            wrong.append(f"{tool}: request {r['id']} has {r['tokens']} tokens of {args.output} and is "
                         f"{'known' if line else 'unknown'} to the server" + ("" if r["done"] else "; it failed"))
            continue
        if line["ending"] != "done" or line["output_tokens"] != args.output or len(line["token_ns"]) != args.output:
            wrong.append(f"{tool}: request {r['id']} had {line['output_tokens']} tokens from the server and ended {line['ending']}")
            continue
        came, slack = truth_record(line), SLEW_MS[tool]
        for key, least in (("first", args.ttft), ("last", args.ttft + args.tpot * (args.output - 1))):
            took, server = r[key] - r["sent"], came[key] - came["sent"]
            if took < max(server, least) - slack:
                wrong.append(f"{tool}: the {key} token of request {r['id']} came {took:.3f} ms after the send, and left the server "
                             f"{server:.3f} ms after the request had come, {least:g} at least")
        if r["sent"] < r["due"] - slack:
            wrong.append(f"{tool}: request {r['id']} was sent before it was due")
    return wrong + misread(tool, run)


# ---- rounds ----

def measure(args, tool, served, folder):
    """One run of one tool."""
    folder.mkdir(parents=True)
    began = time.monotonic_ns()  # the server's clock
    own, records = TOOLS[tool](args, served, folder)
    end = time.monotonic() + 30  # a line is written when the server has seen the end; who lacks one says so in impossible()
    while len(truth := [line for line in served.truth() if line["arrival_ns"] >= began]) < args.requests and time.monotonic() < end:
        time.sleep(0.05)
    records = with_due(records, args.concurrency)
    return {"tool": tool, "own": own, "records": records, "truth": truth, "medians": medians(records),
            "server": medians([truth_record(line) for line in truth if line["token_ns"]])}


def rounds_of(args, served, folder, say=print):
    runs, order = [], list(TOOLS)
    for number in range(args.rounds):
        for tool in order[number % len(order):] + order[:number % len(order)]:
            say(f"round {number + 1} of {args.rounds}: {tool}")
            runs.append(measure(args, tool, served, folder / f"{number}-{tool}") | {"round": number})
    return runs


def known(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def rows_of(args, runs):
    """[{measure, tool, own, ours, ratio, low, high, within}]"""
    rows = []
    for key in MEASURES:
        base = {r["round"]: r["medians"][key] for r in runs if r["tool"] == "sluice"}
        for tool in TOOLS:
            mine = [r for r in runs if r["tool"] == tool]
            ratios = [r["medians"][key] / base[r["round"]] for r in mine if r["medians"][key] is not None and base[r["round"]]]
            ratios = ratios if key in JUDGED and tool != "sluice" else []
            ratio = known(ratios)
            rows.append({"measure": key, "tool": tool, "own_ms": known(r["own"].get(key) for r in mine),
                         "recomputed_ms": known(r["medians"][key] for r in mine), "server_ms": known(r["server"][key] for r in mine),
                         "ratio": ratio, "ratios": ratios, "within": None if ratio is None else abs(ratio - 1) <= args.within})
    return rows


def prompts_of(runs):
    """How long prompts were by the server's count: tools that do not have its tokenizer make them of words."""
    lengths = {tool: [line["prompt_tokens"] for r in runs if r["tool"] == tool for line in r["truth"]] for tool in TOOLS}
    return {tool: (min(n), max(n)) for tool, n in lengths.items() if n}


def table(args, runs, rows, tools):
    def show(value):
        return "n/a" if value is None else f"{value:.2f}"
    lines = [f"smg before the scripted server: TTFT {args.ttft:g} ms, TPOT {args.tpot:g} ms; {args.concurrency} at a time, {args.requests} "
             f"requests a run, {args.input} in, {args.output} out, {args.rounds} rounds; "
             + ", ".join(f"{name} {version}" for name, version in tools.items()) + "; prompt tokens that came: "
             + ", ".join(f"{tool} {low}" + (f" to {high}" if high > low else "") for tool, (low, high) in prompts_of(runs).items()),
             f"{'median, ms':10} {'tool':9} {'as it says':>11} {'by our definition':>18} {'at the server':>14} {'ratio to ours':>14}  of the rounds"]
    for row in rows:
        lag = row["measure"] == "lag"
        verdict = "" if row["within"] is None else f"  {'within' if row['within'] else 'OFF BY MORE THAN'} {100 * args.within:g} %"
        lines.append(f"{MEASURES[row['measure']]:10} {row['tool']:9} {show(row['own_ms']):>11} {show(row['recomputed_ms']):>18} "
                     f"{'' if lag else show(row['server_ms']):>14} {'' if row['ratio'] is None else format(row['ratio'], '.4f'):>14}  "
                     + " ".join(f"{r:.4f}" for r in row["ratios"]) + verdict)
    return "\n".join(lines)


def verdict(args, rows):
    off = [f"{row['tool']}'s {MEASURES[row['measure']]} ({row['ratio']:.3f})" for row in rows if row["within"] is False]
    if off:
        return f"more than {100 * args.within:g} % from ours: " + ", ".join(off)
    return f"every median of the others is within {100 * args.within:g} % of ours"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("SLUICE_HARNESS_PYTHON"), help="that has aiperf and guidellm; default: "
                        "SLUICE_HARNESS_PYTHON")
    parser.add_argument("--smg", default=shutil.which("smg"), help="the gateway's program; default: of the PATH")
    parser.add_argument("--sluice", default=str(ROOT / "build/sluice"))
    parser.add_argument("--model", default=str(ROOT / "demo"), help="a folder with a tokenizer")
    parser.add_argument("--ttft", type=float, default=300, help="ms")
    parser.add_argument("--tpot", type=float, default=30, help="ms")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=40, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input", type=int, default=64, help="tokens")
    parser.add_argument("--output", type=int, default=20, help="tokens")
    parser.add_argument("--within", type=float, default=0.05, help="of a ratio")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures and records here")
    parser.add_argument("--keep", type=pathlib.Path, help="leave the tools' own files in this folder")
    return parser


def main():
    parser = options()
    args = parser.parse_args()
    for name in ("python", "smg"):
        if not getattr(args, name):
            parser.error(f"--{name} is needed")
    tools = versions(args)
    with tempfile.TemporaryDirectory() as made:
        folder = args.keep or pathlib.Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        with Served(args, folder) as served:
            runs = rounds_of(args, served, folder, lambda text: print(text, file=sys.stderr, flush=True))
    rows = rows_of(args, runs)
    wrong = [sentence for run in runs for sentence in impossible(args, run["tool"], run)]
    print(table(args, runs, rows, tools), DIFFERENT, verdict(args, rows), *wrong, sep="\n")
    if args.json:
        settings = {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in vars(args).items()}
        args.json.write_text(json.dumps({"settings": settings, "versions": tools, "rows": rows, "impossible": wrong, "runs": runs}))
    if wrong or any(row["within"] is False for row in rows):
        sys.exit(OFF)


if __name__ == "__main__":
    main()
