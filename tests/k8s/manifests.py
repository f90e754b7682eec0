"""Kubernetes manifests without a cluster: an overlay as kubectl renders it, the pods that its controllers would make, and who is
meant by a selector. Pure: nothing here runs anything but `kubectl kustomize`."""
import copy
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir() if path.is_dir())
GPU_COMPONENTS = ["decode-beside", "gpu"]  # what the overlay gpu adds to the base, and whoever wants it to another overlay
WITH_GPUS = [f"{name}+gpu" for name in OVERLAYS if "gpu" not in name]
LWS = "leaderworkerset.sigs.k8s.io/"
WORKLOADS = ("LeaderWorkerSet", "StatefulSet", "Deployment")


class Refused(Exception):
    """What a cluster, or the stand-in for one, does not take."""


def kubectl():
    """The one of the tests' own environment: its version, and so its kustomize, is pinned."""
    return os.path.join(os.path.dirname(sys.executable), "kubectl")


@functools.lru_cache
def rendered(path):
    done = subprocess.run([kubectl(), "kustomize", path], capture_output=True, text=True, timeout=120)
    if done.returncode != 0 or done.stderr:
        raise Refused(f"kubectl kustomize {path}: {done.stderr}")
    return done.stdout


def overlay_of_users(folder, on="base", components=(), **more):
    """What a user writes beside ours, in a directory of its own (a kustomization may only read below itself; ours are reached by path)."""
    folder.mkdir()

    def path(*names):
        return "../" * (len(folder.resolve().parts) - 1) + str(K8S.joinpath(*names).resolve())[1:]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "components": [path("components", c) for c in components],
        "resources": [path("base") if on == "base" else path("overlays", on)], **more}))
    return folder


@functools.lru_cache
def with_gpus(overlay):
    with tempfile.TemporaryDirectory() as folder:
        return rendered(str(overlay_of_users(pathlib.Path(folder) / "user", overlay, GPU_COMPONENTS)))


def render(folder):
    """The documents of `kubectl kustomize`; folder: "base", the name of an overlay, one of WITH_GPUS, or a path."""
    if folder in WITH_GPUS:
        text = with_gpus(folder.removesuffix("+gpu"))
    else:
        text = rendered(str(folder if isinstance(folder, pathlib.Path) else K8S / "base" if folder == "base" else K8S / "overlays" / folder))
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def named(documents, kind, name):
    found = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} {kind} are called {name}"
    return found[0]


def namespace_of(document):
    return document["metadata"].get("namespace", "default")


def templates(workload):
    """(what it is called in the workload, pod template)"""
    spec = workload["spec"]
    if workload["kind"] != "LeaderWorkerSet":
        return [("template", spec["template"])]
    inner = spec["leaderWorkerTemplate"]
    names = [name for name in ("leaderTemplate", "workerTemplate") if name in inner]
    return [(name, inner[name]) for name in names]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


class PodSpec:
    """A pod as its controller makes it, before it has a place and an address."""

    def __init__(self, owner, name, template, labels, subdomain=None, environment=None, group=None):
        metadata = template.get("metadata", {})
        self.owner, self.name, self.namespace, self.group = owner, name, namespace_of(owner), group
        self.labels = {**metadata.get("labels", {}), **labels}
        self.annotations = metadata.get("annotations", {})
        self.spec = copy.deepcopy(template["spec"])
        self.subdomain = subdomain
        self.environment = environment or {}  # put before a container's own, so that $(NAME) finds it

    def identity(self):
        return f"{self.namespace}/{self.name}"


def fingerprint(template):
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def group_of(lws, index):
    """The pods of one group of a LeaderWorkerSet: names, labels and variables as its controller gives them."""
    name, inner = lws["metadata"]["name"], lws["spec"]["leaderWorkerTemplate"]
    size, pods = inner.get("size", 1), []
    for i in range(size):
        template = inner["workerTemplate"] if i else inner.get("leaderTemplate", inner["workerTemplate"])
        labels = {LWS + "name": name, LWS + "group-index": str(index), LWS + "worker-index": str(i),
                  LWS + "group-key": hashlib.sha1(f"{name}-{index}".encode()).hexdigest()}
        environment = {"LWS_LEADER_ADDRESS": f"{name}-{index}.{name}.{namespace_of(lws)}", "LWS_GROUP_SIZE": str(size),
                       "LWS_WORKER_INDEX": str(i)}
        pods.append(PodSpec(lws, f"{name}-{index}" + (f"-{i}" if i else ""), template, labels, name, environment, index))
    return pods


def pods_of(workload):
    """All pods that a workload asks for."""
    spec, name = workload["spec"], workload["metadata"]["name"]
    if workload["kind"] == "LeaderWorkerSet":
        return [pod for index in range(spec.get("replicas", 1)) for pod in group_of(workload, index)]
    start = spec.get("ordinals", {}).get("start", 0)
    numbers = range(start, start + spec.get("replicas", 1))
    if workload["kind"] == "StatefulSet":
        return [PodSpec(workload, f"{name}-{n}", spec["template"], {"apps.kubernetes.io/pod-index": str(n),
                        "statefulset.kubernetes.io/pod-name": f"{name}-{n}"}, spec.get("serviceName")) for n in numbers]
    return [PodSpec(workload, f"{name}-{fingerprint(spec['template'])}-{n}", spec["template"],
                    {"pod-template-hash": fingerprint(spec["template"])}) for n in numbers]


def expand(documents):
    return [pod for workload in of_kind(documents, *WORKLOADS) for pod in pods_of(workload)]


def services_of(documents):
    """Services, those that LeaderWorkerSet makes as well: a headless one of its name, if nobody else made one of that name."""
    services = of_kind(documents, "Service")
    for lws in of_kind(documents, "LeaderWorkerSet"):
        if not any(s["metadata"]["name"] == lws["metadata"]["name"] and namespace_of(s) == namespace_of(lws) for s in services):
            services.append({"kind": "Service", "metadata": {"name": lws["metadata"]["name"], "namespace": namespace_of(lws)},
                             "spec": {"clusterIP": "None", "publishNotReadyAddresses": True,
                                      "selector": {LWS + "name": lws["metadata"]["name"]}}})
    return services


def matches(selector, labels):
    """A label selector: {matchLabels, matchExpressions}. An empty one means everybody."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    if unknown:
        raise Refused(f"a selector has {', '.join(sorted(unknown))}")
    for term in selector.get("matchExpressions", []):
        value, values = labels.get(term["key"]), term.get("values", [])
        holds = {"In": value in values, "NotIn": value not in values, "Exists": value is not None,
                 "DoesNotExist": value is None}[term["operator"]]
        if not holds:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def selected(selector, pods, namespace):
    return [pod for pod in pods if pod.namespace == namespace and matches(selector, pod.labels)]


def port_number(container_list, port):
    """Of a port that is named by one of these containers, or is a number; None: no container has it."""
    numbers = [p["containerPort"] for c in container_list for p in c.get("ports", []) if port in (p.get("name"), p["containerPort"])]
    return numbers[0] if numbers else None


SUFFIXES = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text):
    digits = str(text).rstrip("".join(set("".join(SUFFIXES))))
    return float(digits) * SUFFIXES[str(text)[len(digits):]]
