"""Overlays as kubectl renders them, and what Kustomize would ruin in silence without deploy/k8s/components/lws."""
import json

import pytest
import yaml
from manifests import K8S, OVERLAYS, ROOT, WITH_GPUS, Refused, containers, named, of_kind, overlay_of_users, render, templates


@pytest.mark.parametrize("overlay", ["base", *OVERLAYS, *WITH_GPUS])
def test_it_renders_into_the_namespace(overlay):
    documents = render(overlay)
    assert documents and all(d["metadata"]["namespace"] == "sluice" for d in documents)
    keys = [(d["apiVersion"], d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(set(keys)) == len(keys)


def test_the_issue_names_these_overlays():
    assert OVERLAYS == ["decode", "gie", "gpu", "gpu-decode", "keda", "local-nvme", "monitoring", "mtls", "netpol", "rdma", "smg", "statefulset"]


PATCH = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "sluice"},
         "spec": {"leaderWorkerTemplate": {"leaderTemplate": {"spec": {"containers": [
             {"name": "stage", "resources": {"limits": {"memory": "99Gi"}}}]}}}}}


def test_a_patch_of_one_container_keeps_the_others_with_the_schema_of_components(tmp_path):
    schema = json.loads((K8S / "components" / "lws" / "openapi.json").read_text())
    patches = [{"patch": yaml.safe_dump(PATCH)}]
    broken = render(overlay_of_users(tmp_path / "without", patches=patches))
    folder = overlay_of_users(tmp_path / "with", patches=patches, openapi={"path": "openapi.json"})
    (folder / "openapi.json").write_text(json.dumps(schema))
    whole = render(folder)

    def names(documents):
        return [c["name"] for c in containers(dict(templates(named(documents, "LeaderWorkerSet", "sluice")))["leaderTemplate"])]
    assert names(broken) == ["stage"]  # which is why the schema is there
    assert sorted(names(whole)) == ["coordinator", "stage"]
    leader = dict(templates(named(whole, "LeaderWorkerSet", "sluice")))["leaderTemplate"]
    stage = next(c for c in containers(leader) if c["name"] == "stage")
    assert stage["resources"]["limits"]["memory"] == "99Gi" and stage["args"] and stage["volumeMounts"]


def names_in(template):
    """What a pod template names: {kind: names}"""
    spec, found = template["spec"], {}
    for container in containers(template):
        for source in container.get("envFrom", []):
            found.setdefault("ConfigMap", set()).add(source["configMapRef"]["name"])
    for volume in spec["volumes"]:
        if "configMap" in volume:
            found.setdefault("ConfigMap", set()).add(volume["configMap"]["name"])
        if "secret" in volume:
            found.setdefault("Secret", set()).add(volume["secret"]["secretName"])
    found["ServiceAccount"] = {spec["serviceAccountName"]}
    return found


@pytest.mark.parametrize("overlay", ["base", *OVERLAYS, *WITH_GPUS])
def test_config_maps_are_found_under_the_names_that_they_were_given(overlay):
    documents = render(overlay)
    made = {kind: {d["metadata"]["name"] for d in of_kind(documents, kind)} for kind in ("ConfigMap", "ServiceAccount")}
    for workload in of_kind(documents, "LeaderWorkerSet", "StatefulSet", "Deployment"):
        for _, template in templates(workload):
            if "sluice-gateway" in workload["metadata"]["name"]:
                continue
            wanted = names_in(template)
            assert wanted["ConfigMap"] <= made["ConfigMap"] and all(name[-11] == "-" for name in wanted["ConfigMap"]), wanted
            assert wanted["ServiceAccount"] <= made["ServiceAccount"]
            assert "sluice-join" in wanted["Secret"]


def test_which_gpus_and_which_runtime_is_said_as_the_page_says(tmp_path):
    page = (ROOT / "deploy/README.md").read_text()
    snippet = yaml.safe_load(page[page.index("    # kubectl get nodes -L nvidia.com/gpu.product"):].split("\n\n")[0])
    assert snippet.pop("resources") == ["../sluice/deploy/k8s/overlays/gpu"]
    documents = render(overlay_of_users(tmp_path / "own", "gpu", **snippet))
    for _, template in templates(named(documents, "LeaderWorkerSet", "sluice")):
        assert template["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H200"} and template["spec"]["runtimeClassName"] == "nvidia"
        assert any("nvidia.com/gpu" in c["resources"]["limits"] for c in containers(template))


def test_a_changed_option_changes_the_pods(tmp_path):
    """Else a rollout would not begin: the hash of a ConfigMap's content is in its name."""
    more = {"configMapGenerator": [{"name": "sluice-env", "behavior": "merge", "literals": ["SLUICE_LOG=debug"]}]}
    before, after = (names_in(templates(named(render(where), "LeaderWorkerSet", "sluice"))[1][1]) for where in (
        "base", overlay_of_users(tmp_path / "debug", **more)))
    assert before["ConfigMap"] != after["ConfigMap"] and len(before["ConfigMap"] & after["ConfigMap"]) == 1


def test_no_service_hides_the_names_of_pods():
    """LeaderWorkerSet makes a headless Service of its own name only when there is none."""
    for overlay in OVERLAYS:
        documents = render(overlay)
        sets = {d["metadata"]["name"] for d in of_kind(documents, "LeaderWorkerSet")}
        assert not sets & {d["metadata"]["name"] for d in of_kind(documents, "Service")}


def test_alerts_and_dashboards_are_those_of_the_folder():
    """The operator takes no plain file of rules, so there is a second one that must say the same."""
    documents, folder = render("monitoring"), ROOT / "deploy" / "monitoring"
    rule = named(documents, "PrometheusRule", "sluice")
    assert rule["spec"] == yaml.safe_load((folder / "rules.yaml").read_text()), "make prometheusrule.yaml anew; its head says how"
    shown = {}
    for config in of_kind(documents, "ConfigMap"):
        if config["metadata"].get("labels", {}).get("grafana_dashboard") == "1":
            assert len(json.dumps(config)) < 200_000
            shown.update(config["data"])
    assert shown == {path.name: path.read_text() for path in (folder / "dashboards").glob("*.json")} and shown


def test_what_kustomize_does_not_find_is_said(tmp_path):
    with pytest.raises(Refused, match="kustomize"):
        render(overlay_of_users(tmp_path / "broken", resources=["nowhere.yaml"]))
