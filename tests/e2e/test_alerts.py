"""Alerts in a real Prometheus that scrapes real nodes: a load that is served is silent, two faults are told without pods, every panel of the
dashboards shows something. All alerts, each by its fault, over pods: tests/k8s/test_alerts.py. Time in the rules goes faster here (see
prometheus.py): every duration in a copy of them is divided by 60, by less on slow machines, and the scrape interval as well."""
import json
import os
import re
import signal
import threading
import time

import grpc
import pytest
from conftest import PATIENCE, ROOT, free_port, wait_until
from prometheus import LAPSE, Watch, faster
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
from test_decoders import Cluster, pids_of
from test_processes import ask


NOISE = {"SluicePredictionsOff"}  # while there is load: it says that a machine is noisy, and one that others use is


@pytest.fixture
def watch(tmp_path):
    watches = []

    def start(*ops):
        watches.append(Watch(tmp_path / "prometheus", f"127.0.0.1:{free_port()}", wait_until, [(address, {}) for address in ops]))
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


def test_durations_are_divided():
    assert faster("for: 2m\n rate(x[5m] offset 1h) > 30 # 2m") == \
        f"for: {120000 / LAPSE:.0f}ms\n rate(x[{300000 / LAPSE:.0f}ms] offset {3600000 / LAPSE:.0f}ms) > 30 # 2m"


def test_a_load_is_silent_and_a_dead_decode_worker_and_a_stopped_stage_are_told(start_server, watch):
    server = start_server("--decoders", 2, "--lost-after", 3600)
    see = watch(server.ops)
    with Load(server.endpoint, n_ids=300, max_tokens=8) as load:
        wait_until(lambda: load.done > 50, "a load")
        assert load.failed == 0 and see.ever() <= NOISE
        os.kill(pids_of(server)[0], signal.SIGKILL)
        see.fires("SluiceDecoderLost", *NOISE)
        stage = server.children()["stage 1"]
        os.kill(stage, signal.SIGSTOP)
        try:
            see.fires("SluiceNotReady", "SluiceDecoderLost", *NOISE)
        finally:
            os.kill(stage, signal.SIGCONT)
        see.ends("SluiceNotReady")
        before = load.done
        wait_until(lambda: load.done > before + 5, "the load to go on")
    assert load.failed == 0 and see.ever() - NOISE == {"SluiceNotReady", "SluiceDecoderLost"}


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
    """As long as the longest `for`, and as much again."""
    server = start_server("--decoders", 2)
    see = watch(server.ops)
    end = time.monotonic() + 2 * 900 / LAPSE  # how long is the test; nothing is expected by then
    with Load(server.endpoint, n_ids=700, max_tokens=20) as load:
        while time.monotonic() < end:
            assert see.firing() <= NOISE
            time.sleep(0.5)
    assert load.failed == 0 and load.done > 10 and see.ever() <= NOISE
    print("figure: alerts that fired in a load that was served:", see.ever() or "none")
