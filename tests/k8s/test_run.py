"""The base as it is rendered, running: two groups of three pods, each a pipeline that answers, probed, known by name, locked down."""
import json
import pathlib
import subprocess

import kubelite
import pytest
from load import Load, Stream
from manifests import named, quantity, render, selected

pytestmark = pytest.mark.pods


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster("base")


def pid_of(container):
    state = subprocess.run(kubelite.crun("state", container.id()), capture_output=True, text=True, check=True)
    return json.loads(state.stdout)["pid"]


def all_containers(cluster):
    return [c for pod in cluster.pods for c in pod.containers]


def test_each_group_is_a_pipeline_of_its_own_and_both_say_the_same(cluster):
    streams = [Stream(f"{cluster.pod(name).ip}:50051").end() for name in ("sluice-0", "sluice-1")]
    assert not any(s.error for s in streams) and len(streams[0].ids) == 24 and streams[0].ids == streams[1].ids
    for name in ("sluice-0", "sluice-1"):
        log = cluster.pod(name).container("coordinator").log()
        assert "ready: 2 stages" in log, log


def test_every_role_is_where_its_index_says(cluster):
    roles = {"sluice-0": "stage 0", "sluice-0-1": "stage 1", "sluice-0-2": "decode"}
    for name, role in roles.items():
        container = cluster.pod(name).containers[-1]
        assert f'"role":"{role}' in container.log(), container.log()


def test_a_service_reaches_those_that_are_ready(cluster):
    ip = cluster.service_ips["sluice", "sluice-grpc"]
    cluster.rules.write()

    def asked():
        return [cluster.pod(name).container("coordinator").log().count('request \\"') for name in ("sluice-0", "sluice-1")]
    before = asked()

    def reached():
        """The kernel draws one of them for each connection."""
        assert Stream(f"{ip}:50051").end().error is None
        return all(now > then for now, then in zip(asked(), before))
    cluster.wait(reached, "a request at each of the two pods")
    resolved = cluster.names.resolve("sluice-leaders.sluice.svc.cluster.local")
    assert sorted(resolved) == sorted(cluster.pod(name).ip for name in ("sluice-0", "sluice-1"))


def test_processes_have_nothing_that_they_do_not_need(cluster):
    for container in all_containers(cluster):
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid_of(container)}/status").read_text().splitlines()
                      if ":\t" in line)
        assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["65532"] * 4
        assert int(status["CapEff"], 16) == 0 == int(status["CapBnd"], 16)
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        root = pathlib.Path(f"/proc/{pid_of(container)}/root")
        assert not (root / "var/run/secrets/kubernetes.io").exists() and not list(root.glob("bin/*sh"))
        mounts = dict(line.split()[1:4:2] for line in pathlib.Path(f"/proc/{pid_of(container)}/mounts").read_text().splitlines())
        assert all(mounts[path].split(",")[0] == "ro" for path in ("/", "/models", "/etc/sluice", "/etc/sluice-join"))


def test_memory_limits_are_set(cluster):
    for container in all_containers(cluster):
        wanted = int(quantity(container.spec["resources"]["limits"]["memory"]))
        line = next(x for x in pathlib.Path(f"/proc/{pid_of(container)}/cgroup").read_text().splitlines() if ":memory:" in x or x[:2] == "0:")
        path = line.split(":")[2]
        files = [pathlib.Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"), pathlib.Path(f"/sys/fs/cgroup{path}/memory.max")]
        assert int(next(f for f in files if f.exists()).read_text()) == wanted


def test_probes_are_answered_under_load(cluster):
    target = f"{cluster.pod('sluice-0').ip}:50051"
    load = Load(4, lambda i: (lambda s: s.error)(Stream(target, n_ids=1500, max_tokens=2, seed=i).end()))
    cluster.wait(lambda: load.good() >= 12, "long prompts")
    assert not load.stop().bad()
    assert not cluster.killed_by_probe and all(c.ready and not c.exits for c in all_containers(cluster))


def test_metrics_are_where_a_monitor_looks(cluster):
    for pod in cluster.pods:
        for container in pod.containers:
            port = next(p["containerPort"] for p in container.spec["ports"] if p["name"].startswith("ops"))
            assert container.probe({"httpGet": {"path": "/metrics", "port": port}, "timeoutSeconds": 5})


def test_an_inference_pool_finds_the_leaders_and_speaks_http2_to_them(cluster):
    """The overlay gie, against these pods: its selector, its port, and gRPC without TLS from the first byte (h2c)."""
    pool = named(render("gie"), "InferencePool", "sluice")["spec"]
    chosen = selected(pool["selector"], cluster.pods, "sluice")
    assert {pod.name for pod in chosen} == {"sluice-0", "sluice-1"} and pool["appProtocol"] == "kubernetes.io/h2c"
    for pod in chosen:
        assert Stream(f"{pod.ip}:{pool['targetPorts'][0]['number']}").end().error is None


def test_what_is_not_done_here_is_refused(cluster):
    """The stand-in passes nothing over in silence."""
    lws = json.loads(json.dumps(named(cluster.of_kind("LeaderWorkerSet"), "LeaderWorkerSet", "sluice")))
    lws["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["hostNetwork"] = True
    with pytest.raises(kubelite.Refused, match="hostNetwork is not done here"):
        cluster.apply([lws])
    with pytest.raises(kubelite.Refused, match="kind Job is not done here"):
        cluster.apply([{"kind": "Job", "metadata": {"name": "x"}}])
