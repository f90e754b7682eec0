"""A Prometheus that scrapes what a PodMonitor names, with the labels that the operator and its relabelings give, as pods come and go."""
import threading

import prometheus  # of the end-to-end tests
from manifests import Refused, selected

ADDRESS = "127.0.0.1:9090"


def relabel(labels, meta, steps):
    """The action `replace`, which is the default, of whole values."""
    for step in steps:
        if set(step) - {"sourceLabels", "separator", "targetLabel"}:
            raise Refused(f"a relabeling has {', '.join(sorted(step))}, which is not done here")
        labels[step["targetLabel"]] = step.get("separator", ";").join({**meta, **labels}[name] for name in step["sourceLabels"])
    return labels


def targets(monitor, pods):
    """[(address, labels)]"""
    found, spec = [], monitor["spec"]
    steps = {endpoint["port"]: endpoint.get("relabelings", []) for endpoint in spec["podMetricsEndpoints"]}
    for pod in selected(spec["selector"], pods, monitor["metadata"]["namespace"]):
        for container in pod.spec["containers"]:
            for port in container.get("ports", []):
                if port["name"] not in steps:
                    continue
                meta = {"__meta_kubernetes_namespace": pod.namespace, "__meta_kubernetes_pod_name": pod.name,
                        "__meta_kubernetes_pod_container_name": container["name"]}
                labels = {"namespace": pod.namespace, "pod": pod.name, "container": container["name"]}
                found.append((f"{pod.ip}:{port['containerPort']}", relabel(labels, meta, steps[port["name"]])))
    return found


class Monitor(prometheus.Watch):
    def __init__(self, folder, cluster, monitor):
        self.cluster, self.monitor, self.known, self.over = cluster, monitor, None, threading.Event()
        super().__init__(folder / "prometheus", ADDRESS, cluster.wait, self.discovered(), f"{monitor['metadata']['namespace']}/"
                         f"{monitor['metadata']['name']}")
        self.thread = threading.Thread(target=self.discover, daemon=True)
        self.thread.start()

    def discovered(self):
        return sorted(targets(self.monitor, self.cluster.running()), key=str)

    def discover(self):
        while not self.over.wait(0.1):
            found = self.discovered()
            if found != self.known:
                self.known = found
                self.point(found)

    def kill(self):
        self.over.set()
        self.thread.join()
        super().kill()
