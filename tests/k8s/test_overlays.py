"""The other overlays that change what runs: `statefulset` without LeaderWorkerSet, `local-nvme` with its init container, `decode` with
decode workers that come and go, `rdma` where it must be refused."""
import copy
import signal

import pytest
from load import Load, Stream
from manifests import named, render, templates

pytestmark = [pytest.mark.pods, pytest.mark.slow]


def one_group(documents):
    named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1


def leader_of(cluster, name="sluice-0"):
    return f"{cluster.wait(lambda: cluster.pod(name), name).ip}:50051"


# ---- statefulset ----

@pytest.mark.parametrize("name", ["sluice-worker-2", "sluice-leader-0"])
def test_a_stateful_set_finds_its_roles_by_ordinals_and_comes_back_after_an_end_at_another_address(start_cluster, name):
    cluster = start_cluster("statefulset")
    roles = {pod.name: pod.containers[-1].log() for pod in cluster.pods}
    assert '"role":"stage 1"' in roles["sluice-worker-1"] and '"role":"decode' in roles["sluice-worker-2"]
    target = leader_of(cluster, "sluice-leader-0")
    running = [Stream(target, max_tokens=600, seed=i).wait_begun() for i in range(3)]
    old, address = list(cluster.pods), cluster.pod(name).ip
    cluster.delete(cluster.pod(name))  # one pod is told; all end, after what runs
    assert all(s.end().error is None and len(s.ids) == 600 for s in running)
    for pod in old:
        for container in pod.containers:
            cluster.wait(lambda c=container: c.exits, f"the end of {pod.name}")
            assert container.exits[0] == 0
    cluster.wait(cluster.whole, "all of it again")
    assert cluster.pod(name).ip != address  # the others have kept theirs, and find it by its name
    again = Stream(leader_of(cluster, "sluice-leader-0")).end()
    assert again.error is None and len(again.ids) == 24


# ---- local-nvme ----

def test_the_pack_is_made_on_the_node_and_compared_at_every_start(start_cluster, disk):
    cluster = start_cluster("local-nvme", change=one_group, **disk)
    said = [pod.container("pack").log() for pod in cluster.pods]
    assert sum("is packed in /models/pack" in log for log in said) == 1, said
    assert sum("/models/pack is there, and whole" in log for log in said) == len(said) - 1
    assert Stream(leader_of(cluster)).end().error is None

    file = disk["host_paths"]["/var/lib/sluice"] / "pack" / "layer-0000.safetensors"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)  # while it runs: the scrubber's business, or that of the next start
    group, before = cluster.groups["sluice"][0], cluster.groups["sluice"][0].made
    cluster.pod("sluice-0-1").containers[0].signal(signal.SIGKILL)
    cluster.wait(lambda: group.made > before, "the group anew")
    pod = cluster.wait(lambda: cluster.pod("sluice-0-1"), "the pod")
    cluster.wait(lambda: pod.init[0].exits, "the comparison")
    assert pod.init[0].exits[0] == 65 and "layer-0000.safetensors has other bytes" in pod.init[0].log()
    assert not pod.running  # nothing is served from it


# ---- decode ----

def test_decode_workers_come_roll_and_go_while_streams_run(start_cluster):
    cluster = start_cluster("decode", change=one_group)
    target = leader_of(cluster)
    load = Load(3, lambda i: (lambda s: s.error or (len(s.ids) != 200 and f"{len(s.ids)} tokens") or None)(
        Stream(target, max_tokens=200, seed=i).end()))
    cluster.wait(lambda: load.good() >= 3, "load")
    cluster.scale("Deployment", "sluice-decode", 2)
    cluster.wait(cluster.whole, "two of them")
    change = copy.deepcopy(named(render("decode"), "Deployment", "sluice-decode"))
    change["spec"]["replicas"] = 2
    change["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    old = [pod for pod in cluster.pods if pod.wish.owner["kind"] == "Deployment"]
    cluster.apply([change])
    cluster.wait(cluster.whole, "the rolling update")
    assert all(pod.stopping and [c.exits for c in pod.containers] == [[0]] for pod in old)
    cluster.scale("Deployment", "sluice-decode", 1)
    cluster.wait(cluster.whole, "one of them")
    victim = next(pod for pod in cluster.pods if pod.wish.owner["kind"] == "Deployment")
    victim.containers[0].signal(signal.SIGKILL)  # what it had is prefilled again for another
    before = load.good()
    cluster.wait(lambda: load.good() >= before + 6, "load afterwards")
    assert not load.stop().bad() and cluster.groups["sluice"][0].made == 1
    print(f"figure: {load.good()} streams over coming, rolling, going and killed decode workers, 0 failed")


# ---- rdma ----

def test_without_memory_to_lock_rdma_is_refused_in_a_sentence(start_cluster):
    """Who is not root has no use of a capability, and a runtime's limit is 8 MiB: UCX would go on over TCP, and nobody would know."""
    def no_device(documents):
        one_group(documents)
        for _, template in templates(named(documents, "LeaderWorkerSet", "sluice")):
            for container in template["spec"]["containers"]:
                assert container["resources"]["limits"].pop("rdma/ib") == 1  # this machine has none to give
    cluster = start_cluster("rdma", change=no_device, wait=False)
    container = cluster.wait(lambda: cluster.pod("sluice-0-1"), "the pod").container("worker")
    cluster.wait(lambda: container.exits, "its end")
    assert container.exits[0] == 78
    assert "UCX_TLS asks for RDMA (rc), but this process may lock" in container.log() and "LimitMEMLOCK" in container.log()
