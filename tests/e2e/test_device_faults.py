"""What can go wrong with a GPU, in processes that have one: the twin of the driver with the twins of our kernels, as the library that
the real one is in (tests/gpu/libcuda.c), so that all between `--device cuda:0` and the driver is what runs on a GPU. Each fault is one
sentence and the right exit code; one that comes in the middle of a prompt is the loss of a stage, and nothing hangs."""
import json
import os
import pathlib
import re

import grpc
import pytest
from conftest import PATIENCE, SLUICE, Server, run
from test_processes import Stream, generate

LIBCUDA = SLUICE.parent / "twin/libcuda.so.1"
no_kernels = re.search(r"cuda: no kernels.*", run("version").stdout) if SLUICE.exists() else None
pytestmark = pytest.mark.skipif(no_kernels or not LIBCUDA.exists(), reason=f"{no_kernels[0] if no_kernels else LIBCUDA}")


class Machine:
    """A machine with GPUs that nobody else has: the environment of its processes, and the locks of its stages."""

    def __init__(self, number):
        self.number = number
        self.env = {"SLUICE_LIBCUDA": str(LIBCUDA), "TWIN_MACHINE": str(number),
                    "SLUICE_NCCL": "/nowhere/libnccl.so.2"}  # a real one, where there is one, finds no GPU that is real

    def uuid(self, device):
        text = (b"sluice's" + self.number.to_bytes(4, "little") + b"n 0" + bytes([device])).hex()
        return "GPU-" + "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:]])

    def locks(self, device):
        return [pathlib.Path(f"{folder}/sluice-{self.uuid(device)}.lock") for folder in ("/run/lock", "/tmp")]


@pytest.fixture(scope="module")
def machine():
    it = Machine(os.getpid())
    yield it
    for lock in [path for device in range(2) for path in it.locks(device)]:
        lock.unlink(missing_ok=True)


def generated(model, machine, *options, device="cuda:0", **env):
    return run("generate", "--model", model, "--device", device, "--prompt", "A long time ago", "--max-tokens", 2, "--temperature", 0,
               "--output", "json", "--digest", *options, env={**os.environ, **machine.env, **env})


# As soon as any prediction allows: nothing that these models do may take longer, whoever predicts it.
HANGS = "a chunk's work does not end on the GPU: given up after 2.0 s"
# What is wrong before anything is computed: environment, --device, and what is said.
UNKNOWN = "cuda:GPU-01234567-89ab-cdef-0123-456789abcdef"
BEFORE = {
    "no driver": ({"SLUICE_LIBCUDA": "/nowhere/libcuda.so.1"}, "cuda", "a GPU needs NVIDIA's driver, which can't be opened"),
    "no driver of NVIDIA's": ({"SLUICE_LIBCUDA": "libm.so.6"}, "cuda", "libm.so.6 is no driver of NVIDIA's"),
    "too old a driver": ({"TWIN_VERSION": "12080"}, "cuda:0", "serves CUDA 12.8, and our kernels need 13.0: install driver 580 or newer"),
    "a driver without a function": ({"TWIN_MISSING": "cuFuncLoad"}, "cuda:0", "has no cuFuncLoad: install driver 580 or newer"),
    "another driver than the kernel's": ({"TWIN_INIT": "803"}, "cuda", "of different versions: restart the machine"),
    "no GPU, or MIG without an instance": ({"TWIN_INIT": "100"}, "cuda", "finds no GPU: see `nvidia-smi -L`"),
    "no such number": ({}, "cuda:1", "there is no cuda:1: the driver lists 1"),
    "no such UUID": ({}, UNKNOWN, "no GPU has the UUID 01234567-89ab-cdef-0123-456789abcdef"),
    "a GPU without kernels for it": ({"TWIN_CAPABILITY": "75"}, "cuda:0", "compute capability 7.5; our kernels need 8.0"),
    "a compute mode that forbids": ({"TWIN_MODE": "2"}, "cuda:0", "the compute mode that forbids programs: `nvidia-smi -i 0 -c DEFAULT`"),
    "another program's alone": ({"TWIN_MODE": "3", "TWIN_IN_USE": "1"}, "cuda:0", "in use by a program that has it for itself"),
    "too small": ({"TWIN_MIB": "2"}, "cuda:0", "has 0.00 GiB and this stage needs 0."),
    "none of several": ({"TWIN_DEVICES": "2", "TWIN_IN_USE": "3"}, "cuda", "none of 2 GPUs can be had; the first: cuda:0"),
    "no memory for kernels": ({"TWIN_FAULT": "no-memory:1"}, "cuda:0", "loading kernels failed on the GPU: out of memory (CUDA_ERROR_OUT_OF_MEMORY, 2); `nvidia-smi` shows who has it"),
    "dead on arrival": ({"TWIN_FAULT": "fails:0:700"}, "cuda:0", "an illegal memory access was encountered"),
    "a hang while chunks are measured": ({"TWIN_FAULT": "hangs:9", "XDG_CACHE_HOME": "/dev/null"}, "cuda:0", HANGS),
}


@pytest.mark.parametrize("fault", BEFORE)
def test_what_is_wrong_from_the_start_is_one_sentence(small, machine, fault):
    env, device, sentence = BEFORE[fault]
    reply = generated(small, machine, device=device, **env)
    assert reply.returncode == 69 and reply.stdout == "", reply
    assert sentence in reply.stderr and reply.stderr.count("\n") == 1, reply.stderr


def test_what_the_gpu_has_no_memory_for_is_named(small, machine):
    """Whatever is taken in turn, until it is the KV pages; tests/pipeline/stage/test_device_gpu.c has all that come behind them."""
    for n in range(1, 100):
        reply = generated(small, machine, TWIN_FAULT=f"no-memory:{n}")
        assert reply.returncode == 69 and reply.stdout == "" and reply.stderr.count("\n") == 1, reply
        if "left for KV pages: give this stage fewer layers, or less KV" in reply.stderr:
            return
    pytest.fail("the KV pages were never taken")


def test_such_a_gpu_has_the_cpus_bits_and_auto_finds_it(small, machine):
    answers = {device: generated(small, machine, device=device) for device in ("cpu", "cuda:0", machine.uuid(0).replace("GPU", "cuda:GPU"))}
    answers["none"] = generated(small, machine, device="auto", TWIN_INIT="100")  # is the CPU
    for device, reply in answers.items():
        assert reply.returncode == 0, (device, reply.stderr)
    got = [(answer["output_ids"], answer["logprobs"], answer["digest"]) for answer in (json.loads(r.stdout) for r in answers.values())]
    assert got == got[:1] * len(got)


def test_a_gpu_whose_memory_may_change_unseen_is_named(small, machine):
    for has_none in (0, 1):
        reply = generated(small, machine, TWIN_NO_ECC=str(has_none))
        assert reply.returncode == 0 and reply.stderr.count("has no ECC, or it is off") == has_none, reply.stderr


@pytest.mark.slow
def test_a_gpu_belongs_to_one_process_unless_all_share_it(small, machine, start_server):
    server = start_server("--devices", "cuda:0", model=small, stages=1, env=machine.env)
    pid = server.children()["stage 0"]
    for device, why in (("cuda:0", ""), ("cuda:0/shared", " for itself")):
        reply = generated(small, machine, device=device)
        assert reply.returncode == 69 and reply.stderr.count("\n") == 1, reply
        assert f"process {pid} has the GPU {machine.uuid(0)}{why}: one process has one GPU, take another, or" in reply.stderr
    reply = generated(small, machine, device="cuda", TWIN_DEVICES="2")  # takes the other one
    assert reply.returncode == 0, reply.stderr
    assert server.stop() == 0, server.log()
    server = start_server("--devices", "cuda:0/shared,cuda:0/shared,cpu", model=small, env=machine.env)
    reply = generated(small, machine)
    assert reply.returncode == 69 and f"has the GPU {machine.uuid(0)}: one process has one GPU" in reply.stderr
    want = json.loads(generated(small, machine, device="cpu").stdout)
    answer = json.loads(run("generate", "--endpoint", server.endpoint, "--prompt", "A long time ago", "--max-tokens", 2,
                            "--temperature", 0, "--output", "json").stdout)
    assert (answer["output_ids"], answer["logprobs"]) == (want["output_ids"], want["logprobs"])
    assert server.stop() == 0, server.log()


# Of the middle of a prompt: how the GPU fails, and what its stage says of it.
AMID = {
    "an access to nowhere": ("fails:20:700", "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS, 700)"),
    "an error that is told late": ("fails:20:719:9", "unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED, 719)"),
    "a bit of memory that has flipped": ("fails:20:214", "uncorrectable ECC error encountered (CUDA_ERROR_ECC_UNCORRECTABLE, 214)"),
    "a kernel that never ends": ("hangs:20", "does not end on the GPU: given up after"),  # of a twin chunks were measured, and are slow
}


def amid(fault):
    return pytest.param(fault, id=fault.replace(" ", "-"), marks=[] if fault == "an error that is told late" else [pytest.mark.slow])


@pytest.mark.parametrize("fault", [amid(fault) for fault in AMID])
def test_a_gpu_that_fails_amid_a_prompt_is_the_loss_of_a_stage_and_the_next_one_answers(small, machine, start_server, tmp_path, fault):
    how, sentence = AMID[fault]
    devices = ("--devices", "cpu,cuda:0")
    when = tmp_path / "now"
    faulty = {**machine.env, "TWIN_FAULT": how, "TWIN_WHEN": str(when)}
    server = start_server(*devices, model=small, env=faulty)
    want = generate(server.endpoint, n_ids=40, max_tokens=4)
    when.touch()
    stream = Stream(server.endpoint, n_ids=200, max_tokens=4).end()
    assert stream.error and stream.error.code() == grpc.StatusCode.UNAVAILABLE and "stage 1" in stream.error.details(), stream.error
    assert server.wait() == 69, server.log()
    said = [line for line in server.log().splitlines() if "and what it had with it" in line]
    assert len(said) == 1 and "the GPU at 0000:01:00.0 (a twin of a GPU) is lost" in said[0] and sentence in said[0] and "this process ends" in said[0], server.log()
    again = start_server(*devices, model=small, env=machine.env)  # as a supervisor does it; and the GPU is free
    assert generate(again.endpoint, n_ids=40, max_tokens=4) == want
    assert again.stop() == 0, again.log()


@pytest.mark.parametrize("how, sentence", [("hangs:20", HANGS), pytest.param("fails:20:700", "(CUDA_ERROR_ILLEGAL_ADDRESS, 700)", marks=pytest.mark.slow)])
def test_a_decode_worker_whose_gpu_fails_is_replaced_and_its_answer_goes_on(small, machine, start_server, tmp_path, how, sentence):
    when = tmp_path / "now"
    server = start_server("--devices", "cpu,cpu,cuda:0", "--lost-after", PATIENCE, model=small,
                          env={**machine.env, "TWIN_FAULT": how, "TWIN_WHEN": str(when)})
    want = generate(server.endpoint, n_ids=40, max_tokens=2)
    first = server.children()["decode"]
    when.touch()
    stream = Stream(server.endpoint, n_ids=40, max_tokens=2).end()
    assert stream.error is None and stream.ids == want, (stream.error, server.log())
    said = [line for line in server.log().splitlines() if "and what it had with it" in line]
    assert len(said) == 1 and sentence in said[0] and "this process ends" in said[0], server.log()
    assert not when.exists() and server.children()["decode"] != first
    assert server.metric("sluice_answers_moved_total") == 1
    assert server.stop() == 0, server.log()


def test_a_stage_whose_gpu_cannot_be_had_ends_the_pipeline_before_it_begins(small, machine, tmp_path):
    server = Server(tmp_path, "--devices", "cpu,cuda:0", model=small, env={**machine.env, "TWIN_MIB": "2"})
    try:
        assert server.wait() == 69
        assert server.log().count("this stage needs") >= 1 and "give it fewer layers or pages" in server.log(), server.log()
    finally:
        server.kill()
