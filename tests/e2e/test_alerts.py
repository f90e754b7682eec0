"""Alerts are fired by the faults that they name, in a real Prometheus that scrapes real nodes, and nothing else fires; a load that is
served is silent. Time in the rules runs 60 times faster here: every duration in a copy of them is divided by that (by less on slow
machines), the scrape interval as well.

Not fired here, but in the histories of tests/monitoring/rules_test.yaml: SluiceChecksumFails (nothing outside a node can damage a frame on
its way) and SluicePredictionsOff (a machine would have to be noisy on demand)."""
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse

import grpc
import pytest
from conftest import PATIENCE, ROOT, Process, free_port, get, wait_until
from hostile import Connection
from prometheus import tool
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
from test_decoders import Cluster, pids_of
from test_door import GENERATE
from test_integrity import flip
from test_processes import Stream, ask, generate

LAPSE = 60 / float(os.environ.get("SLUICE_SLOW_FACTOR", 1))
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def faster(text):
    """The text of rules with every duration divided."""
    def less(match):
        return f"{match[1]}{int(match[2]) * SECONDS[match[3]] * 1000 / LAPSE:.0f}ms"
    return re.sub(r"(for: |\[|offset )(\d+)([smhd])\b", less, text)


class Watch:
    """A Prometheus with the rules, and what it has seen."""

    def __init__(self, folder, *ops):
        self.folder, self.at = folder / "prometheus", f"127.0.0.1:{free_port()}"
        self.folder.mkdir()
        (self.folder / "rules.yaml").write_text(faster((ROOT / "deploy/monitoring/rules.yaml").read_text()))
        every = f"{30000 / LAPSE:.0f}ms"
        (self.folder / "prometheus.yaml").write_text(json.dumps({
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}, "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "sluice", "static_configs": [{"targets": list(ops)}]}]}))
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [tool("prometheus"), "--config.file", self.folder / "prometheus.yaml", "--storage.tsdb.path", self.folder / "data",
                 "--web.listen-address", self.at, "--query.lookback-delta", f"{300 / LAPSE:.0f}s", "--log.level", "warn"], stdout=log, stderr=log)
        wait_until(lambda: get(self.at, "/-/ready")[0] == 200, "Prometheus")
        if ops:
            wait_until(lambda: self.ask("sluice_ready == 1"), "the first scrape")

    def ask(self, query):
        status, text = get(self.at, "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        assert status == 200, text
        return json.loads(text)["data"]["result"]

    def firing(self):
        return {one["metric"]["alertname"] for one in self.ask('ALERTS{alertstate="firing"}')}

    def ever(self):
        """All that have fired since it began."""
        return {one["metric"]["alertname"] for one in self.ask('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')}

    def fires(self, name, *beside):
        """Waits for an alert; nothing fired but that and what is named beside it."""
        wait_until(lambda: name in self.firing(), name)
        assert self.ever() <= {name, *beside}

    def ends(self, name):
        wait_until(lambda: name not in self.firing(), f"the end of {name}")

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def watch(tmp_path):
    watches = []

    def start(*ops):
        watches.append(Watch(tmp_path, *ops))
        return watches[-1]
    yield start
    for one in watches:
        one.kill()


class Load:
    """Requests, `width` at a time, until the block ends; what is refused or fails is counted."""

    def __init__(self, endpoint, width=2, metadata=(), pause=0.0, **how):
        self.endpoint, self.metadata, self.pause, self.how = endpoint, metadata, pause, how
        self.over, self.lock, self.done, self.failed, self.salt = threading.Event(), threading.Lock(), 0, 0, 0
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(width)]

    def work(self):
        with grpc.insecure_channel(self.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = pb_grpc.VllmEngineStub(channel)
            while not self.over.is_set():
                with self.lock:
                    self.salt += 1
                    salt = self.salt
                try:
                    for _ in stub.Generate(ask(**self.how), timeout=PATIENCE, metadata=[*self.metadata, ("x-cache-salt", str(salt))]):
                        pass
                    self.done += 1
                    self.over.wait(self.pause)
                except grpc.RpcError:
                    self.failed += 1
                    self.over.wait(0.2)  # so that those who are refused leave the others a processor

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)


class Frozen:
    """One thread of another process stands still; all others go on. Made and ended on the same thread of ours."""
    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17

    def __init__(self, tid):
        self.tid, self.ptrace = tid, ctypes.CDLL(None, use_errno=True).ptrace
        self.ptrace.argtypes, self.ptrace.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], ctypes.c_long

    def __enter__(self):
        if self.ptrace(self.SEIZE, self.tid, None, None) != 0:
            pytest.skip(f"threads can't be stopped here: {os.strerror(ctypes.get_errno())}")
        assert self.ptrace(self.INTERRUPT, self.tid, None, None) == 0
        os.waitpid(self.tid, 0x40000000)  # __WALL
        return self

    def __exit__(self, *_):
        self.ptrace(self.DETACH, self.tid, None, None)


def busiest_thread(pid):
    def used(tid):
        fields = pathlib.Path(f"/proc/{pid}/task/{tid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    return max(map(int, os.listdir(f"/proc/{pid}/task")), key=used)


def test_durations_are_divided():
    assert faster("for: 2m\n rate(x[5m] offset 1h) > 30 # 2m") == \
        f"for: {120000 / LAPSE:.0f}ms\n rate(x[{300000 / LAPSE:.0f}ms] offset {3600000 / LAPSE:.0f}ms) > 30 # 2m"


def test_a_load_is_silent_and_a_dead_decode_worker_and_a_stopped_stage_are_told(start_server, watch):
    server = start_server("--decoders", 2, "--lost-after", 3600)
    see = watch(server.ops)
    with Load(server.endpoint, n_ids=300, max_tokens=8) as load:
        wait_until(lambda: load.done > 50, "a load")
        assert load.failed == 0 and see.ever() == set()
        os.kill(pids_of(server)[0], signal.SIGKILL)
        see.fires("SluiceDecoderLost")
        stage = server.children()["stage 1"]
        os.kill(stage, signal.SIGSTOP)
        try:
            see.fires("SluiceNotReady", "SluiceDecoderLost")
        finally:
            os.kill(stage, signal.SIGCONT)
        see.ends("SluiceNotReady")
        before = load.done
        wait_until(lambda: load.done > before + 5, "the load to go on")
    assert load.failed == 0 and see.ever() == {"SluiceNotReady", "SluiceDecoderLost"}


def shown(legend, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], f"?{found[1]}?"), legend)


@pytest.mark.slow
def test_every_panel_of_every_dashboard_shows_something(spawn, pack, watch):
    """Answers of a real Prometheus, with every label that a legend names: printed as tables (pytest -rP), since no Grafana is here."""
    ops = {name: f"127.0.0.1:{free_port()}" for name in ("stage-0", "stage-1", "decode-1")}

    def with_ops(name, *args, **more):
        return spawn(name, *args, *(["--ops", ops[name]] if name in ops else []), **more)
    cluster = Cluster(with_ops, pack)
    see = watch(cluster.ops, *ops.values())
    empty, fallen = [], []
    with Load(cluster.endpoint, metadata=[("x-slo-ttft-ms", "60000")], n_ids=900, max_tokens=20) as load:
        wait_until(lambda: load.done > 10, "a load")
        for path in sorted((ROOT / "deploy/monitoring/dashboards").glob("*.json")):
            board = json.loads(path.read_text())
            print(f"\n{board['title']}")
            for panel in board["panels"]:
                print(f"  {panel['title']} [{panel['fieldConfig']['defaults']['unit']}]")
                for target in panel["targets"]:
                    query = target["expr"].replace("$__rate_interval", "10s").replace("$job", ".*")
                    found = see.ask(query)
                    if not found and "offset 1d" not in query:
                        empty.append((board["title"], panel["title"], query))
                    for one in found if panel["type"] != "heatmap" else found[:3]:
                        name = shown(target["legendFormat"], one["metric"])
                        # a legend may name the role of some series of several (the coordinator has none)
                        if "?" in name and not ("?role?" in name and any("role" in other["metric"] for other in found)):
                            fallen.append((board["title"], panel["title"], name))
                        print(f"    {name:<60} {float(one['value'][1]):.4g}")
    assert not empty and not fallen
    cluster.end()


@pytest.mark.slow
def test_a_long_load_is_silent(start_server, watch):
    """As long as the longest `for`, and as much again. A machine that others use is noisy, and that is what SluicePredictionsOff
    says: it may come, and nothing else."""
    server = start_server("--decoders", 2)
    see = watch(server.ops)
    end = time.monotonic() + 2 * 900 / LAPSE  # how long is the test; nothing is expected by then
    with Load(server.endpoint, n_ids=700, max_tokens=20) as load:
        while time.monotonic() < end:
            assert see.firing() <= {"SluicePredictionsOff"}
            time.sleep(0.5)
    assert load.failed == 0 and load.done > 10 and see.ever() <= {"SluicePredictionsOff"}
    print("figure: alerts that fired in a load that was served:", see.ever() or "none")


@pytest.mark.slow
def test_a_dead_process_is_told(start_server, watch):
    server = start_server()
    see = watch(server.ops)
    os.kill(server.process.pid, signal.SIGKILL)
    see.fires("SluiceDown")


@pytest.mark.slow
def test_that_nobody_is_watched_is_told(watch):
    watch().fires("SluiceUnwatched")


@pytest.mark.slow
def test_a_thread_that_hangs_while_its_node_is_heard_is_told(start_server, watch):
    server = start_server()
    see = watch(server.ops)
    stage = server.children()["stage 1"]
    generate(server.endpoint, n_ids=3000, max_tokens=1)
    with Frozen(busiest_thread(stage)):
        stream = Stream(server.endpoint, n_ids=2000, max_tokens=4)
        see.fires("SluiceNoProgress")
    assert stream.end().error is None
    see.ends("SluiceNoProgress")


@pytest.mark.slow
def test_more_than_is_done_in_half_a_minute_is_told(start_server, watch):
    server = start_server("--prefix-cache", "off")
    see = watch(server.ops)
    streams = [Stream(server.endpoint, n_ids=3900, max_tokens=1) for _ in range(100)]
    see.fires("SluiceQueueLong")
    server.kill()
    assert all(stream.end() for stream in streams)


@pytest.mark.slow
def test_a_flood_beyond_capacity_is_told(start_server, watch):
    server = start_server("--max-waiting", 4, "--max-prefill", 4, "--max-decoders", 1, "--max-running", 4)  # 12 requests in all
    see = watch(server.ops)
    with Load(server.endpoint, width=24, n_ids=100, max_tokens=8) as load:
        see.fires("SluiceRefuses")
    assert load.failed > 0 and load.done > 0


@pytest.mark.slow
def test_targets_that_are_missed_are_told(start_server, watch):
    """Stops of a stage that are shorter than silence: what was taken before them is late."""
    server = start_server()
    see = watch(server.ops)
    stage = server.children()["stage 0"]
    over = threading.Event()

    def stutter():
        while not over.is_set():
            os.kill(stage, signal.SIGSTOP)
            over.wait(0.85)
            os.kill(stage, signal.SIGCONT)
            over.wait(0.25)
        os.kill(stage, signal.SIGCONT)
    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        with Load(server.endpoint, n_ids=20, max_tokens=2, pause=0.05), \
                Load(server.endpoint, width=4, metadata=[("x-slo-ttft-ms", "350")], n_ids=20, max_tokens=2, pause=0.1):
            see.fires("SluiceLate", "SluiceRefuses", "SluiceNoProgress")  # it may refuse what it then can't promise; and it does stand still
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_requests_that_fail_are_told(spawn, pack, watch):
    cluster = Cluster(spawn, pack, lost_after=1)
    see = watch(cluster.ops)
    streams = [Stream(cluster.endpoint, n_ids=30 + i, max_tokens=4000).wait_begun() for i in range(4)]
    cluster.decoders.pop().kill()
    assert all(stream.end().error for stream in streams)
    cluster.decoders.append(cluster.decoder())
    see.fires("SluiceFails", "SluiceDecoderLost", "SluiceNotReady")  # the only decode worker was lost, so they are true


@pytest.mark.slow
def test_spoiled_weights_of_a_decode_worker_are_told(spawn, pack, tmp_path, watch):
    cluster = Cluster(spawn, pack)
    other = tmp_path / "other.pack"
    shutil.copytree(pack, other)
    worker = cluster.decoder(pack=other)
    cluster.here(2)
    see = watch(cluster.ops)
    flip(other / "layer-0000.safetensors", 9000)
    see.fires("SluiceWeightsSpoiled")
    assert worker.wait() == 65, worker.log()


@pytest.mark.slow
def test_a_crowd_at_the_door_is_told(start_server, watch):
    server = start_server(files=300)
    see = watch(server.ops)
    limit = int(server.metric("sluice_grpc_connections_limit"))
    crowd = [Connection(server.endpoint) for _ in range(limit + 20)]
    for connection in crowd:
        connection.open(GENERATE)
    late = []

    def one_more():
        try:
            late.append(Connection(server.endpoint))
        except OSError:
            pass
        return "SluiceDoorFull" in see.firing()
    wait_until(one_more, "SluiceDoorFull")
    assert see.ever() == {"SluiceDoorFull"}
    for connection in [*crowd, *late]:
        connection.close()
    see.ends("SluiceDoorFull")


@pytest.mark.slow
def test_a_process_that_begins_again_and_again_is_told(tmp_path, watch):
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"

    def start(i):
        server = Process(tmp_path, f"serve-{i}", "serve", ROOT / "demo", "--threads", 1, "--listen", endpoint, "--ops", ops)
        wait_until(lambda: get(ops, "/readyz")[0] == 200, "readiness")
        return server
    server = start(0)
    see = watch(ops)
    try:
        for i in range(1, 4):
            began = float(see.ask("process_start_time_seconds")[0]["value"][1])
            server.kill()
            server = start(i)
            wait_until(lambda: [one for one in see.ask("process_start_time_seconds") if float(one["value"][1]) != began], "a scrape of the new one")
        see.fires("SluiceRestarts", "SluiceDown", "SluiceNotReady")  # it was gone for minutes as time goes here
    finally:
        server.kill()
