"""Decode workers that come and go while the pipeline runs: one that is killed, one that is told to stop, one that joins, none at all.
Nothing fails, nothing is told twice, and every stream has the tokens that it has alone."""
import os
import pathlib
import signal

import grpc
import pytest
from conftest import PATIENCE, ROOT, free_port, get, run, value_of, wait_until
from test_processes import Stream, generate


def pids_of(server):
    """Of its decode workers: Server.children names each role once."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(parent) == server.process.pid and words[1:2] == [b"decode"]:
            found.append(int(pid))
    return sorted(found)


def load_of(ops, n):
    """Streams on each decode worker that has some."""
    return [value for place in range(n) if (value := decoding(ops, place))]


def decoding(ops, place):
    try:
        return value_of(ops, f'sluice_decoder_answers{{decoder="{place}"}}')
    except AssertionError:
        return 0  # nobody has the place


class Cluster:
    """A coordinator, two stages and any number of decode workers, one by one."""

    def __init__(self, spawn, pack, *args, decoders=1, parts=1, lost_after=10):
        self.spawn, self.pack, self.n, self.lost_after = spawn, pack, 0, lost_after
        self.endpoint, self.ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.coordinator = spawn("coordinator", "coordinator", pack, "--stages", 2, "--listen", self.endpoint, "--ops", self.ops,
                                 "--lost-after", lost_after, "--decoders", decoders, "--decode-stages", parts, *args)
        self.stages = [self.worker(f"stage-{k}", "stage", "--stage", k) for k in range(2)]
        self.decoders = [self.decoder() for _ in range(decoders * parts)]
        wait_until(lambda: get(self.ops, "/readyz")[0] == 200, "readiness")

    def worker(self, name, role, *args, pack=None):
        return self.spawn(name, role, pack or self.pack, "--coordinator", self.endpoint, "--threads", 1, "--lost-after",
                          self.lost_after, *args)

    def decoder(self, *args, **more):
        self.n += 1
        return self.worker(f"decode-{self.n}", "decode", *args, **more)

    def here(self, n):
        wait_until(lambda: value_of(self.ops, "sluice_decoders") == n, f"{n} decode workers")

    def end(self):
        self.coordinator.signal(signal.SIGTERM)
        assert self.coordinator.wait() == 0, self.coordinator.log()
        for worker in [*self.stages, *self.decoders]:
            assert worker.wait() == 0, worker.log()


@pytest.fixture
def start_cluster(spawn, pack):
    return lambda *args, **more: Cluster(spawn, pack, *args, **more)


def alone_and_streams(endpoint, n, max_tokens):
    """What n requests get alone, and the same requests under way together."""
    how = [{"n_ids": 40 + 70 * i, "max_tokens": max_tokens, "seed": i} for i in range(n)]
    alone = [generate(endpoint, **h) for h in how]
    return alone, [Stream(endpoint, **h).wait_begun() for h in how]


def spread(cluster, streams, alone, n):
    """More of the first until n decode workers have some. Each goes where it is foretold to be done sooner, and for how long that is the
    same worker is a matter of how fast each was."""
    while len(load_of(cluster.ops, 4)) < n:
        assert len(streams) < 16, f"{len(streams)} streams went to fewer than {n} decode workers: {load_of(cluster.ops, 4)}"
        streams.append(Stream(cluster.endpoint, n_ids=40, max_tokens=700, seed=0).wait_begun())
        alone.append(alone[0])
    assert sum(load_of(cluster.ops, 4)) == len(streams)


def check(streams, alone):
    for stream, ids in zip(streams, alone):
        assert stream.end().error is None, stream.error
        assert stream.ids == ids


def test_streams_survive_the_death_the_leave_and_the_coming_of_decode_workers(start_cluster):
    """A kill -9 in the middle of streams, a SIGTERM to another, and one that joins."""
    cluster = start_cluster("--drain-timeout", 600, decoders=3)
    alone, streams = alone_and_streams(cluster.endpoint, 6, 700)
    spread(cluster, streams, alone, 3)
    cluster.decoders.pop(0).kill()
    cluster.here(2)
    leaves = cluster.decoders.pop(0)
    leaves.signal(signal.SIGTERM)
    cluster.here(1)
    cluster.decoders.append(cluster.decoder())
    cluster.here(2)
    check(streams, alone)
    assert leaves.wait() == 0, leaves.log()
    log = cluster.coordinator.log()
    assert "is prefilled again for another" in log and "was told to stop: nothing new begins there" in log
    assert get(cluster.ops, "/readyz")[0] == 200
    assert 0 < value_of(cluster.ops, "sluice_answers_moved_total") < len(streams) - 1  # of the one that was killed
    assert value_of(cluster.ops, "sluice_requests_running") == 0
    wait_until(lambda: value_of(cluster.ops, "sluice_kv_cache_usage_ratio") == 0 ==
               value_of(cluster.ops, "sluice_decode_kv_cache_usage_ratio"), "the return of every page")
    cluster.end()


@pytest.mark.slow
def test_a_decode_worker_that_takes_too_long_to_leave_is_left(start_cluster):
    cluster = start_cluster("--drain-timeout", 0, decoders=2)
    alone, streams = alone_and_streams(cluster.endpoint, 2, 1200)
    leaves = cluster.decoders.pop(0)
    leaves.signal(signal.SIGTERM)
    assert leaves.wait() == 0, leaves.log()
    check(streams, alone)
    cluster.end()


def test_without_a_decode_worker_requests_wait_for_one_and_then_fail(start_cluster):
    """Not ready, and a stream that is under way only pauses, if somebody comes in time."""
    cluster = start_cluster(lost_after=PATIENCE)
    alone, streams = alone_and_streams(cluster.endpoint, 1, 700)
    cluster.decoders.pop().kill()
    wait_until(lambda: get(cluster.ops, "/readyz") == (503, "no decode worker is here; start one with sluice decode\n"), "unreadiness")
    later = Stream(cluster.endpoint, n_ids=30, max_tokens=5)
    cluster.decoders.append(cluster.decoder())
    cluster.here(1)
    check(streams, alone)
    assert later.end().error is None and len(later.ids) == 5
    wait_until(lambda: get(cluster.ops, "/readyz")[0] == 200, "readiness")
    cluster.end()


def handed_off(cluster, source):
    return value_of(cluster.ops, f'sluice_handoff_tokens_total{{source="{source}"}}')


def test_what_a_decode_worker_kept_is_gone_with_it(start_cluster):
    """The same prompt three times: pushed, kept, and pushed to the worker that comes when the first was killed in between."""
    cluster = start_cluster()
    first = generate(cluster.endpoint, n_ids=400, max_tokens=30)
    assert (handed_off(cluster, "pushed"), handed_off(cluster, "kept")) == (400, 0)
    assert generate(cluster.endpoint, n_ids=400, max_tokens=30) == first
    assert (handed_off(cluster, "pushed"), handed_off(cluster, "kept")) == (400 + 16, 384)
    cluster.decoders.pop().kill()
    # not here(0): one whose Join stream broke is silent first, and has its place until it is known to be dead
    wait_until(lambda: value_of(cluster.ops, 'sluice_decoders_lost_total{reason="gone"}') == 1, "the loss of the decode worker")
    cluster.decoders.append(cluster.decoder())
    cluster.here(1)
    kept = [line for line in get(cluster.ops, "/metrics")[1].splitlines() if line.startswith("sluice_decoder_kept_pages{")]
    assert len(kept) == 1 and kept[0].endswith(" 0")  # whichever place it has
    assert generate(cluster.endpoint, n_ids=400, max_tokens=30) == first
    assert (handed_off(cluster, "pushed"), handed_off(cluster, "kept")) == (2 * 400 + 16, 384)
    cluster.end()


def test_without_a_decode_worker_requests_do_not_wait_for_ever(start_cluster):
    cluster = start_cluster(lost_after=1)
    stream = Stream(cluster.endpoint, n_ids=30, max_tokens=4000).wait_begun()
    cluster.decoders.pop().kill()
    error = stream.end().error
    assert error.code() == grpc.StatusCode.UNAVAILABLE and "start one with sluice decode" in error.details()
    with pytest.raises(grpc.RpcError) as refused:
        generate(cluster.endpoint, max_tokens=5)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(generate(cluster.endpoint, max_tokens=1)) == 1  # the first token is the last stage's
    cluster.decoders.append(cluster.decoder())
    cluster.here(1)
    assert len(generate(cluster.endpoint, max_tokens=5)) == 5
    cluster.end()


def test_one_that_does_not_fit_is_refused_with_a_sentence_and_nobody_notices(start_cluster, tmp_path):
    cluster = start_cluster("--max-decoders", 2)
    stream = Stream(cluster.endpoint, n_ids=30, max_tokens=700).wait_begun()
    other = tmp_path / "other.pack"
    assert run("pack", ROOT / "demo", other, "--experts", "i8").returncode == 0
    stranger = cluster.decoder(pack=other)
    assert stranger.wait() == 78 and "the model differs" in stranger.log(), stranger.log()
    profile = cluster.decoder("--numerics", "bf16dot")
    assert profile.wait() == 78 and "no numerics profile in common" in profile.log(), profile.log()
    cluster.decoders.append(cluster.decoder())
    cluster.here(2)
    third = cluster.decoder()
    assert third.wait() == 69 and "there are 2 decode workers already" in third.log(), third.log()
    assert stream.end().error is None and len(stream.ids) == 700
    cluster.end()


@pytest.mark.slow
def test_one_that_is_silent_for_too_long_is_lost_and_replaced_when_it_finds_out(start_server):
    server = start_server("--lost-after", 2, "--decoders", 2)
    alone, streams = alone_and_streams(server.endpoint, 4, 700)
    before = pids_of(server)
    os.kill(before[0], signal.SIGSTOP)
    check(streams, alone)
    os.kill(before[0], signal.SIGCONT)
    wait_until(lambda: before[0] not in pids_of(server) and len(pids_of(server)) == 2, "its end, and another")
    wait_until(lambda: server.metric("sluice_decoders") == 2, "two decode workers")
    assert generate(server.endpoint, n_ids=40, max_tokens=700, seed=0) == alone[0]
    assert server.stop() == 0, server.log()


@pytest.mark.slow
def test_serve_replaces_a_decode_worker_that_dies(start_server):
    server = start_server("--decoders", 2)
    alone, streams = alone_and_streams(server.endpoint, 4, 700)
    before = pids_of(server)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    check(streams, alone)
    wait_until(lambda: server.metric("sluice_decoders") == 2, "another decode worker")
    assert pids_of(server) != before and before[1] in pids_of(server)
    os.kill(before[1], signal.SIGTERM)
    wait_until(lambda: before[1] not in pids_of(server) and len(pids_of(server)) == 2, "another in the place of the other, too")
    assert generate(server.endpoint, n_ids=40, max_tokens=700, seed=0) == alone[0]
    assert server.stop() == 0, server.log()


# ---- cut by layers ----


def test_the_parts_of_decode_workers_give_the_same_text_and_fall_and_leave_together(start_cluster):
    """Two of two processes each: a kill -9 of one in the middle of streams, a SIGTERM to another, and two that join."""
    cluster = start_cluster(decoders=1)
    alone, streams = alone_and_streams(cluster.endpoint, 4, 700)
    check(streams, alone)
    cluster.end()
    cluster = start_cluster("--drain-timeout", 600, decoders=2, parts=2)
    again, streams = alone_and_streams(cluster.endpoint, 4, 700)
    assert again == alone
    spread(cluster, streams, alone, 2)
    cluster.decoders.pop(0).kill()
    cluster.here(1)
    fallen = wait_until(lambda: next((d for d in cluster.decoders if d.process.poll() is not None), None), "the end of its other part")
    cluster.decoders.remove(fallen)
    check(streams, alone)
    ops = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    streams = [Stream(cluster.endpoint, n_ids=40 + 70 * i, max_tokens=700, seed=i).wait_begun() for i in range(4)]
    leave = list(cluster.decoders)
    cluster.decoders = [cluster.decoder("--ops", o) for o in ops]
    cluster.here(2)
    leave[0].signal(signal.SIGTERM)  # either part
    cluster.here(1)
    check(streams, alone)
    assert [worker.wait() for worker in leave] == [0, 0], leave[0].log() + leave[1].log()
    streams = [Stream(cluster.endpoint, n_ids=40 + 70 * i, max_tokens=700, seed=i).wait_begun() for i in range(4)]
    check(streams, alone)
    seen = [line for o in ops for line in get(o, "/metrics")[1].splitlines() if line.startswith("sluice_decode_steps_under_way{")]
    assert len(seen) == 2 and 'when="most"} 2' in seen[1], seen  # of the last part, whichever of them it is
    log = cluster.coordinator.log()
    assert "is prefilled again for another" in log and "was told to stop: nothing new begins there" in log
    wait_until(lambda: value_of(cluster.ops, "sluice_kv_cache_usage_ratio") == 0 ==
               value_of(cluster.ops, "sluice_decode_kv_cache_usage_ratio"), "the return of every page")
    cluster.end()


@pytest.mark.slow
def test_serve_replaces_all_parts_of_a_decode_worker_of_which_one_dies(start_server):
    server = start_server("--decode-stages", 3)
    alone, streams = alone_and_streams(server.endpoint, 3, 500)
    before = pids_of(server)
    assert len(before) == 3
    os.kill(before[1], signal.SIGKILL)
    check(streams, alone)
    wait_until(lambda: server.metric("sluice_decoders") == 1, "another decode worker")
    assert not set(before) & set(pids_of(server))
    assert server.stop() == 0, server.log()
