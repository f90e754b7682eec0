"""A process of a running pipeline that is stopped for a while: the pipeline is not ready, nothing is lost, and when it is heard
again everything goes on with the same bits; only after --lost-after it counts as lost.
"""
import signal
import subprocess
import time

import grpc
import pytest
from conftest import PATIENCE, ROOT, Server, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
from test_processes import Stream, generate

ROLES = ["coordinator", "stage 0", "stage 1", "stage 2", "decode"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("freeze"), "--lost-after", 60, stages=3, name="freeze").wait_ready()
    yield server
    server.kill()


def freeze(server, role, seconds, meanwhile=lambda: None):
    """Stops one process. The time is part of the fault: it is not measured."""
    pid = server.children()[role]
    subprocess.run(["kill", "-STOP", str(pid)], check=True)
    try:
        meanwhile()
        time.sleep(seconds)
    finally:
        subprocess.run(["kill", "-CONT", str(pid)], check=True)


def begin(kind):
    """A request of which `kind` is going on: None when idle."""
    return {"idle": None, "prefill": {"n_ids": 3000, "max_tokens": 4}, "decode": {"n_ids": 20, "max_tokens": 200}}[kind]


def check_freeze(server, role, seconds, kind, meanwhile=lambda: None):
    how = begin(kind)
    right = generate(server.endpoint, **how) if how else None
    stream = Stream(server.endpoint, **how) if how else None
    if kind == "decode":
        stream.begun.wait(PATIENCE)
    freeze(server, role, seconds, meanwhile)
    if stream:
        stream.join(PATIENCE)
        assert stream.error is None and stream.ids == right, (stream.error, server.log())
    wait_until(lambda: server.get("/readyz")[0] == 200, "readiness afterwards")
    assert generate(server.endpoint, n_ids=20, max_tokens=8) == generate(server.endpoint, n_ids=20, max_tokens=8)


@pytest.mark.parametrize("role", ["stage 1", "decode"])
def test_a_stopped_process_is_waited_for(server, role):
    """Stage 1 has no link with the coordinator: its neighbours say that it is silent."""
    def meanwhile():
        wait_until(lambda: server.get("/readyz")[0] == 503, "that it is not ready")
        assert server.get("/livez")[0] == 200
        assert "silent" in server.get("/readyz")[1]
        assert server.metric("sluice_ready") == 0
    check_freeze(server, role, 0, "decode", meanwhile)
    assert f"hears nothing from {role}" in server.log()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["idle", "prefill", "decode"])
@pytest.mark.parametrize("seconds", [0.3, 0.9, 2, 5])
@pytest.mark.parametrize("role", ROLES)
def test_every_role_can_be_stopped_whatever_it_does(server, role, seconds, kind):
    check_freeze(server, role, seconds, kind)


@pytest.mark.slow
@pytest.mark.parametrize("role", [role for role in ROLES if role != "decode"])  # that one: test_decoders.py
def test_who_is_silent_for_too_long_is_lost(tmp_path, role):
    server = Server(tmp_path, "--lost-after", 3, stages=3).wait_ready()
    try:
        stream = Stream(server.endpoint, n_ids=20, max_tokens=4000)
        stream.begun.wait(PATIENCE)
        subprocess.run(["kill", "-STOP", str(server.children()[role])], check=True)
        assert server.wait() != 0
        stream.join(PATIENCE)
        assert stream.error is not None and stream.error.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        server.kill()
