"""The overlay netpol: every way between two pods is tried, from inside of each, and what should be open is."""
import subprocess
import sys

import pytest
from load import Stream
from network import NODE

pytestmark = pytest.mark.pods
TRY = """
import socket, sys
s = socket.socket(); s.settimeout(float(sys.argv[3]))
try:
    s.connect((sys.argv[1], int(sys.argv[2]))); print("open")
except socket.timeout:
    print("dropped")
except OSError as error:
    print("refused" if error.errno == 111 else error)
"""


def bystander(name, namespace, **labels):
    """A pod that does nothing."""
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name, **labels}}, "spec": {"containers": [{
                "name": "sleep", "image": "localhost/smg:1.13.0", "command": ["/usr/bin/python3", "-c", "import http.server as h; "
                    "h.ThreadingHTTPServer(('', 13000), h.SimpleHTTPRequestHandler).serve_forever()"]}]}}}}


@pytest.fixture(scope="module")
def cluster(make_cluster):
    def one_group(documents):
        next(d for d in documents if d["kind"] == "LeaderWorkerSet")["spec"]["replicas"] = 1
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "monitoring"}}
    return make_cluster("netpol", bystander("client", "sluice", **{"sluice-client": "true"}), bystander("stranger", "sluice"),
                        bystander("prometheus", "monitoring"), bystander("elsewhere", "default", **{"sluice-client": "true"}), account,
                        change=one_group)


def pod(cluster, name):
    return next(p for p in cluster.pods if p.labels.get("app") == name or p.name == name)


def reach(from_pod, ip, port, seconds=1.0):
    done = subprocess.run(["ip", "netns", "exec", from_pod.netns, sys.executable, "-c", TRY, ip, str(port), str(seconds)],
                          capture_output=True, text=True, check=True)
    return done.stdout.strip()


def data_port(cluster):
    """One on which a node listens, after its log."""
    log = pod(cluster, "sluice-0").container("coordinator").log()
    return int(log.split("data port ")[1].split(" ")[0].rpartition(":")[2])


@pytest.mark.parametrize("who, grpc, ops", [("client", "open", "dropped"), ("stranger", "dropped", "dropped"),
                                            ("elsewhere", "dropped", "dropped"), ("prometheus", "dropped", "open"),
                                            ("sluice-0-1", "open", "dropped")])
def test_who_reaches_which_port(cluster, who, grpc, ops):
    leader, worker = pod(cluster, "sluice-0"), pod(cluster, "sluice-0-2")
    asking = pod(cluster, who)
    assert reach(asking, leader.ip, 50051) == grpc
    assert [reach(asking, leader.ip, 8081), reach(asking, leader.ip, 8082), reach(asking, worker.ip, 8081)] == [ops] * 3
    if who != "sluice-0-1":
        assert reach(asking, leader.ip, data_port(cluster)) == "dropped"


def test_what_is_not_named_is_shut(cluster):
    """Also between sluice's own pods, and for who may do something else."""
    for who in ("client", "prometheus", "sluice-0-1"):
        assert reach(pod(cluster, who), pod(cluster, "sluice-0").ip, 22) == "dropped"
        assert reach(pod(cluster, who), pod(cluster, "sluice-0-2").ip, 50051) == "dropped"  # a worker serves nobody


def test_sluice_reaches_its_own_pods_and_names_and_nothing_else(cluster):
    worker, stranger = pod(cluster, "sluice-0-1"), pod(cluster, "stranger")
    cluster.wait(lambda: reach(pod(cluster, "client"), stranger.ip, 13000) == "open", "a stranger that listens")
    assert reach(worker, stranger.ip, 13000) == "dropped"
    assert reach(worker, NODE[4], 8080) == "dropped"
    assert any(name.startswith("sluice-0.sluice.") for name in cluster.names.asked)  # or it would not have joined


def test_the_pipeline_works_behind_it(cluster):
    stream = Stream(f"{pod(cluster, 'sluice-0').ip}:50051", n_ids=600, max_tokens=40).end()  # this process is the node: probes' way
    assert stream.error is None and len(stream.ids) == 40
    assert not cluster.killed_by_probe and all(p.ready for p in cluster.pods)


def test_without_the_policies_all_is_open(cluster):
    """The walls above are the policies', not the machine's."""
    documents = [d for d in list(cluster.objects.values()) if d["kind"] == "NetworkPolicy"]
    for document in documents:
        cluster.objects.pop(("NetworkPolicy", "sluice", document["metadata"]["name"]))
    cluster.rules.write()
    stranger, leader = pod(cluster, "stranger"), pod(cluster, "sluice-0")
    assert reach(stranger, leader.ip, 50051) == "open" == reach(stranger, leader.ip, 8082)
    assert reach(stranger, leader.ip, 22) == "refused"
    cluster.apply(documents)
    cluster.rules.write()
    assert reach(stranger, leader.ip, 50051) == "dropped"
