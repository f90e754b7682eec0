"""Operating a node: a wall clock that is set while it runs, signals that others send, exit codes, and what people type."""
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading

import grpc
import pytest
from conftest import PATIENCE, ROOT, SLUICE, Server, after, free_port, run, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
from test_processes import Stream, ask, generate


# ---- the clock ----

class SteppedClock:
    """The wall clock of processes started with its `env`: `step(seconds)` sets it beside the true one."""

    def __init__(self, folder):
        library = folder / "stepped_clock.so"
        source = pathlib.Path(__file__).with_name("stepped_clock.c")
        subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        path = folder / "step"
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 4096)
        self.env = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(path)}

    def step(self, seconds):
        self.page[:8] = struct.pack("<q", seconds)

    def date(self):
        env = {**os.environ, **self.env}
        return int(subprocess.run(["date", "+%s"], env=env, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def clock(tmp_path):
    return SteppedClock(tmp_path)


def test_the_clock_of_this_test_steps(clock):
    before = clock.date()
    clock.step(-3600)
    assert clock.date() < before - 1800
    clock.step(3600)
    assert clock.date() > before + 1800


def test_a_stepped_clock_ends_no_request_and_spoils_no_histogram(clock, start_server):
    server = start_server("--max-running", 1, "--drain-timeout", 600, env=clock.env)
    first = Stream(server.endpoint, max_tokens=1500).wait_begun()
    queued = [Stream(server.endpoint, max_tokens=3) for _ in range(3)]  # each with a deadline of minutes
    wait_until(lambda: server.metric("sluice_requests_waiting") == 3, "three requests in the queue")
    clock.step(3600)
    wait_until(lambda: server.metric("sluice_requests_waiting") < 3, "the queue to move after a step ahead")
    clock.step(-3600)
    for stream in [first, *queued]:
        assert stream.end().error is None, stream.error
    assert [len(s.ids) for s in [first, *queued]] == [1500, 3, 3, 3]
    for name in ("time_to_first_token", "request_queue", "request_prefill", "inter_token_latency", "request"):
        total, count = (server.metric(f"sluice_{name}_seconds_{what}") for what in ("sum", "count"))
        assert count >= 4 and 0 <= total < 1800, (name, total, count)
        assert server.metric(f'sluice_{name}_seconds_bucket{{le="2560"}}') == count
    last = Stream(server.endpoint, max_tokens=1500).wait_begun()
    server.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in server.log(), "draining")
    clock.step(3600)  # 600 s of draining are not over
    assert last.end().error is None and len(last.ids) == 1500
    assert server.wait() == 0, server.log()


def test_a_clock_set_back_does_not_stretch_a_drain(clock, start_server):
    server = start_server("--drain-timeout", 1, env=clock.env)
    stream = Stream(server.endpoint, max_tokens=15000).wait_begun()
    server.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in server.log(), "draining")
    clock.step(-3600)
    assert server.wait() == 0, server.log()
    assert stream.end().error is not None


# ---- signals ----

def status_mask(pid, name):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\w+)", text, re.M)[1], 16)


def bit(number):
    return 1 << (number - 1)


def test_no_library_keeps_a_signal(start_server):
    """UCX takes SIGHUP for its debugger, and faults, when it is loaded."""
    server = start_server()
    for role, pid in {"serve": server.process.pid, **server.children()}.items():
        caught = status_mask(pid, "SigCgt")
        for number in (signal.SIGHUP, signal.SIGILL, signal.SIGFPE, signal.SIGQUIT, signal.SIGABRT):
            assert not caught & bit(number), (role, number)


def test_a_hangup_drains(start_server):
    server = start_server("--drain-timeout", 600)
    stream = Stream(server.endpoint, max_tokens=1500).wait_begun()
    server.signal(signal.SIGHUP)
    wait_until(lambda: "draining" in server.log(), "draining")
    server.signal(signal.SIGHUP)  # a terminal that closes sends it more than once
    assert stream.end().error is None and len(stream.ids) == 1500
    assert server.wait() == 0, server.log()


@pytest.mark.parametrize("role", ["coordinator", "stage 1"])
def test_a_hangup_of_one_role_drains_all(start_server, role):
    server = start_server("--drain-timeout", 600)
    stream = Stream(server.endpoint, max_tokens=1500).wait_begun()
    os.kill(server.children()[role], signal.SIGHUP)
    assert stream.end().error is None and len(stream.ids) == 1500
    assert server.wait() == 0, server.log()


def test_a_server_ends_with_its_terminal(tmp_path):
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    ours, theirs = os.openpty()
    process = subprocess.Popen(["setsid", "-c", SLUICE, "serve", ROOT / "demo", "--threads", "1", "--listen", endpoint, "--ops", ops],
                               stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        wait_until(lambda: run("health", "--endpoint", endpoint).returncode == 0, "health")
        group = [int(p) for p in os.listdir("/proc") if p.isdigit() and parent_of(p) == process.pid]
        assert len(group) == 4
        os.close(ours)
        assert process.wait(PATIENCE) == 0
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in group), "the end of every role")
    finally:
        process.kill()
        process.wait()


def parent_of(pid):
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def test_nohup_is_obeyed(tmp_path):
    """Who started it with SIGHUP ignored meant that, whatever a library did in between."""
    server = Server(tmp_path, ignores=[signal.SIGHUP])
    try:
        server.wait_ready()
        for pid in [server.process.pid, *server.children().values()]:
            assert status_mask(pid, "SigIgn") & bit(signal.SIGHUP) and not status_mask(pid, "SigCgt") & bit(signal.SIGHUP)
            os.kill(pid, signal.SIGHUP)
        assert len(generate(server.endpoint, max_tokens=5)) == 5
        assert "draining" not in server.log()
        assert server.stop() == 0, server.log()
    finally:
        server.kill()


# ---- ends ----

@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_child_that_dies_of_a_signal_gives_its_number(start_server, number):
    server = start_server()
    os.kill(server.children()["stage 1"], number)
    assert server.wait() == 128 + number
    assert f"was killed by signal {int(number)}" in server.log() and "out of memory" not in server.log()


def test_a_call_that_meets_the_end_is_unavailable_never_cancelled(start_server):
    """Clients that call without a pause while the node drains and goes: CANCELLED would be taken for their own doing."""
    server = start_server()
    seen, gone = [], threading.Event()

    def hammer():
        with grpc.insecure_channel(server.endpoint, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]) as channel:
            stub = pb_grpc.VllmEngineStub(channel)
            while not gone.is_set():
                try:
                    list(stub.Generate(ask(n_ids=3, max_tokens=1), timeout=PATIENCE))
                except grpc.RpcError as error:
                    seen.append((error.code(), error.details(), dict(error.trailing_metadata() or ())))
    clients = [threading.Thread(target=hammer) for _ in range(12)]
    for client in clients:
        client.start()
    wait_until(lambda: server.metric('sluice_requests_total{code="OK",finish_reason="length"}') > 50, "traffic")
    server.signal(signal.SIGTERM)
    code = server.wait()
    gone.set()
    for client in clients:
        client.join(PATIENCE)
    assert code == 0, server.log()
    assert {code for code, _, _ in seen} == {grpc.StatusCode.UNAVAILABLE}, {(code, text) for code, text, _ in seen}
    # a call that was refused says so in its trailers; one that went with its connection has none
    refused = [trailing for _, text, trailing in seen if "send the request to another" in text]
    assert refused and all("grpc-retry-pushback-ms" in trailing for trailing in refused)
    assert "accept4" not in server.log()


# ---- what people type, and what their environment says ----

@pytest.mark.parametrize("args, sentence", [
    (["serve", "--port", "8000", "demo"], "there is no option --port; here it is --listen HOST:PORT"),
    (["serve", "--host", "0.0.0.0", "demo"], "there is no option --host; here it is --listen HOST:PORT"),
    (["serve", "--max-model-len=4096", "demo"], "there is no option --max-model-len; here it is --context N"),
    (["serve", "--served-model-name", "x", "demo"], "there is no option --served-model-name; here it is --name NAME"),
    (["serve", "--max-num-seqs", "8", "demo"], "there is no option --max-num-seqs; here it is --max-running N"),
    (["generate", "--temp", "0.7"], "there is no option --temp; here it is --temperature X"),
    (["serve", "--trust-remote-code", "demo"], "there is no option --trust-remote-code: no code of a model is run; leave it out"),
])
def test_options_of_other_engines_are_translated(args, sentence):
    done = run(*args)
    assert done.returncode == 64 and done.stderr.strip() == f"sluice {args[0]}: {sentence}"


def test_a_variable_that_means_nothing_is_told():
    env = {**os.environ, "SLUICE_MAX_RUNING": "3", "SLUICE_NONSENSE_ALTOGETHER": "1", "SLUICE_SERVICE_HOST": "10.0.0.1",
           "SLUICE_PORT_50051_TCP": "tcp://10.0.0.1:50051", "SLUICE_LOG": "warn", "SLUICE_DATA_PORT": "13001"}
    done = run("version", env=env)
    assert done.returncode == 0
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, lines
    assert any("SLUICE_MAX_RUNING" in line and "did you mean SLUICE_MAX_RUNNING?" in line for line in lines)
    assert any("SLUICE_NONSENSE_ALTOGETHER" in line and "did you mean" not in line for line in lines)


def test_options_of_serve_by_environment_stay_its_own(tmp_path):
    """They reached the children once, who then fought for one port."""
    ops, data = f"127.0.0.1:{free_port()}", free_port()
    listen = f"127.0.0.1:{free_port()}"
    config = tmp_path / "serve.yaml"
    config.write_text("stages: 2\nmax-running: 3\n")
    env = {**os.environ, "SLUICE_OPS": ops, "SLUICE_LISTEN": listen, "SLUICE_DATA_PORT": str(data), "SLUICE_THREADS": "1",
           "SLUICE_STAGE": "1", "SLUICE_CONFIG": str(config)}
    process = subprocess.Popen([SLUICE, "serve", ROOT / "demo"], env=env, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: process.poll() is not None or run("health", "--endpoint", listen).returncode == 0, "health")
        assert process.poll() is None, process.stderr.read()
        assert len(generate(listen, max_tokens=3)) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


# ---- checkpoints as they lie about ----

@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    subprocess.run([sys.executable, ROOT / "tests/golden/make_tiny.py", folder, "--name", "base"], check=True)
    return folder


def change_config(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4998\n"


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def fuse_experts(folder):
    """One tensor for gate and up of all experts of layer 1, as transformers 5 saves when it is told to; only the names matter."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    name = next(k for k in header if ".mlp.experts.0.gate_proj" in k)
    header[name.replace("0.gate_proj.weight", "gate_up_proj")] = header.pop(name)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n:])


@pytest.mark.parametrize("spoil, sentence", [
    (lambda m: change_config(m, quantization_config={"quant_method": "fp8", "modules_to_not_convert": ["lm_head"] * 90}),
     "the model is quantised as fp8 (quantization_config), which is not read yet; take its repository with BF16 weights"),
    (lambda m: (m / "model.safetensors").write_text(POINTER), "is a git-lfs pointer, not the file itself; run `git lfs pull`"),
    (lambda m: (m / "config.json").write_text(POINTER), "is a git-lfs pointer, not the file itself; run `git lfs pull`"),
    (lambda m: (m / "model.safetensors").rename(m / "model-00001-of-00002.safetensors"),
     "holds shards (model-00001-of-00002.safetensors) but no model.safetensors.index.json"),
    (lambda m: make_fifo(m / "model.safetensors"), "is not a regular file"),
    (lambda m: make_fifo(m / "config.json"), "is not a regular file"),
    (fuse_experts, "experts are fused into one tensor (experts.gate_up_proj), which is not read yet"),
], ids=["fp8", "lfs weights", "lfs config", "no index", "fifo weights", "fifo config", "fused"])
def test_a_checkpoint_that_cannot_be_read_is_named(checkpoint, tmp_path, spoil, sentence):
    spoil(checkpoint)
    done = run("pack", checkpoint, tmp_path / "made.pack")
    assert done.returncode == 65, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sluice pack: ") and sentence in last and len(last) < 400


def test_what_cannot_be_served_is_refused_before_packing(checkpoint, tmp_path):
    cache = tmp_path / "cache"
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    context = json.loads((checkpoint / "config.json").read_text())["max_position_embeddings"]
    for command in ("serve", "coordinator"):
        done = run(command, checkpoint, "--context", context + 1, env=env)
        assert done.returncode == 78
        assert f"a context of {context + 1} tokens is more than the model's {context}" in done.stderr
        assert "rope_scaling" in done.stderr and not list(cache.rglob("*.pack*"))
    for command in ("serve", "coordinator", "generate", "score"):
        ask = () if command in ("serve", "coordinator") else ("--prompt", "x", "--model")
        done = run(command, *ask, checkpoint, "--stages", 50, env=env)
        assert done.returncode == 78 and "50 stages cannot share" in done.stderr, done.stderr
        assert not list(cache.rglob("*.pack*"))
    change_config(checkpoint, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": context})
    done = run("serve", checkpoint, "--context", 4 * context + 1, env=env)
    assert done.returncode == 78 and f"more than the model's {4 * context}" in done.stderr


def check_served(words, listen):
    process = subprocess.Popen([*words, SLUICE, "serve", ROOT / "demo", "--threads", "1", "--listen", listen, "--ops",
                                f"127.0.0.1:{free_port()}"], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: process.poll() is not None or run("health", "--endpoint", listen).returncode == 0, "health")
        assert len(generate(listen, max_tokens=20)) == 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("files", [256, 64, 32])
def test_few_descriptors_are_enough_or_refused_by_name(files, tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    words = after(f"ulimit -n {files}")
    if files == 256:
        check_served(words, listen)
        return
    done = subprocess.run([*words, SLUICE, "serve", ROOT / "demo", "--listen", listen, "--ops", f"127.0.0.1:{free_port()}"],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 78
    assert f"may have {files} files open here, and a node of this pipeline needs 170;" in done.stderr


def test_memory_need_not_be_lockable():
    check_served(after("ulimit -l 0"), f"127.0.0.1:{free_port()}")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a /dev/shm of its own needs root and unshare")
def test_shared_memory_need_not_be_there():
    hide = "mount -t tmpfs -o size=4k,ro,mode=000 none /dev/shm && exec \"$@\""
    check_served(["unshare", "-m", "sh", "-c", hide, "sh"], f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_process_of_a_container_ends_when_it_is_told_to(number):
    """To a PID 1 the kernel does nothing by default: before a node waits for signals, and in every other command, it must itself."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode != 0:
        pytest.skip("there are no process namespaces here: it takes root and unshare")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ours = signal.signal(number, signal.SIG_DFL)  # whoever started us in the background may have us ignore it, and that is heeded
        try:
            outer = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", SLUICE, "health", "--endpoint",
                                      f"127.0.0.1:{silent.getsockname()[1]}", "--timeout-ms", "600000"], stderr=subprocess.DEVNULL)
        finally:
            signal.signal(number, ours)
        held, _ = silent.accept()  # by a name: dropped, it would be closed, and the command end by itself
        children = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(children[0]), number)
        assert outer.wait(PATIENCE) == 128 + number
