"""Every object against its schema, strictly: core ones by the schemas
in the package kubernetes-validate, pod templates inside a LeaderWorkerSet as Pods, custom resources by
schemas.py."""
import copy
import functools
import importlib.resources
import json

import jsonschema
import pytest
import referencing
import schemas
from manifests import OVERLAYS, WITH_GPUS, render, templates

VERSION = "1.31"  # of the API: the oldest whose StatefulSets have ordinals for good
FOREIGN = schemas.foreign()


@functools.cache
def core_schema(name):
    """Of the package's files. (Its own validate() reads, and goes through, all of the definitions for each object: seconds.)"""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"
    return json.loads((folder / f"{name}.json").read_text())


@functools.cache
def core_registry():
    return (referencing.Resource.from_contents(core_schema("_definitions")) @ referencing.Registry()).crawl()


@functools.cache
def core_validator(api, kind):
    group, _, version = api.rpartition("/")
    schema = core_schema("-".join([kind.lower(), *([group.split(".")[0]] if group else []), version]))
    return jsonschema.Draft202012Validator(schema, registry=referencing.Resource.from_contents(schema) @ core_registry())


def custom(document):
    return (document["apiVersion"], document["kind"]) in schemas.SPECS


def check(document):
    if not custom(document):
        core_validator(document["apiVersion"], document["kind"]).validate(document)
        return
    jsonschema.Draft202012Validator(schemas.own(document["apiVersion"], document["kind"])).validate(document)
    if (document["apiVersion"], document["kind"]) in FOREIGN:
        jsonschema.Draft202012Validator(FOREIGN[document["apiVersion"], document["kind"]]).validate(document)
    for name, template in templates(document) if document["kind"] == "LeaderWorkerSet" else []:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name.lower(), **template["metadata"]}, "spec": template["spec"]}
        core_validator("v1", "Pod").validate(pod)


@pytest.mark.parametrize("overlay", ["base", *OVERLAYS, *WITH_GPUS])
def test_every_object_has_its_schema(overlay):
    for document in render(overlay):
        check(document)


def find(documents, kind):
    return copy.deepcopy(next(d for d in documents if d["kind"] == kind))


def change(path, value):
    def do(document):
        *way, last = path.split(".")
        for step in way:
            document = document[int(step)] if step.isdigit() else document[step]
        document[last] = value
    return do


@pytest.mark.parametrize("overlay, kind, damage", [
    ("base", "LeaderWorkerSet", change("spec.leaderWorkerTemplate.sizee", 3)),
    ("base", "LeaderWorkerSet", change("spec.replicas", "2")),
    ("base", "LeaderWorkerSet", change("spec.leaderWorkerTemplate.restartPolicy", "Always")),
    ("base", "LeaderWorkerSet", change("spec.leaderWorkerTemplate.leaderTemplate.spec.containers.0.livenessProbe.grpc", {"port": "grpc"})),
    ("base", "LeaderWorkerSet", change("spec.leaderWorkerTemplate.workerTemplate.spec.volumess", [])),
    ("base", "Service", change("spec.selectors", {})), ("base", "PodDisruptionBudget", change("spec.maxUnavailabel", 1)),
    ("gie", "InferencePool", change("spec.appProtocol", "h2c")), ("keda", "ScaledObject", change("spec.triggers.0.metadata.treshold", "1")),
    ("monitoring", "PodMonitor", change("spec.podMetricsEndpoints.0.port", 8081)),
    ("netpol", "NetworkPolicy", change("spec.ingres", [])), ("statefulset", "StatefulSet", change("spec.updateStrategy.typ", "OnDelete")),
    ("decode", "Deployment", change("spec.template.spec.containers.0.envfrom", [])),
])
def test_a_mistake_is_found(overlay, kind, damage):
    document = find(render(overlay), kind)
    check(document)
    damage(document)
    with pytest.raises(jsonschema.ValidationError):
        check(document)
