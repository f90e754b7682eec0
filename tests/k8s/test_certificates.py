"""The overlay mtls with a Secret that is none: from the start, one after the other. Pods end with 78 and a sentence, a kubelet begins them
again, and the first Secret that is right is served, by itself."""
import pytest
from manifests import named
from test_mtls import NAME, World, generate

pytestmark = [pytest.mark.pods, pytest.mark.slow]
NODE = "URI:spiffe://cluster.local/sluice/role/node"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("certificates"))


def half(content):
    return content[:len(content) // 2]


def test_a_secret_that_is_none_is_said_and_the_next_one_served(start_cluster, world):
    def one_group(documents):
        named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1
    names = f"DNS:{NAME},{NODE}"
    right = world.ca.sign("right", names)
    expired, young, other = (world.ca.sign(name, names, days=days) for name, days in (("expired", (-2, -1)), ("young", (1, 2)), ("other", (-1, 2))))
    bad = [
        (world.secret(expired), "expired on"),
        (world.secret(young), "is not valid before"),
        (world.secret(right, key=other.key.read_bytes()), "is not the key of the certificate file"),
        (world.secret(right, cert=half(right.cert.read_bytes())), "is cut off or damaged"),
        (world.secret(right, key=half(right.key.read_bytes())), "the key file /etc/sluice-tls/tls.key is cut off or damaged"),
        (world.secret(right, cert=b""), "/etc/sluice-tls/tls.crt is empty"),
    ]
    cluster = start_cluster("mtls", bad[0][0], change=one_group, wait=False, haste=20)
    for document, sentence in bad:
        cluster.apply([document])
        begin = len(cluster.ends)
        end = cluster.wait(lambda: next((e for e in cluster.ends[begin:] if sentence in e[3]), None), f"{sentence}, among {cluster.ends[-3:]}")
        assert end[2] == 78 and not any(pod.ready for pod in list(cluster.pods))
    stranger = world.ca.sign("stranger", f"DNS:elsewhere.example,{NODE}")
    cluster.apply([world.secret(stranger)])

    def said():
        return [line for path in cluster.logs.glob("*worker.log") for line in path.read_text().splitlines() if "is for elsewhere.example" in line]
    cluster.wait(said, "that the name is another")
    assert not any(pod.ready for pod in list(cluster.pods))
    cluster.apply([world.secret(right)])
    cluster.wait_whole()
    assert generate(cluster, world, world.client) == 24
