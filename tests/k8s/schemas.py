"""Strict schemas of the custom resources that we use: the fields that our manifests have, no others, so that a typo, which a server
prunes in silence, is an error here. Pod templates are checked as Pods by test_schema.py.

SLUICE_CRD_SCHEMAS: a directory with CustomResourceDefinitions (*.json); then those are what is checked against, made strict, too."""
import json
import os
import pathlib


def record(required="", **properties):
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required.split()}


def one_of(*values):
    return {"enum": list(values)}


def numbers(least, most=None):
    return {"type": "integer", "minimum": least, **({"maximum": most} if most else {})}


def items(of, least=1):
    return {"type": "array", "items": of, "minItems": least}


NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXT = {"type": "string", "minLength": 1}
LABEL = {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}
PORT = numbers(1, 65535)
LABELS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "maxLength": 63}}
POD_TEMPLATE = record("metadata spec", metadata=record("labels", labels=LABELS), spec={"type": "object"})
INT_OR_PERCENT = {"anyOf": [numbers(0), {"type": "string", "pattern": "^[0-9]+%$"}]}

SPECS = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): record(
        "replicas leaderWorkerTemplate rolloutStrategy", replicas=numbers(0),
        startupPolicy=one_of("LeaderCreated", "LeaderReady"),
        rolloutStrategy=record("type", type=one_of("RollingUpdate"), rollingUpdateConfiguration=record(
            "maxUnavailable maxSurge", maxUnavailable=INT_OR_PERCENT, maxSurge=INT_OR_PERCENT, partition=numbers(0))),
        leaderWorkerTemplate=record(
            "size workerTemplate", size=numbers(1), leaderTemplate=POD_TEMPLATE, workerTemplate=POD_TEMPLATE,
            restartPolicy=one_of("Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"))),
    ("inference.networking.k8s.io/v1", "InferencePool"): record(
        "selector targetPorts endpointPickerRef", selector=record("matchLabels", matchLabels=LABELS),
        targetPorts=items(record("number", number=PORT)), appProtocol=one_of("http", "kubernetes.io/h2c"),
        endpointPickerRef=record("name port", group=TEXT, kind=TEXT, name=NAME, port=record("number", number=PORT),
                                 failureMode=one_of("FailOpen", "FailClose"))),
    ("keda.sh/v1alpha1", "ScaledObject"): record(
        "scaleTargetRef triggers", scaleTargetRef=record("apiVersion kind name", apiVersion=TEXT, kind=TEXT, name=NAME),
        minReplicaCount=numbers(0), maxReplicaCount=numbers(1), pollingInterval=numbers(1), cooldownPeriod=numbers(0),
        triggers=items(record("type metadata", type=one_of("prometheus"), name=TEXT, metadata=record(
            "serverAddress query threshold", serverAddress=TEXT, query=TEXT, threshold={"type": "string", "pattern": "^[0-9.]+$"})))),
    ("monitoring.coreos.com/v1", "PodMonitor"): record(
        "selector podMetricsEndpoints", selector=record("matchLabels", matchLabels=LABELS),
        podMetricsEndpoints=items(record("port path", port=NAME, path=TEXT, interval={"type": "string", "pattern": "^[0-9]+s$"}, relabelings=items(
            record("sourceLabels targetLabel", sourceLabels=items(LABEL), separator=TEXT, targetLabel=LABEL))))),
    ("monitoring.coreos.com/v1", "PrometheusRule"): record("groups", groups=items(record(
        "name rules", name=TEXT, interval=TEXT, rules=items(record(
            "expr", record=TEXT, alert=TEXT, expr=TEXT, labels=LABELS, annotations={"type": "object"}, **{"for": TEXT}))))),
}


def own(api, kind):
    metadata = record("name namespace", name=NAME, namespace=NAME, labels=LABELS, annotations={"type": "object"})
    return record("apiVersion kind metadata spec", apiVersion=one_of(api), kind=one_of(kind), metadata=metadata, spec=SPECS[api, kind])


def strict(schema):
    """A server drops what a structural schema does not name; here that is an error."""
    if isinstance(schema, dict):
        made = {key: strict(value) for key, value in schema.items()}
        if isinstance(made.get("properties"), dict) and "type" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        if made.get("x-kubernetes-int-or-string"):
            made.pop("type", None)
        return made
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


def foreign():
    """{(apiVersion, kind): schema} of the CustomResourceDefinitions that this machine has."""
    folder, found = os.environ.get("SLUICE_CRD_SCHEMAS"), {}
    for path in sorted(pathlib.Path(folder).glob("*.json")) if folder else []:
        spec = json.loads(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found
