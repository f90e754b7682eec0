#!/usr/bin/env python3
"""What operating costs and holds, with real processes and all of it on: figures with their targets.

  operate.py [ROW ...] [--quick] [--rounds N] [--save FILE.json]

A pipeline here is a coordinator, two stages of one thread and a decode worker, as processes of their own on the bundled model:
TLS both ways with a certificate for each, every frame proved by `--link-auth header`, a supervisor that asks each for a sign of
life (Type=notify), /metrics of each scraped every 15 s by Debian's Prometheus with the product's alerts, and an OTLP collector
that is not there. Rows:

  soak      half an hour of mixed load, a tenth of it cancelled, beside callers who come and go, wrong ones and certificates that
            are replaced: memory, descriptors and threads of each process from the tenth minute on, and what alerts said
  idle      processor time that it takes when nobody asks anything
  tls       time to first token and of a new connection, with TLS both ways and without, in turn
  links     a frame of 4 MiB that is proved, over one that is not (`sluice bench links`)
  overload  ten minutes at twice the capacity: TTFT of who is taken, over that at 0.9 of it; how long who is refused waits for that
  drain     SIGTERM with 64 answers under way: how many are lost, and when health says no

tls and drain are clients themselves: they want the packages of tests/requirements.txt.
Without any: all but soak, about half an hour. --quick: to see whether it runs, not what comes of it.
"""
import json
import math
import os
import pathlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import schedule  # what both share: the table, servers under load, the capacity
from schedule import ROOT, engines, median, quantile

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # programs are started from here, and a fork needs nothing of gRPC
sys.path.insert(0, str(ROOT / "tests/e2e"))
import certs  # noqa: E402: made by openssl(1), as the tests' are

NICE = ["nice", "-n", "10"]  # what is beside a pipeline, and no part of it
ROLES = ("coordinator", "stage 0", "stage 1", "decode")


def fetch(at, path, timeout=60):
    with urllib.request.urlopen(f"http://{at}{path}", timeout=timeout) as reply:
        return reply.read().decode()


# ---- what is read of a process ----

def seconds_of(pid):
    """Of processor time, in the program and in the kernel for it."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads_of(pid):
    """{id: (name, seconds that it ran, how often it went to sleep)}"""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        switches = int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)[1])
        found[task.name] = ((task / "comm").read_text().strip(), int((task / "schedstat").read_text().split()[0]) / 1e9, switches)
    return found


def held_by(pid):
    """KiB of memory that is no file's, descriptors, threads."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {"RssAnon": int(re.search(r"RssAnon:\s+(\d+)", status)[1]), "fds": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1])}


# ---- who is beside a pipeline ----

class Supervisor:
    """What systemd is to a unit of Type=notify with a watchdog: a socket that is read."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0sluice-figures-{os.getpid()}-{name}")
        self.env = {"NOTIFY_SOCKET": "@" + self.socket.getsockname()[1:].decode(), "WATCHDOG_USEC": "60000000"}
        self.signs = 0
        threading.Thread(target=self.hear, daemon=True).start()

    def hear(self):
        while True:
            self.signs += self.socket.recv(4096) == b"WATCHDOG=1"


def prometheus():
    """Debian's, installed or as the end-to-end tests unpack it."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    unpacked = cache / "sluice/prometheus/usr/bin/prometheus"
    found = shutil.which("prometheus") or (unpacked.exists() and str(unpacked))
    if not found:
        raise SystemExit("there is no prometheus: install Debian's package, or run tests/e2e/test_monitoring.py, which unpacks it")
    return found


class Watch:
    """A Prometheus that scrapes, with the rules as they are."""

    def __init__(self, folder, first, ops):
        self.at = f"127.0.0.1:{engines.free_port()}"
        config = {"global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
                  "rule_files": [str(ROOT / "deploy/monitoring/rules.yaml")],
                  "scrape_configs": [{"job_name": "sluice", "static_configs": [{"targets": list(ops)}]}]}
        (folder / "prometheus.yaml").write_text(json.dumps(config))
        self.running = engines.Running("prometheus", [
            *first, prometheus(), "--config.file", folder / "prometheus.yaml", "--storage.tsdb.path", folder / "prometheus",
            "--web.listen-address", self.at, "--log.level", "warn"], folder / "prometheus.log")

    def ask(self, query):
        reply = json.loads(fetch(self.at, "/api/v1/query?" + urllib.parse.urlencode({"query": query})))
        return reply["data"]["result"]

    def fired(self):
        """{alert: minutes that it fired}, of the last hour."""
        got = self.ask('sum by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')
        return {one["metric"]["alertname"]: float(one["value"][1]) / 4 for one in got}

    def scraped(self):
        """How often the one was that was scraped least."""
        got = self.ask("min(sum_over_time(up[1h]))")
        return int(float(got[0]["value"][1])) if got else 0


class Pipeline:
    """Four processes, and what operates them."""

    def __init__(self, figures, name, *options):
        figures.nodes[name], args = self, figures.args  # which end with the program, whatever happens
        self.args, self.folder, self.watch = args, args.folder / name, None
        self.folder.mkdir(exist_ok=True)
        self.ca = certs.Authority(pathlib.Path(tempfile.mkdtemp(dir=self.folder)))
        self.coordinator = self.ca.sign("coordinator", "DNS:localhost")
        self.caller, self.nodes = (self.ca.of_role(role) for role in ("gateway", "node"))
        self.endpoint = f"localhost:{engines.free_port()}"
        self.ops = {role: f"127.0.0.1:{engines.free_port()}" for role in ROLES}
        nobody = f"http://127.0.0.1:{engines.free_port()}"  # a collector that is not there
        self.supervisors, self.running = {}, {}
        self.start("coordinator", "coordinator", "--stages", 2, "--listen", self.endpoint, "--tls-ca", self.ca.cert,
                   "--tls-require-client", *self.coordinator.options(), "--otlp-endpoint", nobody, "--link-auth", "header", *options)
        to = ["--coordinator", self.endpoint, "--tls-ca", self.ca.cert, *self.nodes.options(), "--threads", 1]
        for role in ROLES[1:]:
            self.start(role, *(["stage", "--stage", role[-1]] if role[:5] == "stage" else ["decode"]), *to)
        engines.wait_until(self.ready, "a pipeline that is ready")
        self.watch = Watch(self.folder, NICE, self.ops.values())

    def start(self, role, command, *options):
        to = self.supervisors[role] = Supervisor(f"{self.folder.name}-{role[:5]}{role[-1]}")
        words = [*self.args.first, self.args.sluice, command, self.args.pack, "--ops", self.ops[role], *options]
        self.running[role] = engines.Running(role, words, self.folder / f"{role.replace(' ', '-')}.log", env=to.env)

    def pids(self):
        """Of the processes themselves: `nice` and `chrt` become what they start."""
        return {role: one.process.pid for role, one in self.running.items()}

    def lives(self):
        return all(one.lives() for one in self.running.values())

    def ready(self):
        self.lives()
        try:
            return bool(fetch(self.ops["coordinator"], "/readyz"))
        except OSError:  # 503, or nobody listens yet
            return False

    def tls(self):
        return ["--tls-ca", self.ca.cert, *self.caller.options()]

    def stop(self):
        if self.watch:
            self.watch.running.stop()
        for one in self.running.values():  # the coordinator first, who lets the others finish
            one.stop()


# ---- soak ----

# Low rates, because other programs use the machine, too. The lengths of what comes are drawn, and no process is idle for long.
SOAK = [
    {"name": "chat", "rate": 0.1, "arrivals": "gamma:0.5", "input": "lognormal:200:0.8", "output": "16-128", "turns": 3, "think_ms": 2000,
     "headers": {"x-tenant-id": "chat"}},
    {"name": "short", "rate": 0.5, "input": "16-400", "output": "1-40", "headers": {"x-slo-ttft-ms": "60000", "x-tenant-id": "short"}},
    {"name": "long", "rate": 0.02, "input": "2000-6000", "output": 20, "headers": {"x-priority": "-2"}},
    {"name": "alike", "rate": 0.1, "input": 1200, "output": 16, "prefix_groups": 6, "prefix_tokens": 1000,
     "headers": {"x-cache-salt": "a"}},
    {"name": "left", "rate": 0.15, "input": "64-1500", "output": 200, "cancel": {"share": 1, "tokens": 5}},
    {"name": "hasty", "rate": 0.1, "input": "512-4000", "output": 50, "cancel": {"share": 1, "ms": 40}},
]


class Callers(threading.Thread):
    """Who comes and goes beside the load: probes over new connections, one without a certificate, a wrong request; and every
    five minutes other certificates. What became of each is counted by exit code."""

    def __init__(self, pipeline, seconds):
        super().__init__(daemon=True)
        self.pipeline, self.until, self.codes, self.replaced = pipeline, time.monotonic() + seconds, {}, 0

    def call(self, name, *words):
        done = subprocess.run([*NICE, self.pipeline.args.sluice, *map(str, words)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
        self.codes.setdefault(name, {}).setdefault(done.returncode, 0)
        self.codes[name][done.returncode] += 1

    def run(self):
        it, at = self.pipeline, time.monotonic()
        to = ["--endpoint", it.endpoint]
        (it.folder / "wrong.json").write_text(json.dumps([1 << 20]))
        while time.monotonic() < self.until:
            self.call("probe", "health", *to, *it.tls())
            self.call("without a certificate", "health", *to, "--tls-ca", it.ca.cert)
            self.call("wrong", "generate", *to, *it.tls(), "--token-ids", it.folder / "wrong.json", "--max-tokens", 1)
            if time.monotonic() - at > 300:
                at, self.replaced = time.monotonic(), self.replaced + 1
                certs.replace(it.coordinator, it.ca.sign(f"coordinator-{self.replaced}", "DNS:localhost"))
                certs.replace(it.nodes, it.ca.of_role("node", name=f"node-{self.replaced}"))
            time.sleep(5)


def grown(samples, role, what):
    """By how much it grows from the first to the last of them: the median slope of pairs, which neither noise nor a peak moves; and
    what lies between the least and the most."""
    values, n = [sample[role][what] for sample in samples], len(samples)
    slopes = [(values[j] - values[i]) / (j - i) for i in range(n) for j in range(i + 1, n)]
    return (n - 1) * (median(slopes) if slopes else 0) / median(values), max(values) / min(values) - 1, values


def row_soak(f):
    args, seconds = f.args, 60 * (0.5 if f.args.quick else 30)
    pipeline = Pipeline(f, "soak", "--kv-tokens", 32768)  # which is full of what is kept long before the tenth minute
    pids, samples = pipeline.pids(), []
    (args.folder / "soak.json").write_text(json.dumps({"classes": SOAK}))
    out = args.folder / "soak.jsonl"
    command = [args.sluice, "bench", "serve", "--grpc", pipeline.endpoint, *pipeline.tls(), "--mix", args.folder / "soak.json",
               "--duration", seconds, "--progress", "off", "--save-requests", out]
    callers = Callers(pipeline, seconds)
    begun = time.monotonic()
    load = f.nodes["load"] = engines.Running("load", [*NICE, *command], args.folder / "soak-load.log")
    callers.start()
    while load.process.poll() is None:
        pipeline.lives()
        samples.append({"at": time.monotonic() - begun, **{role: held_by(pid) for role, pid in pids.items()}})
        (args.folder / "soak-samples.json").write_text(json.dumps(samples))
        time.sleep(min(5, seconds / 30))
    if load.process.returncode not in (0, schedule.INVALID):
        raise SystemExit(f"the load ended with {load.process.returncode}: {load.log.read_text()}")
    callers.join()
    f.end("load")
    requests = [json.loads(line) for line in out.read_text().splitlines()]
    for r in requests:
        if schedule.REFUSED.search(r["error"] or ""):
            r["ending"] = "refused"  # a machine that others use may be too slow for a target
    endings = {e: sum(r["ending"] == e for r in requests) for e in sorted({r["ending"] for r in requests})}
    args.note(f"soak: {len(requests)} requests: {endings}; callers by exit code: {callers.codes}; certificates replaced "
              f"{callers.replaced} times; signs of life {[s.signs for s in pipeline.supervisors.values()]}")
    steady = [s for s in samples if seconds / 3 <= s["at"] <= seconds]
    for what in ("RssAnon", "fds", "threads"):
        for role in ROLES:
            growth, width, values = grown(steady, role, what)
            shown = f"{values[0]} to {values[-1]}{' KiB' if what == 'RssAnon' else ''}, {100 * width:.2f} % between least and most"
            f.say(f"soak: {what} of {role}, growth from minute {seconds / 180:.0f} on", 100 * growth, "< 1 %", growth < 0.01, shown, " %")
    failed = sum(r["ending"] not in ("done", "cancelled", "refused") for r in requests)
    f.say("soak: requests that failed", failed, "0", failed == 0, f"of {len(requests)}; {endings}")
    fired = pipeline.watch.fired()
    f.say("soak: alerts that fired", len(fired), "0", not fired, f"{fired or ''} each process was scraped {pipeline.watch.scraped()} times")
    f.end("soak")


# ---- idle ----

def row_idle(f):
    """Half a minute after it became ready, for a minute; who woke how often is said beside it."""
    pipeline = Pipeline(f, "idle")
    pids = pipeline.pids()
    time.sleep(f.args.seconds(30))
    used, threads, begun = ({role: of(pid) for role, pid in pids.items()} for of in (seconds_of, threads_of, lambda _: time.monotonic()))
    time.sleep(f.args.seconds(60))
    shares = {}
    for role, pid in pids.items():
        took = time.monotonic() - begun[role]
        shares[role] = 100 * (seconds_of(pid) - used[role]) / took
        new = threads_of(pid)
        busiest = sorted(((ran - threads[role].get(tid, (0, 0, 0))[1], woke - threads[role].get(tid, (0, 0, 0))[2], name)
                          for tid, (name, ran, woke) in new.items()), reverse=True)[:3]
        told = ", ".join(f"{name} {100 * ran / took:.3f} % woken {woke / took:.1f}/s" for ran, woke, name in busiest)
        f.say(f"idle: {role}, of a processor", shares[role], "< 1 %", shares[role] < 1, told, " %")
    f.say("idle: all of it", sum(shares.values()), "< 1 %", sum(shares.values()) < 1, unit=" %")
    f.end("idle")


# ---- tls ----

def first_frame(port, context):
    """Seconds from the call of connect until the server's first frame of HTTP/2 is here."""
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = context.wrap_socket(line, server_hostname="localhost") if context else line
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        if not wrapped.recv(9):
            raise SystemExit("the server closed a connection that it should have taken")
        return time.perf_counter() - begun


def first_token(stub, pb, ids):
    """Seconds."""
    begun = time.perf_counter()
    replies = stub.Generate(pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=ids), stream=True,
                                               sampling_params=pb.SamplingParams(max_tokens=1, ignore_eos=True)), timeout=60)
    if next(replies, None) is None:
        raise SystemExit(f"a prompt of {len(ids)} tokens was ended without one token in answer; see the log of the server")
    first = time.perf_counter() - begun
    for _ in replies:
        pass  # to its end, so that the next one has the server to itself
    return first


def row_tls(f):
    """One request at a time over a connection that stays, to two servers that are alike but for it, in turn."""
    import grpc
    from smg_grpc_proto.generated import vllm_engine_pb2 as pb
    from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
    args, folder = f.args, f.args.folder
    ca = certs.Authority(pathlib.Path(tempfile.mkdtemp(dir=folder)))
    server, caller = ca.sign("server", "DNS:localhost"), ca.of_role("gateway")
    own = {"plain": [], "tls": ["--tls-ca", ca.cert, *caller.options()]}
    nodes = {"plain": f.node("plain"),
             "tls": f.node("tls", "--tls-ca", ca.cert, "--tls-require-client", *server.options(), tls=own["tls"])}
    channels = {"plain": grpc.insecure_channel(nodes["plain"].endpoint),
                "tls": grpc.secure_channel(nodes["tls"].endpoint, grpc.ssl_channel_credentials(
                    ca.cert.read_bytes(), caller.key.read_bytes(), caller.cert.read_bytes()))}
    stubs, draw = {name: pb_grpc.VllmEngineStub(channel) for name, channel in channels.items()}, random.Random(1)
    for n in 64, 512:
        times, pairs = {name: [] for name in nodes}, args.n(2000 if n == 64 else 400)
        for k in range(20 + pairs):  # the first are for the connections and for what is computed once
            ids = [draw.randrange(2, 250) for _ in range(n)]
            for name in list(nodes)[::1 if k % 2 else -1]:
                times[name].append(1e3 * first_token(stubs[name], pb, ids))
        times = {name: of[20:] for name, of in times.items()}
        ratios = sorted(tls / plain for tls, plain in zip(times["tls"], times["plain"]))
        width = round(0.98 * math.sqrt(pairs))  # of ranks: 95 % of what the median may be
        least, cost, most = (100 * (ratios[max(0, min(pairs - 1, pairs // 2 + by))] - 1) for by in (-width, 0, width))
        f.say(f"TLS both ways: cost on TTFT of {n} tokens", cost, "<= 2 %", cost <= 2,
              f"{least:.2f} to {most:.2f}; {median(times['tls']):.3f} and {median(times['plain']):.3f} ms, {pairs} pairs", " %")
    context = ssl.create_default_context(cafile=ca.cert)
    context.load_cert_chain(caller.cert, caller.key)
    context.set_alpn_protocols(["h2"])
    times = {name: [] for name in nodes}
    for _ in range(args.n(200)):
        for name, node in nodes.items():
            times[name].append(1e3 * first_frame(int(node.endpoint.rpartition(":")[2]), context if name == "tls" else None))
            time.sleep(0.005)  # handshakes have a quarter of a thread's time
    f.say("TLS both ways: a new connection, to the server's first frame", median(times["tls"]), noise=f"without {median(times['plain']):.2f} ms; "
          f"both sides of the handshake (P-256) on this machine", unit=" ms")
    for name in nodes:
        f.end(name)


# ---- links ----

def row_links(f):
    done = subprocess.run([*f.args.first, f.args.sluice, "bench", "links", "--kib", "4096", "--json"], capture_output=True, text=True, check=True)
    for link in json.loads(done.stdout)["links"]:
        cost = 100 * (link["of_none"] - 1)
        if link["auth"] != "none":
            goal = {"header": ("<= 5 %", cost <= 5)}.get(link["auth"], ("", None))
            f.say(f"--link-auth {link['auth']}: cost on a frame of 4 MiB", cost, *goal, f"{link['us']:.0f} us a frame", " %")


# ---- overload ----

def row_overload(f):
    """At 0.9 of the capacity for half as long, at twice it for all of it, at 0.9 again: with targets, as in schedule.py, and the same
    mix. Who is taken is measured, whatever becomes of him."""
    args, seconds = f.args, f.args.seconds(600)
    taken, refusals = {0.9: [], 2.0: []}, []
    f.capacity()
    for scale, of, seed in (0.9, 0.25, 900), (2.0, 1, 901), (0.9, 0.25, 902):
        time.sleep(args.seconds(args.pause))
        requests = f.slo().load(f.classes(scale * f.capacity()), of * seconds, seed=seed)
        mine = [r for r in requests if not r["refused"]]
        waits = [(r["end_ns"] - r["due_ns"]) / 1e6 for r in requests if r["refused"]]
        taken[scale] += mine
        refusals += waits if scale > 1 else []
        late = sum(not f.in_time(r) for r in mine)
        args.note(f"overload, {scale:g}x for {of * seconds:.0f} s: {len(requests)} requests, {len(waits)} refused, {late} late, p99 TTFT "
                  f"{quantile(schedule.ttfts(mine), 0.99):.0f} ms; " + ", ".join(
                      f"{name}: {len(ttfts)} taken, p50 {median(ttfts):.0f}, p99 {quantile(ttfts, 0.99):.0f}"
                      for name in sorted({r["class"] for r in mine}, key=int) for ttfts in [schedule.ttfts(mine, name)]))
        f.slo().running.rest()
    for name in [None, *map(str, schedule.CLASSES)]:
        low, high = (quantile(schedule.ttfts(taken[scale], name), 0.99) for scale in taken)
        f.say(f"2x for {seconds / 60:.3g} min: p99 TTFT of {f'{name} tokens' if name else 'all'} taken / at 0.9x", high / low,
              "" if name else "<= 1.2", None if name else high <= 1.2 * low,
              f"{high:.0f} and {low:.0f} ms" + (f", wanted within {f.target(int(name)):.0f}" if name else ""))
    f.say("2x: how long who is refused waits for that, median", median(refusals), "<= 10 ms", median(refusals) <= 10,
          f"p99 {quantile(refusals, 0.99):.2f} ms, of {len(refusals)}", " ms")


# ---- drain ----

class Health(threading.Thread):
    """gRPC health as a gateway watches it: when it said no."""

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        self.channel, self.begun, self.fell, self.error = grpc.insecure_channel(endpoint), threading.Event(), None, grpc.RpcError
        self.serving, self.not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        self.stream = health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest())
        self.start()
        self.begun.wait()

    def run(self):
        try:
            for reply in self.stream:
                if reply.status == self.serving:
                    self.begun.set()
                elif reply.status == self.not_serving and not self.fell:
                    self.fell = time.monotonic()
        except self.error:
            self.begun.set()


def row_drain(f):
    args, lost, fell, n = f.args, 0, [], 64
    for k in range(args.n(20)):
        node = f.node("drain", "--max-running", n)
        out = args.folder / "drain.jsonl"
        health = Health(node.endpoint)
        load = engines.Running("load", [args.sluice, "bench", "serve", "--grpc", node.endpoint, "--concurrency", n, "--requests", n,
                                        "--input-length", "16-400", "--output-length", 400, "--seed", k, "--progress", "off",
                                        "--save-requests", out], args.folder / "drain-load.log")
        engines.wait_until(lambda: node.metric("sluice_requests_running") == n, f"{n} answers under way")
        told = time.monotonic()
        node.running.process.terminate()
        load.process.wait()
        node.running.process.wait()
        lost += n - sum(json.loads(line)["ending"] == "done" for line in out.read_text().splitlines())
        fell.append(1e3 * (health.fell - told) if health.fell else float("inf"))
        health.channel.close()
        f.end("drain")
    f.say(f"SIGTERM with {n} under way: lost", lost, "0", lost == 0, f"of {n * len(fell)} in {len(fell)} runs")
    f.say(f"SIGTERM with {n} under way: health says no after", max(fell), "<= 100 ms", max(fell) <= 100,
          f"the longest of {len(fell)}; median {median(fell):.1f} ms", " ms")


ROWS = {name[4:]: row for name, row in list(globals().items()) if name.startswith("row_")}

if __name__ == "__main__":
    schedule.main(__doc__, ROWS, [name for name in ROWS if name != "soak"])
