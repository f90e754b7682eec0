"""--rows between processes whose GPUs are twins, with the twin of NCCL (tests/pipeline/link/nccl_twin): the tokens are the CPU's whichever
way rows go, what NCCL does wrong is survived or found, and what cannot be had is said in one sentence."""
import contextlib
import json
import os
import signal

import pytest
from conftest import SLUICE, Process, free_port, run, wait_until

NCCL = SLUICE.parent / "tests/nccl_twin/libnccl.so.2"
SMALL, LARGE = "A long time ago", "A long time ago there was a small village by the sea. " * 26  # LARGE: rows of 256 KiB


def generate(*where, prompt):
    return run("generate", *where, "--prompt", prompt, "--max-tokens", 2, "--temperature", 0, "--output", "json")


def ids_of(reply):
    assert reply.returncode == 0, reply.stderr
    answer = json.loads(reply.stdout)
    return answer["output_ids"], answer["logprobs"]


def environment(**more):
    return {**os.environ, "SLUICE_NCCL": str(NCCL), **more}


def serve(start_server, model, devices="twin,twin", rows="auto", **env):
    return start_server("--devices", devices, "--rows", rows, "--chunk", 256, "--context", 512, "--max-running", 1, "--kv", "i8",
                        model=model, env=environment(**env))


def test_rows_go_from_gpu_to_gpu_and_what_stalls_comes_over_another_line(small, start_server):
    """The first transfer of each end stalls: both of one."""
    want = ids_of(generate("--model", small, "--kv", "i8", prompt=LARGE))
    server = serve(start_server, small, NCCL_TWIN_FAULT="stall:0:1")
    assert ids_of(generate("--endpoint", server.endpoint, prompt=LARGE)) == want
    log = server.log()
    assert "rows from stage to stage: nccl" in log and log.count("rows to and from the stages beside this one: nccl") == 2
    assert "rows by NCCL: rows do not get through in time" in log
    assert server.stop() == 0


@pytest.mark.parametrize("fault, sentence", [
    ("corrupt:0:1", "a record from stage 0 failed its checksum"), ("die_send:0:1", "was killed by signal 9")])
def test_a_byte_that_changes_or_a_stage_that_dies_is_never_answered_with(small, start_server, fault, sentence):
    server = serve(start_server, small, rows="nccl", NCCL_TWIN_FAULT=fault)
    reply = generate("--endpoint", server.endpoint, prompt=LARGE)
    assert reply.returncode != 0 and "output_ids" not in reply.stdout
    wait_until(lambda: not server.alive(), "the end of a pipeline without a stage")
    assert sentence in server.log()


def test_rows_go_from_gpu_to_gpu_by_ucx(small, start_server):
    want = ids_of(generate("--model", small, "--kv", "i8", prompt=LARGE))
    server = serve(start_server, small, rows="ucx")
    assert ids_of(generate("--endpoint", server.endpoint, prompt=LARGE)) == want
    log = server.log()
    assert "rows from stage to stage: ucx" in log and log.count("rows to and from the stages beside this one: ucx") == 2
    assert log.count("go by UCX over tcp/lo") == 2
    assert server.stop() == 0


def test_rows_by_ucx_never_fall_back_to_tcp_without_a_word(small, spawn):
    """UCX 1.13 leaves shared memory out of endpoints that tell of errors, unless it is told to use it."""
    server = spawn("serve", "serve", small, "--stages", 2, "--threads", 1, "--devices", "twin,twin", "--rows", "ucx", "--context", 512,
                   "--kv", "i8", "--listen", f"127.0.0.1:{free_port()}", "--ops", f"127.0.0.1:{free_port()}",
                   env=environment(UCX_TLS="tcp,posix", UCX_POSIX_ERROR_HANDLING="n"))
    wait_until(lambda: "UCX has nothing but tcp/lo to the node at 127.0.0.1, of what it may use (tcp,posix)" in server.log(), "the sentence")
    assert "go by UCX over" not in server.log()


@pytest.mark.slow
def test_rows_that_nccl_does_not_let_go_end_their_stage_which_is_said_and_the_next_one_answers(small, start_server):
    """Stage 1 is stopped, so stage 0 gives the line to it up; its rows are NCCL's until that has ended, which it never does."""
    want = ids_of(generate("--model", small, "--kv", "i8", prompt=LARGE))
    server = serve(start_server, small, rows="nccl", NCCL_TWIN_FAULT="abort_hang:0:-1")
    assert ids_of(generate("--endpoint", server.endpoint, prompt=LARGE)) == want
    children = server.children()
    os.kill(children["stage 1"], signal.SIGSTOP)
    try:
        reply = generate("--endpoint", server.endpoint, prompt=LARGE)
        assert reply.returncode != 0 and "output_ids" not in reply.stdout, reply
        assert server.wait() == 69, server.log()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(children["stage 1"], signal.SIGCONT)
    said = [json.loads(line) for line in server.log().splitlines() if line.startswith("{") and '"level":"error"' in line]
    assert [s["role"] for s in said if "NCCL has not ended a transfer of rows within" in s["message"]] == ["stage 0"], server.log()
    assert any(f"stage 0 (pid {children['stage 0']}) ended with exit code 69" in s["message"] for s in said), server.log()
    again = serve(start_server, small, rows="nccl")
    assert ids_of(generate("--endpoint", again.endpoint, prompt=LARGE)) == want
    assert again.stop() == 0


def test_a_gpu_beside_a_cpu_has_its_rows_staged(small, start_server):
    want = ids_of(generate("--model", small, "--kv", "i8", prompt=SMALL))
    server = serve(start_server, small, devices="twin,cpu")
    assert ids_of(generate("--endpoint", server.endpoint, prompt=SMALL)) == want
    assert "rows from stage to stage: staged" in server.log()


def test_a_library_that_cannot_be_had_is_said_in_one_sentence(small):
    def stage(rows, **env):
        reply = run("stage", small, "--coordinator", f"127.0.0.1:{free_port()}", "--join-timeout", 1, "--device", "twin", "--rows", rows,
                    env=environment(**env))
        return reply.returncode, reply.stderr
    code, said = stage("nccl", SLUICE_NCCL="/nowhere/libnccl.so.2")
    assert code == 69 and "rows by NCCL need its library, which cannot be opened (/nowhere" in said
    code, said = stage("nccl", NCCL_TWIN_VERSION="30102")
    assert code == 69 and "is NCCL 3.1.2, and rows by NCCL need 2.18 or a later 2.x" in said
    reply = run("stage", small, "--coordinator", f"127.0.0.1:{free_port()}", "--join-timeout", 1, "--device", "cpu", "--rows", "ucx")
    assert reply.returncode == 78 and "--rows ucx is for rows in a GPU's memory, and this stage computes in the host's" in reply.stderr
    reply = run("stage", small, "--coordinator", f"127.0.0.1:{free_port()}", "--join-timeout", 1, "--device", "cuda:0/shared", "--rows", "nccl")
    assert reply.returncode == 78 and "--rows nccl is for stages that have a GPU each, and this one shares cuda:0/shared" in reply.stderr
    code, said = stage("auto", SLUICE_NCCL="/nowhere/libnccl.so.2")  # it would have gone on: nobody is there to join
    assert code == 69 and said.count("rows of this stage go by way of the host: rows by NCCL need its library") == 1


@pytest.mark.parametrize("first, second, auth, sentence", [
    (["--device", "twin", "--rows", "nccl"], [], "header", "have no way for rows in common: nccl and ucx are for stages that all say so"),
    (["--device", "twin", "--rows", "nccl"], None, "payload", "rows cannot go by nccl or ucx where --link-auth payload has the host prove"),
    (["--device", "twin", "--rows", "nccl"], ["--device", "twin", "--rows", "ucx"], "header", "on GPUs of one driver; start all stages with --rows auto")])
def test_a_stage_without_a_way_in_common_is_refused(small, tmp_path, first, second, auth, sentence):
    started = []

    def start(name, *args):
        started.append(Process(tmp_path, name, *args, env=environment()))
        return started[-1]
    endpoint = f"127.0.0.1:{free_port()}"
    coordinator = start("coordinator", "coordinator", small, "--stages", 2, "--listen", endpoint, "--ops", f"127.0.0.1:{free_port()}",
                        "--link-auth", auth)
    nodes = [start(f"stage-{i}", "stage", small, "--stage", i, "--coordinator", endpoint, *options)
             for i, options in enumerate((first, second)) if options is not None]
    try:
        refused = wait_until(lambda: [n for n in nodes if not n.alive()], "a refusal")
        assert len(refused) == 1 and refused[0].wait() == 78
        assert sentence in refused[0].log()
        assert coordinator.alive()
    finally:
        for process in started:
            process.kill()


def test_a_plan_says_how_rows_would_go_and_what_places_for_them_take(small):
    def plan(rows, device="twin", library=str(NCCL)):
        reply = run("inspect", small, "--stages", 2, "--json", "--device", device, "--rows", rows, env=environment(SLUICE_NCCL=library))
        found = json.loads(reply.stdout)
        return found["rows"]["way"], [stage["device_bytes"] for stage in found["stages"]]
    (way, with_places), (_, without) = plan("auto"), plan("staged")
    assert way == "nccl" and plan("nccl") == (way, with_places)
    assert all(a > b for a, b in zip(with_places[:2], without)) and with_places[2:] == without[2:]
    assert plan("auto", library="/nowhere/libnccl.so.2") == ("staged", without) == plan("staged")
    assert plan("auto", device="cpu")[0] == "staged"
