"""--device: a GPU that is not there (its driver and its kernels as twins) gives the CPU's tokens and hash, alone and beside CPUs, and
what cannot be had is said in one sentence."""
import json
import os
import re

import pytest
from conftest import ROOT, run

PROMPT = "A long time ago there was a small village"


def generate(*where, tokens=3):
    reply = run("generate", *where, "--prompt", PROMPT, "--max-tokens", tokens, "--temperature", 0, "--output", "json", "--digest")
    assert reply.returncode == 0, reply.stderr
    answer = json.loads(reply.stdout)
    return answer["output_ids"], answer["logprobs"], answer["digest"]


def test_a_twin_gives_the_cpus_tokens_and_hash(small):
    want = generate("--model", small)
    assert generate("--model", small, "--device", "twin", "--stages", 2) == want


@pytest.mark.parametrize("devices, n_twins", [("twin,cpu", 1), ("cpu,twin,twin", 2)], ids=["prefill", "decode"])
def test_nodes_of_different_kinds_make_one_pipeline(small, start_server, devices, n_twins):
    server = start_server("--devices", devices, model=small)
    ids, logprobs, _ = generate("--model", small, tokens=6)
    got = run("generate", "--endpoint", server.endpoint, "--prompt", PROMPT, "--max-tokens", 6, "--temperature", 0, "--output", "json")
    assert got.returncode == 0, got.stderr
    answer = json.loads(got.stdout)
    assert (answer["output_ids"], answer["logprobs"]) == (ids, logprobs)
    log = server.log()
    assert log.count("twin sm_90 kernels") == n_twins and log.count("kernels, profile f32") == 3


def test_a_plan_for_a_gpu_needs_none(small):
    def stages(device):
        plan = json.loads(run("inspect", small, "--stages", 2, "--json", "--device", device).stdout)
        return plan["stages"]
    cpu, cuda = stages("cpu"), stages("cuda:0")
    assert [s["pinned_bytes"] for s in cpu] == [0] * len(cpu)
    assert all(s["pinned_bytes"] > s["scratch_bytes"] + s["frame_bytes"] > s["frame_bytes"] > 0 for s in cuda)
    assert [s["device_bytes"] for s in cpu] == [0] * len(cpu) and cuda == stages("twin")
    for there, here in zip(cuda, cpu):
        assert there["weight_bytes"] == here["weight_bytes"] and there["kv_bytes"] <= here["kv_bytes"]
        assert there["device_bytes"] > there["weight_bytes"] + there["kv_bytes"] + there["activation_bytes"] - 4096
    text = run("inspect", small, "--stages", 2, "--device", "cuda").stdout
    assert "of that in the memory of the GPU" in text and "; pinned in the host's: " in text


def test_what_cannot_be_had_is_said_in_one_sentence(small):
    def fails(code, *options, **env):
        reply = run("generate", "--model", small, "--prompt", "a", "--max-tokens", 1, *options, env={**os.environ, **env})
        assert reply.returncode == code and reply.stdout == "", (reply.returncode, reply.stdout, reply.stderr)
        return reply.stderr
    assert "unknown; use cpu, cuda, cuda:N, cuda:UUID, auto or twin" in fails(64, "--device", "gpu")
    assert "names no GPU" in fails(64, "--device", "cuda:99")
    missing = fails(69, "--device", "cuda:0", SLUICE_LIBCUDA="/nowhere/libcuda.so.1")
    assert "a GPU needs NVIDIA's driver, which can't be opened" in missing and missing.count("\n") == 1
    for role in ("stage", "decode"):  # before it looks for a coordinator, of which there is none here
        reply = run(role, small, "--device", "cuda", env={**os.environ, "SLUICE_LIBCUDA": "/nowhere/libcuda.so.1"})
        assert reply.returncode == 69, reply.stderr
        assert reply.stderr.splitlines()[-1].startswith(f"sluice {role}: a GPU needs NVIDIA's driver"), reply.stderr
    reply = run("serve", small, "--stages", 1, "--devices", "cpu,cpu,twin")
    assert reply.returncode == 64 and "more than the 2 processes" in reply.stderr


# What a command with the option wants beside it; nothing of it is there, for the device is looked at first.
BESIDE = {
    "generate": ("--model", "{model}", "--prompt", "a"),
    "score": ("--model", "{model}", "--prompt", "a"),
    "eval": ("--model", "{model}", "--text", ROOT / "demo" / "prompt.txt"),
    "inspect": ("{model}",),
    "calibrate": ("{model}",),
    "stage": ("{model}",),
    "decode": ("{model}",),
    "worker": ("{model}", "--stages", 1, "--index", 0),
    "serve": ("{model}",),
    "bench kernels": (),
    "bench prefill": ("--model", "{model}"),
    "bench decode": ("--model", "{model}"),
    "bench cost": ("--model", "{model}"),
}


def options_of_devices():
    """[(command, option)] as the help has them."""
    listed = [line[2:30].strip() for line in run("--help").stdout.splitlines() if line.startswith("  ")]
    names = [" ".join(word for word in line.split() if word.islower() and word[0].isalpha()) for line in listed]
    found = []
    for name in names:
        found += [(name, option) for option in re.findall(r"^  (--device\S*)", run(*name.split(), "--help").stdout, re.M)]
    return found


def test_all_commands_say_the_same_of_the_same_wrong_device(small):
    options = options_of_devices()
    assert {"calibrate", "decode", "eval", "generate", "inspect", "score", "serve", "stage", "worker"} <= {name for name, _ in options}
    for word, part in (("gpu", "is unknown"), ("", "is unknown"), ("cuda:x", "names no GPU")):
        said = set()
        for name, option in options:
            reply = run(*name.split(), *(str(a).format(model=small) for a in BESIDE[name]), option, word)
            assert reply.returncode == 64 and reply.stdout == "", (name, option, word, reply)
            *before, last = reply.stderr.splitlines()
            assert not [line for line in before if "device" in line], (name, reply.stderr)
            said.add(last.split(": ", 1)[1])  # behind the command's name
        assert len(said) == 1 and f'"{word}" {part}' in said.pop(), said
