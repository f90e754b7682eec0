"""Each alert is fired by the fault that it names, over pods that a real Prometheus scrapes, and ends when the fault does; a load that is
served fires none. One cluster and one Prometheus for all faults, in the order of FAULTS, because alerts that look back for an hour
are waited for together, at the end. Time in the rules goes 60 times faster (see prometheus.py): every `for`, window and offset is
divided by that, and nothing else, so thresholds are those that are deployed.

deploy/monitoring/rules.yaml has no alert that is not here; each also has two histories in tests/monitoring/rules_test.yaml."""
import contextlib
import os
import shutil
import signal
import threading
import time

import grpc
import network
import pytest
import yaml
from frozen import Frozen, busiest_thread  # of the end-to-end tests, as hostile and prometheus
from hostile import Connection
from load import Load, Stream, request
from manifests import named, of_kind, render, templates
from monitor import Monitor
from prometheus import LAPSE, RULES
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
from test_run import pid_of

pytestmark = [pytest.mark.pods, pytest.mark.slow, pytest.mark.debian("prometheus")]
GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
LOOK_BACK = {"SluiceDecoderLost", "SluiceRestarts", "SluiceWeightsSpoiled", "SluiceChecksumFails"}  # as long as nothing else does
NOISE = {"SluicePredictionsOff"}  # while there is load: it says that a machine is noisy, and one that others use is


class World:
    """Group 0, one decode worker of its own besides, and who watches them."""

    def __init__(self, cluster, see, own_pack):
        self.cluster, self.see, self.own_pack, self.serial = cluster, see, own_pack, 0

    def pod(self, name):
        return self.cluster.wait(lambda: self.cluster.pod(name), name)

    def decoder(self):
        """The container of the Deployment."""
        pods = [p for p in list(self.cluster.pods) if p.wish.owner["kind"] == "Deployment" and not p.stopping]
        return pods[0].containers[0]

    def target(self):
        return f"{self.pod('sluice-0').ip}:50051"

    def load(self, width=2, **how):
        """Prompts that were never there before."""
        lock = threading.Lock()

        def one(_):
            with lock:
                self.serial += 1
                seed = self.serial
            stream = Stream(self.target(), seed=seed, **how).end()
            if stream.error:
                time.sleep(0.1)  # so that who is refused leaves the others a processor
            return stream.error
        return contextlib.closing(Closing(Load(width, one)))

    def heal(self):
        """All is ready again, with pods that never failed: a back-off is no longer than the first."""
        self.cluster.delete(self.decoder().pod)
        self.cluster.wait_whole()


class Closing:
    def __init__(self, load):
        self.load = load

    def close(self):
        self.load.stop()


@pytest.fixture(scope="module")
def world(make_cluster, pack, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    shutil.copytree(pack / "pack", own / "pack")
    own.chmod(0o755)

    def change(documents):
        named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1
        for config in of_kind(documents, "ConfigMap"):
            for name, text in config["data"].items():
                config["data"][name] = text.replace("lost-after: 10\n", "lost-after: 3600\n")  # silence is a fault here, not an end
        for workload in of_kind(documents, "LeaderWorkerSet", "Deployment"):
            for _, template in templates(workload):
                for container in template["spec"]["containers"]:
                    container["livenessProbe"]["failureThreshold"] *= 100  # a kubelet that is slower than the alerts
        volumes = named(documents, "Deployment", "sluice-decode")["spec"]["template"]["spec"]["volumes"]
        next(v for v in volumes if v["name"] == "models")["persistentVolumeClaim"]["claimName"] = "own"
    cluster = make_cluster("decode", change=change, claims={"sluice-models": pack, "own": own}, files=400)
    see = Monitor(tmp_path_factory.mktemp("monitor"), cluster, named(render("monitoring"), "PodMonitor", "sluice"))
    yield World(cluster, see, own / "pack")
    see.kill()


# ---- faults: each begins, lasts while its block does, and is over and healed behind it ----

@contextlib.contextmanager
def stopped_stage(world):
    stage = world.pod("sluice-0-1").containers[0]
    stage.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.signal(signal.SIGCONT)


@contextlib.contextmanager
def cut_off(world):
    pod = world.decoder().pod
    network.cut_off(pod)
    try:
        yield
    finally:
        network.cut_off(pod, False)


@contextlib.contextmanager
def nobody_left(world):
    world.cluster.scale("LeaderWorkerSet", "sluice", 0)
    try:
        yield
    finally:
        world.cluster.scale("LeaderWorkerSet", "sluice", 1)
        world.heal()


@contextlib.contextmanager
def hanging_thread(world):
    pid = pid_of(world.pod("sluice-0-1").containers[0])
    assert Stream(world.target(), n_ids=3000, max_tokens=1).end().error is None
    with Frozen(busiest_thread(pid)):
        stream = Stream(world.target(), n_ids=2000, max_tokens=4, seed=77)
        yield
    assert stream.end().error is None


@contextlib.contextmanager
def long_queue(world):
    with grpc.insecure_channel(world.target()) as channel:
        calls = [pb_grpc.VllmEngineStub(channel).Generate(request(n_ids=3900, max_tokens=1, seed=1000 + i)) for i in range(140)]
        try:
            yield
        finally:
            for call in calls:
                call.cancel()


@contextlib.contextmanager
def impatient(world):
    """Who wants a first token within a millisecond is told at once that there will be none."""
    with world.load(), world.load(metadata=(("x-slo-ttft-ms", "1"),)):
        yield


@contextlib.contextmanager
def stutter(container, stop, go):
    """It stands still for so long, and goes on for so long: functions that say seconds."""
    over, pid = threading.Event(), pid_of(container)

    def work():
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(stop())
            os.kill(pid, signal.SIGCONT)
            over.wait(go())
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def late(world):
    """Stops of a stage that are shorter than silence: what was taken before them is late. In between there is time for few that are not."""
    with stutter(world.pod("sluice-0").container("stage"), lambda: 0.85, lambda: 0.12), world.load(n_ids=20, max_tokens=2), \
            world.load(width=6, n_ids=200, max_tokens=1, metadata=(("x-slo-ttft-ms", "350"),)):
        yield


@contextlib.contextmanager
def throttled(world):
    """A CPU limit: of each tenth of a second the stage gets what two of its chunks need, so half of them wait for the next one."""
    stage = world.pod("sluice-0-1").containers[0]

    def totals():
        return [float(world.see.ask(metric)[0]["value"][1]) for metric in
                ('sluice_stage_chunk_measured_seconds_total{role="stage 1"}', 'sluice_hops_total{to="coordinator"}')]
    with world.load(width=3, n_ids=600, max_tokens=2):
        seconds, chunks = totals()
        world.cluster.wait(lambda: totals()[1] >= chunks + 100, "chunks")
        seconds, chunks = (now - before for now, before in zip(totals(), (seconds, chunks)))
        stage.limit_cpu(2 * seconds / chunks, 0.1)
        try:
            yield
        finally:
            stage.limit_cpu(None)


@contextlib.contextmanager
def damaged(world):
    """What stage 0 pushes of KV to decode workers: each loss is a request's. (Hidden states that arrive damaged end the pipeline.)"""
    source, sinks = world.pod("sluice-0"), [world.pod("sluice-0-2"), world.decoder().pod]
    for pod in sinks:
        network.damage(pod, source)
    try:
        with world.load(n_ids=900, max_tokens=4):
            yield
    finally:
        for pod in sinks:
            network.damage(pod, None)


@contextlib.contextmanager
def killed_decoder(world):
    world.decoder().signal(signal.SIGKILL)
    try:
        yield
    finally:
        world.heal()


@contextlib.contextmanager
def spoiled(world):
    path = world.own_pack / "layer-0000.safetensors"
    content = path.read_bytes()

    def write(byte):
        with open(path, "r+b") as file:  # the very file that is mapped
            file.seek(9000)
            file.write(bytes([byte]))
    write(content[9000] ^ 1)
    try:
        yield
        assert 65 in world.decoder().exits
    finally:
        write(content[9000])
        world.heal()


@contextlib.contextmanager
def crowd(world):
    limit, target = int(float(world.see.ask("sluice_grpc_connections_limit")[0]["value"][1])), world.target()
    crowd, over = [], threading.Event()

    def come():
        while not over.is_set():
            with contextlib.suppress(OSError):
                crowd.append(Connection(target))
                crowd[-1].open(GENERATE)
            over.wait(0 if len(crowd) < limit + 20 else 0.1)
    thread = threading.Thread(target=come)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for connection in crowd:
            connection.close()


@contextlib.contextmanager
def crash_loop(world):
    container = world.decoder()
    began = 'process_start_time_seconds{pod="%s"}' % container.pod.name

    def is_new(old):
        now = world.see.ask(began)
        return now and now[0]["value"][1] != old
    for i in range(1, 4):
        old = world.see.ask(began)[0]["value"][1]
        container.signal(signal.SIGKILL)
        world.cluster.wait(lambda: len(container.exits) == i and is_new(old), "a scrape of the new process")
    try:
        yield
    finally:
        world.heal()


# (alerts that it must fire, fault, what may be true besides)
FAULTS = [
    (["SluiceDown"], cut_off, ("SluiceNotReady",)),  # on a busy machine the others, too, are silent now and then
    (["SluiceNotReady"], stopped_stage, ("SluiceDown",)),  # who stands still answers no scrape
    (["SluiceNoProgress"], hanging_thread, ()),
    (["SluiceQueueLong"], long_queue, ()),
    (["SluiceRefuses"], impatient, ()),
    (["SluiceLate"], late, ("SluiceRefuses", "SluiceNoProgress", "SluiceDown")),  # it does stand still
    (["SluiceDoorFull"], crowd, ("SluiceNotReady",)),
    (["SluicePredictionsOff"], throttled, ("SluiceDown", "SluiceNoProgress")),
    (["SluiceFails", "SluiceChecksumFails"], damaged, ()),
    (["SluiceDecoderLost"], killed_decoder, ("SluiceDown",)),
    (["SluiceRestarts"], crash_loop, ("SluiceDecoderLost", "SluiceDown", "SluiceNotReady")),  # UCX 1.13 may end a node whose neighbour flaps
    (["SluiceWeightsSpoiled"], spoiled, ("SluiceDecoderLost", "SluiceDown", "SluiceRestarts")),  # it can't begin until they are healed
    (["SluiceUnwatched"], nobody_left, ("SluiceDown", "SluiceDecoderLost", "SluiceNotReady")),  # it drains before it goes
]


def test_every_alert_has_its_fault():
    alerts = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert sorted(alerts) == sorted(name for names, _, _ in FAULTS for name in names)


def test_a_load_that_is_served_fires_none(world):
    """As long as the longest `for`, and as long as any window but those of an hour."""
    end = time.monotonic() + 900 / LAPSE
    with world.load(n_ids=700, max_tokens=20) as load:
        while time.monotonic() < end:  # how long it is; nothing is expected by then
            assert world.see.firing() <= NOISE
            time.sleep(0.2)
    assert not load.load.bad() and load.load.good() > 3 and world.see.ever() <= NOISE


@pytest.mark.parametrize("alerts, fault, beside", FAULTS, ids=["+".join(names) for names, _, _ in FAULTS])
def test_a_fault_fires_its_alert_which_ends_with_it(world, alerts, fault, beside):
    see, wait = world.see, world.cluster.wait
    wait(lambda: see.alerts() <= LOOK_BACK - set(alerts), "the end of the faults before")
    before, begin, after = see.firing(), time.monotonic(), {}
    with fault(world):
        for alert in alerts:
            wait(lambda: alert in see.firing(), alert)
            after[alert] = time.monotonic() - begin
        assert see.ever(after[alert]) <= {*alerts, *beside, *before} | NOISE
    world.cluster.wait_whole()
    wait(lambda: see.alerts() <= LOOK_BACK, f"the end of {alerts}")
    for alert in alerts:
        print(f"figure: {alert} fires {after[alert]:.1f} s after its fault began, in time that goes {LAPSE:.0f} times faster")


def test_all_of_them_end_when_the_faults_have(world):
    """Those, too, that look back for a quarter of an hour, or for one."""
    world.cluster.wait(lambda: not world.see.alerts(), "silence", seconds=120 + 3600 / LAPSE)
