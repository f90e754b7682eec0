"""What nobody planned: a node that dies or hangs. Running calls end at once and with the right code, the group comes back, the other
one never noticed."""
import json
import os
import signal
import subprocess
import time
import urllib.request

import grpc
import kubelite
import pytest
from load import Load, Stream

pytestmark = [pytest.mark.pods, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster("base")


def target(cluster, name="sluice-0"):
    return f"{cluster.pod(name).ip}:50051"


def pid_of(container):
    return json.loads(subprocess.run(kubelite.crun("state", container.id()), capture_output=True, text=True, check=True).stdout)["pid"]


@pytest.mark.parametrize("name, container", [("sluice-0-1", "worker"), ("sluice-0-2", "worker"), ("sluice-0", "coordinator")],
                         ids=["stage", "decode", "coordinator"])
def test_a_node_that_dies_ends_its_calls_at_once_and_its_group_comes_back(cluster, name, container):
    """(In a group, a decode worker's death is the group's: LeaderWorkerSet sees to that.)"""
    group, before = cluster.groups["sluice"][0], cluster.groups["sluice"][0].made
    other = Load(2, lambda i: (lambda s: s.error)(Stream(target(cluster, "sluice-1"), seed=i).end()))
    running = [Stream(target(cluster), max_tokens=3500, seed=i).wait_begun() for i in range(2)]
    cluster.pod(name).container(container).signal(signal.SIGKILL)
    for stream in running:
        assert stream.end().error is not None and stream.error.code() == grpc.StatusCode.UNAVAILABLE, stream.error
    cluster.wait(lambda: group.made > before and cluster.whole(), "the group anew")
    again = Stream(target(cluster)).end()
    assert again.error is None and len(again.ids) == 24
    assert not other.stop().bad() and cluster.groups["sluice"][1].made == 1


def test_a_node_that_hangs_makes_the_group_unready_and_is_not_killed_for_it(cluster):
    """A paused machine: the Service sends nothing there, streams wait, and go on with the same bits when it is back."""
    alone = Stream(target(cluster), max_tokens=1200).end().ids
    service = cluster.service("sluice-grpc", "sluice")
    assert len(cluster.endpoints(service)) == 2
    running = Stream(target(cluster), max_tokens=1200).wait_begun()
    pid = pid_of(cluster.pod("sluice-0-1").container("worker"))
    os.kill(pid, signal.SIGSTOP)
    cluster.wait(lambda: not cluster.pod("sluice-0").container("coordinator").ready, "not ready")
    assert [pod.name for pod in cluster.endpoints(service)] == ["sluice-1"]
    os.kill(pid, signal.SIGCONT)
    assert running.end().error is None and running.ids == alone
    cluster.wait(cluster.whole, "readiness")
    assert not cluster.killed_by_probe and len(cluster.endpoints(service)) == 2


def waiting_tokens(cluster, name):
    """Of prompts that were not cut yet, as that leader says; what it was asked last is not all in the log then."""
    with urllib.request.urlopen(f"http://{cluster.pod(name).ip}:8081/metrics", timeout=60) as page:
        return next(float(line.split()[-1]) for line in page.read().decode().splitlines()
                    if line.startswith("sluice_prefill_tokens_waiting_uncached "))


@pytest.mark.parametrize("name, container", [("sluice-0-1", "worker"), ("sluice-0-2", "worker"), ("sluice-0", "stage"), ("sluice-0", "coordinator")],
                         ids=["stage 1", "decode", "stage 0", "coordinator"])
def test_a_pod_without_processors_for_3_s_in_the_middle_of_a_prompt_loses_nothing(cluster, name, container):
    """And says nothing wrong: the other group has the same prompt, undisturbed."""
    made, n_ids, frozen = cluster.groups["sluice"][0].made, 6000, None
    for seed in range(10, 20):  # a prompt may be through before it is seen in its middle
        stream = Stream(target(cluster), n_ids=n_ids, max_tokens=60, seed=seed)
        cluster.wait(lambda: stream.begun.is_set() or 0 < waiting_tokens(cluster, "sluice-0") < n_ids, "the middle of a prompt")
        if not stream.begun.is_set():
            frozen = cluster.pod(name).container(container)
            frozen.freeze()
            time.sleep(3)  # the fault itself
            frozen.thaw()
            break
        stream.end()
    assert frozen and stream.end().error is None, stream.error
    assert stream.ids == Stream(target(cluster, "sluice-1"), n_ids=n_ids, max_tokens=60, seed=seed).end().ids and len(stream.ids) == 60
    cluster.wait(cluster.whole, "readiness")
    again = Stream(target(cluster)).end()
    assert again.error is None and len(again.ids) == 24
    assert cluster.groups["sluice"][0].made == made and not cluster.killed_by_probe
