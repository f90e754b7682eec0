"""Operating a node: a wall clock that is set while it runs, signals that others send, exit codes, and what people type."""
import mmap
import os
import pathlib
import signal
import struct
import subprocess

import pytest
from test_processes import Stream, generate
from conftest import wait_until


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
