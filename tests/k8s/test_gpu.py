"""The overlays gpu and gpu-decode, and gpu beside others, running: on a node that counts GPUs and has none. What they would compute is
computed by twins, with the ids of CPUs; without them, and with a driver that is not what it must be, one sentence says so."""
import json
import pathlib
import re
import stat
import subprocess
import urllib.request

import kubelite
import pytest
from conftest import BUILD, sluice
from kubelite import Image
from load import Stream, request
from manifests import ROOT, containers, of_kind, templates

pytestmark = [pytest.mark.pods, pytest.mark.slow]
DRIVER = BUILD / "twin"  # a libcuda.so.1 that says of itself what its environment says
N_IDS, N_TOKENS = 6, 2  # a twin takes its time


@pytest.fixture(scope="module")
def claim(tmp_path_factory):
    """The demo in integers, which are quick on a twin."""
    folder = tmp_path_factory.mktemp("models")
    done = sluice("pack", ROOT / "demo", folder / "pack", "--experts", "i4", "--dense", "i8")
    assert done.returncode == 0, done.stderr
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return {"sluice-models": folder}


@pytest.fixture(scope="module")
def ids_of_cpus(claim):
    ids = list(request(n_ids=N_IDS).tokenized.input_ids)
    done = sluice("generate", "--model", claim["sluice-models"] / "pack", "--token-ids", "-", "--max-tokens", N_TOKENS, "--temperature", 0,
                  "--ignore-eos", "--output", "json", input=json.dumps(ids))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["output_ids"]


def own(documents):
    """The containers that say where they compute."""
    return [c for w in of_kind(documents, "LeaderWorkerSet", "StatefulSet") for _, t in templates(w) for c in containers(t)
            if "--device" in c["args"]]


def one_group(documents):
    for lws in of_kind(documents, "LeaderWorkerSet"):
        lws["spec"]["replicas"] = 1


def on_twins(documents):
    one_group(documents)
    assert own(documents)
    for c in own(documents):
        at = c["args"].index("--device") + 1
        assert c["args"][at] == "cuda"
        c["args"][at] = "twin"


def pid_of(container):
    state = subprocess.run(kubelite.crun("state", container.id()), capture_output=True, text=True, check=True)
    return json.loads(state.stdout)["pid"]


def device_of(container):
    """The labels of sluice_stage_device_info."""
    port = next(p["containerPort"] for p in container.spec["ports"] if p["name"].startswith("ops"))
    with urllib.request.urlopen(f"http://{container.pod.ip}:{port}/metrics", timeout=60) as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("sluice_stage_device_info{")]
    assert len(lines) == 1 and lines[0].endswith("} 1"), lines
    return dict(re.findall(r'(\w+)="([^"]*)"', lines[0]))


@pytest.mark.parametrize("overlay, gpus, on_cpus, leader", [("gpu", 2, 1, "sluice-0"), ("gpu-decode", 3, 0, "sluice-0"),
                                                            ("statefulset+gpu", 2, 1, "sluice-leader-0"), ("decode+gpu", 2, 2, "sluice-0")])
def test_what_runs_on_twins_of_gpus_answers_with_the_ids_of_cpus(start_cluster, claim, ids_of_cpus, overlay, gpus, on_cpus, leader):
    cluster = start_cluster(overlay, change=on_twins, claims=claim, gpus=gpus)
    every = [c for pod in cluster.pods for c in pod.containers]
    logs = {c.name + c.pod.name: c.log() for c in every}
    assert sum("twin sm_90 kernels" in log for log in logs.values()) == gpus and len(every) == 1 + gpus + on_cpus, logs
    stream = Stream(f"{cluster.pod(leader).ip}:50051", n_ids=N_IDS, max_tokens=N_TOKENS).end()
    assert stream.error is None and stream.ids == ids_of_cpus
    for container in every:
        on_gpu = "--device" in container.spec["args"]
        if container.name != "coordinator":
            shown = device_of(container)
            assert (shown["device"], shown["bus"]) == (("twin", "0000:01:00.0") if on_gpu else ("cpu", ""))
            assert bool(shown["uuid"]) == bool(shown["gpu"]) == on_gpu
        if not on_gpu:
            continue
        locks = pathlib.Path(f"/proc/{pid_of(container)}/root/run/lock").stat()
        assert stat.S_ISDIR(locks.st_mode) and locks.st_mode & stat.S_IWOTH  # a pod's own; all else of its root is read-only
    assert not cluster.killed_by_probe and not [c.exits for c in every if c.exits]


def test_gpus_read_a_pack_that_was_made_on_their_node(start_cluster, disk, ids_of_cpus):
    def in_integers(documents):
        on_twins(documents)
        for config in of_kind(documents, "ConfigMap"):
            if "MODEL" in config["data"]:
                config["data"].update(SLUICE_EXPERTS="i4", SLUICE_DENSE="i8")  # of the init container
    cluster = start_cluster("local-nvme+gpu", change=in_integers, gpus=2, **disk)
    assert {device_of(c)["device"] for pod in cluster.pods for c in pod.containers if "--device" in c.spec["args"]} == {"twin"}
    stream = Stream(f"{cluster.pod('sluice-0').ip}:50051", n_ids=N_IDS, max_tokens=N_TOKENS).end()
    assert stream.error is None and stream.ids == ids_of_cpus


def test_a_node_with_too_few_gpus_is_given_no_pod(start_cluster, claim):
    cluster = start_cluster("gpu", change=one_group, claims=claim, gpus=1, wait=False)
    cluster.wait(lambda: [pod for pod in list(cluster.pods) if pod.trouble], "a pod that has no place")
    with pytest.raises(kubelite.Refused, match="Insufficient nvidia.com/gpu"):
        cluster.wait_whole()


def with_driver(version):
    def change(documents):
        one_group(documents)
        for config in of_kind(documents, "ConfigMap"):
            if "MODEL" in config["data"]:
                config["data"].update(TWIN_VERSION=version, TWIN_MIB="1")
    return change


@pytest.mark.parametrize("version, sentence", [
    (None, "a GPU needs NVIDIA's driver, which can't be opened (libcuda.so.1: cannot open shared object file"),
    ("12040", "the GPU driver serves CUDA 12.4, and our kernels need 13.0: install driver 580 or newer"),
    ("13000", " GiB and this stage needs "),
], ids=["no driver", "old driver", "small GPU"])
def test_why_a_stage_has_no_gpu_is_one_sentence_in_the_pods_log(start_cluster, claim, images, version, sentence):
    """A driver lies where the overlay looks for it, as GKE has it."""
    name = "localhost/sluice:latest"
    if version and not (DRIVER / "libcuda.so.1").exists():
        pytest.skip(f"there is no {DRIVER}/libcuda.so.1; build the target twin_libcuda")
    mounts = {"/usr/local/nvidia/lib64": DRIVER} if version else {}
    shown = {**images, name: Image(images[name].root, images[name].entrypoint, images[name].environment, mounts)}
    cluster = start_cluster("gpu", change=with_driver(version) if version else one_group, claims=claim, gpus=2, wait=False, haste=20,
                            images=shown)
    end = cluster.wait(lambda: next((e for e in list(cluster.ends) if e[2] == 69 and sentence in e[3]), None),
                       f"69: {sentence}, among {cluster.ends[:6]}")
    assert end[1] in ("stage", "worker") and end[3].startswith("sluice stage: ")
    assert not any(pod.ready for pod in list(cluster.pods))
