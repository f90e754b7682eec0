"""Strangers at the data ports, over real sockets: garbage, idle connections, floods, few descriptors. A node hears nobody there but
the hosts of neighbours whose links are not up yet; what happens to bytes that are not heard does not matter, so first of all it is
shown that they are not.

A connection over the loopback interface is there when connect() returns; one that is not is tried again by the kernel after a
second, in vain. So nothing here waits for a connection that must not come."""
import contextlib
import errno
import os
import pathlib
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys

import grpc
import pytest
from conftest import PATIENCE, ROOT, SLUICE, Process, free_port, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

MAGIC = struct.pack("<Q", 0xCAFEBABE12345678)  # the first bytes of UCX's tcp transport
GARBAGE = {"zeros": bytes(64), "random": os.urandom(600), "half of the magic": MAGIC[:4], "the magic": MAGIC,
           "the magic and garbage": MAGIC + b"\xff" * 64, "the magic and a length": MAGIC + struct.pack("<BI", 32, 1 << 31)}


def data_ports(server):
    """{port} of all processes of a server, as they name them at start."""
    return {int(port) for port in re.findall(r"data port 127\.0\.0\.1:(\d+)", server.log())}


def knock(port):
    """A socket that has tried to connect, and whether there is a connection."""
    s = socket.socket()
    s.setblocking(False)
    status = s.connect_ex(("127.0.0.1", port))
    assert status in (0, errno.EINPROGRESS), os.strerror(status)
    _, writable, _ = select.select([], [s], [], 0)
    return s, bool(writable)


def is_deaf(port):
    s, heard = knock(port)
    s.close()
    return not heard


def generate(endpoint, n_ids=60, max_tokens=30):
    request = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[(i * 31) % 4000 for i in range(n_ids)]),
                                 sampling_params=pb.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True))
    with grpc.insecure_channel(endpoint) as channel:
        return list(list(pb_grpc.VllmEngineStub(channel).Generate(request, timeout=PATIENCE))[-1].complete.output_ids)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def listening(pid):
    """The TCP ports at which a process listens."""
    inodes, ports = set(), set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return ports


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    from conftest import Server
    server = Server(tmp_path_factory.mktemp("serve"))
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def unhurt(serving):
    """Whatever was done, the server goes on: the same processes, as many descriptors, the same answers, no link lost."""
    wait_until(lambda: all(is_deaf(port) for port in data_ports(serving)), "the end of forming")
    before = generate(serving.endpoint)
    children, count = serving.children(), {pid: descriptors(pid) for pid in serving.children().values()}
    yield serving
    assert generate(serving.endpoint) == before
    assert serving.children() == children and serving.get("/readyz")[0] == 200
    for pid, n in count.items():
        wait_until(lambda pid=pid, n=n: descriptors(pid) <= n, "descriptors that come back")
    assert "was lost" not in serving.log()


def test_strangers_are_not_heard_when_links_are_up(unhurt):
    """Not one of them becomes a connection, so nothing of what they have to say is ever read."""
    ports = data_ports(unhurt)
    assert len(ports) == 4  # coordinator, two stages, decode
    with contextlib.ExitStack() as open_ones:
        for port in ports:
            for data in GARBAGE.values():
                for _ in range(20):
                    s, heard = knock(port)
                    open_ones.enter_context(s)
                    assert not heard
                    with pytest.raises(OSError):
                        s.send(data)
        assert generate(unhurt.endpoint)


def test_no_descriptor_left_and_a_flood_do_not_close_the_port(unhurt):
    """UCX closes its listener for good when accept() finds no descriptor: here it is never asked to."""
    pids = [pid for role, pid in unhurt.children().items() if role.startswith(("stage", "decode"))]
    assert len(pids) == 3
    for pid in pids:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        highest = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
        before = listening(pid)
        assert before & data_ports(unhurt)
        sockets = [knock(port)[0] for port in before for _ in range(200)]
        assert generate(unhurt.endpoint)
        assert listening(pid) == before
        for s in sockets:
            s.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_data_port_is_the_one_that_was_asked_for_and_the_only_one(tmp_path):
    """--data-port is what firewalls are told. A worker that waits for its coordinator listens there, and nowhere else."""
    port = free_port()
    worker = Process(tmp_path, "stage", "stage", ROOT / "demo", "--stage", 0, "--threads", 1, "--data-port", port,
                     "--coordinator", f"127.0.0.1:{free_port()}")
    try:
        wait_until(lambda: f"data port 127.0.0.1:{port}" in worker.log(), "the data port")
        assert listening(worker.process.pid) == {port}
        assert is_deaf(port)
        second = subprocess.run([SLUICE, "stage", ROOT / "demo", "--data-port", str(port)], capture_output=True, text=True,
                                timeout=PATIENCE)
        assert second.returncode == 69 and f"127.0.0.1:{port}" in second.stderr and "in use" in second.stderr
    finally:
        worker.kill()


@pytest.mark.parametrize("address, code, says", [
    ("*", 78, "every interface"), ("0.0.0.0", 78, "every interface"), ("[::]", 78, "every interface"),
    ("fe80::1%lo", 78, "one network link only"), ("203.0.113.7", 69, "203.0.113.7"), ("127.0.0.9", 78, "127.0.0.1"),
    ("no name", 78, "no name")])
def test_what_cannot_be_bound_is_refused_in_a_sentence(address, code, says):
    done = subprocess.run([SLUICE, "stage", ROOT / "demo", "--insecure-network", "--data-address", address], capture_output=True, text=True,
                          timeout=PATIENCE)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code and says in last and address in last
    assert "UCX  " not in done.stderr  # none of its own lines


HAMMER = """
import os, select, socket, struct, sys
magic = struct.pack("<Q", 0xCAFEBABE12345678)
ports, n, hold = [int(p) for p in sys.argv[3:]], 0, []
end_with_input = lambda: select.select([sys.stdin], [], [], 0)[0]
while not end_with_input():
    for port in ports:
        for _ in range(16):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", port))
            n += 1
            if sys.argv[1] == "garbage":
                try:
                    s.send([bytes(64), os.urandom(600), magic[:4], magic][n % 4])
                except OSError:
                    pass
            hold.append(s)
            if len(hold) > int(sys.argv[2]):
                hold.pop(0).close()
print(n)
"""


@contextlib.contextmanager
def hammer(kind, hold, ports):
    """Connections to these ports, as fast as one process can, of which so many are held; tells how many there were."""
    process = subprocess.Popen([sys.executable, "-c", HAMMER, kind, str(hold), *map(str, ports)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    told = {}
    try:
        yield told
        told["n"] = int(process.communicate("x", timeout=PATIENCE)[0])
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kind, hold", [("garbage", 0), ("idle", 2000)])
def test_floods_end_no_link_and_lose_no_answer(unhurt, kind, hold):
    before = generate(unhurt.endpoint)
    with hammer(kind, hold, data_ports(unhurt)) as told:
        for _ in range(60):
            assert generate(unhurt.endpoint) == before
    assert told["n"] > 1000


@pytest.mark.slow
def test_garbage_while_links_form_does_not_hinder_them(start_server):
    """The hosts of neighbours, here everybody on this machine, are heard in that time. What is not UCX's is closed by UCX, and
    the links come up."""
    for _ in range(3):
        with hammer("garbage", 0, range(13000, 13064)) as told:
            server = start_server()
            first = generate(server.endpoint)
        assert told["n"] > 1000
        assert generate(server.endpoint) == first
        assert server.stop() == 0


@pytest.mark.slow
def test_a_port_that_ucx_closed_is_said_and_links_go_on(start_server):
    """While a neighbour is silent its host is heard, here everybody on this machine. Who takes the last descriptor of the node then
    makes UCX close the port; what is up stays up."""
    server = start_server()
    first, children = generate(server.endpoint), server.children()
    pid, held = children["stage 0"], []
    port = (listening(pid) & data_ports(server)).pop()
    os.kill(children["decode"], signal.SIGSTOP)
    try:
        wait_until(lambda: not is_deaf(port), "an ear for the silent neighbour")
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) + 2, hard))

        def closed():
            with contextlib.suppress(AssertionError):  # refused: it is closed
                held.append(knock(port)[0])
            return f"UCX has closed its data port {port}" in server.log()
        wait_until(closed, "the sentence about the port")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        os.kill(children["decode"], signal.SIGCONT)
        for s in held:
            s.close()
    wait_until(lambda: server.get("/readyz")[0] == 200, "readiness")
    assert generate(server.endpoint) == first and server.children() == children
    assert server.stop() == 0


def test_what_frames_prove_changes_no_answer(server, start_server):
    """Every mode of --link-auth, between processes: frames of all links are made and checked, prefill to decode."""
    first = generate(server.endpoint)
    for mode in "none", "payload":  # `server` has the default
        other = start_server("--link-auth", mode, "--rows", "staged")  # which is what there is
        assert generate(other.endpoint) == first
        assert other.stop() == 0


@pytest.mark.parametrize("way", ["ucx", "nccl"])
def test_rows_from_gpu_to_gpu_want_gpus(pack, way):
    """No stage computes in a GPU yet: refused in a sentence, by a stage and by whoever starts stages."""
    for command in (["stage", pack, "--coordinator", f"127.0.0.1:{free_port()}", "--join-timeout", "1"],
                    ["serve", pack, "--listen", f"127.0.0.1:{free_port()}", "--ops", f"127.0.0.1:{free_port()}"]):
        done = subprocess.run([SLUICE, *command, "--rows", way], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 78, done.stderr
        assert f"--rows {way} is for rows in a GPU's memory, and this stage computes in the host's; choose --rows staged" in done.stderr


@pytest.mark.parametrize("transports, sentence", [
    ("rc,tcp", "UCX_TLS asks for RDMA (rc), but this process may lock 8192 KiB of memory only"),
    ("tcp,dc_mlx5", "asks for RDMA (dc_mlx5)"), ("tcp", None), ("^rc", None), ("rcx,tcp", None)])
def test_rdma_without_memory_to_lock_is_refused_rather_than_replaced(pack, transports, sentence):
    """UCX would go on over TCP."""
    without_caps = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(["prlimit", "--memlock=8388608:8388608", *without_caps, SLUICE, "decode", pack, "--coordinator",
                           f"127.0.0.1:{free_port()}", "--join-timeout", "1"], capture_output=True, text=True,
                          env={**os.environ, "UCX_TLS": transports}, timeout=PATIENCE)
    assert done.returncode == (78 if sentence else 69) and (not sentence or sentence in done.stderr), done.stderr
