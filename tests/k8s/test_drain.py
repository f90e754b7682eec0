"""A group that ends, as clients see it who call it directly: what runs finishes, what comes is taken while gateways notice and refused
with a pushback afterwards; whichever pod of it was told to stop."""
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from load import Stream
from manifests import named, of_kind, templates

pytestmark = [pytest.mark.pods, pytest.mark.slow]
RUNNING, TOKENS = 4, 2500  # streams, and long ones: they go on when the delay is over


@pytest.fixture(scope="module")
def cluster(make_cluster):
    def change(documents):
        """One group; and a slow machine's streams take longer than a minute."""
        lws = named(documents, "LeaderWorkerSet", "sluice")
        lws["spec"]["replicas"] = 1
        for _, template in templates(lws):
            template["spec"]["terminationGracePeriodSeconds"] += 3600
        for config in of_kind(documents, "ConfigMap"):
            for name, text in config["data"].items():
                config["data"][name] = text.replace("drain-timeout: 60", "drain-timeout: 3660").replace("drain-delay: 5", "drain-delay: 2")
    return make_cluster("base", change=change)


class Health(threading.Thread):
    """Watches gRPC health of a leader: when it said what."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.seen, self.first = target, [], threading.Event()
        self.start()
        assert self.first.wait(60)

    def run(self):
        try:
            with grpc.insecure_channel(self.target) as channel:
                for reply in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                    self.seen.append((time.monotonic(), health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)))
                    self.first.set()
        except grpc.RpcError:
            pass

    def fell(self):
        return next((at for at, status in self.seen if status == "NOT_SERVING"), None)


@pytest.mark.parametrize("name", ["sluice-0", "sluice-0-1", "sluice-0-2"], ids=["coordinator", "stage", "decode"])
def test_what_runs_finishes_and_what_comes_is_told_when_to_come_again(cluster, name):
    leader, group = cluster.pod("sluice-0"), cluster.groups["sluice"][0]
    target, before, containers = f"{leader.ip}:50051", group.made, [c for p in group.pods for c in p.containers]
    alone = Stream(target, max_tokens=TOKENS).end().ids
    assert len(alone) == TOKENS
    health = Health(target)
    running = [Stream(target, max_tokens=TOKENS).wait_begun() for _ in range(RUNNING)]
    told = time.monotonic()
    cluster.delete(cluster.pod(name))
    cluster.wait(health.fell, "NOT_SERVING")
    taken = Stream(target).end()  # gateways have not looked yet
    assert taken.error is None and len(taken.ids) == 24
    cluster.wait(lambda: "draining:" in leader.container("coordinator").log(), "the end of the delay")
    assert any(s.is_alive() for s in running), "all had finished by then; let them run for longer"
    late = Stream(target).end()
    for stream in running:
        assert stream.end().error is None and stream.ids == alone
    assert late.error.code() == grpc.StatusCode.UNAVAILABLE
    assert int(dict(late.error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    cluster.wait(lambda: group.made > before and cluster.whole(), "the group anew")
    assert [c.exits for c in containers] == [[0]] * 4
    print(f"figure: {name} told to stop: NOT_SERVING seen after {(health.fell() - told) * 1e3:.0f} ms, {RUNNING} of {RUNNING} finished")
    again = Stream(f"{cluster.pod('sluice-0').ip}:50051", max_tokens=TOKENS).end()
    assert again.error is None and again.ids == alone


def test_an_end_with_64_under_way_loses_none(cluster):
    leader, group = cluster.pod("sluice-0"), cluster.groups["sluice"][0]
    before, target = group.made, f"{leader.ip}:50051"
    running = [Stream(target, n_ids=100, max_tokens=60, seed=i) for i in range(64)]
    cluster.wait(lambda: sum(s.begun.is_set() for s in running) >= 8, "some streams")
    cluster.delete(leader)
    ended = [s.end() for s in running]
    assert not [s.error for s in ended if s.error] and all(len(s.ids) == 60 for s in ended)
    cluster.wait(lambda: group.made > before and cluster.whole(), "the group anew")
    assert leader.container("coordinator").exits == [0]
