"""Storms of cancels, at every moment of a request's life: afterwards no page is used, no request is live, what is measured of them
adds up, memory is where it was, and who comes next gets what it got before."""
import pathlib
import random
import re
import signal
import threading
import time

import grpc
import pytest
from conftest import PATIENCE, free_port, get, value_of, wait_until
from test_endpoint import ask, idle, pb, pb_grpc, whole

FROM = ("queued", "prefill", "handoff", "decode")
BOUNDS = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)


def cancels(server, of):
    return int(server.metric(f'sluice_cancel_seconds_count{{from="{of}"}}'))


def quantile(server, family, label, q):
    """The least bound that has this share of them; in seconds."""
    n = server.metric(f"{family}_count{{{label}}}" if label else f"{family}_count")
    comma = "," if label else ""
    return next((b for b in BOUNDS if server.metric(f'{family}_bucket{{{label}{comma}le="{b:g}"}}') >= q * n), None)


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def client(server, number, n, errors):
    """n requests, none of which comes to its end."""
    rng = random.Random(number)
    with grpc.insecure_channel(server.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        engine = pb_grpc.VllmEngineStub(channel)
        for i in range(n):
            ids = [rng.randrange(4000) for _ in range(rng.choice([5, 70, 300, 1500]))]
            name = f"{number}-{i}"
            stream = engine.Generate(ask(ids, stream=True, request_id=name, n=rng.choice([1, 1, 2]), max_tokens=3000 // 4,
                                         ignore_eos=True), timeout=PATIENCE)
            how = rng.random()
            try:
                if how < 0.35:
                    time.sleep(rng.random() * 0.03)  # to meet it anywhere, not to wait for something
                elif how < 0.5:
                    next(stream)
                if rng.random() < 0.5:
                    stream.cancel()
                else:
                    engine.Abort(pb.AbortRequest(request_ids=[name]), timeout=PATIENCE)
                    stream.cancel()
            except grpc.RpcError as error:
                errors.append(f"{error.code()}: {error.details()}")


def storm(server, clients, each, seed):
    errors = []
    threads = [threading.Thread(target=client, args=(server, 1000 * seed + k, each, errors)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [e for e in errors if "RESOURCE_EXHAUSTED" not in e]
    assert refused == [], refused[:3]
    wait_until(lambda: idle(server), "all pages back after a storm of cancels")


def through_a_storm(server, clients, each):
    with grpc.insecure_channel(server.endpoint) as channel:
        engine = pb_grpc.VllmEngineStub(channel)
        how = {"max_tokens": 20, "ignore_eos": True}
        before = list(whole(engine, [5] * 500, **how).output_ids)
        storm(server, clients, each // 2, 1)
        memory = {role: resident(pid) for role, pid in server.children().items()}
        storm(server, clients, each // 2, 2)
        after = {role: resident(pid) for role, pid in server.children().items()}
        assert list(whole(engine, [5] * 500, **how).output_ids) == before
        wait_until(lambda: idle(server), "the last answer's pages back")
    counts = {of: cancels(server, of) for of in FROM}
    for of in FROM:
        if counts[of]:
            half, most = (quantile(server, "sluice_cancel_seconds", f'from="{of}"', q) for q in (0.5, 0.99))
            print(f"figure: {counts[of]} cancels from {of}: half are gone in {half} s, 99 % in {most} s")
    half, most = (quantile(server, "sluice_cancel_in_vain_seconds", "", q) for q in (0.5, 0.99))
    print(f"figure: stages computed in vain for half of those in prefill for {half} s, for 99 % for {most} s at most")
    assert counts["queued"] > 0 and counts["prefill"] > 0 and counts["decode"] > 0, counts
    # some are over before they are taken, or are never taken because the call ends first
    assert sum(counts.values()) <= clients * each
    return memory, after


def test_cancels_at_every_moment_leave_nothing(start_server):
    server = start_server("--context", 4096, "--max-running", 8)
    through_a_storm(server, 12, 40)
    assert server.stop() == 0


def test_a_stage_that_was_told_computes_nothing_more_though_the_cancel_is_stuck_behind_chunks(spawn, pack):
    """Stage 0 stands still with more chunks before it than it has frames. Stage 1 hears of the cancel nevertheless, and what comes
    of the prompt later, however much stage 0 makes of it, it does not run."""
    endpoint, ops, ops_1 = (f"127.0.0.1:{free_port()}" for _ in range(3))
    patient = ("--lost-after", 120)
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 2, "--listen", endpoint, "--ops", ops, "--context", 16384,
                        "--schedule", "fifo", "--chunk", 128, *patient)
    join = (pack, "--coordinator", endpoint, "--threads", 1, *patient)
    stage_0 = spawn("stage-0", "stage", *join, "--stage", 0)
    workers = [stage_0, spawn("stage-1", "stage", *join, "--stage", 1, "--ops", ops_1), spawn("decode", "decode", *join)]
    wait_until(lambda: get(ops, "/readyz")[0] == 200, "readiness")

    def stage_1(what):
        return value_of(ops_1, f'sluice_stage_{what}_total{{role="stage 1"}}')
    with grpc.insecure_channel(endpoint) as channel:
        engine = pb_grpc.VllmEngineStub(channel)
        before = list(whole(engine, [5] * 300, ignore_eos=True).output_ids)
        begun = stage_1("chunks")
        stream = engine.Generate(ask([7] * 16000, stream=True, max_tokens=4), timeout=PATIENCE)
        wait_until(lambda: stage_1("chunks") > begun, "that stage 1 is at the prompt")
        stage_0.signal(signal.SIGSTOP)
        try:
            stream.cancel()
            wait_until(lambda: stage_1("cancels_foretold") == 1, "that stage 1 is told")
            ran, given_up = stage_1("chunks"), stage_1("chunks_given_up")
        finally:
            stage_0.signal(signal.SIGCONT)
        wait_until(lambda: value_of(ops, 'sluice_cancel_seconds_count{from="prefill"}') == 1, "that nothing is left")
        assert stage_1("chunks") == ran
        assert stage_1("chunks_given_up") > given_up
        assert value_of(ops, "sluice_cancel_in_vain_seconds_count") == 1
        assert list(whole(engine, [5] * 300, ignore_eos=True).output_ids) == before
    coordinator.signal(signal.SIGTERM)
    assert [p.wait() for p in [coordinator, *workers]] == [0] * 4, coordinator.log()


@pytest.mark.slow
def test_ten_thousand_cancels_leave_nothing_that_grows(start_server):
    server = start_server("--context", 4096, "--max-running", 8)
    memory, after = through_a_storm(server, 20, 500)
    for role in memory:
        assert after[role] - memory[role] < 16 << 10, (memory, after)
    assert server.stop() == 0
