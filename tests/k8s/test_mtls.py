"""The overlay mtls, running: pods join each other with their certificate, clients come in with theirs or not at all, probes need none,
and a Secret that is renewed is taken by everybody without a restart."""
import ssl

import certs  # of the end-to-end tests
import grpc
import pytest
from conftest import secret
from load import request
from manifests import named
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

pytestmark = [pytest.mark.pods, pytest.mark.slow]
NAME = "sluice-grpc.sluice.svc"


class World:
    """A CA, the pods' certificate as a Secret, and clients'."""

    def __init__(self, folder):
        self.ca = certs.Authority(folder)
        self.gateway, self.client = self.ca.of_role("gateway"), self.ca.of_role("client")
        self.serial = 0

    def pods(self):
        self.serial += 1
        self.node = self.ca.sign(f"pods-{self.serial}", f"DNS:{NAME},URI:spiffe://cluster.local/sluice/role/node")
        return self.secret(self.node)

    def secret(self, party, cert=None, key=None):
        return secret("sluice-tls", **{"tls.crt": party.cert.read_bytes() if cert is None else cert,
                                       "tls.key": party.key.read_bytes() if key is None else key, "ca.crt": self.ca.cert.read_bytes()})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def cluster(make_cluster, world):
    def one_group(documents):
        named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1
    return make_cluster("mtls", world.pods(), change=one_group)


def generate(cluster, world, party):
    """How many tokens, or the status; party None: without a certificate of its own."""
    credentials = grpc.ssl_channel_credentials(world.ca.cert.read_bytes(), *(
        (party.key.read_bytes(), party.cert.read_bytes()) if party else ()))
    with grpc.secure_channel(f"{cluster.pod('sluice-0').ip}:50051", credentials, [("grpc.ssl_target_name_override", NAME)]) as channel:
        try:
            return sum(len(reply.chunk.token_ids) for reply in pb_grpc.VllmEngineStub(channel).Generate(request(), timeout=60))
        except grpc.RpcError as error:
            return error.code()


def shown(cluster):
    """The certificate that the leader's port shows."""
    return ssl.get_server_certificate((cluster.pod("sluice-0").ip, 50051))


def test_who_has_a_certificate_for_it_comes_in(cluster, world):
    assert generate(cluster, world, world.client) == 24 == generate(cluster, world, world.gateway)
    assert generate(cluster, world, None) == grpc.StatusCode.UNAVAILABLE
    assert generate(cluster, world, world.node) == grpc.StatusCode.PERMISSION_DENIED  # a pod of ours asks for nothing
    with grpc.insecure_channel(f"{cluster.pod('sluice-0').ip}:50051") as channel, pytest.raises(grpc.RpcError):
        list(pb_grpc.VllmEngineStub(channel).Generate(request(), timeout=10))


def test_probes_need_none(cluster):
    assert all(pod.ready for pod in cluster.pods) and not cluster.killed_by_probe


def test_a_renewed_secret_is_taken_without_a_restart(cluster, world):
    before = shown(cluster)
    cluster.apply([world.pods()])
    cluster.wait(lambda: shown(cluster) != before, "the new certificate")
    assert shown(cluster) == world.node.cert.read_text()
    assert generate(cluster, world, world.client) == 24
    assert not any(c.exits for pod in cluster.pods for c in pod.containers) and all(pod.ready for pod in cluster.pods)


def test_a_group_made_anew_joins_with_the_new_one(cluster, world):
    group, before = cluster.groups["sluice"][0], cluster.groups["sluice"][0].made
    cluster.delete(cluster.pod("sluice-0-1"))
    cluster.wait(lambda: group.made > before and cluster.whole(), "the group anew")
    assert generate(cluster, world, world.client) == 24
