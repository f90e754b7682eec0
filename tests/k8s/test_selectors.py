"""What schemas can't say: that whoever is selected exists, that times add up, and what other projects' users met in their clusters, each
as a rule over all overlays."""
import functools
import re
import subprocess

import pytest
import yaml
from conftest import SLUICE
from manifests import (LWS, OVERLAYS, WITH_GPUS, WORKLOADS, containers, expand, named, namespace_of, of_kind, pods_of, port_number, quantity, render,
                       selected, services_of, templates)

EVERY = ["base", *OVERLAYS, *WITH_GPUS]
pytestmark = pytest.mark.parametrize("overlay", EVERY)
ROLES = {"coordinator", "worker", "stage", "decode", "pack"}


def own_templates(documents):
    """Of sluice's pods: the gateway is another's program."""
    return [(workload, name, template) for workload in of_kind(documents, *WORKLOADS) for name, template in templates(workload)
            if template["metadata"]["labels"]["app.kubernetes.io/name"] == "sluice"]


def settings(documents, container):
    """The options of a container, from its --config file, the environment and the command line, as the program would have them."""
    env = {e["name"]: e.get("value") for e in container.get("env", [])}
    found = {}
    for config_map in of_kind(documents, "ConfigMap"):
        data = config_map["data"]
        file = env.get("SLUICE_CONFIG", "").rpartition("/")[2]
        if file in data:
            found.update(yaml.safe_load(data[file]))
    for source in container.get("envFrom", []):
        data = named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
        found.update({key[7:].lower().replace("_", "-"): value for key, value in data.items() if key.startswith("SLUICE_")})
    words = container["args"]
    found.update({word[2:]: words[i + 1] for i, word in enumerate(words) if word.startswith("--") and i + 1 < len(words)})
    return found


def test_every_selector_means_somebody(overlay):
    documents = render(overlay)
    pods = expand(documents)
    asked = [(d, d["spec"]["selector"]) for d in of_kind(documents, "PodDisruptionBudget", "PodMonitor", "InferencePool", *WORKLOADS)
             if "selector" in d["spec"]]
    asked += [(d, {"matchLabels": d["spec"]["selector"]}) for d in services_of(documents)]
    for policy in of_kind(documents, "NetworkPolicy"):
        asked.append((policy, policy["spec"]["podSelector"]))
    assert asked
    for document, selector in asked:
        assert selected(selector, pods, namespace_of(document)), f"{document['kind']} {document['metadata']['name']} selects nobody"


def test_ports_are_those_of_the_pods(overlay):
    documents = render(overlay)
    pods = expand(documents)
    for service in services_of(documents):
        for port in service["spec"].get("ports", []):
            for pod in selected({"matchLabels": service["spec"]["selector"]}, pods, namespace_of(service)):
                if service["spec"].get("publishNotReadyAddresses") and "leader" not in pod.labels["app.kubernetes.io/component"]:
                    continue  # of names alone
                assert port_number(pod.spec["containers"], port.get("targetPort", port["port"])), (service["metadata"]["name"], pod.name)
    for pod in pods:
        every = [p for c in pod.spec["containers"] for p in c.get("ports", [])]
        for key in ("name", "containerPort"):
            assert len({p[key] for p in every}) == len(every), f"{pod.name} has a port twice"
        for container in pod.spec["containers"]:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert port_number([container], container[kind]["httpGet"]["port"])
    for monitor in of_kind(documents, "PodMonitor"):
        names = {p["name"] for pod in selected(monitor["spec"]["selector"], pods, namespace_of(monitor)) for c in pod.spec["containers"]
                 for p in c["ports"]}
        scraped = {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]}
        assert {name for name in names if name.startswith("ops")} <= scraped == {"ops", "ops-stage", "ops-decode"}
    for pool in of_kind(documents, "InferencePool"):
        chosen = selected(pool["spec"]["selector"], pods, namespace_of(pool))
        assert all(port_number(pod.spec["containers"], p["number"]) for pod in chosen for p in pool["spec"]["targetPorts"])
        assert pool["spec"]["appProtocol"] == "kubernetes.io/h2c"
        assert {pod.labels[LWS + "worker-index"] for pod in chosen} == {"0"}  # workers take no requests


def test_clients_reach_leaders_only(overlay):
    documents = render(overlay)
    for name in ("sluice-grpc", "sluice-leaders"):
        service = named(documents, "Service", name)
        chosen = selected({"matchLabels": service["spec"]["selector"]}, expand(documents), namespace_of(service))
        assert chosen and all(any(c["args"][0] == "coordinator" for c in pod.spec["containers"]) for pod in chosen)
        assert not service["spec"].get("publishNotReadyAddresses")


def roles_of(documents, pods):
    """The index of each stage, and "decode" of each decode worker, behind those."""
    found = []
    for pod in pods:
        for c in pod.spec["containers"]:
            if c["args"][0] == "worker":
                s = settings(documents, c)
                index = s.get("index", "$(LWS_WORKER_INDEX)")
                if index == "$(LWS_WORKER_INDEX)":  # a pod of a StatefulSet: behind its name's last dash
                    index = pod.environment.get("LWS_WORKER_INDEX", pod.name.rpartition("-")[2])
                found.append(int(index) if int(index) < s["stages"] else "decode")
    return sorted(found, key=lambda role: (role == "decode", role if role != "decode" else 0))


def test_a_group_has_the_stages_and_decode_workers_that_its_coordinator_waits_for(overlay):
    documents = render(overlay)
    for workload in of_kind(documents, "LeaderWorkerSet"):
        group = [pod for pod in pods_of(workload) if pod.group == 0]
        coordinator = next(c for c in group[0].spec["containers"] if c["name"] == "coordinator")
        wanted = settings(documents, coordinator)
        assert roles_of(documents, group) == [*range(wanted["stages"]), *["decode"] * wanted["decoders"]]
        assert [pod.environment["LWS_WORKER_INDEX"] for pod in group] == [str(i) for i in range(len(group))]
    for workload in of_kind(documents, "StatefulSet"):
        if workload["metadata"]["name"] == "sluice-worker":
            leader = pods_of(named(documents, "StatefulSet", "sluice-leader"))[0]
            wanted = settings(documents, leader.spec["containers"][0])
            group = [leader, *pods_of(workload)]
            assert roles_of(documents, group) == [*range(wanted["stages"]), *["decode"] * wanted["decoders"]]


def test_nodes_agree_on_what_they_must(overlay):
    documents = render(overlay)
    every = [settings(documents, c) for _, _, t in own_templates(documents) for c in t["spec"]["containers"]]
    assert every and len({s["lost-after"] for s in every}) == 1 and len({s["join-key-file"] for s in every}) == 1
    assert len({s["stages"] for s in every if "stages" in s}) == 1
    for s in every:  # as long as an image may take to be pulled: else a group is made anew for ever
        assert s["join-timeout"] >= 1800


def test_the_grace_period_is_that_of_the_drain(overlay):
    documents = render(overlay)
    templates_ = own_templates(documents)
    drain = next(settings(documents, c) for _, _, t in templates_ for c in t["spec"]["containers"] if c["args"][0] == "coordinator")
    assert drain["drain-delay"] > 0
    for _, _, template in templates_:
        assert template["spec"]["terminationGracePeriodSeconds"] == drain["drain-delay"] + drain["drain-timeout"] + 30
    for gateway in of_kind(documents, "Deployment"):
        if gateway["metadata"]["name"] == "sluice-gateway":
            args = gateway["spec"]["template"]["spec"]["containers"][0]["args"]
            interval = int(args[args.index("--health-check-interval-secs") + 1])
            assert 2 * interval <= drain["drain-delay"]  # it looks twice before anything is refused


def test_slow_loaders_are_not_killed_and_slow_answers_are_no_failures(overlay):
    for pod in expand(render(overlay)):
        for c in pod.spec["containers"]:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert c[kind]["timeoutSeconds"] == 5 and "initialDelaySeconds" not in c[kind]
            if c["name"] == "smg":
                continue
            assert c["startupProbe"]["httpGet"]["path"] == "/startupz"
            assert c["startupProbe"]["periodSeconds"] * c["startupProbe"]["failureThreshold"] >= 3600
            assert c["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert c["livenessProbe"]["httpGet"]["path"] == "/livez"  # which asks no other node
            assert c["livenessProbe"]["periodSeconds"] * c["livenessProbe"]["failureThreshold"] >= 60


def test_pods_are_locked_down(overlay):
    documents = render(overlay)
    for workload in of_kind(documents, *WORKLOADS):
        for _, template in templates(workload):
            spec = template["spec"]
            assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"] == "sluice"
            assert spec["enableServiceLinks"] is False  # SLUICE_..._PORT of a Service is an option's name
            user = spec["securityContext"]
            assert user["runAsNonRoot"] is True and user["runAsUser"] == 65532 and user["seccompProfile"]["type"] == "RuntimeDefault"
            assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
            for c in containers(template):
                assert c["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
                assert "cpu" not in c["resources"]["limits"]  # who is throttled is silent
                assert quantity(c["resources"]["limits"]["memory"]) >= quantity(c["resources"]["requests"]["memory"])
                assert "command" not in c  # there is no shell in the image
    assert named(documents, "ServiceAccount", "sluice")["automountServiceAccountToken"] is False
    assert not of_kind(documents, "Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def test_who_computes_on_a_gpu_has_one_and_what_that_takes(overlay):
    documents = render(overlay)
    found = set()
    for _, _, template in own_templates(documents):
        spec, has_one = template["spec"], False
        writable = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
        for c in containers(template):
            device = settings(documents, c).get("device", "cpu")
            limits, requests = c["resources"]["limits"], c["resources"]["requests"]
            assert limits.get("nvidia.com/gpu", 0) == (device == "cuda") and "nvidia.com/gpu" not in requests  # as many as the limit, then
            assert device in ("cpu", "cuda")  # auto goes on without one, and nobody knows
            names = {e["name"] for e in c.get("env", [])} | {
                key for s in c.get("envFrom", []) for key in named(documents, "ConfigMap", s["configMapRef"]["name"])["data"]}
            assert "NVIDIA_VISIBLE_DEVICES" not in names  # overrules what the device plugin says
            if device == "cuda":
                has_one = True
                found.add(c["name"])
                assert "NVIDIA_DRIVER_CAPABILITIES" in names
                locks = [m for m in c["volumeMounts"] if m["mountPath"] == "/run/lock"]
                assert len(locks) == 1 and locks[0]["name"] in writable and not locks[0].get("readOnly")
                assert quantity(requests["memory"]) >= 2 * 2**30  # pinned, and what a context has on the host
        tolerated = [t for t in spec.get("tolerations", []) if t["key"] == "nvidia.com/gpu"]
        assert bool(tolerated) == has_one and all(t["operator"] == "Exists" and t["effect"] == "NoSchedule" for t in tolerated)
        mounted = [{m["mountPath"] for m in c["volumeMounts"]} - {"/run/lock"} for c in template["spec"]["containers"]]
        assert all(paths == mounted[0] for paths in mounted)  # whatever another overlay adds, a copy of the stage has it, too
    assert found == ({"stage", "worker"} if "gpu" in overlay else set())


def test_packs_are_read_only_but_to_who_makes_them(overlay):
    for _, _, template in own_templates(render(overlay)):
        claims = [v for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v]
        assert claims and all(v["persistentVolumeClaim"]["readOnly"] for v in claims)
        for c in containers(template):
            mounts = {m["mountPath"]: m for m in c["volumeMounts"]}
            assert c["name"] == "pack" or mounts["/models"]["readOnly"]


def test_arguments_need_no_shell_and_say_no_address_of_this_machine(overlay):
    documents = render(overlay)
    for _, _, template in own_templates(documents):
        for c in containers(template):
            text = " ".join(c["args"])
            known = {e["name"] for e in c.get("env", [])} | {"MODEL", "LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"}
            assert set(re.findall(r"\$\((\w+)\)", text)) <= known
            assert not re.search(r"\$[^(]|`|;|\|", text) and c["args"][0] in ROLES
            if c["name"] == "pack":
                continue
            s = settings(documents, c)
            assert s["data-address"] == "$(POD_IP)" and s["ops"].startswith("*:")  # of both families, where probes reach it
            port = int(s["ops"].rpartition(":")[2])
            assert port == port_number([c], c["readinessProbe"]["httpGet"]["port"])
            assert (c["args"][0] == "coordinator") == ("listen" in s)


@functools.lru_cache
def options_of(command):
    text = subprocess.run([SLUICE, command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  --([a-z-]+)", text, re.M))


def test_every_option_is_one_of_its_command(overlay):
    """A ConfigMap with an unknown key would end the process (exit code 78), an unknown variable is a warning."""
    documents = render(overlay)
    for _, _, template in own_templates(documents):
        for c in containers(template):
            options = options_of(c["args"][0])
            file = {e["name"]: e.get("value") for e in c.get("env", [])}.get("SLUICE_CONFIG", "").rpartition("/")[2]
            for config_map in of_kind(documents, "ConfigMap"):
                if file and file in config_map["data"]:
                    assert set(yaml.safe_load(config_map["data"][file])) <= options
            assert {word[2:] for word in c["args"] if word.startswith("--")} <= options


def test_a_budget_lets_one_pod_go_and_no_second(overlay):
    """Every pod of a group counts in one budget: with the first the whole group is down."""
    documents = render(overlay)
    budget = named(documents, "PodDisruptionBudget", "sluice")
    chosen = selected(budget["spec"]["selector"], expand(documents), "sluice")
    groups = [p for p in expand(documents) if p.labels.get("app.kubernetes.io/component") in ("leader", "worker")]
    assert budget["spec"]["maxUnavailable"] == 1 and {p.name for p in chosen} == {p.name for p in groups}
