"""A group of like processes, each told only its index, as a LeaderWorkerSet or a StatefulSet starts them: which role it has, that
the group ends as one, and the time that gateways are given to notice it."""
import shutil
import signal
import subprocess

import grpc
import pytest
from conftest import SLUICE, free_port, get, run, wait_until
from test_processes import Stream, generate


class Group:
    """A coordinator and as many workers as stages and decode workers, by their index."""

    def __init__(self, spawn, pack, *args, size=3):
        self.endpoint, self.ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.coordinator = spawn("coordinator", "coordinator", pack, "--stages", 2, "--listen", self.endpoint, "--ops", self.ops, *args)
        self.workers = [spawn(f"worker-{i}", "worker", pack, "--index", i, "--stages", 2, "--threads", 1, "--coordinator",
                              self.endpoint) for i in range(size)]
        wait_until(lambda: get(self.ops, "/readyz")[0] == 200, "readiness")

    def ended(self):
        for process in (self.coordinator, *self.workers):
            assert process.wait() == 0, process.log()


def test_an_index_says_which_stage_it_is_or_that_it_decodes(spawn, pack):
    group = Group(spawn, pack)
    assert len(generate(group.endpoint)) == 8
    log = group.coordinator.log()
    assert all(f"{name} " in log for name in ("stage 0", "stage 1", "decode 0")), log
    group.coordinator.signal(signal.SIGTERM)
    group.ended()


@pytest.mark.parametrize("index", [1, 2])
def test_a_worker_that_is_told_to_stop_lets_all_finish(spawn, pack, index):
    """Also the decode worker: the group ends as one, and nothing of it before what runs is done."""
    group = Group(spawn, pack, "--drain-timeout", 600)
    alone = generate(group.endpoint, n_ids=40, max_tokens=400)
    streams = [Stream(group.endpoint, n_ids=40, max_tokens=400).wait_begun() for _ in range(3)]
    group.workers[index].signal(signal.SIGTERM)
    wait_until(lambda: "draining the pipeline" in group.coordinator.log(), "the drain")
    for stream in streams:
        assert stream.end().error is None, stream.error
        assert stream.ids == alone
    group.ended()


def test_requests_are_taken_while_gateways_notice(spawn, pack):
    group = Group(spawn, pack, "--drain-delay", 3600)
    group.coordinator.signal(signal.SIGTERM)
    wait_until(lambda: get(group.ops, "/readyz")[0] == 503, "not ready")
    assert run("health", "--endpoint", group.endpoint).returncode == 69
    assert get(group.ops, "/livez")[0] == 200
    assert len(generate(group.endpoint)) == 8
    group.coordinator.signal(signal.SIGTERM)  # who insists ends it at once
    assert group.coordinator.wait() == 128 + signal.SIGTERM


def test_after_the_delay_the_rest_is_refused_with_a_pushback(spawn, pack):
    group = Group(spawn, pack, "--drain-delay", 1, "--drain-timeout", 600)
    stream = Stream(group.endpoint, n_ids=40, max_tokens=3000).wait_begun()
    group.coordinator.signal(signal.SIGTERM)
    wait_until(lambda: "draining:" in group.coordinator.log(), "the drain")
    late = Stream(group.endpoint).end()
    assert stream.ids is None, "it ended before the drain began; ask it for more"
    assert late.error.code() == grpc.StatusCode.UNAVAILABLE
    assert int(dict(late.error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert stream.end().error is None and len(stream.ids) == 3000
    group.ended()


@pytest.mark.parametrize("name, code, sentence", [
    ("sluice-worker-x", 64, "name, sluice-worker-x, does not end in a dash and a number; give --index"),
    ("sluice", 64, "give --index"), ("group-7-1", 69, "sluice stage: no coordinator answers"),
    ("group-1-2", 69, "sluice decode: no coordinator answers")])
def test_the_index_is_behind_the_last_dash_of_the_host_name(pack, name, code, sentence):
    if not shutil.which("unshare") or subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode != 0:
        pytest.skip("the host name can't be changed: it takes root and unshare")
    done = subprocess.run(["unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh", SLUICE, "worker", str(pack),
                           "--coordinator", f"127.0.0.1:{free_port()}", "--join-timeout", "1"], capture_output=True, text=True)
    assert done.returncode == code and sentence in done.stderr, done.stderr
    if code == 69 and "stage" in sentence:
        assert '"role":"stage 1"' in done.stderr


def test_what_is_no_index_is_refused(pack):
    for index in ("-1", "1.5", "one", ""):
        done = run("worker", pack, f"--index={index}")
        assert done.returncode == 64 and "it takes a number or hostname" in done.stderr, (index, done.stderr)
