"""The network of the stand-in for a cluster: a bridge with the node's address on it, a network namespace for each pod, names, Services
(an address that each pod's own nftables turn into that of a pod, which is ready) and NetworkPolicies (nftables in the pod, too).

All of it lies in a network namespace of the test's process and ends with it. The node is 10.244.0.1 and fd00:244::1, and answers DNS
there; it counts as a pod of kube-system, so that a policy that lets pods ask for names can say so."""
import ctypes
import fcntl
import heapq
import ipaddress
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

from manifests import Refused, matches, namespace_of, port_number, selected

NODE = {4: "10.244.0.1", 6: "fd00:244::1"}
DOMAIN = "svc.cluster.local"
DNS_NAMESPACE = "kube-system"


def sh(*words, **more):
    done = subprocess.run(words, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Refused(f"{' '.join(words)}: {done.stderr.strip()} {more.get('input', '')}")
    return done.stdout


def address(family, n):
    return f"10.244.0.{n}" if family == 4 else f"fd00:244::{n:x}"


def service_address(family, n):
    return f"10.96.0.{n}" if family == 4 else f"fd00:96::{n:x}"


def make_bridge(family):
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "br0", "type", "bridge")
    sh("ip", "addr", "add", NODE[family] + ("/24" if family == 4 else "/64"), "dev", "br0", *(["nodad"] if family == 6 else []))
    sh("ip", "link", "set", "br0", "up")
    make_route(None, family)


def make_route(netns, family):
    """Addresses of Services are on no link; they need some route, for the packet to exist that is turned to a pod."""
    where = ["-n", netns] if netns else []
    sh("ip", *where, f"-{family}", "route", "add", service_address(family, 0) + ("/24" if family == 4 else "/64"), "dev",
       "eth0" if netns else "br0")


def plug_in(netns, name, ip, family):
    """A namespace with an eth0 on the bridge."""
    sh("ip", "netns", "add", netns)
    sh("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", netns)
    sh("ip", "link", "set", name, "master", "br0", "up")
    inside = ("ip", "-n", netns)
    if family == 6:  # else every start waits for a second, in which an address is looked whether it is taken
        sh("ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0", "net.ipv6.conf.eth0.dad_transmits=0")
    sh(*inside, "addr", "add", ip + ("/24" if family == 4 else "/64"), "dev", "eth0", *(["nodad"] if family == 6 else []))
    sh(*inside, "link", "set", "lo", "up")
    sh(*inside, "link", "set", "eth0", "up")
    make_route(netns, family)


# ---- names ----

class Names:
    """Answers A or AAAA for Services and for pods under a headless one."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.hidden = set()  # names that a test takes away
        self.late_s = 0  # and by how much it delays every answer
        self.asked = []
        self.socket = socket.socket(socket.AF_INET if cluster.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.bind((NODE[cluster.family], 53))
        self.over, self.thread = False, threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def close(self):
        """Asks itself once more, for the thread to see that it is over: closing a socket wakes nobody who reads from it."""
        self.over = True
        socket.socket(self.socket.family, socket.SOCK_DGRAM).sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()

    def resolve(self, name):
        """Addresses; None: there is no such name."""
        if not name.endswith("." + DOMAIN) or name in self.hidden:
            return None
        *path, namespace = name[:-len(DOMAIN) - 1].split(".")
        service = self.cluster.service(path[-1], namespace) if len(path) in (1, 2) else None
        if not service:
            return None
        headless = service["spec"].get("clusterIP") == "None"
        if len(path) == 1 and not headless:
            return [self.cluster.service_ips[namespace, path[-1]]]
        pods = [pod for pod in self.cluster.endpoints(service) if len(path) == 1 or
                (pod.hostname, pod.subdomain) == (path[0], path[1])]
        return [pod.ip for pod in pods] or None

    def serve(self):
        while True:
            question, who = self.socket.recvfrom(512)
            if self.over:
                return
            at, labels = 12, []
            while question[at]:
                labels.append(question[at + 1:at + 1 + question[at]].decode())
                at += question[at] + 1
            kind, name = struct.unpack(">H", question[at + 1:at + 3])[0], ".".join(labels).lower()
            self.asked.append(name)
            found = self.resolve(name)
            answers = found if found and kind == (1 if self.cluster.family == 4 else 28) else []
            reply = question[:2] + struct.pack(">HHHHH", 0x8580 | (0 if found else 3), 1, len(answers), 0, 0) + question[12:at + 5]
            for ip in answers:
                packed = ipaddress.ip_address(ip).packed
                reply += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 1, len(packed)) + packed
            if self.late_s:
                threading.Timer(self.late_s, self.send, (reply, who)).start()
            else:
                self.send(reply, who)

    def send(self, reply, who):
        try:
            self.socket.sendto(reply, who)
        except OSError:
            pass  # who asked is gone, or this


# ---- Services and policies, as nftables ----

def family_word(family):
    return "ip" if family == 4 else "ip6"


def service_rules(cluster):
    """What turns the address of each Service into that of a pod which is ready; without one the connection is refused at once."""
    word, turned, refused = family_word(cluster.family), [], []
    for service in cluster.services:
        if service["spec"].get("clusterIP") == "None":
            continue
        ip = cluster.service_ips[namespace_of(service), service["metadata"]["name"]]
        pods = cluster.endpoints(service)
        for port in service["spec"]["ports"]:
            match = f"{word} daddr {ip} {port.get('protocol', 'TCP').lower()} dport {port['port']}"
            target = port.get("targetPort", port["port"])
            places = [(pod.ip, port_number(pod.spec["containers"], target)) for pod in pods]
            if not places:
                refused.append(f"{match} reject")
                continue
            if any(number != places[0][1] or number is None for _, number in places):
                raise Refused(f"the pods of Service {service['metadata']['name']} do not have one port {target}")
            choice = ", ".join(f"{i} : {pod_ip}" for i, (pod_ip, _) in enumerate(places))
            turned.append(f"{match} dnat to numgen random mod {len(places)} map {{ {choice} }} : {places[0][1]}")
    return turned, refused


def peers(cluster, terms, namespace):
    """The addresses of `from` or `to`; None: everybody's."""
    if not terms:
        return None
    found = set()
    for term in terms:
        if set(term) - {"podSelector", "namespaceSelector"}:
            raise Refused(f"a NetworkPolicy names peers by {', '.join(sorted(term))}")
        chooses = term.get("namespaceSelector")
        spaces = [namespace] if chooses is None else [n for n in cluster.namespaces() | {DNS_NAMESPACE} if matches(
            chooses, {"kubernetes.io/metadata.name": n})]
        for space in spaces:
            found |= {pod.ip for pod in selected(term.get("podSelector", {}), cluster.running(), space)}
            if space == DNS_NAMESPACE and "podSelector" not in term:
                found.add(NODE[cluster.family])
    return found


def port_match(pod, port):
    number = port.get("port")
    if isinstance(number, str):
        number = port_number(pod.spec["containers"], number)
        if number is None:
            raise Refused(f"a NetworkPolicy names port {port['port']}, which {pod.name} does not have")
    until = f"-{port['endPort']}" if "endPort" in port else ""
    return f"{port.get('protocol', 'TCP').lower()} dport {number}{until}"


def direction_rules(cluster, pod, policies, direction):
    """None: no policy is about this direction of this pod."""
    key, side, word = {"Ingress": ("ingress", "from", "saddr"), "Egress": ("egress", "to", "daddr")}[direction]
    about = [policy for policy in policies if direction in policy["spec"].get("policyTypes", ["Ingress"])]
    if not about:
        return None
    rules = []
    for policy in about:
        for rule in policy["spec"].get(key, []):
            who = peers(cluster, rule.get(side), namespace_of(policy))
            if who is not None and not who:
                continue
            match = f"{family_word(cluster.family)} {word} {{ {', '.join(sorted(who))} }} " if who else ""
            ports = rule.get("ports")
            rules += [f"{match}{port_match(pod, port)} accept" for port in ports] if ports else [f"{match}accept"]
    return rules


def rules_of(cluster, pod):
    """All nftables of a pod's namespace; pod None: the node's."""
    turned, refused = service_rules(cluster)
    word = family_word(cluster.family)
    text = [f"table {word} services", f"delete table {word} services", f"table {word} services {{",
            "chain turn { type nat hook output priority -100; policy accept;", *turned, "}",
            "chain refuse { type filter hook output priority -50; policy accept;", *refused, "}", "}"]
    if not pod:
        return "\n".join(text) + "\n"
    policies = [p for p in cluster.policies if namespace_of(p) == pod.namespace and matches(p["spec"]["podSelector"], pod.labels)]
    always = ["iif lo accept", "ct state established,related accept", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"]
    text += ["table inet policies", "delete table inet policies", "table inet policies {"]
    for direction, hook in (("Ingress", "input"), ("Egress", "output")):
        rules = direction_rules(cluster, pod, policies, direction)
        if rules is not None:
            node = [f"{word} saddr {NODE[cluster.family]} accept"] if hook == "input" else []  # probes
            text += [f"chain {hook} {{ type filter hook {hook} priority 0; policy drop;",
                     *(a if hook == "input" else a.replace("iif", "oif") for a in always), *node, *rules, "}"]
    return "\n".join([*text, "}"]) + "\n"


def service_links(cluster, namespace):
    """The variables that a kubelet gives to each container for each Service that is there when it starts, unless told not to."""
    found = {}
    for service in cluster.services:
        if namespace_of(service) != namespace or service["spec"].get("clusterIP") == "None":
            continue
        name, ip = service["metadata"]["name"], cluster.service_ips[namespace, service["metadata"]["name"]]
        begin, host = name.upper().replace("-", "_"), f"[{ip}]" if ":" in ip else ip
        for i, port in enumerate(service["spec"]["ports"]):
            number, protocol = str(port["port"]), port.get("protocol", "TCP")
            link, one = f"{protocol.lower()}://{host}:{number}", f"{begin}_PORT_{number}_{protocol}"
            if i == 0:
                found.update({f"{begin}_SERVICE_HOST": ip, f"{begin}_SERVICE_PORT": number, f"{begin}_PORT": link})
            if "name" in port:
                found[f"{begin}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = number
            found.update({one: link, f"{one}_PROTO": protocol.lower(), f"{one}_PORT": number, f"{one}_ADDR": ip})
    return found


class Rules:
    """Keeps every namespace's nftables as they should be; writes only what has changed."""

    def __init__(self, cluster):
        self.cluster, self.written, self.lock = cluster, {}, threading.Lock()

    def write(self):
        with self.lock:
            for pod in [None, *self.cluster.running()]:
                where = pod.netns if pod else None
                text = rules_of(self.cluster, pod)
                if self.written.get(where) == text:
                    continue
                try:
                    sh(*(["ip", "netns", "exec", where] if where else []), "nft", "-f", "-", input=text)
                except Refused:
                    if pod in self.cluster.running():  # else its namespace went away meanwhile
                        raise
                self.written[where] = text


def limit_rate(pod, rate):
    """Of what the pod is sent: "20mbit"; None: as fast as it goes."""
    if rate:
        sh("tc", "qdisc", "replace", "dev", pod.veth, "root", "tbf", "rate", rate, "burst", "32kb", "latency", "400ms")
    else:
        sh("tc", "qdisc", "del", "dev", pod.veth, "root")


def cut_off(pod, really=True):
    """Takes the cable out, or puts it back."""
    sh("ip", "link", "set", pod.veth, "down" if really else "up")


def damage(pod, source, least=4000):
    """From now on four bytes of each large packet that the pod gets of another are wrong, far behind the head of whatever frame begins in
    it; no checksum of TCP tells, since within one machine none is made. Without a source: no more."""
    text = "table ip damage\ndelete table ip damage\n"
    if source:
        text += (f"table ip damage {{\nchain in {{\ntype filter hook input priority -10;\n"
                 f"ip saddr {source.ip} meta length > {least} @th,1952,32 set 0x5a5aa5a5\n}}\n}}\n")
    sh("ip", "netns", "exec", pod.netns, "nft", "-f", "-", input=text)


class Wire:
    """A longer wire to a pod: every frame to it and from it takes so long more, and some get lost. In place of netem, which not every
    kernel has: the pod's end leaves the bridge, a tap takes its place, and a thread carries frames between them, in order."""

    OFFLOADS = (0x15, 0x17, 0x1f, 0x24, 0x2c)  # checksums, scatter and gather, segmentation, GSO, GRO: frames are to be as on a wire

    def __init__(self, pod, delay_s, lost=0.0):
        self.pod, self.delay_s, self.lost, self.chance, self.carried = pod, delay_s, lost, random.Random(1), 0
        self.tap, self.name = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK), f"w{pod.number}"
        fcntl.ioctl(self.tap, 0x400454ca, struct.pack("16sH22x", self.name.encode(), 0x1002))  # TUNSETIFF: a tap, frames bare
        script = "import network, sys; network.without_offloads(sys.argv[1])"
        sh("ip", "netns", "exec", pod.netns, sys.executable, "-c", script, "eth0", cwd=os.path.dirname(os.path.abspath(__file__)))
        without_offloads(pod.veth)
        self.end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        self.end.bind((pod.veth, 3))
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.end.setblocking(False)
        sh("ip", "link", "set", pod.veth, "nomaster")
        sh("ip", "link", "set", self.name, "master", "br0", "up")
        self.over, self.thread = False, threading.Thread(target=self.carry, daemon=True)
        self.thread.start()

    def carry(self):
        due = []  # (when, number, which end, frame)
        while not self.over:
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.1
            for end in select.select([self.tap, self.end], [], [], min(wait, 0.1))[0]:
                for frame in self.frames(end):
                    if self.chance.random() >= self.lost:
                        self.carried += 1
                        heapq.heappush(due, (time.monotonic() + self.delay_s, self.carried, end is self.end, frame))
            while due and due[0][0] <= time.monotonic():
                _, _, outwards, frame = heapq.heappop(due)
                try:
                    os.write(self.tap, frame) if outwards else self.end.send(frame)
                except OSError:
                    pass  # no room, or the pod is gone: a frame is lost, as it may be

    def frames(self, end):
        try:
            for _ in range(64):
                if end is self.tap:
                    yield os.read(end, 65536)
                else:
                    frame, where = end.recvfrom(65536)
                    if where[2] != 4:  # PACKET_OUTGOING: what we sent ourselves
                        yield frame
        except OSError:
            pass

    def close(self):
        """The pod is on the bridge again."""
        self.over = True
        self.thread.join()
        sh("ip", "link", "set", self.name, "nomaster")
        if self.pod.plugged:
            sh("ip", "link", "set", self.pod.veth, "master", "br0")
        self.end.close()
        os.close(self.tap)


def without_offloads(link):
    """By ioctl, as ethtool does, which may not be here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for command in Wire.OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            try:
                fcntl.ioctl(s, 0x8946, struct.pack("16sP8x", link.encode(), ctypes.addressof(value)))  # SIOCETHTOOL
            except OSError:
                pass  # one that this link has not, or can't be without
