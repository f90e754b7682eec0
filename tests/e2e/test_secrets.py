"""What a node must not leave behind: prompts and answers in logs, memory in cores, keys where /proc shows them."""
import os
import pathlib
import resource
import signal

import grpc
import pytest
from certs import Authority
from conftest import PATIENCE, Server, run, wait_until
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

MARKER = "xylophone zebra quartz"


def traces_of(text):
    """How it could be written: as it is, in JSON, in hexadecimal, and its words alone."""
    return [text, text.replace(" ", "\\u0020"), text.encode().hex(), text.split()[0], text.split()[2]]


def test_no_log_has_a_prompt_an_answer_or_what_identifies_them(start_server, tmp_path):
    """All that can be said of a request is made to be said: it is served, streamed, cancelled, refused for each part of it, too long,
    beyond its time, and cut off by the end of the node."""
    server = start_server("--max-waiting", 4)
    salt = "salt-of-" + MARKER.replace(" ", "-")
    with grpc.insecure_channel(server.endpoint) as channel:
        engine = pb_grpc.VllmEngineStub(channel)

        def ask(text=MARKER, metadata=(), timeout=PATIENCE, **sampling):
            request = pb.GenerateRequest(text=text, stream=True, sampling_params=pb.SamplingParams(**{"max_tokens": 8, **sampling}))
            return engine.Generate(request, timeout=timeout, metadata=metadata)
        answered = list(ask(temperature=0, stop=[MARKER + " stop"], metadata=(("x-cache-salt", salt),)))
        assert answered
        for bad in (lambda: ask(stop=["\ud7ff" + MARKER] * 200), lambda: ask(text=(MARKER + " ") * 20000),
                    lambda: ask(regex=MARKER), lambda: ask(json_schema=MARKER), lambda: ask(temperature=-1),
                    lambda: ask(metadata=(("x-cache-salt", MARKER * 20),)), lambda: ask(max_tokens=10**9),
                    lambda: ask(timeout=0.001, max_tokens=2000), lambda: ask(logit_bias={10**8: 1.0})):
            try:
                list(bad())
            except grpc.RpcError:
                pass
        call = ask(max_tokens=3000, ignore_eos=True)
        next(call)
        call.cancel()
        left = ask(max_tokens=3000, ignore_eos=True)
        next(left)
        run("generate", "--endpoint", server.endpoint, "--prompt", MARKER, "--max-tokens", 4)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)
        server.wait()
    log = server.log()
    assert 'request \\"' in log  # it does say that there were requests
    for trace in (*traces_of(MARKER), salt):
        assert trace not in log, trace


def test_no_process_that_holds_prompts_writes_a_core(start_server, tmp_path):
    server = start_server()
    for role, pid in {**server.children(), "serve": server.process.pid}.items():
        assert max(resource.prlimit(pid, resource.RLIMIT_CORE)) <= 1, role
    before = set(pathlib.Path.cwd().glob("core*"))
    os.kill(server.children()["decode"], signal.SIGSEGV)
    wait_until(lambda: "another is started" in server.log(), "the news of it")
    assert set(pathlib.Path.cwd().glob("core*")) == before


@pytest.mark.parametrize("by", ["options", "environment"])
def test_keys_are_in_no_arguments_and_no_environment(tmp_path, by):
    """Paths may be there; what is in the files is not."""
    ca = Authority(tmp_path)
    party = ca.sign("server", "DNS:localhost")
    options = {"tls-cert": party.cert, "tls-key": party.key, "tls-ca": ca.cert}
    words = [word for name, path in options.items() for word in (f"--{name}", path)] if by == "options" else []
    env = {} if by == "options" else {"SLUICE_" + name.upper().replace("-", "_"): str(path) for name, path in options.items()}
    server = Server(tmp_path, *words, env=env).wait_ready()
    secret = party.key.read_text().splitlines()[1].encode()
    assert len(secret) > 30
    for pid in (*server.children().values(), server.process.pid):
        for name in ("cmdline", "environ"):
            assert secret not in pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    assert secret.decode() not in server.log()
    assert server.stop() == 0, server.log()
    server.kill()
