"""The roles as processes of their own over UCX: joining, draining, losing one, refusing what does not fit, memory.

In one network namespace here; across two in test_across_network_namespaces (skipped, aloud, without root or `ip`), and with
clocks of several machines in test_across_clocks (skipped without root or time namespaces).
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from conftest import PATIENCE, ROOT, SLUICE, free_port, run, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc


def ask(n_ids=20, max_tokens=8, **sampling):
    return pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[(i * 31) % 4000 for i in range(n_ids)]), stream=True,
                              sampling_params=pb.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True,
                                                                **sampling))


def generate(endpoint, on_piece=None, **how):
    """The output ids of one request over gRPC, streamed."""
    with grpc.insecure_channel(endpoint) as channel:
        ids = []
        for reply in pb_grpc.VllmEngineStub(channel).Generate(ask(**how), timeout=PATIENCE):
            if reply.HasField("chunk"):
                ids += reply.chunk.token_ids
                if on_piece:
                    on_piece()
            else:
                assert ids == list(reply.complete.output_ids)
        return ids


class Stream(threading.Thread):
    """A request on its way: begun when its first tokens are here, so that it runs whatever the machine's speed."""

    def __init__(self, endpoint, **how):
        super().__init__(daemon=True)
        self.endpoint, self.how = endpoint, how
        self.begun, self.ids, self.error = threading.Event(), None, None
        self.start()

    def run(self):
        try:
            self.ids = generate(self.endpoint, self.begun.set, **self.how)
        except grpc.RpcError as error:
            self.error = error
        self.begun.set()

    def wait_begun(self):
        assert self.begun.wait(PATIENCE) and self.error is None, self.error
        return self

    def end(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        return self


def test_roles_one_by_one_in_any_order(pack, spawn):
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    workers = [spawn("stage-1", "stage", pack, "--coordinator", endpoint, "--stage", 1, "--threads", 1, "--verify", "full"),
               spawn("decode", "decode", pack, "--coordinator", endpoint, "--threads", 1)]
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 2, "--listen", endpoint, "--ops", ops)
    workers.append(spawn("stage-0", "stage", pack, "--coordinator", endpoint, "--stage", 0, "--threads", 1))
    wait_until(lambda: "ready:" in coordinator.log(), "the coordinator's readiness")
    alone = json.loads(run("generate", "--model", pack, "--prompt", "A long time ago", "--max-tokens", 12, "--output",
                           "json").stdout)
    together = json.loads(run("generate", "--endpoint", endpoint, "--prompt", "A long time ago", "--max-tokens", 12,
                              "--output", "json").stdout)
    assert together["output_ids"] == alone["output_ids"]
    assert together["logprobs"] == alone["logprobs"]  # the same bits in one process and in four
    assert run("health", "--endpoint", endpoint).returncode == 0
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait() == 0
    for worker in workers:
        assert worker.wait() == 0, worker.log()
    assert run("health", "--endpoint", endpoint).returncode == 69


def test_drain_under_load_loses_nothing(start_server):
    server = start_server("--drain-timeout", 600)
    streams = [Stream(server.endpoint, n_ids=300, max_tokens=1500) for _ in range(6)]
    for stream in streams:
        stream.wait_begun()
    server.signal(signal.SIGTERM)
    wait_until(lambda: server.get("/readyz")[0] != 200, "not ready")
    assert server.get("/livez")[0] in (200, 0)
    try:
        generate(server.endpoint, max_tokens=2)
        raise AssertionError("a draining node took a request")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
    for stream in streams:
        stream.end()
        assert stream.error is None and len(stream.ids) == 1500
    assert server.wait() == 0, server.log()


def test_a_second_sigterm_exits_at_once(start_server):
    server = start_server()
    stream = Stream(server.endpoint, max_tokens=15000).wait_begun()
    server.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in server.log(), "draining")
    server.signal(signal.SIGTERM)
    assert server.wait() != 0
    assert stream.end().error is not None  # not waited for


def test_sigterm_to_a_stage_drains_the_pipeline(start_server):
    server = start_server("--drain-timeout", 600)
    stream = Stream(server.endpoint, max_tokens=1500).wait_begun()
    os.kill(server.children()["stage 1"], signal.SIGTERM)
    assert stream.end().error is None and len(stream.ids) == 1500
    assert server.wait() == 0, server.log()


@pytest.mark.parametrize("role", ["stage 0", "stage 1", "coordinator"])  # not a decode worker: test_decoders.py
def test_a_dead_child_is_named_and_ends_the_whole(start_server, role):
    server = start_server()
    stream = Stream(server.endpoint, max_tokens=15000).wait_begun()
    os.kill(server.children()[role], signal.SIGKILL)
    error = stream.end().error
    assert error and error.code() == grpc.StatusCode.UNAVAILABLE
    if role != "coordinator":
        assert role.split()[0] in error.details()
    assert server.wait() == 137
    named = re.findall(r"(\w+(?: \d)?) \(pid \d+\) was killed by signal 9 \(Killed\), out of memory usually", server.log())
    assert named == [role], server.log()


def test_a_stopped_stage_is_noticed(start_server):
    """SIGSTOP: the kernel still answers for it, so only the heartbeat can tell. (What may come back: test_freeze.py.)"""
    server = start_server("--lost-after", 1)
    pid = server.children()["stage 0"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(grpc.RpcError) as caught:
        generate(server.endpoint, max_tokens=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    os.kill(pid, signal.SIGCONT)
    assert server.wait() != 0


def test_only_its_own_layers_are_mapped_within_the_plan(start_server, pack):
    server = start_server("--context", 4096, model=pack)
    generate(server.endpoint, n_ids=3000, max_tokens=8)
    plan = json.loads(run("inspect", pack, "--stages", 2, "--json", "--context", 4096, "--threads", 1).stdout)
    for k in range(2):
        pid = server.children()[f"stage {k}"]
        maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
        mapped = {int(n) for n in re.findall(r"layer-(\d+)\.safetensors", maps)}
        assert mapped == set(range(3 * k, 3 * k + 3))
        assert ("embed.safetensors" in maps, "head.safetensors" in maps) == (k == 0, k == 1)
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024
        stage = plan["stages"][k]
        assert resident <= stage["weight_bytes"] + stage["buffer_bytes"] + (64 << 20), (resident, stage)


def test_a_port_in_use_is_named(start_server, pack):
    server = start_server()
    for args in (["--listen", server.endpoint, "--ops", f"127.0.0.1:{free_port()}"],
                 ["--listen", f"127.0.0.1:{free_port()}", "--ops", server.ops]):
        done = run("coordinator", pack, *args)
        assert done.returncode == 69
        assert (server.endpoint if args[1] == server.endpoint else server.ops) in done.stderr
    assert len(generate(server.endpoint, max_tokens=3)) == 3


def test_an_absent_coordinator_is_named(pack):
    endpoint = f"127.0.0.1:{free_port()}"
    done = run("stage", pack, "--coordinator", endpoint, "--join-timeout", 1)
    assert done.returncode == 69
    assert endpoint in done.stderr


def test_a_missing_stage_is_named(pack):
    done = run("coordinator", pack, "--stages", 2, "--listen", f"127.0.0.1:{free_port()}", "--ops",
               f"127.0.0.1:{free_port()}", "--join-timeout", 1)
    assert done.returncode == 69
    assert "stage 0, stage 1, decode" in done.stderr


def test_what_does_not_fit_is_refused(spawn, pack, tmp_path):
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 2, "--listen", endpoint, "--ops", ops)
    wait_until(lambda: "gRPC on" in coordinator.log(), "the coordinator's listener")
    other = tmp_path / "other"
    subprocess.run([sys.executable, ROOT / "tests/golden/make_tiny.py", other, "--name", "base"], check=True)
    done = run("stage", other, "--coordinator", endpoint, "--join-timeout", 600,
               env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 78 and "model differs" in done.stderr
    done = run("stage", pack, "--coordinator", endpoint, "--stage", 2, "--join-timeout", 600)
    assert done.returncode == 78 and "stage 2 does not exist" in done.stderr
    spawn("first", "stage", pack, "--coordinator", endpoint, "--stage", 0)
    wait_until(lambda: "stage 0 joined" in coordinator.log(), "the first stage 0")
    done = run("stage", pack, "--coordinator", endpoint, "--stage", 0, "--join-timeout", 600)
    assert done.returncode == 69 and "already" in done.stderr
    done = run("coordinator", pack, "--stages", 2, "--listen", endpoint, "--ops", f"127.0.0.1:{free_port()}")
    assert done.returncode == 69 and endpoint in done.stderr
    assert coordinator.alive()


def test_a_changed_byte_in_a_pack_is_found(pack, tmp_path):
    broken = tmp_path / "broken.pack"
    shutil.copytree(pack, broken)
    path = broken / "layer-0004.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run("check", broken)
    assert done.returncode == 65 and "layer-0004" in done.stderr


def test_serve_refuses_more_stages_than_layers(pack):
    done = run("serve", pack, "--stages", 7)
    assert done.returncode == 78 and "6" in done.stderr


class TwoHosts:
    """Network namespaces, each pair of networks joined by a veth pair: host 0 is .1 of each, host 1 is .2."""

    def __init__(self, folder, networks):
        self.folder, self.names = folder, [f"sluice{os.getpid()}a", f"sluice{os.getpid()}b"]
        self.networks, self.processes = networks, []

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True)

    def device(self, host, network):
        return f"{self.names[host]}{self.networks.index(network)}"[-15:]

    def __enter__(self):
        for name in self.names:
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        for network in self.networks:
            self.ip("link", "add", "name", self.device(0, network), "netns", self.names[0], "type", "veth", "peer", "name",
                    self.device(1, network), "netns", self.names[1])
            for host, name in enumerate(self.names):
                self.ip("-n", name, "addr", "add", f"{network}.{host + 1}/24", "dev", self.device(host, network))
                self.ip("-n", name, "link", "set", self.device(host, network), "up")
            for host, name in enumerate(self.names):
                wait_until(lambda host=host, name=name: "state UP" in subprocess.run(
                    ["ip", "-n", name, "link", "show", self.device(host, network)], capture_output=True, text=True).stdout,
                    "the veth link")
        return self

    def __exit__(self, *_):
        for p in self.processes:
            if p.poll() is None:
                p.kill()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def vanish(self, network, on):
        """What is sent on this network goes to nobody, and no one is told; or it arrives again."""
        for host, name in enumerate(self.names):
            self.ip("-n", name, "neigh", *(["replace", f"{network}.{2 - host}", "lladdr", "02:00:00:00:00:99", "nud", "permanent"]
                                           if on else ["del", f"{network}.{2 - host}"]), "dev", self.device(host, network))

    def command(self, host, *words):
        return ["ip", "netns", "exec", self.names[host], SLUICE, *map(str, words)]

    def log(self, i):
        return (self.folder / f"{i}.log").read_text(errors="replace")

    def start(self, pack, data, *more):
        """Stage 1 and the decode worker on host 1, the coordinator (on 10.77.0.1) and stage 0 on host 0; data: their network."""
        (self.folder / "join.key").write_text("known to the four nodes alone\n")
        roles = [(0, ["coordinator", pack, "--stages", 2, "--listen", "10.77.0.1:50051", "--ops", "10.77.0.1:8081"]),
                 (0, ["stage", pack, "--stage", 0, "--threads", 1]), (1, ["stage", pack, "--stage", 1, "--threads", 1]),
                 (1, ["decode", pack, "--threads", 1])]
        for host, words in roles:
            words += ["--join-key-file", self.folder / "join.key", "--data-address", f"{data}.{host + 1}", *more]
            if words[0] != "coordinator":
                words += ["--coordinator", "10.77.0.1:50051"]
            with open(self.folder / f"{len(self.processes)}.log", "wb") as log:
                self.processes.append(subprocess.Popen(self.command(host, *words), stderr=log))

    def ask(self, max_tokens):
        """From host 1; a process."""
        return subprocess.Popen(self.command(1, "generate", "--endpoint", "10.77.0.1:50051", "--prompt-file",
                                             ROOT / "demo/prompt.txt", "--max-tokens", max_tokens, "--output", "json"),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def answer(self, max_tokens):
        """None: they are not ready."""
        asked = self.ask(max_tokens)
        out = asked.communicate(timeout=PATIENCE)[0]
        return json.loads(out) if asked.returncode == 0 else None


def alone(pack, max_tokens):
    return json.loads(run("generate", "--model", pack, "--prompt-file", ROOT / "demo/prompt.txt", "--max-tokens", max_tokens,
                          "--output", "json").stdout)


needs_network_namespaces = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"),
                                              reason="network namespaces need root and iproute2")


@needs_network_namespaces
def test_across_network_namespaces(pack, tmp_path):
    with TwoHosts(tmp_path, ["10.77.0"]) as hosts:
        hosts.start(pack, "10.77.0")
        expected = alone(pack, 12)
        got = wait_until(lambda: hosts.answer(12), "an answer across namespaces")
        assert got["output_ids"] == expected["output_ids"] and got["logprobs"] == expected["logprobs"]
        hosts.processes[0].send_signal(signal.SIGTERM)
        assert [p.wait() for p in hosts.processes] == [0, 0, 0, 0]


@pytest.mark.slow
@needs_network_namespaces
def test_packets_that_vanish_without_a_word_are_survived(pack, tmp_path):
    """TCP's own next attempt would come too late, some 26 s after the first: the lines are made anew before their peers are lost."""
    with TwoHosts(tmp_path, ["10.77.0", "10.78.0"]) as hosts:
        hosts.start(pack, "10.78.0", "--lost-after", 20)
        expected = alone(pack, 12)
        wait_until(lambda: hosts.answer(12), "an answer")
        hosts.vanish("10.78.0", True)
        asked = hosts.ask(12)
        time.sleep(15)  # it is the fault, not a wait for something
        assert asked.poll() is None, [hosts.log(i) for i in range(4)]
        hosts.vanish("10.78.0", False)
        out = asked.communicate(timeout=PATIENCE)[0]
        assert asked.returncode == 0, [hosts.log(i) for i in range(4)]
        assert json.loads(out)["output_ids"] == expected["output_ids"]
        hosts.processes[0].send_signal(signal.SIGTERM)
        assert [p.wait() for p in hosts.processes] == [0, 0, 0, 0]


def has_time_namespaces():
    return os.geteuid() == 0 and shutil.which("unshare") and subprocess.run(
        ["unshare", "--time", "--monotonic", "1", "--fork", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_time_namespaces(), reason="time namespaces need root and util-linux")
def test_across_clocks(pack, tmp_path):
    """Monotonic clocks that are days apart, as those of machines are: one timeline all the same."""
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    nodes = [(0, ["coordinator", pack, "--stages", 3, "--listen", endpoint, "--ops", ops]),
             (300000, ["stage", pack, "--stage", 0]), (20, ["stage", pack, "--stage", 1]),
             (90000, ["stage", pack, "--stage", 2]), (7000, ["decode", pack])]
    processes = []
    try:
        for ahead_s, words in nodes:
            if words[0] != "coordinator":
                words += ["--threads", 1, "--coordinator", endpoint]
            with open(tmp_path / f"{len(processes)}.log", "wb") as log:
                processes.append(subprocess.Popen(["unshare", "--time", "--monotonic", str(ahead_s), "--fork",
                                                   "--kill-child", SLUICE, *map(str, words)], stdout=log, stderr=log))
        wait_until(lambda: "ready:" in (tmp_path / "0.log").read_text(), "the coordinator's readiness")
        got = json.loads(run("generate", "--endpoint", endpoint, "--prompt-file", ROOT / "demo/prompt.txt", "--chunk", 256,
                             "--max-tokens", 4, "--output", "json").stdout)
        slack_us = 2_000_000  # far above any round trip, far below the 20 s between the nearest two clocks
        by = {(s["stage"], s["chunk"]): s for s in got["timeline"]}
        assert {stage for stage, _ in by} == {0, 1, 2}
        for (stage, chunk), span in by.items():
            assert -slack_us < span["recv_us"] <= span["begin_us"] <= span["end_us"], by
            assert span["end_us"] - slack_us < span["kv_acked_us"] < got["ttft_ms"] * 1000 + 10_000_000, by
            assert stage == 0 or by[stage - 1, chunk]["end_us"] - slack_us < span["recv_us"], by
            assert span["end_us"] < got["ttft_ms"] * 1000 + slack_us, by
    finally:
        for process in processes:
            process.kill()
            process.wait()
