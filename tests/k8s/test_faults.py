"""What is wrong from the start, or only at the start: too little memory, a configuration that is none, variables of Services, names
that come late, and addresses of the other family. One sentence and the right code, or nothing at all to notice. Volumes: test_volumes.py."""
import shutil
import subprocess
import urllib.request

import network
import pytest
from kubelite import Image
from load import Stream
from manifests import named, of_kind, templates

pytestmark = [pytest.mark.pods, pytest.mark.slow]


def one_group(documents):
    named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1


def test_out_of_memory_is_said_and_restarted(start_cluster):
    def small(documents):
        one_group(documents)
        worker = dict(templates(named(documents, "LeaderWorkerSet", "sluice")))["workerTemplate"]
        worker["spec"]["containers"][0]["resources"]["limits"]["memory"] = "24Mi"
    cluster = start_cluster("base", change=small, wait=False)
    worker = cluster.wait(lambda: cluster.pod("sluice-0-1"), "the pod").container("worker")
    cluster.wait(lambda: 137 in worker.exits, "the kernel's verdict")
    assert "ready:" not in "".join(path.read_text() for path in cluster.logs.iterdir() if "coordinator" in path.name)


def change_config(name, old, new):
    def change(documents):
        one_group(documents)
        for config in of_kind(documents, "ConfigMap"):
            if name in config["data"]:
                assert old in config["data"][name]
                config["data"][name] = config["data"][name].replace(old, new)
    return change


def test_a_configuration_that_is_none_is_one_sentence_in_the_log(start_cluster):
    cluster = start_cluster("base", change=change_config("coordinator.yaml", "drain-delay", "drain-dely"), wait=False)
    container = cluster.wait(lambda: cluster.pod("sluice-0"), "the pod").container("coordinator")
    cluster.wait(lambda: container.exits, "its end")
    sentence = "/etc/sluice/coordinator.yaml: there is no option drain-dely; did you mean drain-delay?"
    assert container.exits[0] == 78 and sentence in container.log(), (container.exits, container.log())
    assert len([line for line in container.log().splitlines() if line.startswith("sluice coordinator:")]) >= len(container.exits)


def test_names_that_come_late_are_waited_for(start_cluster):
    cluster = start_cluster("base", change=one_group, wait=False)
    name = "sluice-0.sluice.sluice.svc.cluster.local"
    cluster.names.hidden.add(name)
    cluster.wait(lambda: cluster.names.asked.count(name) >= 6, "questions for a name that is not there")
    cluster.names.hidden.clear()
    cluster.wait_whole()
    assert not [c.exits for pod in cluster.pods for c in pod.containers if c.exits]


def test_names_that_are_answered_late_are_waited_for(start_cluster):
    """By 3 s: less than whoever asks waits for an answer."""
    cluster = start_cluster("base", change=one_group, wait=False)
    cluster.names.late_s = 3
    cluster.wait_whole()
    assert "sluice-0.sluice.sluice.svc.cluster.local" in cluster.names.asked
    assert not [c.exits for pod in cluster.pods for c in pod.containers if c.exits]
    stream = Stream(f"{cluster.pod('sluice-0').ip}:50051").end()
    assert stream.error is None and len(stream.ids) == 24


def test_the_same_with_the_other_family_of_addresses(start_cluster):
    """IPv6 alone: addresses, names, probes, data."""
    cluster = start_cluster("base", change=one_group, family=6)
    leader = cluster.pod("sluice-0")
    assert ":" in leader.ip and cluster.names.asked
    stream = Stream(f"[{leader.ip}]:50051", n_ids=300).end()
    assert stream.error is None and len(stream.ids) == 24


def test_two_versions_never_mix(start_cluster, images, tmp_path):
    """A set that is half rolled: the worker says both versions, and the group serves nobody."""
    other = tmp_path / "root"
    shutil.copytree(images["localhost/sluice:latest"].root, other, symlinks=True)
    program = other / "usr" / "bin" / "sluice"
    before = program.read_bytes()
    version = subprocess.run([str(program), "version"], capture_output=True, text=True, check=True).stdout.split()[1]
    newer = version[:-1] + chr(ord(version[-1]) + 1)
    program.write_bytes(before.replace(b"\0" + version.encode() + b"\0", b"\0" + newer.encode() + b"\0"))
    assert program.read_bytes() != before

    def half(documents):
        one_group(documents)
        worker = dict(templates(named(documents, "LeaderWorkerSet", "sluice")))["workerTemplate"]
        worker["spec"]["containers"][0]["image"] = "localhost/sluice:next"
    images["localhost/sluice:next"] = Image(other, ["/usr/bin/sluice"])
    cluster = start_cluster("base", change=half, wait=False)
    said = cluster.wait(lambda: [line for path in cluster.logs.glob("*.worker.log") for line in path.read_text().splitlines()
                                 if "the version differs" in line], "a sentence")  # of whichever comes first: it ends the group
    assert f"the coordinator is sluice {version} (wire " in said[0] and f"this node {newer} (wire " in said[0]
    assert not any(pod.ready for pod in list(cluster.pods))


def test_a_slow_link_slows_and_breaks_nothing(start_cluster):
    """What a stage is sent goes through at 4 Mbit/s: hidden states and pages of a prompt take their time, and arrive."""
    cluster = start_cluster("base", change=one_group)
    target = f"{cluster.pod('sluice-0').ip}:50051"
    before = Stream(target, n_ids=800).end()
    for name in ("sluice-0-1", "sluice-0-2"):
        network.limit_rate(cluster.pod(name), "4mbit")
    slow = Stream(target, n_ids=800, seed=1).end()
    for name in ("sluice-0-1", "sluice-0-2"):
        network.limit_rate(cluster.pod(name), None)
    after = Stream(target, n_ids=800).end()
    assert not before.error and not slow.error and not after.error and before.ids == after.ids and len(slow.ids) == 24
    assert not cluster.killed_by_probe and all(pod.ready for pod in cluster.pods)


def with_links(documents):
    """As a pod is that says nothing of them."""
    one_group(documents)
    for _, template in templates(named(documents, "LeaderWorkerSet", "sluice")):
        del template["spec"]["enableServiceLinks"]


def test_variables_of_services_are_passed_over_aloud_or_named(start_cluster):
    """A kubelet tells each container of the Services that there are: those of ours set nothing that is an option. One of another's would:
    it is named, and so is whoever set it."""
    cluster = start_cluster("base", change=with_links, haste=20)
    leader = cluster.pod("sluice-0").container("coordinator")
    assert leader.variables()["SLUICE_GRPC_PORT"] == f"tcp://{cluster.service_ips['sluice', 'sluice-grpc']}:50051"
    assert "the environment has SLUICE_GRPC_PORT, which means nothing here" in leader.log()
    assert Stream(f"{cluster.pod('sluice-0').ip}:50051").end().error is None
    cluster.apply([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sluice-data", "namespace": "sluice"}, "spec": {
        "selector": {"app": "other"}, "ports": [{"name": "http", "port": 80}]}}])
    cluster.delete(cluster.pod("sluice-0-1"))
    ip = cluster.service_ips["sluice", "sluice-data"]
    end = cluster.wait(lambda: next((e for e in list(cluster.ends) if e[2] == 78), None), "a container that ends")
    assert f'SLUICE_DATA_PORT is "tcp://{ip}:80"; it takes' in end[3] and "enableServiceLinks: false" in end[3]
    del cluster.objects["Service", "sluice", "sluice-data"]
    cluster.wait_whole()
    assert Stream(f"{cluster.pod('sluice-0').ip}:50051").end().error is None


def hops(cluster):
    """(seconds, how many) of the ways of chunks to stage 1, by the coordinator's metrics."""
    with urllib.request.urlopen(f"http://{cluster.pod('sluice-0').ip}:8081/metrics", timeout=60) as page:
        values = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line.startswith("sluice_hop"))
    return (float(values['sluice_hop_seconds_total{to="stage 1"}']), float(values['sluice_hops_total{to="stage 1"}']))


@pytest.mark.parametrize("lost", [0, 0.01], ids=["delay", "delay and loss"])
def test_a_long_wire_slows_and_breaks_nothing(start_cluster, lost):
    """Stage 1 is 40 ms away, each way, and some frames never come: answers are the same, and the metric of hops says where the time went."""
    cluster = start_cluster("base", change=one_group)
    target, delay_s = f"{cluster.pod('sluice-0').ip}:50051", 0.04
    before = Stream(target, n_ids=800).end()
    wire = network.Wire(cluster.pod("sluice-0-1"), delay_s, lost)
    begun = hops(cluster)
    away = [Stream(target, n_ids=800, seed=seed).end() for seed in (1, 2)]
    seconds, n = (now - then for now, then in zip(hops(cluster), begun))
    carried = wire.carried
    wire.close()
    again, after = Stream(target, n_ids=800, seed=1).end(), Stream(target, n_ids=800).end()
    assert not [s.error for s in (before, *away, again, after) if s.error]
    assert before.ids == after.ids and away[0].ids == again.ids and len(before.ids) == 24
    assert carried > 100 and n > 0 and seconds / n > delay_s / 2, (carried, seconds, n)  # half: clocks are right to half a round trip
    print(f"figure: stage 1 is {delay_s * 1e3:.0f} ms away: its chunks were under way for {seconds / n * 1e3:.0f} ms, {carried} frames")
    assert not cluster.killed_by_probe and all(pod.ready for pod in cluster.pods)
