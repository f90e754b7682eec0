"""Nodes agree on a numerics profile at Join: the fastest that the coordinator allows and all of them offer, or none.

SLUICE_CPU takes the processor's bf16 dot product away from single processes, so a mixed pipeline runs on one machine.
What needs the instruction is skipped, aloud, where there is none.
"""
import json
import os
import signal
import urllib.request

import pytest
from conftest import PATIENCE, SLUICE, Process, free_port, run, wait_until

PROMPT = "A long time ago there was a small village by the sea, and in it lived"


HAS_BF16DOT = "bf16dot" in json.loads(run("version", "--json").stdout)["machine_numerics"] if SLUICE.exists() else False
needs_bf16dot = pytest.mark.skipif(not HAS_BF16DOT, reason="this machine does not offer bf16dot (no AVX512_BF16)")


@pytest.fixture
def pipeline(pack, tmp_path):
    """Starts a coordinator, two stages and a decode worker; `nodes` are (extra arguments, environment) of the three."""
    started = []

    def start(numerics, *nodes):
        endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        started.append(Process(tmp_path, "coordinator", "coordinator", pack, "--stages", 2, "--listen", endpoint, "--ops", ops,
                               "--numerics", numerics))
        for i, (args, env) in enumerate(nodes):
            role = ["decode"] if i == 2 else ["stage", "--stage", i]
            started.append(Process(tmp_path, f"node-{i}", role[0], pack, *role[1:], "--coordinator", endpoint, "--threads", 1,
                                   *args, env=env))
        return endpoint, ops, *started
    yield start
    for process in started:
        process.kill()


def logprobs(*where):
    reply = run("generate", *where, "--prompt", PROMPT, "--max-tokens", 12, "--output", "json")
    assert reply.returncode == 0, reply.stderr
    return json.loads(reply.stdout)["logprobs"]


def check(pack, pipeline, numerics, nodes, profile):
    """The pipeline comes up in this profile, says so, and has the bits that one process has in it."""
    endpoint, ops, coordinator, *workers = pipeline(numerics, *nodes)
    wait_until(lambda: "ready:" in coordinator.log(), "the coordinator's readiness")
    assert f"numerics profile {profile}" in coordinator.log()
    for worker in workers:
        assert f"profile {profile}" in worker.log()
    with urllib.request.urlopen(f"http://{ops}/version", timeout=PATIENCE) as reply:
        version = json.loads(reply.read())
    assert version["numerics"] == profile and "f32" in version["machine_numerics"]
    assert logprobs("--endpoint", endpoint) == logprobs("--model", pack, "--numerics", profile)
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait() == 0


ANY, F32_ONLY, WITHOUT = ([], {}), (["--numerics", "f32"], {}), ([], {"SLUICE_CPU": "ref"})


@needs_bf16dot
def test_all_have_it(pack, pipeline):
    check(pack, pipeline, "auto", [ANY, ANY, ANY], "bf16dot")


@needs_bf16dot
def test_one_machine_without_the_instruction_makes_it_f32(pack, pipeline):
    check(pack, pipeline, "auto", [ANY, WITHOUT, ANY], "f32")


def test_one_node_that_offers_less_makes_it_f32(pack, pipeline):
    check(pack, pipeline, "auto", [ANY, ANY, F32_ONLY], "f32")


def test_the_coordinator_decides(pack, pipeline):
    check(pack, pipeline, "f32", [ANY, ANY, ANY], "f32")


def test_a_node_that_cannot_is_refused_in_a_sentence(pipeline):
    _, _, coordinator, node = pipeline("bf16dot", WITHOUT)
    assert node.wait() == 78
    assert "no numerics profile in common: this pipeline can run bf16dot, this node offers f32" in node.log()
    assert "--numerics auto or f32" in node.log()
    assert "was refused" in coordinator.log() and coordinator.alive()


@needs_bf16dot
def test_two_nodes_that_cannot_agree(pipeline):
    endpoint, _, coordinator, first, second = pipeline("auto", F32_ONLY, (["--numerics", "bf16dot"], {}))
    refused = wait_until(lambda: [n for n in (first, second) if not n.alive()], "a refusal")
    assert len(refused) == 1 and refused[0].wait() == 78
    assert "no numerics profile in common" in refused[0].log()


def test_a_machine_that_lacks_it_says_so(pack):
    reply = run("generate", "--model", pack, "--prompt", "x", "--numerics", "bf16dot",
                env={**os.environ, "SLUICE_CPU": "ref"})
    assert reply.returncode == 78 and "AVX512_BF16" in reply.stderr and reply.stderr.count("\n") == 1
    assert run("version", "--json", env={**os.environ, "SLUICE_CPU": "ref"}).stdout.count('"machine_numerics": "f32"') == 1
