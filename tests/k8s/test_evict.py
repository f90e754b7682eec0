"""The overlay smg under load: an OpenAI gateway before two groups, and the planned ends that there are. What counts is what the
gateway's clients saw: nothing may fail."""
import copy

import pytest
from load import Load, through_gateway
from manifests import named, render

pytestmark = pytest.mark.pods


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster("smg")


@pytest.fixture(scope="module")
def ask(cluster):
    gateway = cluster.endpoints(cluster.service("sluice-gateway", "sluice"))[0]
    asking = through_gateway(gateway.ip)
    cluster.wait(lambda: asking(0) is None, "an answer through the gateway")
    return asking


@pytest.fixture
def load(cluster, ask):
    """Under way before the test does anything; afterwards none of it failed, and it went on to the end."""
    it = Load(6, ask)
    cluster.wait(lambda: it.good() >= 6, "load")
    yield it
    before = it.good()
    cluster.wait(lambda: it.good() >= before + 12, "load afterwards")
    it.stop()
    assert not it.bad(), f"{len(it.bad())} of {it.good() + len(it.bad())} failed: {it.bad()[:3]}"
    print(f"figure: {it.good()} requests through the gateway, 0 failed")


def made_anew(cluster, index, before):
    group = cluster.groups["sluice"][index]
    cluster.wait(lambda: group.made > before and cluster.whole(), f"group {index} made anew")


@pytest.mark.parametrize("name", [pytest.param("sluice-0", id="coordinator", marks=pytest.mark.slow),
                                  pytest.param("sluice-1-1", id="stage", marks=pytest.mark.slow),
                                  pytest.param("sluice-0-2", id="decode")])
def test_an_eviction_of_any_role_fails_nothing_and_a_second_is_refused_until_the_group_is_back(cluster, load, name):
    pod = cluster.pod(name)
    index, containers = pod.wish.group, [c for p in cluster.groups["sluice"][pod.wish.group].pods for c in p.containers]
    before = cluster.groups["sluice"][index].made
    assert cluster.evict(pod) == 201
    others = [p for p in cluster.pods if p.wish.group not in (None, index)]
    assert [cluster.evict(p) for p in others] == [429] * 3
    made_anew(cluster, index, before)
    assert [c.exits for c in containers] == [[0]] * 4  # each ended by itself, in time


def test_a_rolling_update_fails_nothing(cluster, load):
    before = [group.made for group in cluster.groups["sluice"]]
    documents = render("smg")
    change = copy.deepcopy(named(documents, "LeaderWorkerSet", "sluice"))
    for name in ("leaderTemplate", "workerTemplate"):
        change["spec"]["leaderWorkerTemplate"][name]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    first, last = cluster.groups["sluice"]
    cluster.apply([change])
    cluster.wait(lambda: last.made > before[1], "group 1 anew, which is the first to go")
    assert first.made == before[0]
    made_anew(cluster, 0, before[0])
    assert [group.made for group in cluster.groups["sluice"]] == [n + 1 for n in before]


def test_the_gateway_is_a_pod_like_others(cluster):
    """It reaches both groups by the names of their leaders."""
    assert {f"sluice-{i}.sluice.sluice.svc.cluster.local" for i in (0, 1)} <= set(cluster.names.asked)
    assert not cluster.killed_by_probe
