"""Runs rendered Kubernetes manifests on one machine, without a cluster: crun is the runtime of containers, the kernel does the rest.

Honest limits: no API server and no admission, no scheduler (one node without taints, one kernel), no pulls of images (an image is a
directory), names are answered by network.py, and GPUs are numbers: a node has so many, and nothing is put into who is given one. What a manifest says and nobody here does is an error, never passed over: KNOWN lists what is done.
Root only. Everything lies in mount and network namespaces of this process, and in containers that Cluster.stop ends."""
import atexit
import base64
import ctypes
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

import network
import seccomp
from manifests import (WORKLOADS, PodSpec, Refused, expand, fingerprint, group_of, matches, namespace_of, pods_of,  # noqa: F401
                       port_number, quantity, selected, services_of, templates)
from network import NODE, sh

STATE = None  # a tmpfs, made by isolate()
T0 = time.monotonic()

LEAF, ANY = None, object()
GPU = "nvidia.com/gpu"
PROBE = {"httpGet": {"path": LEAF, "port": LEAF}, "periodSeconds": LEAF, "failureThreshold": LEAF, "timeoutSeconds": LEAF,
         "initialDelaySeconds": LEAF}
CONTAINER = {"name": LEAF, "image": LEAF, "command": LEAF, "args": LEAF, "env": [{"name": LEAF, "value": LEAF, "valueFrom": {
    "fieldRef": {"fieldPath": LEAF, "apiVersion": ("v1",)}}}], "envFrom": [{"configMapRef": {"name": LEAF}}],
    "ports": [{"name": LEAF, "containerPort": LEAF, "protocol": ("TCP",)}], "startupProbe": PROBE, "readinessProbe": PROBE,
    "livenessProbe": PROBE, "resources": {"requests": {"cpu": LEAF, "memory": LEAF}, "limits": {"cpu": LEAF, "memory": LEAF, GPU: (1,)}},
    "securityContext": {"allowPrivilegeEscalation": (False,), "readOnlyRootFilesystem": LEAF, "capabilities": {"drop": (["ALL"],)}},
    "volumeMounts": [{"name": LEAF, "mountPath": LEAF, "readOnly": LEAF, "subPath": LEAF}]}
VOLUME = {"name": LEAF, "configMap": {"name": LEAF}, "secret": {"secretName": LEAF, "defaultMode": LEAF},
          "emptyDir": {"medium": ("Memory",), "sizeLimit": LEAF}, "hostPath": {"path": LEAF, "type": ("Directory", "DirectoryOrCreate")},
          "persistentVolumeClaim": {"claimName": LEAF, "readOnly": LEAF}}
POD = {"serviceAccountName": LEAF, "automountServiceAccountToken": (False,), "enableServiceLinks": LEAF,
       "terminationGracePeriodSeconds": LEAF, "tolerations": LEAF, "securityContext": {
           "runAsNonRoot": (True,), "runAsUser": LEAF, "runAsGroup": LEAF, "fsGroup": LEAF, "fsGroupChangePolicy": LEAF,
           "seccompProfile": {"type": ("RuntimeDefault",)}},
       "volumes": [VOLUME], "initContainers": [CONTAINER], "containers": [CONTAINER]}
TEMPLATE = {"metadata": {"labels": ANY, "annotations": ANY}, "spec": POD}
META = {"name": LEAF, "namespace": LEAF, "labels": ANY, "annotations": ANY}
SELECTOR = {"matchLabels": ANY, "matchExpressions": ANY}
PEERS = [{"podSelector": SELECTOR, "namespaceSelector": SELECTOR}]
POLICY_PORTS = [{"protocol": LEAF, "port": LEAF, "endPort": LEAF}]
KNOWN = {
    "ConfigMap": {"data": ANY}, "Secret": {"type": LEAF, "data": ANY, "stringData": ANY},
    "ServiceAccount": {"automountServiceAccountToken": (False,)},
    "Service": {"spec": {"clusterIP": ("None",), "publishNotReadyAddresses": LEAF, "selector": ANY, "ports": [{
        "name": LEAF, "port": LEAF, "targetPort": LEAF, "protocol": ("TCP",), "appProtocol": LEAF}]}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": LEAF, "selector": SELECTOR}},
    "NetworkPolicy": {"spec": {"podSelector": SELECTOR, "policyTypes": LEAF, "ingress": [{"from": PEERS, "ports": POLICY_PORTS}],
                               "egress": [{"to": PEERS, "ports": POLICY_PORTS}]}},
    "LeaderWorkerSet": {"spec": {
        "replicas": LEAF, "startupPolicy": ("LeaderCreated",),
        "rolloutStrategy": {"type": ("RollingUpdate",), "rollingUpdateConfiguration": {"maxUnavailable": (1,), "maxSurge": (0,)}},
        "leaderWorkerTemplate": {"size": LEAF, "restartPolicy": ("RecreateGroupAfterStart",), "leaderTemplate": TEMPLATE,
                                 "workerTemplate": TEMPLATE}}},
    "StatefulSet": {"spec": {"replicas": LEAF, "ordinals": {"start": LEAF}, "serviceName": LEAF, "podManagementPolicy": ("Parallel",),
                             "updateStrategy": {"type": ("OnDelete",)}, "selector": SELECTOR, "template": TEMPLATE}},
    "Deployment": {"spec": {"replicas": LEAF, "strategy": {"rollingUpdate": {"maxSurge": (1,), "maxUnavailable": (0,)}},
                            "selector": SELECTOR, "template": TEMPLATE}},
}
OTHERS = ("PodMonitor", "PrometheusRule", "ScaledObject", "InferencePool", "Namespace")  # whose controllers are not played here


def say(*words):
    print(f"{time.monotonic() - T0:7.2f}", *words, flush=True)


def refuse_unknown(value, known, where):
    if known is LEAF or known is ANY:
        return
    if isinstance(known, tuple):
        if value not in known:
            raise Refused(f"{where} is {value!r}, which is not done here: {known}")
    elif isinstance(known, list):
        for i, item in enumerate(value):
            refuse_unknown(item, known[0], f"{where}[{i}]")
    else:
        for key, inner in (value or {}).items():
            if key not in known:
                raise Refused(f"{where}.{key} is not done here")
            refuse_unknown(inner, known[key], f"{where}.{key}")


def check_document(document):
    kind = document["kind"]
    if kind in OTHERS:
        return
    if kind not in KNOWN:
        raise Refused(f"kind {kind} is not done here")
    refuse_unknown(document, {"apiVersion": LEAF, "kind": LEAF, "metadata": META, **KNOWN[kind]}, kind)


def isolate():
    """Mount and network namespaces of this process's own, without the cgroup2 that crun does not want beside cgroup v1. Before there
    are threads."""
    global STATE
    if STATE:
        return
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000 | 0x40000000):  # CLONE_NEWNS, CLONE_NEWNET
        raise Refused(f"unshare: {os.strerror(ctypes.get_errno())}")
    STATE = pathlib.Path(tempfile.mkdtemp(prefix="kubelite-"))
    sh("mount", "--make-rprivate", "/")
    if os.path.ismount("/sys/fs/cgroup/unified"):
        sh("umount", "/sys/fs/cgroup/unified")
    sh("mount", "-t", "tmpfs", "kubelite", str(STATE))
    atexit.register(lambda: (subprocess.run(["umount", "-l", str(STATE)]), os.rmdir(STATE)))
    os.makedirs("/run/netns", exist_ok=True)
    sh("mount", "-t", "tmpfs", "kubelite", "/run/netns")
    sh("ip", "link", "set", "lo", "up")


class Image:
    """A root directory, what runs in it, and what else is seen there: {path: directory of this machine}."""

    def __init__(self, root, entrypoint, environment=None, mounts=None):
        self.root, self.entrypoint, self.environment, self.mounts = root, entrypoint, environment or {}, mounts or {}


def crun(*words):
    return ["crun", "--cgroup-manager=cgroupfs", "--root", str(STATE / "crun"), *words]


def substitute(text, variables):
    return re.sub(r"\$\(([A-Za-z_][\w.-]*)\)", lambda found: variables.get(found[1], found[0]), text)


class Container:
    def __init__(self, pod, spec):
        self.pod, self.spec, self.name = pod, spec, spec["name"]
        self.folder = pod.folder / spec["name"]
        self.process, self.starts, self.exits = None, 0, []
        self.ready = self.started = False
        self.log_path = pod.cluster.logs / f"{pod.name}.{pod.number}.{self.name}.log"

    def id(self):
        return f"{self.pod.netns}-{self.name}-{self.starts}"

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def variables(self):
        pod = self.pod
        links = network.service_links(pod.cluster, pod.namespace) if pod.spec.get("enableServiceLinks", True) else {}
        found = {**links, **pod.wish.environment}
        for source in self.spec.get("envFrom", []):
            found.update(pod.cluster.object("ConfigMap", pod.namespace, source["configMapRef"]["name"]).get("data", {}))
        fields = {"status.podIP": pod.ip, "metadata.name": pod.name, "metadata.namespace": pod.namespace, "spec.nodeName": "node"}
        for variable in self.spec.get("env", []):
            if "value" in variable:
                found[variable["name"]] = substitute(variable["value"], found)
                continue
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            label = re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]", path)
            found[variable["name"]] = getattr(pod, label[1]).get(label[2], "") if label else fields[path]
        return found

    def mounts(self):
        nodev = ["nosuid", "noexec", "nodev"]
        found = [("/proc", "proc", "proc", []), ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
                 ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                 ("/dev/shm", "tmpfs", "shm", [*nodev, "mode=1777", "size=65536k"]), ("/dev/mqueue", "mqueue", "mqueue", nodev),
                 ("/sys", "sysfs", "sysfs", [*nodev, "ro"])]
        for name in ("resolv.conf", "hosts"):
            found.append((f"/etc/{name}", "bind", str(self.pod.folder / name), ["rbind", "ro"]))
        for path, folder in self.pod.image(self).mounts.items():
            found.append((path, "bind", str(folder), ["rbind", "ro"]))
        for mount in self.spec.get("volumeMounts", []):
            source, writable = self.pod.volumes[mount["name"]]
            mode = "rw" if writable and not mount.get("readOnly") else "ro"
            found.append((mount["mountPath"], "bind", os.path.join(source, mount.get("subPath", "")), ["rbind", mode, "nosuid", "nodev"]))
        return [{"destination": d, "type": t, "source": s, "options": o} for d, t, s, o in found]

    def resources(self):
        limits, requests = (self.spec.get("resources", {}).get(word, {}) for word in ("limits", "requests"))
        found = {"pids": {"limit": 4096}, "cpu": {"shares": max(2, int(quantity(requests.get("cpu", limits.get("cpu", 0))) * 1024))}}
        if "memory" in limits:
            found["memory"] = {"limit": int(quantity(limits["memory"]))}
        if "cpu" in limits:
            found["cpu"].update(period=100000, quota=int(quantity(limits["cpu"]) * 100000))
        return found

    def limits(self):
        files = self.pod.cluster.files  # of the unit of a container runtime
        return [{"type": "RLIMIT_NOFILE", "soft": files, "hard": files}] if files else []

    def configuration(self):
        pod, spec = self.pod, self.spec
        user = {**pod.spec.get("securityContext", {}), **spec.get("securityContext", {})}
        uid, gid = user.get("runAsUser", 0), user.get("runAsGroup", 0)
        if user.get("runAsNonRoot") and uid == 0:
            raise Refused("CreateContainerConfigError: the container would run as root")
        image, variables = pod.image(self), self.variables()
        words = [substitute(word, variables) for word in spec.get("command", image.entrypoint) + spec.get("args", [])]
        environment = {"PATH": "/usr/bin:/bin", "HOSTNAME": pod.hostname, "HOME": "/", **image.environment, **variables}
        caps = [] if "ALL" in user.get("capabilities", {}).get("drop", []) else ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]
        effective = caps if uid == 0 else []  # a kubelet gives no ambient set: who is not root has none
        linux = {"cgroupsPath": f"/kubelite/{pod.netns}/{self.name}", "resources": self.resources(),
                 "namespaces": [*({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
                                {"type": "network", "path": f"/run/netns/{pod.netns}"}],
                 "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"], "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/irq"]}
        if pod.spec.get("securityContext", {}).get("seccompProfile"):
            linux["seccomp"] = seccomp.profile()
        return {"ociVersion": "1.0.0", "hostname": pod.hostname, "mounts": self.mounts(), "linux": linux,
                "root": {"path": "rootfs", "readonly": bool(user.get("readOnlyRootFilesystem"))},
                "process": {"terminal": False, "cwd": "/", "args": words, "rlimits": self.limits(), "env": [f"{k}={v}" for k, v in environment.items()],
                            "user": {"uid": uid, "gid": gid, "additionalGids": [user["fsGroup"]] if "fsGroup" in user else []},
                            "noNewPrivileges": user.get("allowPrivilegeEscalation") is False,
                            "capabilities": {"bounding": caps, "effective": effective, "permitted": effective, "inheritable": [],
                                             "ambient": []}}}

    def start(self):
        self.starts += 1
        bundle = self.folder / str(self.starts)
        for name in ("rootfs", "upper", "work"):
            (bundle / name).mkdir(parents=True)
        sh("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={self.pod.image(self).root},upperdir={bundle}/upper,workdir={bundle}/work",
           str(bundle / "rootfs"))
        (bundle / "config.json").write_text(json.dumps(self.configuration()))
        self.ready, self.started, self.born = False, "startupProbe" not in self.spec, time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(crun("run", "-b", str(bundle), self.id()), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def clean(self):
        subprocess.run(crun("delete", "-f", self.id()), capture_output=True)
        subprocess.run(["umount", "-l", str(self.folder / str(self.starts) / "rootfs")], capture_output=True)

    def signal(self, number):
        """To the container's first process, as soon as there is one."""
        while self.running() and subprocess.run(crun("kill", self.id(), signal.Signals(number).name), capture_output=True).returncode:
            time.sleep(0.02)

    def freeze(self):
        """No time on any processor, for all of it, until it is thawed: a host that is short of them, or a machine that is moved."""
        sh(*crun("pause", self.id()))

    def thaw(self):
        sh(*crun("resume", self.id()))

    def limit_cpu(self, seconds, each=0.1):
        """So many of all its threads in each such time; None: more than there are processors (to take a limit away, crun fails)."""
        quota = int(each * 1e8) if seconds is None else max(1000, int(seconds * 1e6))
        sh(*crun("update", f"--cpu-period={int(each * 1e6)}", f"--cpu-quota={quota}", self.id()))

    def probe(self, probe):
        get = probe["httpGet"]
        connection = http.client.HTTPConnection(self.pod.ip, port_number([self.spec], get["port"]), timeout=probe.get("timeoutSeconds", 1))
        try:
            connection.request("GET", get.get("path", "/"))
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def end(self, until):
        """SIGTERM, and SIGKILL when its time is over."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            how = f"exit {self.process.wait(max(0.1, until - begin))}"
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            how = f"SIGKILL after the grace period, exit {self.process.wait()}"
        self.exits.append(self.process.returncode)
        say(f"{self.pod.name}/{self.name}: {how}, {time.monotonic() - begin:.1f} s after SIGTERM")
        self.clean()


class Pod:
    def __init__(self, cluster, wish):
        self.number = cluster.next_number()
        self.cluster, self.wish, self.spec = cluster, wish, wish.spec
        self.name, self.namespace, self.labels, self.annotations = wish.name, wish.namespace, wish.labels, wish.annotations
        self.hostname, self.subdomain = wish.name, wish.subdomain
        self.ip, self.netns = network.address(cluster.family, self.number), f"kl{os.getpid()}-{cluster.serial}-{self.number}"
        self.veth = f"v{self.number}"
        self.folder = STATE / self.netns
        self.stopping = self.plugged = self.running = False
        self.gone, self.trouble, self.volumes, self.gpus = threading.Event(), None, {}, 0
        self.deletion = threading.Lock()
        self.init = [Container(self, spec) for spec in self.spec.get("initContainers", [])]
        self.containers = [Container(self, spec) for spec in self.spec["containers"]]

    def container(self, name):
        return next(c for c in self.init + self.containers if c.name == name)

    def image(self, container):
        name = container.spec["image"]
        if name not in self.cluster.images:
            raise Refused(f"ErrImagePull: there is no image {name}")
        return self.cluster.images[name]

    @property
    def ready(self):
        return self.running and not self.stopping and all(c.ready for c in self.containers)

    # ---- its birth ----

    def take_gpus(self):
        """What the scheduler counts. Who waits for another's end has none before it has ended."""
        with self.cluster.lock:
            wanted = sum(c.spec.get("resources", {}).get("limits", {}).get(GPU, 0) for c in self.init + self.containers)
            if wanted > self.cluster.gpus - sum(pod.gpus for pod in self.cluster.pods):
                raise Refused(f"FailedScheduling: Insufficient {GPU}")
            self.gpus = wanted

    def make_volume(self, volume):
        name, folder = volume["name"], self.folder / "volumes" / volume["name"]
        if "hostPath" in volume:
            path = self.cluster.host_paths.get(volume["hostPath"]["path"])
            if not path:
                raise Refused(f"FailedMount: this machine has nothing at {volume['hostPath']['path']}")
            self.volumes[name] = (str(path), True)
        elif "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            if claim["claimName"] not in self.cluster.claims:
                raise Refused(f"FailedMount: there is no claim {claim['claimName']}")
            self.volumes[name] = (str(self.cluster.claims[claim["claimName"]]), not claim.get("readOnly"))
        elif "emptyDir" in volume:
            folder.mkdir(parents=True)
            if "sizeLimit" in volume["emptyDir"]:
                sh("mount", "-t", "tmpfs", "-o", f"size={int(quantity(volume['emptyDir']['sizeLimit']))}", "tmpfs", str(folder))
            os.chmod(folder, 0o777)
            self.volumes[name] = (str(folder), True)
        else:
            self.write_files(volume, folder)
            self.volumes[name] = (str(folder), False)

    def write_files(self, volume, folder):
        """Of a ConfigMap or Secret, as a kubelet writes them: `..data` is a link that is renamed when they change."""
        secret = volume.get("secret")
        found = self.cluster.object("Secret" if secret else "ConfigMap", self.namespace,
                                    secret["secretName"] if secret else volume["configMap"]["name"])
        files = {key: base64.b64decode(text) for key, text in found.get("data", {}).items()} if secret else \
            {key: text.encode() for key, text in found.get("data", {}).items()}
        files.update({key: text.encode() for key, text in found.get("stringData", {}).items()})
        mode = (secret or {}).get("defaultMode", 0o644)
        version = folder / f"..{time.monotonic_ns()}"
        version.mkdir(parents=True)
        group = self.spec.get("securityContext", {}).get("fsGroup", -1)
        for key, content in files.items():
            (version / key).write_bytes(content)
            os.chown(version / key, -1, group)
            os.chmod(version / key, mode | (0o440 if group >= 0 else 0))
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(f"..data/{key}")
        (folder / "..new").symlink_to(version.name)
        os.rename(folder / "..new", folder / "..data")

    def refresh(self):
        for volume in self.spec.get("volumes", []):
            if "secret" in volume or "configMap" in volume:
                self.write_files(volume, self.folder / "volumes" / volume["name"])

    def make_sandbox(self):
        self.folder.mkdir(parents=True)
        account = self.spec.get("serviceAccountName", "default")
        if account != "default":
            self.cluster.object("ServiceAccount", self.namespace, account)
        network.plug_in(self.netns, self.veth, self.ip, self.cluster.family)
        self.plugged = True
        domain = network.DOMAIN
        (self.folder / "resolv.conf").write_text(f"nameserver {NODE[self.cluster.family]}\nsearch {self.namespace}.{domain} {domain} "
                                                 "cluster.local\noptions ndots:5\n")
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{self.ip} {self.hostname}\n")
        for volume in self.spec.get("volumes", []):
            self.make_volume(volume)
        self.cluster.rules.write()  # a pod is not heard before its policies are there

    def run(self):
        threading.Thread(target=self.live, daemon=True).start()

    def live(self):
        try:
            self.take_gpus()
            with self.deletion:  # what is made of it while it is deleted would stay
                if self.stopping:
                    return
                self.make_sandbox()
            for container in self.init:
                if not self.run_init(container):
                    return
            with self.deletion:
                if self.stopping:
                    return
                for container in self.containers:
                    container.start()
                self.running = True
            say(f"{self.name} {self.ip}: running {', '.join(c.name for c in self.containers)}")
        except (Refused, OSError, KeyError) as error:
            self.trouble = f"{self.name}: {error}"
            say(self.trouble)
            return
        for container in self.containers:
            threading.Thread(target=self.watch, args=(container,), daemon=True).start()

    def run_init(self, container):
        while not self.stopping:
            container.start()
            container.exits.append(container.process.wait())
            container.clean()
            if container.exits[-1] == 0:
                return True
            self.tell_end(container)
            self.pause(container)
        return False

    # ---- its life ----

    def pause(self, container):
        """A kubelet's back-off: none, then 10 s, 20 s ... 300 s."""
        seconds = min(300, 10 * 2 ** (container.starts - 2)) / self.cluster.haste if container.starts > 1 else 0
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopping:
            time.sleep(0.05)

    def watch(self, container):
        failed, next_at = {}, {}
        while not self.stopping:
            if container.process.poll() is not None:
                container.ready = False
                container.exits.append(container.process.returncode)
                self.tell_end(container)
                if self.cluster.ends_group(self):
                    return
                self.pause(container)
                if self.again(container):
                    failed, next_at = {}, {}
                continue
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.ask(container, kind, failed, next_at)
            if container.started and "readinessProbe" not in container.spec:
                container.ready = True
            time.sleep(0.05)

    def tell_end(self, container):
        code, said = container.exits[-1], last_line(container)
        self.cluster.ends.append((self.name, container.name, code, said))
        say(f"{self.name}/{container.name}: exit {code}: {said}")

    def again(self, container):
        with self.deletion:
            if self.stopping:
                return False
            container.clean()
            container.start()
            return True

    def ask(self, container, kind, failed, next_at):
        probe = container.spec.get(kind)
        if not probe or (kind == "startupProbe") == container.started:
            return
        now, haste = time.monotonic(), self.cluster.haste
        if now < next_at.setdefault(kind, max(now, container.born + probe.get("initialDelaySeconds", 0) / haste)):
            return
        next_at[kind] = now + probe.get("periodSeconds", 10) / haste
        good = container.probe(probe)
        failed[kind] = 0 if good else failed.get(kind, 0) + 1
        over = failed[kind] >= probe.get("failureThreshold", 3)
        if kind == "startupProbe" and good:
            container.started = True
        elif kind == "readinessProbe" and (good or over):
            if container.ready != good:
                say(f"{self.name}/{container.name}: {'ready' if good else 'not ready'}")
            container.ready = good
        elif over and kind != "readinessProbe" and container.running():
            say(f"{self.name}/{container.name}: {kind} failed {failed[kind]} times; it is killed")
            self.cluster.killed_by_probe.append((self.name, container.name, kind))
            container.signal(signal.SIGKILL)

    # ---- its end ----

    def delete(self, grace=None):
        """Returns when it is gone."""
        with self.deletion:
            first, self.stopping = not self.stopping, True
        if not first:
            self.gone.wait()
            return
        until = time.monotonic() + (self.spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace)
        threads = [threading.Thread(target=c.end, args=(until,)) for c in self.init + self.containers if c.running()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for container in self.init + self.containers:
            if container.process and not container.running():
                container.clean()
        if self.plugged:
            self.plugged = False  # first: who writes rules meanwhile passes over a namespace that is gone, of a pod that has none
            sh("ip", "netns", "del", self.netns)
        self.cluster.forget(self)
        self.gone.set()


def last_line(container):
    lines = container.log().strip().splitlines()
    return lines[-1][:300] if lines else "(it said nothing)"


class Group:
    """Of a LeaderWorkerSet: made anew as one."""

    def __init__(self, index):
        self.index, self.pods, self.made_of, self.busy, self.broken, self.made = index, [], None, False, False, 0

    def begin(self, cluster, lws):
        self.broken, self.made_of, self.made = False, made_of(lws), self.made + 1
        self.pods = [cluster.start(wish) for wish in group_of(lws, self.index)]

    def end(self):
        threads = [threading.Thread(target=pod.delete) for pod in self.pods]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def make_anew(self, cluster, lws, why):
        self.busy = True
        say(f"group {self.index} is made anew: {why}")

        def go():
            self.end()
            if cluster.going:
                self.begin(cluster, lws)
            self.busy = False
        threading.Thread(target=go, daemon=True).start()

    def ready(self):
        return not self.busy and bool(self.pods) and all(pod.ready for pod in self.pods)


def made_of(workload):
    return fingerprint([template for _, template in templates(workload)])


class Cluster:
    """images: {name: Image}; claims and host_paths: {name: directory}; haste: probes and back-offs are so many times as fast; files: how
    many descriptors a container may have; gpus: how many the node has, none of them there."""
    serial = 0

    def __init__(self, logs, images, claims=None, host_paths=None, family=4, haste=1, files=None, gpus=0):
        isolate()
        self.logs, self.images, self.claims, self.host_paths = logs, images, claims or {}, host_paths or {}
        self.family, self.haste, self.files, self.gpus = family, haste, files, gpus
        self.objects, self.pods, self.groups, self.service_ips = {}, [], {}, {}
        self.killed_by_probe, self.ends, self.trouble, self.going = [], [], None, True  # ends: of containers, by themselves
        self.lock, self.count = threading.RLock(), 1
        Cluster.serial += 1
        self.serial = Cluster.serial
        network.make_bridge(family)
        self.names, self.rules = network.Names(self), network.Rules(self)
        self.loop = threading.Thread(target=self.control, daemon=True)
        self.loop.start()

    # ---- what was applied ----

    def apply(self, documents):
        for document in documents:
            check_document(document)
        with self.lock:
            for service in services_of(documents):  # first: who sees a Service looks for its address
                key = namespace_of(service), service["metadata"]["name"]
                self.service_ips.setdefault(key, network.service_address(self.family, len(self.service_ips) + 1))
            for document in documents:
                self.objects[document["kind"], namespace_of(document), document["metadata"]["name"]] = document
        for pod in self.running():
            pod.refresh()
        return self

    def object(self, kind, namespace, name):
        found = self.objects.get((kind, namespace, name))
        if not found:
            raise Refused(f"CreateContainerConfigError: there is no {kind} {name}")
        return found

    def of_kind(self, *kinds):
        return [document for (kind, _, _), document in list(self.objects.items()) if kind in kinds]

    @property
    def services(self):
        return services_of(list(self.objects.values()))

    @property
    def policies(self):
        return self.of_kind("NetworkPolicy")

    def namespaces(self):
        return {namespace for _, namespace, _ in list(self.objects)}

    def service(self, name, namespace):
        return next((s for s in self.services if s["metadata"]["name"] == name and namespace_of(s) == namespace), None)

    def endpoints(self, service):
        early = service["spec"].get("publishNotReadyAddresses")
        return [pod for pod in selected({"matchLabels": service["spec"]["selector"]}, self.running(), namespace_of(service))
                if early or pod.ready]

    def running(self):
        """Pods that have an address."""
        return [pod for pod in list(self.pods) if pod.plugged]

    def pod(self, name):
        return next((pod for pod in list(self.pods) if pod.name == name and not pod.stopping), None)

    # ---- controllers ----

    def control(self):
        while self.going:
            try:
                for workload in self.of_kind(*WORKLOADS):
                    {"LeaderWorkerSet": self.keep_groups, "StatefulSet": self.keep_ordinals,
                     "Deployment": self.keep_replicas}[workload["kind"]](workload)
                self.rules.write()
            except Exception as error:  # the tests' thread says it
                self.trouble = self.trouble or f"{type(error).__name__}: {error}"
            time.sleep(0.05)

    def next_number(self):
        with self.lock:
            self.count += 1
            if self.count > 250:
                raise Refused("there were 250 pods: addresses are not used twice")
            return self.count

    def start(self, wish):
        pod = Pod(self, wish)
        with self.lock:
            self.pods.append(pod)
        pod.run()
        return pod

    def forget(self, pod):
        with self.lock:
            self.pods.remove(pod)

    def ends_group(self, pod):
        """RecreateGroupAfterStart: once all of a group ran, whatever container ends is the group's end."""
        for group in self.groups.get(pod.wish.owner["metadata"]["name"], []):
            if pod in group.pods and all(other.running for other in group.pods):
                group.broken = True
                return True
        return False

    def keep_groups(self, lws):
        groups = self.groups.setdefault(lws["metadata"]["name"], [])
        wanted = lws["spec"].get("replicas", 1)
        while len(groups) < wanted:
            groups.append(Group(len(groups)))
            groups[-1].begin(self, lws)
        for group in [g for g in groups[wanted:] if not g.busy]:
            groups.remove(group)
            threading.Thread(target=group.end, daemon=True).start()
        for group in groups:
            if not group.busy and (group.broken or any(pod.stopping for pod in group.pods)):
                group.make_anew(self, lws, "a pod of it ended")
        old = [group for group in groups if group.made_of != made_of(lws)]
        if old and all(group.ready() for group in groups if group not in old) and not any(group.busy for group in groups):
            old[-1].make_anew(self, lws, "a rolling update")

    def keep_ordinals(self, stateful):
        there = {pod.name for pod in list(self.pods)}
        for wish in pods_of(stateful):
            if wish.name not in there:
                self.start(wish)

    def keep_replicas(self, deployment):
        wanted, now = deployment["spec"].get("replicas", 1), made_of(deployment)
        mine = [p for p in list(self.pods) if p.wish.owner["kind"] == "Deployment" and not p.stopping
                and p.wish.owner["metadata"]["name"] == deployment["metadata"]["name"]]
        new = [pod for pod in mine if made_of(pod.wish.owner) == now]
        old = [pod for pod in mine if pod not in new]
        if len(new) < wanted and len(mine) < wanted + 1:
            wish = pods_of(deployment)[0]
            wish.name = f"{deployment['metadata']['name']}-{fingerprint(deployment['spec']['template'])}-{self.count}"
            self.start(wish)
        spare = [*old, *new[wanted:]]
        if spare and sum(pod.ready for pod in mine) > wanted:
            threading.Thread(target=spare[0].delete, daemon=True).start()

    # ---- what people and tests do ----

    def whole(self):
        """Everything that is wanted is there and ready, and nothing else."""
        if self.trouble:
            raise Refused(self.trouble)
        with self.lock:
            pods = list(self.pods)
        troubles = [pod.trouble for pod in pods if pod.trouble]
        if troubles:
            raise Refused("; ".join(troubles))
        current = {w["metadata"]["name"]: made_of(w) for w in self.of_kind(*WORKLOADS) if w["kind"] != "StatefulSet"}  # OnDelete
        return len(pods) == len(expand(list(self.objects.values()))) and all(
            pod.ready and current.get(pod.wish.owner["metadata"]["name"], made_of(pod.wish.owner)) == made_of(pod.wish.owner)
            for pod in pods)

    def wait(self, condition, what, seconds=120):
        end = time.monotonic() + seconds * float(os.environ.get("SLUICE_SLOW_FACTOR", 1))
        while not (value := condition()):
            assert time.monotonic() < end, f"{what} did not come true: {self.describe()}"
            time.sleep(0.05)
        return value

    def wait_whole(self):
        self.wait(self.whole, "a cluster that is whole")
        return self

    def describe(self):
        return "; ".join(f"{pod.name}: {pod.trouble or ''}" + ", ".join(
            f"{c.name} {'ready' if c.ready else 'started' if c.started else 'starting'} exits {c.exits}: {last_line(c)}"
            for c in pod.containers) for pod in list(self.pods))

    def scale(self, kind, name, replicas, namespace="sluice"):
        self.object(kind, namespace, name)["spec"]["replicas"] = replicas

    def evict(self, pod):
        """As the eviction API answers: 201, or 429 while a budget forbids it. It begins then, and does not wait for the end."""
        for budget in self.of_kind("PodDisruptionBudget"):
            about = [p for p in expand(list(self.objects.values())) if p.namespace == namespace_of(budget)
                     and matches(budget["spec"]["selector"], p.labels)]
            healthy = sum(p.ready and matches(budget["spec"]["selector"], p.labels) for p in list(self.pods))
            if matches(budget["spec"]["selector"], pod.labels) and healthy - 1 < len(about) - budget["spec"]["maxUnavailable"]:
                return 429
        self.delete(pod)
        return 201

    def delete(self, pod):
        """As `kubectl delete pod --wait=false`."""
        threading.Thread(target=pod.delete, daemon=True).start()
        while not pod.stopping:
            time.sleep(0.01)

    def stop(self):
        """Everything, at once: a test is over."""
        self.going = False
        self.loop.join()
        while self.pods:
            threads = [threading.Thread(target=pod.delete, args=(0,)) for pod in list(self.pods)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.names.close()
        sh("ip", "link", "del", "br0")
