"""The overlay keda: what its queries answer over pods that run, asked of a real Prometheus, and the replicas that KEDA would make of
it, set here by hand: more is asked than a group does, and a second one comes; all is done, and one is enough."""
import math

import pytest
from load import Stream
from manifests import named, render
from monitor import Monitor

pytestmark = [pytest.mark.pods, pytest.mark.slow, pytest.mark.debian("prometheus")]

@pytest.fixture(scope="module")
def cluster(make_cluster):
    def one_group(documents):
        named(documents, "LeaderWorkerSet", "sluice")["spec"]["replicas"] = 1
    return make_cluster("keda", change=one_group)


@pytest.fixture(scope="module")
def query(cluster, tmp_path_factory):
    """The value of a query; None: no answer yet."""
    see = Monitor(tmp_path_factory.mktemp("monitor"), cluster, named(render("keda"), "PodMonitor", "sluice"))

    def ask(text):
        found = see.ask(text)
        return float(found[0]["value"][1]) if found else None
    cluster.wait(lambda: ask("count(up == 1)") == 4.0, "a scrape of all four ports")
    yield ask
    see.kill()


def wanted(query, scaled):
    """The replicas that the autoscaler makes of the answers: for each trigger the value over its threshold, the largest counts."""
    answers = [query(trigger["metadata"]["query"]) for trigger in scaled["triggers"]]
    replicas = [math.ceil(value / float(t["metadata"]["threshold"])) for value, t in zip(answers, scaled["triggers"]) if value is not None]
    return answers, min(max([*replicas, scaled["minReplicaCount"]]), scaled["maxReplicaCount"])


def test_groups_follow_what_waits(cluster, query):
    scaled = named(render("keda"), "ScaledObject", "sluice")["spec"]
    assert Stream(f"{cluster.pod('sluice-0').ip}:50051").end().error is None
    cluster.wait(lambda: query(scaled["triggers"][0]["metadata"]["query"]) == 0, "nothing that waits")
    assert wanted(query, scaled)[1] == 1
    target = f"{cluster.pod('sluice-0').ip}:50051"
    streams = [Stream(target, n_ids=3500, max_tokens=2, seed=i) for i in range(24)]

    def grown():
        answers, replicas = wanted(query, scaled)
        return answers if replicas > 1 and None not in answers else None
    answers = cluster.wait(grown, "more than a group's share that waits")
    assert answers[0] > 20000 and answers[1] > 0  # seconds until somebody who comes now has a first token
    target_of = scaled["scaleTargetRef"]
    assert named(render("keda"), target_of["kind"], target_of["name"])["apiVersion"] == target_of["apiVersion"]
    cluster.scale("LeaderWorkerSet", "sluice", 2)
    cluster.wait(cluster.whole, "a second group")
    assert all(s.end().error is None for s in streams)
    cluster.wait(lambda: wanted(query, scaled)[1] == 1, "one that is enough")
    cluster.scale("LeaderWorkerSet", "sluice", 1)
    cluster.wait(cluster.whole, "one group")
    assert Stream(target).end().error is None
    print(f"figure: waiting {answers[0]:.0f} tokens, predicted {answers[1]:.1f} s: a second group")
