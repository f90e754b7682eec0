"""Storms of cancels, at every moment of a request's life: afterwards no page is used, no request is live, what is measured of them
adds up, memory is where it was, and who comes next gets what it got before."""
import pathlib
import random
import re
import threading
import time

import grpc
import pytest
from conftest import PATIENCE, wait_until
from test_endpoint import ask, idle, pb, pb_grpc, whole

FROM = ("queued", "prefill", "handoff", "decode")
BOUNDS = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)


def cancels(server, of):
    return int(server.metric(f'sluice_cancel_seconds_count{{from="{of}"}}'))


def quantile(server, of, q):
    """The least bound that has this share of them; in seconds."""
    n = cancels(server, of)
    return next((b for b in BOUNDS if server.metric(f'sluice_cancel_seconds_bucket{{from="{of}",le="{b:g}"}}') >= q * n), None)


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
            print(f"figure: {counts[of]} cancels from {of}: half are gone in {quantile(server, of, 0.5)} s, 99 % in "
                  f"{quantile(server, of, 0.99)} s")
    assert counts["queued"] > 0 and counts["prefill"] > 0 and counts["decode"] > 0, counts
    # some are over before they are taken, or are never taken because the call ends first
    assert sum(counts.values()) <= clients * each
    return memory, after


def test_cancels_at_every_moment_leave_nothing(start_server):
    server = start_server("--context", 4096, "--max-running", 8)
    through_a_storm(server, 12, 40)
    assert server.stop() == 0


@pytest.mark.slow
def test_ten_thousand_cancels_leave_nothing_that_grows(start_server):
    server = start_server("--context", 4096, "--max-running", 8)
    memory, after = through_a_storm(server, 20, 500)
    for role in memory:
        assert after[role] - memory[role] < 16 << 10, (memory, after)
    assert server.stop() == 0
