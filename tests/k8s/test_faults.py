"""What is wrong from the start, or only at the start: too little memory, a configuration that is none, a volume without a pack, names
that come late, and addresses of the other family. One sentence and the right code, or nothing at all to notice."""
import pytest
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


@pytest.mark.parametrize("change, empty, code, sentence", [
    (change_config("coordinator.yaml", "drain-delay", "drain-dely"), False, 78, "/etc/sluice/coordinator.yaml: there is no option drain-dely; did you mean drain-delay?"),
    (one_group, True, 64, "cannot open /models/pack: No such file or directory; give a pack or a checkpoint directory")], ids=["unknown key", "empty volume"])
def test_what_is_wrong_is_one_sentence_in_the_log(start_cluster, pack, tmp_path, change, empty, code, sentence):
    tmp_path.chmod(0o755)
    cluster = start_cluster("base", change=change, wait=False, claims={"sluice-models": tmp_path if empty else pack})
    container = cluster.wait(lambda: cluster.pod("sluice-0"), "the pod").container("coordinator")
    cluster.wait(lambda: container.exits, "its end")
    assert container.exits[0] == code and sentence in container.log(), (container.exits, container.log())
    assert len([line for line in container.log().splitlines() if line.startswith("sluice coordinator:")]) >= len(container.exits)


def test_names_that_come_late_are_waited_for(start_cluster):
    cluster = start_cluster("base", change=one_group, wait=False)
    name = "sluice-0.sluice.sluice.svc.cluster.local"
    cluster.names.hidden.add(name)
    cluster.wait(lambda: cluster.names.asked.count(name) >= 6, "questions for a name that is not there")
    cluster.names.hidden.clear()
    cluster.wait_whole()
    assert not [c.exits for pod in cluster.pods for c in pod.containers if c.exits]


def test_the_same_with_the_other_family_of_addresses(start_cluster):
    """IPv6 alone: addresses, names, probes, data."""
    cluster = start_cluster("base", change=one_group, family=6)
    leader = cluster.pod("sluice-0")
    assert ":" in leader.ip and cluster.names.asked
    stream = Stream(f"[{leader.ip}]:50051", n_ids=300).end()
    assert stream.error is None and len(stream.ids) == 24
