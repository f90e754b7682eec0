"""The profile of system calls that pods run under (seccomp.py): what is outside it is refused, and it is no laxer than an engine's own."""
import json

import pytest
import seccomp
from debian import unpacked
from load import Stream
from manifests import containers, named, templates

# Calls each with arguments that do nothing, and prints the errors: 0 is none.
PROGRAM = """
import ctypes, json, sys
call, found = ctypes.CDLL(None, use_errno=True).syscall, {}
for name, words in json.loads(sys.argv[1]).items():
    ctypes.set_errno(0)
    found[name] = ctypes.get_errno() if call(*(ctypes.c_long(word) for word in words)) < 0 else 0
print(json.dumps(found), flush=True)
import time
time.sleep(3600)
"""


def of_engine(path):
    """What an engine's file lets a container without capabilities call, whatever its arguments, on this machine."""
    found = set()
    for rule in json.loads(path.read_text())["syscalls"]:
        here = "amd64" in rule.get("includes", {}).get("arches", ["amd64"]) and "caps" not in rule.get("includes", {})
        if rule["action"] == "SCMP_ACT_ALLOW" and here and not rule.get("args"):
            found |= set(rule["names"])
    return found


@pytest.mark.debian("golang-github-containers-common")
@pytest.mark.slow
def test_nothing_is_allowed_that_an_engine_refuses():
    """That of Podman and CRI-O, as Debian has it."""
    theirs = of_engine(unpacked("golang-github-containers-common") / "usr/share/containers/seccomp.json")
    assert len(theirs) > 300
    assert not seccomp.allowed() - theirs
    spared = {name for name in theirs & set(seccomp.numbers()) - seccomp.allowed()}
    assert spared <= seccomp.REFUSED | seccomp.BY_ARGUMENT, spared


def test_what_a_gpu_takes_is_allowed():
    """NVIDIA's driver in a process opens /dev/nvidia*, which the runtime has put there, and speaks to them by ioctl and mapped memory."""
    assert {"openat", "ioctl", "mmap", "munmap", "mprotect", "madvise", "mlock", "poll", "eventfd2", "memfd_create", "sched_setaffinity",
            "flock"} <= seccomp.allowed()


def probing(calls, profile):
    """A Deployment of one pod that calls them, beside the workers of the base."""
    security = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, **({"seccompProfile": {"type": "RuntimeDefault"}} if profile else {})}
    name = "with" if profile else "without"
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "sluice"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"probe": name}}, "template": {"metadata": {"labels": {"probe": name}}, "spec": {
            "securityContext": security, "containers": [{
                "name": "probe", "image": "localhost/smg:1.13.0", "command": ["/usr/bin/python3", "-c", PROGRAM, json.dumps(calls)],
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}}]}}}}


@pytest.mark.pods
@pytest.mark.slow
def test_what_is_outside_the_profile_is_refused_and_pods_serve_under_it(start_cluster):
    number = seccomp.numbers()
    calls = {"io_uring_setup": [number["io_uring_setup"], 1, 0], "keyctl": [number["keyctl"], 0, -3, 0], "userfaultfd": [number["userfaultfd"], 1],
             "unknown": [100000], "clone3": [number["clone3"], 0, 0], "AF_VSOCK": [number["socket"], seccomp.AF_VSOCK, 1, 0],
             "unshare": [number["unshare"], 0], "getpid": [number["getpid"]], "AF_UNIX": [number["socket"], 1, 1, 0]}

    def one_group(documents):
        lws = named(documents, "LeaderWorkerSet", "sluice")
        lws["spec"]["replicas"] = 1
        assert all(template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"} and containers(template)
                   for _, template in templates(lws))
    cluster = start_cluster("base", probing(calls, True), probing(calls, False), change=one_group)

    def answer(name):
        pod = next(pod for pod in cluster.pods if pod.labels.get("probe") == name)
        return json.loads(cluster.wait(pod.containers[0].log, "its answer"))
    under, without = answer("with"), answer("without")
    refused = ("io_uring_setup", "keyctl", "userfaultfd", "unknown", "AF_VSOCK", "unshare")
    assert {name: under[name] for name in refused} == dict.fromkeys(refused, seccomp.EPERM)
    assert under["clone3"] == seccomp.ENOSYS and under["getpid"] == 0 == under["AF_UNIX"]
    assert without["unknown"] == seccomp.ENOSYS and without["unshare"] == 0 and without["clone3"] != seccomp.ENOSYS  # it is the profile that refuses
    stream = Stream(f"{cluster.pod('sluice-0').ip}:50051", n_ids=300).end()
    assert stream.error is None and len(stream.ids) == 24
