"""--rows ucx between processes whose GPUs are the twin as the driver's library (tests/gpu/libcuda.c), by a real UCX with CUDA: PyPI's
libucx-cu13, whose cuda_ipc fetches rows from the other process's device (tests/gpu/libcuda_ucx.c). A process ends badly when UCX did what
rows must not need: copies by way of the host, writing into the other's memory, waits for who launches, hooks in the driver's code. Slow
tier: `./dev full` names the Python that has that package in SLUICE_HARNESS_PYTHON; skipped aloud without."""
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SLUICE, free_port, run, wait_until
from test_device_faults import machine, no_kernels  # noqa: F401
from test_gpu_run import FACTOR
from test_gpu_run import run as gpu_run
from test_rows import LARGE, generate, ids_of

TWIN = SLUICE.parent / "twin"
PYTHON = os.environ.get("SLUICE_HARNESS_PYTHON")
pytestmark = pytest.mark.skipif(bool(no_kernels), reason=f"{no_kernels and no_kernels[0]}")


def reads_siblings():
    """Whether a process here may read another one's memory that is not its child's or parent's."""
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            return subprocess.run(["head", "-c0", f"/proc/{other.pid}/mem"], capture_output=True).returncode == 0
        finally:
            other.kill()


@pytest.fixture(scope="module")
def libucx():
    """The folder of its libraries."""
    if not PYTHON:
        pytest.skip("SLUICE_HARNESS_PYTHON does not name a Python with libucx-cu13")
    found = subprocess.run([PYTHON, "-c", "import libucx; print(libucx.__path__[0])"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"{PYTHON} has no libucx-cu13")
    if not reads_siblings():
        pytest.skip("a process may not read another's memory here (kernel.yama.ptrace_scope, or a sandbox)")
    return f"{found.stdout.strip()}/lib"


@pytest.fixture(scope="module")
def environment(machine, libucx):  # noqa: F811
    return {**os.environ, **machine.env, "TWIN_DEVICES": "2", "LD_LIBRARY_PATH": f"{TWIN}:{libucx}"}


OPTIONS = ["--devices", "cuda:0,cuda:1", "--rows", "ucx", "--chunk", 256, "--context", 512, "--max-running", 1, "--kv", "i8"]


@pytest.mark.slow
def test_rows_are_fetched_from_gpu_to_gpu(small, start_server, environment):
    want = ids_of(generate("--model", small, "--kv", "i8", prompt=LARGE))
    server = start_server(*OPTIONS, model=small, env=environment)
    assert ids_of(generate("--endpoint", server.endpoint, prompt=LARGE)) == want
    assert server.stop() == 0, server.log()  # no misuse was found
    log = server.log()
    assert log.count("go by UCX over tcp/lo, cuda_ipc/cuda") == 2
    fetched = [(int(n), int(size)) for n, size in re.findall(r"fetched (\d+) times, (\d+) bytes, of another process's memory", log)]
    assert sorted(fetched) == [(1, 256), (2, 256 + (256 << 10))]  # a greeting each way, and the rows of the one large chunk
    assert not re.search(r"UCX +(WARN|ERROR)", log), log


@pytest.mark.slow
@pytest.mark.parametrize("fault, stage", [("dies:1", 1), ("slays:1", 0)])
def test_a_stage_that_is_killed_amid_rows_is_never_answered_with(small, start_server, environment, fault, stage):
    server = start_server(*OPTIONS, model=small, env={**environment, "TWIN_FETCH": fault})
    reply = generate("--endpoint", server.endpoint, prompt=LARGE)
    assert reply.returncode != 0 and "output_ids" not in reply.stdout
    wait_until(lambda: not server.alive(), "the end of a pipeline without a stage")
    assert re.search(rf"stage {stage} \(pid \d+\) was killed by signal 9", server.log())


@pytest.mark.slow
def test_gpus_that_do_not_reach_each_other_are_no_way_for_rows(small, spawn, environment):
    server = spawn("serve", "serve", small, "--stages", 2, "--threads", 1, *OPTIONS, "--listen", f"127.0.0.1:{free_port()}", "--ops",
                   f"127.0.0.1:{free_port()}", env={**environment, "UCX_TLS": "tcp,cuda_copy"})
    wait_until(lambda: "UCX has nothing but tcp/lo to the node at 127.0.0.1, of what it may use (tcp,cuda_copy)" in server.log(), "the sentence")
    assert "go by UCX over" not in server.log()


@pytest.mark.slow
def test_two_stages_on_one_gpu_have_rows_by_the_ucx_of_a_bundle(tmp_path, libucx):
    bundle = tmp_path / "bundle.tar.xz"
    made = subprocess.run([sys.executable, ROOT / "tests/gpu/bundle", "--build", SLUICE.parent, "--to", bundle, "--libucx", libucx],
                          capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    done, phases = gpu_run(tmp_path / "out", "--twin", "--phases", "7", "--patience", str(FACTOR), build=bundle)
    assert done.returncode == 0, done.stdout
    step = phases["7"]["steps"]["rows by ucx"]
    assert step["state"] == "passed" and step["over"] == ["tcp/lo, cuda_ipc/cuda"] * 2 and step["ended"] == 0


def test_a_ucx_without_cuda_is_refused_at_the_start(small, machine):  # noqa: F811
    reply = run("stage", small, "--coordinator", f"127.0.0.1:{free_port()}", "--join-timeout", 1, "--device", "cuda:0", "--rows", "ucx",
                env={**os.environ, **machine.env})
    assert reply.returncode == 69 and "knows no GPU's memory here (UCX_TLS=tcp,cuda_copy,cuda_ipc)" in reply.stderr
